"""Where alembic finds the connection that `migrate.py` opened, and the tables."""

from __future__ import annotations

from alembic import context

from baremetal.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
