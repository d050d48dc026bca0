# Run by the installer's late-commands: the last thing before the reboot.
BM_ROOT=${BM_ROOT:-/target}
. "${BM_TMP:-/tmp}/bm-report.sh"

# --- what the installed system needs to prove which run it came from; BM_ROOT is where it is mounted
bm_settle() {
    umask 077
    mkdir -p "$BM_ROOT/etc/baremetal" "$BM_ROOT/root/.ssh" || return 1
    chmod 755 "$BM_ROOT/etc/baremetal"
    echo 0123456789abcdef0123456789abcdef/1 >"$BM_ROOT/etc/baremetal/run" || return 1
    chmod 644 "$BM_ROOT/etc/baremetal/run"
    cat >>"$BM_ROOT/root/.ssh/authorized_keys" <<'BM_EOF' || return 1
command="case $SSH_ORIGINAL_COMMAND in poweroff|reboot) echo $SSH_ORIGINAL_COMMAND; { sleep 1; $SSH_ORIGINAL_COMMAND; } >/dev/null 2>&1 & ;; *) cat /etc/baremetal/run; esac",no-agent-forwarding,no-port-forwarding,no-pty,no-X11-forwarding ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFSAMPLE0000000000000000000000000000000000000 sample
BM_EOF
    chmod 600 "$BM_ROOT/root/.ssh/authorized_keys"
    chroot "$BM_ROOT" ssh-keygen -A >/dev/null 2>&1
    ls "$BM_ROOT"/etc/ssh/ssh_host_*_key.pub >/dev/null 2>&1 || return 1
    bm_settle_first_boot || return 1
    umask 022
    # Made from outside, so SELinux would find them without labels.
    [ ! -x "$BM_ROOT/usr/sbin/restorecon" ] ||
        chroot "$BM_ROOT" /usr/sbin/restorecon -R /etc/baremetal /root/.ssh /etc/ssh /etc/systemd/system 2>/dev/null
    return 0
}

bm_settle_first_boot() { # one word from the installed system when it is up; the token is forgotten afterwards
    echo http://192.0.2.1:8080/callback/sample-callback-token >"$BM_ROOT/etc/baremetal/callback" || return 1
    cat >"$BM_ROOT/etc/baremetal/first-boot" <<'BM_EOF' || return 1
#!/bin/sh
# Tells baremetal, once, that this system is up. Asks again on a time-out or 5xx; stops on 200, 404 and 409.
export LC_ALL=C
umask 077
[ -s /etc/baremetal/callback ] || exit 0
read -r url </etc/baremetal/callback
read -r run </etc/baremetal/run
read -r boot_id </proc/sys/kernel/random/boot_id
said=/run/baremetal-first-boot
pause=2

tell() { # prints the HTTP status, 000 for no answer; the URL holds the token, so it goes in where no process list shows it
    if command -v curl >/dev/null 2>&1; then
        printf 'url = "%s"\n' "$url/first-boot" |
            curl -K - -s -o /dev/null -w '%{http_code}' --connect-timeout 10 --max-time 40 \
                --data-urlencode "boot_id=$boot_id" --data-urlencode "run=$run"
        return
    fi
    question="$url/first-boot?boot_id=$boot_id&run=$run"
    case $(wget --version 2>/dev/null) in
        GNU*) printf '%s\n' "$question" | wget -t 1 -T 40 -i - -O /dev/null >/dev/null 2>$said ;;
        # Busybox' own takes the URL as an argument only: install curl or GNU wget where others may log in.
        *) wget -O /dev/null "$question" >/dev/null 2>$said ;;
    esac && echo 200 && return
    sed -n 's/.*HTTP\/1\.[01] \([1-5][0-9][0-9]\).*/\1/p; s/.*ERROR \([1-5][0-9][0-9]\).*/\1/p' $said | tail -n 1
}

while :; do
    case $(tell) in
        2?? | 404 | 409)
            rm -f /etc/baremetal/callback $said
            exit 0
            ;;
    esac
    sleep $pause
    [ $pause -ge 60 ] || pause=$((pause * 2))
done
BM_EOF
    chmod 700 "$BM_ROOT/etc/baremetal/first-boot"
    [ -d "$BM_ROOT/etc/systemd/system" ] || return 0
    umask 022
    mkdir -p "$BM_ROOT/etc/systemd/system/multi-user.target.wants"
    cat >"$BM_ROOT/etc/systemd/system/baremetal-first-boot.service" <<'BM_EOF' || return 1
[Unit]
Description=Tell baremetal that this system is up
Wants=network-online.target
After=network-online.target
ConditionPathExists=/etc/baremetal/callback

[Service]
Type=simple
ExecStart=/bin/sh /etc/baremetal/first-boot

[Install]
WantedBy=multi-user.target
BM_EOF
    ln -sf ../baremetal-first-boot.service \
        "$BM_ROOT/etc/systemd/system/multi-user.target.wants/baremetal-first-boot.service"
}

bm_host_keys() { # the installed system's public host keys as JSON
    bm_keys=''
    for bm_file in "$BM_ROOT"/etc/ssh/ssh_host_*_key.pub; do
        read -r bm_type bm_key bm_comment <"$bm_file" || continue
        bm_keys="$bm_keys,\"$bm_type $bm_key\""
    done
    echo "[${bm_keys#,}]"
}

bm_addresses() { # this machine's addresses as JSON
    bm_found=$(
        ip -o addr show scope global 2>/dev/null | sed -n 's/.* inet6\{0,1\} \([0-9a-f.:]*\).*/"\1"/p'
    )
    [ -n "$bm_found" ] ||
        bm_found=$(ifconfig 2>/dev/null | sed -n 's/.*inet \(addr:\)\{0,1\}\([0-9.]*\).*/"\2"/p' | sed '/"127\./d')
    # Unquoted on purpose: one word per address.
    echo "[$(echo $bm_found | tr ' ' ,)]"
}

bm_complete() { # the last word of the installer, after everything is on the disk
    sync
    bm_report install-complete "ssh_host_keys=$(bm_host_keys)" "addresses=$(bm_addresses)" && return 0
    case $BM_STATUS in
        404 | 409)
            echo "baremetal: this run is over ($BM_STATUS): powering off" >&2
            bm_off
            ;;
    esac
    return 1
}

# Where the new system is mounted has two names; older installers know the second only.
BM_ROOT=${BM_ROOT:-/mnt/sysroot}
[ -d "$BM_ROOT/etc" ] || BM_ROOT=/mnt/sysimage
bm_progress post
bm_settle || bm_stop "the installed system could not be prepared"
bm_complete || bm_stop "nobody took the news that the install is complete ($BM_STATUS)"
