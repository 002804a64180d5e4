"""What got worse, and what drifts, counted anew; see `tests.contract.recount`."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from scipy.stats import hypergeom

from service.demo.simulation import Simulated
from tests.contract.recount_share import day, misrouted, ratio, share

Counts = tuple[int, int]
# What a comparison needs, of judged tickets on either side; what a week's needs, of tickets, and how many weeks before it are looked at.
LEAST_COMPARED, LEAST_OF_WEEK, WEEKS_BEFORE = 20, 30, 4


def compared(before: Sequence[Simulated], now: Sequence[Simulated], since: date, until: date) -> dict[str, Any]:
    figures: dict[str, Callable[[Simulated], tuple[bool, bool]]] = {  # whether it counts, and whether it could
        "misrouted.department": lambda each: (misrouted(each, "department"), True),
        "misrouted.kind": lambda each: (misrouted(each, "kind"), True),
        "incidents_missed": lambda each: (each.record.kind != "incident", each.truth.kind == "incident"),
        "reviewed": lambda each: (each.record.action == "review", True),
    }
    asked: dict[str, tuple[Counts, Counts]] = {}
    for figure, counted in figures.items():
        for by in ("all", "language", "department", "kind", "channel", "customer_tier", "country"):
            sides = []
            for tickets in (before, now):
                found: dict[str | None, list[bool]] = defaultdict(list)
                for each in tickets:
                    counts, could = counted(each)
                    if each.truth.judged and could:
                        found["" if by == "all" else getattr(each.record, by)].append(counts)
                sides.append(found)
            for value in sides[0].keys() & sides[1].keys() - {None}:
                first, second = (side[value] for side in sides)
                if min(len(first), len(second)) >= LEAST_COMPARED:
                    asked[f"{figure} {by} {value}"] = (sum(first), len(first)), (sum(second), len(second))
    corrected = _holm({name: _more(*sides) for name, sides in asked.items()})
    worse = {
        name: {
            "figure": name.split(" ", 2)[0], "by": name.split(" ", 2)[1], "value": name.split(" ", 2)[2], "before": share(*asked[name][0]),
            "now": share(*asked[name][1]), "p": p,
        }
        for name, p in corrected.items()
        if p < 0.05
    }  # fmt: skip
    return {"since": since - (until - since), "until": since, "looked_at": len(asked), "worse": worse}


def _more(before: Counts, now: Counts) -> float:
    """Fisher's exact test, one-sided: so many now, or more."""
    return float(hypergeom.sf(now[0] - 1, before[1] + now[1], before[0] + now[0], now[1]))


def _less(before: Counts, now: Counts) -> float:
    return float(hypergeom.cdf(now[0], before[1] + now[1], before[0] + now[0], now[1]))


def _holm(chances: Mapping[str, float]) -> dict[str, float]:
    corrected, least = {}, 0.0
    for place, (name, p) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(chances) - place)))
        corrected[name] = least
    return corrected


def drift(matching: Sequence[Simulated], since: date, until: date) -> dict[str, Any]:
    first = since - timedelta(days=since.weekday())
    weeks: dict[date, list[Simulated]] = defaultdict(list)
    for each in matching:
        if first - timedelta(weeks=WEEKS_BEFORE) <= day(each) < until:
            weeks[day(each) - timedelta(days=day(each).weekday())].append(each)
    told = sorted(monday for monday in weeks if monday >= first)
    asked: dict[str, tuple[Counts, Counts]] = {}
    for monday in told:
        now = _signs(weeks[monday])
        earlier = _signs([each for back in range(1, WEEKS_BEFORE + 1) for each in weeks.get(monday - timedelta(weeks=back), ())])
        for sign in now.keys() | earlier.keys():
            of = "overridden" if sign == "overridden " else "tickets"
            was, is_now = ((signs.get(sign, 0), signs[of]) for signs in (earlier, now))
            if sign not in ("tickets", "overridden") and min(was[1], is_now[1]) >= LEAST_OF_WEEK and (was[0] or is_now[0]):
                asked[f"{_name(monday)} {sign}"] = was, is_now
    corrected = _holm({name: min(1.0, 2 * min(_more(*sides), _less(*sides))) for name, sides in asked.items()})
    changes = {}
    for name, p in corrected.items():
        (a, m), (b, n) = asked[name]
        if p < 0.05 and _matters(a / m, b / n):
            changes[name] = dict(zip(("week", "what", "value"), name.split(" "), strict=True)) | {"was": a / m, "is_now": b / n, "p": p}
    return {"weeks": [_mix(_name(monday), weeks[monday]) for monday in told], "changes": changes}


def _matters(was: float, is_now: float) -> bool:
    """By a percentage point, and by a quarter of the odds."""
    low, high = sorted((was, is_now))
    return high - low >= 0.01 and high * (1 - low) >= 1.25 * low * (1 - high)


def _name(monday: date) -> str:
    return monday.strftime("%G-W%V")


def _signs(tickets: Sequence[Simulated]) -> dict[str, int]:
    """How many tickets bear each sign; `tickets` and `overridden` without a value are those that could."""
    found = Counter({"tickets": len(tickets), "overridden": sum(each.truth.judged for each in tickets)})
    for each in tickets:
        found.update(f"{target} {getattr(each.record, target)}" for target in ("language", "kind", "department"))
        found["unfamiliar "] += bool({"unfamiliar", "unknown_language"} & set(each.record.reasons.split()))
        found["review "] += each.record.action == "review"
        found["overridden "] += _overridden(each)
    return found


def _overridden(each: Simulated) -> bool:
    """Whether a person gave the label that it has in the end, against the router."""
    givers = {
        "department": [event.by for event in each.events if event.event in ("assigned", "moved")],
        "kind": [event.by for event in each.events if event.event == "kind_corrected"],
    }
    return any(misrouted(each, target) and bool(by) and by[-1] == "person" for target, by in givers.items())


def _mix(name: str, tickets: Sequence[Simulated]) -> dict[str, Any]:
    signs, n = _signs(tickets), len(tickets)
    shares = {
        f"{target}s": {value: count / n for value, count in Counter(getattr(each.record, target) for each in tickets).items()}
        for target in ("language", "kind", "department")
    }
    return {
        "week": name, "tickets": n, "confidence": sum(each.record.department_confidence or 0 for each in tickets) / n, **shares,
        "unfamiliar": signs["unfamiliar "] / n, "review": signs["review "] / n, "overridden": ratio(signs["overridden "], signs["overridden"]),
    }  # fmt: skip
