"""What one running application holds: made by the lifespan, handed to whoever needs it, never global."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Engine

from model.decision import Decider
from model.router import Router
from model.taxonomy import Taxonomy
from service.deep import DeepPath
from service.keys.service import KeyRing
from service.metrics import Metrics
from service.reports.service import Reports
from service.settings import Settings
from service.writer import Writer

if TYPE_CHECKING:  # it takes a state itself
    from service.classify.service import Desk


@dataclass
class State:
    """The parts of a running application. `decider`, `manifest` and what `deep` asks change together when a new champion is taken; a
    request that has begun goes on with the one it took. `reload_error` is why the newest champion is not the one that serves."""

    settings: Settings
    decider: Decider
    manifest: dict[str, Any]
    deep: DeepPath
    taxonomy: Taxonomy
    engine: Engine
    writer: Writer
    desk: "Desk"
    keys: KeyRing
    metrics: Metrics
    reports: Reports
    reload_error: str | None = None

    @property
    def router(self) -> Router:
        """The router that serves."""
        return self.decider.router
