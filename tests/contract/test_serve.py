"""`pointsman serve` as its users meet it: another process, another directory; and what it refuses before it listens."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from uvicorn import run as serve

import pointsman
from tests.serving import INCIDENT, command, environment, free_port, process


def _listens_at(pid: int, port: int) -> set[str]:
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {local for _, local, _, state, *_ in lines if state == "0A" and local.endswith(f":{port:04X}")}


def test_it_answers_this_machine_and_stops_when_it_is_told_to(models: Path, tmp_path: Path) -> None:
    port = free_port()
    with process(command("--model", models, "--port", str(port)), port, tmp_path) as server:
        answer = httpx.post(f"{server.url}/classify", json={"ticket_id": "T-1", "body": INCIDENT})
        assert answer.status_code == 200
        assert answer.json()["labels"]["kind"]["label"] == "incident"
        assert "server" not in answer.headers
        for path in ("/", "/readyz", "/taxonomy", "/static/style.css", "/docs"):
            assert httpx.get(server.url + path).status_code == 200
        assert _listens_at(server.process.pid, port) == {f"0100007F:{port:04X}"}
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=5)
        assert server.said.splitlines() == [f"Pointsman serves on http://127.0.0.1:{port} (stop it with Ctrl-C)"]
    with closing(sqlite3.connect(tmp_path / "pointsman.db")) as connection:  # in the directory where it was started
        assert connection.execute("SELECT decision_id FROM decisions").fetchall() == [(answer.json()["decision_id"],)]
    assert code == 0


def test_whichever_worker_is_asked_tells_what_all_have_done(models: Path, tmp_path: Path) -> None:
    port = free_port()
    with process(command("--model", models, "--port", str(port), "--workers", "2"), port, tmp_path) as server:
        for place in range(40):
            assert httpx.post(f"{server.url}/classify", json={"ticket_id": f"T-{place}", "body": INCIDENT}, timeout=30).status_code == 200
        told = [httpx.get(f"{server.url}/metrics", timeout=30).text for _ in range(10)]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == 0
    for text in told:
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        assert sum(one.value for one in samples if one.name == "pointsman_decisions_total") == 40
        assert [one.value for one in samples if one.name == "pointsman_ready"] == [1]
    assert "Traceback" not in server.said


def test_what_it_cannot_serve_it_refuses_in_one_line(models: Path, tmp_path: Path) -> None:
    asked = {
        "train one with `pointsman train`": command("--model", "nowhere"),
        "--host 0.0.0.0": command("--model", models, "--host", "0.0.0.0"),  # noqa: S104
    }
    started = [subprocess.Popen(each, cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE) for each in asked.values()]
    for reason, refused in zip(asked, started, strict=True):
        with refused:
            out, said = refused.communicate(timeout=60)
        assert refused.returncode == 2
        assert out == b""
        (line,) = said.decode().splitlines()
        assert line.startswith("pointsman: ")
        assert reason in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; nothing that would serve for ever."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    for name in ("POINTSMAN_MODEL", "POINTSMAN_HOST"):  # the command sets them for its workers
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: pytest.fail("it serves"))
    return tmp_path


def refused(*options: object) -> str:
    """What the command says as it refuses to start: one line, and nothing that promises a service."""
    found = CliRunner().invoke(pointsman.main, ["serve", *map(str, options)], catch_exceptions=False)
    assert found.exit_code == 2, found.output
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("pointsman: ")
    return line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "127.0.0.1.evil.example", "pointsman.example", ""])  # noqa: S104
def test_an_address_that_others_can_reach_is_refused(models: Path, folder: Path, host: str) -> None:
    assert "--host" in refused("--model", models, "--host", host)
    assert list(folder.iterdir()) == []


def test_a_missing_model_is_refused(folder: Path) -> None:
    assert str(folder / "nowhere") in refused("--model", folder / "nowhere")
    assert "models" in refused()
    assert list(folder.iterdir()) == []


def test_a_broken_model_is_refused(home: Path, folder: Path) -> None:
    broken = folder / home.name
    shutil.copytree(home, broken)
    arrays = broken / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    assert "arrays.npz" in refused("--model", broken)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/to/be/found/x.db", "mysql://root:secret@localhost/x", "no url at all"])
def test_a_database_that_cannot_be_opened_is_refused(models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:  # noqa: ARG001
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", url)
    line = refused("--model", models)
    assert "POINTSMAN_DATABASE_URL" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POINTSMAN_KEEP_TEXT_DAYS", "-1"),
        ("POINTSMAN_KEEP_TEXT_DAYS", "many"),
        ("POINTSMAN_WRITE_SECONDS", "0"),
        ("POINTSMAN_MAX_REQUEST_BYTES", "1"),
        ("POINTSMAN_DEEP", "perhaps"),
        ("POINTSMAN_DEEP_SECONDS", "0"),
        ("POINTSMAN_DEEP_SECONDS", "31"),
        ("POINTSMAN_DEEP_WAITING", "0"),
        ("POINTSMAN_POLICY", "/nowhere/policy.yaml"),
    ],
)
def test_a_setting_that_is_none_is_refused_by_its_name(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str  # noqa: ARG001
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    line = refused("--model", models)
    assert name in line
    assert name == "POINTSMAN_DATABASE_URL" or "DATABASE" not in line


def test_a_port_that_is_taken_is_refused(models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(uvicorn, "run", serve)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refused("--model", models, "--port", port)
