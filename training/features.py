"""The document matrix of a ticket table: ``(documents x terms) @ (terms x subwords)``, each distinct word cut once.

A term is a word, a pair of neighbours, or two words near each other; it counts as often as it comes up. A feature is a subword or a
pair; it is weighted by its inverse document frequency and by what it tells of the labels. What depends on the tickets' *text
alone* is done once for the whole table (`TermCounts`); what must not look at held-out tickets (which features are kept, their
weights) is done for each fold (`Features.fit_transform`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numba as nb
import numpy as np
import scipy.sparse as sp
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray

from model import tokens
from model.scoring import LONGEST_WORD, Rows, find

LEAST_DOCUMENTS = 2  # a feature seen in one ticket only teaches nothing about the next
LEAST_NEAR = 5  # the same for words that are near each other: they are many, and most come together by chance
SUBWORD_WEIGHT = 0.5  # an n-gram beside a whole word or a pair of neighbours; chosen by cross-validation, see benchmarks/README.md
NEAR_WEIGHT = 0.5  # two words near each other, likewise
TELLING, DOUBTED = 0.05, 80.0  # nats of information gain, at this doubt, that words near each other must give: most give none, and cost time
LEAST_GAIN = 1e-4  # nats; what tells nothing of the labels is turned down, not off: the next table may know better
_AT_ONCE = 1 << 24  # near pairs sorted together


@dataclass(frozen=True)
class Recipe:
    """How words become features; which one is best hangs on the table, so training tries several (`training.fit`).

    `reach`: how many words apart two words are still near each other (1: neighbours only). `power`: a feature counts by its
    information gain to this power (0: all alike). `doubt`: so many tickets of the usual mix of labels are taken to have had each
    feature, too, so that a rare one is not believed too much.
    """

    reach: int
    power: float
    doubt: float


PLAIN = Recipe(reach=1, power=0.0, doubt=1.0)


@nb.njit(cache=True, nogil=True)
def _scan_all(
    codes: tokens.Codes, offsets: NDArray[np.int64], classes: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tokens.Hashes, tokens.Hashes]:
    """Words of all texts: where each text's words begin, their begins and ends in `codes`, word and pair hashes (the pair
    of word i is i and i + 1; 0 at the end of a text)."""
    room = len(codes)
    begins = np.empty(room, np.int64)
    ends = np.empty(room, np.int64)
    hashes = np.empty(room, np.uint64)
    pairs = np.zeros(room, np.uint64)
    starts = np.zeros(len(offsets), np.int64)
    longest = 1
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    b = np.empty(longest, np.int32)
    e = np.empty(longest, np.int32)
    h = np.empty(longest, np.uint64)
    n = 0
    for text in range(len(offsets) - 1):
        found = tokens.scan(codes, offsets[text], offsets[text + 1], classes, b, e, h)
        for i in range(found):
            begins[n + i] = offsets[text] + b[i]
            ends[n + i] = offsets[text] + e[i]
            hashes[n + i] = h[i]
            if i:
                pairs[n + i - 1] = tokens.pair_hash(h[i - 1], h[i], 1)
        n += found
        starts[text + 1] = n
    return starts, begins[:n].copy(), ends[:n].copy(), hashes[:n].copy(), pairs[:n].copy()


@nb.njit(cache=True, nogil=True)
def _cut_all(codes: tokens.Codes, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], tokens.Hashes]:
    starts = np.zeros(len(begins) + 1, np.int64)
    for i in range(len(begins)):
        starts[i + 1] = starts[i] + tokens.subword_count(min(ends[i] - begins[i], LONGEST_WORD))
    out = np.empty(starts[-1], np.uint64)
    for i in range(len(begins)):
        tokens.cut(codes, begins[i], min(ends[i], begins[i] + LONGEST_WORD), out[starts[i] :])
    return starts, out


@nb.njit(cache=True, nogil=True)
def _slot(hash_: np.uint64, size: int) -> np.uint64:
    return (hash_ >> np.uint64(20)) & np.uint64(size - 1)


@nb.njit(cache=True, nogil=True)
def _tally(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int, tally: NDArray[np.uint8]) -> int:
    """Count the near pairs by hash (up to `LEAST_NEAR`, and too many where hashes share a slot); how many came up often enough."""
    often = 0
    for text in range(len(starts) - 1):
        for i in range(starts[text], starts[text + 1]):
            for gap in range(2, min(reach, i - starts[text]) + 1):
                slot = _slot(tokens.pair_hash(hashes[i - gap], hashes[i], gap), len(tally))
                if tally[slot] < LEAST_NEAR:
                    tally[slot] += 1
                    often += LEAST_NEAR if tally[slot] == LEAST_NEAR else 0
                else:
                    often += 1
    return often


@nb.njit(cache=True, nogil=True)
def _gather(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int, tally: NDArray[np.uint8], part: int, parts: int,
            out: tokens.Hashes) -> int:  # fmt: skip
    """Write to `out`, as far as there is room, the near pairs that came up often enough and belong to this part; how many there are."""
    n = 0
    for text in range(len(starts) - 1):
        for i in range(starts[text], starts[text + 1]):
            for gap in range(2, min(reach, i - starts[text]) + 1):
                hash_ = tokens.pair_hash(hashes[i - gap], hashes[i], gap)
                if hash_ % np.uint64(parts) == part and tally[_slot(hash_, len(tally))] >= LEAST_NEAR:
                    if n < len(out):
                        out[n] = hash_
                    n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _near_matrix(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int, slots: tokens.Hashes) -> tuple[
    NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:  # fmt: skip
    """How often each text has each near pair of the table, as compressed sparse rows."""
    indptr = np.zeros(len(starts), np.int64)
    most = (starts[-1] - starts[0]) * (reach - 1)
    indices, data = np.empty(most, np.int32), np.empty(most, np.float32)
    n = 0
    for text in range(len(starts) - 1):
        first = n
        for i in range(starts[text], starts[text + 1]):
            for gap in range(2, min(reach, i - starts[text]) + 1):
                place = find(slots, tokens.pair_hash(hashes[i - gap], hashes[i], gap))
                if place >= 0:
                    indices[n] = place
                    n += 1
        indices[first:n].sort()
        kept = first
        for entry in range(first, n):
            if entry > first and indices[entry] == indices[kept - 1]:
                data[kept - 1] += 1
            else:
                indices[kept], data[kept] = indices[entry], 1
                kept += 1
        n = kept
        indptr[text + 1] = n
    return data[:n].copy(), indices[:n].copy(), indptr


def _near_pairs(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int) -> tuple[tokens.Hashes, sp.csr_matrix]:
    """The hashes of the words near each other that came up `LEAST_NEAR` times, and how often each text has them."""
    tally = np.zeros(1 << int(np.clip(np.ceil(np.log2(len(hashes) * reach + 1)), 10, 27)), np.uint8)
    often = _tally(starts, hashes, reach, tally)
    parts = 1 + often // _AT_ONCE
    room = np.empty(min(often, 2 * _AT_ONCE), np.uint64)
    found = []
    for part in range(parts):
        n = _gather(starts, hashes, reach, tally, part, parts, room)
        if n > len(room):  # one pair may come up more often than all of a part should
            room = np.empty(n, np.uint64)
            _gather(starts, hashes, reach, tally, part, parts, room)
        pairs, times = np.unique(room[:n], return_counts=True)
        found.append(pairs[times >= LEAST_NEAR])
    kept = np.sort(np.concatenate(found))
    table = Rows.build(kept, np.empty((len(kept), 0), np.float32), 0, reach)
    edges = np.linspace(0, len(starts) - 1, 1 + cpu_count()).astype(int)
    shares = [starts[first : last + 1] for first, last in pairwise(edges)]
    counted = Parallel(n_jobs=-1, backend="threading")(delayed(_near_matrix)(own, hashes, reach, table.slots) for own in shares)
    return kept, sp.vstack([sp.csr_matrix(part, shape=(len(own) - 1, len(kept))) for own, part in zip(shares, counted, strict=True)], format="csr")


class _Terms(NamedTuple):
    """`TermCounts` as the compiled loops want it: for each text its words and how often it has each, for each word its subwords and how
    often it has each, for each text its pairs. `subwords`: how many there are; a pair's feature is its column and so many more."""

    words: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
    cuts: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
    pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
    subwords: int


@nb.njit(cache=True, nogil=True)
def _read(terms: _Terms, text: int, times: NDArray[np.float32], found: NDArray[np.int32]) -> int:
    """Write to `found` the subwords of a text, each once, and add to `times` (subwords,) how often it has each; how many it has."""
    (word_starts, words, word_times), (cut_starts, cuts, cut_times) = terms.words, terms.cuts
    n = 0
    for place in range(word_starts[text], word_starts[text + 1]):
        word, often = words[place], word_times[place]
        for cut in range(cut_starts[word], cut_starts[word + 1]):
            feature = cuts[cut]
            if times[feature] == 0:
                found[n] = feature
                n += 1
            times[feature] += often * cut_times[cut]
    return n


@nb.njit(cache=True, nogil=True)
def _frequencies(terms: _Terms, which: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Count in `out` (features,) how many of the texts numbered `which` have each feature."""
    starts, pairs, _ = terms.pairs
    times, found = np.zeros(terms.subwords, np.float32), np.empty(terms.subwords, np.int32)
    for text in which:
        for place in range(_read(terms, text, times, found)):
            times[found[place]] = 0
            out[found[place]] += 1
        for place in range(starts[text], starts[text + 1]):
            out[terms.subwords + pairs[place]] += 1


@nb.njit(cache=True, nogil=True)
def _mixes(terms: _Terms, which: NDArray[np.int64], codes: NDArray[np.int64], numbers: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """Count in `out` (kept features, labels) how many of the texts numbered `which`, whose labels are `codes`, have each feature.
    `numbers`: the row of each feature, -1 where it has none."""
    starts, pairs, _ = terms.pairs
    times, found = np.zeros(terms.subwords, np.float32), np.empty(terms.subwords, np.int32)
    for i in range(len(which)):
        text, code = which[i], codes[i]
        if code < 0:
            continue
        for place in range(_read(terms, text, times, found)):
            times[found[place]] = 0
            if numbers[found[place]] >= 0:
                out[numbers[found[place]], code] += 1
        for place in range(starts[text], starts[text + 1]):
            number = numbers[terms.subwords + pairs[place]]
            if number >= 0:
                out[number, code] += 1


@nb.njit(cache=True, nogil=True)
def _gain(mixes: NDArray[np.int32], shares: NDArray[np.float64], doubt: float) -> NDArray[np.float64]:
    """For each feature, by how many tickets of each label have it, the divergence of its mix of labels from the usual one, in nats."""
    out = np.zeros(len(mixes))
    for feature in range(len(mixes)):
        total = doubt
        for code in range(len(shares)):
            total += mixes[feature, code]
        for code in range(len(shares)):
            share = (mixes[feature, code] + doubt * shares[code]) / total
            if share > 0:
                out[feature] += share * np.log(share / shares[code])
    return out


@nb.njit(cache=True, nogil=True)
def _room(terms: _Terms, which: NDArray[np.int64]) -> int:
    """The most entries that the rows of the texts numbered `which` can have."""
    (word_starts, words, _), cut_starts, pair_starts = terms.words, terms.cuts[0], terms.pairs[0]
    most = 0
    for text in which:
        most += pair_starts[text + 1] - pair_starts[text]
        for place in range(word_starts[text], word_starts[text + 1]):
            most += cut_starts[words[place] + 1] - cut_starts[words[place]]
    return most


@nb.njit(cache=True, nogil=True)
def _weighted(terms: _Terms, which: NDArray[np.int64], numbers: NDArray[np.int32], scale: NDArray[np.float32], squares: NDArray[np.float32],
              indptr: NDArray[np.int64], indices: NDArray[np.int32], data: NDArray[np.float32]) -> None:  # fmt: skip
    """Write the compressed sparse rows of the texts numbered `which`. `squares` (words,): the squared length of each word."""
    starts, pairs, pair_times = terms.pairs
    word_starts, words, word_times = terms.words
    times, found = np.zeros(terms.subwords, np.float32), np.empty(terms.subwords, np.int32)
    n = 0
    for i in range(len(which)):
        text, first, squared = which[i], n, 0.0
        for place in range(word_starts[text], word_starts[text + 1]):
            squared += word_times[place] ** 2 * squares[words[place]]
        for place in range(_read(terms, text, times, found)):
            feature = found[place]
            if numbers[feature] >= 0:
                indices[n], data[n] = numbers[feature], times[feature] * scale[feature]
                n += 1
            times[feature] = 0
        for place in range(starts[text], starts[text + 1]):
            feature = terms.subwords + pairs[place]
            if numbers[feature] >= 0:
                indices[n], data[n] = numbers[feature], pair_times[place] * scale[feature]
                squared += data[n] ** 2
                n += 1
        norm = np.float32(1 / np.sqrt(squared)) if squared > 0 else np.float32(0)
        for entry in range(first, n):
            data[entry] *= norm
        indptr[i + 1] = n


@dataclass(frozen=True)
class TermCounts:
    """The terms of a table of texts, and what they are made of.

    `words` (texts, words) and `pairs` (texts, pairs): how often each text has each; the first `neighbours` pairs are of neighbours,
    the others of words near each other. `cuts` (words, subwords): how often each subword is in each word. `weights` (subwords,):
    `SUBWORD_WEIGHT` for an n-gram, 1 for a whole word. The hashes are those of words, pairs and subwords.
    """

    words: sp.csr_matrix
    pairs: sp.csr_matrix
    cuts: sp.csr_matrix
    weights: NDArray[np.float32]
    word_hashes: tokens.Hashes
    pair_hashes: tokens.Hashes
    cut_hashes: tokens.Hashes
    neighbours: int

    @classmethod
    def of(cls, texts: list[str], reach: int = 1) -> Self:
        """Read cleaned `texts`, words up to `reach` apart together."""
        codes, offsets = tokens.encode(texts)
        starts, begins, ends, hashes, pairs = _scan_all(codes, offsets, tokens.character_classes())
        text_of = np.repeat(np.arange(len(texts)), np.diff(starts))
        words, first, word_of = np.unique(hashes, return_index=True, return_inverse=True)
        real = pairs != 0
        neighbours, pair_of = np.unique(pairs[real], return_inverse=True)
        beside = _count_matrix(text_of[real], pair_of, (len(texts), len(neighbours)))
        near, near_by = _near_pairs(starts, hashes, reach)
        cut_starts, cuts = _cut_all(codes, begins[first], ends[first])
        subwords, subword_of = np.unique(cuts, return_inverse=True)
        weights = np.full(len(subwords), SUBWORD_WEIGHT, np.float32)
        weights[subword_of[cut_starts[:-1]]] = 1  # the first cut of a word is the whole word
        word_cuts = np.diff(cut_starts)
        return cls(
            words=_count_matrix(text_of, word_of, (len(texts), len(words))),
            pairs=sp.hstack([beside, near_by], format="csr", dtype=np.float32),
            cuts=_count_matrix(np.repeat(np.arange(len(word_cuts)), word_cuts), subword_of, (len(word_cuts), len(subwords))),
            weights=weights,
            word_hashes=words,
            pair_hashes=np.concatenate([neighbours, near]),
            cut_hashes=subwords,
            neighbours=len(neighbours),
        )

    @property
    def terms(self) -> _Terms:
        """The same for the compiled loops."""
        words, cuts, pairs = ((matrix.indptr, matrix.indices, matrix.data) for matrix in (self.words, self.cuts, self.pairs))
        return _Terms(words, cuts, pairs, len(self.cut_hashes))


def _count_matrix(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)
    matrix.sum_duplicates()
    return matrix


class Features:
    """Which features are kept, and their weights, learned from some of the texts of `counts`. The features are the subwords, then the
    pairs. The columns of a matrix are those that are kept, the frequent ones first: what comes up often stands together, where the
    processor's cache keeps it."""

    def __init__(self, counts: TermCounts, recipe: Recipe = PLAIN) -> None:
        self.counts = counts
        self.recipe = recipe

    def fit_transform(self, which: NDArray[np.int64], labels: Sequence[NDArray[np.int64]] = ()) -> sp.csr_matrix:
        """Learn from the texts numbered `which`; returns their matrix, float32 of shape (which, features kept).

        `labels`: for each target the codes of these texts' labels, (which,), -1 where there is none; a feature counts by what it
        tells of them (the mean over targets, of the logarithms).
        """
        counts = self.counts
        n_cuts, n_near = len(counts.cut_hashes), len(counts.pair_hashes) - counts.neighbours
        first_near = n_cuts + counts.neighbours
        frequency = np.zeros(first_near + n_near, np.int64)
        _frequencies(counts.terms, which, frequency)
        least = np.full(len(frequency), LEAST_DOCUMENTS)
        least[first_near:] = LEAST_NEAR if self.recipe.reach > 1 else len(which) + 1
        common = np.argsort(-frequency, kind="stable")
        kept = common[frequency[common] >= least[common]]
        self._keep(kept, len(frequency))
        weights = np.concatenate([counts.weights, np.ones(counts.neighbours), np.full(n_near, NEAR_WEIGHT)])
        scale = (np.log((1 + len(which)) / (1 + frequency[kept])) + 1) * weights[kept]
        if self.recipe.power and len(labels):
            near = np.flatnonzero(kept >= first_near)
            telling = np.zeros(len(near), bool)
            for codes in labels:
                tickets = np.bincount(codes[codes >= 0])
                mixes = np.zeros((len(kept), len(tickets)), np.int32)
                _mixes(counts.terms, which, codes, self.numbers_, mixes)
                shares = tickets / max(1, tickets.sum())
                scale *= np.maximum(_gain(mixes, shares, self.recipe.doubt), LEAST_GAIN) ** (self.recipe.power / len(labels))
                telling |= _gain(mixes[near], shares, DOUBTED) >= TELLING
            scale[near[~telling]] = 0
            kept, scale = kept[scale != 0], scale[scale != 0]
            self._keep(kept, len(frequency))
        self.scale_ = scale.astype(np.float32)
        return self.transform(which)

    def transform(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        """The matrix of the texts numbered `which`: float32 of shape (which, features kept), rows of about unit length."""
        terms = self.counts.terms
        full = np.zeros(len(self.numbers_), np.float32)
        full[self.kept_] = self.scale_
        squares = self.counts.cuts @ full[: terms.subwords] ** 2
        indptr, most = np.zeros(len(which) + 1, np.int64), _room(terms, which)
        indices, data = np.empty(most, np.int32), np.empty(most, np.float32)  # memory that is not written to is not taken
        _weighted(terms, which, self.numbers_, full, squares, indptr, indices, data)
        return sp.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=(len(which), len(self.kept_)))

    @property
    def hashes(self) -> tokens.Hashes:
        """Of the features kept, in the order of the columns."""
        return np.concatenate([self.counts.cut_hashes, self.counts.pair_hashes])[self.kept_]

    def rows(self, weights: NDArray[np.float32]) -> Rows:
        """The table that serves, from the solver's `weights` (features kept, columns): the features, and ready sums for the
        words seen `LEAST_DOCUMENTS` times."""
        counts = self.counts
        values = np.column_stack([weights * self.scale_[:, None], self.scale_**2]).astype(np.float32)
        is_cut = self.kept_ < len(counts.cut_hashes)
        cuts = counts.cuts[:, self.kept_[is_cut]]
        documents = np.bincount(counts.words.indices, minlength=len(counts.word_hashes))
        words = np.argsort(-documents, kind="stable")[: np.count_nonzero(documents >= LEAST_DOCUMENTS)]
        own = self.hashes
        hashes = np.concatenate([counts.word_hashes[words], own[is_cut], own[~is_cut]])
        table = np.concatenate([cuts[words] @ values[is_cut], values[is_cut], values[~is_cut]])
        return Rows.build(hashes, table, len(words) + int(is_cut.sum()), self.recipe.reach)

    def _keep(self, features: NDArray[np.int64], of: int) -> None:
        """Take these of so many features for the columns, in this order: `kept_`, and in `numbers_` where each stands, -1 for the others."""
        self.kept_ = features
        self.numbers_ = np.full(of, -1, np.int32)
        self.numbers_[features] = np.arange(len(features))
