"""A misroute report and a list of tickets made by hand, for the tests of the pages that show them."""

from datetime import date
from typing import Any

from service.reports.schemas import Filters, MisrouteReport, Period, Selection, TicketsBehind

DEPARTMENTS = ["systems", "network", "domains", "hosting"]
WEEKS = ["2026-W43", "2026-W44", "2026-W45", "2026-W46"]


def share(count: int, of: int) -> dict[str, Any]:
    """As a report has it; the interval is roughly one."""
    part = count / of if of else None
    return {"count": count, "of": of, "share": part, "interval": None if part is None else (0.8 * part, min(1.0, 1.2 * part + 0.01))}


def incidents(real: int, recognised: int) -> dict[str, Any]:
    found = share(recognised, real)
    return {"real": real, "recognised": recognised, "recall": found["share"], "interval": found["interval"], "held_back": min(1, real - recognised)}


def group(value: str, tickets: int) -> dict[str, Any]:
    judged = tickets - tickets // 10
    return {
        "value": value, "tickets": tickets, "judged": judged, "moves": tickets // 8, "auto": tickets // 2, "suggest": tickets // 4,
        "review": tickets - tickets // 2 - tickets // 4, "misrouted": {"department": share(judged // 9, judged), "kind": share(judged // 20, judged)},
        "incidents": incidents(judged // 5, judged // 6),
    }  # fmt: skip


def durations(*facets: tuple[str, str]) -> dict[str, Any]:
    by: dict[str, list[dict[str, Any]]] = {}
    for place, (facet, value) in enumerate(facets):
        by.setdefault(facet, []).append({"value": value, "count": 10 + place, "median": 31.0 + place, "p90": 400.0, "sum": 7000.0})
    return {"count": 211, "median": 37.0, "p90": 1234.0, "sum": 98_765.0, "by": by}


def report(*, tier: str = "premium", version: str = "2026-10-19T08-00-00Z-1a2b", simulated: bool = False) -> MisrouteReport:
    """A report whose every part has something to show."""
    facets = [("kind", "incident"), ("kind", "advisory"), ("customer_tier", tier), ("language", "fr"), ("language", "ar"), ("country", "PT")]
    bands = [
        {"low": 0.5, "high": 0.8, "confidence": 0.7, "right": share(27, 40), "kept": True},
        {"low": 0.8, "high": 0.95, "confidence": 0.9, "right": share(60, 90), "kept": False},
        {"low": 0.95, "high": 1.0001, "confidence": 0.99, "right": share(990, 1000), "kept": True},
        {"low": 0.0, "high": 0.5, "confidence": None, "right": share(0, 0), "kept": None},
    ]
    mix = [
        {"week": week, "tickets": 400 + place, "languages": {"fr": 0.5, "en": 0.3 - place / 50, "pl": 0.2 + place / 50}, "kinds": {"incident": 0.2, "advisory": 0.8},
         "departments": {"hosting": 0.4, "domains": 0.6}, "confidence": 0.9, "unfamiliar": 0.03 + place / 100, "review": 0.1, "overridden": None if not place else 0.05}
        for place, week in enumerate(WEEKS)
    ]  # fmt: skip
    return MisrouteReport.model_validate({
        "period": {"from": date(2026, 10, 19), "to": date(2026, 11, 16)}, "filters": {}, "simulated": simulated, "tickets": 1723, "judged": 1547,
        "moves": 331, "misrouted": {"department": share(213, 1547), "kind": share(87, 1547)}, "incidents": incidents(307, 281),
        "filed_as_incident": {"count": 1009, "advisory": 803, "caught": 701, "share_advisory": 803 / 1009, "share_caught": 701 / 803},
        "courses": {"straight": 1301, "overruled": 107, "moved": 97, "bounced": 42}, "moves_of_tickets": {"0": 1299, "1": 179, "2": 51, "3+": 18},
        "minutes": {"to_right_team": durations(*facets), "to_answer": durations(*facets), "misplaced": durations(*facets[:3])},
        "matrix": {"department": {"labels": DEPARTMENTS, "decided_by_final": [[311, 7, 0, 13], [5, 289, 0, 0], [0, 0, 401, 61], [17, 2, 83, 358]]},
                   "kind": {"labels": ["incident", "advisory"], "decided_by_final": [[281, 61], [26, 1179]]}},
        "pairs": [{"decided": "hosting", "final": "domains", "tickets": 83, "hours": 612.5, "median_hours": 5.5, "moves": 91},
                  {"decided": "domains", "final": "hosting", "tickets": 61, "hours": 433.0, "median_hours": None, "moves": 71}],
        "confidence": {target: {"bands": bands, "auto": {"promised": 0.97, "right": share(771, 801), "kept": True}} for target in ("department", "kind")},
        "by": {"language": [group("fr", 900), group("ar", 101)], "week": [group(week, 400 + place) for place, week in enumerate(WEEKS)],
               "model_version": [group(version, 800), group("2026-11-02T08-00-00Z-3c4d", 923)], "department": [group(name, 400) for name in DEPARTMENTS],
               "kind": [group("incident", 307), group("advisory", 1240)], "channel": [group("web", 1500), group("(not given)", 223)],
               "customer_tier": [group(tier, 200), group("(not given)", 1523)], "country": [group("PT", 1000), group("(others)", 723)],
               "action": [group("auto", 967), group("suggest", 433), group("review", 323)]},
        "versions": [{"version": version, "first": date(2026, 10, 19), "last": date(2026, 11, 1), "tickets": 800},
                     {"version": "2026-11-02T08-00-00Z-3c4d", "first": date(2026, 11, 2), "last": date(2026, 11, 15), "tickets": 923}],
        "compared": {"since": date(2026, 9, 21), "until": date(2026, 10, 19), "looked_at": 57,
                     "worse": [{"figure": "misrouted.department", "by": "language", "value": "ar", "before": share(5, 99), "now": share(29, 101), "p": 0.0004},
                               {"figure": "incidents.recall", "by": "customer_tier", "value": tier, "before": share(97, 99), "now": share(61, 77), "p": 0.021}]},
        "causes": [{"cause": "acted_unsure", "tickets": 119, "share": 0.5, "meaning": "Its confidence was under the threshold, and it was acted on."},
                   {"cause": "sure_and_wrong", "tickets": 94, "share": 0.4, "meaning": "Nothing else explains it."}],
        "drift": {"weeks": mix, "changes": [{"week": "2026-W46", "what": "language", "value": "pl", "was": 0.21, "is_now": 0.26, "p": 0.003}]},
        "definitions": {"misrouted": "A judged ticket whose final label differs from the decided one, whoever acted.", "judged": "It is closed."},
    })  # fmt: skip


def behind(*, subject: str | None = "site hs", tier: str = "premium", ticket_id: str | None = "T-1") -> TicketsBehind:
    """Two tickets: one with all that may be known of it, one with as little as possible."""
    first = {
        "ticket_id": ticket_id, "decision_id": "01KA0000000000000000000001", "created_at": "2026-11-03T08:15:00+00:00", "language": "fr", "customer_tier": tier,
        "model_version": "2026-10-19T08-00-00Z-1a2b", "action": "suggest", "reasons": ["low_confidence_department"], "decided": {"kind": "incident", "department": "hosting"},
        "confidence": {"kind": 0.91, "department": 0.64}, "final": {"kind": "incident", "department": "domains"}, "judged": True, "course": "bounced",
        "moves": 3, "hours_misplaced": 30.5, "cause": "acted_unsure", "reading": f"Decided hosting with 64%, under the threshold; {tier}.", "subject": subject,
        "words": {"kind": [{"text": subject or "hs", "weight": 1.5}], "department": [{"text": "site", "weight": 2.0}, {"text": "dns", "weight": -0.5}]},
    }  # fmt: skip
    second = dict.fromkeys(first) | {
        "decision_id": "01KA0000000000000000000002", "created_at": "2026-11-04T08:15:00+00:00", "language": "und", "model_version": "m", "action": "review",
        "reasons": [], "decided": {"kind": None, "department": None}, "confidence": {"kind": None, "department": None},
        "final": {"kind": None, "department": None}, "judged": False, "moves": 0,
    }  # fmt: skip
    return TicketsBehind.model_validate({"matching": 83, "shown": [first, second], "definitions": {"judged": "It is closed."}})


class Reports:
    """In the place of the service's own; `asked` is what it was asked, in order."""

    def __init__(self, made: MisrouteReport, found: TicketsBehind) -> None:
        self.made, self.found = made, found
        self.asked: list[tuple[Any, ...]] = []

    async def report(self, period: Period, filters: Filters) -> MisrouteReport:
        self.asked.append((period, filters))
        return self.made

    async def report_json(self, period: Period, filters: Filters) -> bytes:
        return (await self.report(period, filters)).model_dump_json().encode()

    async def stop(self) -> None:
        """Nothing runs."""

    async def tickets(self, period: Period, filters: Filters, selection: Selection) -> TicketsBehind:
        self.asked.append((period, filters, selection))
        return self.found


def empty() -> MisrouteReport:
    """A report of a period in which nothing came in."""
    full = report().model_dump(by_alias=True)
    nothing = {"count": 0, "of": 0, "share": None, "interval": None}
    duration: dict[str, Any] = {"count": 0, "median": None, "p90": None, "sum": 0.0, "by": {}}
    return MisrouteReport.model_validate(full | {
        "tickets": 0, "judged": 0, "moves": 0, "misrouted": {"department": nothing, "kind": nothing}, "incidents": incidents(0, 0) | {"held_back": 0},
        "filed_as_incident": {"count": 0, "advisory": 0, "caught": 0, "share_advisory": None, "share_caught": None}, "courses": {}, "moves_of_tickets": {},
        "minutes": {"to_right_team": duration, "to_answer": duration, "misplaced": duration}, "matrix": {}, "pairs": [], "confidence": {},
        "by": {facet: [] for facet in full["by"]}, "versions": [], "compared": full["compared"] | {"looked_at": 0, "worse": []}, "causes": [],
        "drift": {"weeks": [], "changes": []},
    })  # fmt: skip
