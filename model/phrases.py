"""Phrases: neighbouring words of one sentence that pull a score the same way. Compiled; `model.scoring` calls it."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from model.tokens import Codes


@nb.njit(cache=True, nogil=True)
def strongest(codes: Codes, begins: NDArray[np.int32], ends: NDArray[np.int32], weights: NDArray[np.float32], n_words: int, longest: int,
              out: NDArray[np.float32]) -> int:  # fmt: skip
    """Fill `out` (most, 3) with the strongest phrases of up to `longest` words as (start, end, weight), strongest first; how many
    there are. `weights`: what each of the `n_words` words adds to the score."""
    if n_words == 0:
        return 0
    joined = np.empty((n_words, 3), np.float32)
    n = _join(codes, begins, ends, weights, n_words, longest, joined)
    order = np.argsort(-np.abs(joined[:n, 2]), kind="mergesort")
    kept = min(n, len(out))
    for place in range(kept):
        out[place] = joined[order[place]]
    return kept


@nb.njit(cache=True, nogil=True)
def _join(codes: Codes, begins: NDArray[np.int32], ends: NDArray[np.int32], weights: NDArray[np.float32], n_words: int, longest: int,
          out: NDArray[np.float32]) -> int:  # fmt: skip
    """Write all phrases to the rows of `out`, as they stand in the text; how many."""
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
