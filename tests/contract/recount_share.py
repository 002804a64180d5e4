"""What the recounts of the report share: when a ticket was, whether it went wrong, and a share with its interval."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

from scipy.stats import binomtest

from service.demo.simulation import Simulated

TARGETS = ("department", "kind")


def day(each: Simulated) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each.record.created_at)).date()


def week(each: Simulated) -> str:
    year, number, _ = day(each).isocalendar()
    return f"{year}-W{number:02d}"


def misrouted(each: Simulated, target: str) -> bool:
    return each.truth.judged and getattr(each.record, target) != getattr(each.truth, target)


def ratio(count: int, of: int) -> float | None:
    return count / of if of else None


@cache
def share(count: int, of: int) -> dict[str, Any]:
    interval = binomtest(count, of).proportion_ci(0.95, "wilson") if of else None
    return {"count": count, "of": of, "share": ratio(count, of), "interval": interval and (float(interval.low), float(interval.high))}
