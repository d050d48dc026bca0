"""What a plain file name means to a machine that can ask for nothing else: names over TFTP.

Owns the order in which a name is looked for: a loader's configuration, a file of the media, a loader's program. No
path of a request reaches the file system but through media.py and loaders.py. Deliberately unknown: the protocol.
"""

from __future__ import annotations

from pathlib import Path

from baremetal.lifecycle.model import Fetch
from baremetal.service.boot.boot import Boot
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.requests import FileRequest
from baremetal.service.media.loaders import Loaders
from baremetal.service.media.media import Media

_MEDIA = "media/"


class Files:
    """Resolves names. May wait for the database; for threads."""

    def __init__(self, boot: Boot, media: Media, loaders: Loaders) -> None:
        self._boot = boot
        self._media = media
        self._loaders = loaders

    def saw(self, request: FileRequest) -> None:
        """Note how a request ended."""
        self._boot.saw_file(request)

    def resolve(self, name: str, client: str, base: str) -> bytes | Path | None:
        """Say what a machine that asks by TFTP gets under a name: bytes, a file, or nothing. Never raises.

        `name` is relative, with forward slashes and without `..`; `base` is the boot app's URL for this machine.
        """
        machine = Machine.by_name(name, client, base, http=False)
        if machine is not None:
            text = self._boot.tell(machine)
            return None if text is None else text.encode()
        if name.startswith(_MEDIA):
            found = self._media.find(name.removeprefix(_MEDIA))
            if found is None:
                return None
            if found.run and found.what is not Fetch.MEDIA:
                self._boot.fetched(found.server, found.run, found.what, found.name, client)
            return found.path
        program = self._loaders.find(name)
        return None if program is None else program.path
