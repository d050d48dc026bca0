"""What a run froze, in a table of its own: tens of kilobytes that never change, beside a record that often does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "frozen",
        sa.Column(
            "server_id",
            sa.String(),
            sa.ForeignKey("servers.id", name="fk_frozen_server_id_servers", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", "run", name="pk_frozen"),
    )
    op.execute("INSERT INTO frozen (server_id, run, text) SELECT server_id, number, frozen FROM runs")
    op.drop_column("runs", "frozen")
