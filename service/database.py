"""The tables, and the engine that reaches them: SQLite by default, PostgreSQL by its URL."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

HEAD = "0005"  # the newest migration; a test holds it to the folder
MIGRATIONS = Path(__file__).resolve().parent / "migrations"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MIGRATION_SECONDS = 600  # how long a process that starts waits for another's migration
_MIGRATING = 0x706F696E  # the lock's number in PostgreSQL, one that others are unlikely to have taken
SIMULATED = "simulated-"  # what the model versions begin with whose decisions `pointsman demo` made up
BUSY_SECONDS = 0.5  # how long a statement waits for a lock: less than a request waits for its decision

metadata = sa.MetaData()


class Moment(sa.types.TypeDecorator[datetime]):
    """A moment as microseconds since 1970 in UTC: the same integer in every database, to sort, to subtract and to cut into days."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else EPOCH + timedelta(microseconds=value)


def microseconds(moment: datetime) -> int:
    """An aware moment as `Moment` stores it."""
    return (moment - EPOCH) // _MICROSECOND


decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("decision_id", sa.String(26), primary_key=True),
    sa.Column("ticket_id", sa.String(200), nullable=True, unique=True),
    sa.Column("text_digest", sa.String(64), nullable=False),
    sa.Column("decided_at", Moment, nullable=False, index=True),
    sa.Column("created_at", Moment, nullable=False, index=True),  # the ticket's own, else decided_at
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("path", sa.String(8), nullable=False),
    sa.Column("language", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(200), nullable=True),
    sa.Column("department", sa.String(200), nullable=True),
    sa.Column("kind_confidence", sa.Float, nullable=True),
    sa.Column("department_confidence", sa.Float, nullable=True),
    sa.Column("action", sa.String(8), nullable=False),
    sa.Column("reasons", sa.Text, nullable=False, server_default=""),  # codes, separated by spaces
    sa.Column("declared_kind", sa.String(200), nullable=True),
    sa.Column("channel", sa.String(16), nullable=True),
    sa.Column("customer_tier", sa.String(64), nullable=True),
    sa.Column("customer_ref", sa.String(200), nullable=True),
    sa.Column("country", sa.String(2), nullable=True),
    sa.Column("decision", sa.LargeBinary, nullable=False),  # the answer as JSON, without the explanation
    # What is private and goes after POINTSMAN_KEEP_TEXT_DAYS:
    sa.Column("explanation", sa.LargeBinary, nullable=True),
    sa.Column("subject", sa.Text, nullable=True),
    sa.Column("body", sa.Text, nullable=True),
)
# Forgetting looks at what still has its text, not at all the years again.
sa.Index("decisions_with_text", decisions.c.decided_at, sqlite_where=decisions.c.body.is_not(None), postgresql_where=decisions.c.body.is_not(None))

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("ticket_id", sa.String(200), primary_key=True),  # decided or not yet
    sa.Column("event_id", sa.String(200), primary_key=True),
    sa.Column("happened_at", Moment, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),  # assigned, moved, kind_corrected, answered, closed
    sa.Column("to_label", sa.String(200), nullable=True),
    sa.Column("from_label", sa.String(200), nullable=True),
    sa.Column("by_whom", sa.String(8), nullable=False),  # person, rule, router
    sa.Column("reason", sa.Text, nullable=True),  # private, as the tickets' text is
    sa.Column("digest", sa.String(64), nullable=False),  # SHA-256 of what was sent: a repeat is known by it when the reason is forgotten
    sa.Column("received_at", Moment, nullable=False),
)

# Forgetting looks at the reasons that are left, as it does for text.
sa.Index(
    "outcomes_with_reason",
    outcomes.c.happened_at,
    sqlite_where=outcomes.c.reason.is_not(None),
    postgresql_where=outcomes.c.reason.is_not(None),
)

# What the misroute report reads: for each decision a narrow row of what was decided and what became of it, kept in step by whoever stores a
# decision or an event of its ticket (`service.outcomes.repository`).
stories = sa.Table(
    "stories",
    metadata,
    sa.Column("decision_id", sa.String(26), primary_key=True),
    # Of the decision, as it stands there:
    sa.Column("ticket_id", sa.String(200), nullable=True, unique=True),
    sa.Column("decided_at", Moment, nullable=False),
    sa.Column("created_at", Moment, nullable=False, index=True),
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
    sa.Column("text_key", sa.String(16), nullable=False),  # the start of its text's digest: tickets of the same text have the same
    # Of the outcomes, see `service.outcomes.story.Story`:
    sa.Column("events", sa.Integer, nullable=False, default=0),
    sa.Column("final_kind", sa.String(200), nullable=True),
    sa.Column("final_department", sa.String(200), nullable=True),
    sa.Column("kind_by", sa.String(8), nullable=True),
    sa.Column("department_by", sa.String(8), nullable=True),
    sa.Column("placed_in", sa.String(200), nullable=True),
    sa.Column("placed_by", sa.String(8), nullable=True),
    sa.Column("answered_in", sa.String(200), nullable=True),
    sa.Column("moves", sa.Integer, nullable=False, default=0),
    sa.Column("wrong_stays", sa.Integer, nullable=False, default=0),
    sa.Column("course", sa.String(16), nullable=True),  # straight, overruled, moved, bounced
    sa.Column("wrong_at", Moment, nullable=True),
    sa.Column("right_at", Moment, nullable=True),
    sa.Column("answered_at", Moment, nullable=True),
    sa.Column("closed_at", Moment, nullable=True),  # null while it is open: it is judged while this is not
)

trials = sa.Table("storage_trials", metadata, sa.Column("filler", sa.LargeBinary, nullable=False))

keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the key
    sa.Column("scopes", sa.String(200), nullable=False),  # separated by spaces
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("revoked_at", Moment, nullable=True),
)


def connect(url: str) -> Engine:
    """An engine that never waits long: a database that is away is an answer too."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        milliseconds = int(BUSY_SECONDS * 1000)
        options = f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds} -c timezone=UTC"
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 1,
                "options": options,
                "client_encoding": "utf8",
                "tcp_user_timeout": 2000,  # a host that vanished without a word is given up, not waited for a quarter of an hour
            },
        )
    raise ValueError("POINTSMAN_DATABASE_URL: expected sqlite:///... or postgresql://...")


def sqlite_file(engine: Engine) -> Path | None:
    """The file that holds the database, None where that is a server, or memory."""
    name = engine.url.database
    return Path(name) if engine.dialect.name == "sqlite" and name and not name.startswith((":memory:", "file:")) else None


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # WAL: readers do not block the writer; FULL: a commit that was answered survives a power cut.
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def revision(engine: Engine) -> str | None:
    """The migration that the database stands at, None for an empty one."""
    with engine.connect() as connection:
        return _revision(connection)


def _write_ahead(cursor: Any) -> None:
    # Two processes that make a new file's log at the same time get in each other's way, and SQLite does not wait by itself here.
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: Engine, to: str = HEAD) -> None:
    """Bring the database to the migration `to`, forward or back; nothing is done where it stands there.

    Processes that do so at the same time wait for each other.
    """
    aim = None if to == "base" else to
    if revision(engine) == aim:
        return
    from alembic import command  # 0.1 s, and needed once in the life of a database
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with _alone(engine) as connection:
        now = _revision(connection)
        if now == aim:
            return  # another process was first
        config.attributes["connection"] = connection
        if now is not None and (aim is None or aim < now):
            command.downgrade(config, to)
        else:
            command.upgrade(config, to)


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """One transaction that no other process's migration runs beside, and that may take its time."""
    with engine.connect() as connection:
        connection.detach()  # it is set up for long waits, which no request may inherit
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA busy_timeout={MIGRATION_SECONDS * 1000}")
            connection.commit()
            driver: Any = connection.connection.dbapi_connection
            driver.isolation_level = None  # else Python's driver begins no transaction before it changes a table
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SET lock_timeout = '{MIGRATION_SECONDS}s'")
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
        yield connection
        connection.commit()
