"""Where the parallel parts run makes no difference to what comes out: shown with processes, and with a real cluster of two workers."""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from joblib import Parallel, delayed

from model import bundle
from tests.contract.test_command_line import run
from training import backend
from training.backend import running_on
from training.errors import TrainingError

Where = tuple[str, ...]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two worker processes."""
    folder = tmp_path_factory.mktemp("dask")
    settings: dict[str, Any] = {"dashboard_address": None, "local_directory": str(folder), "silence_logs": True}
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **settings) as cluster:  # type: ignore[no-untyped-call]
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def small(tickets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fifth of the shipped tickets, with one that has no text."""
    path = tmp_path_factory.mktemp("small") / "small.jsonl"
    path.write_text("".join(json.dumps(ticket) + "\n" for ticket in [*tickets[::5], {"id": "none", "body": " "}]), encoding="utf-8")
    return path


def trained(small: Path, out: Path, *where: str) -> dict[str, Any]:
    """The manifest of a bundle, less what tells it from another of the same input: its version, and the digest over it."""
    assert run("train", small, "--out", out, "--encoder", "none", *where).exit_code == 0
    manifest: dict[str, Any] = json.loads((bundle.find(out) / bundle.MANIFEST).read_bytes())
    assert {bundle.ARRAYS, bundle.SETTINGS, bundle.METRICS} < set(manifest["files"])
    del manifest["version"], manifest["digest"], manifest["files"][bundle.CARD]  # the card names the version
    return manifest


@pytest.fixture(scope="module")
def here(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of bundles with one that threads of this process trained, and its manifest."""
    out = tmp_path_factory.mktemp("here") / "models"
    return out, trained(small, out)


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_bundle_is_the_same_to_the_byte_wherever_it_is_trained(
    name: str, small: Path, here: tuple[Path, dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = ("--scheduler", request.getfixturevalue("scheduler")) if name == "dask" else ()
    assert trained(small, tmp_path / "models", "--backend", name, *where) == here[1]


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_decisions_are_the_same_and_in_order_wherever_they_are_made(
    name: str, small: Path, here: tuple[Path, dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches so small that there are several rounds of them."""
    monkeypatch.setattr("training.batches.BATCH", 40)
    monkeypatch.setattr("training.batches._UNDER_WAY", 8)
    where = ("--scheduler", request.getfixturevalue("scheduler")) if name == "dask" else ()
    there, alone = tmp_path / "there.jsonl", tmp_path / "alone.jsonl"
    for out, options in ((alone, ()), (there, ("--backend", name, *where))):
        result = run("classify", "--model", here[0], small, "--output", out, "--explain", *options)
        assert (result.exit_code, result.stderr) == (1, "pointsman: 1 rows failed; each has a line with its error\n")
    assert there.read_bytes() == alone.read_bytes()
    assert len(alone.read_bytes().splitlines()) == len(small.read_bytes().splitlines())


def whose(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_both_workers_of_a_cluster_work(scheduler: str) -> None:
    with running_on("dask", scheduler):
        pids = set(Parallel(n_jobs=-1, prefer="threads")(delayed(whose)(0.2) for _ in range(8)))
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert set(Parallel(n_jobs=-1, prefer="threads")(delayed(whose)(0) for _ in range(2))) == {os.getpid()}  # and afterwards nobody else does


def test_a_cluster_with_other_versions_is_refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "numba" else real(name))
    with pytest.raises(TrainingError, match=r"the worker tcp://.* has numba .*, here it is 0\.1; install the same"), running_on("dask", scheduler):
        pass


@pytest.mark.parametrize("options", [("--backend", "dask"), ("--scheduler", "tcp://127.0.0.1:1"), ("--backend", "processes", "--scheduler", "x")])
def test_an_address_goes_with_dask_and_with_nothing_else(small: Path, tmp_path: Path, options: Where) -> None:
    result = run("train", small, "--out", tmp_path / "models", *options)
    assert result.exit_code == 2
    assert "--backend dask takes --scheduler ADDRESS" in result.stderr
    assert not list(tmp_path.glob("models/2*"))


def test_a_scheduler_that_does_not_answer_is_named(
    small: Path, here: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "PATIENCE", 1)
    out = tmp_path / "decisions.jsonl"
    for address in ("tcp://127.0.0.1:1", "no address:at all"):
        result = run("classify", "--model", here[0], small, "--output", out, "--backend", "dask", "--scheduler", address)
        assert result.exit_code == 2
        assert f"--scheduler {address}: no Dask scheduler answers there" in result.stderr
    assert not out.exists()


def test_without_dask_it_says_what_to_install(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run("train", small, "--out", tmp_path / "models", "--backend", "dask", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"pointsman: {backend.MISSING}\n")
    assert "pip install 'pointsman[dask]'" in backend.MISSING


def test_a_process_that_dies_at_the_work_is_said() -> None:
    with pytest.raises(TrainingError, match="a process was ended from outside"), running_on("processes"):
        Parallel()(delayed(os._exit)(1) for _ in range(2))


def test_the_command_offers_what_there_is() -> None:
    from commands.learning import train

    (option,) = [option for option in train.params if option.name == "backend"]
    assert tuple(getattr(option.type, "choices", ())) == backend.BACKENDS
    assert option.default == "threads"
