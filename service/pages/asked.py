"""What a page about misroutes is asked by its address, and the addresses that ask further: each is a plain GET that can be kept and sent."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from service.errors import from_validation
from service.reports.api import ReportQuery, TicketsQuery
from service.reports.schemas import EARLIEST, LATEST, OTHERS, Filters, Period, Selection, Worse

_TARGETS = ("kind", "department")
# What a lead looks at where a figure got worse: of the incidents those that were not recognised.
_WORSE: dict[str, dict[str, Any]] = {
    "misrouted.department": {"misrouted": "department"},
    "misrouted.kind": {"misrouted": "kind"},
    "incidents.recall": {"target": "kind", "final": "incident", "misrouted": "kind"},
    "review": {"action": "review", "judged": True},
}
_DEFAULTS = Selection().model_dump()


@dataclass(frozen=True)
class Asked:
    """A period, filters and, where a list is asked for, what the list selects of them."""

    period: Period
    filters: Filters
    selection: Selection

    @property
    def days(self) -> int:
        return (self.period.until - self.period.since).days

    @property
    def filtered(self) -> dict[str, str]:
        """The filters that are set."""
        return self.filters.model_dump(exclude_none=True)

    @property
    def selected(self) -> dict[str, Any]:
        """What is selected besides the default."""
        return {name: value for name, value in self.selection.model_dump().items() if value != _DEFAULTS[name]}

    def of(self, since: date, until: date) -> "Asked":
        """The same of another period."""
        return replace(self, period=Period(since=since, until=until))

    def page(self) -> str:
        """Where the report stands."""
        return f"/app/misroutes?{self._query({})}"

    def table(self) -> str:
        """Where it stands as CSV."""
        return f"/reports/misroutes.csv?{self._query({})}"

    def data(self) -> str:
        """Where it stands as JSON."""
        return f"/reports/misroutes?{self._query({})}"

    def tickets(self, **conditions: Any) -> str:
        """Where the tickets behind a number stand: `conditions` are filters and selections on top of the report's own filters."""
        return f"/app/misroutes/tickets?{self._query(conditions)}"

    def of_value(self, facet: str, value: str, **conditions: Any) -> str | None:
        """Where the tickets of one value of a facet stand; the rarer values, told together, have no such place."""
        # The report splits by the labels of the end, while these filters take the decided ones too.
        of: dict[str, Any] = {"target": facet, "final": value} if facet in _TARGETS else {facet: value}
        return None if value == OTHERS else self.tickets(**of, **conditions)

    def behind(self, worse: Worse) -> str:
        """Where the tickets of a figure that got worse stand. Labels are the decided ones there."""
        counted = _WORSE.get(worse.figure, {"judged": True})
        if worse.by not in _TARGETS:
            return self.tickets(**{worse.by: worse.value} if worse.by in Filters.model_fields else {}, **counted)
        if counted.get("target", worse.by) == worse.by and counted.get("misrouted", worse.by) == worse.by:
            return self.tickets(**counted | {"target": worse.by, "decided": worse.value})
        return self.tickets(**{worse.by: worse.value}, **counted)  # one list cannot say what was decided of two targets

    def without_filters(self) -> str:
        """Where the report of the whole period stands."""
        return replace(self, filters=Filters()).page()

    def again(self, **changed: Any) -> str:
        """The same list, but for what is `changed`."""
        return self.tickets(**{**self.selected, **changed})

    def list_table(self) -> str:
        """Where the list stands as CSV."""
        return f"/reports/misroutes/tickets.csv?{self._query(self.selected)}"

    def story(self, ticket_id: str) -> str:
        """Where one ticket's story stands. An id may hold anything, so all of it is quoted."""
        return f"/app/tickets/{quote(ticket_id, safe='')}?{self._query({})}"

    def fields(self, without: Iterable[str] = ()) -> list[tuple[str, str]]:
        """What a form sends along so that it asks the same, but for what its own fields ask."""
        return [(name, value) for name, value in self._pairs(self.selected) if name not in without]

    def _query(self, conditions: dict[str, Any]) -> str:
        return urlencode(self._pairs(conditions))

    def _pairs(self, conditions: dict[str, Any]) -> list[tuple[str, str]]:
        asked = {"from": self.period.since, "to": self.period.until, **self.filtered, **conditions}
        return [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in asked.items() if value is not None]


def parse(query: Iterable[tuple[str, str]], *, selects: bool) -> Asked:
    """What the parameters of an address ask, as those of the report's own do; empty ones, which a form sends too, ask nothing. Raises
    InvalidField. `selects`: whether a selection may be asked for."""
    given = {name: value for name, value in query if value.strip()}
    try:
        sent = (TicketsQuery if selects else ReportQuery).model_validate(given)
    except ValidationError as error:
        raise from_validation(error) from None
    return Asked(sent.period(), sent.filters(), sent.selection() if isinstance(sent, TicketsQuery) else Selection())


@dataclass(frozen=True)
class PeriodLink:
    """A period to go to; `here` where it is the one that is shown."""

    name: str
    address: str
    here: bool


def periods(asked: Asked, today: date) -> list[PeriodLink]:
    """Those that a lead asks for again and again, up to today."""
    tomorrow, this_monday = today + timedelta(days=1), today - timedelta(days=today.weekday())
    known = {
        "Last week": (this_monday - timedelta(days=7), this_monday),
        "28 days": (tomorrow - timedelta(days=28), tomorrow),
        "Quarter": (tomorrow - timedelta(days=91), tomorrow),
        "Year": (tomorrow - timedelta(days=364), tomorrow),
    }
    shown = asked.period.since, asked.period.until
    return [PeriodLink(name, asked.of(*period).page(), period == shown) for name, period in known.items()]


def beside(asked: Asked) -> tuple[str | None, str | None]:
    """The period of the same length before, and the one after."""
    length = timedelta(days=asked.days)
    since, until = asked.period.since, asked.period.until
    before = asked.of(since - length, since).page() if since - length >= EARLIEST else None
    after = asked.of(until, until + length).page() if until + length <= LATEST else None
    return before, after
