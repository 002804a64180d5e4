"""The service does what its OpenAPI document says, for requests that nobody thought of: schemathesis makes them up, right and wrong
ones, and every check that it has looks at the answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import settings as effort
from schemathesis.checks import CHECKS, CheckFunction, load_all_checks
from schemathesis.errors import NoLinksFound
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from sqlalchemy.engine import Engine

from model.language import normalise
from service.access import Scope
from service.app import create_app
from service.database import decisions, outcomes, stories
from service.keys.service import make
from service.settings import Settings
from tests.serving import DATABASES, listening

# Where others can reach it a key is needed, and the document says so; on a loopback address the first minutes go without.
EXPOSED = {"host": "0.0.0.0", "docs": "on"}  # noqa: S104
DOCUMENT = create_app(Settings().model_copy(update=EXPOSED)).openapi()
schema = schemathesis.openapi.from_dict(deepcopy(DOCUMENT))  # which writes links of its own into what it is given

# The same requests in every run; the application is made anew for each operation, not for each request.
BOUNDED = effort(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEQUENCES = effort(max_examples=20, stateful_step_count=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

HARD_TEXT = "server \0 down \ufffe ' \" \\ %s $1 \U0001f4a5"  # for a database


class Running(NamedTuple):
    """A server, and the header that opens all of it."""

    url: str
    key: dict[str, str]
    engine: Engine


@contextmanager
def run(settings: Settings, database_url: str) -> Iterator[Running]:
    app = create_app(settings.model_copy(update={**EXPOSED, "database_url": database_url}))
    with listening(app) as port:
        state = app.state.service
        _, secret = make(state.engine, "schemathesis", frozenset({Scope.ADMIN}))
        state.keys.refresh()
        yield Running(f"http://localhost:{port}", {"Authorization": f"Bearer {secret}"}, state.engine)


@pytest.fixture(autouse=True)
def many_wrong_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.keys.service.FAILURES", 1_000_000)  # who checks that a wrong key opens nothing sends many


@pytest.fixture(params=DATABASES)
def running(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Running]:
    with run(settings, request.getfixturevalue(request.param)) as service:
        yield service


@pytest.fixture
def both(settings: Settings, sqlite: str, postgresql: str) -> Iterator[dict[str, Running]]:
    """One with each database. To make requests up takes as long as to answer them, so each is sent to both."""
    with run(settings, sqlite) as one, run(settings, postgresql) as other:
        yield dict(zip(DATABASES, (one, other), strict=True))


def kept_to_the_rules(case: schemathesis.Case[Any]) -> Any:
    """The body of `case` with tickets and events that keep the rules that no JSON schema can say. What breaks the schema is left as it is."""
    if not isinstance(case.body, dict):
        return case.body
    for path, items, mend in (("/classify", "tickets", good), ("/tickets/", "", happened), ("/outcomes/batch", "outcomes", happened)):
        if case.path.startswith(path):
            sent = case.body.get(items)
            if isinstance(sent, list):
                return case.body | {items: [mend(item) if isinstance(item, dict) else item for item in sent]}
            return mend(case.body)
    return case.body


def happened(event: dict[str, Any]) -> dict[str, Any]:
    """At a moment that outcomes can be of."""
    moment = event.get("at")
    wrong = isinstance(moment, str) and moment[:4].isdecimal() and not "1901" <= moment[:4] < "2025"
    return event | {"at": "2024" + str(moment)[4:]} if wrong else event


def good(ticket: dict[str, Any]) -> dict[str, Any]:
    """With some text, a language that is registered, a moment that tickets can be of."""
    kept = dict(ticket)
    language, moment = kept.get("language"), kept.get("created_at")
    if isinstance(language, str) and len(language) <= 35 and normalise(language) is None:
        kept["language"] = "pt-BR"
    if isinstance(moment, str) and moment[:4].isdecimal() and not "1900" <= moment[:4] < "2200":
        kept["created_at"] = "2024" + moment[4:]
    if all(kept.get(name) is None or (isinstance(kept[name], str) and not kept[name].strip()) for name in ("subject", "body")):
        kept["body"] = HARD_TEXT
    return kept


def refused_in_place(answer: schemathesis.Response) -> list[str]:
    """The codes of the errors that tickets of a batch got in their places, but for those of what was sent before with other content."""
    results = answer.json().get("results", []) if answer.status_code == 200 and "json" in answer.headers["content-type"][0] else []
    return [
        result["error"]["code"] for result in results if "error" in result and result["error"]["code"] not in ("ticket_conflict", "event_conflict")
    ]


def beyond_the_schema(answer: schemathesis.Response) -> list[CheckFunction]:
    """The checks that do not hold for this answer, because no JSON schema could say what the service does."""
    error = answer.json()["error"] if answer.status_code == 422 else {}
    if error.get("code") == "no_text" or error.get("field") in ("language", "created_at", "at", "from", "to"):
        return [positive_data_acceptance]
    # A wrong ticket of a batch is rejected in its place; and 413 is a rejection, but not one that schemathesis expects.
    return [negative_data_rejection] if answer.status_code == 413 or refused_in_place(answer) else []


@pytest.mark.no_cover  # other tests run the same lines, and to count them would take as long again
@schema.parametrize()
@BOUNDED
def test_the_service_does_what_its_document_says(case: schemathesis.Case[Any], both: dict[str, Running]) -> None:
    for name, running in both.items():
        try:
            is_answered_as_documented(case, running)
        except Exception as error:
            error.add_note(f"With {name}.")
            raise


def is_answered_as_documented(case: schemathesis.Case[Any], running: Running) -> None:
    answer = case.call(base_url=running.url, headers=running.key)
    case.validate_response(answer, headers=running.key, excluded_checks=beyond_the_schema(answer))
    # That may have been about a rule beyond the schema. Where it was, the ticket is sent again, so that the answer is about the schema.
    made, case.body = case.body, kept_to_the_rules(case)
    try:
        if case.body != made:
            answer = case.call(base_url=running.url, headers=running.key)
            beyond = [check for check in beyond_the_schema(answer) if check is not positive_data_acceptance]
            case.validate_response(answer, headers=running.key, excluded_checks=beyond)
            if case.meta and case.meta.generation.mode.is_positive:
                assert refused_in_place(answer) == []
    finally:
        case.body = made


def test_requests_that_follow_from_each_other_are_answered_as_documented(running: Running) -> None:
    """Where an answer holds what a path takes, schemathesis takes it there."""

    class Sequence(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            with running.engine.begin() as connection:  # the same sequence is answered in the same way, however often it is tried
                for table in (outcomes, stories, decisions):
                    connection.execute(sa.delete(table))

        def before_call(self, case: schemathesis.Case[Any]) -> None:
            case.body = kept_to_the_rules(case)  # a ticket that is refused leads nowhere

        def get_call_kwargs(self, case: schemathesis.Case[Any]) -> dict[str, Any]:  # noqa: ARG002
            return {"base_url": running.url, "headers": running.key}

        def validate_response(self, answer: schemathesis.Response, case: schemathesis.Case[Any], **sent: Any) -> None:
            case.validate_response(answer, excluded_checks=beyond_the_schema(answer), transport_kwargs=sent, recorder=self.recorder)

    try:
        Sequence.run(settings=SEQUENCES)
    except NoLinksFound:
        unled = [path for path in DOCUMENT["paths"] if "{" in path]
        assert unled == [], "say in the document, as an OpenAPI link, which answer gives the parameter of this path"


def test_the_document_is_the_one_that_is_served(running: Running) -> None:
    assert httpx.get(f"{running.url}/openapi.json").json() == DOCUMENT


def test_no_check_is_switched_off() -> None:
    load_all_checks()
    names = CHECKS.get_all_names()
    assert {"not_a_server_error", "unsupported_method", "ignored_auth", "negative_data_rejection", "positive_data_acceptance"} <= set(names)
    for name in names:
        assert schema.config.checks_config_for().get_by_name(name=name).enabled, name
    phases = schema.config.phases
    assert phases.examples.enabled
    assert phases.coverage.enabled
    assert phases.fuzzing.enabled
    assert phases.stateful.enabled
    assert {mode.value for mode in schema.config.generation.modes} == {"positive", "negative"}
