"""Logs: one JSON object a line on standard error, with the request's id where there is one, never with ticket text."""

import sys
from typing import Any

import orjson
import structlog


def configure(level: str) -> None:
    """Log from `level` up."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_to_standard_error,
        cache_logger_on_first_use=False,
    )


def _as_json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _to_standard_error(*_: Any) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)
