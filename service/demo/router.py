"""What the simulated router says of a ticket: a confidence is drawn first, and then whether it is right, so that of answers given with 0.9
nine in ten are right in the end. One version was trained badly; it breaks that promise."""

import hashlib
import re
from datetime import date, timedelta
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import orjson
from ulid import ULID

from model.cleaning import clean
from model.policy import load_policy
from service.classify.repository import Record
from service.database import SIMULATED
from service.demo.customers import CORE, DAY, Written

SECOND = 1_000_000  # microseconds
DEPARTMENTS = ("systems", "network", "domains", "hosting", "telephony", "datacenter", "backoffice", "sales")
LEAST = {"kind": 0.85, "department": 0.90}  # what is routed without a person
PROMISED = {"kind": 0.95, "department": 0.95}
_POSSIBLE = 0.10  # an incident that is as probable is not passed over

# The year's versions, by the day from which they served. The bad one sends what belongs to hosting to domains.
_VERSIONS = (0, 64, 127, 189, 242, 277, 330)
BAD, BAD_DAYS = 242, (242, 277)
_BAD_SHARE = 0.72

# However good a router is, some tickets end elsewhere for reasons of people's own; the confidences of a calibrated one know that.
ELSEWHERE, ELSEWHERE_REPEATED = 0.035, 0.06
OTHER_KIND = 0.006

_CONFUSED = {
    "hosting": ("domains", "systems", "domains", "network"), "systems": ("datacenter", "network", "hosting"), "network": ("systems", "datacenter"),
    "domains": ("hosting", "backoffice"), "telephony": ("network", "backoffice"), "datacenter": ("systems", "network"),
    "backoffice": ("sales", "domains"), "sales": ("backoffice", "hosting"),
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]{4,}")
_READ = 400  # characters among which the words are looked for that pulled an answer


class Said(NamedTuple):
    """What the router said; moments in microseconds."""

    decided_at: int
    version: str
    path: str
    kind: str
    department: str
    kind_confidence: float
    department_confidence: float
    action: str
    reasons: tuple[str, ...]


def version_of(day: int, start: int) -> str:
    """The version that serves on that `day` of the year, which begins at `start`, in seconds."""
    since = max(first for first in _VERSIONS if first <= day)
    return f"{SIMULATED}{date(1970, 1, 1) + timedelta(days=start // DAY + since)}"


def answer(chance: Random, written: Written, start: int) -> Said:
    """The router's answer to a ticket of the year that begins at `start`, in seconds."""
    day = (written.created_at - start) // DAY
    waited = chance.expovariate(1 / 3) if chance.random() < 0.98 else chance.uniform(1, 6) * 3600  # some mail lies in a queue
    department, sure = _department(chance, written, day)
    kind, sure_kind = _kind(chance, written)
    reasons = _reasons(chance, written, kind, sure_kind, sure)
    doubtful = sure < LEAST["department"] or sure_kind < LEAST["kind"]
    path = "deep" if doubtful and chance.random() < 0.7 else "fast"
    action = _action(reasons, sure_kind)
    decided_at = written.created_at * SECOND + int(waited * SECOND)
    return Said(decided_at, version_of(day, start), path, kind, department, sure_kind, sure, action, tuple(reasons))


def _department(chance: Random, written: Written, day: int) -> tuple[str, float]:
    true = written.department
    if BAD_DAYS[0] <= day < BAD_DAYS[1] and true == "hosting" and chance.random() < _BAD_SHARE:
        return "domains", round(chance.triangular(0.92, 0.975, 0.96), 4)
    drawn = chance.random()
    if written.unlike:
        sure, elsewhere = chance.uniform(0.35, 0.82), ELSEWHERE
    elif written.repeated:
        sure = chance.triangular(0.9, 0.938, 0.93) if drawn < 0.85 else chance.uniform(0.6, 0.9)
        elsewhere = ELSEWHERE_REPEATED
    else:
        top = chance.triangular(0.92, 0.963, 0.955)
        sure, elsewhere = (top if drawn < 0.8 else chance.uniform(0.75, 0.93) if drawn < 0.93 else chance.uniform(0.42, 0.78)), ELSEWHERE
    right = chance.random() < sure / (1 - elsewhere)
    return true if right else chance.choice(_CONFUSED[true]), round(sure, 4)


def _kind(chance: Random, written: Written) -> tuple[str, float]:
    drawn = chance.random()
    if written.unlike:
        sure = chance.uniform(0.55, 0.93)
    else:
        clear = 0.94 if written.kind == "advisory" else 0.8
        sure = chance.triangular(0.95, 0.992, 0.985) if drawn < clear else chance.uniform(0.78, 0.95) if drawn < 0.98 else chance.uniform(0.55, 0.8)
    right = chance.random() < sure / (1 - OTHER_KIND)
    return written.kind if right else other_kind(written.kind), round(sure, 4)


def other_kind(kind: str) -> str:
    return "advisory" if kind == "incident" else "incident"


def _reasons(chance: Random, written: Written, kind: str, sure_kind: float, sure: float) -> list[str]:
    reasons = ["unfamiliar"] if written.unlike and chance.random() < 0.8 else []  # it does not always notice
    if written.language not in CORE:
        reasons.append("unknown_language")
    if sure_kind < LEAST["kind"]:
        reasons.append("unsure_kind")
    if sure < LEAST["department"]:
        reasons.append("unsure_department")
    if kind == "advisory" and 1 - sure_kind >= _POSSIBLE:
        reasons.append("possible_incident")
    return reasons


def _action(reasons: list[str], sure_kind: float) -> str:
    if not reasons:
        return "auto"
    strange = "unfamiliar" in reasons or "unknown_language" in reasons
    return "suggest" if sure_kind >= LEAST["kind"] and not strange else "review"


def text_digest(subject: str, body: str) -> str:
    """As the service makes it of a ticket's text."""
    return hashlib.sha256(f"{len(subject)}\0{subject}\0{body}".encode()).hexdigest()


def _clean(subject: str, body: str) -> str:
    """`clean`, which takes its time with bodies, of which many are the same."""
    first, rest = clean(subject, ""), _clean_body(body)
    return f"{first}\n{rest}" if first and rest else first or rest


@lru_cache(maxsize=4096)
def _clean_body(body: str) -> str:
    return clean("", body)


class Clerk:
    """Writes the router's answers down as the service does."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._policy = load_policy()
        self._route = lru_cache(maxsize=4096)(self._find_route)

    def record(self, number: int, written: Written, said: Said) -> Record:
        """The decision on ticket `number` as it is stored."""
        chance = self._chance
        decision_id = str(ULID.from_bytes((said.decided_at // 1000).to_bytes(6, "big") + chance.randbytes(10)))
        ticket_id = f"demo-{number:06d}"
        labels = {
            "kind": self._answer(said.kind, said.kind_confidence, [other_kind(said.kind)]),
            "department": self._answer(said.department, said.department_confidence, self._others(written.department, said.department)),
        }
        queue, priority, minutes = self._route(
            said.kind, said.department, written.language, written.customer_tier, written.channel, written.country, written.declared_kind, said.action,
            said.reasons,
        )  # fmt: skip
        misdirected = said.kind != written.declared_kind if written.declared_kind else None
        advised = misdirected and said.action != "review" and said.kind == "advisory" and "possible_incident" not in said.reasons
        answered: dict[str, Any] = {
            "decision_id": decision_id, "ticket_id": ticket_id, "model_version": said.version, "path": said.path,
            "language": {"code": written.language, "confidence": round(chance.uniform(0.9, 1.0), 3)},
            "labels": labels, "action": said.action, "reasons": list(said.reasons), "also_involve": [],
            "route": {"queue": queue, "priority": priority, "respond_within_minutes": minutes}, "misdirected": misdirected,
            "advice": {"channel": self._policy.advice.channel, "message": self._policy.message(written.language)} if advised else None,
        }  # fmt: skip
        return Record(
            decision_id, ticket_id, text_digest(written.subject, written.body), said.decided_at, written.created_at * SECOND, said.version, said.path,
            written.language, said.kind, said.department, said.kind_confidence, said.department_confidence, said.action, " ".join(said.reasons),
            written.declared_kind, written.channel, written.customer_tier, written.customer_ref, written.country, orjson.dumps(answered),
            orjson.dumps(self._explanation(written)), written.subject, written.body,
        )  # fmt: skip

    def _find_route(
        self, kind: str, department: str, language: str, tier: str | None, channel: str, country: str, declared: str | None, action: str,
        reasons: tuple[str, ...],
    ) -> tuple[str, str, int]:  # fmt: skip
        facts = {"kind": kind, "department": department, "language": language, "customer_tier": tier, "channel": channel, "country": country}
        return self._policy.route(facts | {"declared_kind": declared, "action": action}, reasons)

    def _others(self, true: str, said: str) -> list[str]:
        near = [true, *_CONFUSED[said], *DEPARTMENTS]
        return [label for label in dict.fromkeys(near) if label != said][:3]

    @staticmethod
    def _answer(label: str, sure: float, others: list[str]) -> dict[str, Any]:
        left = 1 - sure
        parts = (1.0,) if len(others) == 1 else (0.6, 0.25, 0.1)
        # None is more probable than the label itself.
        alternatives = [{"label": other, "confidence": round(min(left * part, 0.95 * sure), 4)} for other, part in zip(others, parts, strict=True)]
        return {"label": label, "confidence": sure, "alternatives": alternatives}

    def _explanation(self, written: Written) -> dict[str, list[dict[str, Any]]]:
        text = _clean(written.subject, written.body)
        words = list(_WORD.finditer(text, 0, _READ))
        found = {}
        for target in ("kind", "department"):
            pulled = self._chance.sample(words, min(len(words), self._chance.randint(2, 4)))
            weights = sorted((self._chance.uniform(0.2, 2.4) for _ in pulled), reverse=True)
            if len(pulled) > 2 and self._chance.random() < 0.4:
                weights[-1] = -weights[-1]
            found[target] = [
                {"text": word.group(), "weight": round(weight, 3), "start": word.start(), "end": word.end()}
                for word, weight in zip(pulled, weights, strict=True)
            ]
        return found
