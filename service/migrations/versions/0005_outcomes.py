"""What became of the decisions: the events told, and for each decision its story, which the misroute report reads."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TOGETHER = 2_000
_COPIED = (
    "decision_id, ticket_id, decided_at, created_at, model_version, path, language, kind, department, kind_confidence, "
    "department_confidence, action, reasons, declared_kind, channel, customer_tier, country"
)


def upgrade() -> None:
    op.add_column("decisions", sa.Column("kind_confidence", sa.Float, nullable=True))
    op.add_column("decisions", sa.Column("department_confidence", sa.Float, nullable=True))
    op.add_column("decisions", sa.Column("reasons", sa.Text, nullable=False, server_default=""))
    _read_what_was_decided()
    op.create_table(
        "outcomes",
        sa.Column("ticket_id", sa.String(200), primary_key=True),
        sa.Column("event_id", sa.String(200), primary_key=True),
        sa.Column("happened_at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("to_label", sa.String(200), nullable=True),
        sa.Column("from_label", sa.String(200), nullable=True),
        sa.Column("by_whom", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    has_reason = sa.text("reason IS NOT NULL")
    op.create_index("outcomes_with_reason", "outcomes", ["happened_at"], sqlite_where=has_reason, postgresql_where=has_reason)
    op.create_table(
        "stories",
        sa.Column("decision_id", sa.String(26), primary_key=True),
        sa.Column("ticket_id", sa.String(200), nullable=True, unique=True),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("path", sa.String(8), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(200), nullable=True),
        sa.Column("department", sa.String(200), nullable=True),
        sa.Column("kind_confidence", sa.Float, nullable=True),
        sa.Column("department_confidence", sa.Float, nullable=True),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("declared_kind", sa.String(200), nullable=True),
        sa.Column("channel", sa.String(16), nullable=True),
        sa.Column("customer_tier", sa.String(64), nullable=True),
        sa.Column("country", sa.String(2), nullable=True),
        sa.Column("text_key", sa.String(16), nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("final_kind", sa.String(200), nullable=True),
        sa.Column("final_department", sa.String(200), nullable=True),
        sa.Column("kind_by", sa.String(8), nullable=True),
        sa.Column("department_by", sa.String(8), nullable=True),
        sa.Column("placed_in", sa.String(200), nullable=True),
        sa.Column("placed_by", sa.String(8), nullable=True),
        sa.Column("answered_in", sa.String(200), nullable=True),
        sa.Column("moves", sa.Integer, nullable=False),
        sa.Column("wrong_stays", sa.Integer, nullable=False),
        sa.Column("course", sa.String(16), nullable=True),
        sa.Column("wrong_at", sa.BigInteger, nullable=True),
        sa.Column("right_at", sa.BigInteger, nullable=True),
        sa.Column("answered_at", sa.BigInteger, nullable=True),
        sa.Column("closed_at", sa.BigInteger, nullable=True),
    )
    op.execute(
        f"INSERT INTO stories ({_COPIED}, text_key, events, final_kind, final_department, moves, wrong_stays) "  # noqa: S608  # names of our own
        f"SELECT {_COPIED}, substr(text_digest, 1, 16), 0, kind, department, 0, 0 FROM decisions"
    )
    op.create_index("ix_stories_created_at", "stories", ["created_at"])  # after the rows: it is made faster so


def downgrade() -> None:
    op.drop_table("stories")
    op.drop_table("outcomes")
    with op.batch_alter_table("decisions") as decisions:
        for column in ("kind_confidence", "department_confidence", "reasons"):
            decisions.drop_column(column)


def _read_what_was_decided() -> None:
    """Fill the new columns from the stored answers."""
    decisions = sa.table(
        "decisions",
        sa.column("decision_id", sa.String),
        sa.column("decision", sa.LargeBinary),
        sa.column("kind_confidence", sa.Float),
        sa.column("department_confidence", sa.Float),
        sa.column("reasons", sa.Text),
    )
    connection = op.get_bind()
    key = decisions.c.decision_id
    last = ""
    while rows := connection.execute(sa.select(key, decisions.c.decision).where(key > last).order_by(key).limit(_TOGETHER)).all():
        last = rows[-1].decision_id
        filled = []
        for row in rows:
            decision = json.loads(row.decision)
            sure = {name: answer["confidence"] for name, answer in decision["labels"].items()}
            reasons = " ".join(decision["reasons"])
            filled.append({"id": row.decision_id, "kind": sure.get("kind"), "department": sure.get("department"), "reasons": reasons})
        connection.execute(
            sa.update(decisions)
            .where(key == sa.bindparam("id"))
            .values(kind_confidence=sa.bindparam("kind"), department_confidence=sa.bindparam("department"), reasons=sa.bindparam("reasons")),
            filled,
        )
