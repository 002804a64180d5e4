"""The learning curve: how good classifiers become with more tickets, where the last doubling helped, and what the next one may bring.

The classifiers are the quick ones of the audit (`training.noise.learn`), so that the curve costs a few of the trainings that it may save.
"""

from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from training import duplicates, noise, paired
from training.errors import TrainingError
from training.evaluate import Progress, interval
from training.features import TermCounts
from training.split import Fold, folds
from training.table import TicketTable

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the tickets that may be learned from
HALF = 0.5
_FITTED = 3  # of the largest shares, through which the curve is drawn on


class Point(NamedTuple):
    """The accuracy on `target` of classifiers that learned from `tickets`; `low` to `high`: its interval, 95%."""

    target: str
    tickets: int
    accuracy: float
    low: float
    high: float


class Part(NamedTuple):
    """The tickets of a label or a language: the accuracy on them with half of the tickets and with all; `lost` and `won` on the way, in groups
    of near-duplicates, and the chance of so much to and fro where more tickets change nothing (McNemar)."""

    target: str
    by: str
    name: str
    tickets: int
    half: float
    full: float
    lost: int
    won: int
    p_value: float


class Curve(NamedTuple):
    """`points`, fewest tickets first, by target; `parts`, those first that gained most."""

    points: list[Point]
    parts: list[Part]


def learning_curve(table: TicketTable, seed: int = 0, progress: Progress = lambda stage, done, of: None) -> Curve:
    """Learn from shares of `table`, each within the next, and judge on the same tickets: five folds, near-duplicates kept together.

    Raises TrainingError where no target has two labels, or the tickets cannot be split.
    """
    names = [name for name in table.labels if len(table.label_names(name)) >= 2]
    if not names:
        raise TrainingError("fewer than two labels in every target; there is nothing to tell apart")
    progress("reading the words", 0, 1)
    counts = TermCounts.of(table.texts)
    group = duplicates.groups(counts.words, counts.word_hashes)
    labels = [table.label_names(name) for name in names]
    codes = [table.codes(name, own) for name, own in zip(names, labels, strict=True)]
    try:
        split = folds(["\x1f".join(parts) for parts in zip(*(table.labels[name] for name in names), strict=True)], group, seed)
    except ValueError as error:
        raise TrainingError(f"{len(table)} tickets, but {error}") from error
    chance = np.random.default_rng(seed)
    orders = [chance.permutation(fold.train) for fold in split]

    def one(fold: Fold, learned: NDArray[np.int64]) -> NDArray[np.float32]:
        features, weights, bias = noise.learn(counts, learned, codes, seed)
        scores: NDArray[np.float32] = features.transform(fold.held_out) @ weights + bias
        return scores

    work = [(share, fold, np.sort(order[: max(1, round(share * len(order)))])) for share in SHARES for fold, order in zip(split, orders, strict=True)]
    right = {share: np.zeros((len(names), len(table)), bool) for share in SHARES}
    learned = dict.fromkeys(SHARES, 0)
    progress("learning from more and more tickets", 0, len(work))
    judged = Parallel(n_jobs=-1, backend="threading", return_as="generator")(delayed(one)(fold, which) for _, fold, which in work)
    for number, ((share, fold, which), scores) in enumerate(zip(work, judged, strict=True), 1):
        learned[share] += len(which)
        first = 0
        for place, (own, of) in enumerate(zip(labels, codes, strict=True)):
            right[share][place, fold.held_out] = scores[:, first : first + len(own)].argmax(axis=1) == of[fold.held_out]
            first += len(own)
        progress("learning from more and more tickets", number, len(work))
    points = [
        _point(name, learned[share] // len(split), right[share][place][of >= 0])
        for place, (name, of) in enumerate(zip(names, codes, strict=True))
        for share in SHARES
    ]
    parts = [
        _part(name, by, value, which, right[HALF][place], right[1.0][place], group)
        for place, name in enumerate(names)
        for by, column in ((name, table.labels[name]), ("language", table.languages))
        for value in sorted(set(column) - {""})
        for which in [(np.array(column, str) == value) & (codes[place] >= 0)]
        if which.any()
    ]
    return Curve(points, sorted(parts, key=lambda part: (part.half - part.full, part.target, part.by, part.name)))


def expected(points: list[Point], tickets: int) -> float:
    """The accuracy on the one target of `points` with so many tickets, if the errors go on to fall by the same power of the number of tickets
    (Hestness et al., "Deep learning scaling is predictable, empirically", 2017).

    That is hopeful: wrong labels, and tickets that two people would label differently, are a floor that a short curve does not show.
    """
    last = points[-_FITTED:]
    errors = np.log(np.maximum([1 - point.accuracy for point in last], 1e-4))
    power, level = np.polyfit(np.log([point.tickets for point in last]), errors, 1)
    return float(1 - np.exp(level + min(0.0, float(power)) * np.log(tickets))) if power < 0 else last[-1].accuracy


def _point(name: str, tickets: int, right: NDArray[np.bool_]) -> Point:
    hits, n = int(right.sum()), len(right)
    return Point(name, tickets, round(hits / n, 4), *interval(hits, n))


def _part(
    target: str, by: str, name: str, which: NDArray[np.bool_], half: NDArray[np.bool_], full: NDArray[np.bool_], group: NDArray[np.int64]
) -> Part:
    seen = paired.mcnemar(half[which], full[which], group[which])
    before, after = (round(float(right[which].mean()), 4) for right in (half, full))
    return Part(target, by, name, int(which.sum()), before, after, seen["lost"], seen["won"], seen["p_value"])
