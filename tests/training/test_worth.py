"""The month replayed: figures by hand where a few tickets come, and what must hold of any month."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from training.worth import COLUMNS, Office, more_wrong, replay, summary, work_through

OFFICE = Office({"hosting": 1, "domains": 1}, 1, incident=20, advice=10, sorting=5, confirming=2, passing_on=8, mistaken=0.0, spread=0.0)
AUTO = ("advisory", "hosting", "incident", "advisory", "hosting", "auto", False)


def month(*tickets: tuple[float, str, str, str, str, str, str, bool]) -> pd.DataFrame:
    return pd.DataFrame(list(tickets), columns=list(COLUMNS))


@pytest.fixture(scope="module")
def stories() -> pd.DataFrame:
    """Four weeks in which the router is right in four of five."""
    chance = np.random.default_rng(0)
    n = 600
    departments = chance.choice(["hosting", "domains"], n)
    kinds = np.where(chance.random(n) < 0.2, "incident", "advisory")
    right = chance.random(n) < 0.8
    return pd.DataFrame(
        {
            "created_at": pd.Timestamp("2026-03-02", tz="UTC") + pd.to_timedelta(np.sort(chance.uniform(0, 28 * 1440, n)), unit="min"),
            "kind": kinds, "department": departments, "declared_kind": "incident", "decided_kind": kinds,
            "decided_department": np.where(right, departments, np.where(departments == "hosting", "domains", "hosting")),
            "action": np.where(chance.random(n) < 0.7, "auto", chance.choice(["suggest", "review"], n)), "held": False,
        }
    )  # fmt: skip


def test_one_ticket_waits_for_the_first_line_or_for_nobody() -> None:
    arrivals = month((0, *AUTO))
    before, after = (work_through(arrivals, OFFICE, router=router) for router in (False, True))
    assert list(before.loc[0, ["waited", "moves", "handled", "worked"]]) == [5, 0, 5, 10]
    assert list(after.loc[0, ["waited", "moves", "handled", "worked"]]) == [0, 0, 0, 10]


@pytest.mark.parametrize(
    ("decided", "action", "waited", "moves", "handled"),
    [
        ("domains", "auto", 8, 1, 8),  # the wrong team reads it and passes it on
        ("hosting", "suggest", 2, 0, 2),  # confirmed
        ("domains", "suggest", 5, 0, 5),  # a person sees that it is not so, and sorts it
        ("hosting", "review", 5, 0, 5),
    ],
)
def test_what_the_router_says_decides_who_reads_it(decided: str, action: str, waited: float, moves: int, handled: float) -> None:
    told = work_through(month((0, "advisory", "hosting", "incident", "advisory", decided, action, False)), OFFICE, router=True)
    assert list(told.loc[0, ["waited", "moves", "handled"]]) == [waited, moves, handled]


def test_a_team_takes_incidents_first_and_an_incident_taken_for_advice_waits_its_turn() -> None:
    busy = [(0.0, *AUTO), (1.0, *AUTO)]
    known = work_through(month(*busy, (2.0, "incident", "hosting", "", "incident", "hosting", "auto", False)), OFFICE, router=True)
    assert known["waited"].tolist() == [0, 29, 8]  # it overtakes the second
    unknown = work_through(month(*busy, (2.0, "incident", "hosting", "", "advisory", "hosting", "auto", False)), OFFICE, router=True)
    assert unknown["waited"].tolist() == [0, 9, 18]


def test_the_first_line_takes_first_what_is_declared_or_held_for_an_incident() -> None:
    calm = ("advisory", "domains", "advisory", "advisory", "domains", "review", False)
    loud = ("incident", "hosting", "incident", "advisory", "hosting", "review", True)
    for router in (False, True):
        told = work_through(month((0.0, *calm), (1.0, *calm), (2.0, *loud)), OFFICE, router=router)
        assert told["waited"].tolist()[2] == 8  # 3 until the first is sorted, and 5


def test_the_work_is_the_same_with_the_router_and_without(stories: pd.DataFrame) -> None:
    arrivals = replay(stories)
    office = replace(OFFICE, spread=0.8, mistaken=0.1)
    before, after = (work_through(arrivals, office, router=router, seed=3) for router in (False, True))
    assert before["worked"].tolist() == after["worked"].tolist()
    assert before["worked"].groupby(before["kind"]).mean().tolist() == pytest.approx([10, 20], rel=0.25)
    assert before["moves"].mean() == pytest.approx(0.1, abs=0.04)
    assert after["handled"].sum() < before["handled"].sum()
    assert (before["waited"] >= 5).all()
    assert work_through(arrivals, office, router=True, seed=3).equals(after)


def test_a_router_that_is_more_often_wrong_is_worth_less(stories: pd.DataFrame) -> None:
    arrivals = replay(stories)
    worse = more_wrong(arrivals, 0.3)
    for decided, truth in (("decided_department", "department"), ("decided_kind", "kind")):
        right = [(own[decided] == own[truth]).mean() for own in (arrivals, worse)]
        assert right[1] == pytest.approx(0.7 * right[0], abs=0.05)
    assert (arrivals["decided_department"] == replay(stories)["decided_department"]).all()  # the arrivals themselves stay
    good, bad = (summary(work_through(own, OFFICE, router=True)) for own in (arrivals, worse))
    assert bad["moves"] > good["moves"]
    assert bad["hours of sorting and passing on"] > good["hours of sorting and passing on"]


def test_each_story_stands_for_several_within_its_hour(stories: pd.DataFrame) -> None:
    once, often = replay(stories), replay(stories, 3)
    assert once["minute"].tolist() == sorted(once["minute"])
    assert len(often) == 3 * len(once)
    assert often["department"].value_counts().tolist() == (3 * once["department"].value_counts()).tolist()
    by_day = [(own["minute"] // 1440).value_counts(normalize=True).sort_index() for own in (once, often)]
    assert np.abs(by_day[0] - by_day[1]).max() < 0.01


def test_the_summary_by_hand() -> None:
    handled = pd.DataFrame(
        {"kind": ["incident", "incident", "advisory"], "waited": [10.0, 90.0, 30.0], "moves": [0, 1, 2], "handled": [5.0, 13.0, 12.0], "worked": 1.0}
    )
    assert summary(handled) == {
        "incident waits, median": 50.0, "incident waits, 90%": 82.0, "incidents that wait over an hour": 1, "advice waits, median": 30.0,
        "moves": 3, "hours of sorting and passing on": 0.5,
    }  # fmt: skip


def test_a_department_in_which_nobody_works_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody works in domains"):
        work_through(month((0, "advisory", "domains", "", "advisory", "domains", "auto", False)), replace(OFFICE, teams={"hosting": 1}), router=True)
