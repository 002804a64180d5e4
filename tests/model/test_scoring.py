"""Scoring, held against the same sums made with scikit-learn and scipy, and against itself: batch, parts, table."""

import unicodedata
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from model import scoring, tokens
from model.router import Router
from model.scoring import Rows
from training.features import SUBWORD_WEIGHT, Features, TermCounts
from training.table import TicketTable

WORD = r"[^\W_]+|[?!]"  # what a word is, for scripts that write spaces and texts in NFKC
COLUMNS = 5


@pytest.fixture(scope="module")
def texts(table: TicketTable) -> list[str]:
    """Every ninth ticket: all seven languages."""
    return table.texts[::9]


@pytest.fixture(scope="module")
def known(texts: list[str]) -> NDArray[np.int64]:
    """The texts that features are learned from; the others have words that these do not."""
    return np.arange(0, len(texts), 2)


@pytest.fixture(scope="module")
def features(texts: list[str], known: NDArray[np.int64]) -> Features:
    learned = Features(TermCounts.of(texts))
    learned.fit_transform(known)
    return learned


@pytest.fixture(scope="module")
def weights(features: Features) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(len(features.scale_), COLUMNS)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(features: Features, weights: NDArray[np.float32]) -> Rows:
    return features.rows(weights)


@pytest.fixture(scope="module")
def bias() -> NDArray[np.float32]:
    return np.linspace(-1, 1, COLUMNS, dtype=np.float32)


def unaccented(text: str) -> str:
    struck = dict(zip("łøđħıŧ", "lodhit", strict=True))
    return "".join(struck.get(c) or unicodedata.normalize("NFD", c)[0] for c in text.lower().replace("ς", "σ"))


def plain_matrix(texts: list[str], known: NDArray[np.int64]) -> Any:
    """The document matrix by scikit-learn alone: its own words, pairs, n-grams, idf and norm."""
    terms = CountVectorizer(token_pattern=WORD, ngram_range=(1, 2), preprocessor=unaccented)
    documents = terms.fit_transform(texts).astype(float)
    documents.data = 1 + np.log(documents.data)

    def cut(term: str) -> list[str]:
        if " " in term:
            return [term]
        edged = f"<{term[: scoring.LONGEST_WORD]}>"
        return [edged, *(edged[i : i + n] for n in (3, 4) if n < len(edged) for i in range(len(edged) - n + 1))]

    features = CountVectorizer(analyzer=cut)
    subwords = features.fit_transform(terms.get_feature_names_out()).astype(float)
    names = features.get_feature_names_out()
    whole = np.array([" " in name or (name[0] == "<" and name[-1] == ">") for name in names])
    raw = (documents @ subwords).tocsr()
    seen = (raw[known] > 0).astype(float)
    idf = TfidfTransformer(smooth_idf=True).fit(seen).idf_
    scale = np.where(np.asarray(seen.sum(axis=0)).ravel() >= 2, idf * np.where(whole, 1, SUBWORD_WEIGHT), 0)
    length = np.sqrt(documents.multiply(documents) @ (subwords @ scale**2))
    return sp.diags(1 / length) @ raw @ sp.diags(scale)


def test_the_features_are_the_plain_ones(texts: list[str], known: NDArray[np.int64], features: Features) -> None:
    ours, plain = features.transform(np.arange(len(texts))), plain_matrix(texts, known)
    assert ours.shape == plain.shape
    assert ours.nnz == (plain != 0).sum()
    # The order of the features is not the same; the products of the tickets with each other do not depend on it.
    np.testing.assert_allclose((ours @ ours.T).toarray(), (plain @ plain.T).toarray(), atol=1e-4)


def test_scores_are_matrix_times_weights_plus_bias(
    texts: list[str], known: NDArray[np.int64], features: Features, weights: NDArray[np.float32], rows: Rows, bias: NDArray[np.float32]
) -> None:
    plain = features.transform(np.arange(len(texts))) @ weights + bias
    found = scoring.score(texts, rows, bias)
    np.testing.assert_allclose(found.values, plain, atol=1e-4)
    unseen = np.setdiff1d(np.arange(len(texts)), known)
    assert (found.known[unseen] < found.words[unseen]).mean() > 0.9  # the rows of new words were made from subwords


def test_the_trained_router_scores_as_its_matrix_does(table: TicketTable, router: Router) -> None:
    features = Features(TermCounts.of(table.texts))
    matrix = features.fit_transform(np.arange(len(table)))
    # Its weights are not kept, but the rows of the features are, each the weights times the feature's scale.
    kept = np.flatnonzero(features.scale_)
    rows = router.rows
    place_of = dict(zip(rows.keys[rows.places >= 0].tolist(), rows.places[rows.places >= 0].tolist(), strict=True))
    weights = np.zeros((len(features.scale_), len(router.bias)), np.float32)
    places = [place_of[h] for h in features.counts.feature_hashes[kept].tolist()]
    weights[kept] = rows.values[places, :-1] / features.scale_[kept, None]
    np.testing.assert_allclose(router.answer(table.texts).scores, matrix @ weights + router.bias, atol=1e-4)


def test_words_and_known_words_are_counted(rows: Rows, bias: NDArray[np.float32]) -> None:
    text = "server server zzyzzx server down ! zzyzzx"
    found = scoring.score([text, ""], rows, bias)
    in_table = {word: int(h) in set(rows.keys.tolist()) for word, h in zip(text.split(), tokens.words(text).hashes, strict=True)}
    assert in_table["server"]
    assert not in_table["zzyzzx"]
    assert found.words.tolist() == [7, 0]
    assert found.known.tolist() == [sum(in_table[word] for word in text.split()), 0]


def test_a_text_without_words_scores_the_bias(rows: Rows, bias: NDArray[np.float32]) -> None:
    assert scoring.score(["", "...", "\U0001f600"], rows, bias).values.tolist() == [bias.tolist()] * 3
    assert scoring.score([], rows, bias).values.shape == (0, COLUMNS)


def test_a_batch_scores_as_each_text_alone(texts: list[str], rows: Rows, bias: NDArray[np.float32]) -> None:
    several = [*texts[:40], "", "?", "λέξη 漢字かな сервер", *texts[:3], "x" * 5000]
    together = scoring.score(several, rows, bias)
    for i, text in enumerate(several):
        alone = scoring.score([text], rows, bias)
        assert alone.values[0].tolist() == together.values[i].tolist()
        assert (alone.words[0], alone.known[0]) == (together.words[i], together.known[i])


def test_what_the_words_add_comes_to_the_score(texts: list[str], rows: Rows, bias: NDArray[np.float32]) -> None:
    for text in [*texts[:60], "down down down down", "zzyzzx", "", "?!?"]:
        parts = scoring.phrases(text, rows, list(range(COLUMNS)), longest=1)
        stand = sorted(zip(*tokens.words(text)[:2], strict=True))
        total = np.array([sum(weight for _, _, weight in words) for words in parts]) + bias
        assert all(sorted((begin, end) for begin, end, _ in words) == stand for words in parts)
        np.testing.assert_allclose(total, scoring.score([text], rows, bias).values[0], atol=1e-4)


def test_a_new_word_gets_its_row_from_its_subwords(rows: Rows) -> None:
    bias = np.zeros(COLUMNS, np.float32)
    held = {int(h): rows.values[place] for h, place in zip(rows.keys, rows.places, strict=True) if place >= 0}
    word = "unservered"
    codes, _ = tokens.encode([word])
    cuts = np.zeros(tokens.subword_count(len(word)), np.uint64)
    tokens.cut(codes, 0, len(word), cuts)
    assert int(tokens.words(word).hashes[0]) not in held
    row = np.sum([held[h] for h in cuts.tolist() if h in held], axis=0)
    assert row[-1] > 0
    np.testing.assert_allclose(scoring.score([word], rows, bias).values[0], row[:-1] / np.sqrt(row[-1]), atol=1e-5)


def test_a_very_long_word_is_cut_from_its_beginning_only(rows: Rows, bias: NDArray[np.float32]) -> None:
    long = "server" * 40
    one, other = scoring.score([long + "network", long + "domain"], rows, bias).values
    assert one.tolist() == other.tolist()


def test_counts_are_damped() -> None:
    rows = table_of({"down": [2.0], "up": [-1.0]})
    values = scoring.score(["down", "down up down down"], rows, np.zeros(1, np.float32)).values[:, 0]
    twice = 1 + np.log(3)
    np.testing.assert_allclose(values, [2.0, (twice * 2 - 1) / np.hypot(twice, 1)], atol=1e-6)


def table_of(words: dict[str, list[float]]) -> Rows:
    """Rows of length 1 for each word."""
    hashes = np.array([tokens.words(word).hashes[0] for word in words], np.uint64)
    return Rows.build(hashes, np.array([[*row, 1.0] for row in words.values()], np.float32))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_the_table_finds_every_row_and_no_other(n: int) -> None:
    # Hashes that all want the same slot: the worst case of open addressing.
    hashes = np.arange(1, n + 1, dtype=np.uint64) << np.uint64(40)
    rows = Rows.build(hashes, np.arange(2 * n, dtype=np.float32).reshape(n, 2))
    slots = len(rows.keys)
    assert slots & (slots - 1) == 0
    assert slots >= 2 * n
    assert sorted(rows.places[rows.places >= 0].tolist()) == list(range(n))
    assert [scoring._find(rows.keys, rows.places, h) for h in hashes] == list(range(n))
    assert scoring._find(rows.keys, rows.places, np.uint64(n + 1) << np.uint64(40)) == -1
