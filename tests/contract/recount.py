"""The misroute report counted anew: by plain loops over simulated tickets and their truth, with nothing of the report's own code but the
numbers that it lets its readers know (how many tickets a comparison needs, and the like)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np

from service.demo.simulation import Simulated
from tests.contract.recount_change import compared, drift
from tests.contract.recount_share import TARGETS, day, misrouted, ratio, share, week

NOT_GIVEN = "(not given)"
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
SPANS = ("to_right_team", "to_answer", "misplaced")


def recount(world: Sequence[Simulated], since: date, until: date, filters: Mapping[str, str], promised: Mapping[str, float]) -> dict[str, Any]:
    """What `MisrouteReport.model_dump()` must be, but for the likely causes and the definitions; lists of groups as dictionaries."""
    matching = [each for each in world if all(fits(each, column, value) for column, value in filters.items())]
    now = [each for each in matching if since <= day(each) < until]
    before = [each for each in matching if since - (until - since) <= day(each) < since]
    judged = [each for each in now if each.truth.judged]
    filed = [each for each in judged if each.record.declared_kind == "incident"]
    advisory = [each for each in filed if each.truth.kind == "advisory"]
    caught = [each for each in advisory if each.record.kind == "advisory"]
    return {
        "period": {"from": since, "to": until},
        "filters": dict(filters),
        "simulated": True,
        "tickets": len(now),
        "judged": len(judged),
        "moves": sum(each.truth.moves for each in now),
        "misrouted": _misrouted(judged),
        "incidents": _incidents(judged),
        "filed_as_incident": {
            "count": len(filed), "advisory": len(advisory), "caught": len(caught),
            "share_advisory": ratio(len(advisory), len(filed)), "share_caught": ratio(len(caught), len(advisory)),
        },
        "courses": {course: sum(each.truth.course == course for each in judged) for course in ("straight", "overruled", "moved", "bounced")},
        "moves_of_tickets": {
            **{str(n): sum(each.truth.moves == n for each in judged) for n in range(3)}, "3+": sum(each.truth.moves >= 3 for each in judged),
        },
        "minutes": {span: _durations(judged, span) for span in SPANS},
        "matrix": {target: _matrix(judged, target) for target in TARGETS},
        "pairs": _pairs(judged),
        "confidence": {target: _confidence(judged, target, promised[target]) for target in TARGETS},
        "by": _groups(now),
        "versions": _versions(now),
        "compared": compared(before, now, since, until),
        "drift": drift(matching, since, until),
    }  # fmt: skip


def fits(each: Simulated, column: str, value: str) -> bool:
    given = getattr(each.record, column) or NOT_GIVEN
    return value == given or (column in TARGETS and value == getattr(each.truth, column))


def _misrouted(judged: Sequence[Simulated]) -> dict[str, Any]:
    return {target: share(sum(misrouted(each, target) for each in judged), len(judged)) for target in TARGETS}


def _incidents(judged: Sequence[Simulated]) -> dict[str, Any]:
    real = [each for each in judged if each.truth.kind == "incident"]
    missed = [each.record for each in real if each.record.kind != "incident"]
    found = share(len(real) - len(missed), len(real))
    held = sum(record.action == "review" or "possible_incident" in record.reasons.split() for record in missed)
    return {"real": len(real), "recognised": found["count"], "recall": found["share"], "interval": found["interval"], "held_back": held}


def _duration(values: Sequence[float]) -> dict[str, Any]:
    middle, most = np.quantile(values, [0.5, 0.9]).tolist() if values else (None, None)
    return {"count": len(values), "median": middle, "p90": most, "sum": float(sum(values))}


def _durations(judged: Sequence[Simulated], span: str) -> dict[str, Any]:
    timed = [each for each in judged if getattr(each.truth, span) is not None]
    facets: dict[str, Callable[[Simulated], str | None]] = {
        "kind": lambda each: each.truth.kind, "department": lambda each: each.truth.department,
        "customer_tier": lambda each: each.record.customer_tier, "language": lambda each: each.record.language, "country": lambda each: each.record.country,
    }  # fmt: skip
    by = {
        name: {value: {"value": value} | _duration([getattr(each.truth, span) for each in own]) for value, own in _grouped(timed, facet).items()}
        for name, facet in facets.items()
    }
    return _duration([getattr(each.truth, span) for each in timed]) | {"by": by}


def _grouped(tickets: Iterable[Simulated], facet: Callable[[Simulated], str | None]) -> dict[str, list[Simulated]]:
    found: dict[str, list[Simulated]] = defaultdict(list)
    for each in tickets:
        found[facet(each) or NOT_GIVEN].append(each)
    return found


def _matrix(judged: Sequence[Simulated], target: str) -> dict[str, Any]:
    cells = Counter((getattr(each.record, target), getattr(each.truth, target)) for each in judged)
    labels = sorted({label for cell in cells for label in cell})
    return {"labels": labels, "decided_by_final": [[cells[decided, final] for final in labels] for decided in labels]}


def _pairs(judged: Sequence[Simulated]) -> dict[str, Any]:
    found = {}
    for name, own in _grouped(
        (each for each in judged if misrouted(each, "department")), lambda each: f"{each.record.department} {each.truth.department}"
    ).items():
        hours = [each.truth.misplaced / 60 for each in own if each.truth.misplaced is not None]
        decided, final = name.split()
        found[name] = {
            "decided": decided, "final": final, "tickets": len(own), "hours": float(sum(hours)), "median_hours": float(np.median(hours)) if hours else None,
            "moves": sum(each.truth.moves for each in own),
        }  # fmt: skip
    return found


def _confidence(judged: Sequence[Simulated], target: str, promised: float) -> dict[str, Any]:
    bands = []
    for low, high in pairwise(EDGES):
        sure = [(getattr(each.record, f"{target}_confidence"), not misrouted(each, target)) for each in judged]
        own = [(confidence, right) for confidence, right in sure if low <= confidence < high or confidence == high == 1]
        mean = sum(confidence for confidence, _ in own) / len(own) if own else None
        observed = share(sum(right for _, right in own), len(own))
        bands.append({"low": low, "high": high, "confidence": mean, "right": observed, "kept": _kept(mean, observed)})
    auto = [each for each in judged if each.record.action == "auto"]
    observed = share(sum(not misrouted(each, target) for each in auto), len(auto))
    return {"bands": bands, "auto": {"promised": promised, "right": observed, "kept": _kept(promised, observed)}}


def _kept(promised: float | None, observed: dict[str, Any]) -> bool | None:
    return None if promised is None or not observed["of"] else bool(promised <= observed["interval"][1])


def _groups(now: Sequence[Simulated]) -> dict[str, Any]:
    facets: dict[str, Callable[[Simulated], str | None]] = {
        "language": lambda each: each.record.language, "week": week, "model_version": lambda each: each.record.model_version,
        "department": lambda each: each.truth.department, "kind": lambda each: each.truth.kind, "channel": lambda each: each.record.channel,
        "customer_tier": lambda each: each.record.customer_tier, "country": lambda each: each.record.country, "action": lambda each: each.record.action,
    }  # fmt: skip
    return {name: {value: _group(value, own) for value, own in _grouped(now, facet).items()} for name, facet in facets.items()}


def _group(value: str, own: Sequence[Simulated]) -> dict[str, Any]:
    judged = [each for each in own if each.truth.judged]
    actions = Counter(each.record.action for each in judged)
    return {
        "value": value, "tickets": len(own), "judged": len(judged), "moves": sum(each.truth.moves for each in own),
        **{action: actions[action] for action in ("auto", "suggest", "review")}, "misrouted": _misrouted(judged), "incidents": _incidents(judged),
    }  # fmt: skip


def _versions(now: Sequence[Simulated]) -> dict[str, Any]:
    return {
        version: {"version": version, "first": min(map(day, own)), "last": max(map(day, own)), "tickets": len(own)}
        for version, own in _grouped(now, lambda each: each.record.model_version).items()
    }
