from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import scoring, tokens
from training.features import LEAST_DOCUMENTS, SUBWORD_WEIGHT, Features, TermCounts

TEXTS = [
    "my site is down, my site is slow",
    "mon site est en panne depuis hier",
    "is the site down?",
    "サイトが落ちています",
    "",
    "la panne est depuis hier, est-ce normal?",
]
ALL = np.arange(len(TEXTS))


def subwords(word: str) -> Counter[str]:
    """The features of one word, by the book: itself with its edges, and its character 3- and 4-grams."""
    edged = f"<{word}>"
    grams = [edged[i : i + n] for n in range(tokens.SHORTEST, tokens.LONGEST + 1) if n < len(edged) for i in range(len(edged) - n + 1)]
    return Counter([f"word {edged}", *(f"gram {gram}" for gram in grams)])


def by_hand(texts: list[str]) -> tuple[list[Counter[str]], list[float]]:
    """For each text its weighted features, not yet of unit length, and that length: what `Features` says it computes."""
    counts, terms_of = [], []
    for text in texts:
        found = tokens.words(text)
        words = [tokens.lowered(text[begin:end]) for begin, end in zip(found.begins, found.ends, strict=True)]
        pairs = [f"pair {left} {right}" for left, right in pairwise(words)]
        terms = {term: 1 + np.log(n) for term, n in Counter([*words, *pairs]).items()}
        made_of = {term: Counter([term]) if term.startswith("pair ") else subwords(term) for term in terms}
        counts.append(terms)
        terms_of.append(made_of)
    seen = Counter(feature for made_of in terms_of for feature in {f for parts in made_of.values() for f in parts})
    scale = {f: (np.log((1 + len(texts)) / (1 + n)) + 1) * (SUBWORD_WEIGHT if f.startswith("gram ") else 1)
             for f, n in seen.items() if n >= LEAST_DOCUMENTS}  # fmt: skip
    rows, lengths = [], []
    for terms, made_of in zip(counts, terms_of, strict=True):
        row: Counter[str] = Counter()
        squared = 0.0
        for term, count in terms.items():
            for feature, n in made_of[term].items():
                row[feature] += count * n * scale.get(feature, 0)
                squared += count**2 * n * scale.get(feature, 0) ** 2
        rows.append(row)
        lengths.append(float(np.sqrt(squared)))
    return rows, lengths


def test_the_matrix_is_what_the_book_says() -> None:
    matrix = Features(TermCounts.of(TEXTS)).fit_transform(ALL)
    rows, lengths = by_hand(TEXTS)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        expected = sorted(value / length for value in row.values() if value)
        assert np.sort(matrix[i].data) == pytest.approx(expected, rel=1e-5)
    gram = (matrix @ matrix.T).toarray()
    for i, left in enumerate(rows):
        for j, right in enumerate(rows):
            product = sum(value * right[feature] for feature, value in left.items())
            assert gram[i, j] * lengths[i] * lengths[j] == pytest.approx(product, rel=1e-4, abs=1e-6)


def test_a_text_without_words_is_a_row_of_nothing() -> None:
    matrix = Features(TermCounts.of(TEXTS)).fit_transform(ALL)
    assert matrix[4].nnz == 0
    assert np.isfinite(matrix.data).all()


def test_counts_are_damped_and_words_come_before_pairs() -> None:
    counts = TermCounts.of(["down down down up", "up"])
    assert counts.n_words == 2
    assert counts.documents.shape == (2, 2 + 2)  # down, up; down down, down up
    words = dict(zip(counts.term_hashes[:2].tolist(), counts.documents[0, :2].toarray()[0].tolist(), strict=True))
    down, up = tokens.words("down up").hashes.tolist()
    assert words[down] == pytest.approx(1 + np.log(3))
    assert words[up] == 1
    assert counts.weights.max() == 1
    assert counts.weights.min() == SUBWORD_WEIGHT


def test_a_feature_of_one_ticket_is_not_kept() -> None:
    features = Features(TermCounts.of(["alpha beta", "alpha gamma"]))
    matrix = features.fit_transform(np.arange(2))
    # Only what both have is left: the word alpha and its n-grams, <al alp lph pha ha> <alp alph lpha pha>.
    assert matrix[0].nnz == 1 + 5 + 4
    assert (matrix[0] != matrix[1]).nnz == 0


def test_what_is_learned_does_not_look_at_the_tickets_held_out() -> None:
    train, held_out = np.arange(3), np.array([3, 4])
    seen = ["site down again", "site is down", "where is the invoice"]
    one = Features(TermCounts.of([*seen, "site down down down", "invoice"]))
    other = Features(TermCounts.of([*seen, "quite another text", "with other words", "and one more"]))
    for features in (one, other):
        features.fit_transform(train)
    kept = [{h: s for h, s in zip(f.counts.feature_hashes.tolist(), f.scale_.tolist(), strict=True) if s} for f in (one, other)]
    assert kept[0] == kept[1]
    assert one.transform(held_out).nnz > 0
    assert other.transform(held_out).nnz < one.transform(held_out).nnz


def test_a_text_has_the_same_row_alone_and_among_others() -> None:
    features = Features(TermCounts.of(TEXTS))
    matrix = features.fit_transform(ALL)
    assert (features.transform(np.array([2])) != matrix[2]).nnz == 0
    assert (features.transform(ALL[::-1]) != matrix[::-1]).nnz == 0


def served(features: Features, weights: NDArray[np.float32], texts: list[str]) -> NDArray[np.float32]:
    return scoring.score(texts, features.rows(weights), np.zeros(weights.shape[1], np.float32)).values


# Few letters, so that words come again; a script without spaces; a word longer than its subwords are cut from.
_TEXTS = st.lists(st.text(st.sampled_from("abAB  .?éя日本"), max_size=40) | st.just("ab " * 9 + "b" * 70), min_size=2, max_size=6)


@given(texts=_TEXTS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_serving_scores_what_training_saw(texts: list[str], seed: int) -> None:
    features = Features(TermCounts.of(texts))
    matrix = features.fit_transform(np.arange(len(texts)))
    weights = np.random.default_rng(seed).standard_normal((matrix.shape[1], 3)).astype(np.float32)
    np.testing.assert_allclose(served(features, weights, texts), matrix @ weights, rtol=1e-4, atol=1e-4)


def test_serving_scores_unseen_texts_as_cross_validation_does() -> None:
    train, unseen = np.array([0, 1, 2, 3]), np.array([4, 5])
    features = Features(TermCounts.of(TEXTS))
    matrix = features.fit_transform(train)
    weights = np.random.default_rng(0).standard_normal((matrix.shape[1], 2)).astype(np.float32)
    expected = features.transform(unseen) @ weights
    assert np.abs(expected[1]).max() > 0
    np.testing.assert_allclose(served(features, weights, [TEXTS[i] for i in unseen]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts", [[], [""], ["...", ""], ["a"]])
def test_next_to_nothing_is_no_error(texts: list[str]) -> None:
    matrix = Features(TermCounts.of(texts)).fit_transform(np.arange(len(texts)))
    assert matrix.shape[0] == len(texts)
    assert matrix.nnz == 0
