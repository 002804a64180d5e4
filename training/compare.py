"""Champion against candidate: both decide the same tickets as they would serve, and what differs is measured in pairs.

All figures are of one shape (`Difference`), overall, by language, by label and by customer tier. The gate (`training.gate`) judges them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from model.decision import Decider, Ticket
from model.encoder import Encoder
from model.policy import Policy
from model.router import Router, Target
from training import duplicates, paired
from training.evaluate import BATCH_DEEP, Progress, calibration_error
from training.features import TermCounts
from training.paired import Flags
from training.table import TicketTable

RESAMPLES = 1000
MOST_TIERS = 20  # told apart; a table may call them anything
_BATCH = 1024


class Difference(TypedDict):
    """A share of both on the same `n` tickets; `interval` of the difference by bootstrap; the rest by McNemar, see `training.paired`."""

    n: int
    champion: float | None
    candidate: float | None
    difference: float | None
    interval: list[float] | None
    groups: NotRequired[int]
    lost: NotRequired[int]
    won: NotRequired[int]
    p_value: NotRequired[float]
    p_loss: NotRequired[float]


@dataclass(frozen=True)
class Answered:
    """What a router decided on the tickets of a table.

    `labels` and `confidence`: for each target, one a ticket; `auto`: routed without a person; `held`: for each protected label of a target,
    whether the ticket was held back from being taken for something else; `asked`: whether the deep path decided.
    """

    version: str
    targets: dict[str, Target]
    labels: dict[str, NDArray[np.str_]]
    confidence: dict[str, NDArray[np.float64]]
    auto: Flags
    held: dict[tuple[str, str], Flags]
    asked: Flags


def answer(
    router: Router, policy: Policy, texts: list[str], encoder: Encoder | None = None, progress: Progress = lambda stage, done, of: None
) -> Answered:
    """The decisions of `router` on cleaned `texts`, by both paths where there is an `encoder`. Raises EncoderError."""
    decider = Decider(router, policy)
    decisions = []
    size = BATCH_DEEP if encoder else _BATCH
    for start in range(0, len(texts), size):
        batch = texts[start : start + size]
        tickets = [Ticket()] * len(batch)  # what else is known of a ticket changes its route, never its labels
        answers = decider.answer(tickets, batch)
        decided = decider.conclude(tickets, batch, answers)
        doubtful = [i for i, doubt in enumerate(answers.doubtful) if doubt] if encoder else []
        if encoder and doubtful:
            asked = [batch[i] for i in doubtful]
            again = decider.reconsider(tickets[: len(asked)], asked, encoder.encode(asked))
            for i, decision in zip(doubtful, again, strict=True):
                decided[i] = decision
        decisions += decided
        progress(f"asking {router.version}", start + len(batch), len(texts))
    names = [target.name for target in router.targets]
    held = {
        (target.name, label): np.array([f"possible_{label}" in d["reasons"] or d["action"] == "review" for d in decisions], bool)
        for target in router.targets
        for label in target.protect
    }
    return Answered(
        version=router.version,
        targets={target.name: target for target in router.targets},
        labels={name: np.array([d["labels"][name]["label"] for d in decisions], str) for name in names},
        confidence={name: np.array([d["labels"][name]["confidence"] for d in decisions], float) for name in names},
        auto=np.array([d["action"] == "auto" for d in decisions], bool),
        held=held,
        asked=np.array([d["path"] == "deep" for d in decisions], bool),
    )


def groups_of(texts: list[str]) -> NDArray[np.int64]:
    """The group of near-duplicates of each text."""
    counts = TermCounts.of(texts)
    return duplicates.groups(counts.words, counts.word_hashes)


def measure(
    table: TicketTable, champion: Answered, candidate: Answered, group: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The figures of both on the tickets of `table`, which both answered; `group` of near-duplicates of each ticket."""
    ledger = _Ledger(group)
    targets: dict[str, Any] = {}
    for name in [name for name in table.labels if name in champion.targets and name in candidate.targets]:
        targets[name] = _target(ledger, name, table, champion, candidate)
    figures = {
        "champion": champion.version,
        "candidate": candidate.version,
        "tickets": len(table),
        "groups": len(np.unique(group)),
        "coverage": ledger.share(np.ones(len(table), bool), champion.auto, candidate.auto),
        "asked": {"champion": round(float(champion.asked.mean()), 4), "candidate": round(float(candidate.asked.mean()), 4)},
        "targets": targets,
        "missing": [name for name in champion.targets if name not in targets],
    }
    ledger.close(resamples, seed)
    return figures


def _target(ledger: "_Ledger", name: str, table: TicketTable, champion: Answered, candidate: Answered) -> dict[str, Any]:
    truth = np.array(table.labels[name], str)
    has = truth != ""
    a, b = champion.labels[name] == truth, candidate.labels[name] == truth
    labels = sorted(set(truth[has].tolist()))
    figures: dict[str, Any] = {
        "accuracy": ledger.share(has, a, b),
        "macro_f1": ledger.macro_f1(has, truth, champion.labels[name], candidate.labels[name], labels),
        "promise": {
            "champion": _promise(champion, name, has, a, ledger.group),
            "candidate": _promise(candidate, name, has, b, ledger.group),
            "difference": ledger.precision(has & champion.auto, has & candidate.auto, a, b),
        },
        "calibration_error": {
            "champion": round(calibration_error(champion.confidence[name][has], a[has]), 4),
            "candidate": round(calibration_error(candidate.confidence[name][has], b[has]), 4),
        },
        "unknown_labels": {
            "champion": sorted(set(labels) - set(champion.targets[name].labels)),
            "candidate": sorted(set(labels) - set(candidate.targets[name].labels)),
        },
        "labels": {label: ledger.share(truth == label, a, b) for label in labels},
        "languages": {code or "?": ledger.share(has & spoken, a, b) for code, spoken in _parts(table.languages)},
        "protected": {},
    }
    if any(table.tiers):
        figures["tiers"] = {tier[:80] or "?": ledger.share(has & own, a, b) for tier, own in _parts(table.tiers, MOST_TIERS)}
    for label in champion.targets[name].protect:
        real = truth == label
        caught = [who.held.get((name, label), np.zeros(len(truth), bool)) | (who.labels[name] == label) for who in (champion, candidate)]
        figures["protected"][label] = {
            "recall": ledger.share(real, a, b),
            "not_let_pass": ledger.share(real, *caught),
            "let_pass": {"champion": int((real & ~caught[0]).sum()), "candidate": int((real & ~caught[1]).sum())},
        }
    return figures


def _parts(values: list[str], most: int | None = None) -> list[tuple[str, Flags]]:
    """Each value and the tickets that have it, the commonest `most`, sorted; none where they are all alike."""
    column = np.array(values, str)
    found = sorted(value for value, _ in Counter(values).most_common(most))
    return [(value, column == value) for value in found] if len(found) > 1 else []


def _promise(who: Answered, name: str, has: Flags, right: Flags, group: NDArray[np.int64]) -> dict[str, Any]:
    """Of what is routed without a person: how many, the share that is right, what was promised, and the chance of so few if it is kept."""
    routed = has & who.auto
    hits, n, promised = int((right & routed).sum()), int(routed.sum()), who.targets[name].promise
    observed = round(hits / n, 4) if n else None
    return {"n": n, "observed": observed, "promised": promised, "p_value": paired.under(hits, n, promised, group[routed])}


class _Ledger:
    """Figures to be filled in: what they need is summed up, drawn again, and divided, for all of them at once."""

    def __init__(self, group: NDArray[np.int64]) -> None:
        self.group = group
        self._sums = paired.Sums(group)
        self._open: list[tuple[Difference, Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]]] = []

    def share(self, which: Flags, champion: Flags, candidate: Flags) -> Difference:
        """The share of `which` that each has right."""
        n, a, b = (self._sums.add(column) for column in (which, which & champion, which & candidate))
        found = self._difference(int(which.sum()), lambda sums: (sums[:, a] / sums[:, n], sums[:, b] / sums[:, n]))
        found.update(paired.mcnemar(champion[which], candidate[which], self.group[which]))  # type: ignore[typeddict-item]
        return found

    def precision(self, champion: Flags, candidate: Flags, a_right: Flags, b_right: Flags) -> Difference:
        """The share of right ones of those that each acts on, which need not be the same tickets."""
        a, b, a_hit, b_hit = (self._sums.add(column) for column in (champion, candidate, champion & a_right, candidate & b_right))
        return self._difference(int((champion | candidate).sum()), lambda sums: (sums[:, a_hit] / sums[:, a], sums[:, b_hit] / sums[:, b]))

    def macro_f1(
        self, which: Flags, truth: NDArray[np.str_], champion: NDArray[np.str_], candidate: NDArray[np.str_], labels: list[str]
    ) -> Difference:
        """The mean F1 of the labels that the tickets have."""
        real = [self._sums.add(truth == label) for label in labels]
        said = [[self._sums.add(which & (who == label)) for label in labels] for who in (champion, candidate)]
        hits = [[self._sums.add((truth == label) & (who == label)) for label in labels] for who in (champion, candidate)]

        def both(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            # A label that a sample has not drawn is left out of its mean, as a table's figure leaves out one that it does not have.
            drawn = sums[:, real] > 0
            one, other = (
                (drawn * 2 * sums[:, hits[i]] / np.maximum(sums[:, real] + sums[:, said[i]], 1)).sum(axis=1) / drawn.sum(axis=1) for i in (0, 1)
            )
            return one, other

        return self._difference(int(which.sum()), both)

    def close(self, resamples: int, seed: int) -> None:
        """Fill in the figures."""
        sums = self._sums.draw(resamples, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            for found, divide in self._open:
                if not found["n"]:
                    continue
                a, b = divide(sums)
                difference = b - a
                found["champion"], found["candidate"], found["difference"] = (
                    round(float(value[0]), 4) if np.isfinite(value[0]) else None for value in (a, b, difference)
                )
                found["interval"] = paired.interval(difference[1:]) if found["difference"] is not None else None

    def _difference(self, n: int, divide: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Difference:
        found = Difference(n=n, champion=None, candidate=None, difference=None, interval=None)
        self._open.append((found, divide))
        return found
