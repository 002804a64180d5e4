"""The one tokeniser: text to words, pairs of words and subwords, each a 64-bit hash.

A *word* is a run of letters, marks and digits; ``?`` and ``!`` are words of their own. Scripts that write no spaces
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) give overlapping pairs of characters, which play the part of words. A
*pair* is two neighbouring words; words that stand a little further apart are *near* each other, whichever comes first. The *subwords* of
a word are its character n-grams, with ``<`` and ``>`` for its edges.

Training, classifying and explaining all come here, so they can never cut a ticket differently. The loops are compiled
by numba (cached on disk); they work on code points, so a position found here is a position in the Python string.
"""

import unicodedata
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

SEPARATOR, LETTER, UNSPACED, SYMBOL = 0, 1, 2, 3
SHORTEST, LONGEST = 3, 4  # characters in a subword; chosen by cross-validation, see benchmarks/README.md
EDGE_LEFT, EDGE_RIGHT = ord("<"), ord(">")

# Ranges without spaces between words. Hangul and Vietnamese do write spaces.
_UNSPACED = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)
_FOLDED = 0x2000  # Latin, Greek, Cyrillic and their extensions
_STRUCK = {
    "ς": "σ",
    "ł": "l",
    "ø": "o",
    "đ": "d",
    "ħ": "h",
    "ı": "i",
    "ŧ": "t",
}  # letters that Unicode does not take apart, and the sigma at a word's end
_CLASSIFIED = 0x20000  # code points above are Han (planes 2 and 3) or separators

_SEED_WORD = np.uint64(0xCBF29CE484222325)
_SEED_SUBWORD = np.uint64(0x9AE16A3B2F90404F)
_PRIME = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_PAIR = np.uint64(0x9E3779B97F4A7C15)
_33 = np.uint64(33)

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]


class Words(NamedTuple):
    """The words of one text: where they begin and end (code points, end excluded) and their hashes, each of shape (n,)."""

    begins: NDArray[np.int32]
    ends: NDArray[np.int32]
    hashes: Hashes


@cache
def character_classes() -> NDArray[np.uint8]:
    """The class of each code point below 0x20000: uint8 of shape (131072,). Built once, in about 30 ms."""
    letters = {"L", "M", "N"}
    classes = np.fromiter(
        (LETTER if unicodedata.category(chr(c))[0] in letters else SEPARATOR for c in range(_CLASSIFIED)),
        dtype=np.uint8,
        count=_CLASSIFIED,
    )
    for low, high in _UNSPACED:
        block = classes[low : high + 1]
        block[block == LETTER] = UNSPACED
    for symbol in "?!\u061f\u3002\uff1f\uff01":
        classes[ord(symbol)] = SYMBOL
    classes.setflags(write=False)
    return classes


@cache
def plain_letters() -> Codes:
    """What each code point below 0x20000 is read as, uint32 of shape (131072,): its lower case, without accents, as customers leave accents
    out, and a router that sees through that errs 6% less on the kind of a ticket (benchmarks/README.md). Built once, in about 30 ms.

    A letter stays one letter, so that positions stay true, and does not hang on the letters around it, as a final sigma would.
    """
    plain = np.arange(_CLASSIFIED, dtype=np.uint32)
    for code in range(_CLASSIFIED):
        letter = chr(code).lower()[0]  # U+0130 is the only one that is longer then: an i, and its dot
        if 0x80 <= ord(letter) < _FOLDED:
            base = unicodedata.normalize("NFD", letter)[0]
            letter = _STRUCK.get(letter, base if unicodedata.category(base)[0] == "L" else letter)
        plain[code] = ord(letter)
    plain.setflags(write=False)
    return plain


def encode(texts: list[str]) -> tuple[Codes, NDArray[np.int64]]:
    """All texts, lower-cased and without accents, as one array of code points, and where each begins: shapes (characters,),
    (texts + 1,).

    Raises UnicodeEncodeError on a lone surrogate: clean first.
    """
    offsets = np.array([0, *accumulate(map(len, texts))], np.int64)
    return _plain(np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32), plain_letters()), offsets


@nb.njit(cache=True, nogil=True)
def _plain(codes: Codes, plain: Codes) -> Codes:
    out = np.empty_like(codes)
    for i in range(len(codes)):
        out[i] = plain[codes[i]] if codes[i] < len(plain) else codes[i]
    return out


@nb.njit(nb.uint64(nb.uint64), cache=True, nogil=True, inline="always")
def _finish(h: np.uint64) -> np.uint64:
    # The finaliser of MurmurHash3 (Austin Appleby, public domain): FNV alone leaves the high bits weak.
    h ^= h >> _33
    h *= _MIX_1
    h ^= h >> _33
    h *= _MIX_2
    h ^= h >> _33
    return h


@nb.njit(cache=True, nogil=True)
def pair_hash(left: np.uint64, right: np.uint64, gap: int) -> np.uint64:
    """The hash of two words, the second `gap` words after the first: neighbours (1) in their order, others in either."""
    if gap == 1:
        return _finish((left * _PRIME) ^ (right + _PAIR))
    return left + right + _PAIR  # the words' hashes are well mixed, and so is their sum


@nb.njit(cache=True, nogil=True)
def _class_of(code: np.uint32, classes: NDArray[np.uint8]) -> int:
    if code < _CLASSIFIED:
        return int(classes[code])
    return UNSPACED if code < 0x32000 else SEPARATOR


@nb.njit(cache=True, nogil=True)
def _word_hash(codes: Codes, begin: int, end: int) -> np.uint64:
    h = _SEED_WORD
    for i in range(begin, end):
        h = (h ^ np.uint64(codes[i])) * _PRIME
    return _finish(h)


@nb.njit(cache=True, nogil=True)
def scan(
    codes: Codes,
    start: int,
    stop: int,
    classes: NDArray[np.uint8],
    begins: NDArray[np.int32],
    ends: NDArray[np.int32],
    hashes: Hashes,
) -> int:
    """Cut ``codes[start:stop]`` into words, write them to the three output arrays (each as long as the text) and return
    how many there are. Positions count from `start`."""
    n = 0
    i = start
    while i < stop:
        kind = _class_of(codes[i], classes)
        if kind == SEPARATOR:
            i += 1
            continue
        j = i + 1
        if kind != SYMBOL:
            while j < stop and _class_of(codes[j], classes) == kind:
                j += 1
        if kind == UNSPACED and j - i > 2:
            for k in range(i, j - 1):
                begins[n] = k - start
                ends[n] = k + 2 - start
                hashes[n] = _word_hash(codes, k, k + 2)
                n += 1
        else:
            begins[n] = i - start
            ends[n] = j - start
            hashes[n] = _word_hash(codes, i, j)
            n += 1
        i = j
    return n


@nb.njit(cache=True, nogil=True)
def subword_count(length: int) -> int:
    """How many subwords a word of `length` characters has: the word itself with its edges, and its n-grams."""
    total = 1
    for n in range(SHORTEST, LONGEST + 1):
        if n < length + 2:
            total += length + 2 - n + 1
    return total


@nb.njit(cache=True, nogil=True)
def _edge_or_code(codes: Codes, begin: int, end: int, i: int) -> np.uint64:
    if i < 0:
        return np.uint64(EDGE_LEFT)
    if i >= end - begin:
        return np.uint64(EDGE_RIGHT)
    return np.uint64(codes[begin + i])


@nb.njit(cache=True, nogil=True)
def cut(codes: Codes, begin: int, end: int, out: Hashes) -> int:
    """Write the subword hashes of the word ``codes[begin:end]`` to `out` and return how many; the first is the whole word."""
    length = end - begin
    h = _SEED_SUBWORD
    for i in range(-1, length + 1):
        h = (h ^ _edge_or_code(codes, begin, end, i)) * _PRIME
    out[0] = _finish(h)
    n = 1
    for i in range(-1, length + 1):
        h = _SEED_SUBWORD
        for size in range(1, LONGEST + 1):
            if i + size > length + 1 or size >= length + 2:  # past the right edge, or the whole word once more
                break
            h = (h ^ _edge_or_code(codes, begin, end, i + size - 1)) * _PRIME
            if size >= SHORTEST:
                out[n] = _finish(h)
                n += 1
    return n


def words(text: str) -> Words:
    """The words of one text.

    >>> found = words("Mon site: erreur 500 !")
    >>> ["Mon site: erreur 500 !"[b:e] for b, e in zip(found.begins, found.ends)]
    ['Mon', 'site', 'erreur', '500', '!']
    """
    codes, _ = encode([text])
    begins = np.empty(len(codes), np.int32)
    ends = np.empty(len(codes), np.int32)
    hashes = np.empty(len(codes), np.uint64)
    n = scan(codes, 0, len(codes), character_classes(), begins, ends, hashes)
    return Words(begins[:n], ends[:n], hashes[:n])
