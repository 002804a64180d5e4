"""Scores as sums over words: ``score = bias + sum(row) / norm``, one row of numbers a word, a pair, or two words near each other.

The rows of all targets and of the language head lie side by side, so one lookup serves them all. The last column of a
row is its squared length; ``norm`` is the length of the ticket's feature vector as if no two words shared a subword,
which keeps every word's part in the score additive (DESIGN: "the same, additive norm"). A word that training did not see
gets its row from its subwords.

Most pairs of a new text were never seen in training. A bit map of those that were, small enough to stay in the processor's
cache, spares them the way to the table (Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970, with one hash).

`Rows` is an open-addressing hash table in plain arrays: what is saved in a bundle, and what the compiled loops read.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray

from model import tokens
from model.phrases import strongest
from model.tokens import Codes, Hashes

LONGEST_WORD = 64  # characters of a word that subwords are cut from; a longer run is base64 or an attack
_UNSEEN = np.uint64(1 << 63)  # marks the hash of a word without a row, where else the number of a row stands
_GOLDEN, _20 = np.uint64(0x9E3779B97F4A7C15), np.uint64(20)
_63, _6 = np.uint64(63), np.uint64(6)
_ROW_BITS = np.uint64(26)
_ROW = np.uint64((1 << 26) - 1)
MOST_ROWS = (1 << 26) - 1
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Rows:
    """Hash to row. `slots` is uint64, a power of two of them: the upper 38 bits of a hash and the number of its row, or `EMPTY`. The bits
    that are cut off say where a search begins, so that one hash in 10^11 or so is taken for another. `values` is float32 of shape
    (rows, columns + 1), its last column the squared length. The rows of pairs, neighbours or not, are those from `first_pair` on;
    `reach`: how many words apart two words may stand to be near each other (1: neighbours alone)."""

    slots: Hashes
    values: NDArray[np.float32]
    first_pair: int
    reach: int

    @classmethod
    def build(cls, hashes: Hashes, values: NDArray[np.float32], first_pair: int, reach: int) -> Self:
        """The table of `hashes` (distinct, shape (rows,)) and their `values` (rows, columns + 1). Raises ValueError over `MOST_ROWS`."""
        if len(hashes) > MOST_ROWS:
            raise ValueError(f"{len(hashes)} rows; a table holds {MOST_ROWS}")
        slots = np.full(1 << max(4, math.ceil(math.log2(max(1, len(hashes)) * 2))), EMPTY)
        _fill(slots, np.ascontiguousarray(hashes, np.uint64))
        return cls(slots, np.ascontiguousarray(values, np.float32), first_pair, reach)

    @cached_property
    def compiled(self) -> "_Table":
        """The table as the compiled loops want it."""
        bits = 1 << max(6, math.ceil(math.log2(max(1, len(self.values) - self.first_pair) * 8)))
        pairs = np.zeros(bits // 64, np.uint64)
        _mark(self.slots, self.first_pair, pairs)
        return _Table(self.slots, self.values, pairs, self.reach)


class _Table(NamedTuple):
    """`Rows`, and `pairs`: a bit for each pair that has a row."""

    slots: Hashes
    values: NDArray[np.float32]
    pairs: Hashes
    reach: int


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
    _answer(codes, offsets, tokens.character_classes(), rows.compiled, bias, heads.firsts, heads.sharpness, heads.shifts,
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
    _phrases(codes, tokens.character_classes(), rows.compiled, np.array(columns), longest, out, found)
    return [[(int(start), int(end), weight) for start, end, weight in phrases[:n]] for phrases, n in zip(out.tolist(), found.tolist(), strict=True)]


# What follows is compiled.


class _Room(NamedTuple):
    """Where one text after another is taken apart. Each word: where it stands (`begins`, `ends`), its hash (`words`), its row (`rows`, -1
    where it has none). `likely`: the hashes of pairs that may have a row. `found`: the rows of words, pairs and the subwords of words
    without a row, one for each time they come up, and `more`, how many times their squared length each adds. `seen` and `counts`: how
    often each word or row has come up in the text, by open addressing; `cuts`: the subwords of one word."""

    begins: NDArray[np.int32]
    ends: NDArray[np.int32]
    words: Hashes
    rows: NDArray[np.int32]
    likely: Hashes
    found: NDArray[np.uint32]
    more: NDArray[np.float32]
    seen: Hashes
    counts: NDArray[np.int32]
    cuts: Hashes


@nb.njit(cache=True, nogil=True)
def _slots(words: int, table: _Table) -> int:
    """Slots that count what comes up in a text of so many words, at most half of them taken."""
    slots = 16
    while slots < 2 * (words + min(words * table.reach, len(table.values))):
        slots *= 2
    return slots


@nb.njit(cache=True, nogil=True)
def _room(longest: int, table: _Table) -> _Room:
    """Room for texts of up to `longest` characters."""
    slots = _slots(longest, table)
    most = longest * (table.reach + 3)  # at a character at most a word, or its three subwords where it has no row, and its pairs
    return _Room(
        np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.uint64), np.empty(longest, np.int32),
        np.empty(longest, np.uint64), np.empty(most, np.uint32), np.empty(most, np.float32),
        np.empty(slots, np.uint64), np.empty(slots, np.int32), np.empty(tokens.subword_count(LONGEST_WORD), np.uint64),
    )  # fmt: skip


@nb.njit(cache=True, nogil=True)
def _fill(slots: Hashes, hashes: Hashes) -> None:
    mask = np.uint64(len(slots) - 1)
    for row in range(len(hashes)):
        slot = hashes[row] & mask
        while slots[slot] != EMPTY:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (hashes[row] & ~_ROW) | np.uint64(row)


@nb.njit(cache=True, nogil=True)
def _mark(slots: Hashes, first_pair: int, pairs: Hashes) -> None:
    mask = np.uint64(len(pairs) * 64 - 1)
    for slot in range(len(slots)):
        if slots[slot] != EMPTY and slots[slot] & _ROW >= np.uint64(first_pair):
            bit = (slots[slot] >> _ROW_BITS) & mask
            pairs[bit >> _6] |= np.uint64(1) << (bit & _63)


@nb.njit(cache=True, nogil=True)
def find(slots: Hashes, wanted: np.uint64) -> int:
    """The row of a hash, by the `slots` of `Rows`; -1 where it has none."""
    mask = np.uint64(len(slots) - 1)
    slot = wanted & mask
    while slots[slot] != EMPTY:
        if not (slots[slot] ^ wanted) & ~_ROW:
            return np.int64(slots[slot] & _ROW)  # type: ignore[return-value]  # int() would leave it unsigned, and -1 make it a float
        slot = (slot + np.uint64(1)) & mask
    return -1


@nb.njit(cache=True, nogil=True)
def _is_likely(pairs: Hashes, hash_: np.uint64) -> int:
    """1 where a pair may have a row, 0 where it has none."""
    bit = (hash_ >> _ROW_BITS) & np.uint64(len(pairs) * 64 - 1)
    return np.int64((pairs[bit >> _6] >> (bit & _63)) & np.uint64(1))  # type: ignore[return-value]  # as in `find`


@nb.njit(cache=True, nogil=True)
def _count(seen: Hashes, counts: NDArray[np.int32], key: np.uint64, mask: np.uint64) -> np.float32:
    """How many times its squared length `key` adds now. What comes up n times is n^2 of it in all, so each time adds what lies between
    n^2 and the square before."""
    slot = ((key * _GOLDEN) >> _20) & mask
    while counts[slot] > 0:
        if seen[slot] == key:
            counts[slot] += 1
            return np.float32(2 * counts[slot] - 1)
        slot = (slot + np.uint64(1)) & mask
    seen[slot] = key
    counts[slot] = 1
    return np.float32(1)


# In the two functions below arrays are taken out of their tuples first: numba counts references at each access.


@nb.njit(cache=True, nogil=True)
def _add_up(room: _Room, codes: Codes, classes: NDArray[np.uint8], table: _Table, total: NDArray[np.float32]) -> tuple[int, int, np.float32]:
    """Take one text apart and write the sum of its rows to `total` (columns,): how many words it has, how many of them have a row,
    and what the sum is to be multiplied by."""
    slots, values, pairs, reach = table
    begins, ends, words, rows, likely, found, more, seen, counts, cuts = room
    columns = len(total)
    n_words = tokens.scan(codes, 0, len(codes), classes, begins, ends, words)
    used = _slots(n_words, table)
    counts[:used] = 0
    mask = np.uint64(used - 1)
    total[:] = 0
    # The rows are only looked up at first, and fetched together below, so that the processor waits for many at once and not for each in turn.
    n = 0
    for i in range(n_words):
        rows[i] = find(slots, words[i])
        if rows[i] >= 0:
            found[n] = rows[i]
            n += 1
    known = n
    for gap in range(1, min(reach, n_words - 1) + 1):
        # The likely ones are gathered first, without a branch: which they are nobody can guess, the processor neither.
        m = 0
        for i in range(gap, n_words):
            likely[m] = tokens.pair_hash(words[i - gap], words[i], gap)
            m += _is_likely(pairs, likely[m])
        for i in range(m):
            place = find(slots, likely[i])
            if place >= 0:
                found[n] = place
                n += 1
    for i in range(n):
        more[i] = _count(seen, counts, np.uint64(found[i]), mask)
    for i in range(n_words):
        if rows[i] < 0:
            times = _count(seen, counts, words[i] | _UNSEEN, mask)
            for j in range(tokens.cut(codes, begins[i], min(ends[i], begins[i] + LONGEST_WORD), cuts)):
                place = find(slots, cuts[j])
                found[n] = place
                more[n] = times
                n += place >= 0
    squared = np.float32(0)
    for i in range(n):
        place = found[i]
        squared += more[i] * values[place, columns]
        for k in range(columns):
            total[k] += values[place, k]
    return n_words, known, np.float32(1.0 / math.sqrt(squared)) if squared > 0 else np.float32(0.0)


@nb.njit(cache=True, nogil=True)
def _parts(room: _Room, n_words: int, codes: Codes, table: _Table, norm: np.float32, columns: NDArray[np.int64],
           parts: NDArray[np.float32]) -> None:  # fmt: skip
    """Write to `parts` (columns, words) what each word adds to the score of each of `columns`; a pair's part is shared by its two
    words, so that the parts add up to the score less the bias."""
    slots, values, pairs, reach = table
    begins, ends, words, rows, _, _, _, _, _, cuts = room
    parts[:, :n_words] = 0
    for i in range(n_words):
        if rows[i] >= 0:
            for c in range(len(columns)):
                parts[c, i] += norm * values[rows[i], columns[c]]
        else:
            for j in range(tokens.cut(codes, begins[i], min(ends[i], begins[i] + LONGEST_WORD), cuts)):
                place = find(slots, cuts[j])
                if place >= 0:
                    for c in range(len(columns)):
                        parts[c, i] += norm * values[place, columns[c]]
        for gap in range(1, min(reach, i) + 1):
            hash_ = tokens.pair_hash(words[i - gap], words[i], gap)
            place = find(slots, hash_) if _is_likely(pairs, hash_) else -1
            if place >= 0:
                for c in range(len(columns)):
                    half = np.float32(0.5) * norm * values[place, columns[c]]
                    parts[c, i - gap] += half
                    parts[c, i] += half


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
        top[head] = -1
        for k in range(first, last):
            rank = top.shape[1]  # by insertion; of equal ones the first stays before
            while rank > 0 and (top[head, rank - 1] < 0 or probabilities[first + top[head, rank - 1]] < probabilities[k]):
                rank -= 1
                if rank + 1 < top.shape[1]:
                    top[head, rank + 1] = top[head, rank]
            if rank < top.shape[1]:
                top[head, rank] = k - first


@nb.njit(cache=True, nogil=True)
def _answer(codes: Codes, offsets: NDArray[np.int64], classes: NDArray[np.uint8], table: _Table, bias: NDArray[np.float32],
            firsts: NDArray[np.int32], sharpness: NDArray[np.float32], shifts: NDArray[np.float32], longest: int, scores: NDArray[np.float32],
            words: NDArray[np.int32], known: NDArray[np.int32], probabilities: NDArray[np.float32], top: NDArray[np.int32],
            phrases: NDArray[np.float32], found: NDArray[np.int32]) -> None:  # fmt: skip
    most = 1
    for text in range(len(offsets) - 1):
        most = max(most, offsets[text + 1] - offsets[text])
    room = _room(most, table)
    explained = np.empty(found.shape[1], np.int64)
    parts = np.empty((len(explained), most), np.float32)
    for text in range(len(offsets) - 1):
        own = codes[offsets[text] : offsets[text + 1]]
        words[text], known[text], norm = _add_up(room, own, classes, table, scores[text])
        for k in range(len(bias)):
            scores[text, k] = scores[text, k] * norm + bias[k]
        _calibrate(scores[text], firsts, sharpness, shifts, probabilities[text], top[text])
        if len(explained) == 0:
            continue
        for head in range(len(explained)):
            explained[head] = firsts[head] + top[text, head, 0]
        _parts(room, words[text], own, table, norm, explained, parts)
        for head in range(len(explained)):
            found[text, head] = strongest(own, room.begins, room.ends, parts[head], words[text], longest, phrases[text, head])


@nb.njit(cache=True, nogil=True)
def _phrases(codes: Codes, classes: NDArray[np.uint8], table: _Table, columns: NDArray[np.int64], longest: int, out: NDArray[np.float32],
             found: NDArray[np.int32]) -> None:  # fmt: skip
    room = _room(max(1, len(codes)), table)
    parts = np.empty((len(columns), max(1, len(codes))), np.float32)
    n_words, _, norm = _add_up(room, codes, classes, table, np.empty(table.values.shape[1] - 1, np.float32))
    _parts(room, n_words, codes, table, norm, columns, parts)
    for i in range(len(columns)):
        found[i] = strongest(codes, room.begins, room.ends, parts[i], n_words, longest, out[i])
