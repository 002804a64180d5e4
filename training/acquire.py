"""Which unlabelled tickets to label next: those that the router is unsure of, and no two alike.

Zhdanov, "Diverse mini-batch active learning" (2019): of all candidates the most uncertain are kept, `FILTER` times as many as are
wanted; these are cut into as many clusters as are wanted, each ticket weighing as much as it is uncertain; of each cluster the ticket
nearest to its middle is taken. Uncertainty alone would ask the same question a hundred times.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from model.cleaning import clean
from model.router import Router
from training import duplicates, rows
from training.evaluate import Progress
from training.features import TermCounts
from training.history import Place
from training.worksheet import Question

MOST_CANDIDATES = 20_000  # tickets kept of a stream, drawn evenly
MOST_LABELS = 1_000
FILTER = 10
DIMENSIONS = 50
_BATCH = 4096


class Candidate(NamedTuple):
    """An unlabelled ticket: where it stands, its id, its cleaned text, and its labels as far as it has some."""

    place: Place
    id: str
    text: str
    labels: dict[str, str]


class Stream(NamedTuple):
    """What is kept of the unlabelled tickets, how many there were, and how many rows were passed over: labelled, without text, unreadable.
    `labels`: up to `MOST_LABELS` that other rows have, by target."""

    candidates: list[Candidate]
    unlabelled: int
    passed_over: int
    labels: dict[str, set[str]]


def read(sources: Iterable[str], columns: tuple[str, ...], targets: dict[str, str], *, database: str | None = None, seed: int = 0,
         most: int = MOST_CANDIDATES, progress: Progress = lambda stage, done, of: None) -> Stream:  # fmt: skip
    """Draw up to `most` tickets that lack a label of `targets` (name to column) from tables of any size, in bounded memory (Vitter, "Random
    sampling with a reservoir", 1985)."""
    chance = np.random.default_rng(seed)
    kept: list[Candidate] = []
    unlabelled = passed_over = 0
    known: dict[str, set[str]] = {name: set() for name in targets}
    for source in sources:
        for number, row in enumerate(rows.read(source, database), 1):
            if not number % _BATCH:
                progress("reading tickets", unlabelled, 0)
            labels = {} if isinstance(row, rows.BadRow) else {name: _said(row.get(column)) for name, column in targets.items()}
            for name, label in labels.items():
                if label and len(known[name]) < MOST_LABELS:
                    known[name].add(label)
            if isinstance(row, rows.BadRow) or all(labels.values()) or not any(rows.text_of(row, columns)):
                passed_over += 1
                continue
            unlabelled += 1
            place = len(kept) if len(kept) < most else int(chance.integers(unlabelled))
            if place >= most:
                continue
            subject, body = rows.text_of(row, columns)
            candidate = Candidate(Place("standard input" if source == "-" else source, number), _said(row.get("id")), clean(subject, body), labels)
            kept[place : place + 1] = [candidate]
    return Stream(sorted(kept, key=lambda one: one.place), unlabelled, passed_over, known)


def next_to_label(
    router: Router, candidates: list[Candidate], count: int, seed: int = 0, progress: Progress = lambda stage, done, of: None
) -> list[Question]:
    """The `count` tickets that are worth a label most, as questions of a worksheet: one for each target that was read and a ticket has no
    label in, with the router's guess. A question's score is the ticket's uncertainty."""
    if not candidates:
        return []
    targets = [target for target in router.targets if target.name in candidates[0].labels]
    texts = [candidate.text for candidate in candidates]
    guesses: dict[str, list[str]] = {target.name: [] for target in targets}
    doubts: list[NDArray[np.float64]] = []
    for begin in range(0, len(texts), _BATCH):
        progress("asking the router", begin, len(texts))
        answers = router.answer(texts[begin : begin + _BATCH])
        for target in targets:
            guesses[target.name] += [target.labels[code] for code in answers.top[target.name][:, 0].tolist()]
        doubts.append(np.mean([uncertainty(answers.probabilities[target.name]) for target in targets], axis=0))
    progress("choosing tickets that are not alike", 0, 1)
    uncertain = np.concatenate(doubts)
    questions = []
    for i in choose(TermCounts.of(texts), uncertain, count, seed).tolist():
        candidate = candidates[i]
        for name, guess in guesses.items():
            if not candidate.labels.get(name):
                questions.append(
                    Question(candidate.place.source, candidate.place.row, candidate.id, name, candidate.text, "", guess[i], float(uncertain[i]))
                )
    return questions


def uncertainty(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How close the two most probable labels are, for each ticket: from 0 (sure) to 1 (a tie)."""
    best = np.sort(probabilities.astype(np.float64), axis=1)[:, -2:]
    closeness: NDArray[np.float64] = 1 - (best[:, -1] - best[:, 0])
    return closeness


def choose(counts: TermCounts, uncertain: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """The places of up to `count` tickets, most uncertain first: uncertain ones that are not alike, each near-duplicate once.

    `uncertain` (tickets,), from 0 to 1; `counts` holds their words."""
    group = duplicates.groups(counts.words, counts.word_hashes)
    order = np.argsort(-uncertain, kind="stable")
    order = order[np.diff(counts.words.indptr)[order] > 0]  # of no words nobody can tell anything
    _, first = np.unique(group[order], return_index=True)
    likely: NDArray[np.int64] = order[np.sort(first)][: FILTER * count]
    if len(likely) <= count:
        return likely
    with threadpool_limits(1):  # sums in another order would be other sums
        places = _layout(counts.words[likely], seed)
        clusters = KMeans(count, init="k-means++", n_init=1, random_state=seed).fit(places, sample_weight=uncertain[likely] + 1e-6)
        apart = np.linalg.norm(places - clusters.cluster_centers_[clusters.labels_], axis=1)
    nearest = np.lexsort((likely, apart, clusters.labels_))
    _, heads = np.unique(clusters.labels_[nearest], return_index=True)
    taken = np.zeros(len(likely), bool)
    taken[nearest[heads]] = True
    taken[np.flatnonzero(~taken)[: count - np.count_nonzero(taken)]] = True  # a cluster that stayed empty: the most uncertain of the others
    chosen: NDArray[np.int64] = likely[taken]
    return chosen


def _layout(words: sp.csr_matrix, seed: int) -> NDArray[np.float64]:
    """Places by words (latent semantic analysis), unit length: (tickets, up to `DIMENSIONS`)."""
    frequency = np.bincount(words.indices, minlength=words.shape[1])
    kept = frequency >= 1
    matrix = words[:, kept].astype(np.float64)
    matrix.data = 1 + np.log(matrix.data)
    matrix = matrix @ sp.diags(np.log((1 + len(words.indptr)) / frequency[kept]))
    width = min(DIMENSIONS, min(matrix.shape) - 1)
    places: NDArray[np.float64] = TruncatedSVD(width, random_state=seed).fit_transform(matrix) if width >= 2 else matrix.toarray()
    places /= np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-9)
    return places


def _said(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()
