#!/bin/sh
# Fills the folder of a TFTP server of your own with all that firmware fetches before it goes on by HTTP. Run it there,
# while baremetal runs, and again after each of its updates: sh tftp.sh /srv/tftp
set -eu
root=${1:?which folder does the TFTP server serve?}
mkdir -p "$root"
missing=''

fetch() { # URL NAME ; replaced only once it is whole
    if curl -fsS --max-time 300 -o "$root/.$2.new" "$1"; then
        chmod a+r "$root/.$2.new"
        mv "$root/.$2.new" "$root/$2"
        echo "$root/$2"
    else
        rm -f "$root/.$2.new"
        missing="$missing $2"
    fi
}

fetch http://10.0.1.2:8080/loaders/undionly.kpxe undionly.kpxe
fetch http://10.0.1.2:8080/loaders/ipxe.efi ipxe.efi
fetch http://10.0.1.2:8080/loaders/ipxe-arm64.efi ipxe-arm64.efi
fetch http://10.0.1.2:8080/boot.ipxe boot.ipxe
fetch http://10.0.1.2:8080/boot.ipxe autoexec.ipxe
case "$missing " in
    ' ') ;;
    *' boot.ipxe '*) exit 1 ;; # nobody answers there; curl has said why
    *) echo "not there:$missing. Needed only where such machines boot; \`baremetal doctor\` says where they come from" >&2 ;;
esac
