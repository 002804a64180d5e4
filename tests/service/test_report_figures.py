"""Every figure of the report against a count by hand, row by row in plain Python, on both databases."""

import random
import statistics as plain
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from service import database
from service.reports.report import misroutes
from service.reports.schemas import NOT_GIVEN, OTHERS, Filters, MisrouteReport, Period, Selection, Share
from service.reports.tickets import tickets_behind
from tests.postgresql import Server
from tests.serving import DATABASES
from tests.stories import HOUR, MONDAY, OPEN, anything, keep, moved, story

START = MONDAY.date()
WEEKS = 10
PERIODS = {
    "whole": Period(since=START, until=START + timedelta(weeks=WEEKS)),
    "from a Wednesday": Period(since=date(2026, 11, 4), until=date(2026, 12, 2)),
}
FILTERS = [Filters(), Filters(department="domains", channel=NOT_GIVEN), Filters(kind="incident", action="auto")]
ROWS = [anything(number, random.Random(number), WEEKS) for number in range(900)]
PROMISED = {"department": 0.55, "kind": 0.99}
TARGETS = ("department", "kind")

Row = dict[str, Any]


@contextmanager
def _connected(request: pytest.FixtureRequest, folder: Path) -> Iterator[Connection]:
    if request.param == "sqlite":
        place = nullcontext(f"sqlite:///{folder}/stories.db")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        place = server.database()  # type: ignore[assignment]
    with place as url:
        engine = database.connect(url)
        database.migrate(engine)
        with engine.connect() as connected:
            yield connected
        engine.dispose()


@pytest.fixture(params=DATABASES, scope="module")
def connection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """To a database that holds ROWS."""
    with _connected(request, tmp_path_factory.mktemp("reports")) as connected:
        keep(connected, ROWS)
        yield connected


@pytest.fixture(params=DATABASES, scope="module")
def without_stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with _connected(request, tmp_path_factory.mktemp("empty")) as connected:
        yield connected


@pytest.fixture
def empty(without_stories: Connection) -> Iterator[Connection]:
    """To a database without any story; what a test keeps is never committed."""
    yield without_stories
    without_stories.rollback()


# The count by hand. Nothing of it is shared with the program.


def chosen(period: Period, filters: Filters) -> list[Row]:
    def fits(row: Row) -> bool:
        if not period.since <= row["created_at"].date() < period.until:
            return False
        for name, value in filters.model_dump(exclude_none=True).items():
            wanted = None if value == NOT_GIVEN else value
            if wanted not in ((row[name], row[f"final_{name}"]) if name in TARGETS else (row[name],)):
                return False
        return True

    return [row for row in ROWS if fits(row)]


def judged(row: Row) -> bool:
    return row["closed_at"] is not None


def wrong(row: Row, target: str) -> bool:
    return judged(row) and row[target] is not None and row[target] != row[f"final_{target}"]


def counted(rows: list[Row], target: str) -> list[Row]:
    return [row for row in rows if judged(row) and row[target] is not None]


def real(row: Row) -> bool:
    return judged(row) and row["final_kind"] == "incident"


def main(rows: list[Row]) -> dict[str, Any]:
    incidents = [row for row in rows if real(row)]
    missed = [row for row in incidents if row["kind"] != "incident"]
    return {
        "tickets": len(rows),
        "judged": sum(map(judged, rows)),
        "moves": sum(row["moves"] for row in rows),
        "misrouted": {target: (sum(wrong(row, target) for row in rows), len(counted(rows, target))) for target in TARGETS},
        "incidents": (
            len(incidents),
            len(incidents) - len(missed),
            sum("possible_incident" in row["reasons"].split() or row["action"] == "review" for row in missed),
        ),
    }


def told(of: Any) -> dict[str, Any]:
    """The same of a report, or of one of its groups."""
    return {
        "tickets": of.tickets,
        "judged": of.judged,
        "moves": of.moves,
        "misrouted": {target: (found.count, found.of) for target, found in of.misrouted.items()},
        "incidents": (of.incidents.real, of.incidents.recognised, of.incidents.held_back),
    }


def minutes(rows: list[Row], start: str, end: str) -> list[float]:
    """Of the judged ones that have both."""
    spans = [(row[end] - row[start]) / timedelta(minutes=1) for row in rows if judged(row) and row[start] is not None and row[end] is not None]
    return [max(0.0, span) for span in spans]


def percentile(values: list[float], part: float) -> float:
    return plain.quantiles(values, n=10, method="inclusive")[round(part * 10) - 1] if len(values) > 1 else values[0]


def week(moment: datetime) -> str:
    year, number, _ = moment.isocalendar()
    return f"{year}-W{number:02}"


FACETS: dict[str, Callable[[Row], Any]] = {
    "week": lambda row: week(row["created_at"]), "department": lambda row: row["final_department"], "kind": lambda row: row["final_kind"],
} | {name: lambda row, name=name: row[name] for name in ("language", "model_version", "channel", "customer_tier", "country", "action")}  # fmt: skip


@pytest.fixture(params=PERIODS, scope="module")
def period(request: pytest.FixtureRequest) -> Period:
    return PERIODS[request.param]


@pytest.fixture(params=FILTERS, ids=str, scope="module")
def filters(request: pytest.FixtureRequest) -> Filters:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def rows(period: Period, filters: Filters) -> list[Row]:
    found = chosen(period, filters)
    assert len([row for row in found if judged(row)]) > 15  # else this would show little
    return found


@pytest.fixture(scope="module")
def report(connection: Connection, period: Period, filters: Filters) -> MisrouteReport:
    return misroutes(connection, period, filters, PROMISED)


def test_the_headline(report: MisrouteReport, rows: list[Row], period: Period, filters: Filters) -> None:
    assert told(report) == main(rows)
    assert report.period == {"from": period.since, "to": period.until}
    assert report.filters == filters.model_dump(exclude_none=True)
    recall = report.incidents.recall
    assert recall == pytest.approx(report.incidents.recognised / report.incidents.real, abs=1e-6)
    assert not report.simulated


def test_what_was_filed_as_an_incident(report: MisrouteReport, rows: list[Row]) -> None:
    filed = [row for row in rows if judged(row) and row["declared_kind"] == "incident"]
    advice = [row for row in filed if row["final_kind"] == "advisory"]
    caught = [row for row in advice if row["kind"] == "advisory"]
    found = report.filed_as_incident
    assert (found.count, found.advisory, found.caught) == (len(filed), len(advice), len(caught))
    assert found.share_advisory == pytest.approx(len(advice) / len(filed), abs=1e-6)


def test_courses_and_moves(report: MisrouteReport, rows: list[Row]) -> None:
    closed = [row for row in rows if judged(row)]
    courses = Counter(row["course"] for row in closed)
    assert report.courses == {course: courses[course] for course in ("straight", "overruled", "moved", "bounced")}
    moves = Counter(str(row["moves"]) if row["moves"] < 3 else "3+" for row in closed)
    assert report.moves_of_tickets == {number: moves[number] for number in ("0", "1", "2", "3+")}


@pytest.mark.parametrize(("name", "start", "end"), [("to_right_team", "created_at", "right_at"), ("to_answer", "created_at", "answered_at"), ("misplaced", "wrong_at", "right_at")])  # fmt: skip
def test_minutes_over_all_and_by_each_facet(report: MisrouteReport, rows: list[Row], name: str, start: str, end: str) -> None:
    durations = getattr(report.minutes, name)
    groups = [(durations, rows)]
    for facet in ("kind", "department", "customer_tier", "language", "country"):
        value_of = FACETS[facet]
        told_of = {each.value: each for each in durations.by[facet]}
        values = {value_of(row) for row in rows if minutes([row], start, end)}
        assert set(told_of) == {NOT_GIVEN if value is None else value for value in values}
        groups += [(told_of[NOT_GIVEN if value is None else value], [row for row in rows if value_of(row) == value]) for value in values]
    for found, theirs in groups:
        spent = minutes(theirs, start, end)
        assert found.count == len(spent)
        assert found.sum == pytest.approx(sum(spent), abs=0.01)
        assert found.median == pytest.approx(plain.median(spent), abs=0.01)
        assert found.p90 == pytest.approx(percentile(spent, 0.9), abs=0.01)
        assert found.median >= 0


@pytest.mark.parametrize("target", TARGETS)
def test_the_matrix(report: MisrouteReport, rows: list[Row], target: str) -> None:
    pairs = Counter((row[target], row[f"final_{target}"]) for row in counted(rows, target))
    matrix = report.matrix[target]
    assert matrix.labels == sorted({label for pair in pairs for label in pair})
    for decided, counts in zip(matrix.labels, matrix.decided_by_final, strict=True):
        assert counts == [pairs[decided, final] for final in matrix.labels]


def test_the_pairs_that_lose_most(report: MisrouteReport, rows: list[Row]) -> None:
    expected = {}
    for pair in {(row["department"], row["final_department"]) for row in rows if wrong(row, "department")}:
        theirs = [row for row in rows if wrong(row, "department") and (row["department"], row["final_department"]) == pair]
        hours = [spent / 60 for spent in minutes(theirs, "wrong_at", "right_at")]
        expected[pair] = (len(theirs), sum(hours), plain.median(hours) if hours else None, sum(row["moves"] for row in theirs))
    found = {(pair.decided, pair.final): pair for pair in report.pairs}
    assert set(found) == set(expected)
    for pair, (tickets, hours_, median, moves) in expected.items():
        assert (found[pair].tickets, found[pair].moves) == (tickets, moves)
        assert found[pair].hours == pytest.approx(hours_, abs=0.001)
        assert found[pair].median_hours == (None if median is None else pytest.approx(median, abs=0.001))
    lost = [pair.hours for pair in report.pairs]
    assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_promised_against_what_came(report: MisrouteReport, rows: list[Row], target: str) -> None:
    confidence = report.confidence[target]
    assert [band.low for band in confidence.bands[1:]] == [band.high for band in confidence.bands[:-1]]
    assert (confidence.bands[0].low, confidence.bands[-1].high) == (0, 1)
    for band in confidence.bands:
        top = 2 if band.high == 1 else band.high
        theirs = [row for row in counted(rows, target) if band.low <= row[f"{target}_confidence"] < top]
        assert (band.right.count, band.right.of) == (sum(not wrong(row, target) for row in theirs), len(theirs))
        if theirs:
            assert band.confidence == pytest.approx(plain.mean(row[f"{target}_confidence"] for row in theirs), abs=1e-6)
            assert band.right.interval is not None
            assert band.confidence is not None
            assert band.kept == (band.confidence <= band.right.interval[1])
        else:
            assert (band.confidence, band.kept, band.right.share) == (None, None, None)
    auto = [row for row in counted(rows, target) if row["action"] == "auto"]
    assert confidence.auto.promised == PROMISED[target]
    assert (confidence.auto.right.count, confidence.auto.right.of) == (sum(not wrong(row, target) for row in auto), len(auto))
    assert confidence.auto.right.interval is not None
    assert confidence.auto.kept == (PROMISED[target] <= confidence.auto.right.interval[1])


@pytest.mark.parametrize("facet", FACETS)
def test_groups(report: MisrouteReport, rows: list[Row], facet: str) -> None:
    value_of = FACETS[facet]
    groups = {group.value: group for group in getattr(report.by, facet)}
    values = {value_of(row) for row in rows}
    assert set(groups) == {NOT_GIVEN if value is None else value for value in values}
    for value in values:
        theirs = [row for row in rows if value_of(row) == value]
        group = groups[NOT_GIVEN if value is None else value]
        assert told(group) == main(theirs)
        actions = Counter(row["action"] for row in theirs if judged(row))
        assert (group.auto, group.suggest, group.review) == (actions["auto"], actions["suggest"], actions["review"])
    if facet == "week":
        assert list(groups) == sorted(groups)


def test_versions(report: MisrouteReport, rows: list[Row]) -> None:
    found = {version.version: (version.first, version.last, version.tickets) for version in report.versions}
    expected = {}
    for name in {row["model_version"] for row in rows}:
        days = [row["created_at"].date() for row in rows if row["model_version"] == name]
        expected[name] = (min(days), max(days), len(days))
    assert found == expected


def test_the_mix_of_each_week_is_of_whole_weeks(report: MisrouteReport, period: Period, filters: Filters) -> None:
    monday = period.since - timedelta(days=period.since.weekday())
    rows = chosen(Period(since=monday, until=period.until), filters)
    assert [mix.week for mix in report.drift.weeks] == sorted({week(row["created_at"]) for row in rows})
    for mix in report.drift.weeks:
        theirs = [row for row in rows if week(row["created_at"]) == mix.week]
        assert mix.tickets == len(theirs)
        for name, shares in (("language", mix.languages), ("kind", mix.kinds), ("department", mix.departments)):
            counts = Counter(NOT_GIVEN if row[name] is None else row[name] for row in theirs)
            assert shares == pytest.approx({value: count / len(theirs) for value, count in counts.items()}, abs=1e-6)
        sure = [row["department_confidence"] for row in theirs if row["department_confidence"] is not None]
        assert mix.confidence == (pytest.approx(plain.mean(sure), abs=1e-6) if sure else None)
        strange = sum(bool({"unfamiliar", "unknown_language"} & set(row["reasons"].split())) for row in theirs)
        assert mix.unfamiliar == pytest.approx(strange / len(theirs), abs=1e-6)
        assert mix.review == pytest.approx(sum(row["action"] == "review" for row in theirs) / len(theirs), abs=1e-6)
        by_a_person = [row for row in theirs if any(wrong(row, target) and row[f"{target}_by"] == "person" for target in TARGETS)]
        closed = sum(map(judged, theirs))
        assert mix.overridden == (pytest.approx(len(by_a_person) / closed, abs=1e-6) if closed else None)


SELECTIONS: list[tuple[Selection, Callable[[Row], bool]]] = [
    (Selection(misrouted="any"), lambda row: wrong(row, "department") or wrong(row, "kind")),
    (Selection(misrouted="kind", judged=True), lambda row: wrong(row, "kind")),
    (Selection(judged=False), lambda row: not judged(row)),
    (Selection(decided="hosting", final="domains"), lambda row: (row["department"], row["final_department"]) == ("hosting", "domains")),
    (Selection(target="kind", decided="advisory", final="incident"), lambda row: (row["kind"], row["final_kind"]) == ("advisory", "incident")),
    (Selection(final="telephony", judged=True), lambda row: row["final_department"] == "telephony" and judged(row)),
    (Selection(decided="nobody"), lambda row: False),
    (Selection(course="bounced"), lambda row: judged(row) and row["course"] == "bounced"),
    (Selection(week="2026-W46"), lambda row: week(row["created_at"]) == "2026-W46"),
    (Selection(target="kind", least_confidence=0.9, below_confidence=0.95), lambda row: 0.9 <= row["kind_confidence"] < 0.95),
    (Selection(target="kind", least_confidence=0.98, below_confidence=1), lambda row: row["kind_confidence"] >= 0.98),
]


@pytest.mark.parametrize(
    ("selection", "fits"), SELECTIONS, ids=lambda given: given.model_dump_json(exclude_defaults=True) if isinstance(given, Selection) else ""
)
def test_the_tickets_behind_a_number(connection: Connection, selection: Selection, fits: Callable[[Row], bool]) -> None:
    period, filters = PERIODS["from a Wednesday"], Filters(country="FR")
    found = tickets_behind(connection, period, filters, selection.model_copy(update={"limit": 500}))
    theirs = {row["decision_id"]: row for row in chosen(period, filters) if fits(row)}
    assert bool(theirs) == (selection.decided != "nobody")
    assert found.matching == len(theirs)
    shown = found.shown
    assert {ticket.decision_id for ticket in shown} <= set(theirs)
    assert len(shown) == min(len(theirs), 500)
    for ticket in shown:
        row = theirs[ticket.decision_id]
        assert (ticket.ticket_id, ticket.judged, ticket.moves) == (row["ticket_id"], judged(row), row["moves"])
        assert ticket.decided == {target: row[target] for target in TARGETS}
        assert ticket.final == {target: row[f"final_{target}"] for target in TARGETS}
        assert (ticket.cause is not None) == (ticket.reading is not None) == (wrong(row, "department") or wrong(row, "kind"))
    costs = [-1.0 if ticket.hours_misplaced is None else ticket.hours_misplaced for ticket in shown]
    assert costs == sorted(costs, reverse=True)


def test_a_random_sample_is_the_same_for_its_seed_and_another_for_another(connection: Connection) -> None:
    def sample(seed: int) -> list[str]:
        asked = Selection(misrouted="any", order="random", seed=seed, limit=20)
        return [ticket.decision_id for ticket in tickets_behind(connection, PERIODS["whole"], Filters(), asked).shown]

    assert sample(1) == sample(1)
    assert len(set(sample(1)) & set(sample(2))) < 10
    recent = tickets_behind(connection, PERIODS["whole"], Filters(), Selection(order="recent", limit=500)).shown
    assert [ticket.created_at for ticket in recent] == sorted((ticket.created_at for ticket in recent), reverse=True)


def test_a_report_of_nothing_has_every_figure(empty: Connection) -> None:
    report = misroutes(empty, PERIODS["whole"], Filters(), {})
    assert told(report) == main([])
    nothing = Share(count=0, of=0, share=None, interval=None)
    assert report.misrouted == {"department": nothing, "kind": nothing}
    assert (report.pairs, report.versions, report.compared.worse, report.drift.weeks, report.by.language) == ([], [], [], [], [])
    assert tickets_behind(empty, PERIODS["whole"], Filters(), Selection()).matching == 0


def test_days_are_in_utc_and_the_last_is_excluded(empty: Connection) -> None:
    midnight = MONDAY + timedelta(days=1)
    moments = [MONDAY - timedelta(microseconds=1), MONDAY, midnight - timedelta(microseconds=1), midnight]
    keep(empty, [story(number, created_at=at) for number, at in enumerate(moments)])
    day = Period(since=MONDAY.date(), until=midnight.date())
    assert misroutes(empty, day, Filters(), {}).tickets == 2
    shown = tickets_behind(empty, day, Filters(), Selection()).shown
    assert {ticket.ticket_id for ticket in shown} == {"T-1", "T-2"}
    assert {ticket.created_at for ticket in shown} == {"2026-10-05T00:00:00Z", "2026-10-05T23:59:59Z"}


def test_values_beyond_the_hundred_most_frequent_are_one(empty: Connection) -> None:
    # A client may send any tier, and an outcome any department.
    rows = [story(number, customer_tier=f"tier {number % 150}", final_department=f"team {number % 150}") for number in range(1500)]
    keep(empty, [*rows, *(story(2000 + number, customer_tier="tier 149", final_department="team 149") for number in range(5))])
    report = misroutes(empty, PERIODS["whole"], Filters(), {})
    assert len(report.by.customer_tier) == 101
    assert (report.by.customer_tier[0].value, report.by.customer_tier[0].tickets) == ("tier 149", 15)
    assert (report.by.customer_tier[-1].value, report.by.customer_tier[-1].tickets) == (OTHERS, 500)
    matrix = report.matrix["department"]
    assert len(matrix.labels) <= 42
    assert sum(map(sum, matrix.decided_by_final)) == report.judged == 1505
    assert len(report.pairs) == 100


def test_what_got_worse_is_named_and_chance_is_not(empty: Connection) -> None:
    now = MONDAY + timedelta(days=28)
    rows = []
    for number in range(3000):
        at = MONDAY + timedelta(hours=number % 600) + (number % 2) * timedelta(days=28)
        language = ["fr", "en", "de"][number % 3]
        bad = number % (4 if language == "de" and number % 2 else 20) < 2
        rows.append((moved if bad else story)(number, **({"to": "domains"} if bad else {}), created_at=at, language=language))
    keep(empty, rows)
    report = misroutes(empty, Period(since=now.date(), until=now.date() + timedelta(days=28)), Filters(), {})
    assert (report.compared.since, report.compared.until) == (MONDAY.date(), now.date())
    assert {(found.figure, found.by, found.value) for found in report.compared.worse} >= {("misrouted.department", "language", "de")}
    assert not any(found.value in ("fr", "en") for found in report.compared.worse)
    of_german = next(found for found in report.compared.worse if found.by == "language")
    by_hand = [[row for row in rows if row["language"] == "de" and (row["created_at"] >= now) == later] for later in (False, True)]
    assert [(share.count, share.of) for share in (of_german.before, of_german.now)] == [
        (sum(wrong(r, "department") for r in rs), len(rs)) for rs in by_hand
    ]
    assert of_german.p < 0.001
    before = misroutes(empty, Period(since=MONDAY.date(), until=now.date()), Filters(), {})
    assert before.compared.worse == []
    assert before.compared.looked_at == 0


def test_open_tickets_are_counted_as_tickets_only(empty: Connection) -> None:
    keep(empty, [story(1), moved(2, "domains", **OPEN), moved(3, "domains"), story(4, ticket_id=None, **OPEN)])
    report = misroutes(empty, PERIODS["whole"], Filters(), {})
    assert (report.tickets, report.judged, report.moves) == (4, 2, 2)
    assert report.misrouted["department"].model_dump(exclude={"interval"}) == {"count": 1, "of": 2, "share": 0.5}
    assert (report.minutes.to_right_team.count, report.pairs[0].hours, report.pairs[0].tickets) == (2, 3.0, 1)
    assert report.minutes.to_answer.median == HOUR / timedelta(minutes=1)
