"""Reports as CSV: one row a figure, for a spreadsheet. What customers wrote does not become a formula there."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from model.spreadsheet import safe
from service.reports.schemas import Durations, Incidents, MisrouteReport, Share, TicketsBehind

COLUMNS = ("section", "figure", "by", "value", "other", "count", "of", "share", "low", "high", "number", "p")
TICKET_COLUMNS = (
    "ticket_id", "decision_id", "created_at", "language", "customer_tier", "model_version", "action", "reasons", "decided_department",
    "department_confidence", "final_department", "decided_kind", "kind_confidence", "final_kind", "judged", "course", "moves", "hours_misplaced",
    "cause", "reading", "subject", "department_words", "kind_words",
)  # fmt: skip

Row = dict[str, Any]


def report_sheet(report: MisrouteReport) -> bytes:
    """`value` is of the facet `by`; `other` is what it is set against: of a matrix and a pair the final label."""
    return _sheet(COLUMNS, _rows(report))


def tickets_sheet(tickets: TicketsBehind) -> bytes:
    """One row a ticket."""
    return _sheet(TICKET_COLUMNS, _ticket_rows(tickets))


def cell(value: Any) -> Any:
    """What a spreadsheet would take for a formula begins with an apostrophe; numbers stay numbers."""
    return safe(value) if isinstance(value, str) else value


def _sheet(columns: tuple[str, ...], rows: Iterable[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue().encode("utf-8", "replace")


def _rows(report: MisrouteReport) -> Iterator[Row]:
    for name, value in [*report.period.items(), *report.filters.items()]:
        yield {"section": "asked", "figure": name, "value": str(value)}
    for name in ("tickets", "judged", "moves"):
        yield {"section": "tickets", "figure": name, "count": getattr(report, name)}
    yield from _main(report.misrouted, report.incidents)
    filed = report.filed_as_incident
    yield {"section": "filed_as_incident", "figure": "count", "count": filed.count, "of": report.judged}
    yield {"section": "filed_as_incident", "figure": "advisory", "count": filed.advisory, "of": filed.count, "share": filed.share_advisory}
    yield {"section": "filed_as_incident", "figure": "caught", "count": filed.caught, "of": filed.advisory, "share": filed.share_caught}
    for section, counts in (("courses", report.courses), ("moves_of_tickets", report.moves_of_tickets)):
        for name, count in counts.items():
            yield {"section": section, "figure": name, "count": count, "of": report.judged}
    for name, durations in report.minutes:
        yield from _durations(name, durations)
    for target, matrix in report.matrix.items():
        for decided, row in zip(matrix.labels, matrix.decided_by_final, strict=True):
            for final, count in zip(matrix.labels, row, strict=True):
                yield {"section": "matrix", "figure": "tickets", "by": target, "value": decided, "other": final, "count": count}
    for pair in report.pairs:
        named = {"section": "pairs", "by": "department", "value": pair.decided, "other": pair.final, "count": pair.tickets}
        for figure in ("hours", "median_hours", "moves"):
            yield named | {"figure": figure, "number": getattr(pair, figure)}
    yield from _confidence(report)
    for facet, groups in report.by:
        for group in groups:
            of = {"by": facet, "value": group.value}
            for name in ("tickets", "judged", "moves", "auto", "suggest", "review"):
                yield {"section": "by", "figure": name, "count": getattr(group, name)} | of
            yield from (row | {"section": "by"} | of for row in _main(group.misrouted, group.incidents))
    for cause in report.causes:
        yield {"section": "causes", "figure": cause.cause, "count": cause.tickets, "share": cause.share}
    for worse in report.compared.worse:
        for when, found in (("before", worse.before), ("now", worse.now)):
            named = {"section": "worse", "figure": worse.figure, "by": worse.by, "value": worse.value, "other": when, "p": worse.p}
            yield named | _share(found)
    yield from _drift(report)


def _main(misrouted: dict[str, Share], incidents: Incidents) -> Iterator[Row]:
    for target, found in misrouted.items():
        yield {"section": "misrouted", "figure": f"misrouted.{target}"} | _share(found)
    recall = Share(count=incidents.recognised, of=incidents.real, share=incidents.recall, interval=incidents.interval)
    yield {"section": "incidents", "figure": "incidents.recognised"} | _share(recall)
    yield {"section": "incidents", "figure": "incidents.held_back", "count": incidents.held_back, "of": incidents.real}


def _share(found: Share) -> Row:
    low, high = found.interval or (None, None)
    return {"count": found.count, "of": found.of, "share": found.share, "low": low, "high": high}


def _durations(name: str, durations: Durations) -> Iterator[Row]:
    groups = [("", "", durations)] + [(facet, own.value, own) for facet, values in durations.by.items() for own in values]
    for by, value, own in groups:
        for figure in ("median", "p90", "sum"):
            yield {"section": f"minutes.{name}", "figure": figure, "by": by, "value": value, "count": own.count, "number": getattr(own, figure)}


def _confidence(report: MisrouteReport) -> Iterator[Row]:
    for target, confidence in report.confidence.items():
        for band in confidence.bands:
            named = {"section": "confidence", "figure": "right", "by": target, "value": f"{band.low:g} to {band.high:g}", "number": band.confidence}
            yield named | _share(band.right)
        yield {"section": "confidence", "figure": "auto", "by": target, "number": confidence.auto.promised} | _share(confidence.auto.right)


def _drift(report: MisrouteReport) -> Iterator[Row]:
    for week in report.drift.weeks:
        named = {"section": "drift", "by": "week", "value": week.week, "count": week.tickets}
        for figure in ("confidence", "unfamiliar", "review", "overridden"):
            yield named | {"figure": figure, "number": getattr(week, figure)}
        for figure in ("languages", "kinds", "departments"):
            yield from (named | {"figure": figure, "other": name, "share": share} for name, share in getattr(week, figure).items())
    for change in report.drift.changes:
        named = {"section": "drift.changes", "figure": change.what, "by": "week", "value": change.week, "other": change.value, "p": change.p}
        yield from (
            named | {"figure": f"{change.what}.{when}", "number": number} for when, number in (("was", change.was), ("is_now", change.is_now))
        )


def _ticket_rows(tickets: TicketsBehind) -> Iterator[Row]:
    for ticket in tickets.shown:
        row = ticket.model_dump(include=set(TICKET_COLUMNS)) | {"reasons": " ".join(ticket.reasons)}
        for target in ("department", "kind"):
            row |= {f"decided_{target}": ticket.decided[target], f"final_{target}": ticket.final[target]}
            row |= {
                f"{target}_confidence": ticket.confidence[target],
                f"{target}_words": "; ".join(w.text for w in (ticket.words or {}).get(target, [])),
            }
        yield row
