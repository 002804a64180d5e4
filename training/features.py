"""The document matrix of a ticket table: ``(documents x terms) @ (terms x subwords)``, each distinct word cut once.

A term is a word, a pair of neighbours, or two words near each other; it counts as often as it comes up. A feature is a subword or a
pair; it is weighted by its inverse document frequency and by what it tells of the labels. What depends on the tickets' *text
alone* is done once for the whole table (`TermCounts`); what must not look at held-out tickets (which features are kept, their
weights) is done for each fold (`Features.fit_transform`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numba as nb
import numpy as np
import scipy.sparse as sp
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
def _near_matrix(starts: NDArray[np.int64], hashes: tokens.Hashes, reach: int, slots: tokens.Hashes, often: int) -> tuple[
    NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:  # fmt: skip
    """How often each text has each near pair of the table, as a compressed sparse row matrix."""
    indptr = np.zeros(len(starts), np.int64)
    indices, data = np.empty(often, np.int32), np.empty(often, np.float32)
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
    return indptr, indices[:n].copy(), data[:n].copy()


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
    indptr, indices, data = _near_matrix(starts, hashes, reach, table.slots, often)
    return kept, sp.csr_matrix((data, indices, indptr), shape=(len(starts) - 1, len(kept)))


@nb.njit(cache=True, nogil=True)
def _gain(indptr: NDArray[np.int32], documents: NDArray[np.int32], codes: NDArray[np.int64], shares: NDArray[np.float64], doubt: float) -> NDArray[
    np.float64]:  # fmt: skip
    """For each feature (a column of a compressed sparse column matrix) the divergence of its tickets' mix of labels from the usual
    one, in nats."""
    out = np.empty(len(indptr) - 1)
    mix = np.empty(len(shares))
    for feature in range(len(out)):
        mix[:] = doubt * shares
        total = doubt
        for entry in range(indptr[feature], indptr[feature + 1]):
            code = codes[documents[entry]]
            if code >= 0:
                mix[code] += 1
                total += 1
        out[feature] = 0
        for code in range(len(shares)):
            if mix[code] > 0:
                out[feature] += mix[code] / total * np.log(mix[code] / total / shares[code])
    return out


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

    def neighbours_only(self) -> Self:
        """The same without the words that are near each other."""
        n = self.neighbours
        return replace(self, pairs=self.pairs[:, :n], pair_hashes=self.pair_hashes[:n])


def _count_matrix(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)
    matrix.sum_duplicates()
    return matrix


class Features:
    """Which features are kept, and their weights, learned from some of the texts of `counts`. The features are the subwords, then the
    pairs."""

    def __init__(self, counts: TermCounts, recipe: Recipe = PLAIN) -> None:
        self.counts = counts if recipe.reach > 1 else counts.neighbours_only()
        self.recipe = recipe

    def fit_transform(self, which: NDArray[np.int64], labels: Sequence[NDArray[np.int64]] = ()) -> sp.csr_matrix:
        """Learn from the texts numbered `which`; returns their matrix, float32 of shape (which, features).

        `labels`: for each target the codes of these texts' labels, (which,), -1 where there is none; a feature counts by what it
        tells of them (the mean over targets, of the logarithms).
        """
        raw = self._raw(which)
        counts = self.counts
        frequency = np.bincount(raw.indices, minlength=raw.shape[1])
        n_cuts, n_near = len(counts.cut_hashes), len(counts.pair_hashes) - counts.neighbours
        weights = np.concatenate([counts.weights, np.ones(counts.neighbours), np.full(n_near, NEAR_WEIGHT)])
        least = np.full(raw.shape[1], LEAST_DOCUMENTS)
        least[n_cuts + counts.neighbours :] = LEAST_NEAR
        scale = (np.log((1 + len(which)) / (1 + frequency)) + 1) * weights
        if self.recipe.power and len(labels):
            columns = raw.tocsc()
            near = slice(n_cuts + counts.neighbours, None)
            telling = np.zeros(n_near, bool)
            for codes in labels:
                shares = np.bincount(codes[codes >= 0]).astype(float)
                shares /= max(1.0, shares.sum())
                gain = _gain(columns.indptr, columns.indices, codes, shares, self.recipe.doubt)
                scale *= np.maximum(gain, LEAST_GAIN) ** (self.recipe.power / len(labels))
                telling |= _gain(columns.indptr[near.start :], columns.indices, codes, shares, DOUBTED) >= TELLING
            scale[near][~telling] = 0
        self.frequency_ = frequency
        self.scale_ = np.where(frequency >= least, scale, 0).astype(np.float32)
        return self._finish(raw, which)

    def transform(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        """The matrix of the texts numbered `which`: float32 of shape (which, features), rows of about unit length."""
        return self._finish(self._raw(which), which)

    def rows(self, weights: NDArray[np.float32]) -> Rows:
        """The table that serves, from the solver's `weights` (features, columns): the features kept, and ready sums for the
        words seen `LEAST_DOCUMENTS` times."""
        counts = self.counts
        values = np.column_stack([weights * self.scale_[:, None], self.scale_**2]).astype(np.float32)
        n_cuts = len(counts.cut_hashes)
        # What comes up often stands together at the front, where the processor's cache keeps it.
        common = np.argsort(-self.frequency_, kind="stable")
        kept = common[self.scale_[common] != 0]
        cuts, pairs = kept[kept < n_cuts], kept[kept >= n_cuts]
        documents = np.bincount(counts.words.indices, minlength=len(counts.word_hashes))
        words = np.argsort(-documents, kind="stable")[: np.count_nonzero(documents >= LEAST_DOCUMENTS)]
        hashes = np.concatenate([counts.word_hashes[words], counts.cut_hashes[cuts], counts.pair_hashes[pairs - n_cuts]])
        table = np.concatenate([counts.cuts[words] @ values[:n_cuts], values[cuts], values[pairs]])
        return Rows.build(hashes, table, len(cuts) + len(words), self.recipe.reach)

    def _raw(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        counts = self.counts
        return sp.hstack([counts.words[which] @ counts.cuts, counts.pairs[which]], format="csr")

    def _finish(self, raw: sp.csr_matrix, which: NDArray[np.int64]) -> sp.csr_matrix:
        n_cuts = len(self.counts.cut_hashes)
        words, pairs = self.counts.words[which], self.counts.pairs[which]
        squares = self.scale_**2
        squared = words.multiply(words) @ (self.counts.cuts @ squares[:n_cuts]) + pairs.multiply(pairs) @ squares[n_cuts:]
        norm = np.divide(1, np.sqrt(squared), out=np.zeros_like(squared), where=squared > 0)
        raw.data *= self.scale_[raw.indices] * np.repeat(norm.astype(np.float32), np.diff(raw.indptr))
        raw.eliminate_zeros()
        return raw
