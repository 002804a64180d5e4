"""The service does what its OpenAPI document says, for requests that nobody thought of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.app import create_app
from service.settings import Settings
from tests.serving import listening

schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    database = tmp_path_factory.mktemp("database") / "pointsman.db"
    with listening(create_app(Settings(model=models, database_url=f"sqlite:///{database}"))) as port:
        yield f"http://localhost:{port}"


def beyond_the_schema(case: schemathesis.Case[Any], answer: schemathesis.Response) -> list[CheckFunction]:
    """The checks that do not hold for this answer, because no JSON schema could say what the service does."""
    error = answer.json().get("error", {}) if answer.status_code in (413, 422) else {}
    if error.get("code") == "no_text" or error.get("field") == "language":
        return [positive_data_acceptance]  # that one of two texts must say something; the registry of languages
    if error.get("code") == "too_many_tickets":
        return [negative_data_rejection]  # 413 is a rejection, but not one that schemathesis expects
    if case.path == "/classify/batch" and answer.status_code == 200 and any("error" in result for result in answer.json()["results"]):
        return [negative_data_rejection]  # a ticket that is wrong was rejected in its place
    return []


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_service_does_what_its_document_says(case: schemathesis.Case[Any], url: str) -> None:
    answer = case.call(base_url=url)
    case.validate_response(answer, excluded_checks=beyond_the_schema(case, answer))
