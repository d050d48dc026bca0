"""IPMI 2.0 over LAN: what chassis commands mean, and what a BMC's completion codes mean for us.

Owns encoding and decoding of the few commands we use and the class of every error. The wire is pyghmi's, in a child
process (`child.py`) that is killed when a call misses its deadline; one child per conversation. Deliberately no retry
of refused commands, no read-back, no lock: those are the engine's.
"""

from __future__ import annotations

from typing import Any

from baremetal.drivers.base import (
    BmcCredentials,
    BmcInfo,
    BmcUrl,
    BootDevice,
    BootFlags,
    Deadlines,
    Permit,
    PowerState,
    PowerTarget,
)
from baremetal.drivers.process import Child
from baremetal.errors import BmcError, BmcErrorKind, Invalid, Unavailable

SESSION_FULL_WAIT_S = 65.0
"""BMCs reap idle sessions after 60 s (openbmc/openbmc#1241, ipmitool/ipmitool#213)."""

_CHASSIS, _APPLICATION = 0x00, 0x06
_GET_DEVICE_ID = 0x01
_GET_STATUS, _CONTROL, _SET_BOOT_OPTIONS, _GET_BOOT_OPTIONS = 0x01, 0x02, 0x08, 0x09
_FLAG_CLEARING, _BOOT_FLAGS = 0x03, 0x05

# IPMI 2.0 table 28-4; a cycle is not there on purpose
_POWER = {PowerTarget.OFF: 0x00, PowerTarget.ON: 0x01, PowerTarget.RESET: 0x03, PowerTarget.SOFT_OFF: 0x05}

# IPMI 2.0 table 28-14, parameter 5, data 2 bits 5:2
_SELECTORS = {
    BootDevice.NONE: 0x0,
    BootDevice.PXE: 0x1,
    BootDevice.DISK: 0x2,
    BootDevice.CDROM: 0x5,
    BootDevice.BIOS: 0x6,
}
_DEVICES = {selector: device for device, selector in _SELECTORS.items()}
_VALID, _PERSISTENT, _EFI = 0x80, 0x40, 0x20

_KINDS = {
    0x80: BmcErrorKind.UNSUPPORTED,  # boot options: parameter not supported
    0x81: BmcErrorKind.BUSY,  # boot options: another party holds "set in progress"
    0x82: BmcErrorKind.UNSUPPORTED,  # boot options: parameter is read-only
    0xC0: BmcErrorKind.BUSY,
    0xC1: BmcErrorKind.UNSUPPORTED,
    0xC2: BmcErrorKind.UNSUPPORTED,
    0xC3: BmcErrorKind.BUSY,
    0xC4: BmcErrorKind.BUSY,
    0xC7: BmcErrorKind.UNSUPPORTED,
    0xC9: BmcErrorKind.UNSUPPORTED,
    0xCC: BmcErrorKind.UNSUPPORTED,
    0xCF: BmcErrorKind.BUSY,  # duplicated request: a repetition of ours overtook the answer
    0xD1: BmcErrorKind.BUSY,  # firmware update mode
    0xD2: BmcErrorKind.BUSY,  # still initialising
    0xD4: BmcErrorKind.UNSUPPORTED,
    0xD5: BmcErrorKind.CONFLICT,
    0xD6: BmcErrorKind.UNSUPPORTED,
}
_WORDS = {
    0x80: "this boot parameter is not supported",
    0x81: "another party is changing the boot options",
    0x82: "this boot parameter is read-only",
    0xC0: "node busy",
    0xC1: "invalid command",
    0xC2: "invalid command for this unit",
    0xC3: "time-out inside the BMC",
    0xC4: "out of space",
    0xC7: "request length invalid",
    0xC9: "parameter out of range",
    0xCC: "invalid data field",
    0xCF: "duplicated request",
    0xD1: "the BMC is updating its firmware",
    0xD2: "the BMC is starting",
    0xD4: "insufficient privilege",
    0xD5: "not in the present state",
    0xD6: "disabled",
}

# The IANA enterprise numbers that BMCs are seen with
_VENDORS = {
    2: "IBM",
    11: "HP",
    42: "Sun",
    343: "Intel",
    674: "Dell",
    2011: "Huawei",
    5771: "Cisco",
    6653: "Tyan",
    7244: "Quanta",
    10368: "Fujitsu",
    10876: "Supermicro",
    15370: "Gigabyte",
    19046: "Lenovo",
    20974: "AMI",
    25506: "H3C",
    37945: "Inspur",
    47196: "HPE",
    49622: "ASRock Rack",
    49871: "OpenBMC",
}


class IpmiDriver:
    """One session with one BMC, in a child process: its own, or one that serves several, one after the other.

    Implements `BmcDriver`.
    """

    def __init__(
        self, url: BmcUrl, credentials: BmcCredentials, deadlines: Deadlines, child: Child | None = None
    ) -> None:
        """Log in. Raises BmcError of any kind, Invalid for an account that IPMI cannot carry, and Unavailable when
        this machine can start no process more.

        A `child` that is lent outlives a good conversation; after any trouble it is killed.
        """
        self._place = url.identity
        self._deadlines = deadlines
        self._over = False
        user, password = _account(credentials)
        if url.bridge:
            raise BmcError(
                f"{self._place}: bridged BMCs are not supported",
                BmcErrorKind.UNSUPPORTED,
                fix="drop ?bridge=",
            )
        if url.cipher not in (None, 3, 17):
            raise BmcError(
                f"{self._place}: cipher suite {url.cipher} is not supported by this program",
                BmcErrorKind.UNSUPPORTED,
                fix="write cipher=17 or cipher=3, or leave it out",
            )
        self._lent = child is not None
        self._child = child or start_child(self._place)
        try:
            self._ask(
                ("open", url.host, url.port, user, password, url.privilege, url.cipher), deadlines.connect_s
            )
        except BaseException:
            self._child.kill()
            raise

    def check(self) -> BmcInfo:
        """Get Device ID (IPMI 2.0 §20.1)."""
        data = self._read(_APPLICATION, _GET_DEVICE_ID, b"", at_least=11)
        maker = int.from_bytes(data[6:9], "little") & 0xFFFFF
        return BmcInfo(
            vendor=_VENDORS.get(maker, f"IANA {maker}" if maker else ""),
            product=f"0x{int.from_bytes(data[9:11], 'little'):04x}",
            firmware=f"{data[2] & 0x7F}.{data[3]:02x}",
            protocol=f"IPMI {data[4] & 0x0F}.{data[4] >> 4}",
        )

    def power(self) -> PowerState:
        """Get Chassis Status (§28.2)."""
        data = self._read(_CHASSIS, _GET_STATUS, b"", at_least=1)
        return PowerState.ON if data[0] & 0x01 else PowerState.OFF

    def set_power(self, target: PowerTarget, permit: Permit) -> None:
        """Chassis Control (§28.3), repeated while packets get lost: sent at least once, maybe more."""
        code, _ = self._write(_CHASSIS, _CONTROL, bytes([_POWER[target]]), permit)
        self._judge(code, f"power {target}")

    def boot_device(self) -> BootFlags:
        """Get System Boot Options, parameter 5 (§28.13)."""
        data = self._read(_CHASSIS, _GET_BOOT_OPTIONS, bytes([_BOOT_FLAGS, 0, 0]), at_least=4)
        if data[1] & 0x7F != _BOOT_FLAGS:
            raise self._error("it answered about another boot parameter", BmcErrorKind.PROTOCOL)
        invalid = bool(data[1] & 0x80)
        return BootFlags(
            valid=None if invalid else bool(data[2] & _VALID),
            device=_DEVICES.get((data[3] >> 2) & 0x0F),
            persistent=bool(data[2] & _PERSISTENT),
            efi=bool(data[2] & _EFI),
        )

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        """Set System Boot Options (§28.12): keep flags beyond 60 s where that can be asked, then set parameter 5."""
        if device is BootDevice.NONE:
            flags = bytes([_BOOT_FLAGS, 0, 0, 0, 0, 0])
        else:
            first = _VALID | (_PERSISTENT if persistent else 0) | (_EFI if efi else 0)
            flags = bytes([_BOOT_FLAGS, first, _SELECTORS[device] << 2, 0, 0, 0])
            # bit 3: do not clear the valid bit 60 s after it was set; a BMC may refuse this, and the answer does not
            # matter: the flags are read back, and power comes on within the minute
            self._write(_CHASSIS, _SET_BOOT_OPTIONS, bytes([_FLAG_CLEARING, 0x08]), permit)
        code, _ = self._write(_CHASSIS, _SET_BOOT_OPTIONS, flags, permit)
        self._judge(code, f"boot device {device}")

    def close(self) -> None:
        """Close the session, so that its slot is free for the next one, and end the child unless it is lent."""
        if self._over or not self._child.alive:
            return
        self._over = True
        try:
            answer = self._child.ask(("leave",) if self._lent else ("close",), 3.0)
        except BmcError:
            return  # the child is dead, the slot is reaped by the BMC
        if not self._lent or answer[0] != "ok":
            self._child.kill()

    def _read(self, netfn: int, command: int, data: bytes, *, at_least: int) -> bytes:
        code, answer = self._ask(("read", netfn, command, data), self._deadlines.read_s)
        self._judge(code, f"command {netfn:#04x}/{command:#04x}")
        if len(answer) < at_least:
            raise self._error(
                f"an answer of {len(answer)} bytes where {at_least} are due", BmcErrorKind.PROTOCOL
            )
        return bytes(answer)

    def _write(self, netfn: int, command: int, data: bytes, permit: Permit) -> tuple[int, bytes]:
        code, answer = self._ask(("write", netfn, command, data), self._deadlines.write_s, permit)
        return code, answer

    def _ask(
        self, request: tuple[Any, ...], deadline_s: float, permit: Permit | None = None
    ) -> tuple[Any, ...]:
        if self._over or not self._child.alive:
            raise self._error("the conversation is over", BmcErrorKind.DEADLINE)
        try:
            answer = self._child.ask(request, deadline_s, permit)
        except BmcError as error:
            if error.what.startswith(self._place):
                raise
            raise self._error(error.what, error.kind) from None
        if answer[0] == "failed":
            if self._lent:
                self._child.kill()  # whatever state this BMC has left there is not the next one's
            kind = BmcErrorKind(answer[1])
            raise self._error(answer[2], kind, seen=answer[3] or None, fix=answer[4] or None)
        return answer[1:]

    def _judge(self, code: int, what: str) -> None:
        if code:
            kind = _KINDS.get(code, BmcErrorKind.PROTOCOL)
            fix = "give the account operator privilege" if code == 0xD4 else None
            seen = f"completion code 0x{code:02X}, {_WORDS.get(code, 'unknown')}"
            raise self._error(f"the BMC refused {what}", kind, seen=seen, fix=fix)

    def _error(
        self, what: str, kind: BmcErrorKind, *, seen: str | None = None, fix: str | None = None
    ) -> BmcError:
        wait_s = SESSION_FULL_WAIT_S if kind is BmcErrorKind.SESSION_FULL else None
        return BmcError(f"{self._place}: {what}", kind, retry_after_s=wait_s, seen=seen, fix=fix)


def start_child(place: str) -> Child:
    """Start a child for a conversation with the BMC at `place`. Raises Unavailable."""
    try:
        return Child()
    except OSError as error:
        raise Unavailable(
            f"{place}: no process could be started for the conversation", seen=error.strerror or str(error)
        ) from error


def _account(credentials: BmcCredentials) -> tuple[bytes, bytes]:
    """Encode the account as pyghmi must have it: as bytes, or its second login in a process hangs."""
    user, password = credentials.user.encode(), credentials.password.encode()
    if len(user) > 16:
        raise Invalid(f"an IPMI user name has at most 16 bytes, {credentials.user!r} has {len(user)}")
    if len(password) > 20:
        raise Invalid(f"an IPMI password has at most 20 bytes, this one has {len(password)}")
    return user, password
