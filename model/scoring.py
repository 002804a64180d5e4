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
from model.phrases import strongest
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
    their best labels: all in one call into compiled code, the same for one text and for thousands."""
    codes, offsets = tokens.encode(texts)
    n, columns = len(texts), len(bias)
    scores, probabilities = np.empty((n, columns), np.float32), np.empty((n, columns), np.float32)
    words, known = np.empty(n, np.int32), np.empty(n, np.int32)
    top = np.empty((n, len(heads.sharpness), ranks), np.int32)
    phrases, found = np.empty((n, explained, most, 3), np.float32), np.empty((n, explained), np.int32)
    _answer(codes, offsets, tokens.character_classes(), rows.keys, rows.places, rows.values, bias, heads.firsts, heads.sharpness, heads.shifts,
            longest, scores, words, known, probabilities, top, phrases, found)  # fmt: skip
    return Answered(Scores(scores, words, known), probabilities, top, phrases, found)


def score(texts: list[str], rows: Rows, bias: NDArray[np.float32]) -> Scores:
    """Score cleaned texts: one column for each entry of `bias`."""
    nothing = np.empty(0, np.float32)
    return answer(texts, rows, bias, Heads(np.zeros(1, np.int32), nothing, nothing), ranks=0, explained=0, most=0, longest=0).scores


def phrases(text: str, rows: Rows, columns: list[int], longest: int) -> list[list[tuple[int, int, float]]]:
    """For each of `columns`, all the text's phrases of up to `longest` words of one sentence that pull the same way, as
    (start, end, weight), strongest first; the weights add up to the column's score less its bias."""
    codes, _ = tokens.encode([text])
    out, found = np.empty((len(columns), len(text), 3), np.float32), np.empty(len(columns), np.int32)
    _phrases(codes, tokens.character_classes(), rows.keys, rows.places, rows.values, np.array(columns), longest, out, found)
    return [[(int(start), int(end), weight) for start, end, weight in phrases[:n]] for phrases, n in zip(out.tolist(), found.tolist(), strict=True)]


# What follows is compiled.


class _Room(NamedTuple):
    """Where one text after another is taken apart. Each word: where it stands (`begins`, `ends`), its hash (`words`), its place among
    the distinct terms (`of_word`), and that of the pair with the next one (`of_pair`). Each distinct term, the words before the
    pairs: its hash (`terms`), how often it occurs (`counts`), the word it is (`firsts`, -1 for a pair), its row (`rows`, -1 where
    training did not see it). `seen` and `slots` find a term again; `cuts` holds the subwords of one word."""

    begins: NDArray[np.int32]
    ends: NDArray[np.int32]
    words: Hashes
    of_word: NDArray[np.int32]
    of_pair: NDArray[np.int32]
    terms: Hashes
    counts: NDArray[np.int32]
    firsts: NDArray[np.int32]
    rows: NDArray[np.int32]
    seen: Hashes
    slots: NDArray[np.int32]
    cuts: Hashes


@nb.njit(cache=True, nogil=True)
def _room(longest: int) -> _Room:
    """Room for texts of up to `longest` characters."""
    slots = 16
    while slots < 4 * longest:
        slots *= 2
    return _Room(
        np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.uint64), np.empty(longest, np.int32),
        np.empty(longest, np.int32), np.empty(2 * longest, np.uint64), np.empty(2 * longest, np.int32), np.empty(2 * longest, np.int32),
        np.empty(2 * longest, np.int32), np.empty(slots, np.uint64), np.empty(slots, np.int32),
        np.empty(tokens.subword_count(LONGEST_WORD), np.uint64),
    )  # fmt: skip


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
def _count(room: _Room, hash_: np.uint64, word: int, n: int, mask: np.uint64) -> tuple[int, int]:
    """Count one occurrence of a term; returns (its place among the distinct terms, how many there are now)."""
    slot = (hash_ * _GOLDEN) & mask
    while room.slots[slot] >= 0:
        if room.seen[slot] == hash_:
            place = room.slots[slot]
            room.counts[place] += 1
            return place, n
        slot = (slot + np.uint64(1)) & mask
    room.seen[slot] = hash_
    room.slots[slot] = n
    room.terms[n] = hash_
    room.counts[n] = 1
    room.firsts[n] = word
    return n, n + 1


@nb.njit(cache=True, nogil=True)
def _take_apart(room: _Room, codes: Codes, classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32]) -> tuple[int, int, int]:
    """Fill `room` with one text; how many words, words that training had seen, and distinct terms it has."""
    n_words = tokens.scan(codes, 0, len(codes), classes, room.begins, room.ends, room.words)
    used = 16
    while used < 4 * n_words:
        used *= 2
    room.slots[:used] = -1
    mask = np.uint64(used - 1)
    n = 0
    for i in range(n_words):
        room.of_word[i], n = _count(room, room.words[i], i, n, mask)
    distinct_words = n
    for i in range(n_words - 1):
        room.of_pair[i], n = _count(room, tokens.pair_hash(room.words[i], room.words[i + 1]), -1, n, mask)
    known = 0
    for term in range(n):
        room.rows[term] = _find(keys, places, room.terms[term])
        if term < distinct_words and room.rows[term] >= 0:
            known += room.counts[term]
    return n_words, known, n


@nb.njit(cache=True, nogil=True)
def _cut(room: _Room, codes: Codes, word: int) -> int:
    begin = room.begins[word]
    return int(tokens.cut(codes, begin, min(room.ends[word], begin + LONGEST_WORD), room.cuts))


@nb.njit(cache=True, nogil=True)
def _add_up(room: _Room, n: int, codes: Codes, keys: Hashes, places: NDArray[np.int32], values: NDArray[np.float32],
            total: NDArray[np.float32]) -> np.float32:  # fmt: skip
    """Write the sum of the terms' weighted rows to `total` (columns,); returns what it is to be multiplied by."""
    columns = len(total)
    total[:] = 0
    squared = np.float32(0)
    for term in range(n):
        weight = np.float32(1.0 + math.log(room.counts[term]))
        if room.rows[term] >= 0:
            row = values[room.rows[term]]
            squared += weight * weight * row[columns]
            for k in range(columns):
                total[k] += weight * row[k]
        elif room.firsts[term] >= 0:
            for i in range(_cut(room, codes, room.firsts[term])):
                place = _find(keys, places, room.cuts[i])
                if place >= 0:
                    row = values[place]
                    squared += weight * weight * row[columns]
                    for k in range(columns):
                        total[k] += weight * row[k]
    return np.float32(1.0 / math.sqrt(squared)) if squared > 0 else np.float32(0.0)


@nb.njit(cache=True, nogil=True)
def _parts(room: _Room, n_words: int, codes: Codes, keys: Hashes, places: NDArray[np.int32], values: NDArray[np.float32], norm: np.float32,
           columns: NDArray[np.int64], parts: NDArray[np.float32]) -> None:  # fmt: skip
    """Write to `parts` (columns, words) what each word adds to the score of each of `columns`; a pair's part is shared by its two
    words, so that the parts add up to the score less the bias."""
    for i in range(n_words):
        term = room.of_word[i]
        share = norm * np.float32((1.0 + math.log(room.counts[term])) / room.counts[term])
        if room.rows[term] >= 0:
            for c in range(len(columns)):
                parts[c, i] = share * values[room.rows[term], columns[c]]
        else:
            parts[:, i] = 0
            for j in range(_cut(room, codes, i)):
                place = _find(keys, places, room.cuts[j])
                if place >= 0:
                    for c in range(len(columns)):
                        parts[c, i] += share * values[place, columns[c]]
    for i in range(n_words - 1):
        term = room.of_pair[i]
        if room.rows[term] >= 0:
            share = norm * np.float32(0.5 * (1.0 + math.log(room.counts[term])) / room.counts[term])
            for c in range(len(columns)):
                half = share * values[room.rows[term], columns[c]]
                parts[c, i] += half
                parts[c, i + 1] += half


@nb.njit(cache=True, nogil=True)
def _calibrate(scores: NDArray[np.float32], firsts: NDArray[np.int32], sharpness: NDArray[np.float32], shifts: NDArray[np.float32],
               probabilities: NDArray[np.float32], top: NDArray[np.int32]) -> None:  # fmt: skip
    """Fill one text's `probabilities`, ``softmax(sharpness * score + shift)`` in each head, and `top`; see `Answered`."""
    for head in range(len(sharpness)):
        first, last = firsts[head], firsts[head + 1]
        highest = np.float32(-np.inf)
        for k in range(first, last):
            probabilities[k] = scores[k] * sharpness[head] + shifts[k]
            highest = max(highest, probabilities[k])
        total = np.float32(0)
        for k in range(first, last):
            probabilities[k] = math.exp(probabilities[k] - highest)
            total += probabilities[k]
        for k in range(first, last):
            probabilities[k] /= total
        for rank in range(top.shape[1]):
            best = -1
            for k in range(first, last):
                taken = False
                for earlier in range(rank):
                    taken = taken or top[head, earlier] == k - first
                if not taken and (best < 0 or probabilities[k] > probabilities[best]):
                    best = k
            top[head, rank] = best - first if best >= 0 else -1


@nb.njit(cache=True, nogil=True)
def _answer(codes: Codes, offsets: NDArray[np.int64], classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32],
            values: NDArray[np.float32], bias: NDArray[np.float32], firsts: NDArray[np.int32], sharpness: NDArray[np.float32],
            shifts: NDArray[np.float32], longest: int, scores: NDArray[np.float32], words: NDArray[np.int32], known: NDArray[np.int32],
            probabilities: NDArray[np.float32], top: NDArray[np.int32], phrases: NDArray[np.float32], found: NDArray[np.int32]) -> None:  # fmt: skip
    most = 1
    for text in range(len(offsets) - 1):
        most = max(most, offsets[text + 1] - offsets[text])
    room = _room(most)
    explained = np.empty(found.shape[1], np.int64)
    parts = np.empty((len(explained), most), np.float32)
    for text in range(len(offsets) - 1):
        own = codes[offsets[text] : offsets[text + 1]]
        words[text], known[text], n = _take_apart(room, own, classes, keys, places)
        norm = _add_up(room, n, own, keys, places, values, scores[text])
        for k in range(len(bias)):
            scores[text, k] = scores[text, k] * norm + bias[k]
        _calibrate(scores[text], firsts, sharpness, shifts, probabilities[text], top[text])
        if len(explained) == 0:
            continue
        for head in range(len(explained)):
            explained[head] = firsts[head] + top[text, head, 0]
        _parts(room, words[text], own, keys, places, values, norm, explained, parts)
        for head in range(len(explained)):
            found[text, head] = strongest(own, room.begins, room.ends, parts[head], words[text], longest, phrases[text, head])


@nb.njit(cache=True, nogil=True)
def _phrases(codes: Codes, classes: NDArray[np.uint8], keys: Hashes, places: NDArray[np.int32], values: NDArray[np.float32],
             columns: NDArray[np.int64], longest: int, out: NDArray[np.float32], found: NDArray[np.int32]) -> None:  # fmt: skip
    room = _room(max(1, len(codes)))
    parts = np.empty((len(columns), max(1, len(codes))), np.float32)
    n_words, _, n = _take_apart(room, codes, classes, keys, places)
    norm = _add_up(room, n, codes, keys, places, values, np.empty(values.shape[1] - 1, np.float32))
    _parts(room, n_words, codes, keys, places, values, norm, columns, parts)
    for i in range(len(columns)):
        found[i] = strongest(codes, room.begins, room.ends, parts[i], n_words, longest, out[i])
