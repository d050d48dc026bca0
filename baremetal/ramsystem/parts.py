"""Parts of a small system: what Debian's packages brought, and its files laid out in a tree.

Owns busybox, kernel modules, programs with their libraries, scripts and accounts: where each of them stands.
Deliberately unknown: where the packages come from, which system a tree becomes, and how it is packed.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.ramsystem.architecture import Architecture

SCRIPTS = Path(__file__).parent / "system"
_LIBRARY_NAME = re.compile(rb"(ld-linux-[\w.-]+|lib[\w+.-]+?\.so[.\d]*)\0")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the packages brought: all of them unpacked in `root`, the kernel's modules, what busybox can be called.

    `foreign`: none of it runs on this machine.
    """

    architecture: Architecture
    foreign: bool
    root: Path
    modules: dict[str, Path]
    applets: tuple[str, ...]

    @classmethod
    def of(cls, architecture: Architecture, root: Path, lister: Path | None = None) -> Parts:
        """Look through unpacked packages. `lister`: a busybox of this machine's own, where those are of another."""
        modules = {path.name.split(".")[0]: path for path in (root / "lib/modules").rglob("*.ko*")}
        return cls(architecture, lister is not None, root, modules, list_applets(lister or root))


def find_busybox(root: Path) -> Path:
    """Find busybox among unpacked packages. Raises LabError."""
    return _first(root, ("usr/bin/busybox", "bin/busybox"))


def list_applets(root: Path) -> tuple[str, ...]:
    """Name the places that busybox wants to be linked from."""
    command = [str(find_busybox(root)), "--list-full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return tuple(done.stdout.split())


def lay_out_busybox(folder: Path, parts: Parts) -> None:
    """Put busybox and a link for each of its commands into an empty tree."""
    for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(find_busybox(parts.root), folder / "bin/busybox")
    (folder / "bin/busybox").chmod(0o755)
    for name in parts.applets:
        link = folder / name
        if not link.parent.is_dir() or link.exists():
            continue
        link.symlink_to("/bin/busybox")
    (folder / "bin/sh").unlink(missing_ok=True)
    (folder / "bin/sh").symlink_to("/bin/busybox")


def copy_modules(names: Iterable[str], parts: Parts, folder: Path, loaded: Collection[str] = ()) -> list[str]:
    """Copy modules with all they depend on, uncompressed; return the file names in loading order.

    What this kernel has built in is left out, and so are the files `loaded`, which others load before.
    """
    folder.mkdir(parents=True)
    order: list[str] = []
    built_in = {Path(line).stem for line in _read_built_in(parts.root)}

    def add(name: str) -> None:
        if f"{name}.ko" in order or f"{name}.ko" in loaded:
            return
        path = parts.modules.get(name) or parts.modules.get(name.replace("_", "-"))
        if path is None and name in built_in:
            return
        if path is None:
            raise LabError(f"the kernel package has no module {name}")
        data = read_module(path)
        for needed in needs_of(data):
            add(needed)
        (folder / f"{name}.ko").write_bytes(data)
        order.append(f"{name}.ko")

    for name in names:
        add(name)
    return order


def read_module(path: Path) -> bytes:
    """Read a kernel module, uncompressed: not every kernel can do that itself."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def needs_of(module: bytes) -> list[str]:
    """Name the modules that this one needs, by its own word (.modinfo, `depends`)."""
    found = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def copy_with_libraries(parts: Parts, tool: str, folder: Path) -> None:
    """Copy a program with every library of the packages that it names."""
    target = folder / tool
    shutil.copyfile(parts.root / tool, target)
    target.chmod(0o755)
    libraries = f"lib/{parts.architecture.gnu}-linux-gnu"
    # where every program of the architecture looks for its dynamic loader
    loaders = "lib64" if parts.architecture is Architecture.X86_64 else "lib"
    available = {
        path.name: path
        for path in sorted(parts.root.rglob("*.so*"))
        if path.parent.name in (Path(libraries).name, "lib64", "lib")
    }
    waiting = [target]
    while waiting:
        # A name in the dynamic string table that one of the packages provides is a library needed.
        for match in _LIBRARY_NAME.finditer(waiting.pop().read_bytes()):
            name = match[1].decode()
            source = available.get(name)
            if source is None:
                continue
            copy = folder / (loaders if name.startswith("ld-linux") else libraries) / name
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.resolve() if source.is_symlink() else source, copy)
            copy.chmod(0o755)
            waiting.append(copy)
    if parts.foreign:
        return  # its loader runs in the guest only, which then shows what is lacking
    loader = next((folder / loaders).glob("ld-linux*"))
    check = [str(loader), "--library-path", str(folder / libraries), "--list", str(target)]
    listing = subprocess.run(check, capture_output=True, text=True, timeout=20, check=False)
    # what this machine happens to have itself does not count
    elsewhere = [
        line for line in listing.stdout.splitlines() if "=> /" in line and f"=> {folder}/" not in line
    ]
    if listing.returncode != 0 or "not found" in listing.stdout or elsewhere:
        seen = listing.stderr or "\n".join(elsewhere) or listing.stdout
        raise LabError(f"{tool} lacks a library", seen=seen.strip())


def install(folder: Path, scripts: Mapping[str, str], own: Path = SCRIPTS) -> None:
    """Put scripts in their places, executable: those of the folder `own`, else the ones that all systems share."""
    for script, place in scripts.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        source = own / script
        shutil.copyfile(source if source.exists() else SCRIPTS / script, target)
        target.chmod(0o755)


def write_accounts(folder: Path, hostname: str, name: str) -> None:
    """Let root in by key only; `name` is what the system calls itself."""
    for path, text in {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/shells": "/bin/sh\n",
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/os-release": f'ID={hostname}\nNAME="{name}"\n',
    }.items():
        (folder / path).write_text(text)
    shadow = folder / "etc/shadow"
    shadow.write_text("root:*:20000:0:99999:7:::\n")
    shadow.chmod(0o600)


def _read_built_in(root: Path) -> list[str]:
    return only(root / "lib/modules", "*/modules.builtin").read_text().splitlines()


def only(folder: Path, pattern: str) -> Path:
    """Find the one file of its kind in a package. Raises LabError for none or several."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"expected one {pattern} in the kernel package, found {len(found)}")
    return found[0]


def _first(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    raise LabError(f"the busybox package has none of {', '.join(names)}")
