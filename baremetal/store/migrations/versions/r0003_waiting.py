"""Deploys that wait until there is room for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "waiting",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            autoincrement=True,
        ),
        sa.Column(
            "server_id",
            sa.String(),
            sa.ForeignKey("servers.id", name="fk_waiting_server_id_servers", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("frozen", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_waiting"),
        sa.UniqueConstraint("server_id", name="uq_waiting_server_id"),
        sqlite_autoincrement=True,
    )
