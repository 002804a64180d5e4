"""From scores to probabilities that mean what they say, and from probabilities to thresholds that keep a promise."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import beta
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

RIDGE = 5.0  # on the offsets: with few tickets they stay near 0 and only the sharpness is fitted
RISK = 0.1  # the chance, over the draw of tickets, that a promise made on them does not hold
STEPS = 20  # thresholds tried


def fit(
    scores: NDArray[np.float32], codes: NDArray[np.int64], near: tuple[float, NDArray[np.float64]] | None = None
) -> tuple[float, NDArray[np.float64]]:
    """Sharpness a and offsets b of ``softmax(a * score + b)`` by maximum likelihood on held-out scores.

    Temperature scaling with a shift for each label (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural
    networks", 2017: vector scaling with one common slope). `scores` (tickets, labels); `codes` (tickets,), -1 left out. `near`:
    what it may be close to, where that is known; it is found sooner.
    """
    sharpness, offsets = near or (3.0, np.zeros(scores.shape[1]))
    (sharpness,), offsets = _likeliest([scores], codes, [sharpness], offsets)
    return sharpness, offsets


def mix(one: NDArray[np.float32], other: NDArray[np.float32], codes: NDArray[np.int64]) -> float:
    """How many times the scores of `other` count beside those of `one`, by maximum likelihood of ``softmax(a * one + b * other + offsets)``
    on held-out tickets: b / a."""
    (a, b), _ = _likeliest([one, other], codes, [3.0, 3.0], np.zeros(one.shape[1]))
    return b / a


def _likeliest(
    scores: list[NDArray[np.float32]], codes: NDArray[np.int64], sharpness: list[float], offsets: NDArray[np.float64]
) -> tuple[list[float], NDArray[np.float64]]:
    """The sharpness of each of `scores` and the common offsets; looked for from those that are given."""
    labelled = codes >= 0
    z, y = np.stack([own[labelled].astype(float) for own in scores]), codes[labelled]
    parts, n, k = z.shape
    if not n:
        return [1.0] * parts, np.zeros(k)
    picked = np.zeros((n, k))
    picked[np.arange(n), y] = 1

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        a, b = np.exp(parameters[:parts]), parameters[parts:]
        logits = np.tensordot(a, z, 1) + b
        highest = logits.max(axis=1)
        gap = np.exp(logits - highest[:, None])
        sums = gap.sum(axis=1)
        gap /= sums[:, None]
        gap -= picked
        total = highest + np.log(sums)
        value = (total - logits[np.arange(n), y]).sum() + 0.5 * RIDGE * b @ b
        return value, np.concatenate([(gap * z).sum(axis=(1, 2)) * a, gap.sum(axis=0) + RIDGE * b])

    with threadpool_limits(1, user_api="blas"):  # thousands of products too small to share: threads would only wait for each other
        found = minimize(loss, np.concatenate([np.log(sharpness), offsets]), jac=True, method="L-BFGS-B",
                         bounds=[(-3, 5)] * parts + [(-5, 5)] * k)  # fmt: skip
    return np.exp(found.x[:parts]).tolist(), found.x[parts:]


def lower_bound(right: float, of: float, risk: float) -> float:
    """The share that `right` of `of` shows with confidence 1 - `risk` (Clopper and Pearson, 1934, one-sided)."""
    return float(beta.ppf(risk, right, of - right + 1)) if right > 0 else 0.0


def promise_threshold(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], promise: float, weights: NDArray[np.float64] | None = None
) -> float | None:
    """The lowest confidence from which at least `promise` of the answers are right, with probability 1 - `RISK`.

    `STEPS` thresholds at even steps of coverage; each is held to a Clopper-Pearson bound at ``RISK / STEPS`` (Bonferroni), so
    the one chosen keeps the promise however it is chosen. None where none does. `weights`: how much each ticket counts where
    the mix at the door is not the mix here; the bound is then taken at Kish's effective number of tickets, which is
    approximate.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    total, hits, squares = (np.cumsum(column[order]) for column in (weights, weights * right, weights**2))
    best = None
    for step in range(1, STEPS + 1):
        if not len(order):
            break
        at = max(1, round(len(order) * step / STEPS)) - 1
        # A threshold takes all tickets of its confidence, or none.
        last = int(np.searchsorted(-ranked, -ranked[at], side="right")) - 1
        of = total[last] ** 2 / squares[last]
        if lower_bound(of * hits[last] / total[last], of, RISK / STEPS) >= promise:
            best = float(ranked[last])
    return best


def protect_threshold(probability: NDArray[np.float64], recall: float) -> float:
    """The highest probability of a label from which at least `recall` of its tickets are found, with probability 1 - `RISK`
    (Clopper-Pearson); 0 where they are too few to tell. `probability`: of the label, for the tickets that have it."""
    ascending = np.sort(probability)
    n = len(ascending)
    missed = -1
    while missed + 1 < n and lower_bound(n - (missed + 1), n, RISK) >= recall:
        missed += 1
    return float(ascending[missed]) if missed >= 0 else 0.0


def shift(codes: NDArray[np.int64], labels: tuple[str, ...], prior: dict[str, float]) -> NDArray[np.float64]:
    """What to add to the offsets so that the probabilities fit the mix at the door: ``log(prior / share in training)``.

    Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities" (2002). Labels
    that `prior` does not name share the rest as they do in training.
    """
    share = np.maximum(np.bincount(codes[codes >= 0], minlength=len(labels)), 0.5)
    share = share / share.sum()
    named = np.array([label in prior for label in labels])
    wanted = np.array([prior.get(label, 0.0) for label in labels])
    rest = share[~named]
    wanted[~named] = (1 - wanted.sum()) * rest / rest.sum() if rest.size else 0.0
    return np.asarray(np.log(np.maximum(wanted, 1e-6)) - np.log(share))
