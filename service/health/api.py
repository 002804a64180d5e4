"""`/livez`, `/readyz` and `/metrics`: open to everyone, they tell nothing of tickets."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from service.errors import ErrorBody, NotReady
from service.state import State

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: str


class Ready(BaseModel):
    status: str
    model_version: str
    reload_error: str | None = Field(description="Why the newest champion is not the one that serves; null where it is.")


@router.get("/livez")
async def livez() -> Alive:
    """The process answers."""
    return Alive(status="alive")


@router.get("/readyz", responses={503: {"model": ErrorBody, "description": "`not_ready`: decisions cannot be made or stored."}})
async def readyz(request: Request) -> Ready:
    """Decisions can be made and stored."""
    state: State = request.app.state.service
    if not state.writer.healthy:
        raise NotReady
    return Ready(status="ready", model_version=state.router.version, reload_error=state.reload_error)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}})
async def metrics(request: Request) -> Response:
    """The meters, for Prometheus."""
    state: State = request.app.state.service
    return Response(state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
