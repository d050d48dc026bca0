"""Which driver speaks which URL scheme. Knows the drivers' names; loads one only when it is asked for."""

from __future__ import annotations

from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl, Deadlines
from baremetal.errors import Invalid, Refused


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
