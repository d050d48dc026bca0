"""Answer files: kickstart, preseed and the like, rendered for the machine whose run is open; else one "not found"."""

from __future__ import annotations

from baremetal import telemetry
from baremetal.errors import BaremetalError
from baremetal.failpoints import failpoints
from baremetal.lifecycle.model import Run
from baremetal.lifecycle.windows import answer_window_open, tokens_live
from baremetal.netboot.tokens import Purpose
from baremetal.service.boot.part import Part
from baremetal.store.records import ServerRecord


class AnswerFiles(Part):
    """The windows and the addresses that answer files are bound to."""

    def answer(self, token: str, file: str, address: str, base: str) -> str | None:
        """Render one answer file, or None for one uniform "not found". Reads only. Raises Unavailable."""
        scope = self._kitchen.mint.open(token, Purpose.FETCH)
        if scope is None:
            return _no_answer("forged")
        record = self._server(scope.server_id)
        if record is None or not tokens_live(record.life, scope.run) or not answer_window_open(record.life):
            return _no_answer("closed")
        run = record.life.run
        assert run is not None
        if not self._may_read(record, run, address):
            note = f"{file} refused to {address}: go was asked for from {run.go.address if run.go else 'elsewhere'}"
            self._seen(record, run.number, "refused", note, address=address, file=file)
            return _no_answer("address")
        recipe = self._recipe(record.id, run.number)
        if file not in recipe.profile.answer_files:
            return _no_answer("name")
        try:
            with failpoints("answer.serve"):
                text = self._kitchen.answer(recipe, record.id, run.number, file, base)
        except BaremetalError as error:
            self._not_rendered(record, run.number, file, error)
            return _no_answer("render")
        self._seen(record, run.number, "answer", f"{file} fetched by {address}", address=address, file=file)
        telemetry.ANSWER_FILES.labels("served").inc()
        return text

    def _may_read(self, record: ServerRecord, run: Run, address: str) -> bool:
        if run.go is not None and run.go.address:
            return address == run.go.address
        return not self._strict or address in self._sources(record, run)


def _no_answer(why: str) -> str | None:
    """Count a request that hears "not found"; why it does is nobody's business but ours."""
    telemetry.ANSWER_FILES.labels(why).inc()
    return None
