# Run by AutoYaST's chroot-script, inside the new system.
BM_TMP=${BM_TMP:-/run}
BM_ROOT=${BM_ROOT:-/}
(umask 077 && cat >"$BM_TMP/bm-report.sh") <<'BM_REPORT'
# Talking to baremetal: POSIX sh, with curl or, where there is none, wget. The URL holds the token, so it goes to them on
# standard input, where no process list shows it. Busybox' wget (the Debian installer's) takes it as an argument only:
# there, nobody but root is on the machine until it reboots, and the token dies with the run.
export LC_ALL=C
BM_CALLBACK=http://192.0.2.1:8080/callback/sample-callback-token
BM_SYS=${BM_SYS:-/sys}
BM_TMP=${BM_TMP:-/tmp}
BM_PAUSE=${BM_PAUSE:-5}

bm_boot_id() { read -r bm_id </proc/sys/kernel/random/boot_id && echo "$bm_id"; }

bm_encode() { # TEXT ; leaves it percent-encoded in bm_encoded
    bm_encoded='' bm_rest=$1
    while [ -n "$bm_rest" ]; do
        bm_plain=${bm_rest%%[!A-Za-z0-9._~-]*}
        bm_rest=${bm_rest#"$bm_plain"}
        bm_char=${bm_rest%"${bm_rest#?}"}
        bm_rest=${bm_rest#?}
        case $bm_char in
            '') ;;
            ' ') bm_char=%20 ;; '"') bm_char=%22 ;; ',') bm_char=%2C ;; ':') bm_char=%3A ;; '/') bm_char=%2F ;;
            '[') bm_char=%5B ;; ']') bm_char=%5D ;; '{') bm_char=%7B ;; '}') bm_char=%7D ;; '=') bm_char=%3D ;;
            *) bm_char=$(printf '%%%02X' "'$bm_char") ;;
        esac
        bm_encoded=$bm_encoded$bm_plain$bm_char
    done
}

bm_curl() { # URL OPTION…
    bm_where=$1
    shift
    printf 'url = "%s"\n' "$bm_where" | curl -K - "$@"
}

bm_wget() { # URL FILE ; what it says goes to bm-wget, which shows the URL too
    (umask 077 && : >"$BM_TMP/bm-wget")
    # Busybox' own knows none of these options, and does not try again by itself.
    case $(wget --version 2>/dev/null) in
        GNU*) printf '%s\n' "$1" | wget -t 1 -T 40 -i - -O "$2" >/dev/null 2>"$BM_TMP/bm-wget" ;;
        *) wget -O "$2" "$1" >/dev/null 2>"$BM_TMP/bm-wget" ;;
    esac
}

bm_call() { # SIGNAL FIELD=VALUE… ; BM_STATUS is the HTTP status, 000 for no answer, BM_REPLY the answer's first line
    bm_url=$BM_CALLBACK/$1
    shift
    BM_STATUS=000 BM_REPLY=''
    rm -f "$BM_TMP/bm-reply"
    if command -v curl >/dev/null 2>&1; then
        for bm_field in "$@"; do
            shift
            set -- "$@" --data-urlencode "$bm_field"
        done
        BM_STATUS=$(
            bm_curl "$bm_url" -s -o "$BM_TMP/bm-reply" -w '%{http_code}' --connect-timeout 10 --max-time 40 "$@"
        ) || BM_STATUS=000
    else
        bm_query=''
        for bm_field in "$@"; do
            bm_encode "${bm_field#*=}"
            bm_query="$bm_query&${bm_field%%=*}=$bm_encoded"
        done
        if bm_wget "$bm_url?${bm_query#&}" "$BM_TMP/bm-reply"; then
            BM_STATUS=200
        else
            BM_STATUS=$(sed -n 's/.*HTTP\/1\.[01] \([1-5][0-9][0-9]\).*/\1/p; s/.*ERROR \([1-5][0-9][0-9]\).*/\1/p' \
                "$BM_TMP/bm-wget" | tail -n 1)
            rm -f "$BM_TMP/bm-reply"
        fi
    fi
    BM_STATUS=${BM_STATUS:-000}
    [ ! -s "$BM_TMP/bm-reply" ] || read -r BM_REPLY <"$BM_TMP/bm-reply" || :
}

bm_report() { # SIGNAL FIELD=VALUE… ; asks again on a time-out or 5xx, within a bound; 404 and 409 are final
    bm_left=${BM_TRIES:-60}
    while :; do
        bm_call "$@" "boot_id=$(bm_boot_id)"
        case $BM_STATUS in
            2??) return 0 ;;
            000 | 429 | 5??) ;;
            *) return 1 ;;
        esac
        bm_left=$((bm_left - 1))
        [ "$bm_left" -gt 0 ] || return 1
        sleep "$BM_PAUSE"
    done
}

bm_progress() { # STAGE [MESSAGE] ; news only: one try, and never in the way
    echo "$1" >"$BM_TMP/bm-stage"
    bm_call progress "boot_id=$(bm_boot_id)" "stage=$1" "message=${2:-}"
}

bm_tail() { # FILE ; its last lines as plain text
    [ ! -f "$1" ] || tail -n 30 "$1" | tr -cd '\11\12\40-\176' | tail -c 1500
}

bm_failed() { # STAGE MESSAGE [LOG] ; tells that this install has failed
    echo "baremetal: $1: $2" >&2
    bm_report install-failed "stage=$1" "message=$2" "log=$(bm_tail "${3:-/nonexistent}")"
}

bm_stop() { # MESSAGE ; ends a script whose failure the installer's own error section then reports
    echo "baremetal: $1" >&2
    echo "$1" >"$BM_TMP/bm-error"
    exit 1
}

bm_upload() { # FILE… ; the installer's own logs, where curl can send them
    command -v curl >/dev/null 2>&1 || return 0
    for bm_file in "$@"; do
        [ -s "$bm_file" ] || continue
        tail -c 200000 "$bm_file" >"$BM_TMP/bm-upload"
        bm_curl "$BM_CALLBACK/log/${bm_file##*/}" \
            -s -o /dev/null --connect-timeout 5 --max-time 20 -T "$BM_TMP/bm-upload" || :
    done
}

bm_off() { # Off, at once, and never on from here: an exit status would leave the installer at a question.
    sync
    poweroff -f
    while :; do sleep 3600; done
}

bm_refuse() { # STAGE MESSAGE
    BM_TRIES=6
    bm_failed "$1" "$2"
    bm_off
}
BM_REPORT
. "$BM_TMP/bm-report.sh"

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

bm_progress post
bm_settle || bm_refuse post "the installed system could not be prepared"
bm_complete || bm_refuse post "nobody took the news that the install is complete ($BM_STATUS)"
rm -f "$BM_TMP/bm-report.sh" "$BM_TMP/bm-reply" "$BM_TMP/bm-stage"
