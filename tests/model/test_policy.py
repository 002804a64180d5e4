"""The policy and the taxonomy: the shipped ones, the rules, and what is wrong with a file, said with its name and field."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from model.errors import PolicyError
from model.policy import PLACES, Policy, Route, load_policy
from model.taxonomy import DATA, LARGEST_FILE, load_taxonomy, read_yaml

SHIPPED: dict[str, Any] = yaml.safe_load((DATA / "policy.yaml").read_text(encoding="utf-8"))
LAST = {"queue": "rest", "priority": "low", "respond_within_minutes": 600}
FACTS = {"kind": "incident", "department": "network", "language": "de", "action": "auto", "customer_tier": None}


def policy_with(**fields: Any) -> Policy:
    return Policy.model_validate(SHIPPED | fields)


def rules(*first: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"queue": f"rule-{i}", "priority": "normal", "respond_within_minutes": 60} | rule for i, rule in enumerate(first)] + [LAST]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def test_the_shipped_taxonomy_is_the_one_described() -> None:
    taxonomy = load_taxonomy()
    assert list(taxonomy.targets) == ["kind", "department"]
    assert list(taxonomy.targets["kind"].labels) == ["incident", "advisory"]
    assert list(taxonomy.targets["department"].labels) == [
        "systems", "network", "domains", "hosting", "telephony", "datacenter", "backoffice", "sales",
    ]  # fmt: skip
    assert {group: len(codes) for group, codes in taxonomy.languages.items()} == {"core": 7, "further": 33}


def test_only_incidents_are_protected() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.protected("kind") == ("incident",)
    assert taxonomy.protected("department") == ()
    assert taxonomy.protected("no such target") == ()


def test_the_shipped_policy_speaks_every_core_language() -> None:
    policy, taxonomy = load_policy(), load_taxonomy()
    assert set(policy.languages) == set(taxonomy.languages["core"])
    messages = [policy.message(code) for code in taxonomy.languages["core"]]
    assert len(set(messages)) == 7
    assert policy.message("fi") == policy.message("en")


def test_the_shipped_policy_has_a_route_for_every_ticket() -> None:
    policy, taxonomy = load_policy(), load_taxonomy()
    kinds, departments = (list(target.labels) for target in taxonomy.targets.values())
    for kind, department, action, tier, reason in product(
        kinds, departments, ("auto", "suggest", "review"), (None, "premium", "free"), ("", "possible_incident")
    ):
        facts = {"kind": kind, "department": department, "action": action, "customer_tier": tier, "language": "pt"}
        route = policy.route(facts, (reason,) if reason else ())
        assert route.queue.startswith("triage-" if action == "review" else ("incident-" if kind == "incident" else "advice-") + department)
        assert not set("{}") & set(route.queue)


@pytest.mark.parametrize(
    ("facts", "reasons", "route"),
    [
        ({"kind": "incident", "department": "network", "customer_tier": "premium"}, (), Route("incident-network-premium", "urgent", 15)),
        ({"kind": "incident", "department": "network"}, (), Route("incident-network-de", "high", 60)),
        ({"kind": "advisory", "department": "sales", "customer_tier": "premium"}, (), Route("advice-sales-premium", "high", 120)),
        ({"kind": "advisory", "department": "sales"}, (), Route("advice-sales-de", "normal", 480)),
        ({"kind": "advisory", "action": "review"}, ("unfamiliar",), Route("triage-de", "normal", 120)),
        ({"kind": "advisory", "action": "review"}, ("unfamiliar", "possible_incident"), Route("triage-de", "high", 30)),
        ({"kind": "incident", "action": "review"}, ("empty",), Route("triage-de", "high", 30)),
        # Labels of somebody's own, which no rule knows.
        ({"kind": "question"}, (), Route("any-de", "normal", 240)),
        ({"department": "Hardware"}, (), Route("Hardware-de", "normal", 240)),
        ({"department": "Hardware", "action": "review"}, (), Route("triage-de", "normal", 120)),
    ],
)
def test_the_routes_of_the_shipped_policy(facts: dict[str, str], reasons: tuple[str, ...], route: Route) -> None:
    assert load_policy().route({"language": "de", "action": "auto"} | facts, reasons) == route


def test_the_rule_that_the_readme_shows_holds_where_it_says() -> None:
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(  - when: .*?)```", readme, re.DOTALL)
    policy = policy_with(rules=yaml.safe_load(shown) + SHIPPED["rules"])
    facts = {"department": "Network", "customer_tier": "premium", "language": "de", "action": "auto"}
    assert policy.route(facts, ()) == Route("noc", "urgent", 15)
    assert policy.route(facts | {"customer_tier": None}, ()) == Route("Network-de", "normal", 240)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"kind": "incident"}, True),
        ({"kind": "incident", "language": "fr"}, False),
        ({"language": ["fr", "de"]}, True),
        ({"language": ["fr", "it"]}, False),
        ({"language": []}, False),
        ({"customer_tier": "premium"}, False),
        ({"reason": "unsure_kind"}, True),
        ({"reason": ["empty", "unfamiliar"]}, True),
        ({"reason": "empty"}, False),
        ({"reason": "unsure_kind", "kind": "advisory"}, False),
        ({"unknown": "x"}, False),
    ],
)
def test_a_rule_holds_where_all_of_it_does(when: dict[str, Any], holds: bool) -> None:
    policy = policy_with(rules=rules({"when": when}))
    assert policy.route(FACTS, ("unfamiliar", "unsure_kind")).queue == ("rule-0" if holds else "rest")


def test_the_first_rule_that_holds_gives_the_route() -> None:
    policy = policy_with(rules=rules({"when": {"kind": "advisory"}}, {"when": {"kind": "incident"}}, {}))
    assert policy.route(FACTS, ()) == Route("rule-1", "normal", 60)


def test_places_in_a_queue_are_filled_from_the_ticket() -> None:
    queue = "/".join(f"{{{place}}}" for place in PLACES) + "{{}}"
    policy = policy_with(rules=rules({"queue": queue}), languages=["de"], fallback_language="en")
    known = {"kind": "k", "department": "d", "language": "de", "customer_tier": "{kind}", "channel": "web", "country": "PT"}
    assert policy.route(known, ()).queue == "k/d/de/{kind}/web/PT{}"
    assert policy.route({"language": "fi"}, ()).queue == "any/any/en/any/any/any{}"


@pytest.mark.parametrize("queue", ["{secret}", "{kind.__class__}", "{kind!r}", "{kind:>9999999}", "{}", "{0}", "{kind[0]}", "{kind", "}"])
def test_a_queue_with_another_place_is_refused(queue: str) -> None:
    with pytest.raises(ValidationError):
        policy_with(rules=rules({"queue": queue}))


@pytest.mark.parametrize(
    "fields",
    [
        {"rules": []},
        {"rules": [LAST | {"when": {"kind": "incident"}}]},
        {"fallback_language": "fi"},
        {"thresholds": {"kind": 1.1}},
        {"thresholds": {"kind": -0.1}},
        {"thresholds": {"kind": float("nan")}},
        {"rules": [LAST | {"priority": "soon"}]},
        {"rules": [LAST | {"respond_within_minutes": 0}]},
        {"rules": [LAST | {"respond_within_minutes": 10**9}]},
        {"advice": {"channel": "pigeon", "messages": {"en": "Hi"}}},
        {"format": 2},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy_with(**fields)


def test_a_policy_is_read_from_the_file_that_is_named(file: Path) -> None:
    file.write_text(yaml.safe_dump(SHIPPED | {"route_on": ["kind"]}), encoding="utf-8")
    assert load_policy(file) == load_policy().model_copy(update={"route_on": ("kind",)})


def test_the_error_names_the_file_and_the_field(file: Path) -> None:
    file.write_text(yaml.safe_dump(SHIPPED | {"rules": [LAST | {"priority": "soon"}]}), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"policy\.yaml: rules\.0\.priority: .*'urgent'"):
        load_policy(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{", b"a: [1", b"\xff", b"\x00", b"a: !!python/object/apply:os.getcwd []", b"? [1]\n: 2", b"*nothing",
     b"a: 2026-13-45", b"a: 0x_", b"a: " + b"9" * 5000, b"[" * 5000],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_file_that_is_no_policy_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=r"policy\.yaml: "):
        load_policy(file)


def test_a_file_that_is_not_there_or_too_large_is_refused(file: Path) -> None:
    with pytest.raises(PolicyError, match=r"policy\.yaml: cannot be read"):
        load_policy(file)
    with pytest.raises(PolicyError, match="cannot be read"):
        load_taxonomy(file.parent)
    file.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(PolicyError, match=f"larger than {LARGEST_FILE} bytes"):
        read_yaml(file, Policy)


def test_a_taxonomy_needs_two_labels_for_a_target(file: Path) -> None:
    file.write_text("{format: 1, languages: {core: [en]}, targets: {kind: {question: What, labels: {a: {definition: A}}}}}", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"targets\.kind\.labels"):
        load_taxonomy(file)
