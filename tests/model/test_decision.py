"""Decisions: each action and each reason, by a small router whose every word has known scores."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model import tokens
from model.cleaning import clean
from model.decision import Decision, Ticket, decide
from model.policy import Policy
from model.router import MOST_PHRASES, Router, Target
from model.scoring import Rows

DEPARTMENTS = ("domains", "hosting", "network")
# Columns: advisory incident | domains hosting network | en pt de. Probabilities are a plain softmax of these.
WORDS = {
    "transfer": (3, -3, 4, -4, -4, 4, -4, -4),  # surely advisory, surely domains
    "outage": (-3, 3, -4, -4, 4, 4, -4, -4),  # surely an incident of the network
    "queda": (-3, 3, -4, -4, 4, -4, 4, -4),  # the same in Portuguese
    "whatever": (3, -3, -1, -1, -1, 4, -4, -4),  # advisory, of any department
    "hmm": (0, 0, 4, -4, -4, 4, -4, -4),  # domains, of either kind
    "shrug": (0, 0, -1, -1, -1, 4, -4, -4),  # says nothing
    "slow": (1, -1, 4, -4, -4, 4, -4, -4),  # advisory at .88, an incident at .12
    "chain": (-3, 3, 1, 4, -4, 4, -4, -4),  # hosting first, but domains too
    "murmur": (3, -3, 4, -4, -4, 0, 0, 0),  # in no language the head knows
}


def head(name: str, labels: tuple[str, ...], first: int, threshold: float | None) -> Target:
    return Target(name, labels, first, 1.0, (0.0,) * len(labels), 0.95, threshold)


def small_router() -> Router:
    hashes = np.array([tokens.words(word).hashes[0] for word in WORDS], np.uint64)
    rows = Rows.build(hashes, np.array([[*row, 1] for row in WORDS.values()], np.float32), len(hashes), 1)
    kind = replace(head("kind", ("advisory", "incident"), 0, 0.8), protect={"incident": 0.1})
    languages = head("language", ("en", "pt", "de"), 5, None)
    version = "2026-11-22T10-00-00Z-3f2a"
    return Router(rows, np.zeros(8, np.float32), (kind, head("department", DEPARTMENTS, 2, 0.7)), languages, None, 0.5, ("subject", "body"), version)


SMALL = small_router()


def with_target(name: str, **changes: Any) -> Router:
    return replace(SMALL, targets=tuple(replace(target, **changes) if target.name == name else target for target in SMALL.targets))


def one(policy: Policy, body: str, router: Router = SMALL, *, explain: bool = False, advise: bool = False, **known: Any) -> Decision:
    return decide(router, policy, [Ticket(body=body, **known)], explain=explain, advise=advise)[0]


def columns(kept: slice, **changes: Any) -> Router:
    """The small router with some of its columns only."""
    values = np.concatenate([SMALL.rows.values[:, kept], SMALL.rows.values[:, -1:]], axis=1)
    return replace(SMALL, rows=replace(SMALL.rows, values=values), bias=SMALL.bias[kept], **changes)


def outcome(decision: Decision) -> tuple[str, list[str]]:
    return decision["action"], decision["reasons"]


@pytest.mark.parametrize(
    ("body", "action", "reasons"),
    [
        ("Transfer?", "auto", []),
        ("outage", "auto", []),
        ("whatever", "suggest", ["unsure_department"]),
        ("hmm", "review", ["unsure_kind", "possible_incident"]),
        ("shrug", "review", ["unsure_kind", "unsure_department", "possible_incident"]),
        ("slow", "suggest", ["possible_incident"]),
        ("", "review", ["empty"]),
        ("\u200b \n", "review", ["empty"]),
        ("<p><img src=x></p>", "review", ["empty"]),
        ("transfer wibbling thinghood", "review", ["unfamiliar"]),  # of no meaning, but English by its letters
        ("...", "review", ["unfamiliar", "unknown_language", "unsure_kind", "unsure_department", "possible_incident"]),
    ],
    ids=str,
)
def test_action_and_reasons(policy: Policy, body: str, action: str, reasons: list[str]) -> None:
    # A "?" is a word that the router does not know: half of the words known is still familiar.
    assert outcome(one(policy, body)) == (action, reasons)


def test_half_of_the_words_known_is_familiar_less_is_not(policy: Policy) -> None:
    assert outcome(one(policy, "transfer zzyzzx")) == ("auto", [])
    assert one(policy, "transfer zzyzzx", replace(SMALL, least_known=0.51))["reasons"][0] == "unfamiliar"
    assert "unfamiliar" not in one(policy, "zzyzzx", replace(SMALL, least_known=0.0))["reasons"]


def test_an_unknown_language_goes_to_a_person(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(one(policy, "transfer", language="fi")) == ("review", ["unknown_language"])
    monkeypatch.setattr("model.language.detect", lambda text: ("fi", 0.9))
    unsure = one(policy, "murmur")
    assert unsure["language"] == {"code": "fi", "confidence": 0.9}
    assert outcome(unsure) == ("review", ["unknown_language"])


def test_a_router_of_one_language_doubts_it_where_the_words_are_unknown(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.language.detect", lambda text: ("fi", 0.9))
    english = columns(slice(0, 5), languages=None, only_language="en", least_known=0.0)
    short, long = "transfer zzyzzx qwrtz", "transfer zzyzzxxxxxxxxxxxxx qwrtzzzzzzzzzzz"  # one word of three is enough in a short text only
    known, fair, unknown = decide(english, policy, [Ticket(body="transfer"), Ticket(body=short), Ticket(body=long)])
    assert (known["language"], outcome(known)) == ({"code": "en", "confidence": 1.0}, ("auto", []))
    assert fair["language"] == {"code": "en", "confidence": pytest.approx(0.3333, abs=1e-4)}
    assert (unknown["language"], unknown["reasons"]) == ({"code": "fi", "confidence": 0.9}, ["unknown_language"])


def test_a_told_language_wins(policy: Policy) -> None:
    assert one(policy, "transfer")["language"] == {"code": "en", "confidence": pytest.approx(0.9993, abs=1e-4)}
    told = one(policy, "transfer", language="pt-BR")
    assert told["language"] == {"code": "pt", "confidence": 1.0}
    assert told["route"]["queue"] == "advice-domains-pt"
    assert outcome(told) == ("auto", [])
    assert one(policy, "murmur", language="pt")["reasons"] == []
    assert one(policy, "transfer", language="no such tag")["language"]["code"] == "en"


@pytest.mark.parametrize("name", ["kind", "department"])
def test_a_confidence_on_the_threshold_meets_it(policy: Policy, name: str) -> None:
    p = one(policy, "transfer")["labels"][name]["confidence"]
    assert outcome(one(policy, "transfer", with_target(name, threshold=p))) == ("auto", [])
    assert f"unsure_{name}" in one(policy, "transfer", with_target(name, threshold=p + 1e-4))["reasons"]


@pytest.mark.parametrize(("name", "action"), [("kind", "review"), ("department", "suggest")])
def test_where_no_confidence_keeps_the_promise_nothing_is_routed_alone(policy: Policy, name: str, action: str) -> None:
    certain = {word: tuple(100 * score for score in row) for word, row in WORDS.items()}
    values = np.array([[*row, 1] for row in certain.values()], np.float32)
    rows = Rows.build(np.array([tokens.words(word).hashes[0] for word in certain], np.uint64), values, len(certain), 1)
    decision = one(policy, "transfer", replace(with_target(name, threshold=None), rows=rows))
    assert decision["labels"][name]["confidence"] == 1.0
    assert outcome(decision) == (action, [f"unsure_{name}"])
    lowered = policy.model_copy(update={"thresholds": {name: 0.0}})
    assert outcome(one(lowered, "transfer", with_target(name, threshold=None))) == (action, [f"unsure_{name}"])


def test_the_policy_raises_thresholds(policy: Policy) -> None:
    assert outcome(one(policy.model_copy(update={"thresholds": {"kind": 0.999}}), "transfer")) == ("review", ["unsure_kind"])
    assert outcome(one(policy.model_copy(update={"thresholds": {"department": 0.9999}}), "transfer")) == ("suggest", ["unsure_department"])
    assert outcome(one(policy.model_copy(update={"thresholds": {"kind": 0.99, "unknown": 1.0}}), "transfer")) == ("auto", [])


def test_the_policy_never_lowers_thresholds(policy: Policy) -> None:
    lowered = policy.model_copy(update={"thresholds": {"kind": 0.0, "department": 0.0}})
    assert decide(SMALL, lowered, [Ticket(body=word) for word in WORDS]) == decide(SMALL, policy, [Ticket(body=word) for word in WORDS])


@pytest.mark.parametrize(
    ("route_on", "body", "action", "reasons"),
    [
        (("department",), "hmm", "review", ["possible_incident"]),
        (("department",), "transfer", "auto", []),
        (("kind",), "whatever", "auto", []),
        (("kind", "no such target"), "whatever", "auto", []),
        ((), "whatever", "suggest", ["unsure_department"]),
        (("no such target",), "whatever", "suggest", ["unsure_department"]),
        # `suggest` asks that the kind is sure, also where the policy does not route on it.
        (("department",), "shrug", "review", ["unsure_department", "possible_incident"]),
    ],
)
def test_the_policy_says_which_targets_must_be_sure(policy: Policy, route_on: tuple[str, ...], body: str, action: str, reasons: list[str]) -> None:
    assert outcome(one(policy.model_copy(update={"route_on": route_on}), body)) == (action, reasons)


@pytest.mark.parametrize(("limit", "action"), [(0.0, "suggest"), (0.1, "suggest"), (0.13, "auto")])
def test_a_probable_incident_is_never_routed_as_advisory(policy: Policy, limit: float, action: str) -> None:
    for route_on in (("kind", "department"), ("department",), ("kind",)):
        decision = one(policy.model_copy(update={"route_on": route_on}), "slow", with_target("kind", protect={"incident": limit}))
        assert decision["labels"]["kind"]["label"] == "advisory"
        assert outcome(decision) == (action, ["possible_incident"] if action == "suggest" else [])


def test_an_incident_that_is_decided_is_not_merely_possible(policy: Policy) -> None:
    assert outcome(one(policy, "outage", with_target("kind", protect={"incident": 0.0}))) == ("auto", [])


def test_labels_name_the_most_probable_and_up_to_three_others(policy: Policy, router: Router) -> None:
    decision = one(policy, "My server does not boot", router)
    probabilities = router.answer(["My server does not boot"]).probabilities
    for target in router.targets:
        answer = decision["labels"][target.name]
        order = np.argsort(-probabilities[target.name][0])
        ranked = [(target.labels[k], round(float(probabilities[target.name][0, k]), 4)) for k in order]
        found = [(guess["label"], guess["confidence"]) for guess in (answer, *answer["alternatives"])]
        assert found == ranked[:4]


@pytest.mark.parametrize(
    ("declared", "body", "misdirected"),
    [("incident", "transfer", True), ("advisory", "transfer", False), ("incident", "outage", False), ("advisory", "outage", True),
     (None, "transfer", None), ("", "transfer", None), ("incident", "shrug", True)],
)  # fmt: skip
def test_misdirected_compares_with_what_was_declared(policy: Policy, declared: str | None, body: str, misdirected: bool | None) -> None:
    assert one(policy, body, declared_kind=declared)["misdirected"] is misdirected


def test_a_router_without_kinds_says_nothing_of_misdirection(policy: Policy) -> None:
    only_department = columns(slice(2, 5), targets=(head("department", DEPARTMENTS, 0, 0.7),), languages=None, only_language="en")
    decision = one(policy, "transfer", only_department, advise=True, declared_kind="incident")
    assert decision["misdirected"] is None
    assert decision["advice"] is None
    assert outcome(decision) == ("auto", [])


@pytest.mark.parametrize(
    ("body", "declared", "language", "advised"),
    [
        ("transfer", "incident", "pt", True),
        ("whatever", "incident", None, True),  # the department may be unsure: what is advised is another channel
        ("slow", "incident", None, False),  # it may be an incident after all
        ("shrug", "incident", None, False),
        ("", "incident", None, False),
        ("outage", "incident", None, False),
        ("outage", "advisory", None, False),  # nobody is told to hurry up
        ("transfer", "advisory", None, False),
        ("transfer", None, None, False),
        ("transfer", "question", None, False),
        ("transfer", "incident", "fi", False),  # not a language that the router knows
    ],
)
def test_advice_is_given_only_when_sure(policy: Policy, body: str, declared: str | None, language: str | None, advised: bool) -> None:
    decision = one(policy, body, advise=True, declared_kind=declared, language=language)
    message = {"channel": "chat", "message": policy.message(language or "en")}
    assert decision["advice"] == (message if advised else None)


def test_advice_and_explanation_come_only_when_asked_for(policy: Policy) -> None:
    assert set(one(policy, "transfer")) == {
        "model_version", "path", "language", "labels", "action", "reasons", "also_involve", "route", "misdirected",
    }  # fmt: skip
    assert set(one(policy, "transfer", explain=True, advise=True)) - set(one(policy, "transfer")) == {"advice", "explanation"}


def test_further_departments_are_involved_where_their_own_score_says_yes(policy: Policy) -> None:
    chain = one(policy, "chain")
    assert chain["labels"]["department"]["label"] == "hosting"
    assert chain["also_involve"] == ["domains"]
    assert one(policy, "transfer")["also_involve"] == []
    for involve in (None, "no such target"):
        assert one(policy.model_copy(update={"involve": involve}), "chain")["also_involve"] == []


def test_an_empty_ticket_involves_nobody(policy: Policy) -> None:
    eager = replace(SMALL, bias=np.array([0, 0, 1, 2, 1, 0, 0, 0], np.float32))
    assert one(policy, "", eager)["also_involve"] == []


def test_the_explanation_names_the_phrases_and_their_places(policy: Policy) -> None:
    decision = decide(SMALL, policy, [Ticket("Please", "TRANSFER, hmm")], explain=True)[0]
    cleaned = "Please\nTRANSFER, hmm"
    kind, department = decision["explanation"]["kind"], decision["explanation"]["department"]
    assert [phrase["text"] for phrase in kind] == ["TRANSFER", "Please", "hmm"]
    assert [phrase["text"] for phrase in department] == ["TRANSFER, hmm", "Please"]
    for phrase in (*kind, *department):
        assert cleaned[phrase["start"] : phrase["end"]] == phrase["text"]
    assert department[0]["weight"] == pytest.approx(8 / np.sqrt(2), abs=1e-3)
    assert one(policy, "", explain=True)["explanation"] == {"kind": [], "department": []}


def test_the_explanation_is_the_strongest_phrases_of_the_best_labels(policy: Policy, router: Router, tickets: list[dict[str, str]]) -> None:
    bodies = [ticket["body"] for ticket in tickets[::40]]
    for body, decision in zip(bodies, decide(router, policy, [Ticket(body=body) for body in bodies], explain=True), strict=True):
        for target in router.targets:
            best = target.labels.index(decision["labels"][target.name]["label"])
            strongest = router.explain(clean("", body), [target.first + best])[0][:MOST_PHRASES]
            told = decision["explanation"][target.name]
            assert [(phrase["text"], phrase["start"], phrase["end"]) for phrase in told] == [(p.text, p.start, p.end) for p in strongest]
            assert [phrase["weight"] for phrase in told] == pytest.approx([p.weight for p in strongest], abs=1e-3)


def test_the_route_is_the_policys(policy: Policy) -> None:
    premium = one(policy, "outage", customer_tier="premium", language="pt")
    assert premium["route"] == {"queue": "incident-network-premium", "priority": "urgent", "respond_within_minutes": 15}
    assert one(policy, "queda")["route"]["queue"] == "incident-network-pt"
    assert one(policy, "slow transfer", language="fi")["route"]["queue"] == "triage-en"


def test_a_decision_is_plain_json(policy: Policy, tickets: list[dict[str, str]], router: Router) -> None:
    chosen = [Ticket(ticket["subject"], ticket["body"], declared_kind="incident") for ticket in tickets[::60]]
    decisions = decide(router, policy, [*chosen, Ticket()], explain=True, advise=True)
    assert json.loads(json.dumps(decisions, allow_nan=False)) == decisions
    assert decide(router, policy, []) == []


def test_no_ticket_of_the_corpus_that_may_be_an_incident_is_routed_as_advisory(policy: Policy, tickets: list[dict[str, str]], router: Router) -> None:
    decisions = decide(router, policy, [Ticket(ticket["subject"], ticket["body"], ticket["language"]) for ticket in tickets])
    limit = router.targets[0].protect["incident"]
    routed = [decision["labels"]["kind"] for decision in decisions if decision["action"] == "auto"]
    assert len(routed) > len(tickets) / 2
    for kind in routed:
        assert kind["label"] == "incident" or kind["alternatives"][0]["confidence"] < limit
