"""The tables: the migrations lead to what the code expects, and back."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from service import database
from service.settings import Settings
from tests.serving import DATABASES, INCIDENT, ROOT, apart, environment, serving


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite: str) -> Iterator[Engine]:
    engine = database.connect(sqlite)
    yield engine
    engine.dispose()


@pytest.fixture
def postgresql_engine(postgresql: str) -> Iterator[Engine]:
    engine = database.connect(postgresql)
    yield engine
    engine.dispose()


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def revisions() -> list[str]:
    """Oldest first."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def test_an_empty_database_is_brought_to_the_newest_migration(engine: Engine) -> None:
    assert database.revision(engine) is None
    database.migrate(engine)
    assert database.revision(engine) == database.HEAD
    assert tables(engine) == {"alembic_version", *database.metadata.tables}


def test_the_newest_migration_is_the_one_that_the_code_names() -> None:
    files = sorted(path.name for path in (database.MIGRATIONS / "versions").glob("*.py"))
    assert files[-1].split("_")[0] == revisions()[-1] == database.HEAD
    assert [name.split("_")[0] for name in files] == revisions()
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", name) for name in files)


def test_the_tables_of_the_code_are_the_tables_of_the_migrations(engine: Engine) -> None:
    database.migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), database.metadata) == []


def test_a_difference_between_code_and_migrations_would_be_seen(engine: Engine) -> None:
    database.migrate(engine)
    other = sa.MetaData()
    for table in database.metadata.tables.values():
        table.to_metadata(other)
    other.tables["decisions"].append_column(sa.Column("forgotten", sa.Text))
    with engine.connect() as connection:
        (difference,) = compare_metadata(MigrationContext.configure(connection), other)
    assert difference[0] == "add_column"


def test_every_migration_goes_forward_and_back(engine: Engine) -> None:
    schemas = []

    def schema() -> dict[str, list[str]]:
        with engine.connect() as connection:
            inspector = sa.inspect(connection)
            return {
                table: [column["name"] for column in inspector.get_columns(table)] + sorted(str(i["name"]) for i in inspector.get_indexes(table))
                for table in inspector.get_table_names()
                if table != "alembic_version"
            }

    for revision in revisions():
        schemas.append(schema())
        database.migrate(engine, revision)
        assert database.revision(engine) == revision
    newest = schema()
    assert newest
    for revision, expected in list(zip(["base", *revisions()], schemas, strict=False))[::-1]:
        database.migrate(engine, revision)
        assert schema() == expected
    assert database.revision(engine) is None
    database.migrate(engine)
    assert schema() == newest


def test_where_nothing_is_to_be_done_nothing_is_done(sqlite_engine: Engine) -> None:
    database.migrate(sqlite_engine)
    file = Path(str(sqlite_engine.url.database))
    written = file.read_bytes()
    database.migrate(sqlite_engine)
    assert file.read_bytes() == written


MIGRATE = """
import sys
from alembic import command, config  # beforehand, for they take their time
from service import database
engine = database.connect(sys.argv[1])
engine.connect().close()
print("ready", flush=True)
sys.stdin.readline()
database.migrate(engine)
"""


def test_processes_that_start_together_bring_a_database_up_to_date_together(database_url: str) -> None:
    """As two replicas do, or a service and `pointsman keys add`."""
    start = [sys.executable, "-c", MIGRATE, database_url]
    started = [subprocess.Popen(start, cwd=ROOT, env=environment(), stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
    ready = [each.stdout.readline() for each in started if each.stdout]
    for each in started:
        assert each.stdin
        with suppress(BrokenPipeError):  # then it says why it has ended
            each.stdin.write("now\n")
            each.stdin.flush()
    said = [each.communicate(timeout=30)[1] for each in started]
    assert said == ["", ""]
    assert ready == ["ready\n", "ready\n"]
    assert [each.returncode for each in started] == [0, 0]


def test_a_migration_may_take_longer_than_a_request_waits(postgresql_engine: Engine) -> None:
    """An index on the decisions of years takes minutes."""
    with apart(postgresql_engine.url.render_as_string(hide_password=False)).connect() as connection:
        connection.exec_driver_sql("CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.7); END'")
        connection.exec_driver_sql("CREATE EVENT TRIGGER slow ON ddl_command_start WHEN tag IN ('CREATE INDEX') EXECUTE FUNCTION slow()")
    database.migrate(postgresql_engine, "0001")
    assert database.revision(postgresql_engine) == "0001"


@pytest.mark.anyio
async def test_an_application_finds_what_an_earlier_one_stored(settings: Settings) -> None:
    async with serving(settings) as earlier:
        first = (await earlier.classify(ticket_id="T-1", body=INCIDENT)).json()
    async with serving(settings) as later:
        assert (await later.classify(ticket_id="T-1", body=INCIDENT)).json() == first


def test_a_commit_survives_a_power_cut_of_postgresql(postgresql_engine: Engine) -> None:
    """https://www.postgresql.org/docs/current/wal-async-commit.html: with `off` a commit returns before it is on the disk. No connection
    can change `fsync`, which is the server's: on unless its administrator says otherwise, as these tests do."""
    with postgresql_engine.connect() as connection:
        assert connection.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"


def test_a_commit_survives_a_power_cut_of_sqlite(sqlite_engine: Engine) -> None:
    """https://www.sqlite.org/pragma.html#pragma_synchronous: in WAL mode only FULL (2) syncs at each commit."""
    with sqlite_engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2


@pytest.mark.parametrize("url", ["mysql://root@localhost/pointsman", "oracle://localhost"])
def test_a_database_of_another_make_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^POINTSMAN_DATABASE_URL: expected sqlite:///\.\.\. or postgresql://\.\.\.$"):
        database.connect(url)
