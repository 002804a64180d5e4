"""What customers write in the simulated year: when, in which language, about what.

The texts are the shipped tickets', most of them slightly varied; some are sent again and again as they are, as forms and stock phrases are.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate
from math import exp
from random import Random
from typing import NamedTuple, TypeVar

from model.taxonomy import DATA

DAYS = 365
_T = TypeVar("_T")
DAY, HOUR = 86_400, 3_600  # seconds
CORE = {"fr": 30, "en": 18, "de": 14, "es": 11, "it": 9, "pl": 8, "pt": 7}  # languages that the simulated router learned
OTHER = ("nl", "sv", "cs", "da", "hu", "uk", "tr")
OTHER_SHARE = 0.025
DRIFTING, DRIFT_DAYS, DRIFT_SHARE = "ro", 60, 0.08  # its share grows from nothing to this one in the last days of the year,
_DRIFT_PACE = 5  # by two thirds of what is left in so many days

_COUNTRIES = {
    "fr": ("FR", "FR", "FR", "BE", "CH"), "en": ("GB", "IE", "US"), "de": ("DE", "DE", "AT", "CH"), "es": ("ES", "ES", "MX"), "it": ("IT",),
    "pl": ("PL",), "pt": ("PT", "PT", "BR"), "nl": ("NL", "BE"), "sv": ("SE",), "cs": ("CZ",), "da": ("DK",), "hu": ("HU",), "uk": ("UA",),
    "tr": ("TR",), "ro": ("RO",),
}  # fmt: skip
_TIERS = {"standard": 69, "business": 21, "premium": 8, None: 2}
_CHANNELS = {"web": 55, "email": 25, "phone": 8, "chat": 8, "api": 4}
_DECLARED = {"incident": 68, "advisory": 24, None: 8}
_REAL = {"incident": 0.167, "advisory": 0.04, None: 0.15}  # with the outages' tickets, a fifth of what is declared an incident is one
_OWNERS = {
    "incident": {"hosting": 34, "systems": 20, "network": 14, "domains": 10, "datacenter": 9, "telephony": 7, "backoffice": 6},
    "advisory": {"hosting": 22, "domains": 20, "backoffice": 20, "sales": 14, "systems": 10, "network": 5, "telephony": 5, "datacenter": 4},
}
_MONTHS = (1.12, 1.02, 1.05, 1.0, 0.97, 0.95, 0.85, 0.78, 1.08, 1.1, 1.15, 0.93)
_WEEKDAYS = (1.25, 1.15, 1.12, 1.08, 1.0, 0.45, 0.4)
_HOURS = (2, 1, 1, 1, 1, 2, 4, 7, 11, 13, 13, 12, 10, 11, 12, 12, 11, 9, 7, 5, 5, 4, 3, 2)
_OUTAGES, _OUTAGE_SHARE, _OUTAGE_HOURS = 6, 0.03, 1.2
_OUT = ("hosting", "network", "systems", "telephony")
_REPEATED_SHARE = 0.10
_UNLIKE = 0.008  # of ordinary tickets: about something that the router has not seen


class Written(NamedTuple):
    """A ticket as it comes in; `kind` and `department` are what it really is. `created_at` in seconds since 1970.

    `unlike`: it is unlike what the router learned from; `repeated`: others are word for word the same.
    """

    created_at: int
    subject: str
    body: str
    kind: str
    department: str
    language: str
    declared_kind: str | None
    channel: str
    customer_tier: str | None
    customer_ref: str
    country: str
    unlike: bool
    repeated: bool


class _Text(NamedTuple):
    subject: str
    body: str
    kind: str
    department: str
    language: str


class Customers:
    """Everybody who writes between `start` and `start` plus `DAYS`."""

    def __init__(self, chance: Random, start: date) -> None:
        self._chance = chance
        self._start = start
        self._texts = _shipped()

    def write(self, tickets: int) -> Iterator[Written]:
        """So many tickets, as they come in."""
        chance = self._chance
        outages = self._outages(tickets)
        stock = [self._text(self._language(0), *self._about(None)) for _ in range(max(4, tickets // 80))]
        arrivals: list[tuple[int, str | None]] = [(at, None) for at in self._moments(tickets - len(outages))]
        for at, out in sorted(arrivals + outages, key=lambda arrival: arrival[0]):
            day = (at - seconds(self._start)) // DAY
            declared = _pick(chance, _DECLARED)
            repeated = out is None and chance.random() < _REPEATED_SHARE
            if repeated:
                text = chance.choice(stock)
            elif out is not None:
                declared = "incident" if chance.random() < 0.9 else declared
                text = self._varied(self._text(self._language(day), "incident", out))
            else:
                text = self._varied(self._text(self._language(day), *self._about(declared)))
            unlike = text.language == DRIFTING or chance.random() < _UNLIKE
            yield Written(
                at, *text, declared, _pick(chance, _CHANNELS), _pick(chance, _TIERS), f"C-{chance.randrange(tickets // 3 + 1):06d}",
                chance.choice(_COUNTRIES[text.language]), unlike, repeated,
            )  # fmt: skip

    def _moments(self, tickets: int) -> list[int]:
        first = seconds(self._start)
        days = [self._start + timedelta(days=day) for day in range(DAYS)]
        growing = [_MONTHS[day.month - 1] * _WEEKDAYS[day.weekday()] * (1 + 0.15 * i / DAYS) for i, day in enumerate(days)]
        hours = [day * hour for day in growing for hour in _HOURS]
        drawn = self._chance.choices(range(len(hours)), cum_weights=list(accumulate(hours)), k=tickets)
        return [first + hour * HOUR + self._chance.randrange(HOUR) for hour in drawn]

    def _outages(self, tickets: int) -> list[tuple[int, str | None]]:
        """Bursts of alike incidents, each within hours of one moment."""
        chance = self._chance
        found: list[tuple[int, str | None]] = []
        last = seconds(self._start) + DAYS * DAY - 1
        for outage in range(_OUTAGES):
            began = seconds(self._start) + int((outage + chance.uniform(0.2, 0.8)) * DAYS * DAY / _OUTAGES)
            for _ in range(round(tickets * _OUTAGE_SHARE / _OUTAGES)):
                at = min(began + int(chance.expovariate(1 / (_OUTAGE_HOURS * HOUR))), last)
                found.append((at, _OUT[outage % len(_OUT)]))
        return found

    def _language(self, day: int) -> str:
        drifted = DRIFT_SHARE * (1 - exp(-max(0, day - (DAYS - DRIFT_DAYS)) / _DRIFT_PACE))
        drawn = self._chance.random()
        if drawn < drifted:
            return DRIFTING
        return self._chance.choice(OTHER) if drawn < drifted + OTHER_SHARE else _pick(self._chance, CORE)

    def _about(self, declared: str | None) -> tuple[str, str]:
        kind = "incident" if self._chance.random() < _REAL[declared] else "advisory"
        return kind, _pick(self._chance, _OWNERS[kind])

    def _text(self, language: str, kind: str, department: str) -> _Text:
        return self._chance.choice(self._texts[language, kind, department])

    def _varied(self, text: _Text) -> _Text:
        number = self._chance.randrange(100_000, 999_999)
        where = self._chance.random()
        if not text.subject:
            return text._replace(body=f"{text.body}\n\nref. {number}")
        return text._replace(subject=f"[#{number}] {text.subject}" if where < 0.5 else f"{text.subject} ({number})")


def seconds(day: date) -> int:
    """The beginning of a day, in seconds since 1970."""
    return (day - date(1970, 1, 1)).days * DAY


def _pick(chance: Random, weights: dict[_T, int]) -> _T:
    return chance.choices(list(weights), weights=list(weights.values()))[0]


def _shipped() -> dict[tuple[str, str, str], list[_Text]]:
    found: dict[tuple[str, str, str], list[_Text]] = defaultdict(list)
    for language in (*CORE, *OTHER, DRIFTING):
        for line in (DATA / "tickets" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines():
            ticket = json.loads(line)
            text = _Text(*(ticket[name] for name in _Text._fields))
            found[text.language, text.kind, text.department].append(text)
    return found
