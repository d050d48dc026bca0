"""A virtual server: one QEMU process as the chassis that a BMC drives.

Owns the machine's command line, its process and what happens at each start of its firmware: power-on, reset and the
guest's own reboot all ask for a boot order, so that a one-time override lasts exactly one boot. Knows nothing of IPMI,
racks or what the guest installs.

Every public method returns at once; one thread per machine does the work in the order it was asked for. A guest's
reboot is caught (`-action reboot=shutdown,shutdown=pause`) and becomes a new process with the boot order of that
moment: firmware reads the order when it starts, and no later correction could be sure to beat it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from baremetal.errors import LabError
from baremetal.lab.firmware import Firmware
from baremetal.lab.lan import LanListener
from baremetal.lab.qmp import QmpClient, QmpClosed
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.ramsystem.architecture import Architecture
from baremetal.sim.chassis import OWN_ORDER, BootOrder

START_S = 60.0
_STOP_S = 10.0
_WATCH_S = 30.0
_GLANCE_S = 0.1
_PROMPT = b"for the iPXE command line"
_SERIAL_LIMIT = 20  # bytes a virtio disk can say of its serial


@dataclass(frozen=True, slots=True)
class VirtualDisk:
    """A disk of a virtual server: a sparse raw file, made when it is missing and kept over power cycles."""

    path: Path
    size_mib: int
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """Everything that makes one virtual server. `directory` holds its serial log, process id and UEFI variables.

    `own_order` is what the firmware tries without an override. `boot_url` is what DHCP answers as boot file.
    `ssh_port` is the loopback port that leads to the guest's port 22; None forwards nothing. `forwards` are further
    pairs of a loopback port and the guest's. With `tap` the machine stands on a segment of its own (`segment.py`) in
    the place of QEMU's user network, and none of these applies.
    `network_rom` is iPXE in the NIC; without it UEFI firmware netboots by itself, and BIOS cannot. `http_boot` leaves
    it UEFI HTTP boot alone, which it tries after PXE otherwise. `secure_boot` needs firmware that was found for it.
    """

    name: str
    directory: Path
    mac: str
    uuid: UUID
    serial: str
    disks: tuple[VirtualDisk, ...]
    boot_url: str
    boot_mode: BootMode = BootMode.BIOS
    architecture: Architecture = Architecture.X86_64
    own_order: tuple[BootDevice, ...] = (BootDevice.DISK, BootDevice.PXE)
    memory_mib: int | None = None
    ssh_port: int | None = None
    forwards: tuple[tuple[int, int], ...] = ()
    more_macs: tuple[str, ...] = ()
    more_arguments: tuple[str, ...] = ()
    tap: str = ""
    network_rom: bool = True
    http_boot: bool = False
    secure_boot: bool = False

    @property
    def serial_log(self) -> Path:
        """What the machine wrote to its serial port since it was made, firmware included."""
        return self.directory / "serial.log"

    @property
    def pid_file(self) -> Path:
        """Written by QEMU itself."""
        return self.directory / "qemu.pid"

    @property
    def variables(self) -> Path:
        """This machine's own copy of the UEFI variables."""
        return self.directory / "uefi-variables.fd"

    @property
    def memory(self) -> int:
        """Memory in MiB; UEFI needs more than BIOS to start at all."""
        return self.memory_mib or (512 if self.boot_mode is BootMode.UEFI else 256)


def boot_indexes(spec: MachineSpec, order: BootOrder) -> dict[str, int]:
    """Give each bootable device its place for one boot: what the override names first, then the machine's own order.

    A device the machine does not have (a CD drive, the set-up screen) changes nothing.
    """
    disks = [f"disk{number}" for number in range(len(spec.disks))]
    devices = {BootDevice.PXE: ["nic0"], BootDevice.DISK: disks}
    wanted = [device for device in (order.device, *spec.own_order) if device in devices]
    names = [name for device in dict.fromkeys(wanted) for name in devices[device]]
    return {name: place for place, name in enumerate(names)}


def command_line(
    spec: MachineSpec, firmware: Firmware, order: BootOrder, monitor: int, lan: int
) -> list[str]:
    """Return QEMU's arguments for starting this machine, stopped. `monitor` and `lan` are descriptors of sockets."""
    place = {name: f",bootindex={index}" for name, index in boot_indexes(spec, order).items()}
    arguments = [str(firmware.qemu), "-name", spec.name, "-nodefaults", "-no-user-config", "-display", "none"]
    arguments += _board(spec, firmware)
    # a present /dev/kvm may be useless, and then a guest hangs: emulation is slower and always works
    arguments += ["-accel", "tcg,tb-size=512", "-m", str(spec.memory), "-boot", "strict=on", "-S"]
    arguments += ["-action", "reboot=shutdown,shutdown=pause", "-pidfile", str(spec.pid_file)]
    arguments += ["-chardev", f"socket,id=qmp,fd={monitor}", "-mon", "chardev=qmp,mode=control"]
    arguments += [
        "-chardev",
        f"file,id=serial,append=on,path={_quote(spec.serial_log)}",
        "-serial",
        "chardev:serial",
    ]
    arguments += [
        "-uuid",
        str(spec.uuid),
        "-smbios",
        f"type=1,product=baremetal lab,serial={_quote(spec.serial)}",
    ]
    if firmware.code:
        arguments += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_quote(firmware.code)}"]
        arguments += ["-drive", f"if=pflash,unit=1,format=raw,file={_quote(spec.variables)}"]
    if spec.http_boot:
        for version in ("IPv4", "IPv6"):
            arguments += ["-fw_cfg", f"name=opt/org.tianocore/{version}PXESupport,string=n"]
    arguments += _tap(spec.tap) if spec.tap else _user_network(spec, lan)
    # the BIOS ROM is made for the modern device's id: without disable-legacy the firmware finds no ROM to run
    nic = f"virtio-net-pci,id=nic0,netdev=port1,mac={spec.mac},disable-legacy=on"
    rom = _quote(firmware.network_rom) if spec.network_rom and firmware.network_rom else ""
    arguments += ["-device", f"{nic},romfile={rom}{place.get('nic0', '')}"]
    for number, mac in enumerate(spec.more_macs, 1):
        arguments += ["-netdev", f"user,id=net{number},restrict=on"]
        arguments += ["-device", f"virtio-net-pci,id=nic{number},netdev=net{number},mac={mac},romfile="]
    for number, disk in enumerate(spec.disks):
        cache = "cache=unsafe,discard=unmap,detect-zeroes=unmap"
        arguments += ["-drive", f"if=none,id=drive{number},format=raw,{cache},file={_quote(disk.path)}"]
        device = f"virtio-blk-pci,id=disk{number},drive=drive{number},serial={_quote(disk.serial)}"
        arguments += ["-device", device + place.get(f"disk{number}", "")]
    arguments += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    return arguments + list(spec.more_arguments)


def _board(spec: MachineSpec, firmware: Firmware) -> list[str]:
    if spec.architecture is Architecture.ARM64:
        # of the processors that run Debian the cheapest to emulate: with `max` the kernel starts four times as long
        return ["-machine", "virt", "-cpu", "cortex-a57"]
    if spec.secure_boot:
        # its variables are written from system management mode alone, or the guest could switch it off
        secure = ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        return ["-machine", "q35,usb=off,smm=on", *secure, "-global", "ICH9-LPC.disable_s3=1"]
    # graphics=off puts BIOS firmware on the serial port, which is the only screen these machines have
    return ["-machine", "q35,usb=off" if firmware.code else "pc,usb=off,graphics=off"]


def _user_network(spec: MachineSpec, lan: int) -> list[str]:
    ports = [*([(spec.ssh_port, 22)] if spec.ssh_port else []), *spec.forwards]
    forward = "".join(f",hostfwd=tcp:127.0.0.1:{outer}-:{inner}" for outer, inner in ports)
    # IPv6 stays on: without a router's advertisement iPXE waits 13 s for one
    return [
        *("-netdev", f"user,id=net0,bootfile={_quote(spec.boot_url)}{forward}"),
        *("-netdev", "hubport,id=port0,hubid=0,netdev=net0", "-netdev", "hubport,id=port1,hubid=0"),
        *("-netdev", f"socket,id=lan0,fd={lan}", "-netdev", "hubport,id=port2,hubid=0,netdev=lan0"),
    ]


def _tap(name: str) -> list[str]:
    return ["-netdev", f"tap,id=port1,ifname={_quote(name)},script=no,downscript=no"]


def _quote(value: object) -> str:
    return str(value).replace(",", ",,")


class QemuMachine:
    """A `Chassis` whose machine is a QEMU process. `next_boot` is asked when the guest restarts itself.

    `next_boot` and `on_change` are called from the machine's own thread. `close` ends thread and process.
    """

    def __init__(
        self,
        spec: MachineSpec,
        firmware: Firmware,
        *,
        next_boot: Callable[[], BootOrder] = lambda: OWN_ORDER,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        for disk in spec.disks:
            if len(disk.serial.encode()) > _SERIAL_LIMIT:
                raise LabError(
                    f"the disk serial {disk.serial!r} is longer than {_SERIAL_LIMIT} bytes", server=spec.name
                )
        self.spec = spec
        self.firmware = firmware
        self.last_error = ""
        self.boots = 0
        """How often the firmware has been started since this object was made."""
        self._next_boot = next_boot
        self._on_change = on_change
        self._lock = threading.Lock()
        self._on = False
        self._epoch = 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: QmpClient | None = None
        self._lan: LanListener | None = None
        self._running_epoch = 0
        self._watch_from = 0
        self._watch_until = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"machine-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def is_on(self) -> bool:
        """Say whether the machine has power: true from the moment it was asked to start."""
        return self._on

    @property
    def pid(self) -> int | None:
        """The process id of QEMU while it runs."""
        process = self._process
        return process.pid if process else None

    def power_on(self, boot: BootOrder) -> None:
        with self._lock:
            if self._on:
                return
            self._on = True
            self._epoch += 1
            epoch = self._epoch
        self._ask(lambda: self._start(boot, epoch))

    def power_off(self) -> None:
        with self._lock:
            self._on = False
        self._ask(self._stop)

    def soft_off(self) -> None:
        """Press the ACPI power button: the guest decides, as it would on hardware."""
        self._ask(self._press_button)

    def reset(self, boot: BootOrder) -> None:
        self._ask(lambda: self._restart(boot))

    def close(self) -> None:
        """Power off and end the machine's thread. Idempotent."""
        if self._closing:
            return
        self.power_off()
        self._ask(self._finish)
        self._thread.join(START_S + 2 * _STOP_S)
        if not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    # -- the machine's own thread ------------------------------------------------------------------------------

    def _ask(self, job: Callable[[], None]) -> None:
        if self._closing:
            return
        self._jobs.put(job)
        os.write(self._wake_write, b"x")

    def _finish(self) -> None:
        self._closing = True

    def _work(self) -> None:
        while not self._closing:
            self._wait()
            try:
                while not self._closing:
                    try:
                        job = self._jobs.get_nowait()
                    except queue.Empty:
                        break
                    job()
                self._listen()
                self._listen_to_lan()
                self._skip_prompt()
            except LabError as error:
                self._fail(str(error))
            except (OSError, subprocess.SubprocessError) as error:
                self._fail(f"{type(error).__name__}: {error}")

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            if self._qmp is not None:
                selector.register(self._qmp, selectors.EVENT_READ)
            if self._lan is not None:
                selector.register(self._lan, selectors.EVENT_READ)
            watching = self._qmp is not None and time.monotonic() < self._watch_until
            for key, _ in selector.select(_GLANCE_S if watching else None):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)

    def _start(self, boot: BootOrder, epoch: int) -> None:
        if epoch != self._epoch or not self._on:
            return  # powered off again before its turn came
        self._running_epoch = epoch
        self._prepare()
        ours, theirs = socket.socketpair()
        lan, far = socket.socketpair()
        try:
            with theirs, far, (self.spec.directory / "qemu.log").open("wb") as log:
                self._process = subprocess.Popen(
                    self._guard()
                    + command_line(self.spec, self.firmware, boot, theirs.fileno(), far.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(), far.fileno()),
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            lan.close()
            raise LabError("QEMU did not start", server=self.spec.name, seen=str(error)) from error
        self._lan = LanListener(lan)
        self._qmp = QmpClient(ours)
        self._qmp.negotiate(START_S)
        serial = self.spec.serial_log
        self._watch_from = serial.stat().st_size if serial.exists() else 0
        self._watch_until = time.monotonic() + _WATCH_S
        self._qmp.execute("cont")
        self.boots += 1
        self._on_change()

    def _guard(self) -> list[str]:
        # the kernel ends QEMU when the thread that started it is gone, so that not even kill -9 leaves a guest behind
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []

    def _prepare(self) -> None:
        self.last_error = ""
        self.spec.directory.mkdir(parents=True, exist_ok=True)
        for disk in self.spec.disks:
            if not disk.path.exists():
                disk.path.parent.mkdir(parents=True, exist_ok=True)
                with disk.path.open("wb") as image:
                    image.truncate(disk.size_mib << 20)
        if self.firmware.variables and not self.spec.variables.exists():
            shutil.copyfile(self.firmware.variables, self.spec.variables)

    def _restart(self, boot: BootOrder) -> None:
        # A fresh process, not `system_reset`: SeaBIOS finds its memory as it left it and resets the machine once more,
        # which looks like a second reboot of the guest and would use up an override that was meant for this one.
        if self._process is not None:
            self._stop()
            self._start(boot, self._running_epoch)

    def _press_button(self) -> None:
        if self._qmp is not None:
            self._qmp.execute("system_powerdown")

    def _listen(self) -> None:
        if self._qmp is None:
            return
        try:
            events = self._qmp.poll()
        except QmpClosed:
            seen = self._log_tail()
            raise LabError("QEMU ended by itself", server=self.spec.name, seen=seen or None) from None
        for event in events:
            if event.name != "SHUTDOWN":
                continue
            if event.data.get("reason") == "guest-reset":
                self._restart(self._next_boot())
            else:
                self._stop()
                self._lose_power()
            break

    def _listen_to_lan(self) -> None:
        if self._lan is None or self._lan.listen():
            return
        self._leave_lan()
        if self._qmp is not None:
            self._qmp.execute(
                "netdev_del", id="lan0"
            )  # or every frame of the guest would still be offered to us

    def _leave_lan(self) -> None:
        lan, self._lan = self._lan, None
        if lan is not None:
            lan.close()

    def _skip_prompt(self) -> None:
        """Press a key at iPXE's two-second question whether somebody wants its command line."""
        if self._qmp is None or time.monotonic() >= self._watch_until or not self.spec.serial_log.exists():
            return
        with self.spec.serial_log.open("rb") as log:
            log.seek(self._watch_from)
            if _PROMPT not in log.read():
                return
        self._watch_until = 0.0
        self._qmp.execute("send-key", keys=[{"type": "qcode", "data": "spc"}])

    def _stop(self) -> None:
        process, self._process = self._process, None
        qmp, self._qmp = self._qmp, None
        self._leave_lan()
        if qmp is not None:
            qmp.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)  # power loss: nothing in the guest gets a last word
            process.wait(_STOP_S)
            self.spec.pid_file.unlink(missing_ok=True)
            self._on_change()

    def _lose_power(self) -> None:
        with self._lock:
            if self._running_epoch == self._epoch:
                self._on = False
        self._on_change()

    def _fail(self, reason: str) -> None:
        if self._qmp is not None or self._process is not None:
            tail = self._log_tail()
            self._stop()
            reason = reason if not tail or tail in reason else f"{reason} ({tail})"
        self.last_error = reason
        self._lose_power()

    def _log_tail(self) -> str:
        try:
            lines = (self.spec.directory / "qemu.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""
