"""The lab's own small system: a Debian kernel and an initramfs that installs it by kickstart, and the disk image it installs."""
