import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pointsman
from model.router import Router
from tests.conftest import TICKETS
from training import acquire
from training.acquire import Stream
from training.features import TermCounts

COLUMNS = ("subject", "body")
TARGETS = {"kind": "kind", "department": "department"}


@pytest.fixture(scope="module")
def unlabelled(tickets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 tickets without labels, every one of the first hundred three times, some with labels, without text, or cut."""
    file = tmp_path_factory.mktemp("unlabelled") / "new.jsonl"
    bare = [{"id": row["id"], "subject": row["subject"], "body": row["body"]} for row in tickets[:600]]
    rows = bare + [{**row, "id": f"copy-{n}-{row['id']}"} for n in range(2) for row in bare[:100]]
    rows += [dict(tickets[0], id="has its labels"), {"id": "empty", "subject": "", "body": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut', encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def stream(unlabelled: Path) -> Stream:
    return acquire.read([str(unlabelled)], COLUMNS, TARGETS)


def test_only_tickets_that_lack_a_label_are_candidates(stream: Stream) -> None:
    assert (len(stream.candidates), stream.unlabelled, stream.passed_over) == (800, 800, 3)
    assert not {candidate.id for candidate in stream.candidates} & {"has its labels", "empty"}
    assert [candidate.place.row for candidate in stream.candidates] == list(range(1, 801))


def test_a_long_stream_is_sampled_evenly_in_bounded_memory(unlabelled: Path) -> None:
    rows: list[int] = []
    for seed in range(20):
        found = acquire.read([str(unlabelled)], COLUMNS, TARGETS, seed=seed, most=50)
        assert len(found.candidates) == 50
        assert found.unlabelled == 800
        rows += [candidate.place.row for candidate in found.candidates]
    quarters = np.bincount((np.array(rows) - 1) // 200)
    assert quarters.min() > 190  # 250 expected of each quarter, of 1,000; a deviation is 14
    assert acquire.read([str(unlabelled)], COLUMNS, TARGETS, seed=3, most=50) == acquire.read([str(unlabelled)], COLUMNS, TARGETS, seed=3, most=50)


def test_the_chosen_are_uncertain_distinct_and_the_same_for_the_same_seed(router: Router, stream: Stream) -> None:
    questions = acquire.next_to_label(router, stream.candidates, 40)
    chosen = {question.row for question in questions}
    assert len(chosen) == 40
    assert len(questions) == 80  # kind and department
    texts = [question.text.casefold() for question in questions if question.target == "kind"]
    assert len(set(texts)) == 40
    everything = router.answer([candidate.text for candidate in stream.candidates]).probabilities
    doubt = np.mean([acquire.uncertainty(p) for p in everything.values()], axis=0)
    assert np.mean([question.score for question in questions]) > np.quantile(doubt, 0.6)
    assert questions == acquire.next_to_label(router, stream.candidates, 40)
    answers = router.answer([questions[0].text])
    assert questions[0].suggested == router.targets[0].labels[int(answers.top[questions[0].target][0, 0])]


def test_a_topic_that_fills_the_uncertain_tickets_does_not_fill_the_worksheet() -> None:
    topics = ["printer paper jam tray", "invoice vat refund account", "voip call echo handset", "domain transfer auth code"]
    sizes = [300, 10, 10, 10]
    texts = [f"{topic} case{i}x{t} number{i * 7}y{t}" for t, (topic, n) in enumerate(zip(topics, sizes, strict=True)) for i in range(n)]
    of = np.repeat(np.arange(4), sizes)
    uncertain = np.where(of == 0, 0.9, 0.8)
    chosen = acquire.choose(TermCounts.of(texts), uncertain, 33)
    assert len(set(chosen.tolist())) == 33
    assert set(of[chosen].tolist()) == {0, 1, 2, 3}
    assert set(of[np.argsort(-uncertain, kind="stable")[:33]].tolist()) == {0}


def test_near_duplicates_are_asked_once_and_tickets_without_words_never() -> None:
    texts = ["the same long ticket about a mail that never came", "...", "the same long ticket about a mail that never came", "another one"]
    assert acquire.choose(TermCounts.of(texts), np.array([0.5, 1.0, 0.9, 0.1]), 10).tolist() == [2, 3]


def test_uncertainty_is_how_close_the_two_best_labels_are() -> None:
    probabilities = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1]], np.float32)
    np.testing.assert_allclose(acquire.uncertainty(probabilities), [0, 1, 0.5], atol=1e-6)


def label(*arguments: str | Path) -> Result:
    return CliRunner().invoke(pointsman.main, ["label", *map(str, arguments)], catch_exceptions=False)


def test_the_command_writes_a_worksheet_that_merges_back(home: Path, unlabelled: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "worksheet.csv"
    result = label("--model", home, unlabelled, "--count", "5", "--out", sheet)
    assert result.exit_code == 0, result.output
    assert "5 of 800 unlabelled tickets; 3 rows passed over" in result.output
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    assert len(rows) == 10
    assert {row["corrected"] for row in rows} == {""} == {row["given"] for row in rows}
    again = label("--model", home, unlabelled, "--count", "5", "--out", sheet)
    assert again.exit_code == 2
    assert "may hold corrections" in again.output
    for row in rows:
        row["corrected"] = row["suggested"]
    with sheet.open("w", encoding="utf-8", newline="") as out:
        lines = csv.DictWriter(out, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    whole = tmp_path / "whole.jsonl"
    whole.write_text("".join(line for line in unlabelled.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    merged = CliRunner().invoke(pointsman.main, ["worksheet", "merge", str(whole), str(sheet), "--out", str(whole)], catch_exceptions=False)
    assert merged.exit_code == 0, merged.output
    done = {row["id"]: row for row in map(json.loads, whole.read_text(encoding="utf-8").splitlines())}
    assert all(done[row["id"].removeprefix("'")][row["target"]] == row["suggested"] for row in rows)
    assert sum("kind" in row for row in done.values()) == 6  # and the one that had its labels


def test_only_the_targets_that_are_named_are_asked(home: Path, unlabelled: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "worksheet.csv"
    result = label("--model", home, unlabelled, "--target", "kind", "--count", "5", "--out", sheet)
    assert result.exit_code == 0, result.output
    assert [row["target"] for row in csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig")))] == ["kind"] * 5


def test_a_router_of_other_labels_is_refused(home: Path, unlabelled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(
        unlabelled.read_text(encoding="utf-8").rpartition("\n")[0] + '\n{"subject": "x", "body": "y", "kind": "Hardware"}\n', encoding="utf-8"
    )
    lines = [line for line in other.read_text(encoding="utf-8").splitlines() if "has its labels" not in line]
    lines.append('{"subject": "x", "body": "z", "kind": "Storage"}')
    other.write_text("\n".join(lines), encoding="utf-8")
    result = label("--model", home, other, "--target", "kind", "--out", tmp_path / "w.csv")
    assert result.exit_code == 2
    assert "knows none of the table's labels of kind (Hardware, Storage), but advisory, incident: another column" in result.output
    assert not (tmp_path / "w.csv").exists()


def test_a_table_with_nothing_to_label_is_refused(home: Path, tmp_path: Path) -> None:
    result = label("--model", home, TICKETS[0], "--out", tmp_path / "w.csv")
    assert result.exit_code == 2
    assert "no unlabelled ticket" in result.output
    assert not (tmp_path / "w.csv").exists()
