"""How a BMC fails to oblige: a completion code (IPMI 2.0 table 5-2), a refused login, or nothing at all."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Completion codes that this BMC gives."""

    OK = 0x00
    PARAMETER_NOT_SUPPORTED = 0x80  # of Set/Get System Boot Options
    PRIVILEGE_NOT_AVAILABLE = (
        0x80  # of Set Session Privilege Level: codes from 0x80 mean what the command says
    )
    SET_IN_PROGRESS = 0x81
    PRIVILEGE_EXCEEDS_LIMIT = 0x81
    NO_SUCH_SESSION = 0x87
    NODE_BUSY = 0xC0
    INVALID_COMMAND = 0xC1
    DATA_TOO_SHORT = 0xC7
    DATA_TOO_LONG = 0xC8
    PARAMETER_OUT_OF_RANGE = 0xC9
    INVALID_FIELD = 0xCC
    INSUFFICIENT_PRIVILEGE = 0xD4
    NOT_IN_THIS_STATE = 0xD5


class CompletionError(Exception):
    """The BMC answered, with something else than OK."""

    def __init__(self, code: int) -> None:
        super().__init__(f"completion code 0x{code:02X}")
        self.code = code


class Silence(Exception):
    """The BMC does not answer: frozen, restarting, or the packet was lost."""


class LoginStatus(IntEnum):
    """RMCP+ and RAKP message status codes of table 13-15."""

    OK = 0x00
    TABLE_FULL = 0x01
    INVALID_SESSION = 0x02
    INVALID_PAYLOAD = 0x03
    INVALID_AUTHENTICATION = 0x04
    INVALID_INTEGRITY = 0x05
    INACTIVE_SESSION = 0x08
    INVALID_ROLE = 0x09
    UNAUTHORISED_ROLE = 0x0A
    INVALID_NAME_LENGTH = 0x0C
    UNAUTHORISED_NAME = 0x0D
    INVALID_INTEGRITY_VALUE = 0x0F
    INVALID_CONFIDENTIALITY = 0x10
    NO_MATCHING_SUITE = 0x11
    ILLEGAL_PARAMETER = 0x12


class LoginRefused(Exception):
    """The BMC refused to open a session; `status` is the code of table 13-15."""

    def __init__(self, status: LoginStatus) -> None:
        super().__init__(f"RMCP+ status 0x{status:02X} ({status.name.lower()})")
        self.status = status
