"""Who made which bundle the champion, when and why: one JSON line a promotion in `promotions.jsonl`, beside the bundles.

A line is on the disk before the champion file is replaced. So a promotion that was cut short left the old champion serving and a line
that did not come true; the next one that looks sees that the two differ, and adds a line that says so. No line is ever changed.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from model.errors import BundleError

FILE = "promotions.jsonl"
LONGEST = 1000  # characters of a name or a reason
LARGEST = 64 << 20  # bytes of the file; a promotion a minute fills it in four months
_Said = Annotated[str, StringConstraints(max_length=LONGEST)]


class Promotion(BaseModel):
    """One line. `event`: the `first` champion, `promoted`, `rolled_back`, or `found`: the champion file named another version than the line
    before. `verdict`: what the gate had said; `comparison`: the digest of the file that holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    at: str
    event: Literal["first", "promoted", "rolled_back", "found"]
    before: Annotated[str | None, Field(alias="from")]
    to: str | None
    by: _Said = ""
    reason: _Said = ""
    verdict: Literal["passed", "overruled", "none"] = "none"
    comparison: str | None = None


def history(folder: Path) -> list[Promotion]:
    """All promotions in `folder`, oldest first. Raises BundleError where a line is none: it says what was done, so it is not guessed at."""
    path = folder / FILE
    try:
        if path.stat().st_size > LARGEST:
            raise BundleError(f"{path}: larger than the {LARGEST} bytes it may have; put it aside")
        lines = path.read_bytes().split(b"\n")[:-1]  # a line without its end was never finished
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Promotion.model_validate_json(line))
        except ValidationError as error:
            raise BundleError(f"{path}, line {number}: not a promotion; mend it or put the file aside") from error
    return found


def before(known: Sequence[Promotion]) -> str | None:
    """The champion before the last one, as one that undoes the last promotion wants it: who rolls back twice goes back by two."""
    served: list[str] = []
    for one in known:
        if one.to is None:
            continue
        if one.event in ("rolled_back", "found") and one.to in served:
            while served[-1] != one.to:
                served.pop()
        else:
            served.append(one.to)
    return served[-2] if len(served) > 1 else None


class Record:
    """The open file of a folder whose promotions nobody else changes meanwhile."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.known = history(folder)
        self._handle = handle

    def add(self, one: Promotion) -> Promotion:
        """Add a line; it is on the disk when this returns."""
        line = one.model_dump_json(by_alias=True).encode() + b"\n"
        end = os.lseek(self._handle, 0, os.SEEK_END)
        written = os.write(self._handle, line)
        if written != len(line):  # the disk is full: half a line is taken back
            os.ftruncate(self._handle, end)
            raise BundleError(f"{FILE}: only {written} of {len(line)} bytes could be written")
        os.fsync(self._handle)
        self.known.append(one)
        return one

    def settle(self, champion: str | None) -> Promotion | None:
        """Where the last line does not name the `champion`, add one that says so."""
        if not self.known or self.known[-1].to == champion:
            return None
        promised = self.known[-1].to
        why = f"{promised or 'no version'} was to serve, and {champion or 'no version'} does: a promotion was cut short, or the file changed by hand"
        return self.add(Promotion(at=now(), event="found", before=promised, to=champion, reason=why))


@contextmanager
def locked(folder: Path) -> Iterator[Record]:
    """The promotions of `folder`, while nobody else promotes. What was half written by one who died is taken away."""
    handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        tail = os.pread(handle, size, 0) if size <= LARGEST else b"\n"
        if not tail.endswith(b"\n"):
            os.ftruncate(handle, tail.rfind(b"\n") + 1)
        yield Record(folder, handle)
    finally:
        os.close(handle)


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
