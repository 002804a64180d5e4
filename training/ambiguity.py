"""Labels that do not mean one thing: pairs that are taken for each other both ways, one that falls in two, and the same text labelled
now so, now so."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from training.features import TermCounts
from training.noise import Judged

BOTH_WAYS = 0.10  # of a label's tickets that look like the other one's, each way
LEAST_CONFUSED = 5  # tickets, each way
LEAST_HALVED, LEAST_COMPARED = 60, 40  # tickets of a label that may be cut, and of one that it is compared with; fewer show halves by chance
LEAST_APART = 0.95  # of what lies between two labels usually
LEAST_SHARE, LEAST_STABLE = 0.2, 0.4  # of the smaller half; the adjusted Rand index of halves found from one half of the tickets
REDRAWN = 5  # times that half of the tickets are cut
MOST_READ = 6_000  # tickets whose words are laid out
DIMENSIONS = 20
OFTEN = 0.1  # of the tickets; a word in more of them tells no two apart
MOST_WORDS = 6


class Confused(NamedTuple):
    """Two labels: of the `first`'s tickets, how many look like the `second`'s, and the other way round."""

    target: str
    first: str
    second: str
    first_as_second: int
    of_first: int
    second_as_first: int
    of_second: int


class Halves(NamedTuple):
    """A label whose tickets fall in two. `apart`: how far, where 1 is what lies between two labels usually; `words`: of each half."""

    target: str
    label: str
    tickets: tuple[int, int]
    apart: float
    words: tuple[list[str], list[str]]
    examples: tuple[int, int]


class Disagreement(NamedTuple):
    """Near-duplicates with more than one label: the tickets, and which label each has."""

    target: str
    tickets: list[int]
    labels: list[str]


def confused(judged: Judged) -> list[Confused]:
    """The pairs of labels that are taken for each other both ways, worst first."""
    n = len(judged.labels)
    labelled = judged.codes >= 0
    table = np.bincount(judged.codes[labelled] * n + judged.best[labelled], minlength=n * n).reshape(n, n)
    totals = table.sum(axis=1)
    pairs = []
    for a in range(n):
        for b in range(a + 1, n):
            there, back = int(table[a, b]), int(table[b, a])
            if min(there, back) >= LEAST_CONFUSED and there >= BOTH_WAYS * totals[a] and back >= BOTH_WAYS * totals[b]:
                pairs.append(Confused(judged.name, judged.labels[a], judged.labels[b], there, int(totals[a]), back, int(totals[b])))
    return sorted(pairs, key=lambda pair: -min(pair.first_as_second / pair.of_first, pair.second_as_first / pair.of_second))


def disagreements(target: str, labels: Sequence[str], group: NDArray[np.int64]) -> list[Disagreement]:
    """The groups of near-duplicates whose tickets do not all have the same label, largest first."""
    members: dict[int, list[int]] = defaultdict(list)
    for ticket, number in enumerate(group.tolist()):
        if labels[ticket]:
            members[number].append(ticket)
    found = [Disagreement(target, own, [labels[i] for i in own]) for own in members.values() if len({labels[i] for i in own}) > 1]
    return sorted(found, key=lambda one: (-len(one.tickets), one.tickets))


def by_annotator(found: Sequence[Disagreement], annotators: Sequence[str]) -> dict[str, tuple[int, int]]:
    """For each annotator, on how many tickets of a disagreement they differ from what most said, and of how many."""
    tally: dict[str, tuple[int, int]] = {}
    for one in found:
        (usual, most), *others = Counter(one.labels).most_common(2)
        if others and others[0][1] == most:
            continue  # nobody knows who is right
        for ticket, label in zip(one.tickets, one.labels, strict=True):
            if who := annotators[ticket]:
                apart, of = tally.get(who, (0, 0))
                tally[who] = apart + (label != usual), of + 1
    return tally


def halves(target: str, texts: Sequence[str], labels: Sequence[str], languages: Sequence[str], seed: int = 0) -> list[Halves]:
    """The labels whose tickets fall in two that lie as far apart as two labels usually do, clearest first.

    Only the most common language is read: in two languages every label falls in two. The tickets are laid out by their words (latent
    semantic analysis), each label's are cut in two by k-means, and a cut counts where half of the tickets give it too.
    """
    spoken = Counter(code for code, label in zip(languages, labels, strict=True) if label).most_common(1)
    candidates = [i for i, label in enumerate(labels) if label and languages[i] == spoken[0][0]] if spoken else []
    chance = np.random.default_rng(seed)
    read = np.sort(chance.permutation(candidates)[:MOST_READ]).tolist()
    own = np.array([labels[i] for i in read], dtype=object)
    names = [name for name, count in sorted(Counter(own).items()) if count >= LEAST_COMPARED]
    if len(names) < 2:
        return []
    with threadpool_limits(1):  # sums in another order would be other sums
        places = _layout([texts[i] for i in read], seed)
        if places is None:
            return []
        middles = {name: _unit(places[own == name].mean(axis=0)) for name in names}
        usual = float(np.median([np.linalg.norm(middles[a] - middles[b]) for k, a in enumerate(names) for b in names[:k]]))
        found = []
        for name in names:
            which = np.flatnonzero(own == name)
            if len(which) < LEAST_HALVED:
                continue
            cut = KMeans(2, n_init=5, random_state=seed).fit(places[which])
            again = [KMeans(2, n_init=5, random_state=seed).fit(places[chance.permutation(which)[: len(which) // 2]]) for _ in range(REDRAWN)]
            sizes = np.bincount(cut.labels_, minlength=2)
            apart = float(np.linalg.norm(_unit(cut.cluster_centers_[0]) - _unit(cut.cluster_centers_[1]))) / max(usual, 1e-9)
            stable = np.median([adjusted_rand_score(cut.labels_, other.predict(places[which])) for other in again])
            if apart < LEAST_APART or stable < LEAST_STABLE or sizes.min() < LEAST_SHARE * len(which):
                continue
            sides = [which[cut.labels_ == side] for side in (0, 1)]
            nearest = [int(side[(places[side] @ _unit(cut.cluster_centers_[k])).argmax()]) for k, side in enumerate(sides)]
            words = _telling([[texts[read[i]] for i in side] for side in sides])
            found.append(Halves(target, name, (int(sizes[0]), int(sizes[1])), apart, words, (read[nearest[0]], read[nearest[1]])))
    return sorted(found, key=lambda one: -one.apart)


def _layout(texts: list[str], seed: int) -> NDArray[np.float64] | None:
    """Places of texts by their words, unit length: (texts, `DIMENSIONS`). None where they have too few words in common."""
    words = TermCounts.of(texts).words
    frequency = np.bincount(words.indices, minlength=words.shape[1])
    kept = (frequency >= 3) & (frequency <= max(3.0, OFTEN * len(texts)))
    if np.count_nonzero(kept) <= DIMENSIONS:
        return None
    matrix = words[:, kept].astype(np.float64)
    matrix.data = 1 + np.log(matrix.data)
    matrix = matrix @ sp.diags(np.log(len(texts) / frequency[kept]))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sp.diags(1 / np.maximum(length, 1e-9)) @ matrix
    return _unit(TruncatedSVD(DIMENSIONS, random_state=seed).fit_transform(matrix))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return scaled


def _telling(sides: list[list[str]]) -> tuple[list[str], list[str]]:
    """The words that tell each side from the other: in more of its tickets, by how much."""
    counts = [Counter(word for text in side for word in set(re.findall(r"[^\W\d_]{3,30}", text.casefold()))) for side in sides]
    told: list[list[str]] = []
    for mine, other, n, m in ((counts[0], counts[1], len(sides[0]), len(sides[1])), (counts[1], counts[0], len(sides[1]), len(sides[0]))):
        told.append(sorted(mine, key=lambda word: (-(mine[word] / n - other[word] / m), word))[:MOST_WORDS])
    return told[0], told[1]
