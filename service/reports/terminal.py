"""The misroute report on a terminal: the headline figures, what loses most, why, and what got worse."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.reports.schemas import Duration, MisrouteReport, Share

_WIDTH = 120  # where it is not a terminal that is written to
_MOST_PAIRS = 8
_MOST_WORSE = 12
_CAUSES = {
    "rule": "a rule put it elsewhere", "overruled_later": "a person was overruled later", "chain": "several teams worked on it",
    "label_noise": "people disagree on this text", "unfamiliar": "a new kind of ticket", "acted_unsure": "the router was not sure",
    "sure_and_wrong": "the router was sure, and wrong",
}  # fmt: skip
_FIGURES = {
    "misrouted.department": "wrong department", "misrouted.kind": "wrong kind", "incidents.recall": "incidents recognised", "review": "left to a person"
}  # fmt: skip


def show(report: MisrouteReport, *, terminal: bool) -> None:
    """Print it to standard output."""
    console = Console(width=None if terminal else _WIDTH, highlight=False)
    since, until = report.period["from"], report.period["to"]
    of = ", ".join(f"{name} {value}" for name, value in report.filters.items())
    console.print(Text(f"Misroutes from {since} to before {until}{f', {of}' if of else ''}", "bold"))
    if report.simulated:
        console.print(Text("Simulated traffic: made by pointsman demo.", "bold"))
    if not report.tickets:
        console.print("No ticket was created in these days; --from, --to and --last choose others.")
        return
    console.print(Text(f"{report.tickets:,} tickets, {report.judged:,} of them judged (closed); moved {report.moves:,} times"))
    _headline(console, report)
    if report.pairs:
        pairs = [[f"{p.decided} -> {p.final}", f"{p.tickets:,}", f"{p.hours:,.1f}", _number(p.median_hours), f"{p.moves:,}"] for p in report.pairs]
        _table(console, "What loses most", ["decided -> in the end", "tickets", "hours in wrong teams", "median", "moves"], pairs[:_MOST_PAIRS])
        _more(console, len(pairs) - _MOST_PAIRS)
    causes = [[_CAUSES[cause.cause], f"{cause.tickets:,}", _percent(cause.share)] for cause in report.causes if cause.tickets]
    if causes:
        _table(console, "Likely causes of the misroutes", ["cause", "tickets", "share"], causes)
    _worse(console, report)
    if report.drift.changes:
        changes = [[c.week, c.what, c.value, _percent(c.was), _percent(c.is_now)] for c in report.drift.changes]
        _table(console, "Weeks unlike the four before them", ["week", "what", "value", "was", "is"], changes[:_MOST_WORSE])
        _more(console, len(changes) - _MOST_WORSE)


def _headline(console: Console, report: MisrouteReport) -> None:
    recall = Share(count=report.incidents.recognised, of=report.incidents.real, share=report.incidents.recall, interval=report.incidents.interval)
    rows = [["wrong department", *_share(report.misrouted["department"])], ["wrong kind", *_share(report.misrouted["kind"])]]
    rows += [["real incidents recognised", *_share(recall)]]
    for target, confidence in report.confidence.items():
        promised = "" if confidence.auto.promised is None else f" ({confidence.auto.promised:.0%} promised)"
        rows.append([f"routed without a person, {target} right{promised}", *_share(confidence.auto.right)])
    filed = report.filed_as_incident
    rows.append(["filed as incident, but advice", f"{filed.advisory:,} of {filed.count:,}", _percent(filed.share_advisory), ""])
    rows.append(["    of these caught at intake", f"{filed.caught:,} of {filed.advisory:,}", _percent(filed.share_caught), ""])
    _table(console, "", ["of judged tickets", "", "share", "95% interval"], rows)
    times = [
        ["to the right team", report.minutes.to_right_team],
        ["to the first answer", report.minutes.to_answer],
        ["in wrong teams", report.minutes.misplaced],
    ]
    _table(console, "", ["time", "tickets", "median", "p90"], [[str(name), *_duration(spent)] for name, spent in times])  # type: ignore[arg-type]


def _worse(console: Console, report: MisrouteReport) -> None:
    compared = report.compared
    against = f"than from {compared.since} to before {compared.until}, of {compared.looked_at} figures looked at"
    if not compared.worse:
        console.print(Text(f"\nNothing is worse beyond chance {against}."))
        return
    rows = [[_FIGURES.get(w.figure, w.figure), w.by, w.value, _percent(w.before.share), _percent(w.now.share), f"{w.p:.2g}"] for w in compared.worse]
    _table(console, f"Worse {against}", ["figure", "by", "value", "before", "now", "p, corrected"], rows[:_MOST_WORSE])
    _more(console, len(rows) - _MOST_WORSE)


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=Text(title, "bold") if title else None, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if not place or name in ("by", "value", "what") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(value)) for value in row))  # as text: labels may look like markup
    console.print()
    console.print(table)


def _more(console: Console, rest: int) -> None:
    if rest > 0:
        console.print(Text(f"... and {rest} more; --json and --csv have them all"))


def _share(found: Share) -> list[str]:
    interval = "-" if found.interval is None else f"{found.interval[0]:.1%} to {found.interval[1]:.1%}"
    return [f"{found.count:,} of {found.of:,}", _percent(found.share), interval]


def _duration(spent: Duration) -> list[str]:
    return [f"{spent.count:,}", *("-" if m is None else _minutes(m) for m in (spent.median, spent.p90))]


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h" if minutes < 72 * 60 else f"{minutes / 1440:.1f} days"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _printable(value: Any) -> str:
    """A label that would steer the terminal does not."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(value))
