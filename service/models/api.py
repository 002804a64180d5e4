"""`/model` and `/taxonomy`: what serves, and what its labels mean."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from model.taxonomy import Taxonomy
from service.access import Scope, needs
from service.errors import documented
from service.state import State

router = APIRouter(tags=["model"], route_class=needs(Scope.CLASSIFY))


class ModelOut(BaseModel):
    """The model that serves: its version, targets and labels, what it was trained on and the figures measured then."""

    version: str
    targets: dict[str, list[str]]
    languages: list[str]
    trained_on: dict[str, Any]
    metrics: dict[str, Any]


@router.get("/model", responses=documented())
async def model(request: Request) -> ModelOut:
    """The model that serves, with the figures measured when it was trained."""
    state: State = request.app.state.service
    head = state.router.languages
    return ModelOut(
        version=state.router.version,
        targets={target.name: list(target.labels) for target in state.router.targets},
        languages=list(head.labels) if head else [state.router.only_language] if state.router.only_language else [],
        trained_on=state.manifest["trained_on"],
        metrics=state.manifest["metrics"],
    )


@router.get("/taxonomy", responses=documented())
async def taxonomy(request: Request) -> Taxonomy:
    """The targets, their labels and what each means."""
    state: State = request.app.state.service
    return state.taxonomy
