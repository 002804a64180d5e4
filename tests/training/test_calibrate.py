import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binom

from training import calibrate

LABELS = ("advisory", "incident", "other")


def drawn(rng: np.random.Generator, n: int, sharpness: float, offsets: list[float]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores, and labels drawn with the very probabilities that ``softmax(sharpness * score + offsets)`` gives."""
    scores = rng.standard_normal((n, len(offsets))).astype(np.float32)
    p = softmax(scores * sharpness + np.array(offsets), axis=1)
    return scores, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize(("sharpness", "offsets"), [(3.0, [0.0, 0.0, 0.0]), (0.5, [1.0, -1.0, 0.0]), (8.0, [-0.5, 1.0, -0.5])])
def test_the_probabilities_that_made_the_labels_are_found(sharpness: float, offsets: list[float]) -> None:
    scores, codes = drawn(np.random.default_rng(0), 20_000, sharpness, offsets)
    a, b = calibrate.fit(scores, codes)
    assert a == pytest.approx(sharpness, rel=0.05)
    assert b - b.mean() == pytest.approx(np.array(offsets) - np.mean(offsets), abs=0.1)


def test_tickets_without_a_label_teach_nothing() -> None:
    scores, codes = drawn(np.random.default_rng(0), 400, 2.0, [0.5, -0.5])
    partly = np.where(np.arange(400) % 2, codes, -1)
    a, b = calibrate.fit(scores, partly)
    alone = calibrate.fit(scores[1::2], codes[1::2])
    assert a == alone[0]
    assert np.array_equal(b, alone[1])


def test_no_ticket_at_all_leaves_the_scores_as_they_are() -> None:
    a, b = calibrate.fit(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert (a, b.tolist()) == (1.0, [0.0, 0.0, 0.0])


def test_few_tickets_move_the_offsets_little() -> None:
    a, b = calibrate.fit(np.zeros((3, 2), np.float32), np.array([0, 0, 0]))
    assert np.isfinite(a)
    assert 0 < b[0] - b[1] < 1


@given(of=st.integers(1, 200), data=st.data(), risk=st.sampled_from([0.005, 0.05, 0.1]))
@settings(max_examples=60, deadline=None)
def test_the_lower_bound_is_the_share_under_which_so_many_right_would_be_a_rare_chance(of: int, data: st.DataObject, risk: float) -> None:
    right = data.draw(st.integers(1, of))
    bound = calibrate.lower_bound(right, of, risk)
    assert 0 < bound < right / of
    assert binom.sf(right - 1, of, bound) == pytest.approx(risk, rel=1e-6)


def test_no_right_answer_promises_nothing() -> None:
    assert calibrate.lower_bound(0, 50, 0.1) == 0.0


def test_the_threshold_is_the_lowest_that_holds() -> None:
    # The first 600 of 1000 are right; below, every other one. 95% hold down to some place between the two halves.
    confidence = np.linspace(1, 0.5, 1000)
    right = (np.arange(1000) < 600) | (np.arange(1000) % 2 == 0)
    threshold = calibrate.promise_threshold(confidence, right, 0.95)
    assert threshold is not None
    covered = confidence >= threshold
    assert calibrate.lower_bound(int(right[covered].sum()), int(covered.sum()), calibrate.RISK / calibrate.STEPS) >= 0.95
    further = len(confidence) // calibrate.STEPS + int(covered.sum())
    assert calibrate.lower_bound(int(right[:further].sum()), further, calibrate.RISK / calibrate.STEPS) < 0.95
    lower = calibrate.promise_threshold(confidence, right, 0.9)
    assert lower is not None
    assert lower < threshold


@pytest.mark.parametrize("n", [0, 1, 20])
def test_too_few_tickets_promise_nothing(n: int) -> None:
    assert calibrate.promise_threshold(np.full(n, 0.99), np.ones(n, bool), 0.95) is None


def test_a_promise_that_is_not_kept_gives_no_threshold() -> None:
    rng = np.random.default_rng(0)
    assert calibrate.promise_threshold(rng.random(2000), rng.random(2000) < 0.8, 0.9) is None


def test_tickets_of_the_same_confidence_stand_or_fall_together() -> None:
    # Half of them are right, and those come first in the table: a threshold of 0.9 would cover the other half too.
    confidence = np.full(1000, 0.9)
    assert calibrate.promise_threshold(confidence, np.arange(1000) < 500, 0.8) is None
    assert calibrate.promise_threshold(confidence, np.arange(1000) < 990, 0.8) == 0.9


@pytest.mark.parametrize(("n", "promise"), [(200, 0.8), (400, 0.85), (1000, 0.9)])
def test_a_promise_is_kept_in_nine_draws_of_ten(n: int, promise: float) -> None:
    """A population whose confidences are too high by a tenth; thresholds are set on samples, and judged on all of it."""
    rng = np.random.default_rng(0)
    population = np.sort(rng.beta(4, 1, 200_000))
    chance = np.clip(population - 0.1 * (population < 0.95), 0, 1)
    from_here_on = chance[::-1].cumsum()[::-1] / np.arange(len(chance), 0, -1)  # precision of all that are at least as sure
    draws, broken, given_one = 400, 0, 0
    for _ in range(draws):
        drawn = rng.integers(0, len(population), n)
        threshold = calibrate.promise_threshold(population[drawn], rng.random(n) < chance[drawn], promise)
        if threshold is not None:
            given_one += 1
            broken += bool(from_here_on[np.searchsorted(population, threshold)] < promise)
    assert given_one > draws / 2
    assert broken <= calibrate.RISK * draws


def test_the_recall_of_a_protected_label_is_kept_in_nine_draws_of_ten() -> None:
    rng = np.random.default_rng(0)
    recall, population = 0.95, np.sort(rng.beta(2, 1, 100_000))
    draws, broken = 400, 0
    for _ in range(draws):
        limit = calibrate.protect_threshold(population[rng.integers(0, len(population), 300)], recall)
        assert limit > 0
        broken += bool((population >= limit).mean() < recall)
    assert 0 < broken <= calibrate.RISK * draws


def test_too_few_tickets_protect_everything() -> None:
    assert calibrate.protect_threshold(np.array([0.9, 0.8, 0.99]), 0.97) == 0.0
    assert calibrate.protect_threshold(np.empty(0), 0.97) == 0.0


def test_the_protecting_threshold_is_the_highest_that_holds() -> None:
    # Of 100, three may be missed if 92% are to be found: the bound for 97 is above, the one for 96 below.
    assert calibrate.lower_bound(97, 100, calibrate.RISK) > 0.92 + 0.01 > calibrate.lower_bound(96, 100, calibrate.RISK)
    assert calibrate.protect_threshold(np.arange(100) / 100, 0.93) == 0.03


@given(prior=st.dictionaries(st.sampled_from(LABELS), st.floats(0.02, 0.3), max_size=2), counts=st.tuples(*[st.integers(1, 500)] * 3))
@settings(max_examples=60, deadline=None)
def test_prior_shift_moves_probabilities_as_bayes_says(prior: dict[str, float], counts: tuple[int, int, int]) -> None:
    codes = np.repeat(np.arange(3), counts)
    share = np.array(counts) / sum(counts)
    rest = sum(share[k] for k, label in enumerate(LABELS) if label not in prior)
    wanted = np.array([prior.get(label, (1 - sum(prior.values())) * share[k] / rest) for k, label in enumerate(LABELS)])
    logits = np.random.default_rng(0).standard_normal((20, 3))
    before = softmax(logits, axis=1)
    after = softmax(logits + calibrate.shift(codes, LABELS, prior), axis=1)
    by_bayes = before * wanted / share
    assert after == pytest.approx(by_bayes / by_bayes.sum(axis=1, keepdims=True))


def test_a_prior_that_is_the_mix_of_the_table_changes_nothing() -> None:
    codes = np.array([0] * 80 + [1] * 20 + [-1] * 50)
    assert calibrate.shift(codes, ("advisory", "incident"), {"incident": 0.2}) == pytest.approx([0, 0])
    assert calibrate.shift(codes, ("advisory", "incident"), {}) == pytest.approx([0, 0])


def test_a_label_that_never_comes_is_not_impossible() -> None:
    shifted = calibrate.shift(np.array([0, 1]), ("advisory", "incident"), {"incident": 0.0})
    assert np.isfinite(shifted).all()
    assert shifted[1] < -10
