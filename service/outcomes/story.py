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
    """What of a decision its story begins with; moments in microseconds. `created_at`: the ticket's own, else `decided_at`."""

    @property
    def decided_at(self) -> int: ...
    @property
    def created_at(self) -> int: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def department(self) -> str | None: ...
    @property
    def action(self) -> str: ...


class Verdict(NamedTuple):
    """A `Decided` by itself."""

    decided_at: int
    created_at: int
    kind: str | None
    department: str | None
    action: str


UNDECIDED = Verdict(0, 0, None, None, "review")  # in the place of a decision that has not come yet: the events alone tell the story


class Story(NamedTuple):
    """The columns of `service.database.stories` that outcomes change; moments in microseconds.

    `final_kind`, `final_department`: the last labels given, else the decided ones; `kind_by`, `department_by`: who gave them, None where
    nobody told. `placed_in`, `placed_by`: the first department that held it, and who put it there. `answered_in`: the
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


class Misrouted(NamedTuple):
    """Of a judged ticket: whether its final label differs from the decided one; None for a target that was not decided."""

    kind: bool | None
    department: bool | None


class _Stay(NamedTuple):
    at: int
    department: str | None
    by: By | None  # None where nobody told
    place: int  # of its event among the ordered ones; -1 where no event tells of it


def in_order(events: Iterable[Event]) -> list[Event]:
    """As they happened."""
    return sorted(events, key=lambda event: (event.at, event.event_id))


def tell(decided: Decided, events: Iterable[Event]) -> Story:
    """The story that the `events` tell of a ticket, in whatever order they come."""
    ordered = in_order(events)
    stays = _stays(decided, ordered)
    final = stays[-1].department if stays else decided.department
    home = _home(stays)
    wrong = _wrong_stays(stays[:home], final)
    kinds = [event for event in ordered if event.event == "kind_corrected"]
    answer = next((place for place, event in enumerate(ordered) if event.event == "answered"), None)
    return Story(
        events=len(ordered),
        final_kind=kinds[-1].to if kinds else decided.kind,
        final_department=final,
        kind_by=kinds[-1].by if kinds else None,
        department_by=stays[-1].by if stays else None,
        placed_in=stays[0].department if stays else None,
        placed_by=stays[0].by if stays else None,
        answered_in=_holder(stays, ordered, answer) if answer is not None else None,
        moves=sum(event.event == "moved" for event in ordered),
        wrong_stays=len(wrong),
        course=_course(decided, stays, wrong, home),
        wrong_at=wrong[0].at if wrong else None,
        right_at=stays[home].at if stays else None,
        answered_at=ordered[answer].at if answer is not None else None,
        closed_at=_closed_at(ordered),
    )


def judge(decided: Decided, story: Story) -> Misrouted | None:
    """What the router got wrong, whoever acted; None while the ticket is not closed."""
    if story.closed_at is None:
        return None
    return Misrouted(
        None if decided.kind is None else story.final_kind != decided.kind,
        None if decided.department is None else story.final_department != decided.department,
    )


def _stays(decided: Decided, ordered: list[Event]) -> list[_Stay]:
    """Which department held it from when on, and by whom."""
    stays = _first(decided, ordered)
    for place, event in enumerate(ordered):
        if event.event not in ("assigned", "moved"):
            continue
        if event.event == "moved" and event.origin not in (None, event.to, stays[-1].department if stays else None):
            stays.append(_Stay(event.at, event.origin, None, place))  # it was there by then, though nobody told since when
        stays.append(_Stay(event.at, event.to, event.by, place))
    return stays


def _first(decided: Decided, ordered: list[Event]) -> list[_Stay]:
    """The stay that no event tells of: where it lay before it was first placed; none where nothing says so."""
    placing = next((event for event in ordered if event.event in ("assigned", "moved")), None)
    first = placing or (ordered[0] if ordered else None)
    since, in_time = decided.decided_at, first is None or decided.decided_at <= first.at
    if first and not in_time:  # history that was decided later: the decision counts as made when the ticket came
        since = min(decided.created_at, first.at)
    routed = [_Stay(since, decided.department, "router", -1)] if decided.department is not None else []
    auto = decided.action == "auto"
    if placing is None:
        return routed if auto else []
    if placing.event == "assigned":
        # Who assigns it soon after the decision places it first. Later, it lay where the router had put it.
        return routed if auto and placing.at - decided.decided_at > AT_ONCE else []
    # It was moved, so it lay somewhere. Where nobody says so, that is where the router put it, or said that it belongs.
    if placing.origin in (None, placing.to, decided.department) or (auto and in_time):
        return routed
    return [_Stay(since if routed else placing.at, placing.origin, None, -1)]


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
        return "overruled" if stays and decided.department not in (None, stays[home].department) else "straight"
    if len(wrong) > 1:
        return "bounced"
    # One wrong stay. Where the router put it there and somebody took it home at once, no team had begun to work on it.
    first = wrong[0]
    by_router = stays[0] == first and first.by == "router" and first.department == decided.department
    at_once = stays[home].by != "router" and stays[home].at - first.at <= AT_ONCE
    return "overruled" if by_router and at_once else "moved"


def _holder(stays: list[_Stay], ordered: list[Event], place: int) -> str | None:
    """Which department held it at the event in that place, None where nothing says so."""
    at = ordered[place].at
    before = [stay for stay in stays if stay.place < place and stay.at <= at]
    # Clocks of seconds: what placed it first may have the moment of the answer, and an id that comes after.
    held = before[-1:] or [stay for stay in stays if stay.at == at]
    return held[0].department if held else None


def _closed_at(ordered: list[Event]) -> int | None:
    closed = None
    for event in ordered:
        if event.event == "closed":
            closed = event.at
        elif event.event != "answered":
            closed = None  # it was opened again
    return closed
