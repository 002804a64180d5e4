"""Which tickets are kept to judge by: the newest, unseen by both, and the same ones again when the table has grown."""

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from training.experiments import fingerprints
from training.history import History, Place
from training.hold_out import LEAST, Cut, cut
from training.table import TicketTable

NOBODY = np.array([], np.uint64)
START = datetime(2026, 1, 1, tzinfo=UTC)


def history(n: int, *, dated: bool = True) -> History:
    """Tickets, each an hour older than the one before it."""
    texts = [f"ticket number {i}" for i in range(n)]
    table = TicketTable(texts, {"kind": ["advisory"] * n}, ["en"] * n, ("body",))
    moments = [(START - timedelta(hours=i)).isoformat().replace("+00:00", "Z") if dated else "" for i in range(n)]
    return History(table, [Place("a.csv", i) for i in range(1, n + 1)], moments, [""] * n, [""] * n, n, [], None)


def held(of: History, group: NDArray[np.int64] | None = None, learned: NDArray[np.uint64] = NOBODY, shown: range = range(0), seed: int = 0) -> Cut:
    n = len(of.table)
    return cut(of, np.arange(n) if group is None else group, learned, np.isin(np.arange(n), list(shown)), 0.2, seed)


def test_the_newest_are_judged_by_and_all_others_learned_from() -> None:
    found = held(history(1000))
    assert found.by == "200 tickets, the newest"
    assert np.flatnonzero(found.judge).tolist() == list(range(200))
    assert np.array_equal(found.learn, ~found.judge)


def test_what_the_champion_learned_and_what_it_was_shown_to_be_wrong_in_is_left_to_learning() -> None:
    of = history(1000)
    found = held(of, learned=fingerprints(of.table.texts[:100]), shown=range(100, 250))
    assert np.flatnonzero(found.judge).tolist() == list(range(250, 450))
    assert found.learn[:250].all()


def test_where_too_few_others_are_left_they_are_taken_and_it_is_said() -> None:
    of = history(1000)
    found = held(of, shown=range(1000 - LEAST + 1))
    assert np.flatnonzero(found.judge).tolist() == list(range(200))
    assert found.by == "200 tickets, the newest; some of them are known because the champion was wrong, which speaks for any other"
    found = held(of, learned=fingerprints(of.table.texts))
    assert found.by == "200 tickets, the newest; the champion has learned from some of them, which speaks for it"


def test_never_more_than_half_of_what_may_be_judged_by() -> None:
    of = history(1000)
    found = held(of, learned=fingerprints(of.table.texts[120:]))
    assert np.flatnonzero(found.judge).tolist() == list(range(60))


def test_what_says_nearly_the_same_as_a_learned_ticket_is_neither() -> None:
    group = np.arange(1000)
    group[500] = 3  # a copy of a new ticket among the old ones
    found = held(history(1000), group)
    assert not found.judge[3]
    assert not found.learn[3]
    assert found.learn[500]
    assert found.judge.sum() == 199


def test_without_dates_whole_groups_are_drawn_and_the_same_ones_again() -> None:
    group = np.arange(1000) // 4 * 4
    found = held(history(1000, dated=False), group)
    assert found.by.endswith("drawn by chance")
    assert 190 <= found.judge.sum() <= 200
    assert all(len(set(found.judge[first : first + 4].tolist())) == 1 for first in range(0, 1000, 4))
    grown = held(history(1400, dated=False), np.arange(1400) // 4 * 4)
    kept = found.judge & grown.judge[:1000]
    assert kept.sum() >= 0.85 * found.judge.sum()
    assert not np.array_equal(held(history(1000, dated=False), group, seed=1).judge, found.judge)


def test_a_few_dates_are_not_enough_to_go_by() -> None:
    of = history(1000, dated=False)
    of.moments[: LEAST - 1] = history(LEAST - 1).moments
    assert held(of).by == "200 tickets, drawn by chance"
    of.moments[LEAST - 1] = history(1).moments[0]
    found = held(of)
    assert found.by == f"{LEAST // 2} tickets, the newest"
    assert found.judge[: LEAST // 2 - 1].all()
