"""An application for each test, in a folder of its own."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.serving import Service, serving


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(models: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults, whatever the environment says, but for the model and the database."""
    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        monkeypatch.delenv(name)
    return Settings(model=models, database_url=database_url)


@pytest.fixture
async def service(settings: Settings, anyio_backend: str) -> AsyncIterator[Service]:  # noqa: ARG001
    async with serving(settings) as running:
        yield running


@pytest.fixture
def client(service: Service) -> httpx.AsyncClient:
    return service.client
