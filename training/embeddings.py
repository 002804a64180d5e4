"""Rows of a sentence encoder, kept so that no text is embedded twice: those of the shipped tickets in `data/embeddings`, those of a
user's own tables beside the bundles. `python -m training.embeddings` makes the shipped file.

A file holds no text: a row stands under the digest of its encoder's name and of what the encoder reads of the text.
"""

import hashlib
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar

from model import bundle
from model.cleaning import clean
from model.encoder import LOCAL, MOST_REQUESTS, MOST_TEXTS, PATIENCE, PROBE, Encoder, alike, fits, installed, open_encoder, prepare
from model.errors import EncoderError
from model.taxonomy import DATA, Taxonomy, load_taxonomy
from training import corpus
from training.deep import Embedded
from training.evaluate import Progress
from training.table import TicketTable

SHIPPED = DATA / "embeddings" / f"{LOCAL}.npz"
DIGEST_BYTES = 16
SAVE_SECONDS = 30.0  # an interrupted run loses no more than this much work
TIMED = 8  # texts whose time tells that of all
AT_ONCE = min(MOST_REQUESTS, os.cpu_count() or 1)  # batches on their way to the encoder

_Row = NDArray[np.float16]


def beside(out: Path, encoder: str) -> Path:
    """Where the rows of a user's own tickets are kept: ``OUT/.embeddings/<encoder>.npz``. An address is no file name, so it
    becomes one, with a digest that keeps two like ones apart."""
    name = encoder
    if not re.fullmatch(r"[a-z0-9]{1,32}", encoder):
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', encoder)[:64]}-{hashlib.blake2b(encoder.encode(), digest_size=4).hexdigest()}"
    return out / ".embeddings" / f"{name}.npz"


def definitions(taxonomy: Taxonomy) -> list[str]:
    """What the taxonomy says of each label, as texts to embed."""
    return [clean(None, label.definition) for target in taxonomy.targets.values() for label in target.labels.values()]


class Store:
    """The rows of one encoder, by text.

    Rows are float16 from the first moment, so that a run that computes them and one that finds them learn the same. Among them is that
    of `PROBE`: it tells files that another model made under the same name. `problems`: what was not used, and why.
    """

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        self.problems: list[str] = []
        self._own: Path | None = None
        self._probe = self._digest(PROBE)
        self._rows: dict[bytes, _Row] = {}
        self._new: dict[bytes, _Row] = {}  # not yet written

    @classmethod
    def read(cls, encoder: str, paths: Sequence[Path]) -> "Store":
        """The rows of the encoder called `encoder` in the files `paths`, of which some may not be there yet; new rows are added to
        the last one."""
        store = cls(encoder)
        for path in paths:
            store._rows |= store._read(path)
            store._own = path
        return store

    def __len__(self) -> int:
        return len(self._rows)

    def missing(self, texts: Sequence[str]) -> list[int]:
        """The places of the texts that have no row, the first of equal ones only."""
        places: dict[bytes, int] = {}
        for place, text in enumerate(texts):
            places.setdefault(self._digest(text), place)
        return [place for digest, place in places.items() if digest not in self._rows]

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of unit length a text, (texts, dimensions). Raises KeyError where one is missing."""
        found = np.array([self._rows[self._digest(text)] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True) if len(found) else np.empty((0, 0), np.float32)

    def embed(self, texts: Sequence[str], encoder: Encoder, progress: Progress = lambda stage, done, of: None) -> None:
        """Give every text a row. What was embedded before an error or an interruption is kept.

        Raises EncoderError.
        """
        self._try(encoder)
        # Like with like: a batch takes as long as its longest text, and the time left can be told from the first ones.
        todo = sorted((texts[place] for place in self.missing(texts)), key=len)
        done, saved = 0, time.monotonic()
        progress("embedding", done, len(todo))
        try:
            with closing(_encoded([todo[i : i + MOST_TEXTS] for i in range(0, len(todo), MOST_TEXTS)], encoder)) as batches:
                for batch, rows in batches:
                    self._keep(batch, rows)
                    done += len(batch)
                    progress("embedding", done, len(todo))
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._save()

    def seconds_needed(self, encoder: Encoder, texts: Sequence[str]) -> float:
        """How long `embed` would take for those of `texts` that have no row, judged by a few of all lengths, which have one afterwards.

        Raises EncoderError.
        """
        self._try(encoder)
        todo = sorted((texts[place] for place in self.missing(texts)), key=len)
        if not todo:
            return 0.0
        timed = [todo[(2 * i + 1) * len(todo) // (2 * TIMED)] for i in range(TIMED)] if len(todo) > TIMED else todo
        begin = time.perf_counter()
        with closing(_encoded([[text] for text in timed], encoder)) as batches:
            for text, row in batches:
                self._keep(text, row)
        return (time.perf_counter() - begin) / len(timed) * (len(todo) - len(timed))

    def write(self, path: Path, texts: Sequence[str]) -> None:
        """Write a file of the rows of `texts` and no others. Raises KeyError where one is missing."""
        _write(path, {digest: self._rows[digest] for digest in {self._probe, *map(self._digest, texts)}})

    def _digest(self, text: str) -> bytes:
        # No name has a NUL in it, so none runs into a text.
        return hashlib.blake2b(f"{self.encoder}\0{prepare(text)}".encode(), digest_size=DIGEST_BYTES).digest()

    def _try(self, encoder: Encoder) -> None:
        """Whether `encoder` is the one that the rows are of; if another model answers under its name, they are worth nothing."""
        if encoder.name != self.encoder:
            raise ValueError(f"the store holds rows of {self.encoder}, not of {encoder.name}")
        known = self._rows.get(self._probe)
        if known is not None and not fits(encoder, known.astype(np.float32)):
            self._say(f"{self.encoder} is another model now than the one that made the {len(self._rows)} rows kept; they are made anew")
            self._rows, self._new = {}, {}
        if self._probe not in self._rows:
            self._keep([PROBE], encoder.encode([PROBE]))

    def _keep(self, texts: Sequence[str], rows: NDArray[np.float32]) -> None:
        fresh = {self._digest(text): row for text, row in zip(texts, rows.astype(np.float16), strict=True)}
        self._rows |= fresh
        self._new |= fresh

    def _save(self) -> None:
        """Add the new rows to the file, beside those that another run may have added meanwhile."""
        if self._own is None or not self._new:
            return
        self._own.parent.mkdir(parents=True, exist_ok=True)
        _write(self._own, self._read(self._own) | self._new | {self._probe: self._rows[self._probe]})
        self._new = {}

    def _read(self, path: Path) -> dict[bytes, _Row]:
        """The rows in a file, none where it is not there or not to be trusted, which is said."""
        if not path.exists():
            return {}
        try:
            rows = _read(path)
        # Whatever a damaged archive makes numpy and zipfile raise: the rows can be had again, so nothing of it may stop a run.
        except (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
            self._say(f"{path}: not a file of embeddings ({error or type(error).__name__}); it is made anew")
            return {}
        probe, known = rows.get(self._probe), self._rows.get(self._probe)
        if probe is None or (known is not None and not alike(probe.astype(np.float32), known.astype(np.float32))):
            self._say(f"{path}: its rows are not of the same {self.encoder} as the others; it is made anew")
            return {}
        return rows

    def _say(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def meanings(labels: dict[str, list[str]], taxonomy: Taxonomy) -> dict[str, list[str]]:
    """What each label of each target means, as texts to embed: the taxonomy's definition, or else its name."""
    found: dict[str, list[str]] = {}
    for target, names in labels.items():
        known = taxonomy.targets[target].labels if target in taxonomy.targets else {}
        found[target] = [clean(None, known[name].definition) if name in known else re.sub(r"[\W_]+", " ", name).strip() for name in names]
    return found


def for_training(
    table: TicketTable, taxonomy: Taxonomy, encoder: str, budget: float, out: Path, progress: Progress = lambda stage, done, of: None
) -> tuple[Embedded | None, list[str]]:
    """The embeddings of a table's texts by the encoder called `encoder`, and what is to be said about them.

    ``none``: none. ``auto``: by `LOCAL` if it is installed and what is not yet embedded takes no longer than `budget` seconds. New rows
    are kept below `out`. Raises EncoderError where an encoder that was named fails.
    """
    if encoder == "none" or (encoder == "auto" and not installed()):
        return None, [] if encoder == "none" else [f"The fast path alone: no encoder is installed ({LOCAL} comes with pointsman[deep])."]
    if encoder != "auto":
        return _embedded(table, taxonomy, encoder, float("inf"), out, progress)
    try:
        return _embedded(table, taxonomy, LOCAL, budget, out, progress)
    except EncoderError as error:
        return None, [f"The fast path alone: {error}"]


def _embedded(table: TicketTable, taxonomy: Taxonomy, name: str, budget: float, out: Path, progress: Progress) -> tuple[Embedded | None, list[str]]:
    opened = open_encoder(name, seconds=PATIENCE)
    meant = meanings({target: table.label_names(target) for target in table.labels}, taxonomy)
    texts = [*table.texts, *(text for own in meant.values() for text in own)]
    store = Store.read(opened.name, [*([SHIPPED] if name == LOCAL else []), beside(out, opened.name)])
    if budget < float("inf") and (needed := store.seconds_needed(opened, texts)) > budget:
        why = f"The fast path alone: embedding {len(store.missing(texts))} texts would take {needed / 60:.0f} minutes, more than --budget allows."
        return None, [*store.problems, f"{why} --encoder {LOCAL} does it all the same, once."]
    store.embed(texts, opened, progress)
    rows = {target: store.rows(own) for target, own in meant.items()}
    told = [*store.problems, f"With a deep path, by {opened.name}."]
    return Embedded(opened.name, store.rows([PROBE])[0], store.rows(table.texts), rows), told


def _encoded(batches: list[list[str]], encoder: Encoder) -> Generator[tuple[list[str], NDArray[np.float32]]]:
    """Each batch and its rows, in order, some batches at once. Closing it drops those that have not begun."""
    pool = ThreadPoolExecutor(AT_ONCE, "embed")
    try:
        waiting = [pool.submit(encoder.encode, batch) for batch in batches]
        for batch, rows in zip(batches, waiting, strict=True):
            yield batch, rows.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write(path: Path, rows: dict[bytes, _Row]) -> None:
    """The same rows give the same bytes, whatever their order."""
    digests = sorted(rows)
    packed = BytesIO()
    np.savez(packed, digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES), rows=np.stack([rows[d] for d in digests]))
    bundle.write(path, packed.getvalue())


def _read(path: Path) -> dict[bytes, _Row]:
    """Raises ValueError and what numpy and zipfile raise where it is not such a file."""
    data = path.read_bytes()
    with zipfile.ZipFile(BytesIO(data)) as packed:
        members = packed.infolist()
        if sorted(member.filename for member in members) != ["digests.npy", "rows.npy"]:
            raise ValueError("its arrays are not digests and rows")
        if any(member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data) for member in members):
            raise ValueError("packed in a way that could swell")
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        digests, rows = arrays["digests"], arrays["rows"]
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
        raise ValueError("its digests have another type or shape")
    if rows.dtype != np.float16 or rows.ndim != 2 or len(rows) != len(digests) or rows.shape[1] < 2:
        raise ValueError("its rows have another type or shape")
    if not (np.isfinite(rows).all() and rows.any(axis=1).all()):
        raise ValueError("a row of it has no direction")
    return {digest.tobytes(): row for digest, row in zip(digests, rows, strict=True)}


def shipped_texts() -> list[str]:
    """The texts whose rows are shipped: the tickets that the first router learns from, and the definitions of the labels."""
    tickets = [text for one in corpus.read() if one.part == "tickets" for text in one.texts]
    return [*tickets, *definitions(load_taxonomy())]


def main() -> None:
    """Embed what the shipped file lacks (12 minutes where there is none), and leave out what is not shipped any more."""
    texts = shipped_texts()
    store = Store.read(LOCAL, [SHIPPED])
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("embedding")
        store.embed(texts, open_encoder(LOCAL, seconds=60.0), lambda _, done, of: bar.update(task, completed=done, total=of))
    store.write(SHIPPED, texts)
    Console().print(*store.problems, f"{SHIPPED}: {len(texts)} texts", sep="\n", markup=False, highlight=False)


if __name__ == "__main__":
    main()
