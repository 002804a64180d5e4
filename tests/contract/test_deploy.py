"""What operators are given in `deploy/` fits the program: its metrics, its settings, its stopping time, its files."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from model.taxonomy import load_taxonomy
from service.app import create_app
from service.metrics import Metrics
from service.run import DRAIN_SECONDS
from service.settings import Settings
from tests.contract.test_documents import errors
from tests.serving import listening

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"job", "instance"}  # labels that it gives to whatever it scrapes
SHOWN = [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]]
NOTED = [(note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"]]
QUERIES = dict(SHOWN + NOTED + [(rule["alert"], rule["expr"]) for rule in ALERTS])


def metrics() -> dict[str, set[str]]:
    """The labels of each series that /metrics may show, by the series' name."""
    found = {"up": set[str]()}
    for name, meter in Metrics().registry._names_to_collectors.items():  # it has no public way to ask
        if not name.endswith("_created"):
            found[name] = set(meter._labelnames) | ({"le"} if name.endswith("_bucket") else set())  # type: ignore[attr-defined]
    return found


def parsed(query: str) -> promql.Expr:
    """A query as Prometheus gets it, after Grafana has filled in its variables."""
    return promql.parse(query.replace("$__rate_interval", "5m"))


def selectors(query: str) -> list[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        elif isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql.walk(parsed(query), visit)
    assert found
    return found


def groupings(query: str) -> set[str]:
    """The labels that a query sums by."""
    found: set[str] = set()

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            found.update(node.modifier.labels)
        return True

    promql.walk(parsed(query), visit)
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_asks_for_metrics_and_labels_that_exist(name: str) -> None:
    known = metrics()
    asked = selectors(QUERIES[name])
    for selector in asked:
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name] | OF_PROMETHEUS
    assert groupings(QUERIES[name]) <= set[str]().union(*(known[each.name] for each in asked if each.name)) | OF_PROMETHEUS


def test_every_value_that_a_query_selects_is_one_that_occurs() -> None:
    occur = {
        "route": {*create_app(Settings()).openapi()["paths"], "unknown"},
        "code": set(errors()),
        "status": {"200", "429", "500", "503"},
        "action": {"auto", "suggest", "review"},
        "outcome": {"taken", "refused", "answered", "late", "full", "failed", "resting"},
        "target": set(load_taxonomy().targets) | {"$target"},
        "job": {"pointsman"},
        "instance": {"$instance"},
    }
    for query in QUERIES.values():
        for matcher in [matcher for selector in selectors(query) for matcher in selector.matchers.matchers]:
            several = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
            for wanted in matcher.value.split("|") if several else [matcher.value]:
                assert any(wanted == each or (several and re.fullmatch(wanted, each)) for each in occur[matcher.name]), f"{matcher} in {query}"


def test_every_metric_is_watched() -> None:
    watched = {re.sub("_(bucket|sum|count)$", "", str(each.name)) for query in QUERIES.values() for each in selectors(query)}
    families = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    assert families <= watched


def test_the_first_champion_refused_is_an_increase() -> None:
    # What is counted up from nothing has not increased, so the alert needs a 0 to begin with.
    assert b'pointsman_reloads_total{outcome="refused"} 0.0' in Metrics().exposition()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_from_the_chosen_source(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= groupings(target["expr"])
        for selector in selectors(target["expr"]):
            assert ("instance", "$instance") in {(matcher.name, matcher.value) for matcher in selector.matchers.matchers}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("pointsman", "Pointsman")
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$\{?([a-z]\w+)", json.dumps(DASHBOARD)))
    assert used == set(variables)
    for each in variables.values():
        if each["type"] == "query":
            metric, label = re.findall(r"\w+", each["query"]["query"].removeprefix("label_values"))
            assert label in metrics()[metric] | OF_PROMETHEUS
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert x + w <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "what_to_do"}
    assert all(len(text.split()) > 5 for text in rule["annotations"].values())
    # A sum keeps the labels that it sums by, and any other query all that there are.
    kept = groupings(rule["expr"]) if "sum" in rule["expr"] else OF_PROMETHEUS | metrics()[str(selectors(rule["expr"])[0].name)]
    assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= kept
    assert f'alertname="{rule["alert"]}"' in (DEPLOY / "alerts.test.yaml").read_text(encoding="utf-8")


def unit() -> dict[str, list[str]]:
    lines = [line for line in (DEPLOY / "pointsman.service").read_text(encoding="utf-8").splitlines() if re.match("[A-Z]", line)]
    found: dict[str, list[str]] = {}
    for name, _, value in (line.partition("=") for line in lines):
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_confines_the_service_and_waits_until_it_has_drained() -> None:
    asked = {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
        "CapabilityBoundingSet": "", "RestrictNamespaces": "yes", "SystemCallArchitectures": "native", "StateDirectory": "pointsman",
        "Restart": "on-failure", "User": "pointsman", "EnvironmentFile": "-/etc/pointsman/environment",
        "MemoryDenyWriteExecute": "no",  # numba writes machine code into memory and runs it
    }  # fmt: skip
    found = unit()
    assert {name: found[name] for name in asked} == {name: [value] for name, value in asked.items()}
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged @resources", "setpriority"]
    assert int(found["TimeoutStopSec"][0]) > DRAIN_SECONDS
    assert any("NUMBA_CACHE_DIR=/var/cache/pointsman" in line for line in found["Environment"])
    assert found["CacheDirectoryMode"] == ["0700"]  # who could write there could make the service run it


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    text = (DEPLOY / "pointsman.service").read_text(encoding="utf-8")
    here = tmp_path / "pointsman.service"
    here.write_text(text.replace("/opt/pointsman/bin/pointsman", "/bin/true"), encoding="utf-8")  # it must be there to be verified
    understood = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False)
    assert (understood.returncode, understood.stderr) == (0, "")
    judged = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=20", here], capture_output=True, check=False)
    assert judged.returncode == 0, "more exposed than 2.0"


@pytest.mark.parametrize("name", ["pointsman", "database"])
def test_each_container_can_do_and_write_as_little_as_it_needs(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {volume.split(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"])
    secrets = {key: value for key, value in service["environment"].items() if "PASSWORD" in key}
    assert secrets
    assert all(value.startswith("${POINTSMAN_DATABASE_PASSWORD:?") for value in secrets.values())


def test_compose_publishes_to_this_machine_and_waits_until_the_service_has_drained() -> None:
    service, database = COMPOSE["services"]["pointsman"], COMPOSE["services"]["database"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert "ports" not in database
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS
    assert service["init"] is True
    assert service["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DEPLOY / "Containerfile")
    assert re.search(r"/postgres:17\b", database["image"])
    settings = {name for name in service["environment"] if name.startswith("POINTSMAN_")}
    assert settings <= {f"POINTSMAN_{name.upper()}" for name in Settings.model_fields}


def test_hadolint_has_nothing_to_say_of_the_containerfile() -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    linter = shutil.which("hadolint", path=places)
    assert linter
    found = subprocess.run([linter, "--no-color", DEPLOY / "Containerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_pinned_unprivileged_and_started_without_a_shell_in_between() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=\S+/python:3\.1[12]-slim-\w+$", CONTAINERFILE, re.M)
    assert set(re.findall(r"^FROM (\S+)", CONTAINERFILE, re.M)) == {"${PYTHON_IMAGE}"}
    installs = re.findall(r"(?:pip install) ([^\n]*)", CONTAINERFILE)
    assert all("--require-hashes" in options or "--no-deps --offline" in options for options in installs)
    assert all("--constraints requirements.lock" in options or "-r uv.txt" in options or "--no-deps" in options for options in installs)
    last = CONTAINERFILE.split("\nFROM ")[-1]
    assert re.findall(r"^(?:USER|VOLUME) (.*)$", last, re.M) == ["10001:10001", "/data"]
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", last, re.M)[0]) == ["/opt/pointsman/bin/start"]
    start = DEPLOY / "start.sh"
    assert start.stat().st_mode & 0o111 == 0o111
    assert start.read_text(encoding="utf-8").splitlines()[-1] == 'exec pointsman "$@"'


@pytest.mark.parametrize("wanted", ["uv", "hatchling"])
def test_what_builds_the_image_is_in_the_lock_file(wanted: str) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(rf"^{wanted}==\S+ \\\n( +--hash=sha256:\w+( \\)?\n)+    # via", lock, re.M)


def test_all_that_the_package_holds_reaches_the_build_and_no_more() -> None:
    project = PROJECT["project"]
    held = {"pyproject.toml", "requirements.lock", project["readme"], *project["license-files"]}
    held |= set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert let_in == {name.split("/")[0] for name in held} | {"deploy/start.sh"}


def checks() -> dict[str, list[str]]:
    image = CONTAINERFILE.replace("\\\n", " ")
    found = re.search(r"^HEALTHCHECK .*? CMD (\[.*\])$", image, re.M)
    assert found
    return {"/livez": json.loads(found[1]), "/readyz": COMPOSE["services"]["pointsman"]["healthcheck"]["test"][1:]}


@pytest.mark.parametrize("path", checks())
def test_a_health_check_tells_a_service_that_answers_from_none(path: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = checks()[path]
    assert asked[:3] == ["python", "-I", "-c"]
    assert f"'{path}'" in asked[3]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it must not be asked

    def healthy(port: int) -> bool:
        command = [sys.executable, "-I", "-W", "error", "-c", asked[3].replace("8000", str(port))]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

    app = create_app(settings)
    with listening(app) as port:
        assert healthy(port)
        app.state.service.writer.healthy = False
        assert healthy(port) == (path == "/livez")
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:  # it is connected to, and says nothing
        assert not healthy(mute.getsockname()[1])
    assert not healthy(port)


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_each_file_earns_a_word_in_the_readme(name: str) -> None:
    assert f"`{name}`" in (DEPLOY / "README.md").read_text(encoding="utf-8")
