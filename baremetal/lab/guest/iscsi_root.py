"""The guest that has its root on iSCSI: a full Debian whose initramfs logs in to where its firmware's iBFT points.

Owns its recipe. The disk is bootable, so that iPXE's sanboot finds a boot loader on the LUN. The interface that root
hangs on is brought up by the initramfs, and networkd is told to keep its hands off it.
"""

from __future__ import annotations

from baremetal.lab.guest.recipe import KERNEL_ARGS, GuestFile, GuestRecipe

_KEEP = "[Match]\nName=en* eth*\n\n[Link]\nUnmanaged=yes\n"

ISCSI_ROOT = GuestRecipe(
    name="iscsi-root",
    packages=("open-iscsi", "curl", "python3", "cloud-init"),
    files={
        "etc/iscsi/iscsi.initramfs": GuestFile("ISCSI_AUTO=true\n"),
        # before the file that cloud-init writes of what the initramfs has set up, and the one of every guest
        "etc/systemd/network/05-root.network": GuestFile(_KEEP),
        # seeds come on a disk beside the root; asking any cloud would only cost time
        "etc/cloud/cloud.cfg.d/90-seed.cfg": GuestFile(
            "datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n"
        ),
    },
    modules=("virtio_pci", "virtio_blk", "virtio_net", "ext4", "sd_mod", "iscsi_ibft", "iscsi_tcp", "crc32c"),
    # cloud-init takes the initramfs' settings of the NIC for its own, whatever its files say, and drops the session
    kernel_args=f"{KERNEL_ARGS} network-config=disabled",
    size_mib=3072,
    bootable=True,
)
