import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import scoring, tokens
from tests.conftest import ROOT
from training import features as training_features
from training.features import (
    DOUBTED,
    LEAST_DOCUMENTS,
    LEAST_GAIN,
    LEAST_NEAR,
    NEAR_WEIGHT,
    PLAIN,
    SUBWORD_WEIGHT,
    TELLING,
    Features,
    Recipe,
    TermCounts,
)

TEXTS = [
    "my site is down, my site is slow",
    "mon site est en panne depuis hier",
    "is the site down?",
    "サイトが落ちています",
    "",
    "la panne est depuis hier, est-ce normal?",
]
ALL = np.arange(len(TEXTS))

# Enough alike that words near each other are kept, and that some of them tell the labels apart: "disk" and "failed" do, in any order
# and at any distance; "please" and "help" come with both labels; "once" and "twice" are near each other in four texts, one too few.
MANY = (
    [f"the word{i} disk of my server failed ? please some help" for i in range(16)]
    + [f"it failed, the {i}th disk, failed I say" for i in range(24)]
    + [f"failed disk {word} サーバーが落ちた" for word in ("ok", "so", "again", "today", "?", "!", "now", "here")]
    + [f"how to pay{i} my domain ? please give help" for i in range(28)]
    + [f"invoice {i}, please, of help" for i in range(16)]
    + [f"once {word} twice" for word in ("or", "and", "not", "but")]
    + ["", "..."]
)
KINDS = np.array([0] * 48 + [1] * 48 + [-1, -1])
TEAMS = np.array([0, 1, 2] * 16 + [3, 1] * 24 + [2, -1])
RECIPES = [PLAIN, Recipe(reach=1, power=0.2, doubt=20), Recipe(reach=12, power=0.0, doubt=1), Recipe(reach=12, power=0.3, doubt=80)]


def subwords(word: str) -> Counter[str]:
    """The features of one word, by the book: itself with its edges, and its character 3- and 4-grams."""
    edged = f"<{word}>"
    grams = [edged[i : i + n] for n in range(tokens.SHORTEST, tokens.LONGEST + 1) if n < len(edged) for i in range(len(edged) - n + 1)]
    return Counter([f"word {edged}", *(f"gram {gram}" for gram in grams)])


def gain(codes: NDArray[np.int64], has: set[int], doubt: float) -> float:
    """How far the labels of the texts that have a feature are from the usual mix, `doubt` further texts of which are added: nats."""
    usual = Counter(codes[codes >= 0].tolist())
    own = Counter(code for code in codes[sorted(has)].tolist() if code >= 0)
    total = 0.0
    for code, n in usual.items():
        share = n / usual.total()
        mixed = (own[code] + doubt * share) / (own.total() + doubt)
        total += mixed * float(np.log(mixed / share))
    return total


def by_hand(texts: list[str], recipe: Recipe = PLAIN, labels: Sequence[NDArray[np.int64]] = ()) -> tuple[list[Counter[str]], list[float]]:
    """For each text its weighted features, not yet of unit length, and that length: what `Features` says it computes."""
    counts, made_of = [], {}
    for text in texts:
        found = tokens.words(text)
        words = [text[begin:end].lower() for begin, end in zip(found.begins, found.ends, strict=True)]
        pairs = [f"pair {left} {right}" for left, right in pairwise(words)]
        near = ["near " + " ".join(sorted((words[i - gap], words[i]))) for i in range(len(words)) for gap in range(2, recipe.reach + 1) if gap <= i]
        counts.append(Counter([*words, *pairs, *near]))
        made_of.update({word: subwords(word) for word in words} | {term: Counter([term]) for term in (*pairs, *near)})
    has: dict[str, set[int]] = {}
    for number, terms in enumerate(counts):
        for feature in {feature for term in terms for feature in made_of[term]}:
            has.setdefault(feature, set()).add(number)
    scale = {}
    for feature, where in has.items():
        what = feature.split()[0]
        weight = (np.log((1 + len(texts)) / (1 + len(where))) + 1) * {"gram": SUBWORD_WEIGHT, "near": NEAR_WEIGHT}.get(what, 1.0)
        if recipe.power and labels:
            for codes in labels:
                weight *= max(gain(codes, where, recipe.doubt), LEAST_GAIN) ** (recipe.power / len(labels))
            if what == "near" and not any(gain(codes, where, DOUBTED) >= TELLING for codes in labels):
                continue
        if len(where) >= (LEAST_NEAR if what == "near" else LEAST_DOCUMENTS):
            scale[feature] = weight
    rows, lengths = [], []
    for terms in counts:
        row: Counter[str] = Counter()
        squared = 0.0
        for term, count in terms.items():
            for feature, n in made_of[term].items():
                if feature in scale:
                    row[feature] += count * n * scale[feature]
                    squared += count**2 * n * scale[feature] ** 2
        rows.append(row)
        lengths.append(float(np.sqrt(squared)))
    return rows, lengths


def learned(texts: list[str], recipe: Recipe, labels: Sequence[NDArray[np.int64]] = ()) -> Features:
    features = Features(TermCounts.of(texts, recipe.reach), recipe)
    features.fit_transform(np.arange(len(texts)), labels)
    return features


def scales(features: Features) -> dict[int, float]:
    """The features that are kept, by hash, and their weights."""
    return dict(zip(features.hashes.tolist(), features.scale_.tolist(), strict=True))


def near(one: str, other: str) -> int:
    (left,), (right,) = tokens.words(one).hashes, tokens.words(other).hashes
    return int(tokens.pair_hash(left, right, 2))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"reach {recipe.reach}, power {recipe.power}")
@pytest.mark.parametrize(("texts", "labels"), [(TEXTS, ()), (MANY, ()), (MANY, (KINDS,)), (MANY, (KINDS, TEAMS))], ids=["few", "many", "one", "two"])
def test_the_matrix_is_what_the_book_says(texts: list[str], labels: tuple[NDArray[np.int64], ...], recipe: Recipe) -> None:
    matrix = Features(TermCounts.of(texts, recipe.reach), recipe).fit_transform(np.arange(len(texts)), labels)
    rows, lengths = by_hand(texts, recipe, labels)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        expected = sorted(value / length for value in row.values())
        assert np.sort(matrix[i].data) == pytest.approx(expected, rel=1e-5)
    gram = (matrix @ matrix.T).toarray()
    for i, left in enumerate(rows):
        for j, right in enumerate(rows):
            product = sum(value * right[feature] for feature, value in left.items())
            assert gram[i, j] * lengths[i] * lengths[j] == pytest.approx(product, rel=1e-4, abs=1e-6)


def test_near_words_are_kept_where_they_tell_the_labels_apart() -> None:
    recipe = RECIPES[-1]
    kept = scales(learned(MANY, recipe, (KINDS,)))
    assert near("disk", "failed") in kept
    assert near("failed", "disk") in kept
    assert near("please", "help") not in kept  # comes with both kinds
    unpruned = scales(learned(MANY, recipe))
    assert {near("disk", "failed"), near("please", "help")} <= set(unpruned)
    assert near("once", "twice") not in unpruned  # four texts are too few
    assert near("disk", "failed") not in scales(learned(MANY, RECIPES[1], (KINDS,)))
    # One target that they tell apart is enough.
    alike = np.arange(len(MANY)) % 2
    assert near("disk", "failed") not in scales(learned(MANY, recipe, (alike,)))
    assert near("disk", "failed") in scales(learned(MANY, recipe, (alike, KINDS)))


def test_what_tells_the_labels_apart_counts_for_more() -> None:
    weights, power = (scales(learned(MANY, Recipe(1, power, 20), (KINDS,))) for power in (0.2, 0.4))
    plain = scales(learned(MANY, PLAIN, (KINDS,)))
    disk, help_ = (next(int(h) for h in cut_hashes(word)) for word in ("disk", "help"))
    assert weights[disk] / plain[disk] > 1.2 * weights[help_] / plain[help_]
    for word in (disk, help_):
        assert power[word] / plain[word] == pytest.approx((weights[word] / plain[word]) ** 2, rel=1e-5)


def cut_hashes(word: str) -> list[int]:
    codes, _ = tokens.encode([word])
    out = np.zeros(tokens.subword_count(len(word)), np.uint64)
    tokens.cut(codes, 0, len(word), out)
    return [int(h) for h in out]


def test_texts_without_any_label_weigh_all_features_alike() -> None:
    none = np.full(len(MANY), -1)
    for power in (0.2, 0.4):
        weights, plain = scales(learned(MANY, Recipe(1, power, 20), (none,))), scales(learned(MANY, PLAIN))
        assert weights.keys() == plain.keys()
        assert [weights[h] for h in plain] == pytest.approx([plain[h] * LEAST_GAIN**power for h in plain], rel=1e-5)


def test_a_text_without_words_is_a_row_of_nothing() -> None:
    matrix = Features(TermCounts.of(TEXTS)).fit_transform(ALL)
    assert matrix[4].nnz == 0
    assert np.isfinite(matrix.data).all()


def test_words_and_pairs_are_counted_as_often_as_they_come_up() -> None:
    counts = TermCounts.of(["down down down up", "up"])
    down, up = tokens.words("down up").hashes
    assert dict(zip(counts.word_hashes.tolist(), counts.words[0].toarray()[0].tolist(), strict=True)) == {int(down): 3, int(up): 1}
    pairs = {int(tokens.pair_hash(down, down, 1)): 2, int(tokens.pair_hash(down, up, 1)): 1}
    assert dict(zip(counts.pair_hashes.tolist(), counts.pairs[0].toarray()[0].tolist(), strict=True)) == pairs
    assert counts.pairs[1].nnz == 0
    assert counts.neighbours == 2
    assert set(counts.weights.tolist()) == {1, SUBWORD_WEIGHT}


def test_neighbours_come_before_words_near_each_other_and_stay_without_them() -> None:
    texts = ["down again up", "up once down", "down up"] * 3
    counts = TermCounts.of(texts, reach=2)
    down, again, once, up = tokens.words("down again once up").hashes
    beside = [(down, again), (again, up), (up, once), (once, down), (down, up)]
    assert set(counts.pair_hashes[: counts.neighbours].tolist()) == {int(tokens.pair_hash(*pair, 1)) for pair in beside}
    assert counts.pair_hashes[counts.neighbours :].tolist() == [near("up", "down")]
    assert counts.pairs[:, counts.neighbours].toarray()[:, 0].tolist() == [1, 1, 0] * 3
    without, plain = Features(counts, PLAIN), Features(TermCounts.of(texts), PLAIN)
    assert (without.fit_transform(np.arange(9)) != plain.fit_transform(np.arange(9))).nnz == 0
    assert without.hashes.tolist() == plain.hashes.tolist()


def test_frequent_features_come_first() -> None:
    features = learned(MANY, RECIPES[-1], (KINDS, TEAMS))
    matrix = features.transform(np.arange(len(MANY)))
    frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
    assert matrix.shape[1] == len(features.hashes) == len(features.scale_)
    assert (np.diff(frequency) <= 0).all()
    assert frequency.min() >= LEAST_DOCUMENTS


def test_a_feature_of_one_ticket_is_not_kept() -> None:
    features = Features(TermCounts.of(["alpha beta", "alpha gamma"]))
    matrix = features.fit_transform(np.arange(2))
    # Only what both have is left: the word alpha and its n-grams, <al alp lph pha ha> <alp alph lpha pha>.
    assert matrix[0].nnz == 1 + 5 + 4
    assert (matrix[0] != matrix[1]).nnz == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"reach {recipe.reach}, power {recipe.power}")
def test_what_is_learned_does_not_look_at_the_tickets_held_out(recipe: Recipe) -> None:
    train, n = np.arange(len(MANY)), len(MANY)
    one = Features(TermCounts.of([*MANY, "disk disk disk failed", "once more twice"], recipe.reach), recipe)
    other = Features(TermCounts.of([*MANY, "qqqq zzzz", *(f"once {word} twice" for word in "xyz")], recipe.reach), recipe)
    matrices = [features.fit_transform(train, (KINDS, TEAMS)) for features in (one, other)]
    assert scales(one) == scales(other) == scales(learned(MANY, recipe, (KINDS, TEAMS)))
    assert (matrices[0] @ matrices[0].T).toarray() == pytest.approx((matrices[1] @ matrices[1].T).toarray(), abs=1e-6)
    assert one.transform(np.array([n])).nnz > 0
    assert other.transform(np.array([n])).nnz == 0


def test_a_text_has_the_same_row_alone_and_among_others() -> None:
    features = Features(TermCounts.of(TEXTS))
    matrix = features.fit_transform(ALL)
    assert (features.transform(np.array([2])) != matrix[2]).nnz == 0
    assert (features.transform(ALL[::-1]) != matrix[::-1]).nnz == 0


def served(features: Features, weights: NDArray[np.float32], texts: list[str]) -> NDArray[np.float32]:
    return scoring.score(texts, features.rows(weights), np.zeros(weights.shape[1], np.float32)).values


# Few letters, so that words come again; a script without spaces; a word longer than its subwords are cut from.
_TEXTS = st.lists(st.text(st.sampled_from("abAB  .?éя日本"), max_size=40) | st.just("ab " * 9 + "b" * 70), min_size=2, max_size=12)


@given(texts=_TEXTS, seed=st.integers(0, 99), recipe=st.sampled_from(RECIPES))
@example(texts=["a b c", "a d c", "c b a", "c ? a", "a b a c"] * 3, seed=0, recipe=RECIPES[2])
@settings(max_examples=60, deadline=None)
def test_serving_scores_what_training_saw(texts: list[str], seed: int, recipe: Recipe) -> None:
    features = Features(TermCounts.of(texts, recipe.reach), recipe)
    matrix = features.fit_transform(np.arange(len(texts)), [np.arange(len(texts)) % 2])
    weights = np.random.default_rng(seed).standard_normal((matrix.shape[1], 3)).astype(np.float32)
    np.testing.assert_allclose(served(features, weights, texts), matrix @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"reach {recipe.reach}, power {recipe.power}")
def test_serving_scores_unseen_texts_as_cross_validation_does(recipe: Recipe) -> None:
    unseen = np.arange(0, len(MANY), 4)
    train = np.setdiff1d(np.arange(len(MANY)), unseen)
    features = Features(TermCounts.of(MANY, recipe.reach), recipe)
    matrix = features.fit_transform(train, (KINDS[train], TEAMS[train]))
    weights = np.random.default_rng(0).standard_normal((matrix.shape[1], 2)).astype(np.float32)
    expected = features.transform(unseen) @ weights
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(served(features, weights, [MANY[i] for i in unseen]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts", [[], [""], ["...", ""], ["a"]])
def test_next_to_nothing_is_no_error(texts: list[str]) -> None:
    for recipe in RECIPES:
        matrix = Features(TermCounts.of(texts, recipe.reach), recipe).fit_transform(np.arange(len(texts)), [np.full(len(texts), -1)])
        assert matrix.shape[0] == len(texts)
        assert matrix.nnz == 0


def words_of(texts: list[list[int]]) -> tuple[NDArray[np.int64], tokens.Hashes]:
    """Where each text's words begin, and their hashes: what `_near_pairs` reads."""
    names = tokens.words(" ".join("abcdefgh")).hashes
    return np.cumsum([0, *map(len, texts)]), names[[word for text in texts for word in text]]


def pairs_by_hand(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int) -> list[Counter[int]]:
    """How often each text has each near pair, by its hash."""
    texts = [hashes[begin:end] for begin, end in pairwise(starts)]
    return [Counter(int(tokens.pair_hash(t[i], t[i + gap], gap)) for gap in range(2, reach + 1) for i in range(len(t) - gap)) for t in texts]


_gather = training_features._gather


def gather_within(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int, tally: NDArray[np.uint8], part: int, parts: int, out: Any) -> int:
    """The same, but what does not fit `out` is an error and not written past its end: so few words often all come into one part."""
    room = np.empty(len(hashes) * reach + 1, np.uint64)
    n: int = _gather(starts, hashes, reach, tally, part, parts, room)
    if n > len(out):
        raise OverflowError
    out[:n] = room[:n]
    return n


_SMALL = st.lists(st.lists(st.integers(0, 7), max_size=14), min_size=1, max_size=12)


@given(texts=_SMALL, reach=st.integers(1, 12), at_once=st.sampled_from([1 << 24, 40, 7, 1]))
@example(texts=[[0, 1, 2]] * 4, reach=2, at_once=1)
@example(texts=[[0, 1, 2]] * 3 + [[2, 7, 0]] * 2, reach=2, at_once=1)
@example(texts=[[0] * 4], reach=12, at_once=1 << 24)  # twice at two, once at three: three times in all
@example(texts=[[0] * 5], reach=12, at_once=1 << 24)  # 3 + 2 + 1
@settings(max_examples=200, deadline=None)
def test_near_pairs_are_those_of_a_plain_count(texts: list[list[int]], reach: int, at_once: int) -> None:
    starts, hashes = words_of(texts)
    by_text = pairs_by_hand(starts, hashes, reach)
    total: Counter[int] = sum(by_text, Counter())
    expected = sorted(pair for pair, n in total.items() if n >= LEAST_NEAR)
    while True:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_features, "_AT_ONCE", at_once)
            patch.setattr(training_features, "_gather", gather_within)
            try:
                found, matrix = training_features._near_pairs(starts, hashes, reach)
                break
            except OverflowError:
                at_once *= 2
    assert found.tolist() == expected
    assert matrix.shape == (len(texts), len(expected))
    assert matrix.has_canonical_format or matrix.nnz == 0
    for row, own in zip(matrix.toarray().tolist(), by_text, strict=True):
        assert row == [own[pair] for pair in expected]


def test_near_pairs_in_several_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    starts = np.arange(0, 4001, 20)
    hashes = rng.choice(rng.integers(0, 1 << 63, 60, dtype=np.uint64), starts[-1])
    found, matrix = training_features._near_pairs(starts, hashes, 12)
    assert len(found) > 1000
    monkeypatch.setattr(training_features, "_AT_ONCE", 5000)
    again, in_parts = training_features._near_pairs(starts, hashes, 12)
    assert again.tolist() == found.tolist()
    assert (in_parts != matrix).nnz == 0
    assert sum(n for text in pairs_by_hand(starts, hashes, 12) for n in text.values()) > 5 * 5000


_ONE_PAIR = """
import numpy as np
from training import features
features._AT_ONCE = 1000
starts = np.arange(0, 40_001, 40)
found, matrix = features._near_pairs(starts, np.full(starts[-1], 7, np.uint64), 12)
assert len(found) == 1
assert matrix.sum() == 1000 * sum(40 - gap for gap in range(2, 13)), matrix.sum()
"""


def test_one_pair_may_be_more_than_fits_a_part(tmp_path: Path) -> None:
    """In a process that looks at the bounds of its arrays: what writes past one would not be noticed else, or only later."""
    checked = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _ONE_PAIR], cwd=ROOT, env=checked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
