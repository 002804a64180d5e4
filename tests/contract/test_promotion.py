"""compare, promote and experiments, as people and schedulers call them: exit codes, what is kept, and what a running service takes."""

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model import bundle, promotions
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT
from tests.contract.test_command_line import lines, run
from tests.serving import listening, wait_until
from training import card, experiments, plots, promotion
from training.fit import Settings as Chosen
from training.fit import Trained
from training.table import TicketTable

EXAM = [ROOT / "data" / "exam" / f"{code}.jsonl" for code in ("fr", "en", "de", "es", "pt")]
SAME, WORSE, HARMED = (f"2026-11-22T10-00-00Z-000{i}" for i in (1, 2, 3))


@pytest.fixture(scope="module")
def prepared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The champion; a candidate that answers the same, and one that takes incidents for advice; each compared with the champion."""
    folder = Path(shutil.copytree(models, tmp_path_factory.mktemp("prepared") / "models"))
    champion = bundle.find(folder)
    router, manifest = bundle.load_with_manifest(champion)
    kind = next(target for target in router.targets if target.name == "kind")
    bias = router.bias.copy()
    bias[kind.first + kind.labels.index("advisory")] += 0.6
    facts = {name: manifest[name] for name in ("trained_on", "settings", "libraries", "metrics")}
    for version, changed in ((SAME, router.bias), (WORSE, bias)):
        bundle.save(replace(router, bias=changed, version=version), folder, facts, {})
    for version, code in ((SAME, 0), (WORSE, 1)):
        assert run("compare", folder, folder / version, *EXAM).exit_code == code
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "models"))


@pytest.fixture
def champion(prepared: Path) -> str:
    return bundle.find(prepared).name


def told(folder: Path) -> list[dict[str, Any]]:
    return lines((folder / promotions.FILE).read_text(encoding="utf-8"))


def test_a_comparison_as_json_says_all_but_the_tickets(folder: Path, champion: str) -> None:
    result = run("compare", folder, folder / WORSE, *EXAM, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    kept = Path(found["kept"])
    assert kept == folder / "comparisons" / f"{WORSE}-against-{champion}.json"
    assert json.loads(kept.read_bytes())["figures"] == found["figures"]
    refused = {check["about"] for check in found["verdict"]["checks"] if check["outcome"] == "refused"}
    assert "recall of kind incident" in refused
    incidents = found["figures"]["targets"]["kind"]["protected"]["incident"]
    assert incidents["recall"]["candidate"] < incidents["recall"]["champion"] - 0.03
    assert set(found["figures"]["targets"]["kind"]["languages"]) == {"fr", "en", "de", "es", "pt"}
    texts = [ticket["body"] for path in EXAM for ticket in lines(path.read_text(encoding="utf-8"))]
    for said in (result.stdout, kept.read_text(encoding="utf-8")):
        assert not [text for text in texts if json.dumps(text)[1:-1] in said or text in said]
    asked = json.loads(run("compare", folder, folder / WORSE, *EXAM, "--json", "--flips", "2").stdout)
    assert 2 <= len(asked["flips"]) <= 8
    assert asked["flips"][0]["text"]


def test_a_comparison_for_people(folder: Path, champion: str, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    result = run("compare", folder, folder / WORSE, *EXAM, "--html", page)
    assert result.exit_code == 1
    assert "the gate REFUSES the candidate" in result.stdout
    assert "routed without a person" in result.stdout
    assert "refused: recall of kind incident" in result.stdout
    assert "not to be seen: accuracy of kind in fr" in result.stdout
    assert "kind is incident, champion right" in result.stdout
    shown = page.read_text(encoding="utf-8")
    assert f"<code>{WORSE}</code> against champion <code>{champion}</code>" in shown
    assert "The gate refuses it" in shown
    assert "<script" not in shown


def test_tickets_that_were_learned_from_are_told_loudly(folder: Path, champion: str, table: TicketTable) -> None:
    seen = ROOT / "data" / "tickets" / "fr.jsonl"
    tickets = len(lines(seen.read_text(encoding="utf-8")))
    result = run("compare", folder, folder / SAME, seen, EXAM[0])
    assert f"WARNING: champion: {champion} has learned from {tickets} of these " in result.stderr
    # The copy has no experiment of its own: it is said that nothing is known of it.
    assert f"WARNING: candidate: it is not known whether {SAME} has learned from some of these tickets" in result.stderr
    shutil.copytree(folder / "experiments" / champion, folder / "experiments" / SAME)
    shutil.rmtree(folder / "experiments" / champion)
    assert run("compare", folder, folder / SAME, EXAM[0], "--json").exit_code == 0
    one_sided = run("compare", folder, folder / SAME, seen, EXAM[0], "--json")
    assert one_sided.exit_code == 1
    checks = [check for check in json.loads(one_sided.stdout)["verdict"]["checks"] if check["outcome"] == "refused"]
    assert [check["about"] for check in checks] == ["tickets that were learned from"]
    shutil.rmtree(folder / "experiments")
    _, manifest = bundle.load_with_manifest(folder / SAME)
    assert experiments.learned(folder / SAME, manifest, table)["tickets"] == len(table)  # by the digest of the whole


def test_the_tiers_of_customers_are_told_apart(folder: Path, tmp_path: Path) -> None:
    tickets = lines(EXAM[0].read_text(encoding="utf-8"))
    path = tmp_path / "tiers.jsonl"
    path.write_text("".join(json.dumps(t | {"customer_tier": ("premium", "basic")[i % 2]}) + "\n" for i, t in enumerate(tickets)), encoding="utf-8")
    found = json.loads(run("compare", folder, folder / SAME, path, "--json").stdout)
    assert {tier: of["n"] for tier, of in found["figures"]["targets"]["kind"]["tiers"].items()} == {
        "premium": (len(tickets) + 1) // 2, "basic": len(tickets) // 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{folder}", "{folder}", "{exam}"), "the same bundle"),
        (("{folder}", "{folder}/nothing", "{exam}"), "neither a bundle"),
        (("{folder}", "{folder}/" + SAME, "nothing.csv"), "no such file"),
        (("{folder}", "{folder}/" + SAME, "{exam}", "--target", "mood=kind"), "none of the targets"),
        (("{folder}", "{folder}/" + SAME, "{exam}", "--html", "{folder}/no/such/page.html"), "cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_compared_is_refused(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("compare", *(one.format(folder=folder, exam=EXAM[0]) for one in arguments))
    assert result.exit_code == 2
    assert said in result.stderr


def test_routers_of_other_labels_are_not_compared(folder: Path, tmp_path: Path) -> None:
    """They would be asked in vain, for minutes."""
    path = tmp_path / "mine.jsonl"
    rows = [{"subject": f"printer {i}", "body": "SECRET " * 9 + str(i), "kind": "Hardware" if i % 2 else "Storage"} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for arguments in (("compare", folder, folder / SAME, path), ("evaluate", folder, path)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "knows none of the table's labels of kind (Hardware, Storage), but advisory, incident: another column" in result.stderr
    slip = run("evaluate", folder, path, "--target", "kind=body")
    assert (slip.exit_code, "SECRET" in slip.stderr) == (2, False)


def test_a_candidate_that_passed_is_promoted_and_again_is_no_matter(folder: Path, champion: str) -> None:
    done = run("promote", SAME, "--models", folder, "--by", "Ada", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"version": SAME, "before": champion, "verdict": "passed", "note": ""}
    assert bundle.find(folder).name == SAME
    first, last = told(folder)
    assert (first["event"], first["from"], first["to"], first["by"]) == ("first", None, champion, "train")
    assert (last["event"], last["from"], last["to"], last["by"], last["verdict"]) == ("promoted", champion, SAME, "Ada", "passed")
    kept = json.loads((folder / "comparisons" / f"{SAME}-against-{champion}.json").read_bytes())
    assert last["comparison"] == kept["digest"]
    for named in (SAME, folder / SAME, f"{folder / SAME}/"):
        again = run("promote", named, "--models", folder)
        assert (again.exit_code, again.stdout) == (0, f"{SAME} is the champion already\n")
    elsewhere = run("promote", folder / SAME, "--models", folder / "other")
    assert elsewhere.exit_code == 2
    assert "name its folder with --models" in elsewhere.stderr
    assert len(told(folder)) == 2


def test_a_candidate_that_was_refused_takes_a_name_and_a_reason(folder: Path, champion: str) -> None:
    for said in ((), ("--by", "Ada"), ("--because", "it must")):
        result = run("promote", WORSE, "--models", folder, *said)
        assert result.exit_code == 1
        assert f"the gate refused {WORSE}: recall of kind incident: " in result.stderr
        assert "--by NAME --because REASON" in result.stderr
        assert bundle.find(folder).name == champion
    assert len(told(folder)) == 1
    assert run("promote", WORSE, "--models", folder, "--by", "Ada", "--because", "the old one is illegal").exit_code == 0
    last = told(folder)[-1]
    assert (last["to"], last["by"], last["reason"], last["verdict"]) == (WORSE, "Ada", "the old one is illegal", "overruled")
    assert len(last["comparison"]) == 64


def test_without_a_comparison_it_says_what_to_run(folder: Path, champion: str) -> None:
    shutil.rmtree(folder / "comparisons")
    result = run("promote", SAME, "--models", folder)
    assert result.exit_code == 1
    assert f"pointsman compare {folder / champion} {folder / SAME} FILES" in result.stderr
    assert run("promote", SAME, "--models", folder, "--by", "Ada", "--because", "no tickets yet").exit_code == 0
    assert told(folder)[-1]["verdict"] == "overruled"


def test_a_comparison_with_an_earlier_champion_is_none(folder: Path) -> None:
    assert run("promote", WORSE, "--models", folder, "--by", "Ada", "--because", "test").exit_code == 0
    result = run("promote", SAME, "--models", folder)
    assert result.exit_code == 1
    assert f"was not compared with the champion {WORSE}" in result.stderr


def test_a_comparison_made_from_another_bundle_is_none(folder: Path, champion: str) -> None:
    router, _ = bundle.load_with_manifest(folder / WORSE)
    shutil.rmtree(folder / SAME)
    bundle.save(replace(router, version=SAME), folder, {}, {})  # the refused one under the name of the one that passed
    result = run("promote", SAME, "--models", folder)
    assert result.exit_code == 1
    assert "was made from other bundles" in result.stderr
    passed = folder / "comparisons" / f"{SAME}-against-{champion}.json"
    shutil.copy(passed, folder / "comparisons" / f"{WORSE}-against-{champion}.json")
    result = run("promote", WORSE, "--models", folder)
    assert result.exit_code == 1
    assert "was made from other bundles" in result.stderr
    passed.write_bytes(passed.read_bytes().replace(b'"n": 1', b'"n": 2', 1))
    assert run("promote", SAME, "--models", folder).exit_code == 1
    assert bundle.find(folder).name == champion


@pytest.mark.parametrize("version", [HARMED, "2026-11-22T10-00-00Z-beef", "latest", "../models", ""])
def test_a_version_that_is_none_is_refused_even_with_a_reason(folder: Path, champion: str, version: str) -> None:
    if version == HARMED:
        shutil.copytree(folder / SAME, folder / HARMED)
        (folder / HARMED / bundle.ARRAYS).write_bytes(b"nothing")
    assert run("promote", version, "--models", folder, "--by", "Ada", "--because", "test").exit_code == 2
    assert bundle.find(folder).name == champion
    assert len(told(folder)) == 1


@pytest.mark.parametrize("said", [("--rollback",), ("--rollback", "--by", "Ada"), (SAME, "--rollback"), (), (SAME, "--by", "A\nB", "--because", "x"),
                                  (SAME, "--by", "A", "--because", "x" * 1001)])  # fmt: skip
def test_words_that_are_missing_or_too_many_are_refused(folder: Path, champion: str, said: tuple[str, ...]) -> None:
    assert run("promote", "--models", folder, *said).exit_code == 2
    assert bundle.find(folder).name == champion


def test_the_way_back(folder: Path, champion: str) -> None:
    back = ("promote", "--models", folder, "--rollback", "--by", "Bo", "--because", "more moves")
    first = run(*back)
    assert first.exit_code == 1
    assert "no champion before" in first.stderr
    run("promote", SAME, "--models", folder)
    run("promote", WORSE, "--models", folder, "--by", "Ada", "--because", "test")
    for expected in (SAME, champion):
        assert run(*back).exit_code == 0
        assert bundle.find(folder).name == expected
        last = told(folder)[-1]
        assert (last["event"], last["to"], last["by"], last["reason"]) == ("rolled_back", expected, "Bo", "more moves")
    assert run(*back).exit_code == 1


KILLED = """
import os, sys
from pathlib import Path
from model import bundle, promotions
from training import promotion
for owner, name in ((promotions.Record, "add"), (bundle, "write"), (os, "replace")):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 77 << 8
    else:
        setattr(owner, name, lambda *_: os._exit(77))
        promotion.promote(Path(sys.argv[1]), sys.argv[2])
        os._exit(0)
    print(bundle.find(Path(sys.argv[1])).name)
"""


def test_a_promotion_that_is_killed_leaves_the_old_champion_and_the_next_one_says_so(folder: Path, champion: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, SAME], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (killed.stdout.split(), killed.returncode) == ([champion] * 3, 0), killed.stderr
    # The first left no line; the second found nothing amiss and left one that did not come true; the third said so, and left another.
    assert [line["event"] for line in told(folder)] == ["first", "promoted", "found", "promoted"]
    healed = run("promote", SAME, "--models", folder)
    assert healed.exit_code == 0
    assert f"{SAME} was to serve, and {champion} does: a promotion was cut short" in healed.stderr
    assert bundle.find(folder).name == SAME
    assert [line["event"] for line in told(folder)][-2:] == ["found", "promoted"]
    assert run("promote", "--rollback", "--models", folder, "--by", "Bo", "--because", "test").exit_code == 0
    assert bundle.find(folder).name == champion


def test_two_promotions_at_once(folder: Path, champion: str) -> None:
    """Each was compared with the champion; the second to come was not compared with the first."""
    bundle.save(replace(bundle.load(folder / SAME), version=HARMED), folder, {}, {})
    assert run("compare", folder, folder / HARMED, *EXAM).exit_code == 0
    outcomes: list[str] = []

    def one(version: str) -> None:
        try:
            outcomes.append(promotion.promote(folder, version).version)
        except promotion.Refused:
            outcomes.append("refused")

    threads = [threading.Thread(target=one, args=(version,)) for version in (SAME, HARMED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 1
    (winner,) = set(outcomes) - {"refused"}
    assert bundle.find(folder).name == winner
    assert [(line["from"], line["to"]) for line in told(folder)] == [(None, champion), (champion, winner)]


def test_a_running_service_takes_what_is_promoted_and_goes_back(folder: Path, champion: str, tmp_path: Path) -> None:
    settings = Settings(model=folder, database_url=f"sqlite:///{tmp_path}/pointsman.db", watch_seconds=0.05)
    with listening(create_app(settings)) as port:

        def serves(version: str) -> bool:
            return bool(httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).json()["model_version"] == version)

        assert serves(champion)
        run("promote", WORSE, "--models", folder)
        time.sleep(0.3)
        assert serves(champion)
        run("promote", SAME, "--models", folder)
        wait_until(lambda: serves(SAME), "the candidate serves", 30)
        run("promote", "--rollback", "--models", folder, "--by", "Bo", "--because", "test")
        wait_until(lambda: serves(champion), "the old champion serves", 30)


# Experiments


def test_a_training_leaves_its_experiment(trained: Trained, folder: Path, champion: str, table: TicketTable) -> None:
    home = folder / "experiments" / champion
    names = {path.name for path in home.iterdir()}
    assert {"settings.json", "figures.json", "figures.md", "learned.npy"} <= names
    assert {"reliability-1-kind.svg", "risk-1-kind.svg", "reliability-2-department.svg", "risk-2-department.svg"} <= names
    figures = json.loads((home / "figures.json").read_bytes())
    manifest = json.loads((folder / champion / bundle.MANIFEST).read_bytes())
    assert figures["trained_on"]["data_digest"] == manifest["trained_on"]["data_digest"]
    assert figures["trained_on"]["label_counts"]["kind"] == {label: table.labels["kind"].count(label) for label in ("advisory", "incident")}
    assert figures["cross_validation"]["targets"]["kind"]["accuracy"] == trained.metrics["targets"]["kind"]["accuracy"]
    assert json.loads((home / "settings.json").read_bytes()) == manifest["settings"]
    page = (home / "figures.md").read_text(encoding="utf-8")
    for row in trained.metrics["targets"]["department"]["confusion"]:
        assert "| " + " | ".join(map(str, row)) + " |" in page
    for path in home.glob("*.svg"):
        assert path.read_bytes().startswith(b"<?xml")
        assert b"<script" not in path.read_bytes()
    kept = b"".join(path.read_bytes() for path in home.iterdir())
    assert not [text for text in table.texts[:200] if text.encode() in kept]


def saved(trained: Trained, table: TicketTable, folder: Path, version: str, chosen: Chosen) -> Path:
    return card.save(replace(trained, router=replace(trained.router, version=version)), table, chosen, folder)


def test_experiments_are_listed_and_compared(trained: Trained, table: TicketTable, tmp_path: Path) -> None:
    saved(trained, table, tmp_path, SAME, Chosen())
    other = replace(trained, metrics=trained.metrics | {"near_duplicates": 77})
    saved(other, table, tmp_path, WORSE, Chosen(seed=5, promises={"kind": 0.9}))
    shutil.rmtree(tmp_path / WORSE)
    found = json.loads(run("experiments", "list", "--models", tmp_path, "--json").stdout)
    assert [(one["version"], one["champion"], one["bundle"], one["tickets"]) for one in found] == [
        (SAME, True, True, len(table)), (WORSE, False, False, len(table)),
    ]  # fmt: skip
    assert found[0]["targets"]["kind"]["accuracy"] == trained.metrics["targets"]["kind"]["accuracy"]
    shown = run("experiments", "list", "--models", tmp_path).stdout
    recall = trained.metrics["targets"]["kind"]["protected"]["incident"]["recall"]["share"]
    for said in (SAME, WORSE, "champion", "no bundle", str(trained.metrics["targets"]["department"]["macro_f1"]), f"incident {recall}"):
        assert said in shown
    differ = json.loads(run("experiments", "compare", SAME, WORSE, "--models", tmp_path, "--json").stdout)
    assert differ["settings"] == [["seed", 0, 5], ["promises.kind", None, 0.9]]
    names = [name for name, *_ in differ["figures"]]
    assert names == ["cross_validation.near_duplicates", "trained_on.settings_digest"]
    shown = run("experiments", "compare", SAME, WORSE, "--models", tmp_path).stdout
    assert "promises.kind" in shown
    assert "near_duplicates" not in shown
    assert "near_duplicates" in run("experiments", "compare", SAME, WORSE, "--models", tmp_path, "--all").stdout
    for wrong in ("2026-11-22T10-00-00Z-beef", "../" + SAME):
        assert run("experiments", "compare", SAME, wrong, "--models", tmp_path).exit_code == 2
    (tmp_path / "experiments" / WORSE / "figures.json").write_bytes(b"[]")
    found = json.loads(run("experiments", "list", "--models", tmp_path, "--json").stdout)
    assert found[1]["error"] == "not an experiment's figures"
    assert run("experiments", "list", "--models", tmp_path).exit_code == 0
    assert json.loads(run("experiments", "list", "--models", tmp_path / "none", "--json").stdout) == []


def test_a_plot_or_a_disk_that_fails_loses_no_bundle(trained: Trained, table: TicketTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plots, "risk", lambda *_: 1 / 0)
        with pytest.warns(UserWarning, match="plots of the experiment cannot be drawn: ZeroDivisionError"):
            bundle.load(saved(trained, table, tmp_path, SAME, Chosen()))
    assert (tmp_path / "experiments" / SAME / "figures.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.warns(UserWarning, match="its experiment is not kept"):
            bundle.load(saved(trained, table, tmp_path, WORSE, Chosen()))
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == [SAME]


def test_an_experiment_costs_a_training_next_to_nothing(trained: Trained, table: TicketTable, tmp_path: Path) -> None:
    begun = time.process_time()
    saved(trained, table, tmp_path, SAME, Chosen())
    assert time.process_time() - begun < 5
