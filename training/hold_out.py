"""Which tickets a scheduled retraining keeps to judge by: the newest, that neither the champion nor the candidate has learned from."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.experiments import fingerprints
from training.history import History

LEAST = 100  # tickets; from fewer nothing is chosen by what is known of them
_MIX = np.uint64(0x9E3779B97F4A7C15)
Flags = NDArray[np.bool_]


class Cut(NamedTuple):
    """Of each ticket whether to `learn` from it or to `judge` by it. Those of which neither holds say nearly what is learned from. `by`:
    how they were chosen, for people."""

    learn: Flags
    judge: Flags
    by: str


def cut(history: History, group: NDArray[np.int64], learned: NDArray[np.uint64], shown: Flags, share: float, seed: int) -> Cut:
    """Choose about `share` of the tickets. `group` of near-duplicates of each; `learned`: the numbers of the texts that the champion has
    learned from, which would speak for it; `shown`: where its answer was seen before somebody gave another label, which speaks against it:
    most such tickets are there because it was wrong. Where too few others are left, they are taken all the same, and that is said.

    Where time is known the newest are chosen, else whole groups by a number that `seed` and their text give, so that a table that has
    grown keeps to judge by what it kept before.
    """
    numbers = fingerprints(history.table.texts)
    fresh = ~np.isin(numbers, learned)
    pools = {
        "": fresh & ~shown,
        "; some of them are known because the champion was wrong, which speaks for any other": fresh,
        "; the champion has learned from some of them, which speaks for it": np.ones(len(fresh), bool),
    }
    but, pool = next(((but, pool) for but, pool in pools.items() if pool.sum() >= LEAST), list(pools.items())[-1])
    told = pd.to_datetime(pd.Series(history.moments, dtype=str), errors="coerce", utc=True, format="ISO8601")
    dated = pool & told.notna().to_numpy()
    by_time = bool(dated.sum() >= LEAST)
    able = dated if by_time else pool
    wanted = min(round(share * len(numbers)), int(able.sum()) // 2)
    if by_time:
        moments = told.dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)
        order = np.lexsort((-moments, ~able))
    else:
        least = np.full(len(numbers), np.iinfo(np.uint64).max)
        np.minimum.at(least, group, (numbers ^ np.uint64(seed)) * _MIX)  # of a group the least, so that it stays together
        order = np.lexsort((group, least[group], ~able))
    kept = np.zeros(len(numbers), bool)
    kept[order[:wanted]] = True
    judge = kept & ~np.isin(group, group[~kept])
    return Cut(~kept, judge, f"{int(judge.sum())} tickets, {'the newest' if by_time else 'drawn by chance'}{but}")
