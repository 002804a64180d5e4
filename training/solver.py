"""The linear classifiers: L2-regularised squared-hinge support vector machines, one against the rest, all at once.

Dual coordinate descent (Hsieh, Chang, Lin, Keerthi and Sundararajan, "A dual coordinate descent method for large-scale
linear SVM", ICML 2008; what LIBLINEAR runs) with one difference: the weights of all labels of all targets lie side by
side, and one visit to a ticket updates them all. A visit is bound by memory, not by arithmetic, so twenty columns cost
little more than one: 30,000 tickets with 13 million entries and 8 labels take 0.1 s an epoch, where LIBLINEAR takes 25 s
for the same problem label by label.
"""

from collections.abc import Iterator, Sequence

import numba as nb
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

EPOCHS = 30
TOLERANCE = 0.016  # change of its dual variables in an epoch, for each label of a ticket, at which the labels of held-out tickets stop changing
GROWTH = 0.7  # the power of the cost by which a solution grows, about: the next cost's search begins where it may be; it halves the epochs


@nb.njit(cache=True, nogil=True, fastmath=True)
def _descend(indptr: NDArray[np.int32], indices: NDArray[np.int32], data: NDArray[np.float32],
             sign: NDArray[np.int8], cost: NDArray[np.float32], epochs: int, tolerance: float, seed: int, weights: NDArray[np.float32],
             dual: NDArray[np.float32]) -> int:  # fmt: skip
    """Bring `weights` (features + 1, columns) and the `dual` variables (tickets, columns) that they are made of closer to the solution; how
    many epochs it took. The last row of the weights is the bias, a feature of value 1."""
    n, columns = sign.shape
    length = np.ones(n, np.float32)
    for i in range(n):
        for j in range(indptr[i], indptr[i + 1]):
            length[i] += data[j] * data[j]
    state: np.uint64 = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x2545F4914F6CDD1D)
    order: NDArray[np.int64] = np.arange(n)
    features = len(weights) - 1
    margin = np.empty(columns, np.float32)
    step = np.empty(columns, np.float32)
    labels = (sign > 0).sum()
    done = 0
    for _ in range(epochs):
        for last in range(n - 1, 0, -1):  # Fisher and Yates, by xorshift64*: the same order on every platform
            state ^= state >> np.uint64(12)
            state ^= state << np.uint64(25)
            state ^= state >> np.uint64(27)
            other = np.int64((state * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(33)) % (last + 1)
            order[last], order[other] = order[other], order[last]
        change = 0.0
        for place in range(n):
            i = order[place]
            for k in range(columns):
                margin[k] = weights[features, k]
            for j in range(indptr[i], indptr[i + 1]):
                value = data[j]
                feature = indices[j]
                for k in range(columns):
                    margin[k] += value * weights[feature, k]
            moved = False
            for k in range(columns):
                step[k] = 0
                if sign[i, k] != 0:
                    diagonal = np.float32(0.5) / cost[i, k]
                    gradient = sign[i, k] * margin[k] - np.float32(1) + diagonal * dual[i, k]
                    new = max(dual[i, k] - gradient / (length[i] + diagonal), np.float32(0))
                    step[k] = (new - dual[i, k]) * sign[i, k]
                    if new != dual[i, k]:
                        moved = True
                        change += abs(new - dual[i, k])
                    dual[i, k] = new
            if moved:
                for k in range(columns):
                    weights[features, k] += step[k]
                for j in range(indptr[i], indptr[i + 1]):
                    value = data[j]
                    feature = indices[j]
                    for k in range(columns):
                        weights[feature, k] += value * step[k]
        done += 1
        if change <= tolerance * labels:
            break
    return done


def solve(matrix: sp.csr_matrix, sign: NDArray[np.int8], cost: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Learn one linear score a column.

    Parameters: `matrix` (tickets, features); `sign` (tickets, columns), +1 where the ticket has the column's label, -1
    where it has another one of that target, 0 where it has none; `cost` (tickets, columns), positive, what a margin
    missed costs against the length of the weights.
    Returns the weights, float32 (features, columns), and the bias, float32 (columns,).
    """
    return next(path(matrix, sign, cost, (1.0,), seed))


def path(
    matrix: sp.csr_matrix, sign: NDArray[np.int8], cost: NDArray[np.float32], times: Sequence[float], seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """`solve` for several costs, each `times` the `cost`, in this order; the next begins at the solution before, as LIBLINEAR's search for a
    cost does (Chu, Ho, Tsai, Lin and Lin, "Warm start for parameter selection of linear classifiers", KDD 2015)."""
    weights = np.zeros((matrix.shape[1] + 1, sign.shape[1]), np.float32)
    dual = np.zeros(sign.shape, np.float32)
    before = times[0]
    for now in times:
        weights *= (now / before) ** GROWTH
        dual *= (now / before) ** GROWTH
        before = now
        _descend(matrix.indptr, matrix.indices, matrix.data, sign, cost * np.float32(now), EPOCHS, TOLERANCE, seed, weights, dual)
        yield weights[:-1].copy(), weights[-1].copy()


def one_against_rest(
    codes: Sequence[NDArray[np.int64]], labels: Sequence[int], cost: float, balance: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The `sign` and `cost` that `solve` wants, the columns of all targets side by side. For each target: the `codes` of the tickets' labels,
    (tickets,), -1 where there is none, and how many `labels` it has; `cost` and `balance` as in `label_costs`."""
    signs, costs = [], []
    for own, n in zip(codes, labels, strict=True):
        sign = np.where(own[:, None] == np.arange(n), 1, -1)
        signs.append(np.where(own[:, None] >= 0, sign, 0).astype(np.int8))
        costs.append(np.repeat(label_costs(own, n, cost, balance)[:, None], n, axis=1))
    return np.concatenate(signs, axis=1), np.concatenate(costs, axis=1)


def label_costs(codes: NDArray[np.int64], labels: int, cost: float, balance: float) -> NDArray[np.float32]:
    """The cost of each ticket's errors, float32 (tickets,): rarer labels count more, by the power `balance` (0: all alike;
    1: every label alike however rare). `codes` below 0 (no label) get `cost` itself, which is never used."""
    counts = np.maximum(np.bincount(codes[codes >= 0], minlength=labels), 1)
    weights = (counts.sum() / labels / counts) ** balance
    return np.where(codes >= 0, cost * weights[codes], cost).astype(np.float32)
