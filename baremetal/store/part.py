"""What every part of the store stands on. The parts are split by noun; `store.py` puts them together."""

from __future__ import annotations

from baremetal.store.database import Database
from baremetal.store.secrets import Secrets


class Part:
    """One noun's share of the store's methods, on the one database."""

    def __init__(self, database: Database, secrets: Secrets) -> None:
        self._db = database
        self._secrets = secrets
