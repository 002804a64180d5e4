from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from model.router import Router, Target
from training.evaluate import calibration_error, evaluate, interval, judge, share
from training.table import TicketTable

TARGET = Target("kind", ("advisory", "incident"), 0, 1.0, (0.0, 0.0), promise=0.9, threshold=0.8, protect={"incident": 0.3})

# Probability of incident and the right label: three right, one advisory taken for an incident and two incidents missed.
JUDGED = [(0.1, 0), (0.25, 0), (0.9, 1), (0.8, 0), (0.4, 1), (0.05, 1)]
LANGUAGES = ["fr", "fr", "fr", "en", "en", ""]


@pytest.fixture
def figures() -> dict[str, Any]:
    probabilities = np.array([[1 - p, p] for p, _ in JUDGED])
    return judge(TARGET, probabilities, np.array([code for _, code in JUDGED]), LANGUAGES)


@given(of=st.integers(1, 3000), data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_interval_is_wilsons(of: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, of))
    wilson = binomtest(right, of).proportion_ci(method="wilson")
    low, high = interval(right, of)
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-4)
    assert 0 <= low <= right / of + 1e-4
    assert right / of - 1e-4 <= high <= 1


def test_the_interval_of_nothing_is_everything() -> None:
    assert interval(0, 0) == [0.0, 1.0]


@pytest.mark.parametrize("of", [0, 7])
def test_figures_are_plain_numbers(of: int) -> None:
    """A numpy number would stand as np.float64(0.5) in the card and in the report."""
    shown = share(np.ones(of, bool))
    assert [type(bound) for bound in shown["interval"]] == [float, float]
    assert type(shown["n"]) is int


def test_a_share_says_what_it_is_of() -> None:
    assert share(np.array([True, False, True, True])) == {"share": 0.75, "interval": [0.3006, 0.9544], "n": 4}
    assert share(np.empty(0, bool)) == {"share": None, "interval": [0.0, 1.0], "n": 0}


def test_the_calibration_error_by_hand() -> None:
    # 30 tickets, 15 bins of two each in the order of confidence. Each pair says 0.6 + 0.6 and has one right: |1 - 1.2| = 0.2.
    assert calibration_error(np.full(30, 0.6), np.arange(30) % 2 == 0) == pytest.approx(15 * 0.2 / 30)
    # One pair of 1.0 is wholly wrong, the 14 others are right and say so.
    right = np.arange(30) >= 2
    assert calibration_error(np.ones(30), right) == pytest.approx(2 / 30)
    # Over- and underconfidence in different bins do not cancel out.
    confidence = np.concatenate([np.full(15, 0.5), np.full(15, 0.7)])
    right = np.concatenate([np.ones(15, bool), np.zeros(15, bool)])
    # Seven pairs at 0.5 all right (gap 1), one pair across (0.5 right, 0.7 wrong: 1 - 1.2), seven at 0.7 all wrong (gap 1.4).
    assert calibration_error(confidence, right) == pytest.approx((7 * 1 + 0.2 + 7 * 1.4) / 30)
    assert calibration_error(np.empty(0), np.empty(0, bool)) == 0.0


def test_honest_confidences_have_nearly_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    right = rng.random(20_000) < confidence
    assert calibration_error(confidence, right) < 0.02
    assert calibration_error(np.minimum(confidence + 0.1, 1), right) > 0.07


def test_the_figures_of_six_tickets_by_hand(figures: dict[str, Any]) -> None:
    assert figures["n"] == 6
    assert figures["accuracy"]["share"] == 0.5
    assert figures["confusion"] == [[2, 1], [2, 1]]
    assert figures["labels"]["advisory"] | {"recall_interval": 0} == {
        "support": 3, "precision": 0.5, "recall": 0.6667, "recall_interval": 0, "f1": 0.5714,
    }  # fmt: skip
    assert figures["labels"]["incident"] | {"recall_interval": 0} == {
        "support": 3, "precision": 0.5, "recall": 0.3333, "recall_interval": 0, "f1": 0.4,
    }  # fmt: skip
    assert figures["labels"]["incident"]["recall_interval"] == interval(1, 3)
    assert figures["macro_f1"] == pytest.approx((0.5714 + 0.4) / 2, abs=1e-4)
    likelihood = -np.log([0.9, 0.75, 0.9, 0.2, 0.4, 0.05]).mean()
    assert figures["log_loss"] == pytest.approx(likelihood, abs=1e-4)


def test_what_is_sure_enough_is_counted_against_the_promise(figures: dict[str, Any]) -> None:
    # At least 0.8 sure: 0.9 advisory, 0.9 incident, 0.8 incident (wrong), 0.95 advisory (wrong).
    promise = figures["promise"]
    assert (promise["precision"], promise["threshold"]) == (0.9, 0.8)
    assert (promise["coverage"]["share"], promise["coverage"]["n"]) == (0.6667, 6)
    assert (promise["observed"]["share"], promise["observed"]["n"]) == (0.5, 4)


def test_without_a_threshold_nothing_is_covered() -> None:
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0]])
    promise = judge(replace(TARGET, threshold=None), probabilities, np.array([1, 0]), ["fr", "fr"])["promise"]
    assert promise["coverage"]["share"] == 0
    assert promise["observed"]["share"] is None


def test_a_protected_label_has_two_recalls(figures: dict[str, Any]) -> None:
    # Of the three incidents one is decided; that of 0.4 is held back, that of 0.05 is lost.
    protected = figures["protected"]["incident"]
    assert protected["recall"]["share"] == 0.3333
    assert protected["recall_with_possible"]["share"] == 0.6667
    assert protected["threshold"] == 0.3


def test_the_majority_stands_beside_every_score(figures: dict[str, Any]) -> None:
    assert figures["majority"]["accuracy"] == 0.5
    codes = np.array([0, 0, 0, 1])
    judged = judge(TARGET, np.full((4, 2), 0.5), codes, ["fr", "en", "en", "en"])
    assert judged["majority"] == {"label": "advisory", "accuracy": 0.75}
    assert judged["languages"]["en"]["majority"] == 0.6667


def test_the_figures_are_split_by_language(figures: dict[str, Any]) -> None:
    languages = figures["languages"]
    assert list(languages) == ["?", "en", "fr"]
    assert {code: (of["share"], of["n"], of["majority"]) for code, of in languages.items()} == {
        "fr": (1.0, 3, 0.6667), "en": (0.0, 2, 0.5), "?": (0.0, 1, 1.0),
    }  # fmt: skip
    assert languages["fr"]["interval"] == interval(3, 3)


def test_a_ticket_without_the_label_is_not_judged() -> None:
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1]])
    judged = judge(TARGET, probabilities, np.array([1, -1]), ["fr", "xx"])
    assert judged["n"] == 1
    assert judged["accuracy"]["share"] == 1.0
    assert list(judged["languages"]) == ["fr"]
    assert judge(TARGET, probabilities, np.array([-1, -1]), ["fr", "fr"]) == {"n": 0}


def test_a_label_that_is_absent_does_not_pull_the_mean_down() -> None:
    target = replace(TARGET, labels=("advisory", "incident", "never"), offsets=(0.0, 0.0, 0.0))
    judged = judge(target, np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]), np.array([0, 1]), ["fr", "fr"])
    assert judged["macro_f1"] == 1.0
    assert judged["labels"]["never"]["support"] == 0


def some_of(table: TicketTable, which: range, **changes: Any) -> TicketTable:
    labels = {name: [values[i] for i in which] for name, values in table.labels.items()}
    part = TicketTable([table.texts[i] for i in which], labels, [table.languages[i] for i in which], table.text_columns)
    return replace(part, **changes)


def test_a_router_is_judged_target_by_target(router: Router, table: TicketTable) -> None:
    part = some_of(table, range(0, len(table), 5))
    figures = evaluate(router, part)
    assert figures["tickets"] == len(part)
    assert set(figures["targets"]) == {"kind", "department"}
    assert figures["targets"]["kind"]["unknown_labels"] == []
    # It has seen these tickets, so it is nearly never wrong; this is not a figure to boast with.
    assert figures["targets"]["department"]["accuracy"]["share"] > 0.95
    assert figures["language"]["share"] > 0.95
    assert figures["language"]["n"] == len(part)


def test_a_target_that_the_table_does_not_have_is_left_out(router: Router, table: TicketTable) -> None:
    part = some_of(table, range(20))
    figures = evaluate(router, replace(part, labels={"kind": part.labels["kind"], "mood": ["bad"] * 20}, languages=[""] * 20))
    assert set(figures["targets"]) == {"kind"}
    assert "language" not in figures


def test_a_label_that_the_router_does_not_know_is_named_and_counted_as_wrong(router: Router, table: TicketTable) -> None:
    part = some_of(table, range(0, 1155, 50))
    known = evaluate(router, part)["targets"]["department"]
    strange = replace(part, labels={"department": ["abuse", "abuse", "legal", *part.labels["department"][3:]]})
    figures = evaluate(router, strange)["targets"]["department"]
    assert figures["unknown_labels"] == ["abuse", "legal"]
    assert figures["n"] == known["n"]
    assert figures["accuracy"]["share"] <= 1 - 3 / known["n"] + 1e-4
