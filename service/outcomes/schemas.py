"""What is told of a ticket after its decision, and what is answered."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from service.outcomes.story import By, Course, Kind

MOST_OUTCOMES = 256
LONGEST_REASON = 2_000
AHEAD = timedelta(days=1)  # that another system's clock, or its idea of its time zone, may be
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
# A label with a space around it would be another one than the router's, and each such ticket a misroute.
# U+0085 and U+FEFF are spaces to some readers of this pattern and to others not.
_EDGE = r"[^\s\x00-\x1f\x7f\x85\ufeff]"
_Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=rf"^{_EDGE}([^\x00-\x1f\x7f]*{_EDGE})?$")]
# People write reasons, in lines.
_Reason = Annotated[str, StringConstraints(max_length=LONGEST_REASON, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        good = moment is not None and moment.tzinfo is not None and moment >= _EARLIEST
    except (ValueError, OverflowError):
        good = False
    if not good or moment is None:
        raise ValueError("Not a moment since 1900 in ISO 8601 with its offset from UTC, such as 2026-11-22T10:00:00Z.")
    if moment > datetime.now(UTC) + AHEAD:
        raise ValueError("More than a day ahead; an outcome is told when it has happened.")
    return moment


_EXAMPLE: Any = {"event_id": "e1", "at": "2025-11-22T10:00:00Z", "event": "moved", "to": "domains", "from": "hosting", "by": "person"}
# What no field says by itself; `service.outcomes.service` sees to it.
_TO_WHERE_IT_BELONGS: list[Any] = [
    {"properties": {"event": {"enum": ["assigned", "moved", "kind_corrected"]}, "to": {"not": {"type": "null"}}}, "required": ["to"]},
    {"properties": {"event": {"enum": ["answered", "closed"]}, "to": {"type": "null"}}},
]


class OutcomeIn(BaseModel):
    """One thing that happened to a ticket. The same `event_id` of the ticket with the same content is the same event."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": _EXAMPLE, "anyOf": _TO_WHERE_IT_BELONGS})

    event_id: Name = Field(description="Your id, one for each event of the ticket.")
    at: Annotated[datetime, BeforeValidator(_moment)] = Field(description="When it happened, at most a day ahead.")
    event: Kind = Field(
        description="`answered`: the first answer to the customer. After `closed`, whatever is not `answered` opens the ticket again."
    )
    to: _Label | None = Field(
        default=None, description="The department that has the ticket now; the right kind, where that was corrected; else null."
    )
    origin: _Label | None = Field(default=None, alias="from", description="The department that had it before.")
    by: By
    reason: _Reason | None = Field(default=None, description="In somebody's words; forgotten when the ticket's text is.")


class TicketOutcomeIn(OutcomeIn):
    """An event, and the ticket that it happened to."""

    model_config = ConfigDict(json_schema_extra={"example": {"ticket_id": "T-123", **_EXAMPLE}, "anyOf": _TO_WHERE_IT_BELONGS})

    ticket_id: Name


class OutcomesIn(BaseModel):
    """Up to 256 events, of any tickets."""

    model_config = ConfigDict(extra="forbid")

    # Each event is validated on its own, so that one that is wrong does not fail the others.
    outcomes: list[Any]


class Final(BaseModel):
    """The last labels given, else the decided ones; null where there are neither."""

    kind: str | None
    department: str | None


class MisroutedOut(BaseModel):
    """Whether the final label differs from the decided one; null for a target that the decision did not answer."""

    kind: bool | None
    department: bool | None


class OutcomeOut(BaseModel):
    """What is known of the ticket, this event included."""

    ticket_id: str
    events: int
    final: Final
    moves: int
    closed: bool
    misrouted: MisroutedOut | None = Field(description="Null until the ticket is judged: it is while it is decided and closed.")


class EventOut(BaseModel):
    """One thing that happened."""

    model_config = ConfigDict(populate_by_name=True)

    event_id: str
    at: str
    event: Kind
    to: str | None
    origin: str | None = Field(alias="from")
    by: By
    reason: str | None = Field(description="Null where none was told, or it is no longer kept.")


class TicketStory(BaseModel):
    """All that is known of one ticket. Moments in ISO 8601, in UTC."""

    ticket_id: str
    decision: Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/DecisionOut"})] | None = Field(
        description="As it was answered; null where the ticket was not decided."
    )
    decided_at: str | None
    created_at: str | None = Field(description="The ticket's own, else that of its decision.")
    declared_kind: str | None
    channel: str | None
    customer_tier: str | None
    country: str | None
    subject: str | None = Field(description="Null where the text is no longer kept.")
    body: str | None
    events: list[EventOut] = Field(description="As they happened.")
    final_kind: str | None = Field(description="The last label given, else the decided one.")
    final_department: str | None
    kind_by: By | None = Field(description="Who gave it; null where nobody told.")
    department_by: By | None
    placed_in: str | None = Field(description="The first department that held it.")
    placed_by: By | None
    answered_in: str | None = Field(description="The department that held it at its first answer.")
    moves: int
    wrong_stays: int = Field(description="How often it lay in another department than the final one before it came there.")
    course: Course | None = Field(
        description="`straight`: it never lay elsewhere; `overruled`: the router was not followed, and no wrong team worked on it; `moved`: one wrong "
        "stay; `bounced`: more."
    )
    wrong_at: str | None = Field(description="The beginning of the first wrong stay.")
    right_at: str | None = Field(description="When the final department got it for good.")
    answered_at: str | None
    closed_at: str | None = Field(description="Null while it is open.")
    misrouted: MisroutedOut | None = Field(description="Null until it is judged.")
