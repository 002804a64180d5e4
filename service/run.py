"""`pointsman serve`: the application under uvicorn."""

import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from model import bundle
from service import database
from service.access import is_loopback
from service.app import create_app
from service.settings import Settings


class CannotServeError(Exception):
    """The service would not be safe, or not able, to run as it was asked to."""


def run(model: Path, host: str, port: int, workers: int) -> None:
    """Serve until told to stop.

    Raises BundleError or CannotServeError before anything is bound.
    """
    bundle.find(model)
    if not is_loopback(host):
        raise CannotServeError(f"--host {host}: an address that others can reach needs an API key first; there is none")
    # Worker processes build their application from the environment.
    os.environ["POINTSMAN_MODEL"] = str(model.resolve())
    os.environ["POINTSMAN_HOST"] = host
    try:
        database.migrate(database.connect(Settings().database_url))
    except Exception as error:
        raise CannotServeError(f"POINTSMAN_DATABASE_URL: the database cannot be opened ({type(error).__name__})") from error
    print(f"Pointsman serves on http://{host}:{port} (stop it with Ctrl-C)", flush=True)  # noqa: T201
    uvicorn.run(
        "service.run:application", factory=True, host=host, port=port, workers=workers, log_level="warning", access_log=False, server_header=False
    )


def application() -> FastAPI:
    """The application that the environment asks for; each worker calls it."""
    return create_app(Settings())
