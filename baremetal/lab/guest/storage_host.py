"""The guest that plays a storage host: LVM with thin pools, LIO with targetcli, reached by SSH as any other.

Owns its recipe. Its second disk is empty: who uses it makes the volume group. A machine's own kernel may have neither
the device mapper nor LIO; a guest always has them.
"""

from __future__ import annotations

from baremetal.lab.guest.recipe import GuestFile, GuestRecipe

STORAGE_HOST = GuestRecipe(
    name="storage-host",
    packages=("targetcli-fb", "lvm2", "thin-provisioning-tools", "qemu-utils", "util-linux", "python3"),
    # where LIO keeps its state; Debian's packages forget to make it, and the kernel says so at each start
    files={"etc/target/.keep": GuestFile("")},
)
