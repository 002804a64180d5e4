"""What a promise lets through, and what that costs: by hand on a few answers, and on the shipped tickets."""

from typing import Any

import numpy as np
import pytest

from training import mistakes, noise
from training.mistakes import Misleading
from training.noise import Judged, OutOfFold
from training.risk import Minutes, at_promises, at_the_door
from training.table import TicketTable

MINUTES = Minutes(sorting=6, confirming=3, passing_on=12, passed_over=60)


@pytest.fixture(scope="module")
def judged(table: TicketTable) -> OutOfFold:
    return noise.out_of_fold(table)


def answers(confident: list[float], right: list[bool]) -> Judged:
    """Advice that is answered with so much confidence, rightly or wrongly."""
    codes = np.array([0 if good else 1 for good in right])
    return Judged("kind", ["advisory", "incident"], codes, 0, np.array([[p, 1 - p] for p in confident]))


def by_hand(*targets: Judged) -> OutOfFold:
    return OutOfFold([""] * len(targets[0].codes), list(targets), *[None] * 4)  # type: ignore[arg-type]


def test_without_a_promise_everything_is_routed_and_the_hours_are_those_of_its_errors() -> None:
    (found,) = at_promises(by_hand(answers([0.9] * 10, [True] * 8 + [False] * 2)), [0], MINUTES)
    assert (found["routed"], found["confirmed"], found["decided"], found["wrong"]) == (1.0, 0.0, 0.0, 0.2)
    assert found["hours"] == {"sorting": 0.0, "confirming": 0.0, "passing on": 40.0, "incidents passed over": 0.0}


def test_a_promise_that_nothing_keeps_leaves_all_to_people() -> None:
    (found,) = at_promises(by_hand(answers([0.9] * 10, [True] * 5 + [False] * 5)), [0.99], MINUTES)
    assert (found["routed"], found["decided"]) == (0.0, 1.0)
    assert found["hours"]["sorting"] == 100.0


def test_an_incident_answered_as_advice_is_passed_over_unless_it_is_held_back() -> None:
    target = answers([0.999] * 200 + [0.6], [True] * 200 + [False])
    incidents = Judged("kind", target.labels, np.concatenate([target.codes, np.ones(99, int)]), 0,
                       np.concatenate([target.probabilities, [[0.1, 0.9]] * 99]))  # fmt: skip
    (loose,) = at_promises(by_hand(incidents), [0], MINUTES)
    (careful,) = at_promises(by_hand(incidents), [0], MINUTES, protect={"kind": ["incident"]})
    assert loose["hours"]["passing on"] > 0
    assert loose["passed_over"] == 0.0  # nothing is protected
    assert careful["passed_over"] == 0.0
    assert careful["confirmed"] == pytest.approx(1 / 300, abs=1e-4)  # the one is held back, and a person sees it
    door = at_the_door(incidents, np.ones(300, bool), ["incident"])
    assert np.flatnonzero(door.held).tolist() == [200]


def test_the_mix_at_the_door_weighs_the_tickets_anew() -> None:
    target = Judged("kind", ["advisory", "incident"], np.array([0] * 50 + [1] * 50), 0, np.array([[0.9, 0.1]] * 50 + [[0.9, 0.1]] * 50))
    (even,) = at_promises(by_hand(target), [0], MINUTES)
    (door,) = at_promises(by_hand(target), [0], MINUTES, prior={"kind": {"incident": 0.2}})
    assert even["wrong"] == 0.5
    assert door["wrong"] == pytest.approx(0.2, abs=1e-3)


def test_on_the_shipped_tickets_more_promise_means_less_risk_and_less_coverage(judged: OutOfFold) -> None:
    found = at_promises(judged, [0.85, 0.93, 0.97], Minutes(), protect={"kind": ["incident"]}, prior={"kind": {"incident": 0.2}})
    for name in ("routed", "wrong", "passed_over"):
        values = [own[name] for own in found]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]
    assert all(own["routed"] + own["confirmed"] + own["decided"] == pytest.approx(1, abs=2e-4) for own in found)
    assert all(own["wrong"] <= 2 * (1 - own["promise"]) for own in found)  # two targets, each with its promise


def test_a_word_that_always_leads_astray_stands_first(table: TicketTable, judged: OutOfFold) -> None:
    found = mistakes.by_words(judged, "department")
    own = next(target for target in judged.targets if target.name == "department")
    assert found
    assert all(isinstance(one, Misleading) and one.wrong == len(one.tickets) >= mistakes.LEAST for one in found)
    for one in found:
        for ticket in one.tickets:
            assert one.phrase in table.texts[ticket].casefold()
            assert own.labels[own.best[ticket]] == one.answered != table.labels["department"][ticket]
    usual = float((own.best != own.codes).mean())
    beyond = [one.wrong - usual * (one.wrong + one.right) for one in found]
    assert beyond == sorted(beyond, reverse=True)


def test_it_counts_each_ticket_once_for_a_word(judged: OutOfFold) -> None:
    told: dict[Any, int] = {}
    for one in mistakes.by_words(judged, "kind", least=1):
        assert len(set(one.tickets)) == len(one.tickets)
        told[one.phrase, one.answered] = told.get((one.phrase, one.answered), 0) + 1
    assert set(told.values()) == {1}
