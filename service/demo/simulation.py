"""A year of simulated traffic whose truth is known: who writes what, what the router says, what people do."""

from collections.abc import Iterator
from datetime import date, timedelta
from random import Random
from typing import NamedTuple

from service.classify.repository import Record
from service.demo.customers import DAYS, Customers, seconds
from service.demo.people import Truth, live
from service.demo.router import SECOND, Clerk, answer
from service.outcomes.story import Event


class Simulated(NamedTuple):
    """A ticket: its decision as it is stored, what was told of it, in the order in which it happened, and what is true of it."""

    record: Record
    events: list[Event]
    truth: Truth


def first_day(until: date) -> date:
    """The day with which the year begins that ends before `until`."""
    return until - timedelta(days=DAYS)


def simulate(tickets: int, seed: int, until: date) -> Iterator[Simulated]:
    """The tickets of the year before `until`, as they come in; nothing happens after it. The same for a seed and a day."""
    chance = Random(seed)  # noqa: S311  # a game, not a secret
    clerk = Clerk(chance)
    start = seconds(first_day(until))
    for number, written in enumerate(Customers(chance, first_day(until)).write(tickets), 1):
        said = answer(chance, written, start)
        record = clerk.record(number, written, said)
        events, truth = live(chance, written, said, seconds(until) * SECOND)
        yield Simulated(record, events, truth)
