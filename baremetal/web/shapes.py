"""The bodies that the control API takes and gives, as OpenAPI shows them.

Owns form only: types, lengths, unknown keys refused. What the values mean, and whether they can be right, is
`service`'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from baremetal.errors import Invalid

Text = Annotated[str, Field(max_length=1024)]
Words = dict[str, Annotated[str, Field(max_length=16384)]]


class Asking(BaseModel):
    """A request body: an unknown key is an error, since it is most often a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class Enrolment(Asking):
    """One server to take under care. `adopt` ends in *active*, `verify` false stays in *enroll*."""

    name: Text
    bmc: Text
    bmc_user: Text | None = None
    bmc_password: SecretStr | None = None
    macs: list[Text] = []
    boot_mode: Text = ""
    arch: Text = ""
    ip: Text = ""
    boot_target: Text = ""
    uuid: Text = ""
    serial: Text = ""
    vars: Words = {}
    tags: Words = {}
    quirks: list[Text] = []
    verify: bool = True
    adopt: bool = False


class Enrolments(Asking):
    """Several servers: all or none are taken."""

    servers: list[Enrolment] = Field(max_length=10_000)


class Change(Asking):
    """What to set on a server: absent keys stay; in `vars` and `tags` a null removes the key.

    `boot`: which of its systems a diskless server boots from now on.
    """

    macs: list[Text] | None = None
    uuid: Text | None = None
    serial: Text | None = None
    arch: Text | None = None
    bmc: Text | None = None
    bmc_user: Text | None = None
    bmc_password: SecretStr | None = None
    boot_mode: Text | None = None
    boot_target: Text | None = None
    boot: Text | None = None
    ip: Text | None = None
    vars: dict[str, str | None] | None = None
    tags: dict[str, str | None] | None = None
    quirks: list[Text] | None = None


class Deployment(Asking):
    """What to install. For a rebuild `profile` may be left out: the one that is deployed is meant.

    `system`: its name among several on volumes; the one that is booted, if nobody says.
    """

    profile: Text | None = None
    vars: Words = {}
    boot_target: Text | None = None
    method: Text | None = None
    system: Text | None = None
    force: bool = False


class Plain(Asking):
    """The body of the verbs that need nothing. `wipe`: provide and release also overwrite the disks."""

    force: bool = False
    wipe: bool = False


class Rescue(Asking):
    """`vars` are for this rescue alone, as in ssh_authorized_keys."""

    vars: Words = {}
    force: bool = False


class Maintenance(Asking):
    on: bool


class Power(Asking):
    """`on`, `off`, `soft-off` or `reset`; the last two `by_ssh` are done by the system itself, in order."""

    target: Text
    by_ssh: bool = False


class BootDeviceChoice(Asking):
    """`pxe`, `disk`, `cdrom`, `bios` or `none`; `persistent` pxe needs `force`."""

    device: Text
    persistent: bool = False
    force: bool = False


class Many(Deployment):
    """One verb for several servers, named, or selected by tags and hardware. One bad name starts nothing."""

    names: list[Text] = Field(default=[], max_length=10_000)
    tags: Words = {}
    where: Text = ""
    wipe: bool = False


class NewToken(Asking):
    name: Text
    role: Text = "operator"


class BmcPlace(BaseModel):
    """Where the BMC is; never the account."""

    url: str
    address: str
    kind: str


class GoShape(BaseModel):
    """An install names one `disk`, a wipe all of its `disks`."""

    disk: str
    disks: list[str] = []
    at: datetime
    address: str


class RunShape(BaseModel):
    """An open run: the step it stands at, and what was last heard."""

    number: int
    verb: str
    step: str
    profile: str | None
    method: str | None
    attempt: int
    deadline: datetime | None
    retry_at: datetime | None
    last_sign: str
    trouble: str
    started_at: datetime
    go: GoShape | None


class WaitingShape(BaseModel):
    """A deploy that waits until there is room for it; `place` 1 is the next to begin."""

    verb: str
    profile: str
    since: datetime
    by: str
    place: int


class SystemShape(BaseModel):
    """A system on a volume of a server; `run` made it."""

    name: str
    run: int
    boots: bool


class ServerShape(BaseModel):
    """A server as the API shows it."""

    name: str
    id: str
    provision_state: str
    power_state: str
    power_seen_at: datetime | None
    maintenance: bool
    last_error: str
    profile: str | None
    run: RunShape | None
    waiting: WaitingShape | None
    deployed_run: int | None
    systems: list[SystemShape]
    found_on: bool
    allowed: list[str]
    macs: list[str]
    bmc: BmcPlace
    boot_mode: str
    boot_target: str
    arch: str
    uuid: str
    serial: str
    ip: str
    vars: dict[str, str]
    tags: dict[str, str]
    quirks: list[str]
    created_at: datetime | None
    inventory: dict[str, Any] | None = None
    rescue: dict[str, Any] | None = None


class Servers(BaseModel):
    servers: list[ServerShape]


class Accepted(BaseModel):
    """A verb was accepted; `run` is null for verbs that have nothing to do on the machine.

    `waiting` is the place in the queue (1 is next) of a deploy whose run will have the number `run`.
    """

    run: int | None
    waiting: int | None = None
    server: ServerShape


class Outcome(BaseModel):
    """What one server of a bulk command got: a run, or the error that came too late to stop the others."""

    name: str
    run: int | None = None
    waiting: int | None = None
    server: ServerShape | None = None
    error: dict[str, Any] | None = None


class Outcomes(BaseModel):
    servers: list[Outcome]


class EventShape(BaseModel):
    """One line of the history. `kind`: decision, observation, audit or enrolled."""

    id: int
    at: datetime
    server: str
    run: int | None
    kind: str
    note: str
    from_state: str | None
    to_state: str | None
    outcome: str | None
    event: dict[str, Any] | None
    data: dict[str, Any]


class Events(BaseModel):
    events: list[EventShape]


class PowerShape(BaseModel):
    name: str
    power_state: str


class BootDeviceShape(BaseModel):
    """The boot override as it was read back; `device` null where the BMC's answer has no word here."""

    name: str
    device: str | None
    valid: bool | None
    persistent: bool
    efi: bool


class ErrorShape(BaseModel):
    """Every error of this API. `code` is stable and explained in docs/errors.md."""

    code: str
    error: str
    message: str
    what: str
    server: str | None = None
    seen: str | None = None
    fix: str | None = None
    allowed: list[str] | None = None
    nearest: str | None = None
    file: str | None = None
    line: int | None = None
    variable: str | None = None
    kind: str | None = None
    rows: list[dict[str, Any]] | None = None


Shape = TypeVar("Shape", bound=BaseModel)


def read(kind: type[Shape], given: object) -> Shape:
    """Read a body by hand. Raises Invalid naming the place, never quoting the input."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{where or 'the body'}: {first['msg']}", variable=where or None) from None


def enrol_schema() -> dict[str, Any]:
    """Return the JSON schema of the enrol body: one server, or several."""
    one = Enrolment.model_json_schema()
    several = {
        "type": "object",
        "required": ["servers"],
        "properties": {"servers": {"type": "array", "items": one}},
    }
    return {"oneOf": [one, several]}
