"""What is chance and what is not, for many counts at once. scipy.stats has all of it, but takes seconds to import; tests hold this to it."""

from math import erfc, lgamma, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.reports.schemas import Share

Floats = NDArray[np.float64]
CHANCE = 0.05  # what a corrected p must stay under
_Z = 1.959963984540054  # two-sided 95%
_MOST_TERMS = 5_000  # of Fisher's exact sum; where it has more, the counts are large enough for the normal distribution


def wilson(count: ArrayLike, of: ArrayLike) -> tuple[Floats, Floats]:
    """The 95% interval of shares, by Wilson's score method (JASA 22, 1927); NaN where `of` is 0."""
    counts, n = np.asarray(count, np.float64), np.asarray(of, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / n
        middle = share + _Z**2 / (2 * n)
        half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        scale = 1 + _Z**2 / n
        low, high = (middle - half) / scale, (middle + half) / scale
    # At the ends the formula gives 0 and 1, but for rounding.
    return np.where(counts == 0, np.where(n > 0, 0.0, np.nan), low), np.where(counts == n, np.where(n > 0, 1.0, np.nan), high)


def share(count: float, of: float) -> Share:
    """`count` of `of`, with its interval."""
    if not of:
        return Share(count=0, of=0, share=None, interval=None)
    low, high = wilson(count, of)
    return Share(count=int(count), of=int(of), share=round(count / of, 6), interval=(round(float(low), 6), round(float(high), 6)))


def more(before: tuple[int, int], now: tuple[int, int]) -> float:
    """The chance of at least so many `now`, if nothing changed since `before`; each is (count, of). Fisher's exact test, one-sided;
    where its sum is long, the two-proportion z test."""
    (a, m), (b, n) = before, now
    marked, total = a + b, m + n
    least, last = max(0, n - (total - marked), b), min(marked, n)
    if last - least > _MOST_TERMS:
        pooled = marked / total
        return _above((b / n - a / m) / sqrt(pooled * (1 - pooled) * (1 / m + 1 / n)))
    # The hypergeometric distribution from `least` on: the first term, and how each following one relates to the one before.
    first = _choose(marked, least) + _choose(total - marked, n - least) - _choose(total, n)
    counts = np.arange(least, last, dtype=np.float64)
    steps = np.log((marked - counts) * (n - counts) / ((counts + 1) * (total - marked - n + counts + 1)))
    terms = first + np.concatenate([[0.0], np.cumsum(steps)])
    return float(min(1.0, np.exp(terms).sum()))


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _above(z: float) -> float:
    """The chance that the normal distribution lies above `z`."""
    return erfc(z / sqrt(2)) / 2


def differs(before: tuple[int, int], now: tuple[int, int]) -> float:
    """The chance of a share at least so different, either way: twice the smaller of the two sides."""
    rest = tuple((of - count, of) for count, of in (before, now))
    return min(1.0, 2 * min(more(before, now), more(rest[0], rest[1])))


def means_differ(before: tuple[float, float, int], now: tuple[float, float, int]) -> float:
    """The chance of means at least so different, either way; each is (sum, sum of squares, count). The z test, for some dozens and more."""
    (s, ss, m), (t, tt, n) = before, now
    spread = max(ss / m - (s / m) ** 2, 0.0) / m + max(tt / n - (t / n) ** 2, 0.0) / n
    if spread <= 1e-18:
        return float(abs(t / n - s / m) < 1e-9)
    return 2 * _above(abs(t / n - s / m) / sqrt(spread))


def holm(p: ArrayLike) -> Floats:
    """Each p corrected for there being so many (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
