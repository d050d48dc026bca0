"""Targets by tgt, the user-space iSCSI target, through tgtadm.

Owns tgt's ways: disks start at LUN 1 (0 is its controller), nothing survives a restart of tgtd, a file that was
replaced stays open, and tgtadm takes a password as an argument only. Accounts are therefore made by a few lines of Perl
(which tgt's own tgt-admin needs too) that say to tgtd what tgtadm would, with the secret on standard input.

tgt tells no passwords, so an account counts as right by its name, which ends with a digest of its secret (`chap.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.failpoints import failpoints
from baremetal.storage.base import Chap, Lun, Output, Shell, Target

SOCKET = "/var/run/tgtd/socket.0"
# struct tgtadm_req of usr/tgtadm.h: mode ACCOUNT 7, op NEW 0, then the parameters as one string
_ACCOUNT = rb"""use strict; use warnings; use IO::Socket::UNIX;
my ($path, $user, $password) = map { chomp; $_ } (scalar <DATA>, scalar <DATA>, scalar <DATA>);
my $to = IO::Socket::UNIX->new(Peer => $path) or die "no tgtd at $path: $!\n";
my $said = "user=$user,password=$password\0";
my $head = pack("l l a64 L l Q Q L6", 7, 0, "iscsi", 120 + length $said, 0, 0, 0, (0) x 6);
print {$to} $head, $said; $to->flush;
read($to, my $answer, 8) == 8 or die "tgtd hung up\n";
my ($error) = unpack("L", $answer);
die "tgtd says error $error\n" if $error;
"""


@dataclass(frozen=True, slots=True)
class Tgt:
    """See `base.Portal`. `socket`: tgtd's control socket, its control number after the last dot."""

    shell: Shell
    socket: str = SOCKET
    first_lun: int = 1

    def check(self) -> str:
        done = self._tgtadm("system", "show")
        if done.status != 0:
            raise StorageError(
                f"no tgtd answers on {self.shell.place}",
                StorageErrorKind.MISSING,
                seen=done.said,
                fix="install and start it: apt-get install tgt",
            )
        version = re.search(r"version (\S+)", self._run("--help").out)
        return f"tgt {version[1]}" if version else "tgt"

    def targets(self) -> dict[str, Target]:
        return {target.iqn: target for _, target in self._shown()}

    def agrees(self, there: Target | None, wanted: Target) -> bool:
        return there == _as_shown(wanted)

    def serve(self, target: Target, ours: Sequence[str]) -> bool:
        shown = self._shown()
        tid = _tid(shown, target.iqn)
        there = dict(shown).get(tid) if tid else None
        if there is not None:
            _assert_ours(there, [*ours, *(lun.path for lun in target.luns)], self.shell.place)
        if there == _as_shown(target):
            return False
        if tid is None:
            tid = 1 + max((number for number, _ in shown), default=0)
            self._must("target", "new", tid, "--targetname", target.iqn)
        accounts = _accounts(target.chap)
        if there is not None and any(account not in accounts for account in _accounts(there.chap)):
            # Between two accounts there is none, and without one a name would be enough: nobody may pass meanwhile.
            for initiator in there.initiators:
                self._must("target", "unbind", tid, "--initiator-name", initiator)
            there = replace(there, initiators=())
        self._serve_luns(tid, there, target)
        with failpoints("acl.set"):
            self._serve_accounts(tid, there, target.chap)
            self._serve_initiators(tid, there, target)
        with failpoints("target.save"):
            seen = dict(self._shown()).get(tid)
        if seen != _as_shown(target):
            raise StorageError(
                f"tgtd on {self.shell.place} took the target {target.iqn} and shows something else",
                StorageErrorKind.FAILED,
                seen=str(seen)[:300],
            )
        return True

    def withdraw(self, iqn: str, ours: Sequence[str]) -> bool:
        shown = self._shown()
        tid = _tid(shown, iqn)
        if tid is None:
            return False
        there = dict(shown)[tid]
        _assert_ours(there, ours, self.shell.place)
        with failpoints("acl.remove"):
            # who is logged in keeps a session until the target goes; nobody new comes in between
            for initiator in there.initiators:
                self._must("target", "unbind", tid, "--initiator-name", initiator)
        # while the target still names them, or they are forgotten by who is cut off here
        self._drop_accounts(_accounts(there.chap))
        self._must("target", "delete", tid, "--force")
        return True

    # -- the parts of a target --

    def _serve_luns(self, tid: int, there: Target | None, wanted: Target) -> None:
        have = {lun.number: lun for lun in there.luns} if there else {}
        want = {lun.number: lun for lun in wanted.luns}
        for number, lun in have.items():
            if want.get(number) != lun:
                self._must("logicalunit", "delete", tid, "--lun", str(number))
        for number, lun in want.items():
            if have.get(number) == lun:
                continue
            self._must("logicalunit", "new", tid, "--lun", str(number), "--backing-store", lun.path)
            serial = hashlib.sha256(lun.path.encode()).hexdigest()[:16]
            params = f"vendor_id=BAREMETL,product_id=volume,scsi_sn={serial},scsi_id=bm-{serial}"
            params += "" if lun.writable else ",readonly=1"
            self._must("logicalunit", "update", tid, "--lun", str(number), "--params", params)

    def _serve_accounts(self, tid: int, there: Target | None, chap: Chap | None) -> None:
        have = _accounts(there.chap) if there else ()
        want = _accounts(chap)
        self._drop_accounts([account for account in have if account not in want])
        known = self._tgtadm("account", "show").out.split()
        for account in want:
            if account in have:
                continue
            if account.name not in known:
                lines = f"{self.socket}\n{account.name}\n{account.password}\n"
                # perl takes its program up to __END__, and leaves the rest to be read
                done = self.shell.run(["perl", "-"], stdin=_ACCOUNT + b"__END__\n" + lines.encode())
                if done.status != 0:
                    raise self._failed(f"making the account {account.name}", done)
            self._must("account", "bind", tid, "--user", account.name, *(["--outgoing"] * account.outgoing))

    def _serve_initiators(self, tid: int, there: Target | None, wanted: Target) -> None:
        have = there.initiators if there else ()
        for initiator in wanted.initiators:
            if initiator not in have:
                self._must("target", "bind", tid, "--initiator-name", initiator)
        for initiator in have:
            if initiator not in wanted.initiators:
                self._must("target", "unbind", tid, "--initiator-name", initiator)

    def _drop_accounts(self, accounts: Sequence[_Account]) -> None:
        """Delete accounts, bound as they are; the target's own first, which is found by the initiator's. Idempotent."""
        for account in reversed(accounts):
            done = self._tgtadm("account", "delete", None, "--user", account.name)
            if done.status != 0 and "can't find the account" not in done.err:
                raise self._failed(f"deleting the account {account.name}", done)

    # -- tgtadm --

    def _shown(self) -> list[tuple[int, Target]]:
        done = self._tgtadm("target", "show")
        if done.status != 0:
            raise self._failed("asking tgtd for its targets", done)
        return read_targets(done.out)

    def _tgtadm(self, mode: str, op: str, tid: int | None = None, *more: str) -> Output:
        named = ["--tid", str(tid)] if tid is not None else []
        return self._run("--lld", "iscsi", "--mode", mode, "--op", op, *named, *more)

    def _run(self, *argv: str) -> Output:
        path, _, control = self.socket.rpartition(".")
        return self.shell.run(["env", f"TGT_IPC_SOCKET={path}", "tgtadm", "-C", control, *argv])

    def _must(self, mode: str, op: str, tid: int, *more: str) -> None:
        done = self._tgtadm(mode, op, tid, *more)
        if done.status != 0:
            raise self._failed(f"tgtadm, {op} {mode} {tid}", done)

    def _failed(self, what: str, done: Output) -> StorageError:
        silent = "Transport endpoint is not connected" in done.err or "can't connect" in done.err
        return StorageError(
            f"{what} on {self.shell.place} failed"
            if not silent
            else f"no tgtd answers on {self.shell.place}",
            StorageErrorKind.UNREACHABLE if silent else StorageErrorKind.FAILED,
            seen=done.said,
        )


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    password: str = field(repr=False)
    outgoing: bool

    def __eq__(self, other: object) -> bool:  # tgt tells no passwords; the name ends with a digest of it
        return isinstance(other, _Account) and (self.name, self.outgoing) == (other.name, other.outgoing)

    def __hash__(self) -> int:
        return hash((self.name, self.outgoing))


def _accounts(chap: Chap | None) -> tuple[_Account, ...]:
    if chap is None:
        return ()
    one = _Account(chap.user, chap.password, False)
    return (one, _Account(chap.mutual_user, chap.mutual_password, True)) if chap.mutual_user else (one,)


def _tid(shown: Sequence[tuple[int, Target]], iqn: str) -> int | None:
    return next((number for number, target in shown if target.iqn == iqn), None)


def _as_shown(target: Target) -> Target:
    """Return what tgt would show of a target: in its order, and without passwords."""
    chap = target.chap and Chap(target.chap.user, "", target.chap.mutual_user)
    luns = tuple(sorted(target.luns, key=lambda lun: lun.number))
    return Target(target.iqn, tuple(sorted(target.initiators)), luns, chap)


def _assert_ours(there: Target, ours: Sequence[str], place: str) -> None:
    strange = next((lun for lun in there.luns if lun.path not in ours), None)
    if strange is not None:
        raise StorageError(
            f"the target {there.iqn} on {place} is not ours",
            StorageErrorKind.SETTINGS,
            seen=f"LUN {strange.number} is {strange.path}",
            fix="take it away, or give this server another name for its target",
        )


def read_targets(text: str) -> list[tuple[int, Target]]:
    """Read what `tgtadm --mode target --op show` prints, each target with its number."""
    found = []
    for part in re.split(r"^(?=Target \d+: )", text, flags=re.MULTILINE)[1:]:
        head, _, rest = part.partition("\n")
        number, iqn = re.fullmatch(r"Target (\d+): (.*)", head).groups()  # type: ignore[union-attr]
        sections = _split(rest, 4)
        luns = tuple(
            Lun(int(name.removeprefix("LUN: ")), values["Backing store path"], values["Readonly"] == "No")
            for name, lines in _split("\n".join(sections.get("LUN information:", [])), 8).items()
            if (values := dict(_pair(line) for line in lines))["Type"] != "controller"
        )
        accounts = [line.strip() for line in sections.get("Account information:", [])]
        users = [name for name in accounts if not name.endswith(" (outgoing)")]
        outgoing = [name.removesuffix(" (outgoing)") for name in accounts if name not in users]
        chap = Chap(users[0], "", outgoing[0] if outgoing else "") if users else None
        initiators = sorted(line.strip() for line in sections.get("ACL information:", []))
        found.append((int(number), Target(iqn, tuple(initiators), luns, chap)))
    return found


def _split(text: str, indent: int) -> dict[str, list[str]]:
    """Split indented lines into sections, each under its less indented heading."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if len(line) - len(line.lstrip(" ")) <= indent:
            lines = sections.setdefault(line.strip(), [])
        else:
            lines.append(line)
    return sections


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.strip().partition(": ")
    return key, value
