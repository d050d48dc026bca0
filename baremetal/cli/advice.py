"""What to do next, by the code of what went wrong; said where the service's own words end."""

from __future__ import annotations

_ADVICE = {
    "BM101": "check the cable, the BMC's address and that UDP 623 gets through; then `baremetal doctor {name}`",
    "BM102": "give the right password: `baremetal set {name} --bmc ipmi://USER@HOST --bmc-password-stdin`",
    "BM103": "the BMC is busy: wait a minute, or reset it cold; close other IPMI sessions",
    "BM104": "choose a cipher suite the BMC has: `baremetal set {name} --bmc 'ipmi://USER@HOST?cipher=3'`",
    "BM105": "this firmware drops boot flags: see docs/hardware.md for quirks, then try again",
    "BM109": "look at the machine: its power does not follow its BMC",
    "BM110": "find who else switches this server (another controller, a watchdog), then try again",
    "BM301": "see whether it asked at all: `baremetal list --unknown`, `baremetal explain {name}`; "
    "check DHCP, the boot NIC and its MAC",
    "BM401": "look at its console; what it was last doing is above; `baremetal logs {name}` if it could upload",
    "BM402": "choose a disk: `baremetal set {name} --var disk=serial=…` (or wwn=, path=, size>=)",
    "BM403": "the system runs but could not be proven: check sshd and the way to it, `baremetal events {name}`",
    "BM406": "what answers there is another system, or it made new host keys: do not trust it before you looked",
    "BM407": "the system did not take our key: see its /root/.ssh/authorized_keys and its sshd's settings",
    "BM404": "read the installer's own words: `baremetal logs {name}`",
    "BM405": "look at its console: something restarts it in the middle of the install",
}


def next_step(code: str, name: str) -> str:
    """Return one line of advice, or "" where the code says it all."""
    return _ADVICE.get(code, "").format(name=name)
