"""Targets by LIO, the kernel's iSCSI target, through targetcli.

Owns targetcli's ways, seen with 2.1.53: its commands come on standard input, because a secret may stand in no argument;
it then goes on after a command that failed and ends with 0 all the same, so that what came of it is read back. By
default it writes every command, secrets too, into a log that all may read, opens each new target on all addresses, and
saves whenever it ends: it runs with a home, and so with settings, of our own, and an operator's stay as they are.

What is served now is read from a dump that targetcli writes of the kernel (`lio_config.py`), then what was saved.
Saving replaces the whole file by what the kernel has now, so nothing is changed while something that was saved is not
there: just after a start of the host, while it is still being restored, that would lose other people's targets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from baremetal.errors import Invalid, StorageError, StorageErrorKind
from baremetal.failpoints import failpoints
from baremetal.storage.base import Chap, Output, Shell, Target
from baremetal.storage.lio_config import Acl, Config, Served, ServedLun, Store
from baremetal.storage.names import split_portal

ROOM = "/run/baremetal-lio"
# Debian's place for the saved configuration, and everybody else's.
SAVED = ("/etc/rtslib-fb-target/saveconfig.json", "/etc/target/saveconfig.json")
_SESSION_S = 180.0
# targetcli sets the mode of the folder that it dumps into, so this is one of its own. Its output names secrets.
_SESSION = """umask 077; rm -f "$1/now.json"; mkdir -p "$1/home" || exit 1
TARGETCLI_HOME="$1/home" targetcli >/dev/null; status=$?
cat "$1/now.json" 2>/dev/null; rm -f "$1/now.json"; exit $status
"""
# rtslib flushes a file beside this one, copies that and deletes it: until the kernel writes the copy, half a minute
# later, a loss of power takes everybody's targets. So what is read as saved is flushed first.
_READ_SAVED = """test -e "$1" || exit 44
sync "$1" "${1%/*}" && exec cat "$1"
"""
_NOT_THERE = 44
_SETTINGS = (
    "set global loglevel_file=critical color_mode=false auto_save_on_exit=false auto_add_default_portal=false "
    "auto_add_mapped_luns=false auto_enable_tpgt=true auto_cd_after_create=false"
)
# What configshell's grammar takes as a value; at anything else it stops reading, without a word.
_VALUE = re.compile(r"[A-Za-z0-9?;&*$!#,=_\\+/.<>()~@:%\[\]-]+\Z")
_PATH = re.compile(r"/[A-Za-z0-9_+.:@%=/-]+\Z")


@dataclass(frozen=True, slots=True)
class Lio:
    """See `base.Portal`. `portal`: the address that targets are served on, `ADDRESS[:PORT]`."""

    shell: Shell
    portal: str
    first_lun: int = 0
    room: str = ROOM

    def check(self) -> str:
        done = self.shell.run(["targetcli", "--version"], deadline_s=_SESSION_S)
        if done.status == 127:
            raise self._missing(done)
        self._look()
        version = re.search(r"version (\S+)", done.err + done.out)
        return f"LIO, targetcli {version[1]}" if version else "LIO"

    def targets(self) -> dict[str, Target]:
        return {iqn: served.target() for iqn, served in self._look().targets.items()}

    def agrees(self, there: Target | None, wanted: Target) -> bool:
        luns = tuple(sorted(wanted.luns, key=lambda lun: lun.number))
        # passwords too: LIO tells them
        return there == replace(wanted, initiators=tuple(sorted(wanted.initiators)), luns=luns)

    def serve(self, target: Target, ours: Sequence[str]) -> bool:
        _check_words(target)
        wanted = _wanted(target, *split_portal(self.portal))
        now, saved = self._look(), self._saved()
        known = {*ours, *(lun.path for lun in target.luns)}
        there = now.targets.get(target.iqn)
        self._assert_ours(there, known)
        leftover = now.unused(known - {lun.path for lun in target.luns})
        is_saved = saved.targets.get(target.iqn) == wanted
        if there == wanted and is_saved and not leftover:
            return False
        self._assert_restored(now, saved, known, target.iqn)
        lines = [*self._changes(now, there, wanted), *(_delete(each) for each in leftover)]
        with failpoints("acl.set"), failpoints("target.save"):
            after, said = self._session([*lines, "saveconfig"], target.chap)
        for seen, where in ((after, "serves"), (self._saved(), "saved")):
            if seen.targets.get(target.iqn) != wanted:
                raise StorageError(
                    f"targetcli on {self.shell.place} took the target {target.iqn} and {where} something else",
                    StorageErrorKind.FAILED,
                    seen=said or _difference(seen.targets.get(target.iqn), wanted),
                )
        return True

    def withdraw(self, iqn: str, ours: Sequence[str]) -> bool:
        now, saved = self._look(), self._saved()
        there = now.targets.get(iqn)
        self._assert_ours(there, set(ours))
        mine = {lun.store for lun in there.luns if lun.store} if there else set()
        stores = [each for each in now.stores if each in mine and not now.is_used(each, beside=iqn)]
        stores += [each for each in now.unused(set(ours)) if each not in stores]
        if there is None and not stores and iqn not in saved.targets:
            return False
        self._assert_restored(now, saved, set(ours), iqn)
        lines = [f"/iscsi delete {iqn}"] if there else []
        with failpoints("acl.remove"):
            after, said = self._session([*lines, *(_delete(each) for each in stores), "saveconfig"])
        for seen in (after, self._saved()):
            if iqn in seen.targets or any(each in seen.stores for each in stores):
                raise StorageError(
                    f"targetcli on {self.shell.place} did not take the target {iqn} away",
                    StorageErrorKind.FAILED,
                    seen=said or None,
                )
        return there is not None

    # -- what has to be done --

    def _changes(self, now: Config, there: Served | None, wanted: Served) -> list[str]:
        """List the commands that lead from what is there to what is wanted; the way in is opened last."""
        tpg = f"/iscsi/{wanted.iqn}/tpg1"
        have = there or Served(wanted.iqn)
        lines = [] if there else [f"/iscsi create {wanted.iqn}"]
        lines += [
            f"{tpg}/portals delete {_in_path(ip)} {port}"
            for ip, port in sorted(have.portals - wanted.portals)
        ]
        if not there or (have.authentication, have.anyone) != (wanted.authentication, wanted.anyone):
            lines.append(
                f"{tpg} set attribute authentication={int(wanted.authentication)} generate_node_acls=0"
            )
        acls = {acl.initiator: acl for acl in sorted(have.acls, key=_initiator)}
        wanted_acls = {acl.initiator: acl for acl in sorted(wanted.acls, key=_initiator)}
        for name, acl in acls.items():
            if name not in wanted_acls or not _can_become(acl, wanted_acls[name]):
                lines.append(f"{tpg}/acls delete {name}")
        acls = {name: acl for name, acl in acls.items() if f"{tpg}/acls delete {name}" not in lines}
        luns = {lun.number: lun for lun in have.luns}
        gone = sorted(have.luns - wanted.luns)
        for lun in gone:  # its mappings go with it
            lines.append(f"{tpg}/luns delete {lun.number}")
            if lun.store and lun.path not in wanted.paths and not now.is_used(lun.store, beside=wanted.iqn):
                lines.append(_delete(lun.store))
        gone_numbers = {lun.number for lun in gone}
        for lun in sorted(wanted.luns):
            if luns.get(lun.number) == lun:
                continue
            store = now.store_of(lun.path)
            if store is None:
                store = _store(lun.path)
                if store in now.stores:
                    raise self._not_ours(wanted.iqn, f"{store.name} is {now.stores[store]}")
                lines += _create(store, lun.path)
            lines.append(
                f"{tpg}/luns create storage_object=/backstores/{store.plugin}/{store.name} lun={lun.number} "
                "add_mapped_luns=false"
            )
        for name, acl in wanted_acls.items():
            lines += _acl_changes(f"{tpg}/acls", acls.get(name), acl, gone_numbers)
        lines += [
            f"{tpg}/portals create {_in_path(ip)} {port}"
            for ip, port in sorted(wanted.portals - have.portals)
        ]
        return lines if have.enabled or there is None else [*lines, f"{tpg} enable"]

    def _assert_ours(self, there: Served | None, known: set[str]) -> None:
        if there is None:
            return
        strange = next((lun for lun in there.luns if lun.path not in known), None)
        if strange is not None:
            raise self._not_ours(there.iqn, f"LUN {strange.number} is {strange.path}")
        if there.tags - {1}:
            raise self._not_ours(there.iqn, "it has other target portal groups than 1")

    def _assert_restored(self, now: Config, saved: Config, known: set[str], iqn: str) -> None:
        gone = [name for name in saved.targets if name not in now.targets and name != iqn]
        gone += [path for each, path in saved.stores.items() if each not in now.stores and path not in known]
        if gone:
            raise StorageError(
                f"LIO on {self.shell.place} does not have all that was saved, and saving now would lose it",
                StorageErrorKind.FAILED,
                seen=", ".join(sorted(gone)[:5]),
                fix="if the host was just started, wait; else restore it (systemctl restart rtslib-fb-targetctl), "
                "or let go of what is missing (targetcli saveconfig)",
            )

    # -- targetcli --

    def _look(self) -> Config:
        return self._session([])[0]

    def _saved(self) -> Config:
        for path in SAVED:
            done = self.shell.run(["sh", "-c", _READ_SAVED, "saved", path], deadline_s=_SESSION_S)
            if done.status == 0:
                return self._read(done.out, path)
            if done.status != _NOT_THERE:  # not knowing what was saved is not the same as nothing
                raise StorageError(
                    f"{path} on {self.shell.place} cannot be read and flushed",
                    StorageErrorKind.FAILED,
                    seen=done.said,
                )
        return Config()  # nothing was ever saved

    def _session(self, lines: Iterable[str], chap: Chap | None = None) -> tuple[Config, str]:
        """Run commands; return what is served then, and what targetcli complained of."""
        text = "\n".join([_SETTINGS, *lines, f"saveconfig savefile={self.room}/now.json", ""])
        done = self.shell.run(
            ["sh", "-c", _SESSION, "targetcli", self.room], stdin=text.encode(), deadline_s=_SESSION_S
        )
        said = " / ".join(line.strip() for line in done.err.splitlines() if line.strip())
        for secret in (chap.password, chap.mutual_password) if chap else ():
            said = said.replace(secret, "…") if secret else said
        if not done.out.strip():
            raise self._missing(Output(done.status, "", said))
        return self._read(done.out, f"what targetcli on {self.shell.place} serves"), said[:300]

    def _read(self, text: str, what: str) -> Config:
        try:
            return Config.read(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{what} cannot be read as a configuration of LIO", StorageErrorKind.FAILED, seen=str(error)
            ) from error

    def _not_ours(self, iqn: str, seen: str) -> StorageError:
        return StorageError(
            f"the target {iqn} on {self.shell.place} is not ours",
            StorageErrorKind.SETTINGS,
            seen=seen,
            fix="take it away, or give this server another name for its target",
        )

    def _missing(self, done: Output) -> StorageError:
        return StorageError(
            f"targetcli does not work on {self.shell.place}",
            StorageErrorKind.MISSING,
            seen=done.said,
            fix="it needs root, the packages targetcli-fb and kmod, and a kernel with target_core_mod "
            "and iscsi_target_mod",
        )


def _initiator(acl: Acl) -> str:
    return acl.initiator


def _wanted(target: Target, address: str, port: int) -> Served:
    luns = frozenset((lun.number, lun.writable) for lun in target.luns)
    return Served(
        target.iqn,
        frozenset(ServedLun(lun.number, lun.path) for lun in target.luns),
        frozenset(Acl(initiator, target.chap, luns) for initiator in target.initiators),
        frozenset({(address, port)}),
        target.chap is not None,
        enabled=True,
    )


def _can_become(have: Acl, want: Acl) -> bool:
    """Whether an ACL can be changed into another; targetcli cannot take a name or password away."""
    if have.crossed or (have.chap and not want.chap):
        return False
    return not (have.chap and want.chap and have.chap.mutual_user and not want.chap.mutual_user)


def _acl_changes(acls: str, have: Acl | None, want: Acl, gone: set[int]) -> list[str]:
    place = f"{acls}/{want.initiator}"
    lines = [] if have else [f"{acls} create {want.initiator} add_mapped_luns=false"]
    if want.chap and (have is None or have.chap != want.chap):
        chap = want.chap
        words = f"userid={chap.user} password={chap.password}"
        if chap.mutual_user:
            words += f" mutual_userid={chap.mutual_user} mutual_password={chap.mutual_password}"
        lines.append(f"{place} set auth {words}")
    mapped = {(number, may) for number, may in have.luns if number not in gone} if have else set()
    lines += [f"{place} delete {number}" for number, may in sorted(mapped - want.luns)]
    lines += [
        f"{place} create mapped_lun={number} tpg_lun_or_backstore={number} write_protect={int(not may)}"
        for number, may in sorted(want.luns - mapped)
    ]
    return lines


def _store(path: str) -> Store:
    """Name a storage object after its volume, and after its whole path, so that no two of ours have one name."""
    words = path.removesuffix("/disk.img").replace("/seed.img", ".seed").split("/")
    digest = hashlib.sha256(path.encode()).hexdigest()
    return Store("block" if path.startswith("/dev/") else "fileio", f"{words[-1]}-{digest[:6]}")


def _create(store: Store, path: str) -> list[str]:
    # the serial number that initiators see stays the same when a volume is shown again
    digest = hashlib.sha256(path.encode()).hexdigest()
    wwn = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    what = f"dev={path}" if store.plugin == "block" else f"file_or_dev={path} write_back=false"
    return [
        f"/backstores/{store.plugin} create name={store.name} {what} wwn={wwn}",
        # so that what a server frees comes back to a thin pool; refused, and no matter, where there is no discard
        f"/backstores/{store.plugin}/{store.name} set attribute emulate_tpu=1",
    ]


def _delete(store: Store) -> str:
    return f"/backstores/{store.plugin} delete {store.name}"


def _in_path(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _check_words(target: Target) -> None:
    """Refuse what targetcli would not read as one word. Raises Invalid."""
    chap = target.chap
    words = {"target name": target.iqn, **{f"initiator {name}": name for name in target.initiators}}
    if chap:
        words |= {"CHAP name": chap.user, "CHAP password": chap.password}
        if chap.mutual_user:
            words |= {"mutual CHAP name": chap.mutual_user, "mutual CHAP password": chap.mutual_password}
    bad = [what for what, word in words.items() if not _VALUE.match(word)]
    bad += [f"path {lun.path}" for lun in target.luns if not _PATH.match(lun.path)]
    if bad:
        raise Invalid(f"targetcli cannot be given this {bad[0]}", fix="use letters, digits and hyphens")


def _difference(seen: Served | None, wanted: Served) -> str:
    if seen is None:
        return "no such target"
    names = ("luns", "acls", "portals", "authentication", "anyone", "enabled")
    return "other " + ", ".join(name for name in names if getattr(seen, name) != getattr(wanted, name))
