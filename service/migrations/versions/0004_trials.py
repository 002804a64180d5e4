"""Where the service tries whether it can store again, after it could not."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table("storage_trials", sa.Column("filler", sa.LargeBinary, nullable=False))


def downgrade() -> None:
    op.drop_table("storage_trials")
