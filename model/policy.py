"""The policy: data that turns labels into a route (`data/policy.yaml`). It may raise a bundle's thresholds, never lower
them."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model.taxonomy import DATA, read_yaml

PLACES = ("kind", "department", "language", "customer_tier", "channel", "country")


def _only_known_places(template: str) -> str:
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is not None and (name not in PLACES or spec or conversion):
            raise ValueError(f"{{{name}}} is not a place; the places are {', '.join(PLACES)}")
    return template


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Route(NamedTuple):
    queue: str
    priority: str
    respond_within_minutes: int


class Rule(_Data):
    """Where a ticket goes for which everything in `when` holds: labels of targets, or what is known of the ticket
    (`language`, `customer_tier`, `channel`, `country`, `declared_kind`, `action`), or `reason` (one of the decision's)."""

    when: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    queue: Annotated[str, AfterValidator(_only_known_places)]
    priority: Literal["low", "normal", "high", "urgent"]
    respond_within_minutes: Annotated[int, Field(ge=1, le=60 * 24 * 90)]

    def holds(self, facts: Mapping[str, str | None], reasons: Sequence[str]) -> bool:
        for name, wanted in self.when.items():
            allowed = (wanted,) if isinstance(wanted, str) else wanted
            if name == "reason":
                if not any(reason in allowed for reason in reasons):
                    return False
            elif facts.get(name) not in allowed:
                return False
        return True


class Advice(_Data):
    """What to tell a customer who filed an advisory request as an incident: the better channel, and a message in each
    language."""

    channel: Literal["web", "email", "phone", "chat", "api"]
    messages: dict[str, str]


class Policy(_Data):
    """`route_on`: the targets that must all be sure before a ticket is routed without a person; `thresholds`: confidences
    to ask for beyond the bundle's; `languages`: those the teams speak (others are put in `fallback_language` queues);
    `rules`: the first that holds gives the route; the last must hold for everything."""

    format: Literal[1]
    route_on: tuple[str, ...]
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    languages: tuple[str, ...]
    fallback_language: str
    involve: str | None = None
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    advice: Advice

    def model_post_init(self, _: object, /) -> None:
        if self.rules[-1].when:
            raise ValueError("the last rule must have no 'when', so that every ticket has a route")
        if self.fallback_language not in self.advice.messages:
            raise ValueError(f"advice.messages has none in the fallback language, {self.fallback_language}")

    def route(self, facts: Mapping[str, str | None], reasons: Sequence[str]) -> Route:
        """The route of a ticket of which `facts` are known."""
        rule = next(rule for rule in self.rules if rule.holds(facts, reasons))
        spoken = facts.get("language")
        places = {name: facts.get(name) or "any" for name in PLACES}
        places["language"] = spoken if spoken in self.languages and spoken else self.fallback_language
        return Route(rule.queue.format(**places), rule.priority, rule.respond_within_minutes)

    def message(self, language: str) -> str:
        """What to tell a misdirected customer, in `language` or else the fallback."""
        return self.advice.messages.get(language) or self.advice.messages[self.fallback_language]


def load_policy(path: Path | None = None) -> Policy:
    """The policy at `path`, by default the one beside the code. Raises PolicyError."""
    return read_yaml(path or DATA / "policy.yaml", Policy)
