"""Suspected label errors: tickets whose label is not the one that tickets with such words have.

Every ticket is judged by a classifier that saw neither it nor its near-duplicates, so a wrong label cannot speak for itself. Which
of the disagreements are errors of the label and not of the classifier is told by confident learning (Northcutt, Jiang and Chuang,
"Confident learning: estimating uncertainty in dataset labels", 2021; cleanlab).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from model.scoring import Rows, phrases
from training import calibrate, duplicates, solver
from training.errors import TrainingError
from training.evaluate import Progress
from training.features import Features, Recipe, TermCounts
from training.split import Fold, folds
from training.table import TicketTable

# One recipe, no search: neighbours only, and a low cost, so that a few wrong labels do not bend the classifier towards themselves.
RECIPE = Recipe(reach=1, power=0.2, doubt=20)
COST, BALANCE = 0.25, 0.3
MOST_WORDS, LONGEST_PHRASE = 5, 3  # phrases that are told of a suspect, and their words
MISSING = "suspected label errors need cleanlab, which is not installed; add it with: pip install 'pointsman[notebooks]'"


class Suspect(NamedTuple):
    """A label that may be wrong. `ticket`: its place in the table; `self_confidence`: the probability of the given label; `score`: from 0
    to 1, how much more probable the suggested one is (above 0.5 it is the more probable); `words`: what pulls towards it."""

    ticket: int
    target: str
    given: str
    suggested: str
    self_confidence: float
    score: float
    words: list[str]


@dataclass(frozen=True)
class Judged:
    """A target as it was judged: its labels, the code of each ticket's given label (-1: none), its first column in the scores, and
    calibrated probabilities, (tickets, labels)."""

    name: str
    labels: list[str]
    codes: NDArray[np.int64]
    first: int
    probabilities: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.int64]:
        """The code of each ticket's most probable label."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best


@dataclass(frozen=True)
class OutOfFold:
    """What classifiers say of tickets that they did not see. `group`: which tickets are near-duplicates; `fold_of`: who judged each
    ticket; `rows`: one table of words for each fold."""

    texts: list[str]
    targets: list[Judged]
    counts: TermCounts
    group: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    rows: list[Rows]

    def words(self, ticket: int, column: int) -> list[str]:
        """The phrases of a ticket that pull towards a label, strongest first."""
        text = self.texts[ticket]
        found = phrases(text, self.rows[self.fold_of[ticket]], [column], LONGEST_PHRASE)[0]
        pulling = {text[start:end].casefold(): text[start:end] for start, end, weight in reversed(found) if weight > 0}
        return list(reversed(pulling.values()))[:MOST_WORDS]


def out_of_fold(table: TicketTable, seed: int = 0, progress: Progress = lambda stage, done, of: None) -> OutOfFold:
    """Judge every ticket of `table` by five-fold cross-validation, near-duplicates kept together.

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

    scores = np.zeros((len(table), sum(map(len, labels))), np.float32)
    fold_of = np.zeros(len(table), np.int64)
    rows = []

    def one(fold: Fold) -> tuple[NDArray[np.float32], Rows]:
        features, weights, bias = learn(counts, fold.train, codes, seed)
        return features.transform(fold.held_out) @ weights + bias, features.rows(weights)

    progress("judging the labels", 0, len(split))
    judged = Parallel(n_jobs=-1, backend="threading", return_as="generator")(delayed(one)(fold) for fold in split)
    for number, (fold, (own, table_of_words)) in enumerate(zip(split, judged, strict=True)):
        scores[fold.held_out] = own
        fold_of[fold.held_out] = number
        rows.append(table_of_words)
        progress("judging the labels", number + 1, len(split))
    targets, first = [], 0
    for name, own_labels, own_codes in zip(names, labels, codes, strict=True):
        columns = scores[:, first : first + len(own_labels)]
        targets.append(Judged(name, own_labels, own_codes, first, _probabilities(columns, own_codes)))
        first += len(own_labels)
    return OutOfFold(table.texts, targets, counts, group, fold_of, rows)


def learn(
    counts: TermCounts, which: NDArray[np.int64], codes: Sequence[NDArray[np.int64]], seed: int = 0
) -> tuple[Features, NDArray[np.float32], NDArray[np.float32]]:
    """Quick classifiers of all targets from the tickets numbered `which`: their features, weights and bias.

    `codes`: for each target the code of each ticket's label, (tickets,), -1 where it has none.
    """
    features = Features(counts, RECIPE)
    own = [target[which] for target in codes]
    matrix = features.fit_transform(which, own)
    labels = [int(target.max()) + 1 for target in codes]
    weights, bias = solver.solve(matrix, *solver.one_against_rest(own, labels, COST, BALANCE), seed)
    return features, weights, bias


def _probabilities(scores: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    # Sharpness and a shift for each label are too few numbers for one ticket to speak for itself through them.
    sharpness, shifts = calibrate.fit(scores, codes)
    logits = scores * sharpness + shifts
    p: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def suspects(judged: OutOfFold, *, explain: bool = True) -> list[Suspect]:
    """The labels that confident learning takes for errors, most suspicious first; with `explain`, the words that pull elsewhere.

    Raises TrainingError where cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise TrainingError(MISSING) from error
    found = []
    for target in judged.targets:
        labelled = np.flatnonzero(target.codes >= 0)
        given, p = target.codes[labelled], target.probabilities[labelled]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "May not flag all", UserWarning)  # of a label seen once or twice; the audit says which are rare
            wrong = find_label_issues(given, p, n_jobs=1)
        quality = get_label_quality_scores(given, p, method="normalized_margin")
        for place in np.flatnonzero(wrong).tolist():
            ticket, suggested = int(labelled[place]), int(p[place].argmax())
            words = judged.words(ticket, target.first + suggested) if explain else []
            names = target.labels[given[place]], target.labels[suggested]
            found.append(Suspect(ticket, target.name, *names, float(p[place, given[place]]), float(1 - quality[place]), words))
    return sorted(found, key=lambda suspect: (-suspect.score, suspect.ticket, suspect.target))
