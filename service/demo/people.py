"""What people do with a simulated ticket, and the truth of it: what its story must come to, and why it went where it went.

Not all that is done is told: some answers, some rules and some placings leave no event, as it is in any help desk.
"""

from random import Random
from typing import NamedTuple

from service.demo.customers import DAY, HOUR, Written
from service.demo.router import DEPARTMENTS, ELSEWHERE, ELSEWHERE_REPEATED, LEAST, OTHER_KIND, SECOND, Said, other_kind
from service.outcomes.story import By, Course, Event, Kind
from service.reports.schemas import Cause

_MINUTE = 60
_UNTOLD = 0.06  # of the tickets: nobody tells of anything
_RULE_UNLOGGED, _ANSWER_UNTOLD, _PLACING_UNTOLD, _UNCORRECTED = 0.15, 0.12, 0.05, 0.05
_ANSWERED_ELSEWHERE = 0.10  # of those that lay in a wrong team: it answered, though the work was not its own
_NEVER_CLOSED, _REOPENED, _STILL_OPEN, _CORRECTED_LATE = 0.02, 0.03, 0.25, 0.05
_CHAINS = {
    "hosting": "systems", "systems": "datacenter", "network": "datacenter", "domains": "hosting", "telephony": "network", "datacenter": "network",
    "backoffice": "domains", "sales": "backoffice",
}  # fmt: skip
_LOAD = {"hosting": 1.3, "backoffice": 1.6, "datacenter": 1.3, "network": 0.8, "telephony": 0.8}
_PATIENCE = {"premium": 0.5, "business": 0.8}
_WHY = ("not ours", "wrong queue", "see the second paragraph of the mail", "needs access that we do not have", "as agreed on the phone")


class Truth(NamedTuple):
    """What is so at the end of the year. `kind`, `department`: the labels that it has then. The rest is None where it is not closed;
    minutes also where there are none, or where nobody told. `cause`: of a misrouted ticket, what the simulation did to it."""

    kind: str
    department: str
    judged: bool
    moves: int
    course: Course | None = None
    misplaced: float | None = None
    to_right_team: float | None = None
    to_answer: float | None = None
    cause: Cause | None = None


class _Path(NamedTuple):
    """The departments that hold it, one after the other. `at_once`: it leaves the first within minutes. `first`, `next`: by whom."""

    departments: tuple[str, ...]
    course: Course
    cause: Cause | None = None
    at_once: bool = False
    first: By = "person"
    next: By = "person"
    works: bool = False  # each of the departments has its part of the work


def live(chance: Random, written: Written, said: Said, end: int) -> tuple[list[Event], Truth]:
    """What happens to the ticket before `end` (in microseconds), as it is told, and the truth."""
    if chance.random() < _UNTOLD:
        return [], Truth(said.kind, said.department, False, 0)
    return _Life(chance, written, said, _path(chance, written, said), end).told()


def _path(chance: Random, written: Written, said: Said) -> _Path:
    auto = said.action == "auto"
    here, home = said.department, written.department
    if here == home:
        if chance.random() < (ELSEWHERE_REPEATED if written.repeated else ELSEWHERE):
            return _elsewhere(chance, written, auto)
        if chance.random() < (0.02 if auto else 0.06):  # a person overrules wrongly, and is overruled
            wrong = _another(chance, here)
            return _Path((here, wrong, here) if auto else (wrong, here), "moved")
        return _Path((here,), "straight")
    drawn, wrong = chance.random(), _another(chance, here, home)
    cause: Cause = "unfamiliar" if written.unlike else "acted_unsure" if said.department_confidence < LEAST["department"] else "sure_and_wrong"
    if auto:
        if drawn < 0.35:
            return _Path((here, home), "overruled", cause, at_once=True)
        if drawn < 0.75:
            return _Path((here, home), "moved", cause)
        if drawn < 0.9:
            further = _another(chance, here, home, wrong)
            return _Path((here, wrong, home) if chance.random() < 0.6 else (here, wrong, further, home), "bounced", cause)
        return _Path((here, wrong, home), "bounced", "overruled_later", at_once=True)
    rightly, follows = (0.55, 0.85) if said.action == "suggest" else (0.75, 0.85)
    if drawn < rightly:
        return _Path((home,), "overruled", cause)
    if drawn < follows:
        return _Path((here, home), "moved", cause) if chance.random() < 0.75 else _Path((here, wrong, home), "bounced", cause)
    return _Path((wrong, home), "moved", "overruled_later")


def _elsewhere(chance: Random, written: Written, auto: bool) -> _Path:
    """The router was right, and it ends elsewhere all the same."""
    here = written.department
    drawn = 0.9 if written.repeated else chance.random()
    if written.kind == "advisory" and drawn < 0.45:
        to = "sales" if here != "sales" else "backoffice"
        by: By = "person" if chance.random() < _RULE_UNLOGGED else "rule"
        if auto and chance.random() < 0.4:
            return _Path((here, to), "overruled", "rule", at_once=True, next=by)
        return _Path((to,), "overruled", "rule", first=by)
    if drawn < 0.8:
        then = _CHAINS[here]
        if chance.random() < 0.15:
            return _Path((here, then, _another(chance, here, then)), "bounced", "chain", works=True)
        return _Path((here, then), "moved", "chain", works=True)
    to = _another(chance, here)
    if not auto:
        return _Path((to,), "overruled", "label_noise")
    at_once = chance.random() < 0.3
    return _Path((here, to), "overruled" if at_once else "moved", "label_noise", at_once=at_once)


def _another(chance: Random, *but: str) -> str:
    return chance.choice([department for department in DEPARTMENTS if department not in but])


class _Life:
    """One ticket, from its decision to the end of the year. Seconds are waited, moments are microseconds."""

    def __init__(self, chance: Random, written: Written, said: Said, path: _Path, end: int) -> None:
        self._chance, self._written, self._said, self._path, self._end = chance, written, said, path, end
        self._now = said.decided_at
        self._events: list[Event] = []
        self._held: list[tuple[int, str]] = []  # from when on, by which department; what was told of it
        self._kind = said.kind
        self._answered_at: int | None = None
        self._closed = False
        self._noise = False  # a kind that was right was changed
        self._pace = (
            _PATIENCE.get(written.customer_tier or "", 1.0) * _LOAD.get(path.departments[-1], 1.0) * (0.3 if written.kind == "incident" else 1)
        )

    def told(self) -> tuple[list[Event], Truth]:
        chance, path = self._chance, self._path
        self._arrive()
        answers_in = 0 if path.works else len(path.departments) - 1
        if len(path.departments) > 1 and not path.works and path.first == "person" and chance.random() < _ANSWERED_ELSEWHERE and not path.at_once:
            answers_in = 0
        for place in range(len(path.departments)):
            if place:
                self._move(place)
            if place == answers_in:
                self._answer()
        late = chance.random() < _CORRECTED_LATE
        if not late:
            self._correct()
        if chance.random() >= _NEVER_CLOSED:
            self._wait(8 * HOUR * self._pace, 1.0)
            self._close()
            if late:
                self._wait(3 * HOUR, 0.5)
                if self._correct():
                    self._wait(HOUR, 0.5)
                    self._close()
            elif chance.random() < _REOPENED:
                self._reopen()
        return self._events, self._truth()

    def _arrive(self) -> None:
        path, said, chance = self._path, self._said, self._chance
        first, auto = path.departments[0], said.action == "auto"
        if auto and first == said.department:
            if chance.random() < 0.6:
                self._wait(2, 0.4)
                self._hold(first, "assigned", "router")
            else:
                self._held.append((self._now, first))  # it lies where the router put it, and nobody says so
        elif auto or path.first == "rule":  # no person is as quick: where one is named, the rule acts under that name
            self._wait(3, 0.4)
            self._hold(first, "assigned", path.first)
        else:
            self._wait((15 if self._written.kind == "incident" else 45) * _MINUTE * self._pace, 0.7)
            if path.course != "straight" or chance.random() >= _PLACING_UNTOLD:
                self._hold(first, "assigned", "person")

    def _move(self, place: int) -> None:
        path, chance = self._path, self._chance
        if place == 1 and path.at_once:
            self._now += chance.randint(40, 9 * _MINUTE) * SECOND
        else:
            self._now += 11 * _MINUTE * SECOND  # longer than what counts as at once
            self._wait((6 if path.works else 2.5) * HOUR * self._pace, 0.9)
        self._hold(path.departments[place], "moved", path.next if place == 1 else "person", path.departments[place - 1])

    def _hold(self, department: str, event: Kind, by: By, origin: str | None = None) -> None:
        said = origin if self._chance.random() < 0.7 else None
        reason = self._chance.choice(_WHY) if event == "moved" and self._chance.random() < 0.3 else None
        if self._say(event, department, by, said, reason):
            self._held.append((self._now, department))
            self._closed = False

    def _answer(self) -> None:
        self._wait((1.5 if self._written.kind == "incident" else 4) * HOUR * self._pace, 0.8)
        if self._chance.random() >= _ANSWER_UNTOLD and self._say("answered"):
            self._answered_at = self._now
            if self._chance.random() < 0.05:
                self._wait(HOUR, 0.5)
                self._say("answered")

    def _correct(self) -> bool:
        """Whether the kind is corrected, rightly or wrongly; moments after the last thing that happened."""
        right, chance = self._written.kind, self._chance
        if self._said.kind == right:
            self._noise = chance.random() < OTHER_KIND
            kind = other_kind(right) if self._noise else right
        else:
            kind = right if chance.random() >= _UNCORRECTED else self._said.kind
        if kind == self._kind:
            return False
        self._wait(10 * _MINUTE, 0.8)
        if chance.random() < 0.03 and self._say("kind_corrected", kind):  # and back, and forth again
            self._kind, self._closed = kind, False
            for again in (self._said.kind, kind):
                self._wait(5 * _MINUTE, 0.5)
                if self._say("kind_corrected", again):
                    self._kind = again
        elif self._say("kind_corrected", kind):
            self._kind, self._closed = kind, False
        return True

    def _close(self) -> None:
        if self._say("closed"):
            self._closed = True

    def _reopen(self) -> None:
        """The customer is not content; the team that closed it has it again."""
        self._wait(2 * DAY, 0.5)
        if self._say("assigned", self._path.departments[-1]):
            self._closed = False
            if not self._held:
                self._held.append((self._now, self._path.departments[-1]))
            if self._chance.random() >= _STILL_OPEN:
                self._wait(12 * HOUR, 0.8)
                self._close()

    def _wait(self, typical: float, spread: float) -> None:
        self._now += (1 + int(typical * self._chance.lognormvariate(0, spread))) * SECOND

    def _say(self, event: Kind, to: str | None = None, by: By = "person", origin: str | None = None, reason: str | None = None) -> bool:
        """Tell of it, unless the year is over; whether it is not."""
        if self._now >= self._end:
            return False
        self._events.append(Event(self._now, f"e{len(self._events) + 1}", event, to, origin, by, reason))
        return True

    def _truth(self) -> Truth:
        held, path, created = self._held, self._path, self._written.created_at * SECOND
        department = held[-1][1] if held else self._said.department
        moves = sum(event.event == "moved" for event in self._events)
        if not self._closed:
            return Truth(self._kind, department, False, moves)
        wrong = next((at for at, holder in held if holder != department), None)
        home = held[-1][0] if held else None
        return Truth(
            self._kind, department, True, moves, path.course,
            misplaced=None if wrong is None or home is None else _minutes(home - wrong),
            to_right_team=None if home is None else _minutes(home - created),
            to_answer=None if self._answered_at is None else _minutes(self._answered_at - created),
            cause=self._cause(department),
        )  # fmt: skip

    def _cause(self, department: str) -> Cause | None:
        if department != self._said.department:
            return self._path.cause
        if self._kind == self._said.kind:
            return None
        if self._noise:
            return "label_noise"
        return "unfamiliar" if self._written.unlike else "acted_unsure" if self._said.kind_confidence < LEAST["kind"] else "sure_and_wrong"


def _minutes(microseconds: int) -> float:
    return microseconds / (_MINUTE * SECOND)
