"""From a ticket to a decision: what the router says of it, whether it may be acted on, where it goes and why.

Reason codes, in the order in which they are looked for:

- ``empty``: nothing readable is left after cleaning;
- ``unfamiliar``: few of the words were seen in training, or on the deep path it is unlike every ticket there, so the labels mean little;
- ``unknown_language``: a language the router did not learn; on the deep path that rules out `auto`, on the fast path it means `review`;
- ``unsure_<target>``: the confidence is under the threshold that keeps the promise;
- ``possible_<label>``: the label is not the most probable, but too probable to be passed over (an incident).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from model import language
from model.cleaning import clean
from model.encoder import Encoder
from model.errors import EncoderError
from model.policy import Policy, Route
from model.router import Answers, Router, Target

DEEP_NOTE = "The words tell what the fast path made of them. The deep path read the text as a whole, which no words of it can account for."
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
    explanation_note: NotRequired[str]


class _Limits(NamedTuple):
    """`least`: for each target the confidence that is enough; `protected`: (target, label, its place, the probability from which it is not
    passed over)."""

    least: dict[str, float]
    protected: list[tuple[str, str, int, float]]


class Decider:
    """A router and a policy, ready to decide tickets."""

    def __init__(self, router: Router, policy: Policy) -> None:
        self.router = router
        self.policy = policy
        by_name = {target.name: target for target in router.targets}
        self._routed = tuple(name for name in policy.route_on if name in by_name) or tuple(by_name)
        self._leading = by_name.get(KIND, by_name[self._routed[0]])
        self._involving = by_name.get(policy.involve or "")
        # Each way of answering has its own calibration, and so its own thresholds.
        ways = [router.targets, *([router.deep.mixed, router.deep.alone] if router.deep else [])]
        self._limits = {id(targets): self._limits_of(targets) for targets in ways}
        # Tickets are many, routes are few. Not a method: the cache would hold its owner, and a router that was replaced would stay in
        # memory until the collector comes by.
        self._route = lru_cache(maxsize=4096)(partial(_find_route, policy, tuple(target.name for target in router.targets)))

    def decide(
        self, tickets: Sequence[Ticket], *, explain: bool = False, advise: bool = False, encoder: Encoder | None = None,
        failed: Callable[[EncoderError], None] = lambda error: None,
    ) -> list[Decision]:  # fmt: skip
        """Decide each ticket; the answers come in the order of `tickets`, each as if it had been asked alone.

        With an `encoder` the deep path is asked for the doubtful ones. Where the encoder fails, which `failed` is told, the fast path's
        answers stand.
        """
        texts = self.clean(tickets)
        answers = self.answer(tickets, texts, explain=explain)
        decisions = self.conclude(tickets, texts, answers, explain=explain, advise=advise)
        doubtful = [i for i, doubt in enumerate(answers.doubtful) if doubt] if encoder else []
        if encoder and doubtful:
            try:
                embeddings = encoder.encode([texts[i] for i in doubtful])
            except EncoderError as error:
                failed(error)
            else:
                again = self.reconsider([tickets[i] for i in doubtful], [texts[i] for i in doubtful], embeddings, explain=explain, advise=advise)
                for i, decision in zip(doubtful, again, strict=True):
                    decisions[i] = decision
        return decisions

    def reconsider(
        self, tickets: Sequence[Ticket], texts: list[str], embeddings: NDArray[np.float32], *, explain: bool = False, advise: bool = False
    ) -> list[Decision]:
        """The deep path's decisions on tickets whose cleaned `texts` have these `embeddings`."""
        answers = self.answer(tickets, texts, explain=explain, embeddings=embeddings)
        return self.conclude(tickets, texts, answers, explain=explain, advise=advise)

    @staticmethod
    def clean(tickets: Sequence[Ticket]) -> list[str]:
        """What is to be read of each ticket."""
        return [clean(ticket.subject, ticket.body) for ticket in tickets]

    def answer(self, tickets: Sequence[Ticket], texts: list[str], *, explain: bool = False, embeddings: NDArray[np.float32] | None = None) -> Answers:
        """What the router says of the cleaned `texts` of the `tickets`; see `Router.answer`."""
        told = [language.normalise(ticket.language) if ticket.language else None for ticket in tickets]
        return self.router.answer(texts, told if any(told) else None, explain=explain, embeddings=embeddings)

    def conclude(
        self, tickets: Sequence[Ticket], texts: list[str], answers: Answers, *, explain: bool = False, advise: bool = False
    ) -> list[Decision]:
        """The decisions that follow from the router's `answers`, by the thresholds and the policy."""
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
                "path": answers.path,
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
                if answers.path == "deep":
                    decision["explanation_note"] = DEEP_NOTE
            decisions.append(decision)
        return decisions

    def _limits_of(self, targets: tuple[Target, ...]) -> "_Limits":
        # Where no confidence keeps the promise, none is enough.
        least = {t.name: max(2.0 if t.threshold is None else t.threshold, self.policy.thresholds.get(t.name, 0.0)) for t in targets}
        protected = [(t.name, label, t.labels.index(label), limit) for t in targets for label, limit in t.protect.items()]
        return _Limits(least, protected)

    def _act(self, i: int, text: bool, familiar: bool, code: str, answers: Answers, labels: dict[str, LabelAnswer]) -> tuple[Action, list[str]]:
        """The action for answer `i`, and its reasons."""
        if not text:
            return "review", ["empty"]
        reasons = [] if familiar else ["unfamiliar"]
        # Without its words the fast path knows nothing of a text. The deep path does, but what it promises was not shown in that language:
        # a person sees its answer first.
        strange = bool(reasons)
        foreign = code not in self.router.learned
        if foreign:
            reasons.append("unknown_language")
            strange = strange or answers.path == "fast"
        limits = self._limits[id(answers.targets[i])]
        before = len(reasons)
        reasons += [f"unsure_{name}" for name in self._routed if labels[name]["confidence"] < limits.least[name]]
        for name, label, place, limit in limits.protected:
            if labels[name]["label"] != label and answers.probabilities[name][i, place] >= limit:
                reasons.append(f"possible_{label}")
        if strange:
            return "review", reasons
        if len(reasons) == before and not foreign:
            return "auto", reasons
        leading = self._leading.name
        return ("suggest" if labels[leading]["confidence"] >= limits.least[leading] else "review"), reasons

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
