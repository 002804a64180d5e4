"""Folds for judging: near-duplicates kept together, labels spread evenly."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

FOLDS = 5


class Fold(NamedTuple):
    """Ticket numbers to learn from and to be judged on."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def folds(labels: list[str], group: NDArray[np.int64], seed: int, n: int = FOLDS) -> list[Fold]:
    """Cut tickets into `n` folds; every ticket is held out once, and a group never stands on both sides.

    `labels`: what to spread evenly, one a ticket (all targets and the language joined); rare ones are spread by chance.
    """
    heads, place = np.unique(group, return_index=True)
    n = min(n, len(heads))
    if n < 2:
        raise ValueError("fewer than two distinct tickets cannot be split")
    counts = Counter(labels[i] for i in place)
    strata = [labels[i] if counts[labels[i]] >= n else "rare" for i in place]
    even = min(Counter(strata).values()) >= n
    splitter = StratifiedKFold(n, shuffle=True, random_state=seed) if even else KFold(n, shuffle=True, random_state=seed)
    fold_of_group = np.empty(len(heads), np.int64)
    for number, (_, held_out) in enumerate(splitter.split(np.zeros(len(heads)), strata)):
        fold_of_group[held_out] = number
    fold_of = fold_of_group[np.searchsorted(heads, group)]
    return [Fold(np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)) for number in range(n)]
