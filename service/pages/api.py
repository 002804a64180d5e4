"""The pages for people: `/`, where a ticket can be tried. Nothing tried here is stored."""

from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service import body
from service.access import Scope, needs
from service.classify.schemas import LONGEST_BODY, LONGEST_SUBJECT
from service.errors import InvalidField
from service.pages.html import HERE, show
from service.pages.service import EXAMPLES, page
from service.state import State

router = APIRouter(tags=["pages"], include_in_schema=False, route_class=needs(Scope.CLASSIFY))


def mount(app: FastAPI) -> None:
    """Serve the style sheet, script and icon."""
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


@router.get("/")
async def first_page(request: Request, example: str = "") -> HTMLResponse:
    """The form; with ``?example=`` filled in and answered."""
    state: State = request.app.state.service
    return show("try.html", await page(state, request.receive, *EXAMPLES.get(example, ("", ""))))


@router.post("/")
async def try_ticket(request: Request) -> HTMLResponse:
    """The same page with the answer; only its answer part where the page's script asks."""
    state: State = request.app.state.service
    raw = await body.read(request, state.settings.max_request_bytes)
    try:
        fields = parse_qs(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        raise InvalidField("The form must be URL-encoded UTF-8.") from None
    subject = fields.get("subject", [""])[0][:LONGEST_SUBJECT]
    text = fields.get("body", [""])[0][:LONGEST_BODY]
    partial = request.headers.get("x-part") == "answer"
    return show("answer.html" if partial else "try.html", await page(state, request.receive, subject, text))
