import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pointsman
from training import ambiguity, noise
from training.audit import Audit, audit, questions
from training.audit_page import page
from training.audit_table import Finding
from training.errors import TrainingError
from training.history import History, read_history
from training.noise import Judged

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> telephone line is dead & gone"


@pytest.fixture(scope="module")
def file(tickets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English and French tickets over a year, with something wrong of every kind: half of telephony is called voice, network owns the tickets
    of sales too, the first twelve came twice and the second annotator labelled the copies otherwise."""
    chance = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number, ticket in enumerate(row for row in tickets if row["language"] in ("en", "fr")):
        department = {"sales": "network", "telephony": chance.choice(["telephony", "voice"])}.get(ticket["department"], ticket["department"])
        row = {key: ticket[key] for key in ("id", "subject", "body", "kind", "language")} | {"department": department}
        row |= {
            "created_at": f"2026-{1 + number // 63:02d}-10T10:00:00Z",
            "annotator": "ann",
            "declared_kind": "incident" if number % 10 else "advisory",
        }
        rows.append(row)
    for row in rows[:12]:
        rows.append({**row, "id": f"again-{row['id']}", "body": row["body"] + " thanks", "kind": "advisory" if row["kind"] == "incident" else "incident", "annotator": "bob"})  # fmt: skip
        rows.append({**row, "id": f"third-{row['id']}", "body": row["body"] + " please", "annotator": "cid"})
    rows += [{"id": "x1", "body": HOSTILE, "kind": "incident", "department": HOSTILE, "language": "klingon" * 9}, {"id": "x2", "body": ""}]
    out = tmp_path_factory.mktemp("audit") / "history.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def history(file: Path) -> History:
    return read_history([str(file)])


@pytest.fixture(scope="module")
def audited(history: History) -> Audit:
    return audit(history)


@pytest.fixture(scope="module")
def found(audited: Audit) -> dict[str, Finding]:
    return {finding.code: finding for finding in audited.findings}


def test_a_history_keeps_what_training_would_drop_and_knows_every_row(file: Path, history: History) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert history.rows == len(rows) == len(history.table) + 1  # the one without text
    assert [rows[place.row - 1]["id"] for place in history.places] == history.table.ids
    assert history.refusal is None
    assert {re.sub("its label in .* is", "its label is", problem.problem) for problem in history.problems} == {
        "no text; dropped", "language: not a BCP 47 language tag; the value is left out", "its label is seen only once; dropped"}  # fmt: skip


def test_every_side_is_looked_at_and_what_is_urgent_stands_first(audited: Audit, found: dict[str, Finding]) -> None:
    both = ("labels", "disagreement", "suspects")
    assert set(found) == {"schema", "time", "languages", "lengths", "near_duplicates", "filed_as_incident", "annotators", "one_department",
                          "two_department"} | {f"{one}_{target}" for one in both for target in ("kind", "department")}  # fmt: skip
    levels = [finding.level for finding in audited.findings]
    assert levels == sorted(levels, key=["problem", "look", "fine"].index)
    for finding in audited.findings:
        assert finding.why
        assert finding.to_do
        assert 0 <= finding.count <= finding.of
        assert all(len(row) == len(finding.columns) for row in finding.rows)


def test_the_figures_are_those_of_the_table(history: History, found: dict[str, Finding]) -> None:
    kinds = history.table.labels["kind"]
    filed = [kind for kind, declared in zip(kinds, history.declared, strict=True) if declared == "incident"]
    assert (found["filed_as_incident"].count, found["filed_as_incident"].of) == (filed.count("advisory"), len(filed))
    assert found["near_duplicates"].count == 24
    assert (found["disagreement_kind"].count, found["disagreement_kind"].of, found["disagreement_kind"].level) == (12, 12, "problem")
    assert found["disagreement_department"].count == 0
    assert "bob differs from the others on 12 of 12" in found["disagreement_kind"].why
    assert [row[0] for row in found["labels_department"].rows if row[3] == "rare"] == [HOSTILE]
    months = dict(found["time"].bars["Tickets by month"])
    assert months["2026-02"] == 63
    assert sum(months.values()) == len(history.table) - 1
    assert found["schema"].count == 2


def test_one_department_under_two_names_is_told(found: dict[str, Finding]) -> None:
    assert [tuple(row[:2]) for row in found["one_department"].rows] == [("telephony", "voice")]


@pytest.mark.parametrize("words", [{"hosting": "plan", "backoffice": "invoice"}, {"datacenter": "rack", "telephony": "calls"}])
def test_two_departments_under_one_name_are_told_with_the_words_of_each(tickets: list[dict[str, str]], words: dict[str, str]) -> None:
    english = [row for row in tickets if row["language"] == "en"]
    texts = [f"{row['subject']}\n{row['body']}" for row in english]
    right = [row["department"] for row in english]
    joined = ["both" if name in words else name for name in right]
    (found,) = ambiguity.halves("department", texts, joined, ["en"] * len(texts))
    assert found.label == "both"
    assert min(found.tickets) >= 30
    sides = [right[place] for place in found.examples]
    assert sorted(sides) == sorted(words)
    assert all(words[side] in told for side, told in zip(sides, found.words, strict=True))


def test_a_label_of_one_work_is_not_cut() -> None:
    """Words drawn from one bag for each label: any cut of a label is chance."""
    chance = random.Random(0)
    bags = [[f"word{chr(97 + k)}{i}x" for i in range(60)] for k in range(3)]
    labels = [name for name in "abc" for _ in range(100)]
    texts = [" ".join(chance.sample(bags["abc".index(name)], 8)) for name in labels]
    assert ambiguity.halves("t", texts, labels, ["en"] * 300) == []
    joined = ["ab" if name in "ab" else name for name in labels]
    assert [(one.label, sorted(one.tickets)) for one in ambiguity.halves("t", texts, joined, ["en"] * 300)] == [("ab", [100, 100])]


def test_confusion_in_one_direction_is_no_reason_to_join() -> None:
    codes = np.repeat([0, 1, 2, 3], 50)
    probabilities = np.eye(4)[codes]
    probabilities[:20] = np.eye(4)[1]  # a looks like b, never the other way round
    probabilities[100:110] = np.eye(4)[3]
    probabilities[150:156] = np.eye(4)[2]
    pairs = ambiguity.confused(Judged("t", ["a", "b", "c", "d"], codes, 0, probabilities))
    assert pairs == [ambiguity.Confused("t", "c", "d", 10, 50, 6, 50)]


def test_where_nobody_has_the_most_votes_nobody_differs() -> None:
    group = np.array([0, 0, 2, 2, 2])
    found = ambiguity.disagreements("t", ["a", "b", "a", "b", "b"], group)
    assert [one.tickets for one in found] == [[2, 3, 4], [0, 1]]
    assert ambiguity.by_annotator(found, ["ann", "bob", "ann", "bob", ""]) == {"ann": (1, 1), "bob": (0, 1)}


def test_the_suspects_stand_in_the_worksheet_with_their_rows(history: History, audited: Audit, file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    asked = questions(history, audited.suspects)
    assert len(asked) == sum(finding.count for finding in audited.findings if finding.code.startswith("suspects_"))
    for question in asked:
        row = rows[question.row - 1]
        assert (row["id"], row[question.target]) == (question.id, question.given)


class Outline(HTMLParser):
    """What a browser would make of the page: its tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_stands_alone_and_runs_nothing_that_a_customer_wrote(audited: Audit) -> None:
    text = page(audited)
    tags = Outline(text).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object", "image", "use"}
    assert sum(tag == "style" for tag, _ in tags) == 1
    loaded = [
        value
        for _, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "style") or name.startswith("on")
    ]
    assert loaded
    assert all(value and re.fullmatch(r"#\d+", value) for value in loaded)
    assert "&lt;script&gt;alert(1)" in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    pictures = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(pictures) == sum(len(finding.bars) for finding in audited.findings) > 5
    assert all(attributes["aria-label"] for attributes in pictures)
    assert "2026-02  63" in text


def command(*arguments: str | Path, given: bytes | None = None) -> Result:
    return CliRunner().invoke(pointsman.main, ["audit", *map(str, arguments)], input=given, catch_exceptions=False)


def test_the_command_writes_report_and_worksheet_and_reads_standard_input(file: Path, audited: Audit, tmp_path: Path) -> None:
    out, sheet = tmp_path / "audit.html", tmp_path / "suspects.csv"
    result = command("-", "--out", out, "--worksheet", sheet, "--json", given=file.read_bytes())
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads(json.dumps(audited.as_json())) | {"sources": ["standard input"], "findings": told["findings"]}
    assert [(one["code"], one["count"], one["of"]) for one in told["findings"]] == [(one.code, one.count, one.of) for one in audited.findings]
    assert "standard input" in out.read_text(encoding="utf-8")
    assert sheet.read_bytes().count(b"standard input") == len(audited.suspects)
    assert command(file, "--worksheet", sheet).exit_code == 2


def test_a_table_that_cannot_be_judged_is_audited_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "few.csv"
    file.write_text("body,kind\nsite is down,incident\nmail is down,incident\n", encoding="utf-8")
    few = audit(read_history([str(file)]))
    levels = {finding.code: (finding.level, finding.why) for finding in few.findings}
    assert "Training would refuse this table: " in levels["schema"][1]
    assert levels["schema"][0] == levels["labels_kind"][0] == "problem"
    assert "fewer than two labels" in levels["suspects"][1]

    def missing(_: object) -> None:
        raise TrainingError(noise.MISSING)

    monkeypatch.setattr(noise, "suspects", missing)
    file.write_text("body,kind\n" + "".join(f"word{i} is down,{'incident' if i % 2 else 'advisory'}\n" for i in range(20)), encoding="utf-8")
    codes = {finding.code: finding.why for finding in audit(read_history([str(file)])).findings}
    assert "pointsman[notebooks]" in codes["suspects"]
    assert "near_duplicates" in codes


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert command(tmp_path / "none.csv").exit_code == 2
