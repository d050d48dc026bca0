# MikroTik RouterOS 7.16 or later: name your DHCP servers and pools below, upload this, and /import it. Older ones cannot
# tell iPXE from firmware: set [dhcp] mode = "proxy" here instead, and leave next-server and boot-file-name there empty.
# This text is not checked by any program.

# rack1: 10.0.1.0/24
:local server1 "SERVER"
:local pool1 "POOL"
/ip dhcp-server network set [find address="10.0.1.0/24"] next-server=10.0.1.2 boot-file-name=""
/ip dhcp-server option
add name=rack1-ipxe code=67 value="s'http://10.0.1.2:8080/boot.ipxe'"
add name=rack1-bios code=67 value="s'undionly.kpxe'"
add name=rack1-x64 code=67 value="s'ipxe.efi'"
add name=rack1-arm64 code=67 value="s'ipxe-arm64.efi'"
add name=rack1-x64-http code=67 value="s'http://10.0.1.2:8080/loaders/ipxe.efi'"
add name=rack1-x64-http-class code=60 value="s'HTTPClient'" force=yes
add name=rack1-arm64-http code=67 value="s'http://10.0.1.2:8080/loaders/ipxe-arm64.efi'"
add name=rack1-arm64-http-class code=60 value="s'HTTPClient'" force=yes
/ip dhcp-server option sets
add name=rack1-ipxe options=rack1-ipxe
add name=rack1-bios options=rack1-bios
add name=rack1-x64 options=rack1-x64
add name=rack1-arm64 options=rack1-arm64
add name=rack1-x64-http options=rack1-x64-http,rack1-x64-http-class
add name=rack1-arm64-http options=rack1-arm64-http,rack1-arm64-http-class
# iPXE first: it still sends its firmware's architecture.
/ip dhcp-server matcher
add name=rack1-ipxe server=$server1 address-pool=$pool1 code=77 matching-type=substring value="iPXE" option-set=rack1-ipxe
add name=rack1-bios-0 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x0000 option-set=rack1-bios
add name=rack1-x64-7 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x0007 option-set=rack1-x64
add name=rack1-x64-9 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x0009 option-set=rack1-x64
add name=rack1-arm64-11 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x000b option-set=rack1-arm64
add name=rack1-x64-http-16 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x0010 option-set=rack1-x64-http
add name=rack1-arm64-http-19 server=$server1 address-pool=$pool1 code=93 matching-type=exact value=0x0013 option-set=rack1-arm64-http

# rack2: 10.0.2.0/23
:local server2 "SERVER"
:local pool2 "POOL"
/ip dhcp-server network set [find address="10.0.2.0/23"] next-server=10.0.2.2 boot-file-name=""
/ip dhcp-server option
add name=rack2-ipxe code=67 value="s'http://10.0.2.2:8080/boot.ipxe'"
add name=rack2-bios code=67 value="s'undionly.kpxe'"
add name=rack2-x64 code=67 value="s'shimx64.efi'"
add name=rack2-arm64 code=67 value="s'ipxe-arm64.efi'"
add name=rack2-x64-http code=67 value="s'http://10.0.2.2:8080/loaders/shimx64.efi'"
add name=rack2-x64-http-class code=60 value="s'HTTPClient'" force=yes
add name=rack2-arm64-http code=67 value="s'http://10.0.2.2:8080/loaders/ipxe-arm64.efi'"
add name=rack2-arm64-http-class code=60 value="s'HTTPClient'" force=yes
/ip dhcp-server option sets
add name=rack2-ipxe options=rack2-ipxe
add name=rack2-bios options=rack2-bios
add name=rack2-x64 options=rack2-x64
add name=rack2-arm64 options=rack2-arm64
add name=rack2-x64-http options=rack2-x64-http,rack2-x64-http-class
add name=rack2-arm64-http options=rack2-arm64-http,rack2-arm64-http-class
# iPXE first: it still sends its firmware's architecture.
/ip dhcp-server matcher
add name=rack2-ipxe server=$server2 address-pool=$pool2 code=77 matching-type=substring value="iPXE" option-set=rack2-ipxe
add name=rack2-bios-0 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x0000 option-set=rack2-bios
add name=rack2-x64-7 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x0007 option-set=rack2-x64
add name=rack2-x64-9 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x0009 option-set=rack2-x64
add name=rack2-arm64-11 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x000b option-set=rack2-arm64
add name=rack2-x64-http-16 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x0010 option-set=rack2-x64-http
add name=rack2-arm64-http-19 server=$server2 address-pool=$pool2 code=93 matching-type=exact value=0x0013 option-set=rack2-arm64-http

# far: 10.9.0.0/24
:local server3 "SERVER"
:local pool3 "POOL"
/ip dhcp-server network set [find address="10.9.0.0/24"] next-server=10.0.1.2 boot-file-name=""
/ip dhcp-server option
add name=far-ipxe code=67 value="s'http://10.0.1.2:8080/boot.ipxe'"
add name=far-bios code=67 value="s'undionly.kpxe'"
add name=far-x64 code=67 value="s'ipxe.efi'"
add name=far-arm64 code=67 value="s'ipxe-arm64.efi'"
add name=far-x64-http code=67 value="s'http://10.0.1.2:8080/loaders/ipxe.efi'"
add name=far-x64-http-class code=60 value="s'HTTPClient'" force=yes
add name=far-arm64-http code=67 value="s'http://10.0.1.2:8080/loaders/ipxe-arm64.efi'"
add name=far-arm64-http-class code=60 value="s'HTTPClient'" force=yes
/ip dhcp-server option sets
add name=far-ipxe options=far-ipxe
add name=far-bios options=far-bios
add name=far-x64 options=far-x64
add name=far-arm64 options=far-arm64
add name=far-x64-http options=far-x64-http,far-x64-http-class
add name=far-arm64-http options=far-arm64-http,far-arm64-http-class
# iPXE first: it still sends its firmware's architecture.
/ip dhcp-server matcher
add name=far-ipxe server=$server3 address-pool=$pool3 code=77 matching-type=substring value="iPXE" option-set=far-ipxe
add name=far-bios-0 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x0000 option-set=far-bios
add name=far-x64-7 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x0007 option-set=far-x64
add name=far-x64-9 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x0009 option-set=far-x64
add name=far-arm64-11 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x000b option-set=far-arm64
add name=far-x64-http-16 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x0010 option-set=far-x64-http
add name=far-arm64-http-19 server=$server3 address-pool=$pool3 code=93 matching-type=exact value=0x0013 option-set=far-arm64-http

/ip dhcp-server lease
add server=$server1 mac-address=52:54:00:00:00:01 address=10.0.1.11 comment=r1
add server=$server1 mac-address=52:54:00:00:00:02 address=10.0.1.12 comment=r2
