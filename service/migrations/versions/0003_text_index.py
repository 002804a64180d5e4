"""An index of the decisions that still have their text, so that forgetting it does not read the others."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    has_text = sa.text("body IS NOT NULL")
    op.create_index("decisions_with_text", "decisions", ["decided_at"], sqlite_where=has_text, postgresql_where=has_text)


def downgrade() -> None:
    op.drop_index("decisions_with_text", "decisions")
