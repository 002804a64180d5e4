"""Stories made by hand, put where the report reads them: what a test of the report knows the truth of."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import decisions, stories

MONDAY = datetime(2026, 10, 5, tzinfo=UTC)  # of 2026-W41
HOUR = timedelta(hours=1)
DEPARTMENTS = ["systems", "network", "domains", "hosting"]
LANGUAGES = ["fr", "en", "de"]


def story(number: int, **changed: Any) -> dict[str, Any]:
    """A ticket that was routed at once, answered after an hour and closed after two; `changed` columns, and `subject` and `explanation`."""
    made: dict[str, Any] = {
        "decision_id": f"{number:026}", "ticket_id": f"T-{number}", "created_at": MONDAY, "model_version": "v1", "path": "fast", "language": "fr",
        "kind": "advisory", "department": "hosting", "kind_confidence": 0.97, "department_confidence": 0.95, "action": "auto", "reasons": "",
        "declared_kind": None, "channel": "web", "customer_tier": None, "country": "FR", "text_key": f"{number:016x}", "events": 2, "kind_by": None,
        "department_by": "router", "placed_by": "router", "moves": 0, "wrong_stays": 0, "course": "straight", "wrong_at": None, "subject": None,
        "explanation": None,
    } | changed  # fmt: skip
    at: datetime = made["created_at"]
    usual = {"decided_at": at, "right_at": at, "answered_at": at + HOUR, "closed_at": at + 2 * HOUR, "final_kind": made["kind"]}
    usual |= {"final_department": made["department"], "placed_in": made["department"]}
    made = usual | made
    return {"answered_in": made["final_department"]} | made


def moved(number: int, to: str, **changed: Any) -> dict[str, Any]:
    """A ticket that a person moved from hosting `to` its team three hours later."""
    at = changed.get("created_at", MONDAY)
    usual = {
        "final_department": to,
        "department_by": "person",
        "course": "moved",
        "moves": 1,
        "wrong_stays": 1,
        "wrong_at": at,
        "right_at": at + 3 * HOUR,
    }
    return story(number, **(usual | changed))


OPEN = {"closed_at": None}  # not judged


def keep(connection: Connection, told: Iterable[dict[str, Any]]) -> None:
    """Store the stories and the decisions that they are of."""
    rows = list(told)
    if not rows:
        return
    connection.execute(sa.insert(stories), [{name: row[name] for name in stories.columns.keys()} for row in rows])  # noqa: SIM118  # not a mapping
    shared = [name for name in stories.columns.keys() if name in decisions.columns]  # noqa: SIM118
    more = {"text_digest": "0" * 64, "decision": b"{}", "customer_ref": None}
    with_text = [{name: row[name] for name in (*shared, "subject")} | more | {"explanation": _json(row), "body": row["subject"]} for row in rows]
    connection.execute(sa.insert(decisions), with_text)


def _json(row: dict[str, Any]) -> bytes | None:
    return None if row["explanation"] is None else orjson.dumps(row["explanation"])


def anything(number: int, chance: random.Random, weeks: int) -> dict[str, Any]:
    """A story of anything that can be, `weeks` weeks from MONDAY on."""
    at = MONDAY + timedelta(microseconds=chance.randrange(weeks * 7 * 86_400 * 1_000_000))
    some = chance.choice
    decided = some([*DEPARTMENTS, *DEPARTMENTS, None])
    final = some([*DEPARTMENTS, "telephony"]) if chance.random() < 0.4 else decided
    kind = some(["incident", "advisory", "advisory"])
    wrong = at + timedelta(minutes=chance.randrange(-5, 90)) if chance.random() < 0.4 else None
    return story(
        number, created_at=at, ticket_id=some([f"T-{number}"] * 9 + [None]), model_version=some(["v1", "v2"]), language=some(LANGUAGES), kind=kind,
        department=decided, kind_confidence=some([0.5, 0.9, 0.949, 0.95, 1.0]), department_confidence=None if decided is None else some([0.2, 0.6, 0.8, 0.97, 1.0]),
        action=some(["auto", "suggest", "review"]), reasons=some(["", "", "unsure_department", "unfamiliar unsure_kind", "possible_incident", "unknown_language"]),
        declared_kind=some(["incident", "incident", "advisory", None]), channel=some(["web", "email", None]), customer_tier=some(["premium", None]),
        country=some(["FR", "DE", None]), text_key=f"{chance.randrange(60):016x}", final_kind=some([kind, kind, kind, "incident", "advisory"]),
        final_department=final, kind_by=some(["person", "rule", None]), department_by=some(["person", "router", "rule", None]),
        placed_in=some([*DEPARTMENTS, decided, decided, None]), placed_by=some(["router", "person", "rule"]), answered_in=some([*DEPARTMENTS, final, final, None]),
        moves=some([0, 0, 1, 2, 3, 5]), course=some(["straight", "overruled", "moved", "bounced"]), wrong_at=wrong,
        right_at=some([at + timedelta(minutes=chance.randrange(-3, 600)), None]) if wrong else at, answered_at=some([at + chance.randrange(300) * HOUR / 60, None]),
        closed_at=some([at + HOUR, at + HOUR, at + HOUR, None]),
    )  # fmt: skip
