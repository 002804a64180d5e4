"""From stories to the report's figures: how often what went wrong, and between whom."""

import numpy as np
from numpy.typing import NDArray

from service.reports.frame import ADVISORY, INCIDENT, MINUTE, TARGETS, Mask, Stories, day_of, name_of
from service.reports.schemas import (
    NOT_GIVEN,
    OTHERS,
    Band,
    Confidence,
    FiledAsIncident,
    Group,
    Groups,
    Incidents,
    Matrix,
    Pair,
    Promise,
    Share,
    Version,
)
from service.reports.statistics import share

MOST_LABELS = 40  # of a matrix; outcomes may name any number of departments
MOST_PAIRS = 100
MOST_VERSIONS = 200
BANDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
_ACTIONS = ("auto", "suggest", "review")
# Facets of the groups, and the columns that they are of.
_FACETS = {
    "language": "language", "model_version": "model_version", "department": "final_department", "kind": "final_kind",
    "channel": "channel", "customer_tier": "customer_tier", "country": "country", "action": "action",
}  # fmt: skip


def misrouted(stories: Stories) -> dict[str, Share]:
    """Of the judged tickets those misrouted, by target."""
    return {target: share(stories.wrong[target].sum(), (stories.judged & stories.decided(target)).sum()) for target in TARGETS}


def incidents(stories: Stories) -> Incidents:
    """What became of the real ones at intake."""
    return _incidents(*(int(mask.sum()) for mask in _incident_masks(stories)))


def _incident_masks(stories: Stories) -> tuple[Mask, Mask, Mask]:
    real = stories.judged & stories.has("final_kind", INCIDENT)
    recognised = real & stories.has("kind", INCIDENT)
    held_back = real & ~recognised & (stories.reasoned(f"possible_{INCIDENT}") | stories.has("action", "review"))
    return real, recognised, held_back


def _incidents(real: int, recognised: int, held_back: int) -> Incidents:
    found = share(recognised, real)
    return Incidents(real=real, recognised=recognised, recall=found.share, interval=found.interval, held_back=held_back)


def filed_as_incident(stories: Stories) -> FiledAsIncident:
    """What customers declared to be incidents."""
    filed = stories.judged & stories.has("declared_kind", INCIDENT)
    advisory = filed & stories.has("final_kind", ADVISORY)
    caught = advisory & stories.has("kind", ADVISORY)
    in_all, advice, seen = int(filed.sum()), int(advisory.sum()), int(caught.sum())
    return FiledAsIncident(
        count=in_all, advisory=advice, caught=seen, share_advisory=share(advice, in_all).share, share_caught=share(seen, advice).share
    )


def courses(stories: Stories) -> dict[str, int]:
    return {course: int((stories.judged & stories.has("course", course)).sum()) for course in ("straight", "overruled", "moved", "bounced")}


def moves_of_tickets(stories: Stories) -> dict[str, int]:
    counts = np.bincount(np.minimum(stories.numbers["moves"][stories.judged], 3).astype(np.intp), minlength=4)
    return dict(zip(("0", "1", "2", "3+"), counts.tolist(), strict=True))


def matrix(stories: Stories, target: str) -> Matrix:
    """Labels that are rare beyond `MOST_LABELS` are one."""
    counted = stories.where(stories.judged & stories.decided(target))
    both = np.concatenate([counted.codes[target], counted.codes[f"final_{target}"]])
    places, names = Stories({target: both}, stories.words, {"created_at": both}).facet(target, MOST_LABELS)
    decided, final = places[: len(counted)].astype(np.intp), places[len(counted) :].astype(np.intp)
    size = len(names)
    counts = np.bincount(decided * size + final, minlength=size * size).reshape(size, size)
    order = sorted(range(size), key=lambda i: (names[i] in (NOT_GIVEN, OTHERS), names[i]))
    return Matrix(labels=[names[i] for i in order], decided_by_final=counts[np.ix_(order, order)].tolist())


def misplaced(stories: Stories) -> NDArray[np.float64]:
    """Minutes from the first wrong stay to the right one; NaN where no stay was wrong, or it never came home."""
    return np.asarray(np.maximum(stories.numbers["right_at"] - stories.numbers["wrong_at"], 0) / MINUTE)


def pairs(stories: Stories) -> list[Pair]:
    """Those that cost most, first."""
    wrong = stories.where(stories.wrong["department"])
    size = len(stories.words["department"])
    key = wrong.codes["department"].astype(np.int64) * size + wrong.codes["final_department"]
    values, places, tickets = np.unique(key, return_inverse=True, return_counts=True)
    hours = misplaced(wrong) / 60
    lay = ~np.isnan(hours)
    sums = np.bincount(places[lay], hours[lay], minlength=len(values))
    moves = np.bincount(places, wrong.numbers["moves"], minlength=len(values))
    order = np.lexsort((values, -tickets, -sums))[:MOST_PAIRS]
    names = stories.words["department"].known
    return [
        Pair(
            decided=names[values[i] // size], final=names[values[i] % size], tickets=int(tickets[i]), hours=round(float(sums[i]), 4),
            median_hours=round(float(np.median(own)), 4) if len(own := hours[lay & (places == i)]) else None, moves=int(moves[i]),
        )
        for i in order
    ]  # fmt: skip


def confidence(stories: Stories, target: str, promised: float | None) -> Confidence:
    """What was promised against what came: by bands of confidence, and of what was routed without a person."""
    counted = stories.judged & stories.decided(target) & ~np.isnan(stories.numbers[f"{target}_confidence"])
    sure = stories.numbers[f"{target}_confidence"][counted]
    right = ~stories.wrong[target][counted]
    band = np.clip(np.searchsorted(BANDS, sure, side="right") - 1, 0, len(BANDS) - 2)
    of, good = np.bincount(band, minlength=len(BANDS) - 1), np.bincount(band, right, minlength=len(BANDS) - 1)
    total = np.bincount(band, np.rint(sure * 1e4), minlength=len(BANDS) - 1) / 1e4  # whole numbers: the order of the rows does not tell
    bands = []
    for i in range(len(BANDS) - 1):
        mean = float(total[i] / of[i]) if of[i] else None
        observed = share(good[i], of[i])
        bands.append(
            Band(low=BANDS[i], high=BANDS[i + 1], confidence=None if mean is None else round(mean, 6), right=observed, kept=_kept(mean, observed))
        )
    auto = stories.judged & stories.decided(target) & stories.has("action", "auto")
    observed = share((auto & ~stories.wrong[target]).sum(), auto.sum())
    return Confidence(bands=bands, auto=Promise(promised=promised, right=observed, kept=_kept(promised, observed)))


def _kept(promised: float | None, observed: Share) -> bool | None:
    return None if promised is None or observed.interval is None else promised <= observed.interval[1]


def groups(stories: Stories) -> Groups:
    """The main figures by each value of each facet, the most frequent first; weeks in their order."""
    marks = _marks(stories)
    made = {name: _groups(*stories.facet(column), marks) for name, column in _FACETS.items()}
    weeks, places = np.unique(stories.week, return_inverse=True)
    return Groups(week=_groups(places, [name_of(week) for week in weeks], marks), **made)


def _marks(stories: Stories) -> dict[str, Mask | NDArray[np.float64]]:
    """What is counted in each group."""
    real, recognised, held_back = _incident_masks(stories)
    marks: dict[str, Mask | NDArray[np.float64]] = {"judged": stories.judged, "moves": stories.numbers["moves"]}
    marks |= {"real": real, "recognised": recognised, "held_back": held_back}
    marks |= {action: stories.judged & stories.has("action", action) for action in _ACTIONS}
    for target in TARGETS:
        marks |= {f"wrong_{target}": stories.wrong[target], f"of_{target}": stories.judged & stories.decided(target)}
    return marks


def _groups(places: NDArray[np.integer], names: list[str], marks: dict[str, Mask | NDArray[np.float64]]) -> list[Group]:
    tickets = np.bincount(places, minlength=len(names))
    counts = {
        name: np.bincount(places[mark], minlength=len(names)) if mark.dtype == np.bool_ else np.bincount(places, mark, minlength=len(names))
        for name, mark in marks.items()
    }
    return [
        Group(
            value=name, tickets=int(tickets[i]), judged=int(counts["judged"][i]), moves=int(counts["moves"][i]),
            **{action: int(counts[action][i]) for action in _ACTIONS},
            misrouted={target: share(counts[f"wrong_{target}"][i], counts[f"of_{target}"][i]) for target in TARGETS},
            incidents=_incidents(*(int(counts[mark][i]) for mark in ("real", "recognised", "held_back"))),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip


def versions(stories: Stories) -> list[Version]:
    """The model versions that decided, in the order of their first tickets."""
    places, names = stories.facet("model_version", MOST_VERSIONS)
    moments = stories.numbers["created_at"]
    first, last = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(first, places, moments)
    np.maximum.at(last, places, moments)
    tickets = np.bincount(places, minlength=len(names))
    found = [Version(version=name, first=day_of(first[i]), last=day_of(last[i]), tickets=int(tickets[i])) for i, name in enumerate(names)]
    return sorted(found, key=lambda version: (version.first, version.last, version.version))
