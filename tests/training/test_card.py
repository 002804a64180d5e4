import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import bundle
from model.taxonomy import load_taxonomy
from training import card
from training.evaluate import evaluate
from training.fit import Settings, Trained, fit
from training.table import TicketTable


def some_of(table: TicketTable, which: range) -> TicketTable:
    labels = {name: [values[i] for i in which] for name, values in table.labels.items()}
    return TicketTable([table.texts[i] for i in which], labels, [table.languages[i] for i in which], table.text_columns)


@pytest.fixture(scope="module")
def small(table: TicketTable) -> TicketTable:
    return some_of(table, range(0, len(table), len(table) // 165))


@pytest.fixture(scope="module")
def learned(small: TicketTable) -> Trained:
    return fit(small, Settings(), load_taxonomy())


def named(trained: Trained, number: int) -> Trained:
    return replace(trained, router=replace(trained.router, version=f"2026-11-22T10-00-0{number}Z-abcd"))


def manifest(home: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((home / bundle.MANIFEST).read_text(encoding="utf-8"))
    return content


def test_a_bundle_says_what_it_was_made_of(learned: Trained, small: TicketTable, tmp_path: Path) -> None:
    settings = Settings(promises={"kind": 0.93}, seed=4)
    facts = manifest(card.save(learned, small, settings, tmp_path / "models"))
    assert facts["trained_on"]["tickets"] == len(small)
    assert facts["settings"]["promises"] == {"kind": 0.93}
    assert facts["settings"]["seed"] == 4
    assert facts["settings"]["cost"] == learned.chosen["cost"]
    assert facts["settings"]["recipe"] == learned.chosen["recipe"]
    assert facts["settings"]["tried"] == learned.chosen["tried"]
    assert facts["libraries"]["numpy"] == np.__version__
    assert set(facts["libraries"]) == set(card.LIBRARIES)
    assert set(facts["metrics"]) == {"kind", "department"}
    assert facts["metrics"]["kind"]["accuracy"] == learned.metrics["targets"]["kind"]["accuracy"]


def test_the_digests_change_with_the_data_and_the_settings_and_with_nothing_else(learned: Trained, small: TicketTable, tmp_path: Path) -> None:
    other_label = replace(small, labels={**small.labels, "kind": small.labels["kind"][::-1]})
    cases = [(small, Settings()), (small, Settings()), (small, Settings(seed=1)), (other_label, Settings()),
             (replace(small, texts=[small.texts[0] + "!", *small.texts[1:]]), Settings()), (replace(small, ids=["renamed"]), Settings())]  # fmt: skip
    made = [manifest(card.save(named(learned, i), data, settings, tmp_path))["trained_on"] for i, (data, settings) in enumerate(cases)]
    data = [facts["data_digest"] for facts in made]
    assert data[0] == data[1] == data[2] == data[5]
    assert len({data[0], data[3], data[4]}) == 3
    settings = [facts["settings_digest"] for facts in made]
    assert len(set(settings)) == 2
    assert settings[2] != settings[0]


def test_the_first_bundle_is_the_champion_and_the_second_a_candidate(learned: Trained, small: TicketTable, tmp_path: Path) -> None:
    first, second = (card.save(named(learned, i), small, Settings(), tmp_path) for i in (1, 2))
    assert (tmp_path / bundle.CHAMPION).read_text(encoding="ascii").strip() == first.name
    assert second.is_dir()
    assert bundle.find(tmp_path) == first


def test_what_is_saved_loads_as_the_router_it_was(learned: Trained, small: TicketTable, tmp_path: Path) -> None:
    router = bundle.load(card.save(learned, small, Settings(), tmp_path))
    before, after = (r.answer(small.texts[:20]).probabilities["department"] for r in (learned.router, router))
    assert np.array_equal(before, after)
    assert router.targets == learned.router.targets


def test_all_figures_stand_in_the_metrics(learned: Trained, small: TicketTable, tmp_path: Path) -> None:
    test = evaluate(learned.router, small)
    home = card.save(learned, small, Settings(), tmp_path, test)
    saved = json.loads((home / bundle.METRICS).read_text(encoding="utf-8"))
    assert saved["cross_validation"]["targets"]["department"]["confusion"] == learned.metrics["targets"]["department"]["confusion"]
    assert saved["test"]["tickets"] == len(small)
    assert manifest(home)["files"][bundle.METRICS]["sha256"] == hashlib.sha256((home / bundle.METRICS).read_bytes()).hexdigest()


def test_the_card_shows_each_figure_with_its_baseline(trained: Trained) -> None:
    shown = card.card(trained, None)
    assert trained.router.version in shown
    assert f"{trained.metrics['tickets']} tickets" in shown
    assert "de, en, es, fr, it, pl, pt" in shown
    for name, figures in trained.metrics["targets"].items():
        assert f"### {name}" in shown
        accuracy = figures["accuracy"]
        assert f"Accuracy {accuracy['share']} {[float(bound) for bound in accuracy['interval']]} (n {accuracy['n']})" in shown
        assert f"always saying *{figures['majority']['label']}* would give {float(figures['majority']['accuracy'])}" in shown
        for label in figures["labels"]:
            assert f"| {label} | " in shown
    assert "Recall of *incident*" in shown
    assert "On the test table" not in shown


def test_the_card_shows_what_was_chosen_and_what_was_tried(learned: Trained) -> None:
    recipe = {"reach": 12, "power": 0.2, "doubt": 20.0}
    tried = [recipe | {"cost": cost, "macro_f1": figure} for cost, figure in ((1.0, 0.8123), (0.25, 0.7), (2.0, 0.81))]
    shown = card.card(replace(learned, chosen={"recipe": recipe, "cost": 0.25, "balance": 0.3, "tried": tried}), None)
    assert "Chosen by cross-validation: reach 12, power 0.2, doubt 20, cost 0.25." in shown
    for cost, figure in (("1", "0.8123"), ("0.25", "0.7"), ("2", "0.81")):
        assert f"reach 12, power 0.2, doubt 20, cost {cost}, macro-f1 {figure}" in shown
    really = card.card(learned, None)
    for setting in learned.chosen["tried"]:
        assert f"reach {setting['reach']}, power {setting['power']:g}, doubt {setting['doubt']:g}, cost {setting['cost']:g}, tickets " in really
        assert f"macro-f1 {setting['macro_f1']:g}" in really


def test_the_card_is_written_for_people(trained: Trained, table: TicketTable) -> None:
    shown = card.card(trained, evaluate(trained.router, some_of(table, range(50))))
    assert "np.float64" not in shown
    assert "None" not in shown
    assert "nan" not in shown.split()


def test_the_card_shows_the_figures_on_a_test_table(trained: Trained, table: TicketTable) -> None:
    test = evaluate(trained.router, some_of(table, range(50)))
    apart = card.card(trained, test).partition("## On the test table")[2]
    assert "### kind" in apart
    assert "(n 50)" in apart


def test_the_card_says_where_a_promise_cannot_be_kept(small: TicketTable) -> None:
    trained = fit(small, Settings(promises={"kind": 1.0}), load_taxonomy())
    assert "nothing is routed without a person" in card.card(trained, None)


def test_the_card_says_what_a_random_split_would_flatter(small: TicketTable) -> None:
    texts = [text for text in small.texts for _ in range(2)]
    labels = {name: [label for label in values for _ in range(2)] for name, values in small.labels.items()}
    languages = [code for code in small.languages for _ in range(2)]
    trained = fit(TicketTable(texts, labels, languages, small.text_columns), Settings(), load_taxonomy())
    shown = card.card(trained, None)
    assert f"{len(small)} tickets are near-duplicates" in shown
    assert f"department {trained.metrics['random_split']['department']['share']}" in shown


def test_a_label_does_not_break_the_cards_tables(small: TicketTable) -> None:
    labels = {"department": ["mail | web" if label == "hosting" else label for label in small.labels["department"]]}
    trained = fit(TicketTable(small.texts, labels, small.languages, small.text_columns), Settings(), load_taxonomy())
    rows = [line for line in card.card(trained, None).splitlines() if line.startswith("| mail")]
    assert rows
    assert all(row.replace(r"\|", "").count("|") == 6 for row in rows)
