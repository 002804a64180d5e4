"""What became of a ticket: its events, put in order, read as a story.

Events are ordered by (`at`, `event_id`) however they arrived, so the same events give the same story. A *stay* is the time that
a department holds the ticket; a stay is *wrong* where it is not in the department that the ticket ends in and came before that.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

By = Literal["person", "rule", "router"]
Kind = Literal["assigned", "moved", "kind_corrected", "answered", "closed"]
Course = Literal["straight", "overruled", "moved", "bounced"]

AT_ONCE = 10 * 60 * 1_000_000  # microseconds that a ticket may lie where the router put it for a person to have overruled that at once


class Event(NamedTuple):
    """One thing that happened; `at` in microseconds since 1970. `to`: a department, or a kind for `kind_corrected`; else None."""

    at: int
    event_id: str
    event: Kind
    to: str | None
    origin: str | None
    by: By
    reason: str | None = None


class Decided(Protocol):
    """What of a decision its story begins with; moments in microseconds."""

    @property
    def decided_at(self) -> int: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def department(self) -> str | None: ...
    @property
    def action(self) -> str: ...


class Story(NamedTuple):
    """The columns of `service.database.stories` that outcomes change; moments in microseconds.

    `final_kind`, `final_department`: the last labels given, else the decided ones; `kind_by`, `department_by`: who gave them, None where
    nobody did after the decision. `placed_in`, `placed_by`: the first department that held it, and who put it there. `answered_in`: the
    department that held it at its first answer. `moves`: events `moved`. `wrong_at` to `right_at`: from the first wrong stay to
    the last coming of the final department; `wrong_at` is None where no stay was wrong, `right_at` where nobody ever placed it. `closed_at`
    is None while the ticket is open.

    `course`: ``straight``: it ended where the router said and never lay elsewhere; ``overruled``: no team but the right one ever worked
    on it, since a person (or rule) did not follow the router, or took it away within `AT_ONCE`; ``moved``: one wrong stay; ``bounced``: more.
    """

    events: int
    final_kind: str | None
    final_department: str | None
    kind_by: By | None = None
    department_by: By | None = None
    placed_in: str | None = None
    placed_by: By | None = None
    answered_in: str | None = None
    moves: int = 0
    wrong_stays: int = 0
    course: Course | None = None
    wrong_at: int | None = None
    right_at: int | None = None
    answered_at: int | None = None
    closed_at: int | None = None


class _Stay(NamedTuple):
    at: int
    department: str | None
    by: By


def in_order(events: Iterable[Event]) -> list[Event]:
    """As they happened."""
    return sorted(events, key=lambda event: (event.at, event.event_id))


def tell(decided: Decided, events: Iterable[Event]) -> Story:
    """The story that the `events` tell of a decided ticket, in whatever order they come."""
    ordered = in_order(events)
    stays = _stays(decided, ordered)
    final = stays[-1].department if stays else decided.department
    home = _home(stays)
    wrong = _wrong_stays(stays[:home], final)
    kinds = [event for event in ordered if event.event == "kind_corrected"]
    answer = next((event for event in ordered if event.event == "answered"), None)
    return Story(
        events=len(ordered),
        final_kind=kinds[-1].to if kinds else decided.kind,
        final_department=final,
        kind_by=kinds[-1].by if kinds else None,
        department_by=stays[-1].by if stays else None,
        placed_in=stays[0].department if stays else None,
        placed_by=stays[0].by if stays else None,
        answered_in=_holder(stays, answer, decided) if answer else None,
        moves=sum(event.event == "moved" for event in ordered),
        wrong_stays=len(wrong),
        course=_course(decided, stays, wrong, home),
        wrong_at=wrong[0].at if wrong else None,
        right_at=stays[home].at if stays else None,
        answered_at=answer.at if answer else None,
        closed_at=_closed_at(ordered),
    )


def _stays(decided: Decided, ordered: list[Event]) -> list[_Stay]:
    """Which department held it from when on, and by whom."""
    stays: list[_Stay] = []
    for event in ordered:
        if event.event == "moved" and not stays:
            # It lay somewhere before. Where nobody said so, the router put it there; history that was decided later came first all the same.
            stays.append(_Stay(min(decided.decided_at, event.at), event.origin or decided.department, "router"))
        if event.event in ("assigned", "moved"):
            stays.append(_Stay(event.at, event.to, event.by))
    if not stays and decided.action == "auto" and decided.department is not None:
        stays.append(_Stay(decided.decided_at, decided.department, "router"))
    return stays


def _home(stays: list[_Stay]) -> int:
    """The place of the stay with which it came home for good."""
    home = max(len(stays) - 1, 0)
    while home and stays[home - 1].department == stays[-1].department:
        home -= 1
    return home


def _wrong_stays(before: list[_Stay], final: str | None) -> list[_Stay]:
    """Of the stays `before` it came home those elsewhere, each once however often it was assigned there again."""
    return [stay for i, stay in enumerate(before) if stay.department != final and (not i or stay.department != before[i - 1].department)]


def _course(decided: Decided, stays: list[_Stay], wrong: list[_Stay], home: int) -> Course:
    if not wrong:
        return "overruled" if stays and stays[home].department != decided.department else "straight"
    if len(wrong) > 1:
        return "bounced"
    # One wrong stay. Where the router put it there and somebody took it home at once, no team had begun to work on it.
    first = wrong[0]
    by_router = stays[0] == first and first.by == "router" and first.department == decided.department
    at_once = stays[home].by != "router" and stays[home].at - first.at <= AT_ONCE
    return "overruled" if by_router and at_once else "moved"


def _holder(stays: list[_Stay], answer: Event, decided: Decided) -> str | None:
    return next((stay.department for stay in reversed(stays) if stay.at <= answer.at), decided.department)


def _closed_at(ordered: list[Event]) -> int | None:
    closed = None
    for event in ordered:
        if event.event == "closed":
            closed = event.at
        elif event.event != "answered":
            closed = None  # it was opened again
    return closed
