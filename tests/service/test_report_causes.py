"""Why a ticket was misrouted: each cause on evidence for it, in the order in which they are looked for, and the evidence read out.
And what is chance: held to scipy.stats, which the service does without."""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from scipy import stats
from sqlalchemy.engine import Connection, Engine

from service import database
from service.reports import statistics
from service.reports.causes import CAUSES, MEANINGS
from service.reports.drift import changes_of_last_week, last_week
from service.reports.report import misroutes
from service.reports.schemas import Cause, Filters, Period, Selection, TicketBehind
from service.reports.tickets import tickets_behind
from tests.stories import HOUR, MONDAY, keep, moved, story

DAY = timedelta(days=1)
WHOLE = Period(since=MONDAY.date(), until=(MONDAY + 70 * DAY).date())
KIND = {"final_kind": "incident", "kind_by": "person"}
UNSURE = {"action": "suggest", "reasons": "unsure_department", "department_confidence": 0.61}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('causes')}/stories.db")
    database.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """To a database without any story; what a test keeps is never committed."""
    with engine.connect() as connected:
        yield connected


def behind(connection: Connection, filters: Filters | None = None) -> dict[str, TicketBehind]:
    """The misrouted tickets by their ids."""
    found = tickets_behind(connection, WHOLE, filters or Filters(), Selection(misrouted="any"))
    return {str(ticket.ticket_id): ticket for ticket in found.shown}


# What happened, its likely cause, and how the evidence for it reads.
CASES: list[tuple[dict[str, Any], Cause, str]] = [
    (
        moved(1, "domains", placed_by="rule", placed_in="sales"), "rule",
        "The router was 95% sure of hosting; a rule put it in sales, and it ended in domains.",
    ),
    (
        moved(1, "domains", department_by="rule", course="overruled", right_at=MONDAY + HOUR / 20), "rule",
        "The router was 95% sure of hosting; a rule put it in domains 3 minutes later.",
    ),
    (
        story(1, final_kind="incident", kind_by="rule"), "rule",
        "The router was 97% sure of advisory; a rule changed the kind, and it was incident in the end.",
    ),
    (
        moved(1, "domains", placed_by="person", placed_in="sales"), "overruled_later",
        "The router was 95% sure of hosting; a person put it in sales instead, and it ended in domains 3.0 hours later: neither of the two was right.",
    ),
    (
        moved(1, "domains", answered_in="hosting", moves=3, course="bounced"), "chain",
        "The router was 95% sure of hosting; hosting gave the first answer to the customer, and it ended in domains, after 3 moves: several teams worked on it.",
    ),
    (
        moved(1, "domains", action="review", reasons="unfamiliar unknown_language unsure_department", department_confidence=0.31), "unfamiliar",
        "The router was 31% sure of hosting, and said itself that it knew neither the language nor the words; a person moved it to domains 3.0 hours later.",
    ),
    (
        moved(1, "domains", action="review", reasons="empty", department_confidence=None), "unfamiliar",
        "The router decided hosting, and said itself that it found nothing to read; a person moved it to domains 3.0 hours later.",
    ),
    (
        moved(1, "domains", **UNSURE), "acted_unsure",
        "The router was 61% sure of hosting, which was not sure enough to act on (suggest); it was put in hosting all the same, and a person moved it to domains 3.0 hours later.",
    ),
    (
        story(1, final_department="domains", placed_in="domains", department_by="person", placed_by="person", course="overruled", **UNSURE), "acted_unsure",
        "The router was 61% sure of hosting, which was not sure enough to act on (suggest); so a person saw it first, and a person put it in domains.",
    ),
    (
        story(1, action="suggest", reasons="possible_incident", kind_confidence=0.7, **KIND), "acted_unsure",
        "The router was 70% sure of advisory, which was not sure enough to act on (suggest); so a person saw it first, and a person corrected that to incident.",
    ),
    (
        moved(1, "domains", right_at=MONDAY + HOUR / 4), "sure_and_wrong",
        "The router was 95% sure of hosting and routed it without a person; a person moved it to domains 15 minutes later.",
    ),
    (
        moved(1, "domains", right_at=MONDAY + 5 * DAY, department_confidence=0.99996), "sure_and_wrong",
        "The router was 99.9% sure of hosting and routed it without a person; a person moved it to domains 5.0 days later.",
    ),
    (
        story(1, kind_confidence=0.985, **KIND), "sure_and_wrong",
        "The router was 98.5% sure of advisory and routed it without a person; a person corrected that to incident.",
    ),
    (  # it doubted the kind, and the department was wrong
        moved(1, "domains", action="review", reasons="unsure_kind"), "sure_and_wrong",
        "The router was 95% sure of hosting and did not doubt it (review); a person moved it to domains 3.0 hours later.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("told", "cause", "reading"), CASES, ids=[f"{cause} {place}" for place, (_, cause, _) in enumerate(CASES)])
def test_a_cause_and_the_evidence_for_it(connection: Connection, told: dict[str, Any], cause: Cause, reading: str) -> None:
    keep(connection, [told, story(2)])
    (ticket,) = behind(connection).values()
    assert (ticket.cause, ticket.reading) == (cause, reading)
    causes = {each.cause: each for each in misroutes(connection, WHOLE, Filters(), {}).causes}
    assert {name for name, each in causes.items() if each.tickets} == {cause}
    assert causes[cause].share == 1
    assert list(causes) == list(CAUSES)
    assert all(each.meaning == MEANINGS[name] for name, each in causes.items())


def test_who_overruled_the_router_at_once_and_was_overruled_is_found_among_the_events(connection: Connection) -> None:
    def told(number: int, *moves: tuple[str, timedelta, str], **changed: Any) -> list[dict[str, Any]]:
        keep(connection, [moved(number, "domains", **({"course": "bounced", "moves": len(moves), "wrong_stays": 2} | changed))])
        columns = {"reason": None, "from_label": None, "event": "moved", "digest": "0" * 64, "received_at": MONDAY, "ticket_id": f"T-{number}"}
        return [
            columns | {"event_id": f"e{place}", "to_label": to, "happened_at": MONDAY + after, "by_whom": by}
            for place, (to, after, by) in enumerate(moves)
        ]

    minute = timedelta(minutes=1)
    home = ("domains", 3 * HOUR, "person")
    events = [
        *told(1, ("sales", 9 * minute, "person"), home),  # at once, to a wrong one
        *told(2, ("sales", 30 * minute, "person"), home),  # after the team had begun: it bounced
        *told(3, ("sales", minute, "rule"), home),
        *told(4, ("domains", minute, "person"), ("sales", HOUR, "person"), home),  # it was right
        *told(5, ("sales", 2 * minute, "person"), ("network", 8 * minute, "person"), home),
        *told(6, ("sales", minute, "person"), home, placed_in="network", placed_by="person"),  # who placed it was overruled, and says so
    ]
    connection.execute(sa.insert(database.outcomes), events)
    found = behind(connection)
    causes = {name: ticket.cause for name, ticket in found.items()}
    wrong = "sure_and_wrong"
    assert causes == {"T-1": "overruled_later", "T-2": wrong, "T-3": wrong, "T-4": wrong, "T-5": "overruled_later", "T-6": "overruled_later"}
    said = (
        "The router was 95% sure of hosting; a person put it in {} instead, and it ended in domains 3.0 hours later{}: neither of the two was right."
    )
    readings = [found[name].reading for name in ("T-1", "T-5", "T-6")]
    assert readings == [said.format("sales", ""), said.format("sales", ""), said.format("network", "")]


def test_the_first_cause_that_there_is_evidence_for_is_the_likely_one(connection: Connection) -> None:
    # Each story has the evidence for its cause and for all the later ones.
    same = {"text_key": "a" * 16}
    unsure = same | {"action": "review", "reasons": "unfamiliar unsure_department"}
    chain = unsure | {"answered_in": "hosting"}
    person = chain | {"placed_by": "person", "placed_in": "sales"}
    told = {"rule": person | {"placed_by": "rule"}, "overruled_later": person, "chain": chain, "label_noise": unsure}
    twins = [story(90 + number, **same) for number in range(9)]
    rows = [moved(number, f"team {number}", **changed) for number, changed in enumerate(told.values(), 1)]
    lone = [
        moved(8, "domains", **unsure | {"text_key": "b" * 16}),
        moved(9, "domains", **unsure | {"text_key": "c" * 16, "reasons": "unsure_department"}),
    ]
    keep(connection, [*twins, *rows, *lone])
    found = {name: ticket.cause for name, ticket in behind(connection).items()}
    assert found == {f"T-{number}": cause for number, cause in enumerate([*told, "unfamiliar", "acted_unsure"], 1) if number < 5} | {
        "T-8": "unfamiliar",
        "T-9": "acted_unsure",
    }


def test_tickets_of_the_same_text_that_ended_otherwise_are_label_noise(connection: Connection) -> None:
    same = {"text_key": "a" * 16}
    keep(connection, [moved(1, "domains", **same), story(2, **same), story(3, **same), moved(4, "domains", **same), story(5, closed_at=None, **same)])
    found = behind(connection)
    assert {ticket.cause for ticket in found.values()} == {"label_noise"}
    assert found["T-1"].reading == (
        "The router was 95% sure of hosting; it ended in domains. But 2 other tickets with exactly this text ended as hosting, 1 as domains."
    )


def test_one_ticket_that_ended_otherwise_does_not_excuse_many_that_the_router_got_wrong(connection: Connection) -> None:
    same = {"text_key": "a" * 16}
    keep(connection, [story(1, **same), *(moved(number, "domains", **same) for number in range(2, 9))])
    assert {ticket.cause for ticket in behind(connection).values()} == {"sure_and_wrong"}


def test_a_text_without_twins_is_no_label_noise_nor_is_one_that_only_ended_as_it_did(connection: Connection) -> None:
    keep(
        connection, [moved(1, "domains"), moved(2, "domains", text_key="a" * 16), moved(3, "domains", text_key="a" * 16), story(4, text_key="b" * 16)]
    )
    assert {ticket.cause for ticket in behind(connection).values()} == {"sure_and_wrong"}


def test_the_department_is_looked_at_before_the_kind(connection: Connection) -> None:
    keep(connection, [moved(1, "domains", **KIND, action="suggest", reasons="unsure_kind")])
    assert behind(connection)["T-1"].cause == "sure_and_wrong"  # of the department it did not doubt
    assert misroutes(connection, WHOLE, Filters(), {}).misrouted["kind"].count == 1


def test_a_cause_does_not_hang_on_filters(connection: Connection) -> None:
    same = {"text_key": "a" * 16}
    keep(connection, [moved(1, "domains", language="fr", **same), story(2, language="en", **same)])
    assert behind(connection, Filters(language="fr"))["T-1"].cause == "label_noise"
    french = misroutes(connection, WHOLE, Filters(language="fr"), {})
    assert [each.cause for each in french.causes if each.tickets] == ["label_noise"]


def test_an_open_ticket_has_no_cause(connection: Connection) -> None:
    keep(connection, [moved(1, "domains", closed_at=None)])
    (ticket,) = tickets_behind(connection, WHOLE, Filters(), Selection()).shown
    assert (ticket.cause, ticket.reading, ticket.course, ticket.hours_misplaced) == (None, None, None, 3.0)


def test_the_words_and_the_subject_as_long_as_they_are_kept(connection: Connection) -> None:
    words = {"department": [{"text": f"word {n}", "weight": 2.0 - n / 10, "start": 0, "end": 4} for n in range(20)], "kind": []}
    keep(connection, [moved(1, "domains", subject="=1+1 <script>", explanation=words), moved(2, "domains")])
    found = behind(connection)
    assert found["T-1"].subject == "=1+1 <script>"
    assert found["T-1"].words is not None
    assert [(word.text, word.weight) for word in found["T-1"].words["department"]][:2] == [("word 0", 2.0), ("word 1", 1.9)]
    assert len(found["T-1"].words["department"]) == 12
    assert (found["T-2"].subject, found["T-2"].words) == (None, None)


# Drift.


def traffic(weeks: int, tickets: int, **odd: Any) -> list[dict[str, Any]]:
    """So many tickets a week of an even mix; in the last week every fourth one has the `odd` columns."""
    rows = []
    for week in range(weeks):
        for number in range(tickets):
            at = MONDAY + week * 7 * DAY + number * (7 * DAY / tickets)
            changed = odd if week == weeks - 1 and number % 4 == 0 else {}
            usual = {
                "language": ["fr", "en"][number % 2],
                "department": ["hosting", "domains", "network"][number % 3],
                "kind": ["incident", "advisory"][number % 5 > 0],
            }
            rows.append(story(week * tickets + number, created_at=at, **(usual | changed)))
    return rows


def changes(connection: Connection) -> set[tuple[str, str]]:
    return {(change.what, change.value) for change in changes_of_last_week(connection, (MONDAY + 7 * 7 * DAY).date())}


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ({"language": "de"}, ("language", "de")),
        ({"department": "telephony"}, ("department", "telephony")),
        ({"kind": "incident"}, ("kind", "incident")),
        ({"reasons": "unfamiliar"}, ("unfamiliar", "")),
        ({"action": "review"}, ("review", "")),
        ({"department_confidence": 0.5}, ("confidence", "")),
        ({"department": "hosting", "final_department": "sales", "department_by": "person"}, ("overridden", "")),
    ],
)
def test_a_week_unlike_the_four_before_it_is_named(connection: Connection, odd: dict[str, Any], what: tuple[str, str]) -> None:
    keep(connection, traffic(7, 400, **odd))
    assert what in changes(connection)
    report = misroutes(connection, Period(since=(MONDAY + 42 * DAY).date(), until=(MONDAY + 49 * DAY).date()), Filters(), {})
    assert what in {(change.what, change.value) for change in report.drift.changes}
    assert {change.week for change in report.drift.changes} == {"2026-W47"}
    found = last_week(connection, (MONDAY + 51 * DAY).date())  # a Wednesday: the week before is the last complete one
    assert found.week == "2026-W47"
    assert found.misrouted["department"] == (0.25 if what[0] == "overridden" else 0.0)


def test_weeks_that_are_alike_are_not_named(connection: Connection) -> None:
    chance = random.Random(1)
    rows = traffic(12, 400)
    for row in rows:
        row |= {
            "language": chance.choice(["fr", "en", "de", "pl"]),
            "action": chance.choice(["auto"] * 9 + ["review"]),
            "department_confidence": chance.random(),
        }
    keep(connection, rows)
    report = misroutes(connection, Period(since=MONDAY.date(), until=(MONDAY + 84 * DAY).date()), Filters(), {})
    assert len(report.drift.weeks) == 12
    assert report.drift.changes == []


def test_a_change_that_is_beyond_chance_but_small_is_not_named(connection: Connection) -> None:
    rows = traffic(5, 2000)
    for number, row in enumerate(rows):
        row["action"] = "review" if number % 1000 < (2 if number < 8_000 else 8) else "auto"
    keep(connection, rows)
    assert statistics.differs((16, 8_000), (16, 2_000)) < 0.001
    assert changes_of_last_week(connection, (MONDAY + 35 * DAY).date()) == []


def test_there_is_no_change_without_weeks_to_compare_with(connection: Connection) -> None:
    keep(connection, traffic(1, 400))
    assert changes_of_last_week(connection, (MONDAY + 7 * DAY).date()) == []
    empty = last_week(connection, date(2020, 1, 1))
    assert (empty.changes, empty.misrouted) == ([], {"department": None, "kind": None})


# Chance.


def test_wilson_intervals_are_scipys() -> None:
    counts = [(count, of) for of in (1, 2, 7, 38, 1000, 969_660) for count in {0, 1, of // 3, of - 1, of}]
    low, high = statistics.wilson(*zip(*counts, strict=True))
    for (count, of), bounds in zip(counts, zip(low, high, strict=True), strict=True):
        assert bounds == pytest.approx(tuple(stats.binomtest(count, of).proportion_ci(method="wilson")), abs=1e-9)
    assert np.isnan(statistics.wilson(0, 0)).all()


def test_the_chance_of_more_is_fishers() -> None:
    chance = random.Random(3)
    for _ in range(300):
        m, n = chance.randrange(1, 400), chance.randrange(1, 400)
        a, b = chance.randrange(m + 1), chance.randrange(n + 1)
        assert statistics.more((a, m), (b, n)) == pytest.approx(stats.fisher_exact([[b, n - b], [a, m - a]], alternative="greater").pvalue, abs=1e-9)
    assert statistics.more((0, 20), (20, 20)) == pytest.approx(stats.hypergeom.sf(19, 40, 20, 20), rel=1e-6)


def test_the_chance_of_more_among_very_many_is_nearly_fishers() -> None:
    for a, b in ((50_000, 50_100), (50_000, 50_600), (50_000, 49_000)):
        exact = stats.hypergeom.sf(b - 1, 400_000, a + b, 200_000)
        assert statistics.more((a, 200_000), (b, 200_000)) == pytest.approx(exact, rel=0.05, abs=1e-4)


def test_differences_of_means_are_tested_as_scipy_does() -> None:
    chance = np.random.default_rng(5)
    before, now = chance.beta(8, 2, 5000), chance.beta(8, 2.1, 900)
    told = [(float(values.sum()), float((values**2).sum()), len(values)) for values in (before, now)]
    assert statistics.means_differ(told[0], told[1]) == pytest.approx(stats.ttest_ind(before, now, equal_var=False).pvalue, rel=0.01)
    assert statistics.means_differ((50.0, 50.0, 50), (60.0, 60.0, 60)) == 1.0
    assert statistics.means_differ((50.0, 50.0, 50), (30.0, 15.0, 60)) == 0.0


def test_holm_steps_down_and_keeps_the_order() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(statistics.holm([])) == 0
