"""From a ticket to a decision: what the router says of it, whether it may be acted on, where it goes and why.

Reason codes, in the order in which they are looked for:

- ``empty``: nothing readable is left after cleaning;
- ``unfamiliar``: few of the words were seen in training, so the labels mean little;
- ``unknown_language``: a language the router did not learn;
- ``unsure_<target>``: the confidence is under the threshold that keeps the promise;
- ``possible_<label>``: the label is not the most probable, but too probable to be passed over (an incident).
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from model import language
from model.cleaning import clean
from model.policy import Policy, Route
from model.router import Answers, Router, Target

KIND = "kind"  # the target that decides on `suggest`, and that a customer declares

Action = Literal["auto", "suggest", "review"]


class Ticket(NamedTuple):
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


class Decider:
    """A router and a policy, ready to decide tickets."""

    def __init__(self, router: Router, policy: Policy) -> None:
        self.router = router
        self.policy = policy
        by_name = {target.name: target for target in router.targets}
        self._routed = tuple(by_name[name] for name in policy.route_on if name in by_name) or router.targets
        self._leading = by_name.get(KIND, self._routed[0])
        self._thresholds = {target.name: self._threshold(target) for target in router.targets}
        self._involving = by_name.get(policy.involve or "")
        self._protected = [
            (target.name, label, target.labels.index(label), limit) for target in router.targets for label, limit in target.protect.items()
        ]
        if router.languages is not None:
            self._learned = frozenset(router.languages.labels)
        else:
            self._learned = frozenset([router.only_language] if router.only_language else [])
        # Tickets are many, routes are few. Not a method: the cache would hold its owner, and a router that was replaced would stay in
        # memory until the collector comes by.
        self._route = lru_cache(maxsize=4096)(partial(_find_route, policy, tuple(target.name for target in router.targets)))

    def decide(self, tickets: Sequence[Ticket], *, explain: bool = False, advise: bool = False) -> list[Decision]:
        """Decide each ticket; the answers come in the order of `tickets`, each as if it had been asked alone."""
        return self.decide_cleaned(tickets, self.clean(tickets), explain=explain, advise=advise)

    @staticmethod
    def clean(tickets: Sequence[Ticket]) -> list[str]:
        """What is to be read of each ticket."""
        return [clean(ticket.subject, ticket.body) for ticket in tickets]

    def decide_cleaned(self, tickets: Sequence[Ticket], texts: list[str], *, explain: bool = False, advise: bool = False) -> list[Decision]:
        """`decide` for who has the cleaned `texts` of the `tickets` already."""
        told = [language.normalise(ticket.language) if ticket.language else None for ticket in tickets]
        answers = self.router.answer(texts, told, explain=explain)
        asked = [
            (target.name, target.labels, answers.top[target.name].tolist(), answers.probabilities[target.name].tolist())
            for target in self.router.targets
        ]
        decisions = []
        for i, (ticket, known) in enumerate(zip(tickets, answers.familiar, strict=True)):
            labels: dict[str, LabelAnswer] = {}
            for name, names, top, probabilities in asked:
                row = probabilities[i]
                guesses: list[Guess] = [{"label": names[k], "confidence": round(row[k], 4)} for k in top[i] if k >= 0]
                labels[name] = {"label": guesses[0]["label"], "confidence": guesses[0]["confidence"], "alternatives": guesses[1:]}
            text = texts[i]
            code, sure = answers.languages[i]
            action, reasons = self._act(i, bool(texts[i]), known, code, answers, labels)
            decided = tuple(answer["label"] for answer in labels.values())
            queue, priority, minutes = self._route(
                decided, code, ticket.customer_tier, ticket.channel, ticket.country, ticket.declared_kind, action, tuple(reasons)
            )
            kind = labels.get(KIND)
            decision: Decision = {
                "model_version": self.router.version,
                "path": "fast",
                "language": {"code": code, "confidence": sure},
                "labels": labels,
                "action": action,
                "reasons": reasons,
                "also_involve": self._involved(i, answers, labels) if texts[i] else [],
                "route": {"queue": queue, "priority": priority, "respond_within_minutes": minutes},
                "misdirected": kind["label"] != ticket.declared_kind if kind and ticket.declared_kind else None,
            }
            if advise:
                decision["advice"] = self._advice(decision, ticket.declared_kind)
            if explain:
                decision["explanation"] = {
                    target.name: [
                        {"text": text[(begin := int(start)) : (stop := int(end))], "weight": round(weight, 3), "start": begin, "end": stop}
                        for start, end, weight in phrases
                    ]
                    for target, phrases in zip(self.router.targets, answers.phrases[i], strict=True)
                }
            decisions.append(decision)
        return decisions

    def _threshold(self, target: Target) -> float:
        # No confidence keeps the promise: none is enough.
        learned = 2.0 if target.threshold is None else target.threshold
        return max(learned, self.policy.thresholds.get(target.name, 0.0))

    def _act(self, i: int, text: bool, familiar: bool, code: str, answers: Answers, labels: dict[str, LabelAnswer]) -> tuple[Action, list[str]]:
        """The action for answer `i`, and its reasons."""
        if not text:
            return "review", ["empty"]
        reasons: list[str] = []
        if not familiar:
            reasons.append("unfamiliar")
        if code not in self._learned:
            reasons.append("unknown_language")
        strange = bool(reasons)
        unsure = [t.name for t in self._routed if labels[t.name]["confidence"] < self._thresholds[t.name]]
        reasons += [f"unsure_{name}" for name in unsure]
        missed = [
            f"possible_{label}"
            for name, label, place, limit in self._protected
            if labels[name]["label"] != label and answers.probabilities[name][i, place] >= limit
        ]
        reasons += missed
        if strange:
            return "review", reasons
        if not unsure and not missed:
            return "auto", reasons
        leading = self._leading.name
        return ("suggest" if labels[leading]["confidence"] >= self._thresholds[leading] else "review"), reasons

    def _involved(self, i: int, answers: Answers, labels: dict[str, LabelAnswer]) -> list[str]:
        """Further labels of the policy's `involve` target whose own one-against-the-rest score says yes."""
        target = self._involving
        if target is None:
            return []
        decided = labels[target.name]["label"]
        scores = answers.scores[i, target.columns].tolist()
        return [label for label, score in zip(target.labels, scores, strict=True) if score > 0 and label != decided]

    def _advice(self, decision: Decision, declared: str | None) -> dict[str, str] | None:
        """For a ticket that was declared a protected kind and surely is none: the better channel and a kind word."""
        surely = decision["misdirected"] and decision["action"] != "review" and declared in self._leading.protect
        if not surely or any(reason == f"possible_{declared}" for reason in decision["reasons"]):
            return None
        return {"channel": self.policy.advice.channel, "message": self.policy.message(decision["language"]["code"])}


def decide(router: Router, policy: Policy, tickets: Sequence[Ticket], *, explain: bool = False, advise: bool = False) -> list[Decision]:
    """`Decider.decide` for one call; who decides ticket after ticket keeps a Decider."""
    return Decider(router, policy).decide(tickets, explain=explain, advise=advise)


def _find_route(
    policy: Policy, targets: tuple[str, ...], labels: tuple[str, ...], code: str, tier: str | None, channel: str | None, country: str | None,
    declared: str | None, action: Action, reasons: tuple[str, ...],
) -> Route:  # fmt: skip
    facts: dict[str, str | None] = dict(zip(targets, labels, strict=True))
    facts |= {"language": code, "customer_tier": tier, "channel": channel, "country": country, "declared_kind": declared, "action": action}
    return policy.route(facts, reasons)
