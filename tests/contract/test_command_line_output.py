"""Where `classify` writes: whole files or none, pipes and devices in place, in constant memory; a bar on a terminal."""

import contextlib
import gzip
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pointsman
from model.decision import Decider, Decision, Ticket

ROOT = Path(pointsman.__file__).resolve().parent
FRENCH = ROOT / "data" / "tickets" / "fr.jsonl"
SHIPPED = len(Path(FRENCH).read_text(encoding="utf-8").splitlines())
COMMAND = [sys.executable, str(ROOT / "pointsman.py")]


def run(*arguments: str | Path, given: bytes | None = None) -> Result:
    """The command in this process; an exception that it lets through fails the test."""
    return CliRunner().invoke(pointsman.main, [str(argument) for argument in arguments], input=given, catch_exceptions=False)


def tickets(n: int) -> bytes:
    # The language is told, so that none of these short texts is read by langdetect.
    return b"".join(json.dumps({"id": i, "body": f"server {i * 7919:x} is down since {i}", "language": "en"}).encode() + b"\n" for i in range(n))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to write in."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process started in the background may ignore SIGINT, and its children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_file_appears_whole(models: Path, folder: Path) -> None:
    result = run("classify", "--model", models, FRENCH, "--output", folder / "decisions.jsonl")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert [path.name for path in folder.iterdir()] == ["decisions.jsonl"]
    written = (folder / "decisions.jsonl").read_text(encoding="utf-8")
    assert written == run("classify", "--model", models, FRENCH).stdout
    assert len(written.splitlines()) == SHIPPED
    assert (folder / "decisions.jsonl").stat().st_mode & 0o777 == 0o644


def test_a_file_with_failed_rows_is_still_whole(models: Path, folder: Path) -> None:
    result = run("classify", "--model", models, "-", "--output", folder / "decisions.jsonl", given=b'{"body": "down"}\nbroken\n')
    assert result.exit_code == 1
    assert [("error" in json.loads(line)) for line in (folder / "decisions.jsonl").read_bytes().splitlines()] == [False, True]


def test_a_file_that_is_there_is_replaced(models: Path, folder: Path) -> None:
    (folder / "decisions.jsonl").write_text("old\n" * 10_000, encoding="utf-8")
    assert run("classify", "--model", models, FRENCH, "--output", folder / "decisions.jsonl").exit_code == 0
    assert "old" not in (folder / "decisions.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("old", [None, b"of yesterday\n"])
def test_input_that_breaks_in_the_middle_leaves_what_was_there(models: Path, folder: Path, tmp_path: Path, old: bytes | None) -> None:
    # Two batches are decided and written before the end is found missing.
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(tickets(3000))[:-500])
    if old:
        (folder / "decisions.jsonl").write_bytes(old)
    result = run("classify", "--model", models, tmp_path / "in.jsonl.gz", "--output", folder / "decisions.jsonl")
    assert result.exit_code == 2
    assert "cut in the middle" in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == ({"decisions.jsonl": old} if old else {})


def test_an_error_of_our_own_in_the_middle_leaves_nothing(models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decide, batches = Decider.decide, []

    def fails_later(decider: Decider, tickets: Sequence[Ticket], **asked: Any) -> list[Decision]:
        batches.append(len(tickets))
        if len(batches) == 2:
            raise MemoryError
        return decide(decider, tickets, **asked)

    monkeypatch.setattr(Decider, "decide", fails_later)
    with pytest.raises(MemoryError):
        run("classify", "--model", models, "-", "--output", folder / "decisions.jsonl", given=tickets(2000))
    assert sum(batches) == 2000
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(models: Path, folder: Path, number: signal.Signals) -> None:
    output = folder / "decisions.jsonl"
    command = [*COMMAND, "classify", "--model", str(models), "-", "--output", str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # More than a pipe holds and more than a batch: when this returns, the first batch has been read.
        process.stdin.write(tickets(4000))
        process.stdin.flush()
        process.send_signal(number)
        assert process.wait(30) != 0
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    assert not output.exists()
    if number != signal.SIGKILL:  # against which nothing can be done
        assert list(folder.iterdir()) == []


def test_a_device_is_written_in_place(models: Path) -> None:
    assert run("classify", "--model", models, FRENCH, "--output", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_named_pipe_is_written_in_place(models: Path, folder: Path) -> None:
    pipe = folder / "decisions"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    result = run("classify", "--model", models, FRENCH, "--output", pipe)
    reader.join(30)
    assert result.exit_code == 0
    assert received == [run("classify", "--model", models, FRENCH).stdout.encode()]
    assert pipe.is_fifo()


def test_a_named_pipe_may_be_the_input(models: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "in.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(FRENCH.read_bytes()))
    writer.start()
    result = run("classify", "--model", models, pipe)
    writer.join(30)
    assert result.stdout == run("classify", "--model", models, FRENCH).stdout


@pytest.mark.parametrize("where", ["missing/decisions.jsonl", "", "file/decisions.jsonl", "/dev/full"])
def test_an_output_that_cannot_be_written_is_named(models: Path, folder: Path, where: str) -> None:
    (folder / "file").touch()
    output = Path(where) if where.startswith("/") else folder / where
    result = run("classify", "--model", models, FRENCH, "--output", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"pointsman: {output}")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_bundles_that_cannot_be_written_are_named(folder: Path) -> None:
    (folder / "file").touch()
    result = run("train", FRENCH, "--out", folder / "file" / "models")
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("pointsman: ")
    assert str(folder / "file") in last


def test_a_full_disk_under_standard_output_is_said_in_a_line(models: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "classify", "--model", models, FRENCH], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 2
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_run_quietly(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(tickets(4000))
    command = [*COMMAND, "classify", "--model", str(models), str(tmp_path / "in.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == 0
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_terminal_sees_a_progress_bar_and_a_pipe_does_not(models: Path, folder: Path) -> None:
    ours, its = pty.openpty()
    command = [*COMMAND, "classify", "--model", str(models), str(FRENCH), "--output", str(folder / "decisions.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
        assert process.wait(30) == 0
    os.close(ours)
    assert b"classifying" in shown
    assert len((folder / "decisions.jsonl").read_bytes().splitlines()) == SHIPPED


# The highest resident memory of this very process image; ru_maxrss would begin with its parent's.
MEASURED = """
import re, sys
import pointsman
try:
    pointsman.main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""
MAKING = """
import sys
for i in range(int(sys.argv[1])):
    print('{"id": %d, "body": "server %x with %x is down since %d", "language": "en", "log": "%s"}' % (i, i * 7919, i * i, i, "=" * 2000))
"""


def highest_memory(models: Path, n: int) -> float:
    """Megabytes that `classify` takes for `n` tickets of 2 KB, none like another, written as they are read."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", MAKING, str(n)], stdout=subprocess.PIPE) as making:
        command = [sys.executable, "-c", MEASURED, "classify", "--model", str(models), "-"]
        done = subprocess.run(command, stdin=making.stdout, capture_output=True, check=True, timeout=120, env=environment)
    assert done.stdout.count(b"\n") == n
    return int(done.stderr) / 1024


def test_memory_does_not_grow_with_the_table(models: Path) -> None:
    began = time.monotonic()
    few, many = (highest_memory(models, n) for n in (6_000, 60_000))
    assert many - few < 60
    assert time.monotonic() - began < 60
