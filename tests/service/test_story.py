"""What a ticket's events tell: each rule of `service.outcomes.story`, once."""

from itertools import permutations
from typing import Any, get_args

import pytest

from service.outcomes.story import AT_ONCE, UNDECIDED, By, Event, Kind, Story, Verdict, judge, tell

MINUTE = 60 * 1_000_000
HOUR = 60 * MINUTE
CREATED, DECIDED = 0, 1 * MINUTE


def event(kind: Kind, at: int, to: str | None = None, by: By = "person", *, origin: str | None = None, name: str = "") -> Event:
    return Event(at, name or f"{kind}-{at}", kind, to, origin, by)


def assigned(to: str, at: int, by: By = "person", **more: Any) -> Event:
    return event("assigned", at, to, by, **more)


def moved(to: str, at: int, by: By = "person", **more: Any) -> Event:
    return event("moved", at, to, by, **more)


def decided(action: str = "auto", department: str | None = "hosting", *, at: int = DECIDED, created: int = CREATED) -> Verdict:
    return Verdict(at, created, "advisory", department, action)


CLOSED = event("closed", 100 * HOUR)


def stay(story: Story) -> tuple[int | None, int | None, int]:
    return story.wrong_at, story.right_at, story.wrong_stays


# In order


def test_events_come_in_any_order() -> None:
    events = [
        assigned("hosting", 2 * MINUTE, "router"), moved("network", HOUR), event("answered", 2 * HOUR), moved("domains", 3 * HOUR),
        event("kind_corrected", 3 * HOUR, "incident"),
    ]  # fmt: skip
    assert len({tell(decided(), some) for some in permutations(events)}) == 1


def test_of_one_moment_the_ids_say_the_order() -> None:
    story = tell(decided(), [moved("network", HOUR, name="b"), moved("domains", HOUR, name="a")])
    assert (story.final_department, story.moves) == ("network", 2)
    assert stay(story) == (DECIDED, HOUR, 2)


# Where it ends


def test_without_events_the_decision_stands() -> None:
    story = tell(decided(), [])
    assert (story.events, story.final_kind, story.final_department, story.kind_by) == (0, "advisory", "hosting", None)
    assert (story.placed_in, story.placed_by, story.right_at) == ("hosting", "router", DECIDED)


@pytest.mark.parametrize("action", ["suggest", "review"])
def test_what_nobody_placed_lies_nowhere(action: str) -> None:
    story = tell(decided(action), [CLOSED])
    assert (story.placed_in, story.placed_by, story.department_by, story.right_at) == (None, None, None, None)
    assert (story.final_department, story.course) == ("hosting", "straight")


def test_the_last_label_given_counts() -> None:
    events = [event("kind_corrected", 1 * HOUR, "incident", "rule"), event("kind_corrected", 2 * HOUR, "advisory"), moved("domains", 1, "rule")]
    story = tell(decided(), events)
    assert (story.final_kind, story.kind_by) == ("advisory", "person")
    assert (story.final_department, story.department_by) == ("domains", "rule")


def test_who_confirms_the_router_gave_the_label() -> None:
    assert tell(decided(), [assigned("hosting", HOUR)]).department_by == "person"


# Judged


def test_a_ticket_is_judged_while_it_is_closed() -> None:
    story = tell(decided(), [CLOSED])
    assert (story.closed_at, judge(decided(), story)) == (CLOSED.at, (False, False))
    assert judge(decided(), tell(decided(), [])) is None


@pytest.mark.parametrize("kind", get_args(Kind))
def test_whatever_is_no_answer_opens_it_again(kind: Kind) -> None:
    later = event(kind, CLOSED.at + HOUR, "domains" if kind in ("assigned", "moved") else "incident" if kind == "kind_corrected" else None)
    assert tell(decided(), [CLOSED, later]).closed_at == {"answered": CLOSED.at, "closed": later.at}.get(kind)


def test_of_the_moment_of_its_closing_what_comes_after_it_opens_it() -> None:
    assert tell(decided(), [CLOSED, moved("domains", CLOSED.at, name="z")]).closed_at is None
    assert tell(decided(), [CLOSED, moved("domains", CLOSED.at, name="a")]).closed_at == CLOSED.at


def test_a_misroute_is_a_final_label_that_differs_whoever_acted() -> None:
    for by in get_args(By):
        story = tell(decided(), [moved("domains", HOUR, by), CLOSED])
        assert judge(decided(), story) == (False, True)
    assert judge(decided(), tell(decided(), [event("kind_corrected", HOUR, "incident"), CLOSED])) == (True, False)


def test_what_was_not_decided_cannot_be_misrouted() -> None:
    only_kind = decided(department=None)
    story = tell(only_kind, [assigned("domains", HOUR), CLOSED])
    assert (story.final_department, story.course) == ("domains", "straight")
    assert judge(only_kind, story) == (False, None)


# Overruled, moved, bounced


def test_it_goes_straight_where_it_is_assigned_as_decided() -> None:
    story = tell(decided(), [assigned("hosting", DECIDED + MINUTE, "router"), assigned("hosting", HOUR), CLOSED])
    assert (story.course, story.moves, stay(story)) == ("straight", 0, (None, DECIDED + MINUTE, 0))


@pytest.mark.parametrize("by", ["person", "rule"])
def test_who_takes_it_away_at_once_overrules_the_router(by: By) -> None:
    story = tell(decided(), [moved("domains", DECIDED + AT_ONCE, by), CLOSED])
    assert (story.course, story.moves, story.wrong_stays) == ("overruled", 1, 1)
    assert tell(decided(), [moved("domains", DECIDED + AT_ONCE + 1, by), CLOSED]).course == "moved"


def test_the_router_does_not_overrule_itself() -> None:
    assert tell(decided(), [moved("domains", DECIDED + MINUTE, "router"), CLOSED]).course == "moved"


@pytest.mark.parametrize("action", ["auto", "suggest", "review"])
def test_who_assigns_it_elsewhere_soon_overrules_the_router_and_no_team_lost_time(action: str) -> None:
    story = tell(decided(action), [assigned("domains", DECIDED + AT_ONCE), CLOSED])
    assert (story.course, story.placed_in, story.placed_by) == ("overruled", "domains", "person")
    assert stay(story) == (None, DECIDED + AT_ONCE, 0)


def test_what_the_router_routed_lies_there_until_somebody_assigns_it_elsewhere() -> None:
    story = tell(decided(), [assigned("domains", 3 * HOUR), CLOSED])
    assert (story.course, story.placed_in, story.placed_by) == ("moved", "hosting", "router")
    assert stay(story) == (DECIDED, 3 * HOUR, 1)


@pytest.mark.parametrize("action", ["suggest", "review"])
def test_what_was_only_suggested_lies_nowhere_until_somebody_assigns_it(action: str) -> None:
    story = tell(decided(action), [assigned("domains", 3 * HOUR), CLOSED])
    assert (story.course, stay(story)) == ("overruled", (None, 3 * HOUR, 0))


def test_a_ticket_that_bounces_is_another_story_than_one_that_is_overruled() -> None:
    overruled = tell(decided(), [moved("domains", DECIDED + MINUTE), CLOSED])
    bounced = tell(decided(), [moved("network", HOUR), moved("systems", 2 * HOUR), moved("domains", 5 * HOUR), CLOSED])
    assert overruled.final_department == bounced.final_department == "domains"
    assert (overruled.course, bounced.course) == ("overruled", "bounced")
    assert stay(bounced) == (DECIDED, 5 * HOUR, 3)
    assert bounced.moves == 3


def test_there_and_back_again() -> None:
    """The router was right. Who overrode it was overruled later."""
    story = tell(decided(), [moved("domains", HOUR), moved("hosting", 3 * HOUR), CLOSED])
    assert (story.course, story.final_department, judge(decided(), story)) == ("moved", "hosting", (False, False))
    assert stay(story) == (HOUR, 3 * HOUR, 1)


def test_each_stay_elsewhere_counts_and_the_ticket_is_home_when_it_comes_for_good() -> None:
    back = [assigned("domains", HOUR), moved("hosting", 2 * HOUR), moved("domains", 3 * HOUR), moved("hosting", 4 * HOUR)]
    assert stay(tell(decided("review"), back)) == (HOUR, 4 * HOUR, 2)


def test_the_same_team_again_is_the_same_stay() -> None:
    events = [assigned("network", HOUR), assigned("network", 2 * HOUR), moved("domains", 3 * HOUR), moved("domains", 4 * HOUR), CLOSED]
    story = tell(decided("suggest"), events)
    assert (story.course, story.moves, stay(story)) == ("moved", 2, (HOUR, 3 * HOUR, 1))


def test_a_ticket_opened_again_and_moved_was_in_the_wrong_team_before() -> None:
    story = tell(decided(), [CLOSED, moved("domains", CLOSED.at + HOUR), event("closed", CLOSED.at + 2 * HOUR)])
    assert (story.final_department, stay(story)) == ("domains", (DECIDED, CLOSED.at + HOUR, 1))
    assert story.closed_at == CLOSED.at + 2 * HOUR


# Where it lay before it was moved


@pytest.mark.parametrize("action", ["auto", "suggest", "review"])
@pytest.mark.parametrize("origin", [None, "hosting", "domains"])
def test_what_is_moved_lay_where_the_router_said_unless_another_is_named(action: str, origin: str | None) -> None:
    """That it came `from` where it goes tells nothing."""
    story = tell(decided(action), [moved("domains", HOUR, origin=origin)])
    assert (story.placed_in, story.placed_by, stay(story)) == ("hosting", "router", (DECIDED, HOUR, 1))


def test_what_was_suggested_and_is_moved_from_elsewhere_lay_there() -> None:
    story = tell(decided("suggest"), [moved("domains", HOUR, origin="network")])
    assert (story.placed_in, story.placed_by, story.course, stay(story)) == ("network", None, "moved", (DECIDED, HOUR, 1))


def test_what_was_routed_and_is_moved_from_elsewhere_was_moved_before_though_nobody_told() -> None:
    story = tell(decided(), [moved("domains", HOUR, origin="network")])
    assert (story.placed_in, story.course, story.moves, stay(story)) == ("hosting", "bounced", 1, (DECIDED, HOUR, 2))


def test_a_move_that_nobody_told_of_shows_in_the_next() -> None:
    events = [assigned("hosting", DECIDED + MINUTE, "router"), moved("network", HOUR), moved("domains", 5 * HOUR, origin="systems")]
    assert tell(decided(), events).wrong_stays == 3
    told = moved("systems", 2 * HOUR, origin="network")
    assert tell(decided(), [*events, told]).wrong_stays == 3  # it came late, and there it is


# History that was decided later


LATER = 1000 * HOUR


@pytest.mark.parametrize("action", ["auto", "suggest", "review"])
def test_history_that_was_assigned_is_as_it_was_told(action: str) -> None:
    story = tell(decided(action, at=LATER), [assigned("domains", HOUR), CLOSED])
    assert (story.placed_in, story.placed_by, stay(story)) == ("domains", "person", (None, HOUR, 0))


@pytest.mark.parametrize("action", ["auto", "suggest", "review"])
def test_history_that_was_moved_lay_where_it_came_from_since_it_was_created(action: str) -> None:
    later = decided(action, at=LATER)
    story = tell(later, [moved("domains", 3 * HOUR, origin="network"), CLOSED])
    assert (story.placed_in, story.placed_by, stay(story)) == ("network", None, (CREATED, 3 * HOUR, 1))
    story = tell(later, [moved("domains", 3 * HOUR), CLOSED])
    assert (story.placed_in, story.placed_by, stay(story)) == ("hosting", "router", (CREATED, 3 * HOUR, 1))


def test_what_happened_before_the_ticket_was_created_begins_its_story() -> None:
    """Clocks differ, and some tables have the moment of the export. No stay ends before it begins."""
    story = tell(decided(at=LATER, created=LATER), [moved("domains", HOUR), CLOSED])
    assert stay(story) == (HOUR, HOUR, 1)


def test_history_that_only_was_closed_counts_as_routed_when_it_was_created() -> None:
    assert tell(decided(at=LATER), [CLOSED]).right_at == CREATED


# The first answer


def test_who_held_it_answered_it() -> None:
    events = [assigned("network", HOUR), event("answered", 2 * HOUR), moved("domains", 3 * HOUR), event("answered", 4 * HOUR)]
    story = tell(decided("review"), events)
    assert (story.answered_at, story.answered_in) == (2 * HOUR, "network")


@pytest.mark.parametrize(("name", "answered_in"), [("a", "network"), ("z", "domains")])
def test_of_one_moment_the_ids_say_who_held_it(name: str, answered_in: str) -> None:
    events = [assigned("network", HOUR), moved("domains", 2 * HOUR, name="m"), event("answered", 2 * HOUR, name=name)]
    assert tell(decided("review"), events).answered_in == answered_in


def test_who_got_it_at_the_moment_of_the_answer_answered_it_where_nobody_held_it_before() -> None:
    assert tell(decided("review"), [event("answered", HOUR, name="a"), assigned("network", HOUR, name="b")]).answered_in == "network"


def test_where_nobody_held_it_nobody_says_who_answered() -> None:
    story = tell(decided("suggest"), [event("answered", HOUR), assigned("domains", 2 * HOUR)])
    assert (story.answered_at, story.answered_in) == (HOUR, None)
    assert tell(decided("auto"), [event("answered", HOUR)]).answered_in == "hosting"


# Not decided yet


def test_before_the_decision_the_events_speak_alone() -> None:
    story = tell(UNDECIDED, [])
    assert (story.final_kind, story.final_department, story.closed_at) == (None, None, None)
    story = tell(UNDECIDED, [moved("domains", HOUR, origin="network"), event("kind_corrected", HOUR, "incident"), CLOSED])
    assert (story.final_kind, story.final_department, story.moves, story.closed_at) == ("incident", "domains", 1, CLOSED.at)
    assert tell(UNDECIDED, [moved("domains", HOUR)]).right_at == HOUR
