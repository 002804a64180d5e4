"""The application: `create_app(settings)` puts the features together; nothing happens at import."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from model import bundle
from model.policy import load_policy
from model.taxonomy import load_taxonomy
from service import champion, database, drift, errors, front, logs
from service.access import GuardedRoute
from service.classify import api as classify
from service.classify.schemas import MOST_TICKETS, BatchIn, TicketIn
from service.classify.service import Desk
from service.deep import DeepPath
from service.health import api as health
from service.keys.service import KeyRing
from service.metrics import Metrics
from service.models import api as models
from service.outcomes import api as outcomes
from service.outcomes.schemas import MOST_OUTCOMES, OutcomeIn, OutcomesIn, TicketOutcomeIn
from service.pages import api as pages
from service.pages import misroutes
from service.reports import api as reports
from service.reports.service import Reports
from service.settings import Settings
from service.state import State
from service.writer import Writer

TEND_SECONDS = 1.0  # also how long a revoked key may still be taken, and a new one not yet
STOP_SECONDS = 5.0  # for a look at the database that hangs

_TITLES: dict[str, Any] = {
    "title": "Pointsman",
    "version": "0.1.0",
    "description": "Reads a support ticket in any language, says whether it is a real incident or a request for advice, names the department, "
    "and says how sure it is.\n\n" + errors.catalogue(),
}


def create_app(settings: Settings, *, alone: bool = False) -> FastAPI:
    """The application. Its lifespan loads the bundle, brings the database up to date and starts the writer.

    `alone`: the process is this application's alone and ends with it, so that what is loaded may stay in memory for good.
    """
    metrics = Metrics()
    logs.configure(settings.log_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = open_state(settings, metrics)
        app.state.service = state
        if alone:
            # The collector need not walk through what is loaded again and again (a tenth of a classification).
            gc.collect()
            gc.freeze()
        stopping = asyncio.Event()
        watching, tending = asyncio.create_task(champion.watch(state)), asyncio.create_task(_tend(state, stopping))
        keeping, comparing = asyncio.create_task(state.deep.keep()), asyncio.create_task(drift.watch(state))
        try:
            yield
        finally:
            watching.cancel()
            keeping.cancel()
            comparing.cancel()
            stopping.set()
            # Tending is not cancelled but awaited: its thread may hold a connection, which would be left open.
            await asyncio.wait([watching, keeping, comparing, tending], timeout=STOP_SECONDS)
            await state.reports.stop()
            await state.writer.stop()
            state.engine.dispose()
            del app.state.service

    app = _with_docs(lifespan) if settings.shows_docs else FastAPI(**_TITLES, lifespan=lifespan, openapi_url=None)
    errors.install(app)
    for feature in (classify, outcomes, reports, models, health, pages, misroutes):
        app.router.routes.extend(feature.router.routes)  # include_router would wrap each in a second matching
    pages.mount(app)
    front.install(app, metrics, settings.max_in_flight)
    _describe(app, settings.loopback)
    return app


def open_state(settings: Settings, metrics: Metrics) -> State:
    """Load the champion, bring the database up to date, read the keys. Raises BundleError, PolicyError.

    A database that is away is no reason not to start: a worker that is replaced meanwhile must not end the others. Until it is back,
    which `_tend` sees, the state is not ready.
    """
    deep = DeepPath(settings.deep_seconds, settings.deep_waiting, metrics, off=settings.deep == "off")
    decider, manifest, opened = champion.load(bundle.find(settings.model), load_policy(settings.policy), deep)
    deep.take(opened)
    metrics.model.labels(decider.router.version).set(1)
    engine = database.connect(settings.database_url)
    keys = KeyRing(engine, settings.rate_per_key)
    writer = Writer(engine, settings.keep_text_days, settings.write_seconds, metrics)
    try:
        _read_database(engine, keys)
    except SQLAlchemyError as error:
        writer.failed(type(error).__name__)
    made = Reports(settings.database_url, champion.promises(decider.router))
    return State(settings, decider, manifest, deep, load_taxonomy(), engine, writer, Desk(), keys, metrics, made)


def _read_database(engine: Engine, keys: KeyRing) -> None:
    if not keys.known:
        database.migrate(engine)
    keys.refresh()


async def _tend(state: State, stopping: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), TEND_SECONDS)
            return
        # While the database is away the keys that are known stay good; decisions are refused by the writer.
        with suppress(SQLAlchemyError):
            await asyncio.to_thread(_read_database, state.engine, state.keys)
        await state.writer.tend()


def _with_docs(lifespan: Any) -> FastAPI:
    """With the API's page, whose script and style come from this machine and not from a content network."""
    return FastAPIOffline(**_TITLES, lifespan=lifespan, redoc_url=None, favicon_url="/static/icon.svg")


def _describe(app: FastAPI, loopback: bool) -> None:
    """Add to the OpenAPI document the request bodies that the routes read by hand, and which routes need a key."""
    needed: list[dict[str, list[str]]] = [{"key": []}, *([{}] if loopback else [])]  # `{}`: nothing, by the rule of `service.access`

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = document["components"]["schemas"]
            for body in (TicketIn, BatchIn, OutcomeIn, TicketOutcomeIn, OutcomesIn):
                schemas[body.__name__] = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas["BatchIn"]["properties"]["tickets"] |= {"items": {"$ref": "#/components/schemas/TicketIn"}, "maxItems": MOST_TICKETS}
            schemas["OutcomesIn"]["properties"]["outcomes"] |= {"items": {"$ref": "#/components/schemas/TicketOutcomeIn"}, "maxItems": MOST_OUTCOMES}
            document["paths"]["/classify"]["post"]["responses"]["200"]["links"] = outcomes.LINKS
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
            for route in app.routes:
                if isinstance(route, GuardedRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        document["paths"][route.path][method.lower()]["security"] = needed
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
