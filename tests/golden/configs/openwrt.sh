#!/bin/sh
# OpenWrt and LEDE 17.01 or later: run this on the router. It adds to the router's own dnsmasq what machines are to boot;
# addresses stay as they are. This text is not checked by any program; the lines between the marks are dnsmasq's own.
set -eu
mkdir -p /etc/dnsmasq.d
cat >/etc/dnsmasq.d/baremetal.conf <<'BAREMETAL'
# For a dnsmasq that already gives the addresses: what to boot, and nothing else.

# Who asks. iPXE first: it still sends its firmware's architecture (option 93).
dhcp-match=set:ipxe,175
dhcp-userclass=set:ipxe,iPXE
# The Debian installer would read a file name as a second preseed.
dhcp-vendorclass=set:installer,d-i
tag-if=set:firmware,tag:!ipxe,tag:!installer
dhcp-match=set:bios,option:client-arch,0
dhcp-match=set:x64,option:client-arch,7
dhcp-match=set:x64,option:client-arch,9
dhcp-match=set:x64,option:client-arch,16
dhcp-match=set:arm64,option:client-arch,11
dhcp-match=set:arm64,option:client-arch,19
dhcp-vendorclass=set:http,HTTPClient
dhcp-match=set:http,option:client-arch,16
dhcp-match=set:http,option:client-arch,19
# UEFI HTTP boot believes only an answer that says so.
dhcp-option-force=tag:firmware,tag:http,option:vendor-class,HTTPClient

dhcp-boot=tag:firmware,tag:bios,undionly.kpxe,,10.0.1.2
dhcp-boot=tag:firmware,tag:x64,tag:!http,ipxe.efi,,10.0.1.2
dhcp-boot=tag:firmware,tag:x64,tag:http,http://10.0.1.2:8080/loaders/ipxe.efi,,10.0.1.2
dhcp-boot=tag:firmware,tag:arm64,tag:!http,ipxe-arm64.efi,,10.0.1.2
dhcp-boot=tag:firmware,tag:arm64,tag:http,http://10.0.1.2:8080/loaders/ipxe-arm64.efi,,10.0.1.2
dhcp-boot=tag:ipxe,tag:!installer,http://10.0.1.2:8080/boot.ipxe,,10.0.1.2
dhcp-host=52:54:00:00:00:01,10.0.1.11,r1
dhcp-host=52:54:00:00:00:02,10.0.1.12,r2
BAREMETAL
uci set dhcp.@dnsmasq[0].confdir='/etc/dnsmasq.d'
uci set dhcp.@dnsmasq[0].logdhcp='1'
uci commit dhcp
/etc/init.d/dnsmasq restart
