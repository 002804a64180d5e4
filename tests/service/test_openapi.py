"""The document at `/openapi.json`: every route and every error is in it, and what it shows works."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from service.errors import ServiceError
from tests.serving import Service

pytestmark = pytest.mark.anyio

FOR_PEOPLE = {"/", "/docs", "/docs/oauth2-redirect"}  # pages; a document for programs has no use for them


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def routes(app: FastAPI) -> set[tuple[str, str]]:
    contexts = [context for context in iter_route_contexts(app.routes) if isinstance(context.original_route, APIRoute)]
    return {(str(context.path), method.lower()) for context in contexts for method in context.methods or ()}


def classes(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """What `/docs` offers to send for `schema`."""
    if reference := schema.get("$ref"):
        return example_of(document["components"]["schemas"][reference.rpartition("/")[2]], document)
    if "example" in schema:
        return schema["example"]
    if "examples" in schema:
        return schema["examples"][0]
    if schema.get("type") == "array":
        return [example_of(schema["items"], document)]
    assert schema.get("type") == "object", f"no example of {schema}"
    return {name: example_of(part, document) for name, part in schema["properties"].items()}


async def test_every_route_is_documented(document: dict[str, Any], service: Service) -> None:
    documented = {(path, method) for path, method, _ in operations(document)}
    assert {(path, method) for path, method in routes(service.app) if path not in FOR_PEOPLE and not path.startswith("/app")} == documented
    assert ("/classify", "post") in documented


async def test_every_operation_says_what_it_does_and_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    found = list(operations(document))
    for path, _, operation in found:
        assert operation["description"], path
        assert operation["tags"], path
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            part = list(part.values())
        if isinstance(part, list):
            for inner in part:
                yield from references(inner)

    found = set(references(document))
    assert "#/components/schemas/TicketIn" in found
    assert found <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


async def test_what_the_document_shows_can_be_sent(document: dict[str, Any], service: Service) -> None:
    sent = 0
    for path, method, operation in operations(document):
        body = operation.get("requestBody")
        example = example_of(body["content"]["application/json"]["schema"], document) if body else None
        answer = await service.client.request(method, path, json=example) if body else await service.client.request(method, path)
        assert answer.status_code in (200, 201), path
        if path.endswith("/batch"):
            assert "error" not in answer.json()["results"][0]
        sent += bool(body)
    assert sent == 4


@pytest.mark.parametrize("code", sorted({error.code for error in classes(ServiceError)}))
async def test_every_error_is_documented(client: httpx.AsyncClient, code: str) -> None:
    assert f"`{code}`" in (await client.get("/openapi.json")).text


async def test_an_error_is_documented_under_its_status(document: dict[str, Any]) -> None:
    statuses = {error.code: str(error.status) for error in classes(ServiceError)}
    found = 0
    for path, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            for code in re.findall(r"`(\w+)`:", answer["description"]):
                assert statuses[code] == status, (path, code)
                found += 1
    assert found >= 10


async def test_every_documented_error_has_the_one_shape(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}, path
