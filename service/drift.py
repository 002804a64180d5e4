"""The look at last week, now and then: what of it differs from the weeks before beyond chance, and how much was misrouted, as metrics."""

import asyncio
import random
from datetime import UTC, datetime

import structlog

from service.errors import ServiceError
from service.state import State

FIRST_SECONDS = (60.0, 600.0)  # after the start, somewhere in between: workers that start together do not all look at the same time
EVERY_SECONDS = 3600.0  # a ticket of last week may be closed today

log = structlog.get_logger()


async def watch(state: State) -> None:
    """Look every hour until cancelled."""
    await asyncio.sleep(random.uniform(*FIRST_SECONDS))  # noqa: S311  # no secret
    while True:
        await look(state)
        await asyncio.sleep(EVERY_SECONDS)


async def look(state: State) -> None:
    """Show the last complete week, counted in UTC; what was shown before stays where the database is away or has too much to read."""
    try:
        week = await state.reports.last_week(datetime.now(UTC).date())
    except ServiceError as error:
        log.warning("drift_not_seen", error=error.code)
        return
    state.metrics.show_week([change.what for change in week.changes], week.misrouted)
