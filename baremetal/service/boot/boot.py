"""What machines are told while they netboot: boot scripts, answer files, replies to their call-backs.

Owns putting the parts together, and what machines fetch beside them: kernels, initrds, files by TFTP. Deliberately
unknown: HTTP and TFTP.
"""

from __future__ import annotations

from baremetal.errors import BaremetalError
from baremetal.lifecycle.model import Fetch
from baremetal.service.boot.answer_files import AnswerFiles
from baremetal.service.boot.callbacks import Callbacks
from baremetal.service.boot.requests import FileRequest
from baremetal.service.boot.scripts import Scripts
from baremetal.store.records import ServerRecord


class Boot(Scripts, AnswerFiles, Callbacks):
    """The machines' side of the service. All of it may be called from several threads."""

    def fetched(self, server: str, number: int, what: Fetch, file: str, address: str) -> None:
        """Note that a run's machine fetched its kernel or initrd. Best effort."""
        try:
            record = self._store.find_server(server)
        except BaremetalError:
            return
        if record is not None and record.life.run is not None and record.life.run.number == number:
            self._seen(
                record, number, str(what), f"{what} {file} fetched by {address}", address=address, file=file
            )

    def saw_file(self, request: FileRequest) -> None:
        """Note a file that was asked for by its name, once it is known whose machine that was. Best effort."""
        self._requests.saw(request)

    def belongs(self, address: str, record: ServerRecord) -> None:
        """Hear whose machine has an address: what it asks for by TFTP goes to that server's timeline."""
        self._requests.belongs(address, record)
