"""How pages are made: templates that escape everything, and figures written for people."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).resolve().parent
NOTHING = "–"


class Page(Protocol):
    """What every page says at its head."""

    @property
    def docs(self) -> bool: ...


def show(template: str, context: Page) -> HTMLResponse:
    """The page that `template` makes of `context`, a dataclass."""
    return HTMLResponse(_templates.get_template(template).render(vars(context)))


def number(count: float) -> str:
    """``12,345``; one place after the point where it is a small one."""
    return f"{count:,.0f}" if count == int(count) or abs(count) >= 100 else f"{count:,.1f}"


def percent(share: float | None) -> str:
    """``12.3%``; a dash where there is nothing to take a share of. Only what is wholly so is 0% or 100%."""
    if share is None:
        return NOTHING
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%"


def between(interval: tuple[float, float] | None) -> str:
    """``10.1 to 14.9%``."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}%" if interval else NOTHING


def span(minutes: float | None) -> str:
    """``45 min``, ``7.5 h``, ``3.1 days``."""
    if minutes is None:
        return NOTHING
    if minutes < 1:
        return "under 1 min" if minutes > 0 else "0 min"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:,.1f} days"


def day(moment: date) -> str:
    """``3 Nov 2026``."""
    return f"{moment.day} {moment:%b %Y}"


def moment(at: datetime) -> str:
    """``Tue 3 Nov 2026, 14:05:09``."""
    return f"{at:%a} {day(at)}, {at:%H:%M:%S}"


def monday(week: str) -> date:
    """The first day of ``2026-W45``."""
    year, number_ = week.split("-W")
    return date.fromisocalendar(int(year), int(number_), 1)


def week_of(week: str) -> str:
    """``2026-W45`` as the day it begins: ``2 Nov``."""
    first = monday(week)
    return f"{first.day} {first:%b}"


def chance(p: float) -> str:
    """``0.012``; nothing is said of ten thousandths."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True)
class Bar:
    """A stretch of a bar that is 100 wide."""

    x: float
    width: float
    name: str


def stretches(parts: list[tuple[str, int]]) -> list[Bar]:
    """The parts of a whole, one after the other."""
    total, x, found = sum(count for _, count in parts), 0.0, []
    for name, count in parts:
        width = 100 * count / total if total else 0.0
        found.append(Bar(round(x, 2), round(width, 2), name))
        x += width
    return found


def after(seconds: float) -> str:
    """How long after the event before: ``at the same moment``, ``12 min later``."""
    if seconds <= 0:
        return "at the same moment"
    return f"{span(seconds / 60)} later" if seconds >= 60 else f"{max(1, round(seconds))} s later"


def ends(until: date) -> date:
    """The last day that counts before the day that does not."""
    return until - timedelta(days=1)


_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_filters: list[Any] = [number, percent, between, span, day, moment, week_of, chance, stretches, after, ends]
_templates.filters.update({function.__name__: function for function in _filters})
