"""Each notebook runs from top to bottom on a small part of the shipped tickets, defines nothing, and carries no output in git."""

import ast
import json
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from click.testing import CliRunner

import pointsman
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = [str(ROOT / "data" / "tickets" / f"{code}.jsonl") for code in ("fr", "en")]
EXAM = [str(ROOT / "data" / "exam" / f"{code}.jsonl") for code in ("fr", "en")]
LONGEST = 40  # lines of a cell; a longer one asks for a function in `training`
MOST_SECONDS = 200  # for a cell, on a machine that has much else to do


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    return notebook


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The service's, after a simulated year."""
    url = f"sqlite:///{tmp_path_factory.mktemp('lived')}/demo.db"
    made = CliRunner().invoke(pointsman.main, ["demo", "--database", url, "--tickets", "1200", "--until", "2026-01-01"])
    assert made.exit_code == 0, made.output
    return url


def run(name: str, folder: Path, **parameters: Any) -> tuple[str, int]:
    """Run a notebook with `parameters`: all that it printed and showed as text, and how many pictures it drew."""
    path = next(path for path in NOTEBOOKS if path.stem.endswith(name))
    done = papermill.execute_notebook(
        path, folder / path.name, parameters=parameters | {"OUT": str(folder)}, progress_bar=False, cwd=path.parent, execution_timeout=MOST_SECONDS
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    shown = [output.get("text", "") + "".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr" and "Warning" in output.text]
    return "\n".join(shown), sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_first_looks_at_a_table_and_at_what_the_service_lived(database: str, tmp_path: Path) -> None:
    shown, pictures = run("know_your_history", tmp_path, FILES=SMALL, DATABASE=database)
    assert "750 rows, 750 tickets with text and a label" in shown
    assert "from 2025-01 to 2025-12, 0 without a date" in shown
    assert "Tickets filed as an incident that are a request for advice" in shown
    assert pictures == 2


def test_the_second_changes_ten_labels_of_the_history_and_nothing_else(database: str, tmp_path: Path) -> None:
    shown, pictures = run("find_the_wrong_labels", tmp_path, DATABASE=database)
    before, after = ((tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("lived.jsonl", "corrected.jsonl"))
    changed = [(json.loads(a), json.loads(b)) for a, b in zip(before, after, strict=True) if a != b]
    labels = [(name, a["id"]) for a, b in changed for name in a if a[name] != b[name]]
    assert len(labels) == 10
    assert {name for name, _ in labels} <= {"kind", "department"}
    assert "10 labels changed, 0 were so already, 0 left; new labels: none" in shown
    assert pictures == 1


def test_the_third_saves_a_bundle(tmp_path: Path) -> None:
    shown, pictures = run("train_and_judge", tmp_path, FILES=SMALL, ENCODER="none", BUDGET=1)
    assert (tmp_path / "champion").read_text(encoding="ascii").strip() in shown
    assert "Fewest hours at a promise of" in shown
    assert pictures == 4


def test_the_fourth_does_as_the_gate_says(tmp_path: Path) -> None:
    shown, pictures = run("champion_against_candidate", tmp_path, BEFORE=SMALL[:1], FILES=SMALL, TEST=EXAM, PROMOTE=True)
    (folder,) = tmp_path.glob("models-*")
    (kept,) = (folder / "comparisons").glob("*.json")
    compared = json.loads(kept.read_bytes())
    passed = compared["verdict"]["passed"]
    assert (folder / "champion").read_text(encoding="ascii").strip() == compared["candidate" if passed else "champion"]
    assert ("The gate lets it pass." if passed else "The gate refuses it.") in shown
    assert pictures == 1


def test_the_fifth_comes_to_the_same_figures_as_the_report(database: str, tmp_path: Path) -> None:
    """It holds them against each other itself, and stops where they differ."""
    shown, pictures = run("the_misroute_report_by_hand", tmp_path, DATABASE=database)
    assert "misrouted in department" in shown
    assert "False" not in shown.partition("hours in wrong teams")[0]
    assert pictures == 2


def test_the_sixth_weighs_both_worlds(database: str, tmp_path: Path) -> None:
    shown, pictures = run("what_it_is_worth", tmp_path, DATABASE=database, TIMES=3)
    assert "are real incidents" in shown
    assert pictures == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_tells_a_story_from_a_question_to_what_to_do_next(path: Path) -> None:
    first, *_, last = [cell for cell in read(path).cells if cell.cell_type == "markdown"]
    heading = first.source.splitlines()[0]
    assert heading.startswith("# ")
    assert heading.endswith("?")
    assert last.source.startswith("## What next")
    assert read(path).cells[-1].source == last.source
    assert [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])] == code(path)[:1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_defines_nothing_and_carries_no_output(path: Path) -> None:
    for cell in code(path):
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= LONGEST
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef)]
        imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        imported += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert not [module for module in imported if module.partition(".")[0] in ("service", "pointsman", "commands", "tests")]


def test_they_are_numbered_and_each_names_the_next() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert [name[:3] for name in names] == [f"{number:02}_" for number in range(1, len(names) + 1)]
    for path, after in zip(NOTEBOOKS, names[1:], strict=False):
        assert f"({after}.ipynb)" in read(path).cells[-1].source
