"""The one place that knows everything: builds the objects from the settings, each from those before it. No logic.

The order: keys, database, engine, services, apps, ticks. What is built here does not run yet: `serving` starts and
stops it. Deliberately unknown: sockets, signals, and who else works in the data directory.
"""

from __future__ import annotations

import secrets as random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from baremetal import garbage
from baremetal.config import Config, ProfileConfig, split_listen
from baremetal.config.segments import network, public_url, segment_urls, url_for
from baremetal.drivers.base import Deadlines
from baremetal.drivers.keys import generate_keypair, public_half
from baremetal.drivers.registry import Round, open_conversation
from baremetal.engine.conversations import BmcMemo, Conversations
from baremetal.engine.conversations import Limits as BmcLimits
from baremetal.engine.embedded import Embedded, Tick
from baremetal.engine.engine import Engine
from baremetal.engine.observations import Observations
from baremetal.engine.perform import LoginTarget, Performer
from baremetal.engine.power_watch import WORKERS, PowerWatch
from baremetal.engine.steady import SteadyClock
from baremetal.errors import Invalid, Unavailable
from baremetal.lifecycle.model import BootTarget, Budgets, Fetch, Limits, Method
from baremetal.netboot.dhcp.interface import own_address
from baremetal.netboot.dhcp.offer import Mode, Network
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.templates import Templates
from baremetal.netboot.tftp import Limits as TftpLimits
from baremetal.netboot.tftp import TftpServer
from baremetal.netboot.tokens import TokenMint
from baremetal.service.advice.doctor import Doctor, Place
from baremetal.service.advice.explain import Explain
from baremetal.service.advice.segments import Segments
from baremetal.service.advice.storage import examine_storage
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.dhcp import REFRESH_S, Dhcp
from baremetal.service.boot.files import Files
from baremetal.service.boot.sans import Sans
from baremetal.service.boot.tftp import tftp_server
from baremetal.service.deploys.admission import Admission
from baremetal.service.deploys.deploys import Deploys
from baremetal.service.deploys.pairing import Pairing
from baremetal.service.media.loaders import Loaders
from baremetal.service.media.media import Media
from baremetal.service.profiles import Offer, Profiles
from baremetal.service.recipe import Kitchen
from baremetal.service.servers.power import Power
from baremetal.service.servers.servers import Servers, ssh_places
from baremetal.service.storage.doors import VolumeDoors
from baremetal.service.storage.goldens import Goldens
from baremetal.service.storage.hosts import Hosts
from baremetal.service.storage.volumes import Volumes
from baremetal.service.timeline import Timeline
from baremetal.service.tokens import Tokens
from baremetal.storage.base import Shell
from baremetal.storage.registry import OpenShell
from baremetal.storage.settings import StorageSettings
from baremetal.store.records import RunRecord, ServerRecord
from baremetal.store.secrets import Secrets, read_or_make
from baremetal.store.store import Store
from baremetal.web.api import Services
from baremetal.web.apps import control_app, control_stack
from baremetal.web.boot import BootApp
from baremetal.web.doors import Doors

FLUSH_S = 0.5
RETENTION_EVERY_S = 3600.0
PROOF = "baremetal-proof"


@dataclass(frozen=True, slots=True)
class App:
    """What was built, and runs nothing yet: `serving` starts and stops it. Tests hold a part of it."""

    config: Config
    store: Store
    engine: Engine
    observations: Observations
    services: Services
    control: ASGIApp
    boot: ASGIApp
    boot_answers: Boot
    sans: Sans
    files: Files
    ticks: Embedded
    watch: PowerWatch
    dhcp: Dhcp | None
    tftp: TftpServer | None
    token_file: Path
    pools: tuple[ThreadPoolExecutor, ...]


def build(config: Config, *, boot_port: int | None = None) -> App:
    """Build the whole service from its settings, in a data directory that `serving.occupy` holds.

    `boot_port`: the bound one, where the settings say 0. Raises Unavailable, Invalid.
    """
    keys = config.key_file.parent
    secrets = Secrets.load(config.key_file)
    master = read_or_make(keys / "master.key", lambda: random.token_bytes(32))
    private, public = _proof_key(keys / "proof_key")
    store = Store.open(config.database_url, secrets)
    try:
        return _assemble(config, store, master, private, public, boot_port)
    except BaseException:
        store.close()
        raise


def _assemble(
    config: Config,
    store: Store,
    master: bytes,
    private: str,
    public: str,
    boot_port: int | None,
) -> App:
    now = SteadyClock.resume(store)
    turns = ThreadPoolExecutor(config.bmc.max_conversations, "turn")
    operators = ThreadPoolExecutor(16, "operator")
    writers = ThreadPoolExecutor(8, "boot-write")
    later = ThreadPoolExecutor(2, "later")
    watchers = ThreadPoolExecutor(WORKERS, "watch")

    deadlines = Deadlines(config.bmc.connect_s, config.bmc.read_s, config.bmc.write_s)
    conversations = Conversations(
        lambda url, account: open_conversation(url, account, deadlines),
        _Memory(store),
        secret=master,
        limits=_bmc_limits(config),
    )
    login = _Login(private, config.deploy.ssh_user)
    kitchen = Kitchen(TokenMint(master), public)
    base = public_url(config, port=boot_port)
    described = network(config, base)
    segments = Segments(described, base=base)
    hosts = Hosts(store, _storage(config), remote=_remote(private), scan=_scan, now=now)
    volume_doors = VolumeDoors(store, hosts, kitchen, now=now)
    volumes = Volumes(store, hosts, kitchen, volume_doors, base_for=segments.base, now=now)
    sans = Sans(store, volume_doors.san)
    performer = Performer(
        sleep=time.sleep, login=login, login_deadline_s=config.deploy.ssh_deadline_s, volumes=volumes
    )
    locate = _locate(config.deploy.ssh_port)
    engine = Engine(store, conversations, performer, locate, now, turns)
    observations = Observations(store, now)

    loaders = Loaders(config.data_dir / "loaders")
    offers = [_offer(config, name, profile) for name, profile in config.profile.items()]
    profiles = Profiles(
        offers,
        templates=Templates.with_own(config.templates_dir),
        kitchen=kitchen,
        media=config.media_dir,
        base=base,
        defaults=_defaults(config),
    )
    budgets, limits = (
        Budgets(**config.deploy.budgets.model_dump()),
        Limits(**config.deploy.limits.model_dump()),
    )
    servers = Servers(
        store,
        engine,
        thaw=conversations.thaw,
        now=now,
        later=later.submit,
        changing=volume_doors.follow,
        changed=sans.refresh,
        budgets=budgets,
        limits=limits,
    )
    timeline = Timeline(store)
    tokens = Tokens(store, config.token_file, now)
    keys = config.key_file.parent
    secrets_made = [config.key_file, config.token_file, keys / "master.key", keys / "proof_key"]
    pairing = Pairing(described.segments if described.mode is not Mode.EXTERNAL else (), loaders)
    admission = Admission(
        store,
        engine,
        now=now,
        most=config.deploy.max_concurrent,
        stagger_s=config.deploy.power_on_stagger_s,
        tell=timeline.wake,
    )
    power = Power(store, engine, ask=login.ask, locate=locate, now=now)
    services = Services(
        servers=servers,
        deploys=Deploys(
            store,
            engine,
            profiles,
            kitchen,
            admission=admission,
            base_for=segments.base,
            now=now,
            pairing=pairing,
            volumes=volumes,
            budgets=budgets,
            limits=limits,
        ),
        power=power,
        explain=Explain(store, kitchen, loaders, segments, sans, now=now),
        storage=hosts,
        goldens=Goldens(
            store,
            hosts,
            private=[config.data_dir, keys],
            power=power.state,
            media=config.media_dir,
            work=config.data_dir,
            now=now,
        ),
        volume_doors=volume_doors,
        profiles=profiles,
        doctor=Doctor(
            store,
            engine,
            profiles,
            Place(config.data_dir, base, secrets_made),
            loaders,
            segments,
            pairing=pairing,
            wanted=_named_loaders(described) if config.dhcp.mode != "external" else (),
            storage=partial(examine_storage, hosts, volume_doors),
            is_frozen=conversations.is_frozen,
            blocked_s=conversations.blocked_s,
            now=now,
        ),
        timeline=timeline,
        tokens=tokens,
        bmc=operators,
    )
    engine.listen(servers.follow)
    engine.listen(timeline.wake)
    observations.listen(timeline.wake)

    boot = Boot(
        store,
        engine,
        observations,
        kitchen,
        now=now,
        strict_source=config.security.strict_source,
        sans=sans,
    )
    engine.listen(sans.follow)
    urls = segment_urls(config)
    doors = Doors(
        config.server.public_url, base, tuple(config.server.trusted_proxies), partial(url_for, urls=urls)
    )
    media = Media(config.media_dir, _boots(offers))
    boot_app = BootApp(boot, media, loaders, writers, doors).build()
    control = control_stack(control_app(services, _version()), _hosts(config))
    every_s = config.bmc.observe_interval_s
    watch = PowerWatch(store, engine, conversations, lambda: Round(deadlines), every_s, watchers)
    dhcp = None
    if described.mode is not Mode.EXTERNAL:
        dhcp = Dhcp(
            described,
            config.dhcp_dir,
            store,
            observations,
            now=now,
            later=later.submit,
            belongs=boot.belongs,
            strangers=boot.strangers,
        )
    files = Files(boot, media, loaders)
    readers = ThreadPoolExecutor(8, "tftp")
    tftp = None
    if config.tftp.listen:
        tftp = tftp_server(
            files,
            split_listen(config.tftp.listen),
            lambda client, asked: url_for(client, urls) or public_url(config, asked, boot_port),
            executor=readers,
            later=later.submit,
            limits=TftpLimits(max_block=config.tftp.block_size, max_window=config.tftp.window),
        )
    kept = timedelta(days=config.server.keep_observations_days)
    ticks = Embedded(
        [
            Tick("sweep", config.deploy.sweep_interval_s, engine.sweep),
            Tick("admission", admission.tick_s, admission.admit),
            Tick("observations", FLUSH_S, observations.flush),
            Tick("garbage", garbage.EVERY_S, garbage.collect),
            Tick("retention", RETENTION_EVERY_S, lambda: store.drop_observations(now() - kept)),
            *([Tick("power", watch.every_s, watch.tick)] if every_s else []),
            *([Tick("dhcp", REFRESH_S, dhcp.refresh)] if dhcp is not None else []),
        ]
    )
    return App(
        config=config,
        store=store,
        engine=engine,
        observations=observations,
        services=services,
        control=control,
        boot=boot_app,
        boot_answers=boot,
        sans=sans,
        files=files,
        ticks=ticks,
        watch=watch,
        dhcp=dhcp,
        tftp=tftp,
        token_file=tokens.first(),
        pools=(later, readers, watchers, writers, operators, turns),
    )


# -- small parts ---------------------------------------------------------------------------------------------------


class _Memory:
    """Keeps what BMCs refused in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, identity: str) -> BmcMemo | None:
        kept = self._store.bmc_memo(identity)
        return BmcMemo(kept.refused, kept.at, kept.reason) if kept is not None else None

    def save(self, identity: str, memo: BmcMemo) -> None:
        self._store.save_bmc_memo(identity, memo)


@dataclass(frozen=True, slots=True)
class _Login:
    """The proof's login with this installation's key."""

    private: str = field(repr=False)
    user: str = "root"

    def __call__(self, address: str, port: int, host_keys: Any, deadline_s: float) -> str:
        return self.ask(address, port, host_keys, deadline_s, "true")

    def ask(self, address: str, port: int, host_keys: Any, deadline_s: float, what: str) -> str:
        """Ask the forced command for something, and return what it says."""
        # paramiko takes long to import, and most processes never log in anywhere
        from baremetal.drivers.ssh import check_login

        return check_login(address, port, self.user, self.private, host_keys, deadline_s, what)


def _remote(private: str) -> OpenShell:
    """Open the shells of storage hosts elsewhere, with this installation's key."""

    def remote(said: StorageSettings) -> Shell:
        from baremetal.storage.remote import SshShell

        return SshShell(said.address, said.ssh_port, said.ssh_user, private, said.host_key)

    return remote


def _scan(address: str, port: int) -> str:
    from baremetal.storage.remote import scan_host_key

    return scan_host_key(address, port)


def _storage(config: Config) -> dict[str, StorageSettings]:
    return {name: StorageSettings.parse(name, said.model_dump()) for name, said in config.storage.items()}


def _named_loaders(described: Network) -> list[str]:
    """The loaders that our own DHCP names."""
    named = [name for one in described.segments for name in (one.loader_bios, one.loader_uefi)]
    return list(dict.fromkeys(named))


def _bmc_limits(config: Config) -> BmcLimits:
    bmc = config.bmc
    return BmcLimits(
        breaker_failures=bmc.breaker_failures,
        breaker_first_s=bmc.breaker_open_s,
        breaker_longest_s=bmc.breaker_longest_s,
        min_interval_s=bmc.min_interval_s,
        at_once=bmc.max_conversations,
    )


def _locate(port: int) -> Callable[[ServerRecord, RunRecord], LoginTarget]:
    """Say where a run's system answers by SSH, with which keys, and what it must print."""

    def locate(record: ServerRecord, run: RunRecord) -> LoginTarget:
        places = ssh_places(record.facts.vars, record.facts.ip, run.addresses)
        told = tuple((host, port if number == 22 else number) for host, number in places)
        return LoginTarget(told, run.ssh_host_keys, f"{record.id}/{run.number}")

    return locate


def _offer(config: Config, name: str, profile: ProfileConfig) -> Offer:
    own = {key: value for key, value in profile.budgets.model_dump().items() if value is not None}
    budgets = Budgets(**{**config.deploy.budgets.model_dump(), **own})
    template = profile.template if "/" in profile.template else f"{profile.family}/{profile.template}"
    return Offer(
        profile=Profile(
            name=name,
            family=Family(profile.family),
            kernel=profile.kernel,
            initrd=profile.initrd,
            template=template,
            kernel_args=profile.kernel_args,
            variables=dict(profile.vars),
            files=dict(profile.files),
        ),
        media=profile.media or name,
        title=profile.title,
        arch=profile.arch,
        method=profile.method,
        target=BootTarget.ISCSI if profile.method is Method.CLONE else profile.boot_target,
        storage=profile.storage,
        golden=profile.golden,
        volume_size=profile.volume_size,
        data_disks=profile.data_disks,
        proof=profile.proof,
        reboots=profile.reboots,
        budgets=budgets,
        limits=Limits(**config.deploy.limits.model_dump()),
    )


def _boots(offers: list[Offer]) -> dict[str, Fetch]:
    found: dict[str, Fetch] = {}
    for offer in offers:
        profile = offer.profile
        # ESXi's own loaders are what is booted there.
        kernels = (profile.kernel,) if profile.kernel else profile.media_files
        found |= {f"{offer.media}/{path}": Fetch.KERNEL for path in kernels}
        if profile.initrd:
            found[f"{offer.media}/{profile.initrd}"] = Fetch.INITRD
    return found


def _defaults(config: Config) -> dict[str, Any]:
    keys = list(config.deploy.ssh_authorized_keys)
    return ({"ssh_authorized_keys": keys} if keys else {}) | dict(config.deploy.vars)


def _proof_key(path: Path) -> tuple[str, str]:
    """Return the private and the public half of this installation's proof key, made at the first start."""
    private = read_or_make(path, lambda: generate_keypair(PROOF).private.encode()).decode()
    try:
        return private, public_half(private, PROOF)
    except Invalid as error:
        raise Unavailable(
            f"{path}: {error}",
            fix="put its backup there; or remove it: the next start makes one, for what is deployed from then on",
        ) from error


def _hosts(config: Config) -> set[str]:
    """List the names under which the control app may be called."""
    host, _ = split_listen(config.server.control_listen)
    names = {"localhost", "127.0.0.1", "::1", host, *config.server.control_hosts}
    if host in ("0.0.0.0", "::"):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower(), own_address()}
    return names


def _version() -> str:
    try:
        return version("baremetal-orchestrator")
    except PackageNotFoundError:
        return "0"
