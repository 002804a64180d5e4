"""The misroute report against a simulated year whose truth is known: every figure, on both databases."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import click
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from service import database
from service.database import stories
from service.demo.customers import DRIFT_DAYS, DRIFTING
from service.demo.router import BAD_DAYS, PROMISED
from service.demo.service import fill, put
from service.demo.simulation import Simulated, first_day, simulate
from service.outcomes.repository import rebuild
from service.reports.causes import CAUSES, find
from service.reports.frame import start_of
from service.reports.report import misroutes
from service.reports.repository import Reader
from service.reports.schemas import Filters, Period
from tests.contract.recount import fits, recount
from tests.contract.recount_share import TARGETS, misrouted
from tests.postgresql import Server
from tests.serving import DATABASES

TICKETS, MANY, SEED = 1_500, 8_000, 7
UNTIL = date(2026, 11, 22)
START = first_day(UNTIL)
YEAR = START, UNTIL
MONTH = date(2026, 7, 1), date(2026, 8, 1)
BAD_SINCE, BAD_UNTIL = (START + timedelta(days=day) for day in BAD_DAYS)
FILTERS = [
    {"department": "domains"}, {"kind": "incident"}, {"language": "de"}, {"channel": "email"}, {"customer_tier": "premium"},
    {"customer_tier": "(not given)"}, {"country": "BE"}, {"model_version": f"simulated-{BAD_SINCE}"}, {"action": "suggest"}, {"kind": "advisory", "channel": "web"},
]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> list[Simulated]:
    return list(simulate(TICKETS, SEED, UNTIL))


@pytest.fixture(scope="module", params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with the demonstration; nothing here changes what is in it."""
    if request.param == "sqlite":
        yield from _filled(f"sqlite:///{tmp_path_factory.mktemp('truth')}/demo.db")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        with server.database() as url:
            yield from _filled(url)


def _filled(url: str) -> Iterator[Engine]:
    engine = database.connect(url)
    fill(engine, TICKETS, SEED, UNTIL)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def busy_world() -> list[Simulated]:
    """More tickets, for what few of them cannot show beyond chance."""
    return list(simulate(MANY, SEED, UNTIL))


@pytest.fixture(scope="module")
def busy(busy_world: list[Simulated], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('busy')}/demo.db")
    database.migrate(engine)
    put(engine, busy_world, SEED)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def report(connection: Connection, since: date, until: date, **filters: Any) -> dict[str, Any]:
    """The report as plain data; its lists of groups by what they are of."""
    told = misroutes(connection, Period(since=since, until=until), Filters(**filters), PROMISED).model_dump()
    told["by"] = {name: _keyed(own, "value") for name, own in told["by"].items()}
    for span in told["minutes"].values():
        span["by"] = {name: _keyed(own, "value") for name, own in span["by"].items()}
    told["pairs"] = _keyed(told["pairs"], "decided", "final")
    told["versions"] = _keyed(told["versions"], "version")
    told["compared"]["worse"] = _keyed(told["compared"]["worse"], "figure", "by", "value")
    told["drift"]["changes"] = _keyed(told["drift"]["changes"], "week", "what", "value")
    return told


def _keyed(found: Sequence[dict[str, Any]], *names: str) -> dict[str, dict[str, Any]]:
    keyed = {" ".join(str(each[name]) for name in names): each for each in found}
    assert len(keyed) == len(found)
    return keyed


def differences(got: Any, expected: Any, where: str = "") -> list[str]:
    """Where two reports differ by more than rounding."""
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or got.keys() != expected.keys():
            return [f"{where}: {sorted(got)} instead of {sorted(expected)}"]
        return [line for name in expected for line in differences(got[name], expected[name], f"{where}.{name}")]
    if isinstance(expected, list | tuple):
        if len(got) != len(expected):
            return [f"{where}: {len(got)} instead of {len(expected)}"]
        return [line for i, (a, b) in enumerate(zip(got, expected, strict=True)) for line in differences(a, b, f"{where}[{i}]")]
    if isinstance(expected, float) and isinstance(got, float):
        relative, absolute = _rounding(where)
        return [] if got == pytest.approx(expected, rel=relative, abs=absolute) else [f"{where}: {got} instead of {expected}"]
    return [] if got == expected and type(got) is type(expected) else [f"{where}: {got!r} instead of {expected!r}"]


def _rounding(where: str) -> tuple[float, float]:
    """Chances are told to four digits, minutes to three places, hours to four, shares to six; half a place more is another figure."""
    if where.endswith(".p"):
        return 6e-4, 0.0
    return 1e-9, 6e-4 if ".minutes." in where else 6e-5 if "hours" in where else 6e-7


PERIODS = [pytest.param(*YEAR, {}, id="year"), pytest.param(*MONTH, {}, id="month")]
PERIODS += [pytest.param(*YEAR, filters, id=" ".join(filters.values())) for filters in FILTERS]


@pytest.mark.parametrize(("since", "until", "filters"), PERIODS)
def test_every_figure_is_what_the_simulation_did(
    since: date, until: date, filters: dict[str, str], connection: Connection, world: list[Simulated]
) -> None:
    told = report(connection, since, until, **filters)
    expected = recount(world, since, until, filters, PROMISED)
    assert told.keys() == expected.keys() | {"causes", "definitions"}
    assert expected["judged"] >= 20  # else little was shown
    assert differences({name: told[name] for name in expected}, expected) == []


def test_stories_that_are_made_anew_give_the_same_report(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        kept = report(connection, *YEAR)
        connection.execute(sa.update(stories).values(final_department="sales", moves=7, closed_at=None))
        assert report(connection, *YEAR) != kept
        assert rebuild(connection) == TICKETS
        assert report(connection, *YEAR) == kept
        transaction.rollback()


def test_the_bad_version_is_named_in_what_got_worse_and_its_repair_is_not(busy: Connection) -> None:
    worse = report(busy, BAD_SINCE, BAD_UNTIL)["compared"]["worse"]
    named = worse["misrouted.department department domains"]  # where it sent what belongs to hosting
    assert named["now"]["share"] > 0.4 > 0.25 > named["before"]["share"]
    assert {"misrouted.department all ", "misrouted.department department domains"} <= worse.keys()
    assert not {name for name in worse if name.startswith("misrouted.kind")}  # which it decided as the others do
    repaired = report(busy, BAD_UNTIL, BAD_UNTIL + (BAD_UNTIL - BAD_SINCE))["compared"]["worse"]
    assert not {name for name in repaired if name.startswith("misrouted.department")}


def test_the_language_that_drifts_in_is_named_when_it_comes_and_not_before(busy: Connection) -> None:
    came = UNTIL - timedelta(days=DRIFT_DAYS)
    changes = report(busy, came - timedelta(weeks=4), UNTIL)["drift"]["changes"]
    named = [change for change in changes.values() if (change["what"], change["value"]) == ("language", DRIFTING)]
    assert named
    first = min(date.fromisocalendar(int(change["week"][:4]), int(change["week"][-2:]), 1) for change in named)
    assert came - timedelta(days=6) <= first <= came + timedelta(weeks=3)
    earlier = report(busy, START, came)["drift"]["changes"]
    assert not {name for name in earlier if f"language {DRIFTING}" in name}


def likely_causes(connection: Connection) -> dict[str, str]:
    """By decision."""
    read = Reader(connection).read(start_of(START), start_of(UNTIL), ids=True)
    assert read.ids is not None
    found = zip(read.ids.tolist(), find(read).cause.tolist(), strict=True)
    return {decision.decode(): CAUSES[cause] for decision, cause in found if cause >= 0}


def test_the_likely_causes_are_mostly_the_true_ones(busy: Connection, busy_world: list[Simulated]) -> None:
    """Mostly, and no more: of rules, answers and noise some leave no evidence, and then the router looks sure and wrong."""
    likely = likely_causes(busy)
    true = {each.record.decision_id: each.truth.cause for each in busy_world if each.truth.cause}
    assert likely.keys() == true.keys()
    pairs = Counter((true[decision], likely[decision]) for decision in true)
    shown = [f"{'true, likely':<16}" + "".join(f"{cause:>16}" for cause in CAUSES)]
    shown += [f"{row:<16}" + "".join(f"{pairs[row, column]:>16}" for column in CAUSES) for row in CAUSES]
    click.echo("\n".join(shown))
    agreeing = sum(count for (row, column), count in pairs.items() if row == column) / len(true)
    click.echo(f"agreement {agreeing:.3f} of {len(true)}")
    assert agreeing >= 0.7
    for cause in CAUSES:
        told = sum(pairs[row, cause] for row in CAUSES)
        assert pairs[cause, cause] / told >= 0.5, f"{cause} is told of {told} and true of {pairs[cause, cause]}"


@pytest.mark.parametrize("filters", [{}, *FILTERS], ids=lambda filters: " ".join(filters.values()) or "all")
def test_a_tickets_cause_is_the_same_whatever_is_filtered(connection: Connection, world: list[Simulated], filters: dict[str, Any]) -> None:
    likely = likely_causes(connection)
    wrong = {each.record.decision_id for each in world if any(misrouted(each, target) for target in TARGETS)}
    assert likely.keys() == wrong
    chosen = {each.record.decision_id for each in world if all(fits(each, column, value) for column, value in filters.items())}
    counts = Counter(cause for decision, cause in likely.items() if decision in chosen)
    told = report(connection, *YEAR, **filters)["causes"]
    assert {each["cause"]: each["tickets"] for each in told} == {cause: counts[cause] for cause in CAUSES}
    assert [each["share"] for each in told] == pytest.approx([counts[cause] / counts.total() for cause in CAUSES], abs=6e-7)
