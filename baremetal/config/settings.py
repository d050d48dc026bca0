"""The settings themselves: sections, keys, types and defaults, as values that cannot be changed.

Knows nothing of files; the environment is pydantic-settings' to read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from baremetal.lifecycle.model import BootTarget, Method, Proof

PREFIX = "BAREMETAL_"

_LOOPBACK_NAMES = {"localhost", "ip6-localhost"}

Seconds = Annotated[float, Field(ge=0)]
Budget = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def split_listen(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (`[::1]:8000` for IPv6). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("not HOST:PORT, as in 127.0.0.1:8000")
    if (":" in host) != (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8000")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether `HOST:PORT` can be reached from this machine only."""
    host, _ = split_listen(listen)
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(text: str) -> str:
    split_listen(text)
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError("not an http:// or https:// URL without account, query or fragment")
    return text.rstrip("/")


def _host_name(text: str) -> str:
    """Bring a name or address to the form in which the Host of a request is compared."""
    name = text.strip().lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    label = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
    if len(name) > 253 or not re.fullmatch(rf"{label}(\.{label})*", name):
        raise ValueError(
            "not a host's name or address alone, as in bm.example.net: no scheme, port or wildcard"
        )
    return name


def _public_key(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\r\n]*)?", text.strip()):
        raise ValueError("not one line of an OpenSSH public key, as in ~/.ssh/id_ed25519.pub")
    return text.strip()


def _ipv4(text: str) -> str:
    if text:
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise ValueError("not an IPv4 address, as in 10.0.0.2") from None
    return text


def _optional_listen(text: str) -> str:
    return _listen(text) if text else text


def _boot_file(text: str) -> str:
    # It ends up in other programs' configuration files and in a DHCP packet's field of 128 octets.
    if not re.fullmatch(r"[A-Za-z0-9/_.:%?=&+~\[\]-]{0,127}", text):
        raise ValueError("not a file name or URL of at most 127 plain characters")
    return text


Listen = Annotated[str, AfterValidator(_listen)]
OptionalListen = Annotated[str, AfterValidator(_optional_listen)]
IPv4 = Annotated[str, AfterValidator(_ipv4)]
BootFile = Annotated[str, AfterValidator(_boot_file)]
# Linux: at most 15 octets, no slash or blank; a dash in front would be an option elsewhere.
Interface = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.@-]{0,14})?$")]
Loader = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$")]
Url = Annotated[str, AfterValidator(_url)]
HostName = Annotated[str, AfterValidator(_host_name)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Vars = dict[str, str | int | float | bool | list[str]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ServerConfig(_Section):
    """`[server]`: listeners, what machines call us, where things are kept."""

    boot_listen: Listen = "0.0.0.0:8080"
    control_listen: Listen = "127.0.0.1:8000"
    control_hosts: list[HostName] = []
    public_url: Url = ""
    control_tls_cert: str = ""
    control_tls_key: str = ""
    trusted_proxies: list[str] = []
    data_dir: str = ""
    templates_dir: str = ""
    keep_observations_days: Count = 90
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class DatabaseConfig(_Section):
    """`[database]`."""

    url: str = ""


class BmcConfig(_Section):
    """`[bmc]`: how BMCs are talked to (docs/hardware.md says what may need changing for whom)."""

    connect_s: Budget = 12.0
    read_s: Budget = 15.0
    write_s: Budget = 35.0
    min_interval_s: Seconds = 0.0
    breaker_failures: Count = 5
    breaker_open_s: Budget = 60.0
    breaker_longest_s: Budget = 900.0
    observe_interval_s: Seconds = 60.0
    max_conversations: Count = 64


class BudgetsConfig(_Section):
    """`[deploy.budgets]`: how long each wait of a run may last."""

    ensure_s: Budget = 180.0
    access_s: Budget = 30.0
    volume_s: Budget = 1800.0
    boot_s: Budget = 900.0
    start_s: Budget = 1800.0
    install_s: Budget = 5400.0
    first_boot_s: Budget = 1800.0
    proof_s: Budget = 600.0
    inspect_s: Budget = 900.0
    rescue_s: Budget = 900.0
    wipe_s: Budget = 86400.0


class ProfileBudgetsConfig(_Section):
    """`[profile.NAME.budgets]`: the same, each only where it differs."""

    ensure_s: Budget | None = None
    access_s: Budget | None = None
    volume_s: Budget | None = None
    boot_s: Budget | None = None
    start_s: Budget | None = None
    install_s: Budget | None = None
    first_boot_s: Budget | None = None
    proof_s: Budget | None = None
    inspect_s: Budget | None = None
    rescue_s: Budget | None = None
    wipe_s: Budget | None = None


class LimitsConfig(_Section):
    """`[deploy.limits]`: bounds on what a run may do to a machine."""

    netboot_attempts: Count = 3
    max_serves: Count = 3
    power_writes_per_step: Count = 4
    power_writes_per_hour: Count = 12
    flags_fresh_s: Budget = 30.0
    patience_s: Seconds = 900.0


class DeployConfig(_Section):
    """`[deploy]`: what holds for every deploy."""

    sweep_interval_s: Budget = 1.0
    max_concurrent: Annotated[int, Field(ge=0, le=100_000)] = 100
    power_on_stagger_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    ssh_authorized_keys: list[PublicKey] = []
    ssh_user: str = "root"
    ssh_port: Annotated[int, Field(ge=1, le=65535)] = 22
    ssh_deadline_s: Budget = 20.0
    vars: Vars = {}
    budgets: BudgetsConfig = BudgetsConfig()
    limits: LimitsConfig = LimitsConfig()


class SubnetConfig(_Section):
    """`[[dhcp.subnet]]`: one segment on which machines boot. Empty: what `[dhcp]` says."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]{0,30})?$")] = ""
    range: str
    mask: IPv4
    broadcast: IPv4 = ""
    routers: list[IPv4] = []
    dns_servers: list[IPv4] = []
    relay: IPv4 = ""
    interface: Interface = ""
    public_url: Url = ""
    next_server: IPv4 = ""
    filename: BootFile = ""
    loader_uefi: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_./-]{0,62})?$")] = ""
    lease_s: Annotated[int, Field(ge=120)] | None = None

    @property
    def bounds(self) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address | None]:
        """First and last address to give out; no last one where only fixed addresses are given."""
        first, dash, last = (part.strip() for part in self.range.partition("-"))
        return ipaddress.IPv4Address(first), ipaddress.IPv4Address(last) if dash else None

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The segment itself."""
        return ipaddress.IPv4Network(f"{self.bounds[0]}/{self.mask}", strict=False)

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if not self.mask:
            raise ValueError("mask is empty; as in 255.255.255.0")
        try:
            first, last = self.bounds
        except ValueError:
            raise ValueError(f"range {self.range!r} is not FIRST-LAST, as in 10.0.0.100-10.0.0.199") from None
        try:
            network = self.network
        except ValueError:
            raise ValueError(f"mask {self.mask} is no network mask, as 255.255.255.0 is") from None
        if last is not None and last not in network:
            raise ValueError(f"range {self.range} does not fit into one network of mask {self.mask}")
        if last is not None and last < first:
            raise ValueError(f"range {self.range} ends before it begins")
        for router in self.routers:
            if ipaddress.IPv4Address(router) not in network:
                raise ValueError(f"router {router} is not in {network}, so no machine there reaches it")
        return self


class DhcpConfig(_Section):
    """`[dhcp]`: who gives machines their addresses and tells them what to boot (docs/dhcp.md)."""

    mode: Literal["external", "proxy", "full"] = "external"
    interface: Interface = ""
    next_server: IPv4 = ""
    filename: BootFile = ""
    loader_bios: Loader = "undionly.kpxe"
    loader_uefi: Loader = "ipxe.efi"
    loader_arm64: Loader = "ipxe-arm64.efi"
    lease_s: Annotated[int, Field(ge=120)] = 2700
    router_advertisements: bool = True
    subnet: list[SubnetConfig] = []


class TftpConfig(_Section):
    """`[tftp]`: our own read-only responder, for loaders that know nothing else."""

    listen: OptionalListen = ""
    block_size: Annotated[int, Field(ge=512, le=65464)] = 1468
    window: Annotated[int, Field(ge=1, le=64)] = 16


class StorageConfig(_Section):
    """`[storage.NAME]`: a storage host (docs/storage.md); checked further by `storage/settings.py`."""

    kind: Literal["tgt", "lio", "external"]
    portal: str
    base_iqn: str
    address: str = ""
    ssh_user: str = "root"
    ssh_port: Annotated[int, Field(ge=1, le=65535)] = 22
    host_key: str = ""
    folder: str = ""
    volume_group: str = ""
    thin_pool: str = ""
    snapshot_size: str = "10G"
    first_lun: int | None = None
    target: str = "{base}:{server}.{system}"
    initiator: str = "{base}:{server}"
    chap: bool = True
    mutual_chap: bool = False
    socket: str = ""


class SecurityConfig(_Section):
    """`[security]`: each setting here loosens or tightens a promise."""

    strict_source: bool = False
    allow_public_control: bool = False
    key_file: str = ""
    token_file: str = ""


class ProfileConfig(_Section):
    """`[profile.NAME]`: what to install and how."""

    title: str = ""
    family: Literal[
        "kickstart",
        "preseed",
        "autoinstall",
        "autoyast",
        "esxi",
        "windows",
        "ignition",
        "image",
        "ramdisk",
        "nocloud",
    ]
    arch: Literal["x86_64", "arm64"] = "x86_64"
    method: Method = Method.INSTALLER
    media: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,47})?$")] = ""
    # ESXi has neither kernel nor initrd: its own loader reads boot.cfg. A clone boots what is on its volume.
    kernel: Annotated[str, Field(validate_default=True)] = ""
    initrd: Annotated[str, Field(validate_default=True)] = ""
    template: str
    files: dict[str, str] = {}
    kernel_args: str = ""
    vars: Vars = {}
    boot_target: BootTarget = BootTarget.DISK
    storage: str = ""
    golden: str = ""
    volume_size: str = ""
    data_disks: str = ""
    proof: Proof = Proof.SSH
    reboots: bool = False
    budgets: ProfileBudgetsConfig = ProfileBudgetsConfig()

    @field_validator("kernel", "initrd", "template")
    @classmethod
    def _is_given(cls, value: str, info: ValidationInfo) -> str:
        without_kernel = info.data.get("family") in ("esxi", "nocloud")
        if not value and (not without_kernel or info.field_name == "template"):
            raise PydanticCustomError("missing", "is missing")
        return value


class Config(BaseSettings):
    """All settings, validated. Build it with `load`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        hide_input_in_errors=True,
    )

    server: ServerConfig = ServerConfig()
    database: DatabaseConfig = DatabaseConfig()
    bmc: BmcConfig = BmcConfig()
    deploy: DeployConfig = DeployConfig()
    dhcp: DhcpConfig = DhcpConfig()
    tftp: TftpConfig = TftpConfig()
    security: SecurityConfig = SecurityConfig()
    storage: dict[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")], StorageConfig] = {}
    profile: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,47}$")], ProfileConfig] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The files arrive merged, as the initial values; the environment wins over them.
        return env_settings, init_settings

    @property
    def data_dir(self) -> Path:
        """Where everything that must survive a restart is kept: `/var/lib/baremetal` for root, else below the home."""
        if self.server.data_dir:
            return Path(self.server.data_dir).expanduser().absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/baremetal")
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return Path(home).expanduser() / "baremetal"

    @property
    def media_dir(self) -> Path:
        """One folder per profile, with kernels, initrds and installer trees."""
        return self.data_dir / "media"

    @property
    def templates_dir(self) -> Path:
        """The operator's own answer templates (`kickstart/`, `preseed/`), which shadow the shipped ones."""
        return self._path(self.server.templates_dir, "templates")

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL of the database; SQLite in the data directory unless told otherwise."""
        return self.database.url or f"sqlite:///{self.data_dir / 'baremetal.sqlite3'}"

    @property
    def key_file(self) -> Path:
        """The key that BMC credentials are sealed with; 0600."""
        return self._path(self.security.key_file, "secret.key")

    @property
    def token_file(self) -> Path:
        """The control token made at the first start, which the command line picks up; 0600."""
        return self._path(self.security.token_file, "control.token")

    @property
    def dhcp_dir(self) -> Path:
        """What the DHCP server needs while it runs, and its leases, which outlive it."""
        return self.data_dir / "dhcp"

    def _path(self, given: str, default: str) -> Path:
        return Path(given).expanduser().absolute() if given else self.data_dir / default
