"""Which driver speaks which URL scheme. Knows the drivers' names; loads one only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl, Deadlines
from baremetal.errors import Invalid, Refused

if TYPE_CHECKING:
    from baremetal.drivers.process import Child


def open_conversation(
    url: BmcUrl, credentials: BmcCredentials | None, deadlines: Deadlines | None = None
) -> BmcDriver:
    """Open a conversation with the BMC at `url` and log in.

    `credentials` come before those in the URL. Raises BmcError of any kind, Invalid where an account is missing or
    cannot be carried by the protocol, Refused for a scheme without a driver.
    """
    deadlines = deadlines or Deadlines()
    account = credentials or url.credentials
    if account is None:
        raise Invalid(
            f"{url.identity}: the {'password' if url.user is not None else 'account'} is missing",
            fix="give the user in the URL and the password by prompt, file or BAREMETAL_BMC_PASSWORD",
        )
    match url.scheme:
        case "ipmi":
            from baremetal.drivers.ipmi import IpmiDriver

            return IpmiDriver(url, account, deadlines)
        case "sim":
            from baremetal.drivers.sim import SimDriver

            return SimDriver(url, account, deadlines)
        case _:
            raise Refused(f"there is no driver for {url.scheme}:// yet", allowed=("ipmi",))


class Round:
    """Opens many short conversations, one after the other; those over IPMI share one child process while all goes well.

    A child of its own costs several times as much as reading a power state does. Not for use by two threads at once.
    """

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self._deadlines = deadlines or Deadlines()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, url: BmcUrl, credentials: BmcCredentials) -> BmcDriver:
        """Open the next conversation; the one before must be closed. Raises what `open_conversation` raises."""
        if url.scheme != "ipmi":
            return open_conversation(url, credentials, self._deadlines)
        from baremetal.drivers.ipmi import IpmiDriver, start_child

        if self._child is None or not self._child.alive:
            self._child = start_child(url.identity)
        return IpmiDriver(url, credentials, self._deadlines, self._child)

    def close(self) -> None:
        """End the child. Idempotent."""
        if self._child is not None:
            self._child.kill()
