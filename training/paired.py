"""Two routers on the same tickets: what a difference between them is worth.

Near-duplicates are no further evidence, so what is drawn again and what is counted is the group of near-duplicates, not the ticket.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import beta, binom, binomtest

_DRAWN_TOGETHER = 100
_CONFIDENCE = 0.95
Flags = NDArray[np.bool_]


@dataclass
class Sums:
    """Columns of numbers, one a ticket, to be added up over tickets drawn again and again."""

    group: NDArray[np.int64]
    _columns: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, column: NDArray[Any]) -> int:
        """The place of `column` in the sums."""
        self._columns.append(np.asarray(column, float))
        return len(self._columns) - 1

    def draw(self, times: int, seed: int) -> NDArray[np.float64]:
        """The sums of all columns, (1 + times, columns): first of the tickets as they are, then of each sample of as many groups, drawn
        with replacement (Efron, "Bootstrap methods", 1979)."""
        _, place = np.unique(self.group, return_inverse=True)
        groups = int(place.max(initial=-1)) + 1
        columns = sp.csr_matrix(np.column_stack(self._columns)) if self._columns else sp.csr_matrix((len(self.group), 0))
        gather = sp.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))), shape=(groups, len(place)))
        by_group = (gather @ columns).T.tocsr()
        sums = [np.asarray(by_group.sum(axis=1)).T]
        rng = np.random.default_rng(seed)
        for start in range(0, times, _DRAWN_TOGETHER):
            drawn = [np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(min(_DRAWN_TOGETHER, times - start))]
            sums.append(np.asarray(by_group @ np.array(drawn, float).T).T)
        return np.concatenate(sums)


def interval(differences: NDArray[np.float64]) -> list[float] | None:
    """The interval that the resampled `differences` span (percentiles); None where there are none."""
    known = differences[np.isfinite(differences)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return [round(float(low), 4), round(float(high), 4)]


def mcnemar(champion: Flags, candidate: Flags, group: NDArray[np.int64]) -> dict[str, Any]:
    """What the candidate `lost` and `won`, in groups of tickets, and the chance of it where both are as good: `p_value` of any
    difference, `p_loss` of a loss (McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; exact)."""
    _, place = np.unique(group, return_inverse=True)
    balance = np.bincount(place, weights=candidate.astype(float) - champion)
    lost, won = int((balance < 0).sum()), int((balance > 0).sum())
    discordant = lost + won
    either = float(binomtest(lost, discordant, 0.5).pvalue) if discordant else 1.0
    loss = float(binomtest(lost, discordant, 0.5, alternative="greater").pvalue) if discordant else 1.0
    return {"groups": len(balance), "lost": lost, "won": won, "p_value": _rounded(either), "p_loss": _rounded(loss)}


def under(right: int, of: int, promise: float, group: NDArray[np.int64]) -> float:
    """The chance of as few as `right` of `of` where `promise` is kept (Clopper and Pearson, 1934). Near-duplicates count by Kish's effective
    number of tickets, which is approximate."""
    if not of or right == of:
        return 1.0
    sizes = np.unique(group, return_counts=True)[1]
    worth = of / float((sizes**2).sum())  # of one ticket
    return _rounded(float(beta.sf(promise, right * worth + 1, (of - right) * worth)))


def power(groups: int, discordant: float, loss: float, alpha: float) -> float:
    """The chance that `mcnemar` sees a `loss` (a share of the groups) at `alpha`, where the two differ in a share `discordant` of the groups
    anyway, to and fro."""
    differ = round(groups * (discordant + loss))
    if not differ:
        return 0.0
    least = int(binom.isf(alpha, differ, 0.5)) + 1  # lost groups from which the loss counts as seen
    return float(binom.sf(least - 1, differ, (discordant / 2 + loss) / (discordant + loss)))


def detectable(groups: int, discordant: float, alpha: float, wanted: float) -> float | None:
    """The smallest loss, in whole points, that is seen with the chance `wanted`; None where not even the loss of all would be."""
    return next((points / 100 for points in range(1, 101) if power(groups, discordant, points / 100, alpha) >= wanted), None)


def holm(p_values: list[float]) -> list[float]:
    """`p_values` so adjusted that each may be held to the level that all together are held to (Holm, "A simple sequentially rejective
    multiple test procedure", 1979)."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _rounded(p_value: float) -> float:
    return float(f"{p_value:.4g}")
