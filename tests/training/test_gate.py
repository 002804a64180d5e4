"""The gate: what it refuses, what it lets pass, what it could not have seen; on answers made by hand, so that the losses are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import bundle
from model.router import Router, Target
from training import gate, paired
from training.compare import Answered, measure
from training.errors import TrainingError
from training.gate import GateSettings
from training.table import TicketTable

KIND = Target("kind", ("advisory", "incident"), 0, 1.0, (0.0, 0.0), 0.9, 0.8, {"incident": 0.1})
LANGUAGES = ("de", "en", "fr", "pl")
N = 800


@pytest.fixture
def judged() -> TicketTable:
    """Half incidents; four languages of 200 tickets."""
    kinds = [KIND.labels[i // 4 % 2] for i in range(N)]
    return TicketTable([f"text {i}" for i in range(N)], {"kind": kinds}, [LANGUAGES[i % 4] for i in range(N)], ("body",))


def answered(table: TicketTable, wrong: list[int], version: str = "a", **changes: Any) -> Answered:
    """A router that is wrong on the tickets `wrong`, holds back those of them that are incidents, and routes all others by itself."""
    truth = np.array(table.labels["kind"])
    is_wrong = np.isin(np.arange(len(table)), wrong)
    labels = np.where(is_wrong, np.where(truth == "incident", "advisory", "incident"), truth)
    usual = Answered(version, {"kind": KIND}, {"kind": labels}, {"kind": np.full(len(table), 0.95)}, ~is_wrong,
                     {("kind", "incident"): is_wrong}, np.zeros(len(table), bool))  # fmt: skip
    return replace(usual, **changes)


def verdict(table: TicketTable, champion: Answered, candidate: Answered, **settings: Any) -> dict[str, Any]:
    figures = measure(table, champion, candidate, np.arange(len(table)), resamples=0)
    return gate.judge(figures, GateSettings(**settings))


def refused(found: dict[str, Any]) -> set[str]:
    assert found["passed"] == all(check["outcome"] != "refused" for check in found["checks"])
    return {check["about"] for check in found["checks"] if check["outcome"] == "refused"}


def of(language: str | None, kind: str | None, table: TicketTable, most: int, start: int = 0) -> list[int]:
    fits = [
        i for i in range(len(table)) if language in (None, table.languages[i]) and kind in (None, table.labels["kind"][i])
    ]  # fmt: skip
    return fits[start : start + most]


def test_a_candidate_that_answers_the_same_passes(judged: TicketTable) -> None:
    wrong = of(None, None, judged, 40)
    assert refused(verdict(judged, answered(judged, wrong), answered(judged, wrong, "b"))) == set()


def test_a_candidate_that_errs_elsewhere_as_often_passes(judged: TicketTable) -> None:
    assert refused(verdict(judged, answered(judged, of(None, None, judged, 40)), answered(judged, of(None, None, judged, 40, 400), "b"))) == set()


def test_a_better_candidate_passes(judged: TicketTable) -> None:
    assert refused(verdict(judged, answered(judged, of(None, None, judged, 80)), answered(judged, of(None, None, judged, 40), "b"))) == set()


def test_a_loss_of_incidents_is_refused_though_the_accuracy_is_the_same(judged: TicketTable) -> None:
    champion = answered(judged, of(None, "advisory", judged, 40))
    candidate = answered(judged, of(None, "incident", judged, 40), "b")
    assert refused(verdict(judged, champion, candidate)) == {"recall of kind incident"}


def test_incidents_that_nothing_holds_back_are_counted(judged: TicketTable) -> None:
    """The same answers, but what was held back is let pass."""
    wrong = of(None, "incident", judged, 30)
    candidate = answered(judged, wrong, "b", held={("kind", "incident"): np.zeros(N, bool)})
    found = measure(judged, answered(judged, wrong), candidate, np.arange(N), resamples=0)
    assert found["targets"]["kind"]["protected"]["incident"]["let_pass"] == {"champion": 0, "candidate": 30}
    assert refused(gate.judge(found)) == {"kind incident not let pass"}


def test_a_loss_in_one_language_is_refused(judged: TicketTable) -> None:
    """Made good elsewhere, so that the whole is as before: only the split by language shows it."""
    champion = answered(judged, of("fr", "advisory", judged, 30))
    candidate = answered(judged, of("pl", "advisory", judged, 30), "b")
    assert refused(verdict(judged, champion, candidate)) == {"accuracy of kind in pl"}


def test_a_language_with_few_tickets_is_not_judged_and_that_is_said(judged: TicketTable) -> None:
    rare = set(of("pl", None, judged, 200, 49))
    kept = [i for i in range(N) if i not in rare]
    small = TicketTable(
        [judged.texts[i] for i in kept], {"kind": [judged.labels["kind"][i] for i in kept]}, [judged.languages[i] for i in kept], ("body",)
    )
    champion, candidate = answered(small, of("fr", "advisory", small, 20)), answered(small, of("pl", "advisory", small, 20), "b")
    found = verdict(small, champion, candidate)
    assert refused(found) == set()
    assert refused(verdict(small, champion, candidate, least=49)) == {"accuracy of kind in pl"}
    (check,) = [check for check in found["checks"] if check["about"] == "accuracy of kind in pl"]
    assert (check["outcome"], check["n"], check["p_value"]) == ("not judged", 49, None)
    assert any("accuracy of kind in pl" in said and "49" in said for said in found["blind"])


def test_a_loss_overall_is_refused_though_no_language_shows_it(judged: TicketTable) -> None:
    candidate = answered(judged, [i for code in LANGUAGES for i in of(code, "advisory", judged, 3)], "b")
    assert refused(verdict(judged, answered(judged, []), candidate)) == {"accuracy of kind"}


def test_a_promise_that_is_not_kept_is_refused(judged: TicketTable) -> None:
    """Both are as often right; the candidate routes what it has wrong."""
    wrong = of(None, "advisory", judged, 110)
    keeps = answered(judged, wrong)
    breaks = answered(judged, wrong, "b", auto=np.ones(N, bool))
    found = verdict(judged, keeps, breaks)
    assert refused(found) == {"promise of kind"}
    (check,) = [check for check in found["checks"] if check["family"] == "promise"]
    assert "0.8625 of 800 routed without a person are right, 0.9 was promised" in check["seen"]
    assert refused(verdict(judged, breaks, replace(keeps, version="b"))) == set()


def test_near_duplicates_are_no_further_evidence(judged: TicketTable) -> None:
    candidate = answered(judged, of("pl", "advisory", judged, 30), "b")
    champion = answered(judged, [])
    alone = np.arange(N)
    together = alone.copy()
    together[of("pl", "advisory", judged, 30)] = of("pl", "advisory", judged, 1)[0]
    figures = [measure(judged, champion, candidate, group, resamples=0) for group in (alone, together)]
    assert "accuracy of kind in pl" in refused(gate.judge(figures[0]))
    assert refused(gate.judge(figures[1])) == set()
    assert figures[1]["targets"]["kind"]["accuracy"]["lost"] == 1


def test_what_the_table_cannot_judge_is_refused(judged: TicketTable) -> None:
    a, b = answered(judged, []), answered(judged, [], "b")
    department = replace(KIND, name="department", protect={})
    wider = replace(a, targets=a.targets | {"department": department})
    assert refused(verdict(judged, wider, b)) == {"target department"}
    calm = of(None, "advisory", judged, N)
    only = TicketTable([judged.texts[i] for i in calm], {"kind": ["advisory"] * len(calm)}, [judged.languages[i] for i in calm], ("body",))
    assert refused(verdict(only, answered(only, []), answered(only, [], "b"))) == {"recall of kind incident", "kind incident not let pass"}
    narrow = replace(b, targets={"kind": replace(KIND, labels=("advisory", "other"), protect={})})
    assert "labels of kind" in refused(verdict(judged, a, narrow))


def test_a_handful_of_tickets_lets_nobody_pass(judged: TicketTable) -> None:
    few = TicketTable(judged.texts[:10], {"kind": judged.labels["kind"][:10]}, judged.languages[:10], ("body",))
    assert "accuracy of kind" in refused(verdict(few, answered(few, []), answered(few, [], "b")))


@pytest.mark.parametrize(
    ("candidate", "champion", "passes"), [(None, None, True), (0, 0, True), (5, 0, False), (5, None, False), (5, 5, True), (0, 5, True)]
)
def test_a_candidate_that_alone_has_seen_the_tickets_is_refused(
    judged: TicketTable, candidate: int | None, champion: int | None, passes: bool
) -> None:
    figures = measure(judged, answered(judged, []), answered(judged, [], "b"), np.arange(N), resamples=0)
    found = gate.judge(figures, None, {"candidate": {"tickets": candidate}, "champion": {"tickets": champion}})
    assert found["passed"] is passes


def test_where_it_lacks_power_it_says_so(judged: TicketTable) -> None:
    found = verdict(judged, answered(judged, []), answered(judged, [], "b"))
    blind = [said for said in found["blind"] if said.startswith("accuracy")]
    # 800 tickets show a loss of 5 points, 200 of a language do too where the two never differ else; with much to and fro they do not.
    assert blind == []
    to_and_fro = verdict(judged, answered(judged, of(None, None, judged, 100)), answered(judged, of(None, None, judged, 100, 400), "b"))
    assert "accuracy of kind in pl: a loss of 5 points could not have been seen with n=200" in "\n".join(to_and_fro["blind"])


def test_the_chance_to_see_a_loss_is_what_simulation_says() -> None:
    rng = np.random.default_rng(0)
    for groups, anyway, loss in ((200, 0.1, 0.08), (400, 0.02, 0.03), (60, 0.2, 0.1)):
        outcomes = rng.choice(3, size=(400, groups), p=[anyway / 2 + loss, anyway / 2, 1 - anyway - loss])
        seen = 0
        for row in outcomes:
            seen += paired.mcnemar(row != 1, row != 0, np.arange(groups))["p_loss"] <= 0.05
        assert paired.power(groups, anyway, loss, 0.05) == pytest.approx(seen / 400, abs=0.12)
    assert paired.power(37, 0.05, 0.05, 0.05) < 0.5
    least = paired.detectable(37, 0.05, 0.05, 0.8)
    assert least is not None
    assert paired.power(37, 0.05, least, 0.05) >= 0.8 > paired.power(37, 0.05, least - 0.01, 0.05)


def test_holm_by_hand() -> None:
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_one_family_in_twenty_at_most_refuses_what_is_as_good(judged: TicketTable) -> None:
    """Four languages each at 5% would refuse one in six; as a family they refuse at most one in twenty."""
    rng = np.random.default_rng(3)
    times, by_language = 60, 0
    for _ in range(times):
        a, b = (rng.permutation(N)[:120].tolist() for _ in "ab")
        by_language += any(
            about.startswith("accuracy of kind in") for about in refused(verdict(judged, answered(judged, a), answered(judged, b, "b")))
        )
    assert by_language / times <= 0.1


# Kept


@pytest.fixture
def homes(router: Router, tmp_path: Path) -> dict[str, Path]:
    return {
        who: bundle.save(replace(router, version=f"2026-11-22T10-00-0{i}Z-3f2a"), tmp_path, {}, {}) for i, who in enumerate(("champion", "candidate"))
    }


def kept(table: TicketTable, homes: dict[str, Path]) -> Path:
    a, b = answered(table, [], homes["champion"].name), answered(table, [], homes["candidate"].name)
    figures = measure(table, a, b, np.arange(N), resamples=10)
    return gate.keep(homes["candidate"].parent, homes, figures, gate.judge(figures), {"tickets": N})


def test_a_verdict_is_kept_with_what_it_was_made_from(judged: TicketTable, homes: dict[str, Path], tmp_path: Path) -> None:
    path = kept(judged, homes)
    names = homes["candidate"].name, homes["champion"].name
    assert path == tmp_path / "comparisons" / "{}-against-{}.json".format(*names)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    found = gate.read(tmp_path, *names)
    assert found is not None
    assert found["manifests"] == {who: bundle.fingerprint(home) for who, home in homes.items()}
    assert found["verdict"]["passed"] is True
    assert found["table"] == {"tickets": N}
    assert "text 1" not in path.read_text(encoding="utf-8")
    assert gate.read(tmp_path, *reversed(names)) is None


@pytest.mark.parametrize("harm", ["bit", "verdict", "cut", "nothing", "deep", "null"])
def test_a_verdict_that_was_changed_is_refused(judged: TicketTable, homes: dict[str, Path], tmp_path: Path, harm: str) -> None:
    path = kept(judged, homes)
    raw = path.read_bytes()
    content = json.loads(raw)
    content["verdict"]["passed"] = False
    changed = {
        "bit": raw.replace(b'"held"', b'"hele"', 1), "verdict": bundle.canonical(content), "cut": raw[:-10], "nothing": b"", "deep": b"[" * 100_000,
        "null": b"null",
    }  # fmt: skip
    assert changed[harm] != raw
    path.write_bytes(changed[harm])
    with pytest.raises(TrainingError, match="compare again"):
        gate.read(tmp_path, homes["candidate"].name, homes["champion"].name)
