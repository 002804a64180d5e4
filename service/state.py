"""What one running application holds: made by the lifespan, handed to whoever needs it, never global."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine

from model.decision import Decider
from model.router import Router
from model.taxonomy import Taxonomy
from service.metrics import Metrics
from service.settings import Settings
from service.writer import Writer


@dataclass
class State:
    """The parts of a running application."""

    settings: Settings
    decider: Decider
    manifest: dict[str, Any]
    taxonomy: Taxonomy
    engine: Engine
    writer: Writer
    metrics: Metrics

    @property
    def router(self) -> Router:
        """The router that serves."""
        return self.decider.router
