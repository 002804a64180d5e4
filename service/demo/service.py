"""Fill a database with the simulated year: through the same repositories as the service's own, so that nothing about it is special but its
marks, which are the tickets' ids (`demo-...`) and the model versions (`simulated-...`)."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from random import Random

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from service import database
from service.classify.repository import store
from service.database import EPOCH, decisions
from service.demo import repository
from service.demo.simulation import Simulated, simulate
from service.outcomes.repository import Told, add, lock, retell
from service.outcomes.service import digest

_TOGETHER = 300  # tickets of a transaction
_EARLY, _LATE, _AGAIN = 0.10, 0.10, 0.01  # of the tickets: told of before the decision, or long after it; of the events: told twice


class NotEmptyError(Exception):
    """The database holds what must not be mixed with a demonstration, or a demonstration already."""


def fill(
    engine: Engine, tickets: int, seed: int, until: date, *, replace: bool = False, progress: Callable[[str, int, int], None] = lambda stage, done, of: None
) -> None:  # fmt: skip
    """Simulate so many tickets in the year before `until`, and store them with their events. With `replace` an earlier demonstration is
    taken away first, and nothing else. Raises NotEmptyError, with nothing changed."""
    _check(engine, replace=replace)
    database.migrate(engine)
    if replace:
        _clear(engine, progress)
    put(engine, simulate(tickets, seed, until), seed, lambda done: progress("simulating", done, tickets))


def put(engine: Engine, world: Iterable[Simulated], seed: int, progress: Callable[[int], None] = lambda done: None) -> None:
    """Store the tickets of a simulated `world`, in the order in which they came, with their events in disorder."""
    chance = Random(seed)  # noqa: S311  # a game, not a secret
    rest = iter(world)
    late: list[Told] = []
    done = 0
    while some := list(islice(rest, _TOGETHER)):
        with engine.begin() as connection:
            late = _tell(connection, some, late, chance)
        done += len(some)
        progress(done)
    with engine.begin() as connection:
        _add(connection, late)


def _check(engine: Engine, *, replace: bool) -> None:
    if database.revision(engine) is None:
        return  # an empty database; one that is not is read as it is, and not brought up to date before it is known to be for this
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(decisions.name):
            return
        simulated, others = repository.holds_simulated(connection), repository.holds_others(connection)
    if others and not simulated:
        raise NotEmptyError("the database holds tickets that are not simulated, which a demonstration must not be mixed with; name another one")
    if simulated and not replace:
        raise NotEmptyError("the database holds a demonstration already, or a part of one; --replace makes it anew")


def _clear(engine: Engine, progress: Callable[[str, int, int], None]) -> None:
    gone = 0
    while True:
        with engine.begin() as connection:
            taken = repository.take_away(connection)
        if not taken:
            return
        gone += taken
        progress("clearing", gone, 0)


def _tell(connection: Connection, some: Sequence[Simulated], late: list[Told], chance: Random) -> list[Told]:
    """Store decisions, and what is told of them by now, in disorder; what is told later."""
    early: list[Told] = []
    now: list[Told] = []
    later: list[Told] = []
    for each in some:
        drawn = chance.random()
        told = [Told(str(each.record.ticket_id), event, digest(event)) for event in each.events]
        told += [event for event in told if chance.random() < _AGAIN]
        chance.shuffle(told)
        if drawn < _EARLY:
            early += told
        elif drawn < _EARLY + _LATE:
            cut = chance.randint(0, len(told))
            now += told[:cut]
            later += told[cut:]
        else:
            now += told
    lock(connection, {str(each.record.ticket_id) for each in some} | {each.ticket_id for each in late})
    if early:
        add(connection, early, _heard(early))
    store(connection, [each.record for each in some])
    _add(connection, now + late)
    return later


def _add(connection: Connection, told: Sequence[Told]) -> None:
    if told:
        tickets = {each.ticket_id for each in told}
        lock(connection, tickets)
        add(connection, told, _heard(told))
        retell(connection, tickets)


def _heard(told: Sequence[Told]) -> datetime:
    return EPOCH + timedelta(microseconds=max(each.event.at for each in told))
