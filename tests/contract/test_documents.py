"""What users must know stands in the README: every setting, error, metric, route, reason and dependency."""

import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.app import create_app
from service.errors import ServiceError
from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def errors(kind: type[ServiceError] = ServiceError) -> list[str]:
    return [kind.code, *(code for child in kind.__subclasses__() for code in errors(child))]


def metrics() -> list[str]:
    registry: CollectorRegistry = Metrics().registry
    return sorted({family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()})


def requirements() -> list[str]:
    extras = [one for group in PROJECT["project"]["optional-dependencies"].values() for one in group]
    lines = [*PROJECT["project"]["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"]]
    return sorted({re.split(r"[\[>=<]", line)[0] for line in lines} - {"pandas-stubs", "types-pyyaml"})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_stands_in_the_readme_with_its_default(name: str) -> None:
    assert f"| `POINTSMAN_{name.upper()}` |" in README


@pytest.mark.parametrize("code", sorted(set(errors())))
def test_every_error_code_stands_in_the_readme(code: str) -> None:
    assert f"`{code}`" in README


@pytest.mark.parametrize("name", metrics())
def test_every_metric_stands_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


def test_every_route_stands_in_the_readme() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    assert paths
    assert [path for path in paths if path not in README] == []


@pytest.mark.parametrize("name", requirements())
def test_every_dependency_earns_a_word_in_the_readme(name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", README.split("## What it stands on")[1]), name
