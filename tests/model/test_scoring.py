"""Scoring, held against the same sums made with scikit-learn and scipy, and against itself: batch, parts, table."""

import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from model import scoring, tokens
from model.scoring import EMPTY, MOST_ROWS, Rows
from tests.conftest import ROOT
from training.features import DOUBTED, LEAST_DOCUMENTS, LEAST_GAIN, LEAST_NEAR, NEAR_WEIGHT, SUBWORD_WEIGHT, TELLING, Features, Recipe, TermCounts
from training.fit import Trained
from training.table import TicketTable, read_table

COLUMNS = 5
SCRIPTS = ("ar", "el", "hi", "ja", "ko", "ru", "ta", "th", "zh")
WIDEST = Recipe(reach=12, power=0.0, doubt=1.0)  # its words near each other are not pruned
RECIPES = {
    Recipe(reach=1, power=0.2, doubt=20): 0,
    WIDEST: 5000,
    Recipe(reach=12, power=0.3, doubt=80): 30,
}  # and how many near pairs are kept at least


def by_reach(recipe: Recipe) -> str:
    return f"reach {recipe.reach}, power {recipe.power}"


@pytest.fixture(scope="module")
def several(table: TicketTable) -> TicketTable:
    """Half of the tickets in the seven core languages, and all in nine that are written otherwise."""
    more = read_table([str(ROOT / "data" / "tickets" / f"{code}.jsonl") for code in SCRIPTS])
    half = range(0, len(table), 2)
    labels = {name: [values[i] for i in half] + more.labels[name] for name, values in table.labels.items()}
    return TicketTable([table.texts[i] for i in half] + more.texts, labels, [table.languages[i] for i in half] + more.languages, table.text_columns)


@pytest.fixture(scope="module")
def unseen(several: TicketTable) -> NDArray[np.bool_]:
    """Every fifth of them stays unseen in training, whatever its script."""
    out: NDArray[np.bool_] = np.arange(len(several)) % 5 == 4
    return out


@pytest.fixture(scope="module")
def texts(several: TicketTable, unseen: NDArray[np.bool_]) -> list[str]:
    return [text for text, out in zip(several.texts, unseen, strict=True) if not out]


@pytest.fixture(scope="module")
def codes(several: TicketTable, unseen: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The labels of both targets; every seventh ticket lacks one of them."""
    kind, department = (several.codes(name, several.label_names(name))[~unseen] for name in ("kind", "department"))
    return [np.where(np.arange(len(kind)) % 7 == 0, -1, kind), department]


@pytest.fixture(scope="module", params=RECIPES, ids=by_reach)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    chosen: Recipe = request.param
    return chosen


@pytest.fixture(scope="module")
def features(texts: list[str], codes: list[NDArray[np.int64]], recipe: Recipe) -> Features:
    learned = Features(TermCounts.of(texts, recipe.reach), recipe)
    learned.fit_transform(np.arange(len(texts)), codes)
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


Counts = tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix, list[str]]
STRUCK = dict(zip("łøđħıŧ", "lodhit", strict=True))


@cache
def kind_of(character: str) -> str:
    """What a character is to the words: "" between them, a symbol, a letter, or one of a script without spaces."""
    if character in "?!؟。？！":
        return f"symbol {character}"
    if unicodedata.category(character)[0] not in "LMN":
        return ""
    blocks = [("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u30ff"), ("\u3400", "\u4dbf"), ("\u4e00", "\u9fff")]
    return "unspaced" if any(low <= character <= high for low, high in blocks) else "letters"


@cache
def plain_letter(character: str) -> str:
    base = unicodedata.normalize("NFD", character)[0] if character < "\u2000" else character
    return STRUCK.get(character) or (base if unicodedata.category(base)[0] == "L" else character)


@cache
def plain_words(text: str) -> list[str]:
    """The words of a text, without accents, by Unicode's own tables."""
    bare = [plain_letter(c) for c in text.lower().replace("ς", "σ")]
    found = []
    for kind, run in groupby(bare, kind_of):
        word = "".join(run)
        if kind == "unspaced" and len(word) > 2:
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        elif kind.startswith("symbol"):
            found += list(word)
        elif kind:
            found.append(word)
    return found


def plain_pairs(text: str, reach: int) -> list[str]:
    """Neighbours in their order, words further apart in none."""
    words = plain_words(text)
    near = [sorted((words[i - gap], words[i])) for i in range(len(words)) for gap in range(2, min(reach, i) + 1)]
    return [f"{one} then {other}" for one, other in pairwise(words)] + [f"{one} near {other}" for one, other in near]


def plain_cuts(word: str) -> list[str]:
    edged = f"<{word[: scoring.LONGEST_WORD]}>"
    return [edged, *(edged[i : i + n] for n in (3, 4) if n < len(edged) for i in range(len(edged) - n + 1))]


def plain_counts(texts: list[str], reach: int) -> Counts:
    """How often each word is in a text, each cut in a word, each pair in a text; and the names of the cuts and the pairs."""
    words, cuts, pairs = (CountVectorizer(analyzer=how) for how in (plain_words, plain_cuts, lambda text: plain_pairs(text, reach)))
    documents = words.fit_transform(texts).astype(float)
    made_of = cuts.fit_transform(words.get_feature_names_out()).astype(float)
    beside = pairs.fit_transform(texts).astype(float)
    return documents, made_of, beside, [*cuts.get_feature_names_out(), *pairs.get_feature_names_out()]


def plain_matrix(counts: Counts, n: int, codes: list[NDArray[np.int64]], recipe: Recipe) -> tuple[sp.csr_matrix, NDArray[np.bool_]]:
    """The document matrix by scikit-learn and scipy alone, learned from the first `n` texts; and which features are of words near
    each other and were kept."""
    documents, made_of, beside, names = counts
    whole = np.array([(name[0] == "<" and name[-1] == ">") or " then " in name for name in names])
    near = np.array([" near " in name for name in names])
    raw = sp.hstack([documents @ made_of, beside], format="csr")
    seen = (raw[:n] > 0).astype(float)
    frequency = np.asarray(seen.sum(axis=0)).ravel()
    scale = TfidfTransformer(smooth_idf=True).fit(seen).idf_ * np.where(whole, 1, np.where(near, NEAR_WEIGHT, SUBWORD_WEIGHT))
    kept = frequency >= np.where(near, LEAST_NEAR, LEAST_DOCUMENTS)
    if recipe.power:
        telling = ~near
        for right in codes:
            labels = (right[:, None] == np.unique(right[right >= 0])).astype(float)
            shares = labels.mean(axis=0) / labels.mean(axis=0).sum()
            mixes = labels.T @ seen
            gain, doubted = (entropy(mixes + doubt * shares[:, None], shares[:, None], axis=0) for doubt in (recipe.doubt, DOUBTED))
            scale *= np.maximum(gain, LEAST_GAIN) ** (recipe.power / len(codes))
            telling |= doubted >= TELLING
        kept &= telling
    scale = np.where(kept, scale, 0)
    squares = scale**2
    length = np.sqrt(documents.multiply(documents) @ (made_of @ squares[: made_of.shape[1]]) + beside.multiply(beside) @ squares[made_of.shape[1] :])
    return (sp.diags(1 / length) @ raw @ sp.diags(scale)).tocsr(), near & kept


@pytest.fixture(scope="module")
def new(several: TicketTable, unseen: NDArray[np.bool_]) -> list[str]:
    """What training does not see."""
    return [text for text, out in zip(several.texts, unseen, strict=True) if out]


@pytest.fixture(scope="module")
def counted(texts: list[str], new: list[str]) -> Callable[[int], Counts]:
    """The counts of each reach, made once."""
    return cache(lambda reach: plain_counts([*texts, *new], reach))


@pytest.fixture(scope="module")
def plain(
    counted: Callable[[int], Counts], texts: list[str], codes: list[NDArray[np.int64]], recipe: Recipe
) -> tuple[sp.csr_matrix, NDArray[np.bool_]]:
    return plain_matrix(counted(recipe.reach), len(texts), codes, recipe)


def test_the_features_are_the_plain_ones(
    plain: tuple[sp.csr_matrix, NDArray[np.bool_]], texts: list[str], recipe: Recipe, features: Features
) -> None:
    ours, matrix, near = features.transform(np.arange(len(texts))), plain[0][: len(texts)], plain[1]
    kept_near = np.isin(features.hashes, features.counts.pair_hashes[features.counts.neighbours :])
    assert near.sum() == kept_near.sum() >= RECIPES[recipe]
    matrix.eliminate_zeros()
    assert np.diff(ours.indptr).tolist() == np.diff(matrix.indptr).tolist()
    # The order of the features is not the same; the products of the tickets with each other do not depend on it.
    np.testing.assert_allclose((ours @ ours.T).toarray(), (matrix @ matrix.T).toarray(), atol=1e-5)


def test_the_served_score_is_that_of_the_plain_features(
    plain: tuple[sp.csr_matrix, NDArray[np.bool_]], texts: list[str], new: list[str], features: Features, bias: NDArray[np.float32]
) -> None:
    """The weights of a linear classifier are a sum of its training texts, so that a score is a sum of products of texts: it does not
    hang on the order of the features either."""
    matrix, n = plain[0], len(texts)
    parts = np.random.default_rng(5).normal(size=(n, COLUMNS)).astype(np.float32)
    expected = matrix @ (matrix[:n].T @ parts) + bias
    found = scoring.score([*texts, *new], features.rows(features.transform(np.arange(n)).T @ parts), bias)
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-3)
    assert (found.known[n:] < found.words[n:]).mean() > 0.9  # the rows of new words were made from subwords
    assert found.known[:n].sum() > 0.7 * found.words[:n].sum()


def test_scores_are_matrix_times_weights_plus_bias(
    texts: list[str], features: Features, weights: NDArray[np.float32], rows: Rows, bias: NDArray[np.float32]
) -> None:
    plain = features.transform(np.arange(len(texts))) @ weights + bias
    np.testing.assert_allclose(scoring.score(texts, rows, bias).values, plain, atol=1e-4)


def test_the_trained_router_scores_as_its_matrix_does(table: TicketTable, trained: Trained) -> None:
    router = trained.router
    recipe = Recipe(**trained.chosen["recipe"])
    features = Features(TermCounts.of(table.texts, recipe.reach), recipe)
    labels = [table.codes(target.name, target.labels) for target in router.targets]
    matrix = features.fit_transform(np.arange(len(table)), labels)
    # Its weights are not kept, but the rows of the features are, each the weights times the feature's scale.
    rows = router.rows
    weights = rows.values[[scoring.find(rows.slots, hash_) for hash_ in features.hashes], :-1] / features.scale_[:, None]
    np.testing.assert_allclose(router.answer(table.texts).scores, matrix @ weights + router.bias, atol=1e-4)


def test_words_and_known_words_are_counted(rows: Rows, bias: NDArray[np.float32]) -> None:
    text = "server server zzyzzx server down ! zzyzzx"
    found = scoring.score([text, ""], rows, bias)
    in_table = {word: scoring.find(rows.slots, h) >= 0 for word, h in zip(text.split(), tokens.words(text).hashes, strict=True)}
    assert in_table["server"]
    assert not in_table["zzyzzx"]
    assert found.words.tolist() == [7, 0]
    assert found.known.tolist() == [sum(in_table[word] for word in text.split()), 0]


def test_a_text_without_words_scores_the_bias(rows: Rows, bias: NDArray[np.float32]) -> None:
    assert scoring.score(["", "...", "\U0001f600"], rows, bias).values.tolist() == [bias.tolist()] * 3
    assert scoring.score([], rows, bias).values.shape == (0, COLUMNS)


def test_a_batch_scores_as_each_text_alone(texts: list[str], rows: Rows, bias: NDArray[np.float32]) -> None:
    some = [*texts[:40], "", "?", "λέξη 漢字かな сервер", *texts[:3], "x" * 5000, "down " * 3000, *texts[-40:]]
    together = scoring.score(some, rows, bias)
    for i, text in enumerate(some):
        alone = scoring.score([text], rows, bias)
        assert alone.values[0].tolist() == together.values[i].tolist()
        assert (alone.words[0], alone.known[0]) == (together.words[i], together.known[i])


def test_what_the_words_add_comes_to_the_score(several: TicketTable, rows: Rows, bias: NDArray[np.float32]) -> None:
    for text in [*several.texts[::25], "down down down down", "zzyzzx", "", "?!?"]:
        parts = scoring.phrases(text, rows, list(range(COLUMNS)), longest=1)
        stand = sorted(zip(*tokens.words(text)[:2], strict=True))
        total = np.array([sum(weight for _, _, weight in words) for words in parts]) + bias
        assert all(sorted((begin, end) for begin, end, _ in words) == stand for words in parts)
        np.testing.assert_allclose(total, scoring.score([text], rows, bias).values[0], atol=1e-4)


def test_a_new_word_gets_its_row_from_its_subwords(rows: Rows) -> None:
    bias = np.zeros(COLUMNS, np.float32)
    word = "unservered"
    codes, _ = tokens.encode([word])
    cuts = np.zeros(tokens.subword_count(len(word)), np.uint64)
    tokens.cut(codes, 0, len(word), cuts)
    assert scoring.find(rows.slots, tokens.words(word).hashes[0]) == -1
    places = [place for place in (scoring.find(rows.slots, hash_) for hash_ in cuts) if place >= 0]
    assert 0 < len(places) < len(cuts)
    row = rows.values[places].sum(axis=0)
    np.testing.assert_allclose(scoring.score([word], rows, bias).values[0], row[:-1] / np.sqrt(row[-1]), atol=1e-5)
    # Twice the word is twice its row and four times its squared length: the same score.
    np.testing.assert_allclose(scoring.score([f"{word}. {word}"], rows, bias).values[0], row[:-1] / np.sqrt(row[-1]), atol=1e-5)


def test_a_very_long_word_is_cut_from_its_beginning_only(rows: Rows, bias: NDArray[np.float32]) -> None:
    long = "server" * 40
    one, other = scoring.score([long + "network", long + "domain"], rows, bias).values
    assert one.tolist() == other.tolist()


def hash_of(word: str) -> np.uint64:
    found: np.uint64 = tokens.words(word).hashes[0]
    return found


def table_of(words: dict[str, float], pairs: dict[tuple[str, str, int], float] | None = None, reach: int = 1) -> Rows:
    """Rows of length 1: of words, and of two words and how far apart they stand."""
    pairs = pairs or {}
    hashes = [hash_of(word) for word in words] + [tokens.pair_hash(hash_of(one), hash_of(other), gap) for one, other, gap in pairs]
    values = [[weight, 1.0] for weight in (*words.values(), *pairs.values())]
    return Rows.build(np.array(hashes, np.uint64), np.array(values, np.float32), len(words), reach)


def plain_score(rows: Rows, text: str) -> float:
    return float(scoring.score([text], rows, np.zeros(1, np.float32)).values[0, 0])


def test_a_word_counts_as_often_as_it_comes_up() -> None:
    rows = table_of({"down": 2.0, "up": -1.0})
    assert plain_score(rows, "down") == 2
    assert plain_score(rows, "down up down down") == pytest.approx((3 * 2 - 1) / np.hypot(3, 1))


def test_near_words_count_in_either_order_and_neighbours_in_theirs() -> None:
    rows = table_of({"a": 0.0, "b": 0.0, "x": 0.0}, {("a", "b", 1): 3.0, ("a", "b", 2): 5.0}, reach=3)
    assert plain_score(rows, "a b") == pytest.approx(3 / np.sqrt(3))
    assert plain_score(rows, "b a") == 0
    for text in ("a x b", "b x a"):
        assert plain_score(rows, text) == pytest.approx(5 / np.sqrt(4))
    for text in ("a x x b", "b x x a"):
        assert plain_score(rows, text) == pytest.approx(5 / np.sqrt(1 + 1 + 2**2 + 1))
    assert plain_score(rows, "a x x x b") == 0  # too far apart
    # a b, and near each other: a, the second b; twice near: the first b and the last a, the second b and the last a
    assert plain_score(rows, "a b x b x a") == pytest.approx((3 + 5 * 2) / np.sqrt(3 * 2**2 + 1 + 2**2))
    assert plain_score(table_of({"a": 0.0, "b": 0.0, "x": 0.0}, {("a", "b", 2): 5.0}, reach=1), "a x b") == 0


def test_a_pair_s_part_is_shared_by_its_two_words() -> None:
    rows = table_of({"a": 1.0, "b": 0.0, "x": -1.0}, {("a", "b", 2): 6.0}, reach=12)
    words = {(begin, end): weight for begin, end, weight in scoring.phrases("a x b", rows, [0], longest=1)[0]}
    assert words == pytest.approx({(0, 1): (1 + 3) / 2, (2, 3): -1 / 2, (4, 5): 3 / 2})


@pytest.fixture(scope="module")
def widest(texts: list[str]) -> Rows:
    """A table in which every word is looked up with the twelve before it."""
    features = Features(TermCounts.of(texts, WIDEST.reach), WIDEST)
    features.fit_transform(np.arange(len(texts)))
    return features.rows(np.random.default_rng(3).normal(size=(len(features.scale_), COLUMNS)).astype(np.float32))


@pytest.mark.parametrize(
    "unit", ["down server ", "? ", "漢字かな交じり文", "เว็บล่ม", "zq7", "a b c d e f g h i j k l m n "], ids=lambda unit: unit[:6]
)
def test_a_text_of_a_million_characters_is_scored(unit: str, widest: Rows, bias: NDArray[np.float32]) -> None:
    text = (unit * 1_000_000)[:1_000_000]
    began = time.monotonic()
    found = scoring.score([text, unit * 400], widest, bias)
    parts = scoring.phrases(text, widest, [0], longest=4)[0]
    assert time.monotonic() - began < 20
    assert found.words[0] == len(tokens.words(text).begins)
    # The same words over and over come to the same mix; the text's ends hardly count, and sums of a million like numbers in 32 bits drift.
    np.testing.assert_allclose(found.values[0], found.values[1], rtol=0.05, atol=0.05)
    assert sum(weight for _, _, weight in parts) + bias[0] == pytest.approx(found.values[0, 0], rel=0.05, abs=0.05)


def test_the_room_for_a_text_grows_with_its_length_and_no_faster(widest: Rows) -> None:
    """Bytes that are asked for; of a long text without many words most are never touched."""

    def room(characters: int) -> int:
        return sum(part.nbytes for part in scoring._room(characters, widest.compiled))

    assert room(2_000) < 2 << 20
    assert room(1_000_000) < 256 << 20
    assert room(2_000_000) < 2.1 * room(1_000_000)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_the_table_finds_every_row_and_no_other(n: int) -> None:
    # Hashes that all want the same slot: the worst case of open addressing.
    hashes = np.arange(1, n + 1, dtype=np.uint64) << np.uint64(40)
    rows = Rows.build(hashes, np.arange(2 * n, dtype=np.float32).reshape(n, 2), n, 1)
    slots = len(rows.slots)
    assert slots & (slots - 1) == 0
    assert slots >= 2 * n
    taken = rows.slots[rows.slots != EMPTY]
    assert sorted((taken & np.uint64(MOST_ROWS)).tolist()) == list(range(n))
    assert [scoring.find(rows.slots, h) for h in hashes] == list(range(n))
    assert scoring.find(rows.slots, np.uint64(n + 1) << np.uint64(40)) == -1


def test_hashes_that_differ_only_where_a_search_begins_are_told_apart_by_their_tags() -> None:
    """The upper 38 bits of a hash are kept; the lower ones say where the search begins."""
    one = np.uint64(0x123456789ABCDEF0)
    rows = Rows.build(np.array([one], np.uint64), np.zeros((1, 1), np.float32), 1, 1)
    assert scoring.find(rows.slots, one) == 0
    for bit in range(26, 64):
        assert scoring.find(rows.slots, one ^ np.uint64(1 << bit)) == -1


@pytest.mark.parametrize("n", [1, 9, 70, 5000])
def test_every_pair_is_found_through_the_map_of_pairs_and_hardly_any_other(n: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 3 * n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    rows = Rows.build(hashes[: 2 * n], np.zeros((2 * n, 1), np.float32), n, 12)  # the first half are words
    pairs = rows.compiled.pairs
    assert all(scoring._is_likely(pairs, h) for h in hashes[n : 2 * n])
    assert [scoring.find(rows.slots, h) for h in hashes[n : 2 * n]] == list(range(n, 2 * n))
    assert [scoring.find(rows.slots, h) for h in hashes[2 * n :]] == [-1] * n
    assert sum(map(bool, (scoring._is_likely(pairs, h) for h in hashes[2 * n :]))) <= n / 4 + 2
    assert sum(bin(word).count("1") for word in pairs.tolist()) <= n < 64 * len(pairs) / 4


def test_a_table_of_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MOST_ROWS", 3)
    Rows.build(np.arange(3, dtype=np.uint64), np.zeros((3, 2), np.float32), 3, 1)
    with pytest.raises(ValueError, match="4 rows; a table holds 3"):
        Rows.build(np.arange(4, dtype=np.uint64), np.zeros((4, 2), np.float32), 4, 1)


_WORST = """
import numpy as np
from model import scoring, tokens

for text in ["".join(chr(0x4E00 + 37 * i) for i in range(400)), "a? " * 100, "a b c d " * 60, "x" * 300, "?!" * 200]:
    words, codes = tokens.words(text), tokens.encode([text])[0]
    cuts = set()
    for begin, end in zip(words.begins.tolist(), words.ends.tolist()):
        end = min(end, begin + scoring.LONGEST_WORD)
        out = np.empty(tokens.subword_count(end - begin), np.uint64)
        cuts |= set(out[: tokens.cut(codes, begin, end, out)].tolist())
    pairs = {int(tokens.pair_hash(words.hashes[i - gap], words.hashes[i], gap)) for gap in range(1, 13) for i in range(gap, len(words.hashes))}
    hashes = np.array([*cuts, *(pairs - cuts)], np.uint64)
    rows = scoring.Rows.build(hashes, np.ones((len(hashes), 2), np.float32), len(cuts), 12)
    found = scoring.score([text, text[:3], ""], rows, np.zeros(1, np.float32))
    assert found.known.tolist() == [0, 0, 0] and np.isfinite(found.values).all() and found.values[0, 0] > 0
    assert len(scoring.phrases(text, rows, [0], 4)[0]) > 0
"""


def test_there_is_room_for_a_text_of_which_every_subword_and_every_pair_has_a_row(tmp_path: Path) -> None:
    """In a process that looks at the bounds of its arrays: what writes past one would not be noticed else, or only later."""
    checked = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _WORST], cwd=ROOT, env=checked, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
