# Sourced by the installer and by the RAM system: the NIC that netbooted, by BOOTIF. Expects say, stop, log and cmdline.
find_boot_nic() { # leaves its name in nic and its MAC in mac; fails where it is not there (yet)
    boot_mac=''
    for word in $cmdline; do
        case $word in BOOTIF=*) boot_mac=$(echo "${word#BOOTIF=}" | sed 's/^01-//; s/-/:/g' | tr A-F a-f) ;; esac
    done
    for folder in /sys/class/net/*; do
        [ -r "$folder/type" ] || continue
        read -r type <"$folder/type"
        [ "$type" = 1 ] || continue
        read -r mac <"$folder/address"
        nic=${folder##*/}
        [ -n "$boot_mac" ] && [ "$mac" != "$boot_mac" ] || return 0
    done
    return 1
}

bring_up_network() {
    find_boot_nic || stop "no NIC has the MAC $boot_mac that BOOTIF names"
    ifconfig lo 127.0.0.1
    ifconfig "$nic" up
    udhcpc -i "$nic" -n -q -f -t "${dhcp_tries:-20}" -T 1 -s /sbin/dhcp-event >>$log 2>&1 || stop "no DHCP answer on $nic ($mac)"
    say "network is up: $nic $mac"
}
