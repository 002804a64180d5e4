"""Risk and coverage: what a promise lets through without a person, and what that costs in hours.

It stands on the answers of classifiers that did not see the tickets (`training.noise.out_of_fold`). As in serving, a ticket is routed
without a person where every target is sure enough and no protected label is passed over; where `kind` is sure, a person confirms; else a
person decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.decision import KIND
from training import calibrate
from training.fit import RECALL
from training.noise import Judged, OutOfFold

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Minutes:
    """What a ticket costs people, in minutes. `sorting`: to read it and decide; `confirming`: to see that a proposal is right; `passing_on`:
    to find out that it is another team's, and say so; `passed_over`: an incident answered as advice, with all that follows."""

    sorting: float = 5.0
    confirming: float = 1.5
    passing_on: float = 12.0
    passed_over: float = 90.0


class AtTheDoor(NamedTuple):
    """A target's answers as they are met at the door, one a ticket: how `sure`, whether `right`, whether the label is `protected`, whether the
    answer would be `held` back for one that it passes over; `weights`: how much a ticket counts where the mix there is another one."""

    name: str
    sure: Floats
    right: Flags
    protected: Flags
    held: Flags
    weights: Floats


def at_the_door(target: Judged, which: Flags, protect: Sequence[str] = (), prior: Mapping[str, float] | None = None) -> AtTheDoor:
    """The answers of `target` on the tickets of `which`, all of which have a label; `protect`: labels whose recall comes first; `prior`: the
    shares of labels at the door, where they are not the table's."""
    codes, p = target.codes[which], target.probabilities[which]
    weights = np.ones(len(codes))
    if prior:
        moved = calibrate.shift(codes, tuple(target.labels), dict(prior))
        p, weights = p * np.exp(moved), np.exp(moved)[codes]
        p = p / p.sum(axis=1, keepdims=True)
    best = p.argmax(axis=1)
    protected, held = np.zeros(len(p), bool), np.zeros(len(p), bool)
    for k in [target.labels.index(label) for label in protect if label in target.labels]:
        protected |= codes == k
        held |= (best != k) & (p[:, k] >= calibrate.protect_threshold(p[codes == k, k], RECALL))
    return AtTheDoor(target.name, p.max(axis=1), best == codes, protected, held, weights)


def at_promises(
    judged: OutOfFold, promises: Sequence[float], minutes: Minutes, *, protect: Mapping[str, Sequence[str]] | None = None,
    prior: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each of `promises`, made for every target: the share `routed` without a person, `confirmed` and `decided` by one; the share of the
    routed that is `wrong` in a target, and of the protected tickets that is `passed_over`; and the `hours` that a thousand tickets cost.

    `protect` and `prior`: by target, as in `at_the_door`. A promise of 0 asks for no confidence.
    """
    which = np.all([target.codes >= 0 for target in judged.targets], axis=0)
    doors = [at_the_door(target, which, (protect or {}).get(target.name, ()), (prior or {}).get(target.name)) for target in judged.targets]
    weights: Floats = np.prod([door.weights for door in doors], axis=0)
    return [_at_promise(promise, doors, weights / weights.mean(), minutes) for promise in promises]


def _at_promise(promise: float, doors: list[AtTheDoor], weights: Floats, minutes: Minutes) -> dict[str, Any]:
    sure = {door.name: _sure(door, promise, weights) for door in doors}
    held = np.any([door.held for door in doors], axis=0)
    right = np.all([door.right for door in doors], axis=0)
    protected = np.any([door.protected for door in doors], axis=0)
    routed = np.all(list(sure.values()), axis=0) & ~held
    confirmed = sure.get(KIND, sure[doors[0].name]) & ~routed
    decided = ~routed & ~confirmed
    passed_over = routed & np.any([door.protected & ~door.right for door in doors], axis=0)

    def share(flags: Flags, of: Flags | None = None) -> float:
        among = weights if of is None else weights * of
        return float((flags * among).sum() / max(among.sum(), 1e-9))

    # A person who is shown a wrong proposal sorts the ticket all the same.
    hours = {
        "sorting": minutes.sorting * share(decided | (confirmed & ~right)),
        "confirming": minutes.confirming * share(confirmed & right),
        "passing on": minutes.passing_on * share(routed & ~right),
        "incidents passed over": minutes.passed_over * share(passed_over),
    }
    shares = {"routed": routed, "confirmed": confirmed, "decided": decided}
    return {
        "promise": promise,
        **{name: round(share(flags), 4) for name, flags in shares.items()},
        "wrong": round(share(~right, routed), 4),
        "passed_over": round(share(passed_over, protected), 4),
        "hours": {name: round(1000 * cost / 60, 2) for name, cost in hours.items()},
    }


def _sure(door: AtTheDoor, promise: float, weights: Floats) -> Flags:
    least = calibrate.promise_threshold(door.sure, door.right, promise, weights) if promise else 0.0
    return door.sure >= (2.0 if least is None else least)  # where no confidence keeps the promise, none is enough
