"""The lab's own small system: a Debian kernel, an initramfs that installs by kickstart, the disk image it installs."""
