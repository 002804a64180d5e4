"""From a ticket to a decision: what the router says of it, whether it may be acted on, where it goes and why.

Reason codes, in the order in which they are looked for:

- ``empty``: nothing readable is left after cleaning;
- ``unfamiliar``: few of the words were seen in training, so the labels mean little;
- ``unknown_language``: a language the router did not learn;
- ``unsure_<target>``: the confidence is under the threshold that keeps the promise;
- ``possible_<label>``: the label is not the most probable, but too probable to be passed over (an incident).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from model import language
from model.cleaning import clean
from model.policy import Policy
from model.router import Answers, Router, Target

KIND = "kind"  # the target that decides on `suggest`, and that a customer declares

Action = Literal["auto", "suggest", "review"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a customer sent and what is known of it. `language` is any BCP 47 tag; one that is not valid is ignored."""

    subject: str = ""
    body: str = ""
    language: str | None = None
    channel: str | None = None
    declared_kind: str | None = None
    customer_tier: str | None = None
    country: str | None = None


class Guess(TypedDict):
    label: str
    confidence: float


class LabelAnswer(Guess):
    alternatives: list[Guess]


class PulledBy(TypedDict):
    """`start` and `end`: where the phrase stands in the cleaned text."""

    text: str
    weight: float
    start: int
    end: int


class Decision(TypedDict):
    """DESIGN's decision, less what storage adds to it (`decision_id`, `ticket_id`)."""

    model_version: str
    path: Literal["fast", "deep"]
    language: dict[str, Any]
    labels: dict[str, LabelAnswer]
    action: Action
    reasons: list[str]
    also_involve: list[str]
    route: dict[str, Any]
    misdirected: bool | None
    advice: NotRequired[dict[str, str] | None]
    explanation: NotRequired[dict[str, list[PulledBy]]]


def decide(router: Router, policy: Policy, tickets: Sequence[Ticket], *, explain: bool = False, advise: bool = False) -> list[Decision]:
    """Decide each ticket; the answers come in the order of `tickets`, each as if it had been asked alone."""
    texts = [clean(ticket.subject, ticket.body) for ticket in tickets]
    told = [language.normalise(ticket.language) if ticket.language else None for ticket in tickets]
    answers = router.answer(texts, told)
    top = {name: ranks.tolist() for name, ranks in answers.top.items()}
    listed = {name: probabilities.tolist() for name, probabilities in answers.probabilities.items()}
    judge = _Judge(router, policy)
    decisions = []
    for i, ticket in enumerate(tickets):
        labels: dict[str, LabelAnswer] = {}
        for target in router.targets:
            row = listed[target.name][i]
            guesses: list[Guess] = [{"label": target.labels[k], "confidence": round(row[k], 4)} for k in top[target.name][i] if k >= 0]
            labels[target.name] = {**guesses[0], "alternatives": guesses[1:]}
        code, sure = answers.languages[i]
        action, reasons = judge.act(i, texts[i], answers, labels)
        facts = {name: answer["label"] for name, answer in labels.items()} | {
            "language": code, "customer_tier": ticket.customer_tier, "channel": ticket.channel,
            "country": ticket.country, "declared_kind": ticket.declared_kind, "action": action,
        }  # fmt: skip
        queue, priority, minutes = policy.route(facts, reasons)
        kind = labels.get(KIND)
        misdirected = kind["label"] != ticket.declared_kind if kind and ticket.declared_kind else None
        decision: Decision = {
            "model_version": router.version,
            "path": "fast",
            "language": {"code": code, "confidence": sure},
            "labels": labels,
            "action": action,
            "reasons": list(reasons),
            "also_involve": judge.involved(i, answers, labels),
            "route": {"queue": queue, "priority": priority, "respond_within_minutes": minutes},
            "misdirected": misdirected,
        }
        if advise:
            decision["advice"] = judge.advice(code, decision, ticket.declared_kind)
        if explain:
            columns = [target.first + top[target.name][i][0] for target in router.targets]
            decision["explanation"] = {
                target.name: [phrase._asdict() for phrase in phrases]  # type: ignore[misc]
                for target, phrases in zip(router.targets, router.explain(texts[i], columns), strict=True)
            }
        decisions.append(decision)
    return decisions


class _Judge:
    """What a bundle's thresholds and a policy's make of the answers."""

    def __init__(self, router: Router, policy: Policy) -> None:
        self.router = router
        self.policy = policy
        by_name = {target.name: target for target in router.targets}
        self.routed = tuple(by_name[name] for name in policy.route_on if name in by_name) or router.targets
        self.leading = by_name.get(KIND, self.routed[0])
        self.thresholds = {target.name: self._threshold(target) for target in router.targets}
        self.involving = by_name.get(policy.involve or "")
        if router.languages is not None:
            self.learned = frozenset(router.languages.labels)
        else:
            self.learned = frozenset([router.only_language] if router.only_language else [])

    def _threshold(self, target: Target) -> float:
        # No confidence keeps the promise: none is enough.
        learned = 2.0 if target.threshold is None else target.threshold
        return max(learned, self.policy.thresholds.get(target.name, 0.0))

    def act(self, i: int, text: str, answers: Answers, labels: dict[str, LabelAnswer]) -> tuple[Action, tuple[str, ...]]:
        """The action for answer `i`, and its reasons."""
        if not text:
            return "review", ("empty",)
        reasons: list[str] = []
        if answers.known[i] < self.router.least_known * answers.words[i] or answers.words[i] == 0:
            reasons.append("unfamiliar")
        if answers.languages[i][0] not in self.learned:
            reasons.append("unknown_language")
        strange = bool(reasons)
        unsure = [t.name for t in self.routed if labels[t.name]["confidence"] < self.thresholds[t.name]]
        reasons += [f"unsure_{name}" for name in unsure]
        missed = []
        for target in self.router.targets:
            for label, limit in target.protect.items():
                probable = answers.probabilities[target.name][i, target.labels.index(label)] >= limit
                if probable and labels[target.name]["label"] != label:
                    missed.append(f"possible_{label}")
        reasons += missed
        if strange or self.leading.name in unsure:
            return "review", tuple(reasons)
        return ("suggest" if unsure or missed else "auto"), tuple(reasons)

    def involved(self, i: int, answers: Answers, labels: dict[str, LabelAnswer]) -> list[str]:
        """Further labels of the policy's `involve` target whose own one-against-the-rest score says yes."""
        target = self.involving
        if target is None:
            return []
        decided = labels[target.name]["label"]
        scores = answers.scores[i, target.columns].tolist()
        return [label for label, score in zip(target.labels, scores, strict=True) if score > 0 and label != decided]

    def advice(self, code: str, decision: Decision, declared: str | None) -> dict[str, str] | None:
        """For a ticket that was declared a protected kind and surely is none: the better channel and a kind word."""
        surely = decision["misdirected"] and decision["action"] != "review" and declared in self.leading.protect
        if not surely or any(reason == f"possible_{declared}" for reason in decision["reasons"]):
            return None
        return {"channel": self.policy.advice.channel, "message": self.policy.message(code)}
