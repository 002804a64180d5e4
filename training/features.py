"""The document matrix of a ticket table: ``(documents x terms) @ (terms x subwords)``, each distinct word cut once.

A term is a word or a pair of neighbours; its count in a ticket is damped to ``1 + log(count)``. A feature is a subword or
a pair; it is weighted by its inverse document frequency. What depends on the tickets' *text alone* is done once for the
whole table (`TermCounts`); what must not look at held-out tickets (which features are kept, their weights) is done for
each fold (`Features.fit`).
"""

from dataclasses import dataclass
from typing import Self

import numba as nb
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from model import tokens
from model.scoring import LONGEST_WORD, Rows

LEAST_DOCUMENTS = 2  # a feature seen in one ticket only teaches nothing about the next
SUBWORD_WEIGHT = 0.5  # an n-gram beside a whole word or pair; chosen by cross-validation, see benchmarks/README.md


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
                pairs[n + i - 1] = tokens.pair_hash(h[i - 1], h[i])
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


@dataclass(frozen=True)
class TermCounts:
    """The terms of a table of texts, and what they are made of.

    `documents`: (texts, terms), damped counts; `subwords`: (terms, features), how often each feature is in each term;
    `weights`: (features,), `SUBWORD_WEIGHT` for an n-gram and 1 for a whole word or a pair; `n_words`: the first so many
    terms are words, the rest pairs.
    """

    documents: sp.csr_matrix
    subwords: sp.csr_matrix
    weights: NDArray[np.float32]
    term_hashes: tokens.Hashes
    feature_hashes: tokens.Hashes
    n_words: int

    @classmethod
    def of(cls, texts: list[str]) -> Self:
        """Read cleaned `texts`."""
        codes, offsets = tokens.encode(texts)
        starts, begins, ends, hashes, pairs = _scan_all(codes, offsets, tokens.character_classes())
        words, first, word_of = np.unique(hashes, return_index=True, return_inverse=True)
        real = pairs != 0
        distinct_pairs, pair_of = np.unique(pairs[real], return_inverse=True)
        text_of = np.repeat(np.arange(len(texts)), np.diff(starts))
        documents = _count_matrix(
            np.concatenate([text_of, text_of[real]]),
            np.concatenate([word_of, len(words) + pair_of]),
            (len(texts), len(words) + len(distinct_pairs)),
        )
        documents.data = 1 + np.log(documents.data)
        cut_starts, cuts = _cut_all(codes, begins[first], ends[first])
        features, feature_of = np.unique(np.concatenate([cuts, distinct_pairs]), return_inverse=True)
        weights = np.full(len(features), SUBWORD_WEIGHT, np.float32)
        weights[feature_of[cut_starts[:-1]]] = 1  # the first cut of a word is the whole word
        weights[feature_of[len(cuts) :]] = 1
        cuts_in = np.concatenate([np.diff(cut_starts), np.ones(len(distinct_pairs), np.int64)])
        subwords = _count_matrix(np.repeat(np.arange(len(cuts_in)), cuts_in), feature_of, (len(cuts_in), len(features)))
        return cls(documents, subwords, weights, np.concatenate([words, distinct_pairs]), features, len(words))


def _count_matrix(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)
    matrix.sum_duplicates()
    return matrix


class Features:
    """Which features are kept, and their weights, learned from some of the texts of `counts`."""

    def __init__(self, counts: TermCounts) -> None:
        self.counts = counts

    def fit_transform(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        """Learn from the texts numbered `which`; returns their matrix, float32 of shape (which, features)."""
        raw = self._raw(which)
        frequency = np.bincount(raw.indices, minlength=raw.shape[1])
        idf = np.log((1 + len(which)) / (1 + frequency)) + 1
        self.scale_ = np.where(frequency >= LEAST_DOCUMENTS, idf * self.counts.weights, 0).astype(np.float32)
        return self._finish(raw, which)

    def transform(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        """The matrix of the texts numbered `which`: float32 of shape (which, features), rows of about unit length."""
        return self._finish(self._raw(which), which)

    def rows(self, weights: NDArray[np.float32]) -> Rows:
        """The table that serves, from the solver's `weights` (features, columns): the features kept, and ready sums for the
        words seen `LEAST_DOCUMENTS` times."""
        values = np.column_stack([weights * self.scale_[:, None], self.scale_**2]).astype(np.float32)
        seen = np.bincount(self.counts.documents.indices, minlength=len(self.counts.term_hashes)) >= LEAST_DOCUMENTS
        words = np.flatnonzero(seen[: self.counts.n_words])
        kept = np.flatnonzero(self.scale_)
        hashes = np.concatenate([self.counts.feature_hashes[kept], self.counts.term_hashes[words]])
        return Rows.build(hashes, np.concatenate([values[kept], self.counts.subwords[words] @ values]))

    def _raw(self, which: NDArray[np.int64]) -> sp.csr_matrix:
        return (self.counts.documents[which] @ self.counts.subwords).tocsr()

    def _finish(self, raw: sp.csr_matrix, which: NDArray[np.int64]) -> sp.csr_matrix:
        documents = self.counts.documents[which]
        squared = documents.multiply(documents) @ (self.counts.subwords @ self.scale_**2)
        norm = np.divide(1, np.sqrt(squared), out=np.zeros_like(squared), where=squared > 0)
        raw.data *= self.scale_[raw.indices] * np.repeat(norm.astype(np.float32), np.diff(raw.indptr))
        raw.eliminate_zeros()
        return raw
