"""`/model` and `/taxonomy`: what serves, and what its labels mean."""

import json

import httpx
import pytest
import yaml

from model.router import Router
from model.taxonomy import DATA
from tests.serving import INCIDENT, Service
from training.table import TicketTable

pytestmark = pytest.mark.anyio


async def test_the_model_says_what_it_is_and_how_good_it_was(client: httpx.AsyncClient, router: Router, table: TicketTable) -> None:
    answer = await client.get("/model")
    assert answer.status_code == 200
    model = answer.json()
    assert model["version"] == router.version
    assert model["targets"] == {target.name: list(target.labels) for target in router.targets}
    assert {"fr", "en", "de", "es", "pt", "it", "pl"} <= set(model["languages"])
    assert set(model["metrics"]) == set(model["targets"])
    assert all(0.5 < figures["accuracy"]["share"] <= 1 for figures in model["metrics"].values())
    assert model["trained_on"]["tickets"] == len(table.texts)


async def test_a_model_without_a_deep_path_says_so(client: httpx.AsyncClient) -> None:
    assert (await client.get("/model")).json()["deep"] is None


async def test_the_version_of_the_model_is_the_version_of_its_decisions(service: Service) -> None:
    model = (await service.client.get("/model")).json()
    assert (await service.classify(body=INCIDENT)).json()["model_version"] == model["version"]


async def test_the_model_tells_nothing_of_the_machine_it_was_trained_on(client: httpx.AsyncClient) -> None:
    assert str(DATA.parent) not in (await client.get("/model")).text


async def test_the_taxonomy_is_the_one_that_the_file_defines(client: httpx.AsyncClient) -> None:
    answer = await client.get("/taxonomy")
    assert answer.status_code == 200
    defined = yaml.safe_load((DATA / "taxonomy.yaml").read_text(encoding="utf-8"))
    taxonomy = answer.json()
    assert {name: list(target["labels"]) for name, target in taxonomy["targets"].items()} == {
        name: list(target["labels"]) for name, target in defined["targets"].items()
    }
    for name, target in defined["targets"].items():
        assert taxonomy["targets"][name]["question"] == target["question"]
        for label, meaning in target["labels"].items():
            assert taxonomy["targets"][name]["labels"][label]["definition"] == meaning["definition"]
    assert taxonomy["languages"] == json.loads(json.dumps(defined["languages"]))


async def test_every_label_of_the_model_is_defined(client: httpx.AsyncClient) -> None:
    taxonomy = (await client.get("/taxonomy")).json()["targets"]
    for name, labels in (await client.get("/model")).json()["targets"].items():
        assert set(labels) <= set(taxonomy[name]["labels"])
