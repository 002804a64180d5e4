"""`pointsman retrain`, as a scheduler calls it: what it does and says, and that it may be killed at any moment and run again.

    pytest tests/contract/test_retrain.py --kills 100

kills it once before each thing that it writes for good, and at each step that it tells; otherwise at as many of these as --kills says.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from commands.retrain import retrain
from model import bundle, promotions
from model.taxonomy import load_taxonomy
from service import database
from service.demo.service import fill
from training import card, promotion
from training.fit import Settings, fit
from training.table import read_table

START = datetime(2026, 1, 1, tzinfo=UTC)
TICKETS = 900  # of history; the newest fifth is judged by
OPTIONS = ("--encoder", "none", "--budget", "1s", "--despite-problems")
NEVER = 10_000  # acts; a run has about forty

pytestmark = pytest.mark.timeout(1200)  # as many kills as are asked for


@pytest.fixture(scope="module")
def world(tickets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of judged tickets, a history that grows from day to day, and a champion that knows its beginning."""
    folder = tmp_path_factory.mktemp("world")
    engine = database.connect(f"sqlite:///{folder}/demo.db")
    fill(engine, 300, 0, date(2026, 11, 22))
    engine.dispose()
    some = [tickets[i] for i in range(0, len(tickets), max(1, len(tickets) // TICKETS))]
    some.sort(key=lambda ticket: hash_of(ticket["body"]))  # all languages and labels on every day
    rows = [{**ticket, "created_at": (START + timedelta(hours=i)).isoformat()} for i, ticket in enumerate(some)]
    for name, kept in (("history.jsonl", rows), ("beginning.jsonl", rows[:300])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    table = read_table([str(folder / "beginning.jsonl")])
    settings = Settings(budget=1)
    card.save(fit(table, settings, load_taxonomy()), table, settings, folder / "models")
    return folder


def hash_of(text: str) -> str:
    return bundle.digest(text.encode())


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """Its own models, to be changed."""
    return Path(shutil.copytree(world / "models", tmp_path / "models"))


def arguments(world: Path, folder: Path, *more: str) -> list[str]:
    return [
        "--database", f"sqlite:///{world}/demo.db", "--history", str(world / "history.jsonl"), "--models", str(folder), *OPTIONS, "--json", *more
    ]  # fmt: skip


def run(world: Path, folder: Path, *more: str) -> Result:
    return CliRunner().invoke(retrain, arguments(world, folder, *more), catch_exceptions=False)


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[0-9]*"))


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders, wherever they are."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def test_a_candidate_that_passes_waits_and_is_promoted_when_that_is_asked_for(world: Path, folder: Path, tmp_path: Path) -> None:
    before = bundle.find(folder).name
    waits = run(world, folder, "--keep-out", str(tmp_path / "kept"))
    done = told(waits)
    assert (waits.exit_code, done["outcome"], done["champion"]) == (0, "passed", before)
    assert f"pointsman promote {done['candidate']}" in done["said"]
    assert bundle.find(folder).name == before
    # It is judged by the newest tickets of the history, none of which either has learned from.
    judged_by = [json.loads(line) for line in (tmp_path / "kept" / "judged_by.jsonl").read_text(encoding="utf-8").splitlines()]
    assert done["judged_by"] == f"{len(judged_by)} tickets, the newest"
    assert not [line for line in done["warnings"] if "has learned from none" not in line]
    verdict = json.loads((folder / "comparisons" / f"{done['candidate']}-against-{before}.json").read_bytes())
    assert verdict["table"]["tickets"] == len(judged_by) > 120
    assert {who: of["tickets"] for who, of in verdict["table"]["learned_from"].items()} == {"champion": 0, "candidate": 0}
    assert "<html" in (tmp_path / "kept" / "audit.html").read_text(encoding="utf-8")
    assert done["candidate"] in (tmp_path / "kept" / "comparison.html").read_text(encoding="utf-8")

    again = told(run(world, folder))
    assert (again["outcome"], again["last"], again["new"]) == ("nothing_new", "passed", 0)

    promoted = run(world, folder, "--promote", "auto")
    assert (promoted.exit_code, told(promoted)["outcome"], told(promoted)["candidate"]) == (0, "promoted", done["candidate"])  # not made anew
    assert bundle.find(folder).name == done["candidate"]
    last = promotions.history(folder)[-1]
    verdict = json.loads((folder / "comparisons" / f"{done['candidate']}-against-{before}.json").read_bytes())  # it was compared once more
    assert (last.event, last.by, last.verdict, last.comparison) == ("promoted", "retrain", "passed", verdict["digest"])

    again = told(run(world, folder, "--promote", "auto"))
    assert (again["outcome"], again["last"], again["champion"]) == ("nothing_new", "promoted", done["candidate"])
    assert len(versions(folder)) == 2
    assert not left_over(folder)

    promotion.roll_back(folder, by="Ada", because="it was worse at the door")
    undone = run(world, folder)  # the question is another one, the answer is there
    assert told(undone)["outcome"] == "passed"
    undone = run(world, folder, "--promote", "auto")
    assert (undone.exit_code, told(undone)["outcome"]) == (1, "refused")
    assert "only a person may promote it again" in told(undone)["said"]
    assert bundle.find(folder).name == before


def test_a_gate_or_an_audit_that_says_no_is_exit_status_one(world: Path, folder: Path) -> None:
    before = bundle.find(folder).name
    alone = [
        each for each in arguments(world, folder, "--promote", "auto", "--least-new", "0") if each not in ("--history", str(world / "history.jsonl"))
    ]
    stopped = CliRunner().invoke(retrain, [each for each in alone if each != "--despite-problems"], catch_exceptions=False)
    assert (stopped.exit_code, told(stopped)["outcome"], told(stopped)["candidate"]) == (1, "stopped", None)
    assert told(stopped)["problems"]
    assert versions(folder) == [before]
    refused = CliRunner().invoke(retrain, alone, catch_exceptions=False)
    assert (refused.exit_code, told(refused)["outcome"]) == (1, "refused")
    assert [line for line in told(refused)["refused"] if line.startswith("recall of kind incident")]
    again = CliRunner().invoke(retrain, alone, catch_exceptions=False)
    # Nothing changed, so the scheduler is told no again.
    assert (again.exit_code, told(again)["outcome"], told(again)["last"]) == (1, "nothing_new", "refused")
    assert bundle.find(folder).name == before
    assert len(promotions.history(folder)) == 1
    candidate = told(refused)["candidate"]
    bundle.promote(folder, candidate, by="Ada", reason="the old one is illegal")
    overruled = CliRunner().invoke(retrain, alone, catch_exceptions=False)
    assert (overruled.exit_code, told(overruled)["champion"], told(overruled)["last"]) == (0, candidate, "refused")


def test_while_one_is_at_work_another_leaves_it_alone(world: Path, folder: Path) -> None:
    (folder / "retraining").mkdir()
    with (folder / "retraining" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = run(world, folder)
    assert (result.exit_code, told(result)["outcome"]) == (0, "running")
    assert len(versions(folder)) == 1


def test_few_new_tickets_are_not_worth_it(world: Path, folder: Path) -> None:
    result = run(world, folder, "--least-new", "5000")
    assert (result.exit_code, told(result)["outcome"]) == (0, "nothing_new")
    assert "from 5000 on" in told(result)["said"]
    assert len(versions(folder)) == 1


@pytest.mark.parametrize("options", [("--history", "-"), ("--history", "nothing.csv"), ("--database", "sqlite:///nothing.db"), ("--text", "title,description"),
                                     ("--backend", "dask"), ("--hold-out", "0.9")])  # fmt: skip
def test_what_cannot_be_read_or_asked_is_exit_status_two(
    world: Path, folder: Path, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(world, folder, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert not (tmp_path / "nothing.db").exists()
    assert not left_over(folder)


def test_what_was_left_behind_is_taken_away(world: Path, folder: Path) -> None:
    old, young = folder / ".making-old", folder / ".making-young"
    for path in (old, young, folder / "retraining" / ".work-x"):
        path.mkdir(parents=True)
        (path / "export.jsonl").write_text("private", encoding="utf-8")
    os.utime(old, (0, 0))
    assert run(world, folder, "--least-new", "5000").exit_code == 0
    assert [path for path in left_over(folder) if not path.startswith(".making-young")] == []
    assert young.is_dir()  # another training may be at work there


def acting(at: int, acts: str, given: list[str]) -> None:
    """In a process of its own: retrain, and die by SIGKILL before the act numbered `at`: a step that is told, or something that is
    written for good. What is done is written to `acts`, a line each."""
    record = os.open(acts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    done = 0

    def act(name: str) -> None:
        nonlocal done
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        os.write(record, name.encode() + b"\n")

    def before(real: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def first(*arguments: Any, **options: Any) -> Any:
            act(name(*arguments))
            return real(*arguments, **options)

        return first

    os.replace = before(os.replace, lambda source, target: f"replace {Path(target).name}")
    os.rename = before(os.rename, lambda source, target: f"rename {Path(target).parent.name}/{Path(target).name}")
    os.fsync = before(os.fsync, lambda handle: "fsync")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr.write = before(sys.stderr.write, lambda text: f"told {text[21:40].strip()}")  # type: ignore[method-assign]
    retrain.main(given)


def in_a_process(at: int, acts: Path, given: list[str]) -> int:
    """The exit code of `acting`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["commands.retrain", "service.outcomes.export", "training.retraining", "training.backend", "training.plots", __name__]
    )
    process = context.Process(target=acting, args=(at, str(acts), given))
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def test_killed_at_any_moment_the_champion_serves_and_the_next_run_ends_the_work(world: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    acts = tmp_path / "acts.txt"

    def started(name: str, at: int) -> tuple[Path, int]:
        folder = Path(shutil.copytree(world / "models", tmp_path / name))
        return folder, in_a_process(at, acts, arguments(world, folder, "--promote", "auto"))

    whole, code = started("whole", NEVER)
    assert code == 0
    every = acts.read_text(encoding="utf-8").splitlines()
    before = bundle.find(world / "models").name
    assert [act for act in every if act.startswith("told")]
    # By default the two that matter most: the candidate is there and nobody knows of it; the promotion is recorded and did not come true.
    made = next(i for i, act in enumerate(every) if act.startswith("rename whole/2")) + 1
    matter = [made, every.index("replace champion")]
    others = [i for i in range(len(every)) if i not in matter]
    kills = request.config.getoption("--kills")
    spread = others[:: max(1, len(others) // max(1, kills - len(matter)))] if kills > len(matter) else []
    for at in (matter + spread)[: max(kills, 1)]:
        folder, code = started(f"killed-{at}", at)
        assert code == -signal.SIGKILL, every[at]
        serving = bundle.find(folder)
        bundle.load(serving)
        candidates = set(versions(folder)) - {before}
        assert serving.name == before or {serving.name} == candidates, every[at]
        for version in candidates:
            bundle.load(folder / version)
        result = run(world, folder, "--promote", "auto")
        assert (result.exit_code, told(result)["outcome"]) == (0, "promoted"), (every[at], result.stdout)
        assert candidates <= {told(result)["candidate"]}, every[at]  # what was made is not made again
        assert bundle.find(folder).name == told(result)["candidate"]
        assert promotions.history(folder)[-1].to == told(result)["candidate"]
        assert len(versions(folder)) == 2
        assert (folder / "experiments" / told(result)["candidate"] / "learned.npy").is_file()
        assert not left_over(folder / "retraining")
    assert told(run(world, folder, "--promote", "auto"))["outcome"] == "nothing_new"
    assert len(versions(whole)) == 2
