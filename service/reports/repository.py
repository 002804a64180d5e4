"""All SQL of the reports. Reading a million stories is mostly making objects of their cells, so as few cells as possible are read."""

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from service.database import decisions, outcomes, stories
from service.outcomes.story import AT_ONCE
from service.reports.frame import Codes, Stories, Words

_TOGETHER = 1_000  # rows made into columns at once; they fit a processor's cache
_BETWEEN = "\x1f"  # the unit separator, which no label has

# What says little else than its neighbours comes as one cell, so that a million rows have some thousands of them; what differs from a
# decision's own labels, only where it does.
_DECIDED = ("model_version", "kind", "department", "action", "reasons")
_KNOWN = ("language", "channel", "customer_tier", "country")
_CHANGED = ("final_kind", "final_department", "kind_by", "department_by")
_FURTHER: tuple[tuple[str, ...], ...] = (("declared_kind",), ("course",), ("placed_in", "placed_by", "answered_in"))  # of each of the three
_NOTHING: tuple[tuple[str, ...], ...] = ((), (), ())
_DIFFERS = "final_department {differs} department OR final_kind {differs} kind"
_SHARED = {
    "final_kind": "kind",
    "final_department": "department",
    "placed_in": "department",
    "answered_in": "department",
    "overruled_to": "department",
}
_NUMBERS = {"created_at": "created_at", "department_confidence": "department_confidence", "closed": "CASE WHEN closed_at IS NULL THEN 0 ELSE 1 END"}
_FURTHER_NUMBERS = {name: name for name in ("kind_confidence", "moves", "wrong_at", "right_at", "answered_at")}


_ASKED_TOGETHER = 500  # decisions of a statement
_SINCE = sa.type_coerce(outcomes.c.happened_at, sa.BigInteger) - sa.type_coerce(stories.c.wrong_at, sa.BigInteger)
_TAKEN = (
    sa.select(stories.c.decision_id, outcomes.c.to_label)
    .join(outcomes, outcomes.c.ticket_id == stories.c.ticket_id)
    .where(stories.c.decision_id.in_(sa.bindparam("ids", expanding=True)), outcomes.c.event == "moved", outcomes.c.by_whom == "person")
    .where(stories.c.placed_in == stories.c.department, sa.between(_SINCE, 0, AT_ONCE))
    .order_by(outcomes.c.happened_at.desc(), outcomes.c.event_id.desc())  # of several the first is kept
)


class Reader:
    """Reads stories; the words of all that one reader reads have the same numbers."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.words: dict[str, Words] = defaultdict(Words)
        for name, of in _SHARED.items():
            self.words[name] = self.words[of]

    def read(self, since: int, until: int, *, whole: bool = True, ids: bool = False) -> Stories:
        """The stories of tickets created from `since` to before `until`, in microseconds; with `ids` their decisions' ids.

        Without `whole`, what the comparison with an earlier time needs: nothing of durations, causes and courses. With it, `text` is a
        number for the text of each, the same for the same text. `placed_in`, `placed_by`, `answered_in`, `kind_by` and `department_by` are there
        for tickets of which a final label is not the decided one. `overruled_to`: where a person took a ticket at once that the router had put
        elsewhere, of those that bounced.
        """
        further = _FURTHER if whole else _NOTHING
        known, decided, changed = ((*names, *more) for names, more in zip((_KNOWN, _DECIDED, _CHANGED), further, strict=True))
        groups: list[tuple[tuple[str, ...], str]] = [(known, "{}"), (decided, "{}"), (changed, f"CASE WHEN {_DIFFERS} THEN {{}} END")]
        if whole:
            groups.append((("bounced",), f"CASE WHEN course = 'bounced' AND closed_at IS NOT NULL AND ({_DIFFERS}) THEN decision_id END"))
        numbers = _NUMBERS | _FURTHER_NUMBERS if whole else _NUMBERS
        texts = (["text_key"] if whole else []) + (["decision_id"] if ids else [])
        cells = [Words() for _ in groups]
        kinds: list[Any] = [np.float64] * len(numbers) + [{"text_key": "S16", "decision_id": "S26"}[name] for name in texts]
        parts: list[list[NDArray[Any]]] = [[] for _ in range(len(groups) + len(kinds))]
        asked = [how.replace("{}", _cell(names)) for names, how in groups] + [*numbers.values(), *texts]
        with _without_collector():
            for rows in self._rows(", ".join(asked), since, until):
                for place, column in enumerate(zip(*rows, strict=True)):
                    if place < len(cells):
                        parts[place].append(np.fromiter(map(cells[place].__getitem__, column), np.int32, len(column)))
                    else:
                        parts[place].append(np.array(column, kinds[place - len(cells)]))
        joined = [_join(part, kind) for part, kind in zip(parts, [np.int32] * len(cells) + kinds, strict=True)]
        codes: dict[str, Codes] = {}
        for (names, _), words in zip(groups, cells, strict=True):
            codes |= self._taken_apart(names, words, joined.pop(0))
        for target in ("kind", "department"):
            final = codes[f"final_{target}"]
            codes[f"final_{target}"] = np.where(final < 0, codes[target], final)
        if whole:
            codes["overruled_to"] = self._overruled(codes.pop("bounced"))
        rest = dict(zip([*numbers, *texts], joined, strict=True))
        keys, found = rest.pop("text_key", None), rest.pop("decision_id", None)
        return Stories(codes, self.words, rest, None if keys is None else _numbered(keys), found)

    def _taken_apart(self, names: Sequence[str], cells: Words, places: NDArray[np.int32]) -> dict[str, Codes]:
        """The columns `names` of which each of `cells` holds one word each."""
        split = [cell.split(_BETWEEN, len(names) - 1) for cell in cells.known]
        columns: dict[str, Codes] = {}
        for place, name in enumerate(names):
            words = self.words[name]
            numbers = np.array([*(words[cell[place] or None] for cell in split), -1], np.int32)  # the last for no cell, which is at -1
            columns[name] = (numbers.astype(np.int16) if len(words) < 2**15 else numbers)[places]
        return columns

    def _overruled(self, bounced: Codes) -> Codes:
        """`bounced`: the tickets' decisions, as numbers of words. What a story has no column for is read from the events of these few."""
        ids, words = self.words.pop("bounced").known, self.words["department"]
        taken = np.full(len(ids) + 1, -1, np.int32)  # the last for no decision, which is at -1
        for start in range(0, len(ids), _ASKED_TOGETHER):
            places = {name: start + place for place, name in enumerate(ids[start : start + _ASKED_TOGETHER])}
            for name, department in self.connection.execute(_TAKEN, {"ids": list(places)}):
                taken[places[name]] = words[department]
        return np.asarray(taken[bounced])

    def _rows(self, columns: str, since: int, until: int) -> Iterator[Sequence[Any]]:
        sqlite = self.connection.dialect.name == "sqlite"
        place = "?" if sqlite else "%s"
        asked = columns.replace("{differs}", "IS NOT" if sqlite else "IS DISTINCT FROM")
        statement = f"SELECT {asked} FROM stories WHERE created_at >= {place} AND created_at < {place}"  # noqa: S608  # names of our own
        options = {"stream_results": True, "max_row_buffer": _TOGETHER}
        with self.connection.exec_driver_sql(statement, (since, until), execution_options=options) as result:
            while rows := result.fetchmany(_TOGETHER):
                yield rows


def _cell(names: Sequence[str]) -> str:
    """These columns as one; none and an empty one are the same."""
    return f" || '{_BETWEEN}' || ".join(f"COALESCE({name}, '')" for name in names)


def _join(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    joined = np.concatenate(parts) if parts else np.zeros(0, kind)
    parts.clear()
    return joined


def _numbered(keys: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each text's key."""
    halves = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)
    return np.asarray(halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1])


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows hold no cycles; looking for some in a million of them takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def find(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """All that is stored of the stories of these decisions, with the subject and the words where they are still kept."""
    columns = [*(column for column in stories.columns), decisions.c.subject, decisions.c.explanation]
    joined = stories.join(decisions, decisions.c.decision_id == stories.c.decision_id, isouter=True)
    found = connection.execute(sa.select(*columns).select_from(joined).where(stories.c.decision_id.in_(ids)))
    return {row.decision_id: row for row in found}
