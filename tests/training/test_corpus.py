"""The corpus check sees what it should; the shipped corpus passes it."""

from dataclasses import replace

import pytest

from model.taxonomy import load_taxonomy
from training import corpus
from training.corpus import Set

ROW = {"id": "xx-1", "subject": "", "body": "Nothing works", "kind": "incident", "department": "hosting", "language": "xx", "style": "plain"}


@pytest.fixture(scope="module")
def sets() -> list[Set]:
    return corpus.read()


@pytest.mark.no_cover  # langdetect takes four times as long where the lines that are run are counted
def test_the_shipped_corpus_is_fit(sets: list[Set]) -> None:
    assert corpus.faults(sets, load_taxonomy()) == []


def test_no_exam_ticket_is_nearly_one_that_is_learned_from(sets: list[Set], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "misread", lambda one: (0, []))  # it was asked above, and takes seconds
    exam = {row["id"] for one in sets if one.part == "exam" for row in one.rows}
    assert len(exam) >= 448
    # One that is planted is found, so the check can fail.
    first = next(one for one in sets if one.part == "exam")
    copied = {**first.rows[0], "id": "planted", "body": first.rows[0]["body"] + " Merci"}
    told = corpus.faults([*sets, replace(first, part="tickets", language="planted", rows=[copied])], load_taxonomy())
    assert any("planted" in fault and "nearly the same words" in fault for fault in told)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "outage"}, "a label or language that is not one"),
        ({"language": "fr"}, "a label or language that is not one"),
        ({"department": "sales"}, "sales is always advisory"),
        ({"style": "loud"}, "a style that is not one"),
        ({"body": "<p></p>"}, "no text"),
        ({"body": "write to jane@company.com"}, "the domain of an e-mail address"),
        ({"body": "ping 81.2.69.142 fails"}, "an address that is not for documentation"),
        ({"body": "my card 4111 1111 1111 1111"}, "sixteen digits"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_fault_is_seen(changes: dict[str, str], said: str) -> None:
    found = corpus.faults([Set("tickets", "xx", [ROW | changes])], load_taxonomy())
    assert any(said in fault for fault in found)


def test_a_repeated_phrase_is_counted() -> None:
    assert corpus.repeated(["a b c d e", "a b c d e"]) == 1
    assert corpus.repeated(["a b c d e", "f g h i j"]) == 0
