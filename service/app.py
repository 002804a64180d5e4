"""The application: `create_app(settings)` puts the features together; nothing happens at import."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from model import bundle
from model.decision import Decider, Ticket
from model.policy import load_policy
from model.taxonomy import load_taxonomy
from service import database, errors, front
from service.classify import api as classify
from service.classify.schemas import MOST_TICKETS, BatchIn, TicketIn
from service.health import api as health
from service.metrics import Metrics
from service.models import api as models
from service.pages import api as pages
from service.settings import Settings
from service.state import State
from service.writer import Writer

DESCRIPTION = "Reads a support ticket in any language, says whether it is a real incident or a request for advice, names the department, and says how sure it is."


def create_app(settings: Settings) -> FastAPI:
    """The application. Its lifespan loads the bundle, brings the database up to date and starts the writer."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = _open(settings, metrics)
        app.state.service = state
        # What is loaded by now stays: the collector need not walk through it again and again (a tenth of a classification), and
        # worker processes share its memory.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await state.writer.stop()
            state.engine.dispose()

    app = FastAPIOffline(
        title="Pointsman", version="0.1.0", description=DESCRIPTION, lifespan=lifespan, redoc_url=None, favicon_url="/static/icon.svg"
    )
    errors.install(app)
    for feature in (classify, models, health, pages):
        app.router.routes.extend(feature.router.routes)  # include_router would wrap each in a second matching
    pages.mount(app)
    front.install(app, metrics)
    _describe(app)
    return app


def _open(settings: Settings, metrics: Metrics) -> State:
    router, manifest = bundle.load_with_manifest(bundle.find(settings.model))
    decider = Decider(router, load_policy(settings.policy))
    # The compiled loops are loaded now, not in the first customer's request.
    decider.decide([Ticket(body="Warm up")], explain=True, advise=True)
    metrics.model.labels(router.version).set(1)
    engine = database.connect(settings.database_url)
    database.migrate(engine)
    writer = Writer(engine, settings.keep_text_days, settings.write_seconds, metrics)
    return State(settings, decider, manifest, load_taxonomy(), engine, writer, metrics)


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document the request bodies that the routes read by hand."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = document["components"]["schemas"]
            for body in (TicketIn, BatchIn):
                schemas[body.__name__] = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas["BatchIn"]["properties"]["tickets"] |= {"items": {"$ref": "#/components/schemas/TicketIn"}, "maxItems": MOST_TICKETS}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
