"""What one running application holds: made by the lifespan, handed to whoever needs it, never global."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine

from model.decision import Decider, Decision
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

    def count(self, decided: Iterable[Decision]) -> None:
        """Enter decisions in the metrics."""
        for decision in decided:
            self.metrics.decisions.labels(decision["action"], decision["language"]["code"], decision["model_version"]).inc()
            for target, answer in decision["labels"].items():
                self.metrics.labels.labels(target, answer["label"]).inc()
                self.metrics.confidence.labels(target).observe(answer["confidence"])
