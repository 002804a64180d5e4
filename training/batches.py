"""Tables of tickets decided batch by batch: here, or in parallel where `training.backend` says. The answers are the same."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import orjson

from model.decision import Decider, Ticket
from model.encoder import Encoder
from model.errors import EncoderError
from model.policy import Policy
from model.router import Router
from training.rows import BadRow, Row, as_ticket

BATCH = 1024  # tickets decided together
_UNDER_WAY = 128  # batches read and handed out together, which bounds the memory: what is decided waits for what comes before it

OpenEncoder = Callable[[Router], Encoder | None]
_there: dict[str, Encoder | None] = {}  # in a worker: the encoder of the router that it decides by; loading one takes seconds


class Decided(NamedTuple):
    """`lines`: one JSON line a row, in order; how many `rows`, and how many of them `failed`; `unasked`: why the deep path could not be
    asked, or ""."""

    lines: bytes
    rows: int
    failed: int
    unasked: str


def decide(
    rows: Iterable[Row | BadRow], router: Router, policy: Policy, open_encoder: OpenEncoder, *, explain: bool = False, parallel: bool = False
) -> Iterator[Decided]:
    """Decide each of `rows`; the batches come in order, in constant memory. `parallel`: where `training.backend` says, not here.

    `open_encoder`: of the router's deep path; one of a module, so that workers can import it. They ask theirs only where there is one here.
    """
    encoder = open_encoder(router)
    batches = _batches(iter(rows))
    if not parallel:
        yield from (_decide(batch, router, policy, encoder, explain) for batch in batches)
        return
    from joblib import Parallel, delayed

    opening = open_encoder if encoder else None
    while together := list(islice(batches, _UNDER_WAY)):
        yield from Parallel(return_as="generator")(delayed(_decide_there)(batch, router, policy, opening, explain) for batch in together)


def _decide_there(batch: list[Row | BadRow], router: Router, policy: Policy, opening: OpenEncoder | None, explain: bool) -> Decided:
    if opening and router.version not in _there:
        _there.clear()
        _there[router.version] = opening(router)
    encoder = _there[router.version] if opening else None
    decided = _decide(batch, router, policy, encoder, explain)
    return decided._replace(unasked="a worker could not load its encoder") if opening and not encoder else decided


def _decide(batch: list[Row | BadRow], router: Router, policy: Policy, encoder: Encoder | None, explain: bool) -> Decided:
    tickets: list[Ticket] = []
    lines: list[dict[str, Any]] = []
    places = []
    for row in batch:
        line, ticket = as_ticket(row, router.text_columns)
        if ticket:
            places.append(len(lines))
            tickets.append(ticket)
        lines.append(line)
    unasked: list[EncoderError] = []
    decided = Decider(router, policy).decide(tickets, explain=explain, encoder=encoder, failed=unasked.append)
    for place, decision in zip(places, decided, strict=True):
        lines[place] |= decision
    written = b"\n".join(orjson.dumps(line, default=_as_json) for line in lines) + b"\n"
    return Decided(written, len(lines), len(lines) - len(tickets), str(unasked[0]) if unasked else "")


def _batches(rows: Iterator[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def _as_json(value: object) -> str:
    """What JSON has no form for: databases and Parquet have decimals and bytes as ids."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
