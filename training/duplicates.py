"""Near-duplicates: tickets with nearly the same words, found by MinHash and locality-sensitive hashing.

Broder, "On the resemblance and containment of documents" (1997). Twenty bands of five hashes find a pair of Jaccard
similarity 0.8 with probability 0.9996; each pair found is then checked exactly. Linear in the number of tickets.
"""

import numba as nb
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

SIMILAR = 0.8  # share of two tickets' distinct words that both have
_BANDS, _ROWS = 20, 5


@nb.njit(cache=True, nogil=True)
def _signatures(indptr: NDArray[np.int32], hashes: NDArray[np.uint64], bands: int, rows: int) -> NDArray[np.uint64]:
    n = len(indptr) - 1
    out = np.zeros((n, bands), np.uint64)
    least = np.empty(bands * rows, np.uint64)
    for i in range(n):
        least[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        for j in range(indptr[i], indptr[i + 1]):
            h = hashes[j]
            for k in range(bands * rows):
                # splitmix64 (Steele, Lea and Flood, 2014): each step is one more hash function
                h += np.uint64(0x9E3779B97F4A7C15)
                z = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z ^= z >> np.uint64(31)
                if z < least[k]:
                    least[k] = z
        for b in range(bands):
            mixed = np.uint64(b)
            for k in range(b * rows, (b + 1) * rows):
                mixed = (mixed ^ least[k]) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(32)
            out[i, b] = mixed
    return out


@nb.njit(cache=True, nogil=True)
def _jaccard(indptr: NDArray[np.int32], indices: NDArray[np.int32], a: int, b: int) -> float:
    i, j, both = indptr[a], indptr[b], 0
    while i < indptr[a + 1] and j < indptr[b + 1]:
        if indices[i] == indices[j]:
            both += 1
            i += 1
            j += 1
        elif indices[i] < indices[j]:
            i += 1
        else:
            j += 1
    either = (indptr[a + 1] - indptr[a]) + (indptr[b + 1] - indptr[b]) - both
    return both / either if either else 1.0


@nb.njit(cache=True, nogil=True)
def _link(order: NDArray[np.int64], keys: NDArray[np.uint64], indptr: NDArray[np.int32], indices: NDArray[np.int32],
          similar: float, group: NDArray[np.int64]) -> None:  # fmt: skip
    """Join each ticket of a bucket to the bucket's first (one comparison each keeps this linear); union-find in `group`."""
    first = order[0]
    for place in range(1, len(order)):
        i = order[place]
        if keys[i] != keys[first]:
            first = i
            continue
        if _jaccard(indptr, indices, first, i) >= similar:
            a, b = first, i
            while group[a] != a:
                a = group[a]
            while group[b] != b:
                b = group[b]
            group[max(a, b)] = min(a, b)


def groups(words: sp.csr_matrix, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Which tickets are near-duplicates of one another: the number of each ticket's group, shape (tickets,).

    `words`: (tickets, words), non-zero where the ticket has the word; `hashes`: one for each word.
    """
    words = words.sorted_indices()
    group = np.arange(words.shape[0])
    signatures = _signatures(words.indptr, hashes[words.indices], _BANDS, _ROWS)
    filled = np.flatnonzero(np.diff(words.indptr))
    for band in range(_BANDS if len(filled) else 0):
        keys = signatures[:, band]
        order = filled[np.argsort(keys[filled], kind="stable")]
        _link(order, keys, words.indptr, words.indices, SIMILAR, group)
    while not np.array_equal(group, group[group]):
        group = group[group]
    return group
