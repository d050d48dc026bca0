"""The ticks of a single process: a small, fixed set of periodic jobs, in memory.

APScheduler only ticks. What is due, when, and for whom is in the store; a missed or doubled tick changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from baremetal.errors import BaremetalError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tick:
    name: str
    every_s: float
    call: Callable[[], object]


class Embedded:
    """Run ticks in a background scheduler until `stop`. A tick that raises is logged, and comes again."""

    def __init__(self, ticks: list[Tick]) -> None:
        self._scheduler = BackgroundScheduler(timezone="UTC")
        for tick in ticks:
            self._scheduler.add_job(
                _guarded(tick),
                "interval",
                seconds=tick.every_s,
                id=tick.name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Stop ticking and wait for the tick under way. Idempotent."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


def _guarded(tick: Tick) -> Callable[[], None]:
    def run() -> None:
        try:
            tick.call()
        except BaremetalError as error:
            log.warning("tick failed", tick=tick.name, code=error.code, error=str(error))
        except Exception:
            log.exception("tick broke", tick=tick.name)

    return run
