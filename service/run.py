"""`pointsman serve`: the application under uvicorn."""

import os
import sys
from pathlib import Path

import orjson
import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from model import bundle
from service import database
from service.access import is_loopback
from service.app import create_app
from service.keys.service import KeyRing
from service.settings import Settings

DRAIN_SECONDS = 20  # for the requests at work when the service is told to stop


class CannotServeError(Exception):
    """The service would not be safe, or not able, to run as it was asked to."""


def run(model: Path, host: str, port: int, workers: int) -> None:
    """Serve until told to stop.

    Raises BundleError or CannotServeError before anything is bound.
    """
    bundle.find(model)
    # Worker processes build their application from the environment.
    os.environ["POINTSMAN_MODEL"] = str(model.resolve())
    os.environ["POINTSMAN_HOST"] = host
    try:
        settings = Settings()
        engine = database.connect(settings.database_url)
        database.migrate(engine)
        ring = KeyRing(engine, 0)
        ring.refresh()
        engine.dispose()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CannotServeError(f"POINTSMAN_{str(first['loc'][0]).upper()}: {first['msg']}") from error
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise CannotServeError(f"POINTSMAN_DATABASE_URL: the database cannot be opened ({type(error).__name__})") from error
    if ring.empty and not is_loopback(host):
        raise CannotServeError(f"--host {host}: an address that others can reach needs an API key first; `pointsman keys add NAME` makes one")
    print(f"Pointsman serves on http://{host}:{port} (stop it with Ctrl-C)", flush=True)  # noqa: T201
    uvicorn.run(
        "service.run:application", factory=True, host=host, port=port, workers=workers, log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=DRAIN_SECONDS, timeout_keep_alive=30, limit_concurrency=None,
    )  # fmt: skip


def application() -> FastAPI:
    """The application that the environment asks for; each worker calls it."""
    settings = Settings()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return create_app(settings)
