"""The decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.String(26), primary_key=True),
        sa.Column("ticket_id", sa.String(200), nullable=True, unique=True),
        sa.Column("text_digest", sa.String(64), nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("path", sa.String(8), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(200), nullable=True),
        sa.Column("department", sa.String(200), nullable=True),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("declared_kind", sa.String(200), nullable=True),
        sa.Column("channel", sa.String(16), nullable=True),
        sa.Column("customer_tier", sa.String(64), nullable=True),
        sa.Column("customer_ref", sa.String(200), nullable=True),
        sa.Column("country", sa.String(2), nullable=True),
        sa.Column("decision", sa.LargeBinary, nullable=False),
        sa.Column("explanation", sa.LargeBinary, nullable=True),
        sa.Column("subject", sa.Text, nullable=True),
        sa.Column("body", sa.Text, nullable=True),
    )
    op.create_index("ix_decisions_decided_at", "decisions", ["decided_at"])
    op.create_index("ix_decisions_created_at", "decisions", ["created_at"])


def downgrade() -> None:
    op.drop_table("decisions")
