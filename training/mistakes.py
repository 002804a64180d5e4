"""Wrong answers by the words that led to them: an error browser. A word that often pulls to the wrong label is one to write tickets about."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from training.noise import OutOfFold

LEAST = 3  # wrong answers that a word pulled to; fewer are told by themselves


class Misleading(NamedTuple):
    """A phrase, in small letters, that pulled to `answered`: how often that was `wrong` and how often `right`, the label that most of the wrong ones have,
    and the tickets that it led astray."""

    phrase: str
    answered: str
    wrong: int
    right: int
    mostly: str
    tickets: list[int]


def by_words(judged: OutOfFold, target: str, least: int = LEAST) -> list[Misleading]:
    """The phrases that pulled to wrong answers on `target`, those first with most wrong answers beyond the usual share.

    Each ticket's strongest phrases count once (`OutOfFold.words`), by the classifier that did not see it.
    """
    own = next(one for one in judged.targets if one.name == target)
    best = own.best
    wrong: dict[tuple[str, int], list[int]] = defaultdict(list)
    right: dict[tuple[str, int], int] = defaultdict(int)
    for ticket in np.flatnonzero(own.codes >= 0).tolist():
        answered = int(best[ticket])
        for phrase in {word.casefold() for word in judged.words(ticket, own.first + answered)}:
            if answered == own.codes[ticket]:
                right[phrase, answered] += 1
            else:
                wrong[phrase, answered].append(ticket)
    found = []
    for (phrase, answered), tickets in wrong.items():
        if len(tickets) >= least:
            mostly = own.labels[np.bincount(own.codes[tickets]).argmax()]
            found.append(Misleading(phrase, own.labels[answered], len(tickets), right[phrase, answered], mostly, tickets))
    labelled = own.codes >= 0
    usual = float((best != own.codes)[labelled].mean())
    return sorted(found, key=lambda one: (usual * (one.wrong + one.right) - one.wrong, one.phrase, one.answered))
