"""Scores as sums over words: ``score = bias + sum(weight(count) * row) / norm``, one row of numbers a word or pair.

The rows of all targets and of the language head lie side by side, so one lookup serves them all. The last column of a
row is its squared length; ``norm`` is the length of the ticket's feature vector as if no two words shared a subword,
which keeps every word's part in the score additive (DESIGN: "the same, additive norm"). A word that training did not see
gets its row from its subwords.

`Rows` is an open-addressing hash table in plain arrays: what is saved in a bundle, and what the compiled loops read.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray

from model import tokens
from model.tokens import Codes, Hashes

LONGEST_WORD = 64  # characters of a word that subwords are cut from; a longer run is base64 or an attack
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Rows:
    """Hash to row. `keys` and `places` have a power of two of slots (place -1: empty); `values` is float32 of shape
    (rows, columns + 1), its last column the squared length."""

    keys: Hashes
    places: NDArray[np.int32]
    values: NDArray[np.float32]

    @classmethod
    def build(cls, hashes: Hashes, values: NDArray[np.float32]) -> Self:
        """The table of `hashes` (distinct, shape (rows,)) and their `values` (rows, columns + 1)."""
        slots = 1 << max(4, math.ceil(math.log2(max(1, len(hashes)) * 2)))
        keys = np.zeros(slots, np.uint64)
        places = np.full(slots, -1, np.int32)
        _fill(keys, places, np.ascontiguousarray(hashes, np.uint64))
        return cls(keys, places, np.ascontiguousarray(values, np.float32))


class Scores(NamedTuple):
    """What one pass over texts gives: `values` float32 (texts, columns), bias included; `words` and `known` int32
    (texts,): how many words, and how many of them training had seen."""

    values: NDArray[np.float32]
    words: NDArray[np.int32]
    known: NDArray[np.int32]


@nb.njit(cache=True, nogil=True)
def _fill(keys: Hashes, places: NDArray[np.int32], hashes: Hashes) -> None:
    mask = np.uint64(len(keys) - 1)
    for row in range(len(hashes)):
        slot = hashes[row] & mask
        while places[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = hashes[row]
        places[slot] = row


@nb.njit(cache=True, nogil=True)
def _find(keys: Hashes, places: NDArray[np.int32], wanted: np.uint64) -> int:
    mask = np.uint64(len(keys) - 1)
    slot = wanted & mask
    while places[slot] >= 0:
        if keys[slot] == wanted:
            return int(places[slot])
        slot = (slot + np.uint64(1)) & mask
    return -1


@nb.njit(cache=True, nogil=True)
def _count(hash_: np.uint64, word: int, seen: Hashes, slots: NDArray[np.int32], terms: Hashes, counts: NDArray[np.int32],
           firsts: NDArray[np.int32], n: int, mask: np.uint64) -> tuple[int, int]:  # fmt: skip
    """Count one occurrence of a term; returns (its place among the distinct terms, how many there are now)."""
    slot = (hash_ * _GOLDEN) & mask
    while slots[slot] >= 0:
        if seen[slot] == hash_:
            place = slots[slot]
            counts[place] += 1
            return place, n
        slot = (slot + np.uint64(1)) & mask
    seen[slot] = hash_
    slots[slot] = n
    terms[n] = hash_
    counts[n] = 1
    firsts[n] = word
    return n, n + 1


@nb.njit(cache=True, nogil=True)
def _row(term: np.uint64, begin: int, end: int, codes: Codes, keys: Hashes, places: NDArray[np.int32],
         values: NDArray[np.float32], cuts: Hashes, row: NDArray[np.float32]) -> bool:  # fmt: skip
    """Write the row of a term to `row`: kept, or for a new word (`begin` >= 0) the sum of its subwords'. True: kept."""
    place = _find(keys, places, term)
    if place >= 0:
        row[:] = values[place]
        return True
    row[:] = 0
    if begin >= 0:
        for i in range(tokens.cut(codes, begin, min(end, begin + LONGEST_WORD), cuts)):
            place = _find(keys, places, cuts[i])
            if place >= 0:
                row += values[place]
    return False


@nb.njit(cache=True, nogil=True)
def _score(codes: Codes, offsets: NDArray[np.int64], classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32],
           values: NDArray[np.float32], bias: NDArray[np.float32], scores: NDArray[np.float32], words: NDArray[np.int32],
           known: NDArray[np.int32], parts: NDArray[np.float32]) -> None:  # fmt: skip
    """Fill `scores`, `words` and `known`. With `parts` of shape (words, columns), also what each word of the first text
    adds to each score; a pair's part is shared by its two words, so that the parts add up to the score less the bias."""
    columns = len(bias)
    longest = 1
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    begins = np.empty(longest, np.int32)
    ends = np.empty(longest, np.int32)
    hashes = np.empty(longest, np.uint64)
    terms = np.empty(2 * longest, np.uint64)
    counts = np.empty(2 * longest, np.int32)
    firsts = np.empty(2 * longest, np.int32)
    of_word = np.empty(longest, np.int32)
    of_pair = np.empty(longest, np.int32)
    room = 16
    while room < 4 * longest:
        room *= 2
    seen = np.empty(room, np.uint64)
    slots = np.empty(room, np.int32)
    cuts = np.empty(tokens.subword_count(LONGEST_WORD), np.uint64)
    row = np.empty(columns + 1, np.float32)
    total = np.empty(columns, np.float32)
    for text in range(len(offsets) - 1):
        start = offsets[text]
        n_words = tokens.scan(codes, start, offsets[text + 1], classes, begins, ends, hashes)
        used = 16
        while used < 4 * n_words:
            used *= 2
        slots[:used] = -1
        mask = np.uint64(used - 1)
        n = 0
        for i in range(n_words):
            of_word[i], n = _count(hashes[i], i, seen, slots, terms, counts, firsts, n, mask)
        n_distinct_words = n
        for i in range(n_words - 1):
            pair = tokens.pair_hash(hashes[i], hashes[i + 1])
            of_pair[i], n = _count(pair, -1, seen, slots, terms, counts, firsts, n, mask)
        total[:] = 0
        squared = 0.0
        n_known = 0
        for place in range(n):
            first = firsts[place]
            begin = start + begins[first] if first >= 0 else -1
            end = start + ends[first] if first >= 0 else -1
            kept = _row(terms[place], begin, end, codes, keys, places, values, cuts, row)
            if kept and place < n_distinct_words:
                n_known += counts[place]
            weight = np.float32(1.0 + math.log(counts[place]))
            squared += weight * weight * row[columns]
            for k in range(columns):
                total[k] += weight * row[k]
        words[text] = n_words
        known[text] = n_known
        norm = np.float32(1.0 / math.sqrt(squared)) if squared > 0 else np.float32(0.0)
        for k in range(columns):
            scores[text, k] = total[k] * norm + bias[k]
        if text == 0 and len(parts) == n_words:
            for i in range(n_words):
                place = of_word[i]
                _row(terms[place], start + begins[i], start + ends[i], codes, keys, places, values, cuts, row)
                share = np.float32((1.0 + math.log(counts[place])) / counts[place]) * norm
                for k in range(columns):
                    parts[i, k] += share * row[k]
            for i in range(n_words - 1):
                place = of_pair[i]
                if _row(terms[place], -1, -1, codes, keys, places, values, cuts, row):
                    share = np.float32(0.5 * (1.0 + math.log(counts[place])) / counts[place]) * norm
                    for k in range(columns):
                        parts[i, k] += share * row[k]
                        parts[i + 1, k] += share * row[k]


@nb.njit(cache=True, nogil=True)
def _calibrate(scores: NDArray[np.float32], firsts: NDArray[np.int32], sharpness: NDArray[np.float32], shifts: NDArray[np.float32],
               probabilities: NDArray[np.float32], top: NDArray[np.int32]) -> None:  # fmt: skip
    """Fill `probabilities`, ``softmax(sharpness * score + shift)`` in each head, and `top`; see `Answered`."""
    for text in range(len(scores)):
        for head in range(len(sharpness)):
            first, last = firsts[head], firsts[head + 1]
            highest = np.float32(-np.inf)
            for k in range(first, last):
                logit = scores[text, k] * sharpness[head] + shifts[k]
                probabilities[text, k] = logit
                highest = max(highest, logit)
            total = np.float32(0)
            for k in range(first, last):
                probabilities[text, k] = math.exp(probabilities[text, k] - highest)
                total += probabilities[text, k]
            for k in range(first, last):
                probabilities[text, k] /= total
            for rank in range(top.shape[2]):
                best = -1
                for k in range(first, last):
                    taken = False
                    for earlier in range(rank):
                        taken = taken or top[text, head, earlier] == k - first
                    if not taken and (best < 0 or probabilities[text, k] > probabilities[text, best]):
                        best = k
                top[text, head, rank] = best - first if best >= 0 else -1


@nb.njit(cache=True, nogil=True)
def _join(codes: Codes, begins: NDArray[np.int32], ends: NDArray[np.int32], weights: NDArray[np.float32], n_words: int, longest: int,
          out: NDArray[np.float32]) -> int:  # fmt: skip
    """Join neighbouring words that pull the same way into phrases: (start, end, weight) in the rows of `out`; how many."""
    n = 0
    first = 0
    for i in range(1, n_words + 1):
        joins = False
        if i < n_words:
            gap = begins[i] - ends[i - 1]
            joins = i - first < longest and gap <= 2 and (weights[i] > 0) == (weights[i - 1] > 0) and not _breaks(codes[ends[i - 1] - 1])
            for place in range(ends[i - 1], begins[i]):
                joins = joins and not _breaks(codes[place])
        if not joins:
            out[n, 0] = begins[first]
            out[n, 1] = ends[i - 1]
            out[n, 2] = weights[first:i].sum()
            n += 1
            first = i
    return n


@nb.njit(cache=True, nogil=True)
def _breaks(code: int) -> bool:
    # . ! ? ; : newline, and the full stops, question and exclamation marks of other scripts
    return code in (10, 33, 46, 58, 59, 63, 0x061F, 0x0964, 0x3002, 0xFF01, 0xFF1F)


@nb.njit(cache=True, nogil=True)
def _phrases(codes: Codes, classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32], values: NDArray[np.float32],
             bias: NDArray[np.float32], wanted: NDArray[np.int64], longest: int, out: NDArray[np.float32],
             found: NDArray[np.int32]) -> None:  # fmt: skip
    """Fill `out` (wanted, most, 3) with each wanted column's strongest phrases of one text as (start, end, weight), strongest
    first, and `found` (wanted,) with how many each has."""
    begins = np.empty(len(codes), np.int32)
    ends = np.empty(len(codes), np.int32)
    hashes = np.empty(len(codes), np.uint64)
    n_words = tokens.scan(codes, 0, len(codes), classes, begins, ends, hashes)
    found[:] = 0
    if n_words == 0:
        return
    parts = np.zeros((n_words, len(bias)), np.float32)
    offsets = np.array([0, len(codes)])
    count = np.empty(1, np.int32)
    _score(codes, offsets, classes, keys, places, values, bias, np.empty((1, len(bias)), np.float32), count, count.copy(), parts)
    joined = np.empty((n_words, 3), np.float32)
    for w in range(len(wanted)):
        n = _join(codes, begins, ends, parts[:, wanted[w]], n_words, longest, joined)
        order = np.argsort(-np.abs(joined[:n, 2]), kind="mergesort")
        found[w] = min(n, out.shape[1])
        for place in range(found[w]):
            out[w, place] = joined[order[place]]


@nb.njit(cache=True, nogil=True)
def _answer(codes: Codes, offsets: NDArray[np.int64], classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32],
            values: NDArray[np.float32], bias: NDArray[np.float32], firsts: NDArray[np.int32], sharpness: NDArray[np.float32],
            shifts: NDArray[np.float32], longest: int, scores: NDArray[np.float32], words: NDArray[np.int32], known: NDArray[np.int32],
            probabilities: NDArray[np.float32], top: NDArray[np.int32], phrases: NDArray[np.float32], found: NDArray[np.int32]) -> None:  # fmt: skip
    _score(codes, offsets, classes, keys, places, values, bias, scores, words, known, np.empty((0, len(bias)), np.float32))
    _calibrate(scores, firsts, sharpness, shifts, probabilities, top)
    wanted = np.empty(phrases.shape[1], np.int64)
    for text in range(len(phrases)):
        for head in range(len(wanted)):
            wanted[head] = firsts[head] + top[text, head, 0]
        own = codes[offsets[text] : offsets[text + 1]]
        _phrases(own, classes, keys, places, values, bias, wanted, longest, phrases[text], found[text])


class Heads(NamedTuple):
    """The calibrated heads of a router: `firsts` int32 (heads + 1,), each head's first column, then the number of columns;
    `sharpness` float32 (heads,); `shifts` float32 (columns,)."""

    firsts: NDArray[np.int32]
    sharpness: NDArray[np.float32]
    shifts: NDArray[np.float32]


class Answered(NamedTuple):
    """What one call tells of texts: their `scores`; `probabilities` float32 (texts, columns), calibrated in each head; `top` int32
    (texts, heads, ranks), each head's most probable labels, best first, -1 where there are fewer; `phrases` float32 (texts, heads,
    most, 3), (start, end, weight) for each head's best label, strongest first, and `found` int32 (texts, heads), how many."""

    scores: Scores
    probabilities: NDArray[np.float32]
    top: NDArray[np.int32]
    phrases: NDArray[np.float32]
    found: NDArray[np.int32]


def answer(texts: list[str], rows: Rows, bias: NDArray[np.float32], heads: Heads, ranks: int, explained: int, most: int, longest: int) -> Answered:
    """Score, calibrate, rank and, for the first `explained` heads, find the `most` phrases of up to `longest` words that pulled
    their best labels: all in one call into compiled code."""
    codes, offsets = tokens.encode(texts)
    n, columns = len(texts), len(bias)
    scores, probabilities = np.empty((n, columns), np.float32), np.empty((n, columns), np.float32)
    words, known = np.empty(n, np.int32), np.empty(n, np.int32)
    top = np.empty((n, len(heads.sharpness), ranks), np.int32)
    texts_explained = n if explained else 0
    phrases, found = np.empty((texts_explained, explained, most, 3), np.float32), np.empty((texts_explained, explained), np.int32)
    classes = tokens.character_classes()
    _answer(codes, offsets, classes, rows.keys, rows.places, rows.values, bias, heads.firsts, heads.sharpness, heads.shifts, longest,
            scores, words, known, probabilities, top, phrases, found)  # fmt: skip
    return Answered(Scores(scores, words, known), probabilities, top, phrases, found)


def phrases(text: str, rows: Rows, bias: NDArray[np.float32], columns: list[int], longest: int) -> list[list[tuple[int, int, float]]]:
    """For each of `columns`, all the text's phrases of up to `longest` words of one sentence that pull the same way, as
    (start, end, weight), strongest first; the weights add up to the column's score less its bias."""
    codes, _ = tokens.encode([text])
    out, found = np.empty((len(columns), len(text), 3), np.float32), np.empty(len(columns), np.int32)
    classes = tokens.character_classes()
    _phrases(codes, classes, rows.keys, rows.places, rows.values, bias, np.array(columns), longest, out, found)
    return [[(int(start), int(end), weight) for start, end, weight in phrases[:n]] for phrases, n in zip(out.tolist(), found.tolist(), strict=True)]


def score(texts: list[str], rows: Rows, bias: NDArray[np.float32]) -> Scores:
    """Score cleaned texts: one column for each entry of `bias`. The same code for one text and for thousands."""
    return _run(texts, rows, bias, np.empty((0, len(bias)), np.float32))


def score_parts(text: str, rows: Rows, bias: NDArray[np.float32]) -> tuple[NDArray[np.float32], tokens.Words]:
    """What each word of `text` adds to each score: float32 of shape (words, columns), and the words.

    ``parts.sum(axis=0) + bias`` is the score, up to rounding.
    """
    found = tokens.words(text)
    parts = np.zeros((len(found.hashes), len(bias)), np.float32)
    if len(parts):
        _run([text], rows, bias, parts)
    return parts, found


def _run(texts: list[str], rows: Rows, bias: NDArray[np.float32], parts: NDArray[np.float32]) -> Scores:
    codes, offsets = tokens.encode(texts)
    scores = np.empty((len(texts), len(bias)), np.float32)
    words = np.empty(len(texts), np.int32)
    known = np.empty(len(texts), np.int32)
    classes = tokens.character_classes()
    _score(codes, offsets, classes, rows.keys, rows.places, rows.values, bias, scores, words, known, parts)
    return Scores(scores, words, known)
