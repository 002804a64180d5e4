"""The shape of the misroute report: what is asked, and what is answered, by HTTP, on the command line and to the page alike."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_Value = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
LONGEST_PERIOD = 3660  # days
DAYS = 28  # of a report where nobody asks for another period
EARLIEST, LATEST = date(1970, 1, 1), date(2200, 1, 1)
MOST_TICKETS = 500
NOT_GIVEN = "(not given)"  # the value of a facet where a ticket has none; a filter takes it too
OTHERS = "(others)"  # the values of a facet that are too rare to be told apart, together
Cause = Literal["rule", "overruled_later", "chain", "label_noise", "unfamiliar", "acted_unsure", "sure_and_wrong"]
Course = Literal["straight", "overruled", "moved", "bounced"]


class Filters(BaseModel):
    """Which tickets count. `kind` and `department`: those that the router decided so, or that ended there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    department: _Value | None = None
    kind: _Value | None = None
    language: _Value | None = None
    channel: _Value | None = None
    customer_tier: _Value | None = None
    country: _Value | None = None
    model_version: _Value | None = None
    action: Literal["auto", "suggest", "review"] | None = None


class Period(BaseModel):
    """Days in UTC, `until` excluded (`to` in a query). A ticket belongs to the day of its `created_at`, else of its decision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: date
    until: date


def asked_period(since: date | None, until: date | None, days: int = DAYS) -> Period:
    """The period that is asked for; where `until` is not, up to today (UTC) included; where `since` is not, so many `days`.

    Raises ValueError where it is none.
    """
    until = until or datetime.now(UTC).date() + timedelta(days=1)
    if not EARLIEST < until <= LATEST:
        raise ValueError("to: expected a day between 1970 and 2200")
    if since is None:
        if not 0 < days <= LONGEST_PERIOD:
            raise ValueError(f"last: expected 1 to {LONGEST_PERIOD} days, such as 28d or 4w")
        since = max(until - timedelta(days=days), EARLIEST)
    if not EARLIEST <= since < until or (until - since).days > LONGEST_PERIOD:
        raise ValueError(f"from: expected a day before the end, by {LONGEST_PERIOD} days at most")
    return Period(since=since, until=until)


class Selection(BaseModel):
    """Tickets behind a number: further conditions on top of a report's period and filters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decided: _Value | None = Field(default=None, description="The decided label of `target`.")
    final: _Value | None = Field(default=None, description="The final label of `target`.")
    target: Literal["department", "kind"] = "department"
    judged: bool | None = None
    misrouted: Literal["department", "kind", "any"] | None = None
    cause: Cause | None = None
    course: Course | None = None
    week: Annotated[str, StringConstraints(pattern=r"^\d{4}-W\d{2}$")] | None = None
    least_confidence: float | None = Field(default=None, ge=0, le=1, description="Of the decided label of `target`.")
    below_confidence: float | None = Field(default=None, ge=0, le=2)
    order: Literal["costly", "recent", "random"] = "costly"
    seed: int = Field(default=0, ge=0, le=2**31, description="For `random`: another seed gives another sample.")
    limit: int = Field(default=50, ge=1, le=MOST_TICKETS)


Interval = tuple[float, float]


class Share(BaseModel):
    """`count` of `of`; `interval`: 95%, by Wilson's method. Without any, both are null."""

    count: int
    of: int
    share: float | None
    interval: Interval | None


class Incidents(BaseModel):
    """Of the tickets that were real incidents in the end those that the router said were."""

    real: int
    recognised: int
    recall: float | None
    interval: Interval | None
    held_back: int = Field(
        description="Not recognised, but kept from being routed as advice: the decision names `possible_incident`, or is `review`."
    )


class FiledAsIncident(BaseModel):
    """Tickets that the customer declared an incident; `advisory` of them were advice in the end, and the router `caught` so many of those at intake."""

    count: int
    advisory: int
    caught: int
    share_advisory: float | None
    share_caught: float | None


class Duration(BaseModel):
    """Minutes over `count` tickets."""

    count: int
    median: float | None
    p90: float | None
    sum: float


class DurationOf(Duration):
    value: str


class Durations(Duration):
    """Over all, and by each value of each facet."""

    by: dict[str, list[DurationOf]] = Field(description="Facets: kind (final), department (final), customer_tier, language, country.")


class Minutes(BaseModel):
    """`to_right_team`: from creation until the final department had it for good; `to_answer`: until the first answer to the customer;
    `misplaced`: from the first wrong assignment to the right one, of tickets that had a wrong one."""

    to_right_team: Durations
    to_answer: Durations
    misplaced: Durations


class Matrix(BaseModel):
    """Judged tickets; a row for each decided label, a column for each final one."""

    labels: list[str]
    decided_by_final: list[list[int]]


class Pair(BaseModel):
    """Misrouted in department: decided here, ended there; `hours` they lay in wrong departments, together."""

    decided: str
    final: str
    tickets: int
    hours: float
    median_hours: float | None
    moves: int


class Band(BaseModel):
    """Tickets whose decided label had a confidence from `low` to under `high`: `confidence` is the mean, what was promised; `right` what came."""

    low: float
    high: float
    confidence: float | None
    right: Share
    kept: bool | None = Field(description="Whether the promise is within, or under, what was observed with its interval.")


class Promise(BaseModel):
    """Of the tickets routed without a person those whose label was right, against the precision that the serving model promised."""

    promised: float | None
    right: Share
    kept: bool | None


class Confidence(BaseModel):
    bands: list[Band]
    auto: Promise


class Group(BaseModel):
    """The main figures of the tickets that share one value."""

    value: str
    tickets: int
    judged: int
    moves: int
    auto: int
    suggest: int
    review: int
    misrouted: dict[str, Share]
    incidents: Incidents


class Version(BaseModel):
    """When a model version decided its first and last ticket of the period."""

    version: str
    first: date
    last: date
    tickets: int


class Worse(BaseModel):
    """What got significantly worse since the period before: `p` is corrected for all that was looked at (Holm)."""

    figure: str
    by: str
    value: str
    before: Share
    now: Share
    p: float


class Comparison(BaseModel):
    """With the period of the same length just before."""

    since: date
    until: date
    looked_at: int
    worse: list[Worse]


class CauseShare(BaseModel):
    """Misrouted tickets with this likely cause; the causes are looked for in this order, and each ticket has one."""

    cause: Cause
    tickets: int
    share: float | None
    meaning: str


class WeekMix(BaseModel):
    """What came in that week, decided or judged."""

    week: str
    tickets: int
    languages: dict[str, float]
    kinds: dict[str, float]
    departments: dict[str, float]
    confidence: float | None = Field(description="Mean confidence of the decided department.")
    unfamiliar: float
    review: float
    overridden: float | None


class Change(BaseModel):
    """A week whose share of `value` differs from the four weeks before beyond chance; `p` corrected (Holm)."""

    week: str
    what: str
    value: str
    was: float
    is_now: float
    p: float


class Drift(BaseModel):
    weeks: list[WeekMix]
    changes: list[Change]


class LastWeek(BaseModel):
    """The last complete week, for the meters: what changed beyond chance, and the share misrouted of its judged tickets by target."""

    week: str
    changes: list[Change]
    misrouted: dict[str, float | None]


class Groups(BaseModel):
    language: list[Group]
    week: list[Group]
    model_version: list[Group]
    department: list[Group] = Field(description="By final department.")
    kind: list[Group] = Field(description="By final kind.")
    channel: list[Group]
    customer_tier: list[Group]
    country: list[Group]
    action: list[Group]


class MisrouteReport(BaseModel):
    """What went to the wrong team: how often, why, at what cost."""

    period: dict[str, date]
    filters: dict[str, str]
    simulated: bool = Field(description="Whether any of these tickets was made by `pointsman demo`.")
    tickets: int
    judged: int
    moves: int
    misrouted: dict[str, Share]
    incidents: Incidents
    filed_as_incident: FiledAsIncident
    courses: dict[str, int] = Field(description="Judged tickets by course: straight, overruled, moved, bounced.")
    moves_of_tickets: dict[str, int] = Field(description="Judged tickets by their number of moves: 0, 1, 2, 3+.")
    minutes: Minutes
    matrix: dict[str, Matrix]
    pairs: list[Pair]
    confidence: dict[str, Confidence]
    by: Groups
    versions: list[Version]
    compared: Comparison
    causes: list[CauseShare]
    drift: Drift
    definitions: dict[str, str]


class Word(BaseModel):
    text: str
    weight: float


class TicketBehind(BaseModel):
    """One ticket of a list."""

    ticket_id: str | None
    decision_id: str
    created_at: str
    language: str
    customer_tier: str | None
    model_version: str
    action: str
    reasons: list[str]
    decided: dict[str, str | None]
    confidence: dict[str, float | None]
    final: dict[str, str | None]
    judged: bool
    course: Course | None
    moves: int
    hours_misplaced: float | None
    cause: Cause | None
    reading: str | None = Field(description="The evidence for the cause, read out.")
    subject: str | None = Field(description="Null where the text is no longer kept.")
    words: dict[str, list[Word]] | None = Field(description="What pulled the decision, for each target; null where it is no longer kept.")


class TicketsBehind(BaseModel):
    """`matching` tickets; `shown` of them."""

    matching: int
    shown: list[TicketBehind]
    definitions: dict[str, str]
