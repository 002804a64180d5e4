import numpy as np
import pytest

from training import languages
from training.features import TermCounts
from training.table import TicketTable


@pytest.fixture(scope="module")
def some(table: TicketTable) -> tuple[list[str], list[str], TermCounts]:
    """Every eighth ticket, its language, and the words of all."""
    which = range(0, len(table), 8)
    texts = [table.texts[i] for i in which]
    return texts, [table.languages[i] for i in which], TermCounts.of(texts)


def rightly(filled: list[str], true: list[str]) -> float:
    return float(np.mean([guess == code for guess, code in zip(filled, true, strict=True)]))


def test_a_table_that_names_no_language_is_read(some: tuple[list[str], list[str], TermCounts]) -> None:
    texts, true, counts = some
    filled = languages.fill(texts, [""] * len(texts), counts, seed=0)
    assert set(filled) == set(true)
    assert rightly(filled, true) > 0.95


def test_what_is_known_stays_and_the_rest_is_told(some: tuple[list[str], list[str], TermCounts]) -> None:
    texts, true, counts = some
    known = [code if i % 2 else "" for i, code in enumerate(true)]
    known[1] = "sv"  # not right, but what the table says is not doubted
    filled = languages.fill(texts, known, counts, seed=0)
    assert filled[1::2] == known[1::2]
    assert rightly(filled[::2], true[::2]) > 0.95


def test_nothing_is_read_where_every_language_is_known(some: tuple[list[str], list[str], TermCounts], monkeypatch: pytest.MonkeyPatch) -> None:
    texts, true, counts = some
    monkeypatch.setattr(languages, "detect", lambda _: pytest.fail("langdetect was asked"))
    assert languages.fill(texts, true, counts, seed=0) == true


def test_only_a_seeded_sample_is_read_and_teaches_the_rest(some: tuple[list[str], list[str], TermCounts], monkeypatch: pytest.MonkeyPatch) -> None:
    texts, true, counts = some
    read: list[str] = []

    def detect(text: str) -> tuple[str, float]:
        read.append(text)
        return true[texts.index(text)], 1.0

    monkeypatch.setattr(languages, "SAMPLE", 70)
    monkeypatch.setattr(languages, "detect", detect)
    filled = languages.fill(texts, [""] * len(texts), counts, seed=0)
    assert len(read) == 70
    assert rightly(filled, true) > 0.9
    first = read.copy()
    assert languages.fill(texts, [""] * len(texts), counts, seed=0) == filled
    assert read[70:] == first
    languages.fill(texts, [""] * len(texts), counts, seed=1)
    assert read[140:] != first


@pytest.mark.parametrize(("foreign", "read"), [(0, 20), (1, 20), (2, 60), (15, 60)])
def test_the_sample_is_read_to_its_end_where_a_second_language_shows(foreign: int, read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first 20 texts so many are Dutch, or are taken for it; a second language would be one of 4 in the sample of 60."""
    asked: list[str] = []

    def detect(text: str) -> tuple[str, float]:
        asked.append(text)
        return "nl" if len(asked) <= foreign else "de", 1.0

    monkeypatch.setattr(languages, "FIRST", 20)
    monkeypatch.setattr(languages, "SAMPLE", 60)
    monkeypatch.setattr(languages, "LEAST_SHARE", 0.2)
    monkeypatch.setattr(languages, "detect", detect)
    texts = [f"text number{i}" for i in range(90)]
    assert set(languages.fill(texts, [""] * 90, TermCounts.of(texts), seed=0)) == ({"nl", "de"} if foreign == 15 else {"de"})
    assert len(asked) == read


def test_a_stray_reading_is_no_language_of_the_table(some: tuple[list[str], list[str], TermCounts], monkeypatch: pytest.MonkeyPatch) -> None:
    texts, true, counts = some
    strays = {texts[3]: ("so", 0.99), texts[4]: ("af", 0.99), texts[5]: ("fr", languages.SURE - 0.01)}
    monkeypatch.setattr(languages, "detect", lambda text: strays.get(text, (true[texts.index(text)], 1.0)))
    filled = languages.fill(texts, [""] * len(texts), counts, seed=0)
    assert set(filled) == set(true)


def test_one_language_is_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["bonjour le site", "500", "bonsoir le site", "???"]
    monkeypatch.setattr(languages, "detect", lambda text: ("fr", 1.0) if "bon" in text else ("und", 0.0))
    assert languages.fill(texts, [""] * 4, TermCounts.of(texts), seed=0) == ["fr"] * 4


def test_a_table_that_cannot_be_told_stays_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["500", "404"]
    monkeypatch.setattr(languages, "detect", lambda _: ("und", 0.0))
    assert languages.fill(texts, ["", ""], TermCounts.of(texts), seed=0) == ["", ""]
