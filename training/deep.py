"""What the deep path learns from embedded tickets; see `model.deep`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from model.deep import KernelMachine, Rows, kernel
from training.split import Fold

MOST_ANCHORS = 12_000  # tickets that others are compared with; the work grows with their number cubed (10 s here), a bundle with 1 KB each
RIDGE = 0.1  # of the least squares; this and `WIDTH` were chosen by cross-validation, see benchmarks/README.md
WIDTH = 0.6  # of the kernel, over the mean squared distance of an embedding from the middle
STRANGE = 0.02  # the share of tickets that are further from all others than `Deep.scope` allows
SECONDS = 0.15  # a text takes about as long on one core (nominal: a measured time would make each training differ)
LANGUAGES = 4  # from so many on, some are left out to see what the deep path is worth in one that it did not learn


class Embedded(NamedTuple):
    """The tickets of a table as the encoder called `encoder` sees them: `rows` (tickets, dimensions); `probe` (dimensions,); `meanings`: for
    each target the rows of what its labels mean, (labels, dimensions), which teach as a ticket of each label does."""

    encoder: str
    probe: Rows
    rows: Rows
    meanings: dict[str, Rows]


def fit(rows: Rows, wanted: Rows, seed: int) -> KernelMachine:
    """Learn from `rows` (tickets, dimensions) the scores `wanted` (tickets, columns): 1 for a ticket's labels, 0 for others."""
    mean = rows.mean(axis=0)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:MOST_ANCHORS])
    anchors = (rows[chosen] - mean).astype(np.float16).astype(np.float32)  # as a bundle keeps them
    width = WIDTH / max(float((anchors**2).sum(axis=1).mean()), 1e-6)
    similar = kernel(anchors, anchors, width)
    similar[np.diag_indices(len(anchors))] += RIDGE
    weights = cho_solve(cho_factor(similar, overwrite_a=True, check_finite=False), wanted[chosen], check_finite=False)
    return KernelMachine(mean, anchors, weights.astype(np.float32), width)


def ask_below(fast: NDArray[np.float64], deep: NDArray[np.float64], codes: NDArray[np.int64], error_seconds: float) -> float:
    """The fast path's confidence under which asking the deep path pays, where a wrong label is worth `error_seconds` of its time.

    `fast`, `deep` (tickets, labels): the probabilities of both for the same held-out tickets; `codes`: the right labels, -1 left out.
    """
    has = codes >= 0
    confidence = fast[has].max(axis=1)
    gain = (fast[has].argmax(axis=1) != codes[has]).astype(float) - (deep[has].argmax(axis=1) != codes[has])
    order = np.argsort(confidence, kind="stable")
    ranked = confidence[order]
    saved = np.concatenate([[0.0], np.cumsum(gain[order] * error_seconds - SECONDS)])  # by asking for the least sure ones
    cuts = np.flatnonzero(np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])) if len(ranked) else np.array([0])  # equal ones go together
    best = int(cuts[saved[cuts].argmax()])
    if best == 0:
        return 0.0
    return float(ranked[best]) if best < len(ranked) else 1.01  # 1.01: always


def languages_apart(spoken: list[str], seed: int, n: int = 5) -> list[Fold]:
    """Folds whose held-out tickets are in languages that the others do not have; none where there are fewer than `LANGUAGES`."""
    names = sorted({code for code in spoken if code})
    if len(names) < LANGUAGES:
        return []
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_name = {name: int(order[i]) % n for i, name in enumerate(names)} | {"": -1}  # a ticket of no known language teaches in all
    fold_of = np.array([fold_of_name[code] for code in spoken])
    return [Fold(np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)) for number in range(n) if (fold_of == number).any()]
