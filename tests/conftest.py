"""What the tests share: the shipped corpus, a router learned from it once a session, and empty databases."""

import fcntl
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import bundle
from model.policy import Policy, load_policy
from model.router import Router
from model.taxonomy import load_taxonomy
from tests.postgresql import Server
from training import card
from training.fit import Settings, Trained, fit
from training.table import TicketTable, read_table

ROOT = Path(__file__).resolve().parent.parent
CORE = ("fr", "en", "de", "es", "pt", "it", "pl")  # the tests' router learns these; the further languages are for it unknown ones
TICKETS = [ROOT / "data" / "tickets" / f"{code}.jsonl" for code in CORE]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="how often the tests of durability kill a worker, and the whole service")


@pytest.fixture(scope="session")
def tickets() -> list[dict[str, str]]:
    """The shipped tickets of the core languages, as they stand in the files."""
    return [json.loads(line) for path in TICKETS for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def table() -> TicketTable:
    return read_table([str(path) for path in TICKETS])


@pytest.fixture(scope="session")
def trained(table: TicketTable, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Learned once, however many processes run the tests: the first trains, the others wait and take what it left."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # https://pytest-xdist.readthedocs.io/en/stable/how-to.html
    kept = folder / "trained.pickle"
    with (folder / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(fit(table, Settings(), load_taxonomy())))
    found: Trained = pickle.loads(kept.read_bytes())  # noqa: S301  # the tests wrote it
    return found


@pytest.fixture(scope="session")
def router(trained: Trained) -> Router:
    return trained.router


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy()


@pytest.fixture(scope="session")
def models(trained: Trained, table: TicketTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles with one champion. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("models")
    card.save(trained, table, Settings(), folder)
    return folder


@pytest.fixture(scope="session")
def home(models: Path) -> Path:
    """The champion's version folder."""
    return bundle.find(models)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of a SQLite database that is yet to be made."""
    return f"sqlite:///{tmp_path}/pointsman.db"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    with Server.running() as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgresql_server.database() as url:
        yield url


@pytest.fixture
def database_url(sqlite: str) -> str:
    """The database of most tests. Those about storage override it with each of DATABASES."""
    return sqlite
