"""What to do on a storage array where nobody but an operator makes LUNs: in words and commands, with the exact names.

Owns these words (S0-6, S0-7, S1-4, S1-6). Deliberately unknown: the array's own pages, which every release changes.
"""

from __future__ import annotations

from baremetal.storage.host import Door
from baremetal.storage.names import san_uri, split_portal
from baremetal.storage.settings import StorageSettings
from baremetal.storage.sizes import say_size


def steps(said: StorageSettings, door: Door, size: int) -> list[str]:
    """List what has to be done for one server, in order. `size` in bytes, 0 where nobody has said.

    Holds the CHAP secret, where there is one: for the operator's eyes.
    """
    address, port = split_portal(said.portal)
    large = say_size(size) if size else "the size that its system needs"
    told = [
        f"Make a LUN of {large}, thin if the array can.",
        f"Make a target named exactly {door.target}, and map the LUN to it as number {said.lun}.",
        f"Let in the initiator {door.initiator} and nobody else.",
    ]
    if door.chap is not None:
        told.append(f"Switch CHAP on: user {door.chap.user}, password {door.chap.password}.")
        if door.chap.mutual_user:
            told.append(
                f"Switch mutual CHAP on: user {door.chap.mutual_user}, password {door.chap.mutual_password}."
            )
    told += [
        f"See it from a Linux machine: {_look(door.target, f'{address}:{port}')}",
        f"The server is told: sanboot {san_uri(said.portal, said.lun, door.target)}",
        f"A system by genkernel --iscsi wants as kernel arguments: {_genkernel(address, door)}",
    ]
    return told


def _look(target: str, portal: str) -> str:
    return "; ".join(
        (
            f"iscsiadm -m discovery -t st -p {portal}",
            f"iscsiadm -m node -T {target} -p {portal} -l",
            "iscsiadm -m session -P3",
        )
    )


def _genkernel(address: str, door: Door) -> str:
    names = f"iscsi_target={door.target} iscsi_address={address} iscsi_initiatorname={door.initiator}"
    return f"{names} ip=dhcp"
