# Sourced by init where the firmware left an iBFT (iPXE's sanboot and sanhook do), or kernel arguments name a target: the rest of
# iSCSI is unpacked, one NIC brought up, the login done. Leaves the NIC's name in iscsi_nic, which init's children inherit.
# CHAP's secrets stand in the iBFT only. Nobody is left to log in again when the connection breaks for good.
ibft=/sys/firmware/ibft

halt_here() {
    echo "tiny: $*"
    while :; do sleep 3600; done
}

load_packed() { # NAME
    while read -r module; do insmod "/lib/modules/$1/$module"; done <"/lib/modules/$1.order"
}

attribute() { # FILE ; leaves what it says in value, nothing where it is not there
    value=''
    [ ! -r "$1" ] || read -r value <"$1"
}

find_nic() { # MAC ; leaves the name in iscsi_nic; any Ethernet NIC is good enough where no MAC is known
    for folder in /sys/class/net/*; do
        read -r type <"$folder/type"
        read -r address <"$folder/address"
        [ "$type" = 1 ] && [ "${1:-$address}" = "$address" ] && iscsi_nic=${folder##*/} && return 0
    done
    halt_here "no NIC has the MAC $1 that the iBFT names"
}

bring_up_nic() {
    attribute $ibft/target0/nic-assoc
    port=$ibft/ethernet${value:-0}
    attribute "$port/mac"
    [ -n "$value" ] || case " $cmdline" in
        *' BOOTIF='*) value=$(echo "${cmdline##*BOOTIF=}" | sed 's/ .*//; s/^01-//; s/-/:/g' | tr A-F a-f) ;;
    esac
    find_nic "$value"
    ifconfig lo 127.0.0.1
    attribute "$port/ip-addr"
    ip=$value
    case $ip in
        '' | 0.0.0.0)
            ifconfig "$iscsi_nic" up
            udhcpc -i "$iscsi_nic" -n -q -f -t 20 -T 1 -s /sbin/dhcp-event >/tmp/udhcpc.log 2>&1 ||
                halt_here "no DHCP answer on $iscsi_nic, which leads to the LUN"
            return
            ;;
    esac
    attribute "$port/subnet-mask"
    ifconfig "$iscsi_nic" "$ip" netmask "${value:-255.255.255.0}" up
    attribute "$port/gateway"
    case $value in '' | 0.0.0.0) ;; *) route add default gw "$value" dev "$iscsi_nic" ;; esac
    for name in primary-dns secondary-dns; do
        attribute "$port/$name"
        case $value in '' | 0.0.0.0) ;; *) echo "nameserver $value" ;; esac
    done >/etc/resolv.conf
}

# A storage host may be restarting.
log_in() {
    if [ -n "$iscsi_target" ]; then
        set -- -i "$iscsi_initiator" -t "$iscsi_target" -g 1 -a "$iscsi_address" -p "${iscsi_port:-3260}"
    else
        set -- -b
    fi
    tries=0
    until iscsistart "$@" >/tmp/iscsistart.log 2>&1; do
        tries=$((tries + 1))
        echo "tiny: the iSCSI login failed: $(tail -n 1 /tmp/iscsistart.log)"
        [ $tries -lt 60 ] || halt_here "no LUN"
        sleep 2
    done
}

# The login has looked for the LUNs, of type 0; the driver takes each of them in its own time.
find_luns() { # leaves their names in luns
    tries=0
    while :; do
        luns='' coming=''
        for device in /sys/class/iscsi_session/session*/device/target*/*:*; do
            attribute "$device/type"
            [ "$value" = 0 ] || continue
            set -- "$device"/block/*
            if [ -e "$1" ]; then luns="$luns ${1##*/}"; else coming=yes; fi
        done
        [ -n "$luns" ] && [ -z "$coming" ] && return
        tries=$((tries + 1))
        [ $tries -lt 200 ] || halt_here "the target has no LUN that is a disk"
        usleep 50000
    done
}

bytes() { # DEVICE PLACE COUNT
    dd if="$1" iflag=skip_bytes,count_bytes skip="$2" count="$3" 2>/dev/null | tr -d '\0'
}

# Root is on a LUN, also where a disk of the machine has one of the same label.
find_root() {
    for lun in $luns; do
        for part in "/dev/$lun"?*; do
            # the label of an ext4 filesystem
            [ -b "$part" ] && [ "LABEL=$(bytes "$part" 1144 16)" = "$root" ] && echo "$part" && return
        done
    done
    return 1
}

mount_seed() { # FOLDER ; a clone's meta-data and user-data, on a LUN of their own or in a partition
    for lun in $luns; do
        for device in "/dev/$lun"*; do
            kind=''
            # the volume's name: in ISO 9660's first descriptor, and in FAT's boot sector (12 and 16 bits, 32 bits)
            case $(bytes "$device" 32808 6) in [Cc][Ii][Dd][Aa][Tt][Aa]) kind=iso9660 ;; esac
            for place in 43 71; do
                [ -z "$kind" ] || break
                case $(bytes "$device" $place 6) in [Cc][Ii][Dd][Aa][Tt][Aa]) kind=vfat ;; esac
            done
            [ -n "$kind" ] || continue
            load_packed $kind
            mount -t $kind -o ro "$device" "$1" && return
            echo "tiny: the seed on $device cannot be mounted"
        done
    done
}

gunzip -c /lib/iscsi.cpio.gz | (cd / && cpio -id 2>/dev/null)
load_packed iscsi
bring_up_nic
log_in
find_luns
read -r up _ </proc/uptime
echo "tiny: $up iSCSI:$luns by $iscsi_nic"
export iscsi_nic
