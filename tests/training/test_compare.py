"""Two routers on the same tickets: figures by hand, intervals that mean what they say, and pages that a ticket cannot break."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from model.policy import Policy
from model.router import Router, Target
from training import comparison_page, gate, paired
from training.compare import Answered, answer, groups_of, measure
from training.evaluate import evaluate
from training.flips import LONGEST, flips
from training.table import TicketTable
from training.trial import _Remembering

KIND = Target("kind", ("advisory", "incident"), 0, 1.0, (0.0, 0.0), 0.9, 0.8, {"incident": 0.1})
TRUTH = ["incident", "incident", "incident", "advisory", "advisory", "advisory", ""]
CHAMPION = ["incident", "incident", "advisory", "advisory", "advisory", "incident", "incident"]
CANDIDATE = ["incident", "advisory", "advisory", "advisory", "advisory", "advisory", "advisory"]
AUTO = [True, False, True, True, False, False, True]
SEEN = TicketTable(
    [f"t{i}" for i in range(7)], {"kind": TRUTH}, ["fr", "fr", "en", "fr", "en", "en", "fr"], ("body",), tiers=["premium"] * 3 + [""] * 4
)


def answered(labels: list[str], version: str, held: int | None = None) -> Answered:
    holds = np.arange(len(labels)) == (-1 if held is None else held)
    confidence = {"kind": np.linspace(0.5, 0.95, len(labels))}
    return Answered(version, {"kind": KIND}, {"kind": np.array(labels)}, confidence, np.array(AUTO), {("kind", "incident"): holds}, np.zeros(7, bool))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return measure(SEEN, answered(CHAMPION, "a", held=2), answered(CANDIDATE, "b"), np.arange(7))


def shares(of: dict[str, Any]) -> tuple[int, float | None, float | None]:
    return of["n"], of["champion"], of["candidate"]


def test_the_figures_of_six_tickets_by_hand(figures: dict[str, Any]) -> None:
    kind = figures["targets"]["kind"]
    assert (figures["tickets"], figures["missing"]) == (7, [])
    assert shares(kind["accuracy"]) == (6, 0.6667, 0.6667)
    assert (kind["accuracy"]["lost"], kind["accuracy"]["won"], kind["accuracy"]["difference"]) == (1, 1, 0.0)
    assert shares(kind["labels"]["incident"]) == (3, 0.6667, 0.3333)
    assert shares(kind["labels"]["advisory"]) == (3, 0.6667, 1.0)
    assert {code: shares(of) for code, of in kind["languages"].items()} == {"fr": (3, 1.0, 0.6667), "en": (3, 0.3333, 0.6667)}
    assert {tier: shares(of) for tier, of in kind["tiers"].items()} == {"premium": (3, 0.6667, 0.3333), "?": (3, 0.6667, 1.0)}
    # Of the incidents the champion holds back the one that it takes for advice; the candidate lets two pass.
    protected = kind["protected"]["incident"]
    assert protected["let_pass"] == {"champion": 0, "candidate": 2}
    assert shares(protected["not_let_pass"]) == (3, 1.0, 0.3333)
    # Routed without a person, with a label: 0, 2 and 3; both have 2 wrong.
    assert kind["promise"]["champion"] | {"p_value": 0} == {"n": 3, "observed": 0.6667, "promised": 0.9, "p_value": 0}
    assert shares(figures["coverage"]) == (7, 0.5714, 0.5714)


def test_macro_f1_is_what_scikit_learn_makes_of_it(figures: dict[str, Any]) -> None:
    for who, said in (("champion", CHAMPION), ("candidate", CANDIDATE)):
        expected = f1_score(TRUTH[:6], said[:6], average="macro")
        assert figures["targets"]["kind"]["macro_f1"][who] == pytest.approx(expected, abs=1e-4)


def test_the_comparison_says_what_the_evaluation_says(router: Router, policy: Policy, table: TicketTable) -> None:
    """The same tickets, asked in two ways."""
    part = TicketTable(table.texts[::9], {name: of[::9] for name, of in table.labels.items()}, table.languages[::9], table.text_columns)
    mine = answer(router, policy, part.texts)
    found = measure(part, mine, replace(mine, version="b"), groups_of(part.texts), resamples=20)
    judged = evaluate(router, part)
    for name, of in found["targets"].items():
        assert of["accuracy"]["champion"] == judged["targets"][name]["accuracy"]["share"]
        assert of["macro_f1"]["champion"] == judged["targets"][name]["macro_f1"]
        assert of["calibration_error"]["champion"] == pytest.approx(judged["targets"][name]["calibration_error"], abs=1e-3)
        assert of["accuracy"]["interval"] == [0.0, 0.0]
        assert set(of["languages"]) == set(judged["targets"][name]["languages"])
    recall = judged["targets"]["kind"]["protected"]["incident"]
    assert found["targets"]["kind"]["protected"]["incident"]["recall"]["champion"] == recall["recall"]["share"]
    assert found["targets"]["kind"]["protected"]["incident"]["not_let_pass"]["champion"] >= recall["recall_with_possible"]["share"]
    assert 0.5 < found["coverage"]["champion"] <= 1


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """95% intervals of a difference that is known, from tables of 300 tickets with 5% to and fro and a loss of 5 points."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        outcome = rng.choice(3, size=300, p=[0.075, 0.025, 0.9])
        sums = paired.Sums(np.arange(300))
        a, b = sums.add(outcome != 1), sums.add(outcome != 0)
        drawn = sums.draw(200, 0)
        low, high = paired.interval((drawn[1:, b] - drawn[1:, a]) / 300) or [9.0, 9.0]
        held += low <= -0.05 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_the_interval_is_wider_where_tickets_say_the_same() -> None:
    alone = np.arange(200)
    right = alone % 10 != 0
    widths = []
    for group in (alone, alone // 10 * 10 + (~right)):  # the wrong ones in groups of their own, the right ones together
        sums = paired.Sums(group)
        column = sums.add(right)
        low, high = paired.interval(sums.draw(500, 0)[1:, column]) or [0.0, 0.0]
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_the_first_sums_are_those_of_the_tickets_and_a_seed_gives_the_same() -> None:
    def drawn(seed: int) -> Any:
        sums = paired.Sums(np.array([5, 5, 9, 7]))
        sums.add(np.array([1, 2, 3, 4]))
        sums.add(np.array([True, False, False, True]))
        return sums.draw(150, seed)

    one = drawn(0)
    assert one.shape == (151, 2)
    assert one[0].tolist() == [10, 2]
    assert set(one[1:, 0]) <= {3 * a + 3 * b + 4 * (3 - a - b) for a in range(4) for b in range(4 - a)}
    assert np.array_equal(one, drawn(0))
    assert not np.array_equal(one, drawn(1))


def test_mcnemar_by_hand() -> None:
    champion, candidate = np.array([True] * 9 + [False] + [True] * 5), np.array([False] * 9 + [True] + [True] * 5)
    found = paired.mcnemar(champion, candidate, np.arange(15))
    # Of ten coins nine or more fall on the one side with probability 11/1024.
    assert (found["lost"], found["won"], found["groups"]) == (9, 1, 15)
    assert found["p_loss"] == pytest.approx(11 / 1024, abs=1e-5)
    assert found["p_value"] == pytest.approx(22 / 1024, abs=1e-5)
    same = paired.mcnemar(champion, champion, np.arange(15))
    assert (same["p_loss"], same["p_value"]) == (1.0, 1.0)
    together = paired.mcnemar(champion, candidate, np.array([0] * 9 + [1] * 6))
    assert (together["lost"], together["won"], together["groups"]) == (1, 1, 2)


def test_few_right_ones_under_a_promise_by_hand() -> None:
    # Of 10 tickets none, or one, is wrong with probability 0.9^10 + 10 * 0.1 * 0.9^9 if nine in ten are right: so 8 or fewer are right with the rest.
    assert paired.under(8, 10, 0.9, np.arange(10)) == pytest.approx(1 - 0.9**10 - 0.9**9, abs=1e-4)
    assert paired.under(10, 10, 0.9, np.arange(10)) == 1.0
    assert paired.under(0, 0, 0.9, np.arange(0)) == 1.0
    assert paired.under(80, 100, 0.9, np.arange(100)) < 0.01 < paired.under(80, 100, 0.9, np.arange(100) // 10)


def test_nothing_to_compare_is_no_figure() -> None:
    nothing = TicketTable(["a", "b"], {"kind": ["", ""]}, ["fr", "en"], ("body",))
    mine = replace(answered(CHAMPION, "a"), labels={"kind": np.array(["incident"] * 2)}, confidence={"kind": np.ones(2)}, auto=np.ones(2, bool),
                   held={("kind", "incident"): np.zeros(2, bool)}, asked=np.zeros(2, bool))  # fmt: skip
    kind = measure(nothing, mine, mine, np.arange(2), resamples=5)["targets"]["kind"]
    assert (kind["accuracy"]["n"], kind["accuracy"]["champion"], kind["accuracy"]["interval"]) == (0, None, None)
    assert kind["macro_f1"]["champion"] is None


def worse(router: Router) -> Router:
    """It takes nearly everything for advice."""
    bias = router.bias.copy()
    bias[router.targets[0].first + router.targets[0].labels.index("advisory")] += 100
    return replace(router, bias=bias, version="2026-11-22T10-00-00Z-00bb")


def test_flips_are_told_with_the_words_and_bounded(router: Router, policy: Policy, table: TicketTable) -> None:
    routers = {"champion": router, "candidate": worse(router)}
    part = TicketTable(table.texts[:400], {"kind": table.labels["kind"][:400]}, table.languages[:400], table.text_columns, ids=table.ids[:400])
    a, b = (answer(one, policy, part.texts) for one in routers.values())
    found = flips(part, a, b, routers, 4)
    lost = [flip for flip in found if flip["right"] == "champion"]
    assert len(lost) == 4
    for flip in found:
        wrong = flip["candidate" if flip["right"] == "champion" else "champion"]
        assert flip[flip["right"]]["label"] == flip["label"] == part.labels["kind"][flip["row"] - 1] != wrong["label"]  # type: ignore[literal-required]
        assert part.ids[flip["row"] - 1] == flip["id"]
        assert len(flip["text"]) <= LONGEST
        for word in (*flip["champion"]["words"], *flip["candidate"]["words"]):
            assert word in part.texts[flip["row"] - 1]
    assert any(flip["champion"]["words"] for flip in lost)
    sure = [flip["candidate"]["confidence"] for flip in lost]
    assert sure == sorted(sure, reverse=True)
    assert flips(part, a, b, routers, 0) == []


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y> {{ 7*7 }} ]]>"


def test_a_page_stands_alone_and_escapes_what_tickets_and_tables_say() -> None:
    hostile = TicketTable(
        [HOSTILE] * 7, {"kind": [*TRUTH[:5], HOSTILE, ""]}, SEEN.languages, ("body",), ids=[HOSTILE] * 7, tiers=[HOSTILE] * 3 + ["x"] * 4
    )
    found = measure(hostile, answered(CHAMPION, "a"), answered(CANDIDATE, "b"), np.arange(7), resamples=5)
    said = {"label": HOSTILE, "confidence": 0.9, "words": [HOSTILE, "b"]}
    flip: Any = {"target": "kind", "right": "candidate", "row": 1, "id": HOSTILE, "language": "fr", "label": HOSTILE, "text": HOSTILE}
    page = comparison_page.page(found, gate.judge(found), [HOSTILE], [flip | {"champion": said, "candidate": said}])
    assert page.count("&lt;script&gt;alert(1)") >= 8
    for harm in ("<script", "<img", "onerror=y>", "<link", "@import", "url("):
        assert harm not in page.replace("&lt;", "")
    assert "49" not in page.split("<h2>")[-1]
    assert "<svg" in page
    assert "The gate refuses it" in page


def test_a_page_shows_the_figures() -> None:
    found = measure(SEEN, answered(CHAMPION, "a"), answered(CANDIDATE, "b"), np.arange(7))
    page = comparison_page.page(found, gate.judge(found), [])
    assert "66.7%" in page
    assert "by customer tier" in page
    assert "are too few to judge by" in page


class Counting:
    """An encoder whose rows are the lengths of the texts."""

    name, dimensions = "counting", 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([[len(text)] for text in texts], np.float32)


def test_the_encoder_of_both_is_asked_for_a_text_once() -> None:
    counting = Counting()
    both = _Remembering(counting)
    assert both.encode(["a", "bb", "a"]).tolist() == [[1], [2], [1]]
    assert both.encode(["bb", "ccc"]).tolist() == [[2], [3]]
    assert both.encode(["a"]).tolist() == [[1]]
    assert counting.asked == ["a", "bb", "ccc"]
