"""How long it took: sums, medians and 90th percentiles over all and by facet."""

import numpy as np
from numpy.typing import NDArray

from service.reports.figures import misplaced
from service.reports.frame import MINUTE, Mask, Stories
from service.reports.schemas import Duration, DurationOf, Durations, Minutes

_FACETS = {"kind": "final_kind", "department": "final_department", "customer_tier": "customer_tier", "language": "language", "country": "country"}
_SHARES = (0.5, 0.9)


def minutes(stories: Stories) -> Minutes:
    """Of judged tickets."""
    created = stories.numbers["created_at"]
    facets = {name: stories.facet(column) for name, column in _FACETS.items()}
    return Minutes(
        to_right_team=_durations((stories.numbers["right_at"] - created) / MINUTE, stories.judged, facets),
        to_answer=_durations((stories.numbers["answered_at"] - created) / MINUTE, stories.judged, facets),
        misplaced=_durations(misplaced(stories), stories.judged, facets),
    )


def _durations(values: NDArray[np.float64], judged: Mask, facets: dict[str, tuple[NDArray[np.int16], list[str]]]) -> Durations:
    known = np.flatnonzero(judged & ~np.isnan(values))
    # Sorted once by the values; then each facet's groups are put together without changing the order in them.
    known = known[np.argsort(values[known], kind="stable")]
    ordered = np.maximum(values[known], 0)
    (whole,) = _by_group(ordered, np.zeros(len(known), np.int16), 1)
    by = {}
    for name, (places, names) in facets.items():
        found = _by_group(ordered, places[known], len(names))
        by[name] = [DurationOf(value=value, **own.model_dump()) for value, own in zip(names, found, strict=True) if own.count]
    return Durations(**whole.model_dump(), by=by)


def _by_group(ordered: NDArray[np.float64], places: NDArray[np.int16], size: int) -> list[Duration]:
    """For each group, of values that are in order. Percentiles lie between the two values next to them, as numpy's do."""
    values = ordered[np.argsort(places, kind="stable")]
    counts = np.bincount(places, minlength=size)
    starts = np.cumsum(counts) - counts
    sums = np.bincount(places, ordered, minlength=size)
    result = []
    for start, count, total in zip(starts.tolist(), counts.tolist(), sums.tolist(), strict=True):
        median, p90 = (_percentile(values[start : start + count], part) if count else None for part in _SHARES)
        result.append(Duration(count=count, median=median, p90=p90, sum=round(total, 3)))
    return result


def _percentile(values: NDArray[np.float64], part: float) -> float:
    place = part * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return round(float(values[low] + (values[high] - values[low]) * (place - low)), 3)
