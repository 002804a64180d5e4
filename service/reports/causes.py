"""A likely cause for each misrouted ticket: what is looked for, in which order, and the evidence read out."""

from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from service.reports.frame import TARGETS, Mask, Stories
from service.reports.schemas import Cause, CauseShare

CAUSES: tuple[Cause, ...] = get_args(Cause)
MEANINGS: dict[Cause, str] = {
    "rule": "A rule, not the router and not a person, put it elsewhere than the router said, or gave it its final label.",
    "overruled_later": "A person put it elsewhere than the router said, first or at once, and it ended in yet another department.",
    "chain": "Another department than the last one gave the customer the first answer: several teams worked on it.",
    "label_noise": "Tickets with exactly the same text ended with the label that the router decided, at least as often as with this one's: "
    "people disagree.",
    "unfamiliar": "Few of its words, or its language, were known to the router: a new kind of ticket.",
    "acted_unsure": "The router said that it was not sure; its proposal was followed all the same, or a person had to decide.",
    "sure_and_wrong": "The router was sure, and wrong.",
}


class Causes(NamedTuple):
    """For each ticket the place of its cause in CAUSES, -1 where it is not misrouted; for each misrouted one the target it is looked
    for in is `department` where that is wrong, else `kind`. `agreeing` and `differing`: how many other judged tickets of the same
    text ended with the decided label, and with this ticket's."""

    cause: NDArray[np.int8]
    agreeing: NDArray[np.int32]
    differing: NDArray[np.int32]


def find(stories: Stories) -> Causes:
    """The causes among all tickets of a period: filters come later, so that a ticket's cause does not hang on them."""
    cause = np.full(len(stories), -1, np.int8)
    agreeing, differing = np.zeros(len(stories), np.int32), np.zeros(len(stories), np.int32)
    in_department = stories.wrong["department"]
    for target, mask in (("department", in_department), ("kind", stories.wrong["kind"] & ~in_department)):
        places = np.flatnonzero(mask)
        wrong = stories.where(places)
        agreeing[places], differing[places] = _twins(stories, wrong, target)
        looked = _evidence(wrong, target, _noisy(agreeing[places], differing[places]))
        cause[places] = np.select([looked[name] for name in CAUSES], range(len(CAUSES)))
    return Causes(cause, agreeing, differing)


def _noisy(agreeing: NDArray[np.int32], differing: NDArray[np.int32]) -> Mask:
    return np.asarray((agreeing > 0) & (agreeing >= differing))


def _evidence(wrong: Stories, target: str, noisy: Mask) -> dict[Cause, Mask]:
    """For each cause whether there is evidence for it; the first that holds, in the order of CAUSES, is the likely one."""
    of_department = target == "department"
    nowhere = np.zeros(len(wrong), np.bool_)
    placed, decided, final = wrong.codes["placed_in"], wrong.codes["department"], wrong.codes["final_department"]
    elsewhere = (placed >= 0) & (placed != decided)
    answered = wrong.codes["answered_in"]
    taken = wrong.codes["overruled_to"]
    taken_wrongly = (taken >= 0) & (taken != decided) & (taken != final)
    return {
        "rule": ((wrong.has("placed_by", "rule") & elsewhere) if of_department else nowhere) | wrong.has(f"{target}_by", "rule"),
        "overruled_later": ((wrong.has("placed_by", "person") & elsewhere & (placed != final)) | taken_wrongly) if of_department else nowhere,
        "chain": ((answered >= 0) & (answered != final)) if of_department else nowhere,
        "label_noise": noisy,
        "unfamiliar": wrong.reasoned("unfamiliar", "unknown_language", "empty"),
        "acted_unsure": ~wrong.has("action", "auto") & wrong.reasoned(f"unsure_{target}", "possible_"),
        "sure_and_wrong": np.ones(len(wrong), np.bool_),
    }


def _twins(stories: Stories, wrong: Stories, target: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Of the judged tickets with the text of each of `wrong`: how many ended with its decided label, how many others with its final one."""
    assert stories.text is not None and wrong.text is not None  # noqa: S101, PT018  # for the type checker: the whole columns were read
    judged = np.flatnonzero(stories.judged)
    same = judged[np.isin(stories.text[judged], np.unique(wrong.text))]
    ends, counts = np.unique(_together(stories.text[same], stories.codes[f"final_{target}"][same]), return_counts=True)
    if not len(ends):
        return np.zeros(len(wrong), np.int32), np.zeros(len(wrong), np.int32)

    def count(label: NDArray[np.integer]) -> NDArray[np.int32]:
        wanted = _together(wrong.text, label)  # type: ignore[arg-type]
        places = np.minimum(np.searchsorted(ends, wanted), len(ends) - 1)
        return np.where(ends[places] == wanted, counts[places], 0).astype(np.int32)

    return count(wrong.codes[target]), count(wrong.codes[f"final_{target}"]) - 1


def _together(text: NDArray[np.uint64], label: NDArray[np.integer]) -> NDArray[np.uint64]:
    """One number for a text and a label; the texts' are digests, so that two hardly ever meet."""
    return np.asarray((text ^ label.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15))


def shares(cause: NDArray[np.int8]) -> list[CauseShare]:
    """How many of the misrouted tickets have which cause."""
    counts = np.bincount(cause[cause >= 0], minlength=len(CAUSES)).tolist()
    of = sum(counts)
    return [
        CauseShare(cause=name, tickets=count, share=round(count / of, 6) if of else None, meaning=MEANINGS[name])
        for name, count in zip(CAUSES, counts, strict=True)
    ]


def target_of(row: Any) -> str | None:
    """The target that a stored story is misrouted in, the department before the kind."""
    if row.closed_at is None:
        return None
    return next((t for t in TARGETS if getattr(row, t) is not None and getattr(row, t) != getattr(row, f"final_{t}")), None)
