"""Tickets that one router has right and the other wrong, with the words that pulled each: what an analyst reads before promoting."""

from typing import TypedDict

import numpy as np

from model.router import Router
from training.compare import Answered
from training.table import TicketTable

MOST = 200  # of each kind and target
LONGEST = 300  # characters of a ticket that are shown
_WORDS = 4


class Said(TypedDict):
    label: str
    confidence: float
    words: list[str]


class Flip(TypedDict):
    """`right`: which of the two is; `label`: the right one; `row`: the ticket's place in the table as it was judged, from 1."""

    target: str
    right: str
    row: int
    id: str
    language: str
    label: str
    champion: Said
    candidate: Said
    text: str


def flips(table: TicketTable, champion: Answered, candidate: Answered, routers: dict[str, Router], most: int) -> list[Flip]:
    """Up to `most` tickets of each target that were lost, and as many that were won: those first of which the one that is wrong was
    surest. `routers`: of `champion` and `candidate`, asked for the words (the fast path's)."""
    most = min(most, MOST)
    found: list[Flip] = []
    for name in [name for name in table.labels if name in champion.targets and name in candidate.targets]:
        truth = np.array(table.labels[name], str)
        a, b = champion.labels[name] == truth, candidate.labels[name] == truth
        for right, which, wrong in (("champion", a & ~b, candidate), ("candidate", b & ~a, champion)):
            places = np.flatnonzero(which & (truth != ""))
            worst = places[np.argsort(-wrong.confidence[name][places], kind="stable")][:most]
            for i in worst.tolist():
                flip: Flip = {
                    "target": name,
                    "right": right,
                    "row": i + 1,
                    "id": table.ids[i] if table.ids else "",
                    "language": table.languages[i],
                    "label": table.labels[name][i],
                    "champion": _said(champion, routers["champion"], name, i, table.texts[i]),
                    "candidate": _said(candidate, routers["candidate"], name, i, table.texts[i]),
                    "text": table.texts[i][:LONGEST],
                }
                found.append(flip)
    return found


def _said(who: Answered, router: Router, name: str, i: int, text: str) -> Said:
    target, label = who.targets[name], str(who.labels[name][i])
    column = target.first + target.labels.index(label)
    pulled = [phrase.text[:80] for phrase in router.explain(text, [column])[0] if phrase.weight > 0][:_WORDS]
    return {"label": label, "confidence": round(float(who.confidence[name][i]), 4), "words": pulled}
