"""What an inspection found in each server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "inventories",
        sa.Column(
            "server_id",
            sa.String(),
            sa.ForeignKey("servers.id", name="fk_inventories_server_id_servers", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("found", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", name="pk_inventories"),
    )
