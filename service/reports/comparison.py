"""What got worse since the period of the same length just before, beyond chance."""

from collections.abc import Callable, Iterator
from datetime import date
from functools import partial

import numpy as np

from service.reports.frame import INCIDENT, Mask, Stories
from service.reports.schemas import Comparison, Worse
from service.reports.statistics import CHANCE, holm, more, share

# By decided labels: which of them they are in does not hang on what went wrong.
FACETS = ("language", "department", "kind", "channel", "customer_tier", "country")
_LEAST = 20  # judged tickets before and now; fewer could hardly show anything, and looking at them makes all else harder to show
_MOST_WORDS = 50


def compare(before: Stories, now: Stories, since: date, until: date) -> Comparison:
    """`since` and `until` are those of the period before."""
    asked = [(figure, *cell) for figure in FIGURES for cell in _cells(before, now, figure)]
    p = holm([_chance(figure, (a, m), (b, n)) for figure, _, _, a, m, b, n in asked])
    worse = [
        Worse(figure=figure, by=by, value=value, before=share(a, m), now=share(b, n), p=float(f"{chance:.4g}"))
        for (figure, by, value, a, m, b, n), chance in zip(asked, p.tolist(), strict=True)
        if chance < CHANCE
    ]
    return Comparison(since=since, until=until, looked_at=len(asked), worse=sorted(worse, key=lambda found: found.p))


def _chance(figure: str, before: tuple[int, int], now: tuple[int, int]) -> float:
    if figure in _WORSE_WHEN_FEWER:
        before, now = ((of - count, of) for count, of in (before, now))
    return more(before, now)


def _misrouted(target: str, stories: Stories) -> tuple[Mask, Mask]:
    return stories.wrong[target], stories.judged & stories.decided(target)


def _recognised(stories: Stories) -> tuple[Mask, Mask]:
    real = stories.judged & stories.has("final_kind", INCIDENT)
    return real & stories.has("kind", INCIDENT), real


# What is compared: those that count, of those that could.
FIGURES: dict[str, Callable[[Stories], tuple[Mask, Mask]]] = {
    "misrouted.department": partial(_misrouted, "department"),
    "misrouted.kind": partial(_misrouted, "kind"),
    "incidents.recall": _recognised,
    "review": lambda stories: (stories.judged & stories.has("action", "review"), stories.judged),
}
_WORSE_WHEN_FEWER = {"incidents.recall"}


def _cells(before: Stories, now: Stories, figure: str) -> Iterator[tuple[str, str, int, int, int, int]]:
    """(by, value, count before, of, count now, of) over all and for each value of each facet that has enough tickets."""
    (bad_before, of_before), (bad_now, of_now) = (FIGURES[figure](stories) for stories in (before, now))
    for by in ("all", *FACETS):
        size = len(now.words[by]) if by != "all" else 1  # the same words in both
        a, m, b, n = (
            np.bincount(stories.codes[by][mask].astype(np.intp) + 1, minlength=size)[1:] if by != "all" else np.array([mask.sum()])
            for stories, mask in ((before, bad_before), (before, of_before), (now, bad_now), (now, of_now))
        )
        enough = np.flatnonzero(np.minimum(m, n) >= _LEAST)
        for place in enough[np.argsort(-n[enough], kind="stable")][:_MOST_WORDS].tolist():
            value = now.words[by].known[place] if by != "all" else ""
            yield by, value, int(a[place]), int(m[place]), int(b[place]), int(n[place])
