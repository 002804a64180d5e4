"""All that the application answers, one way at a time, for the tests that walk over it: a route that is added later is among them."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from service.access import Scope
from tests.service.test_openapi import example_of
from tests.serving import INCIDENT, Service, error_of

# What is answered without a key, and why it may be.
PUBLIC = {
    "/livez": "who watches the process has no key; it tells that the process answers",
    "/readyz": "a load balancer has no key; it tells the model's version",
    "/metrics": "Prometheus has no key; it tells counts, of no ticket and no customer",
    "/docs": "the API's page, which says nothing of a ticket; outside loopback it is not there unless it is asked for",
    "/docs/oauth2-redirect": "a part of that page",
    "/openapi.json": "the document that it shows",
}
PUBLIC_FOLDERS = {
    "/static": "what the pages are made of",
    "/static-offline-docs": "what the API's page is made of",
}
# What is for people, so that the document for programs need not have it: these, and all below /app.
PAGES = {"/", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
WITH_BODY = {"POST", "PUT", "PATCH", "DELETE"}


class Way(NamedTuple):
    """One thing that can be asked of the application: a method of a path, the parameters of which stand in braces."""

    method: str
    template: str
    scope: Scope | None = None
    operation: dict[str, Any] | None = None  # what the OpenAPI document says of it
    example: Any = None  # of its body, in that document

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    def path(self, value: str = "T-1") -> str:
        """With `value` in the place of each parameter."""
        return re.sub(r"\{[^}]*\}", quote(value, safe=""), self.template)

    @property
    def schema(self) -> dict[str, Any]:
        """Of its body; empty where the document has none."""
        body = (self.operation or {}).get("requestBody")
        return dict(body["content"]["application/json"]["schema"]) if body else {}

    @property
    def content(self) -> bytes | None:
        """A body that it takes: the document's example, or what the form of a page would send."""
        if self.method not in WITH_BODY:
            return None
        return json.dumps(self.example).encode() if self.schema else urlencode({"body": INCIDENT}).encode()

    @property
    def is_file(self) -> bool:
        return self.template.startswith(tuple(f"{folder}/" for folder in PUBLIC_FOLDERS))

    @property
    def is_public(self) -> bool:
        return self.template in PUBLIC or self.is_file

    @property
    def is_page(self) -> bool:
        return self.template in PAGES or self.is_file or self.template.startswith("/app")


def walk(app: FastAPI) -> list[Way]:
    """Every way, those of included routers, mounted applications and folders too."""
    document = app.openapi()
    found = []
    for method, path, route in _routes(app.routes):
        way = Way(method, path, getattr(route, "scope", None), document["paths"].get(path, {}).get(method.lower()))
        found.append(way._replace(example=example_of(way.schema, document)) if way.schema else way)
    return found


def guarded(service: Service) -> list[Way]:
    """Every way but those to what is public."""
    return [way for way in walk(service.app) if not way.is_public]


def _routes(found: Sequence[BaseRoute], below: str = "") -> Iterator[tuple[str, str, BaseRoute]]:
    for context in iter_route_contexts(found):
        route: BaseRoute = context.original_route
        if isinstance(route, Mount) and isinstance(route.app, StaticFiles):
            for folder in map(Path, route.app.all_directories):
                yield from (("GET", f"{below}{route.path}/{file.relative_to(folder)}", route) for file in sorted(folder.rglob("*.*")))
        elif isinstance(route, Mount):
            assert route.routes, f"nobody can say what is answered below {route.path}"
            yield from _routes(route.routes, below + route.path)
        else:
            assert isinstance(route, APIRoute | Route), f"a kind of route that is not known here: {route}"
            assert context.methods, f"{context.path} takes every method"
            yield from ((method, f"{below}{context.path}", route) for method in sorted(context.methods))


async def ask(service: Service, way: Way, headers: dict[str, str] | None = None, **changed: Any) -> httpx.Response:
    """The request that `way` is made for, but for what is `changed`."""
    kind = {"Content-Type": "application/json" if way.schema else "application/x-www-form-urlencoded"} if way.content else {}
    request = {"method": way.method, "url": way.path(), "content": way.content, "headers": kind | (headers or {})} | changed
    return await service.client.request(**request)


def refused(answer: httpx.Response, status: int, code: str) -> bool:
    """Whether an answer is this error, in the one shape. What answers HEAD has no body."""
    with suppress(AssertionError, ValueError):
        return answer.status_code == status and (answer.request.method == "HEAD" or error_of(answer) == code)
    return False


def variants(example: Any, schema: dict[str, Any], document: dict[str, Any], more: Callable[[set[str]], list[dict[str, Any]]]) -> Iterator[Any]:
    """`example`, in each of its objects with each of the fields that `more` gives where it is told the names of the object's own."""
    schema = resolved(schema, document)
    if isinstance(example, dict):
        yield from (example | extra for extra in more(set(schema["properties"])))
        for name, value in example.items():
            yield from (example | {name: changed} for changed in variants(value, schema["properties"][name], document, more))
    elif isinstance(example, list):
        for place, value in enumerate(example):
            for changed in variants(value, schema["items"], document, more):
                yield [*example[:place], changed, *example[place + 1 :]]


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """What a schema's reference leads to, else the schema."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(document["components"]["schemas"][name]) if name else schema


def undocumented(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str = "") -> list[str]:
    """The fields in `value` that `schema` does not name."""
    schema = resolved(schema, document)
    if "anyOf" in schema:
        return min((undocumented(value, one, document, where) for one in schema["anyOf"]), key=len)
    if isinstance(value, list):
        return [field for item in value for field in undocumented(item, schema.get("items", {}), document, where)]
    if not isinstance(value, dict):
        return []
    names, others = schema.get("properties", {}), schema.get("additionalProperties")
    found = []
    for name, inner in value.items():
        known = names.get(name, others)
        found += undocumented(inner, known, document, f"{where}.{name}") if isinstance(known, dict) else [f"{where}.{name}"]
    return found


def endless(schema: dict[str, Any], document: dict[str, Any], where: str = "") -> Iterator[str]:
    """The lists and texts in `schema` that may be of any length."""
    schema = resolved(schema, document)
    bounds = {"array": {"maxItems"}, "string": {"maxLength", "enum", "const", "format", "pattern"}}.get(schema.get("type", ""))
    if bounds and not bounds & set(schema):
        yield where
    for name, inner in schema.get("properties", {}).items():
        yield from endless(inner, document, f"{where}.{name}")
    for inner in [schema.get("items"), *schema.get("anyOf", [])]:
        if inner:
            yield from endless(inner, document, f"{where}.*" if inner is schema.get("items") else where)
