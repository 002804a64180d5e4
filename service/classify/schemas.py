"""What `POST /classify` takes and gives."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from model.language import normalise

MOST_TICKETS = 256
LONGEST_SUBJECT = 1_000
LONGEST_BODY = 200_000

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _language_tag(tag: str) -> str:
    if normalise(tag) is None:
        raise ValueError("Not a BCP 47 language tag, such as fr or pt-BR.")
    return tag


_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        good = moment is not None and moment.tzinfo is not None and _EARLIEST <= moment < _LATEST
    except (ValueError, OverflowError):
        good = False
    if not good or moment is None:
        raise ValueError("Not a moment in ISO 8601 with its offset from UTC, such as 2026-11-22T10:00:00Z, between 1900 and 2200.")
    return moment


class TicketIn(BaseModel):
    """A ticket as intake sends it. Subject or body must have text."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "ticket_id": "T-123",
                "subject": "URGENTE!!!",
                "body": "Boa tarde, como é que faço para transferir o meu domínio .pt para a vossa empresa?",
                "declared_kind": "incident",
                "channel": "web",
            }
        },
    )

    ticket_id: _Name | None = Field(default=None, description="Your id: the same id with the same text gives the stored decision.")
    subject: Annotated[str, StringConstraints(max_length=LONGEST_SUBJECT)] | None = None
    body: Annotated[str, StringConstraints(max_length=LONGEST_BODY)] | None = None
    language: Annotated[str, StringConstraints(max_length=35), AfterValidator(_language_tag)] | None = Field(
        default=None, description="BCP 47 tag, where it is known; otherwise it is told from the text."
    )
    channel: Literal["web", "email", "phone", "chat", "api"] | None = None
    declared_kind: _Name | None = Field(default=None, description="What the customer said the ticket is.")
    customer_tier: Annotated[_Name, StringConstraints(max_length=64)] | None = None
    customer_ref: _Name | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = Field(default=None, description="ISO 3166-1 alpha-2.")
    created_at: Annotated[datetime, BeforeValidator(_moment)] | None = Field(default=None, description="When the customer sent it.")


class BatchIn(BaseModel):
    """Up to 256 tickets."""

    model_config = ConfigDict(extra="forbid")

    # Each ticket is validated on its own, so that one that is wrong does not fail the others.
    tickets: list[Any]


class Guess(BaseModel):
    label: str
    confidence: float = Field(ge=0, le=1, description="Calibrated: of answers given with 0.9, nine in ten are right.")


class Answer(Guess):
    alternatives: list[Guess]


class Language(BaseModel):
    code: str
    confidence: float


class RouteOut(BaseModel):
    queue: str
    priority: str
    respond_within_minutes: int


class AdviceOut(BaseModel):
    channel: str
    message: str


class Phrase(BaseModel):
    text: str
    weight: float
    start: int = Field(description="Where the phrase stands in the cleaned text.")
    end: int


class DecisionOut(BaseModel):
    """Everything the router says of one ticket."""

    decision_id: str
    ticket_id: str | None
    model_version: str
    path: Literal["fast", "deep"] = Field(description="`deep`: the sentence encoder was asked, for the words left doubts.")
    language: Language
    labels: dict[str, Answer]
    action: Literal["auto", "suggest", "review"]
    reasons: list[str]
    also_involve: list[str]
    route: RouteOut
    misdirected: bool | None
    advice: AdviceOut | None
    explanation: dict[str, list[Phrase]] | None = Field(description="Null where the words are no longer kept.")
    explanation_note: str | None = Field(default=None, description="What the words do not tell; with answers of the deep path only.")
