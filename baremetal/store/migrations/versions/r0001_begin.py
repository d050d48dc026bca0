"""The first schema: servers, their runs and logs, the history, and what must survive a restart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "servers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("life", sa.String(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("reserved_until", sa.BigInteger()),
        sa.Column("reserved_fence", sa.BigInteger()),
        sa.Column("bmc_identity", sa.String(), nullable=False),
        sa.Column("uuid", sa.String()),
        sa.Column("serial", sa.String()),
        sa.Column("facts", sa.String(), nullable=False),
        sa.Column("power_state", sa.String(), nullable=False),
        sa.Column("power_seen_at", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_servers"),
        sa.UniqueConstraint("name", name="uq_servers_name"),
        sa.UniqueConstraint("bmc_identity", name="uq_servers_bmc_identity"),
        sa.UniqueConstraint("uuid", name="uq_servers_uuid"),
    )
    op.create_index("ix_servers_state", "servers", ["state"])
    op.create_index("ix_servers_due_at", "servers", ["due_at"])
    op.create_index("ix_servers_serial", "servers", ["serial"])

    op.create_table(
        "macs",
        sa.Column("mac", sa.String(), nullable=False),
        _server("macs"),
        sa.PrimaryKeyConstraint("mac", name="pk_macs"),
    )
    op.create_index("ix_macs_server_id", "macs", ["server_id"])

    op.create_table(
        "credentials",
        _server("credentials"),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", name="pk_credentials"),
    )

    op.create_table(
        "runs",
        _server("runs"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("frozen", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("disk", sa.String(), nullable=False),
        sa.Column("disks", sa.String(), nullable=False),
        sa.Column("ssh_host_keys", sa.String(), nullable=False),
        sa.Column("addresses", sa.String(), nullable=False),
        sa.Column("accepted", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", "number", name="pk_runs"),
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_runs_open", "runs", ["server_id"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )

    op.create_table(
        "logs",
        _server("logs"),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", "run", "name", name="pk_logs"),
    )

    op.create_table(
        "history",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("server_id", sa.String(), nullable=False),
        sa.Column("server", sa.String(), nullable=False),
        sa.Column("run", sa.Integer()),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("from_state", sa.String()),
        sa.Column("to_state", sa.String()),
        sa.Column("outcome", sa.String()),
        sa.Column("fence", sa.BigInteger()),
        sa.Column("event", sa.String()),
        sa.Column("data", sa.String(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_history_server_id_id", "history", ["server_id", "id"])
    observed = sa.text("kind = 'observation'")
    op.create_index(
        "ix_history_observed", "history", ["at"], sqlite_where=observed, postgresql_where=observed
    )

    op.create_table(
        "unknowns",
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("arch", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("mac", name="pk_unknowns"),
    )
    op.create_index("ix_unknowns_last_seen_at", "unknowns", ["last_seen_at"])

    op.create_table(
        "tokens",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
    op.create_table(
        "bmc_memos",
        sa.Column("identity", sa.String(), nullable=False),
        sa.Column("refused", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("identity", name="pk_bmc_memos"),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )


def _server(table: str) -> sa.Column[str]:
    return sa.Column(
        "server_id",
        sa.String(),
        sa.ForeignKey("servers.id", name=f"fk_{table}_server_id_servers", ondelete="CASCADE"),
        nullable=False,
    )
