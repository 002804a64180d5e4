"""The router: probabilities, languages, explanations. A small router of one word a row shows each rule by itself."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import softmax

from model import language, tokens
from model.router import RANKS, Phrase, Router, Target
from model.scoring import Rows
from model.taxonomy import DATA, load_taxonomy
from training.fit import Settings, fit
from training.table import TicketTable, read_table

KIND = Target("kind", ("advisory", "incident"), 0, 2.0, (0.5, -0.5), 0.95, 0.8)
LANGUAGE = Target("language", ("en", "pt"), 2, 4.0, (0.0, 0.0), 0.9, None)
ROWS = {"please": (1, -1, 1, -1), "down": (-2, 2, 1, -1), "server": (0, 1, 0, 0), "favor": (1, -1, -1, 1), "help": (1, 0, 1, -1)}


def router_of(rows: Mapping[str, tuple[float, ...]], targets: tuple[Target, ...] = (KIND,), languages: Target | None = LANGUAGE) -> Router:
    """A router that knows the words of `rows`, each with a row of length 1."""
    hashes = np.array([tokens.words(word).hashes[0] for word in rows], np.uint64)
    values = np.array([[*row, 1] for row in rows.values()], np.float32)
    bias = np.zeros(values.shape[1] - 1, np.float32)
    return Router(Rows.build(hashes, values, len(hashes), 1), bias, targets, languages, None, 0.0, ("body",), "2026-11-22T10-00-00Z-3f2a")


SMALL = router_of(ROWS)


def test_a_lone_string_is_refused() -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        SMALL.answer("down")  # type: ignore[arg-type]


def test_no_texts_no_answers() -> None:
    answers = SMALL.answer([])
    assert answers.probabilities["kind"].shape == (0, 2)
    assert answers.scores.shape == (0, 4)
    assert answers.languages == []


def test_probabilities_are_a_calibrated_softmax(router: Router, table: TicketTable) -> None:
    texts = [*table.texts[::50], "", "zzyzzx"]
    answers = router.answer(texts)
    assert set(answers.probabilities) == {target.name for target in router.targets}
    for target in router.targets:
        expected = softmax(answers.scores[:, target.columns].astype(float) * target.sharpness + target.offsets, axis=1)
        found = answers.probabilities[target.name]
        assert found.shape == (len(texts), len(target.labels))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        np.testing.assert_allclose(target.probabilities(answers.scores), expected, rtol=1e-4)


def test_the_top_labels_are_the_most_probable_best_first(router: Router, table: TicketTable) -> None:
    answers = router.answer(table.texts[::20])
    for target in router.targets:
        p, top = answers.probabilities[target.name], answers.top[target.name]
        assert top.shape == (len(p), RANKS)
        listed = min(RANKS, len(target.labels))
        assert (top[:, listed:] == -1).all()
        assert top[:, :listed].tolist() == np.argsort(-p, axis=1, kind="stable")[:, :listed].tolist()


def test_equal_labels_come_in_their_own_order() -> None:
    even = router_of({"word": (0, 0, 0, 0, 0)}, (Target("kind", ("a", "b", "c"), 0, 1.0, (0.0,) * 3, 0.9, None),), replace(LANGUAGE, first=3))
    assert even.answer(["word", ""]).top["kind"].tolist() == [[0, 1, 2, -1]] * 2


def test_scores_beyond_the_range_of_exp_still_give_probabilities() -> None:
    both = router_of({"down": (-3e4, 3e4, 3e4, -3e4), "even": (3e4, 3e4, 3e4, -3e4)})
    answers = both.answer(["down", "even"])
    for found in (answers.probabilities["kind"], KIND.probabilities(answers.scores)):
        assert found[0].tolist() == [0, 1]
        np.testing.assert_allclose(found[1], softmax([0.5, -0.5]), rtol=1e-2)  # 32-bit numbers have no digits left for the offsets


def test_scores_are_not_changed_by_reading_them() -> None:
    scores = np.ones((2, 4), np.float32)
    KIND.probabilities(scores)
    assert scores.tolist() == [[1] * 4] * 2


def test_a_router_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.version = "other"  # type: ignore[misc]


def test_the_language_is_told_by_the_head() -> None:
    expected = float(softmax([4.0, -4.0])[0])
    assert SMALL.answer(["please", "favor"]).languages == [("en", round(expected, 4)), ("pt", round(expected, 4))]


def test_the_languages_of_the_corpus_are_recognised(router: Router, table: TicketTable) -> None:
    found = [code for code, _ in router.answer(table.texts).languages]
    right = sum(code == told for code, told in zip(found, table.languages, strict=True))
    assert right / len(found) > 0.99


def test_a_told_language_wins_over_the_head() -> None:
    answers = SMALL.answer(["please", "please", "", "please"], ["pt", None, "fi", ""])
    assert [code for code, _ in answers.languages] == ["pt", "en", "fi", "en"]
    assert [sure for _, sure in answers.languages][::2] == [1.0, 1.0]


@pytest.fixture(scope="module")
def english_and_french() -> Router:
    return fit(read_table([str(DATA / "tickets" / name) for name in ("en.jsonl", "fr.jsonl")]), Settings(), load_taxonomy()).router


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("el", "Ο ιστότοπός μας δεν ανοίγει από το πρωί, μπορείτε να το ελέγξετε;"),
        ("ru", "Наш сайт не открывается с утра, проверьте, пожалуйста, сервер."),
        ("th", "เว็บไซต์ของเราเปิดไม่ได้ตั้งแต่เช้า ช่วยตรวจสอบด้วย"),
        ("ja", "今朝からサイトが開きません。サーバーを確認してください。"),
        ("ar", "موقعنا لا يعمل منذ الصباح، يرجى التحقق من الخادم"),
        ("fi", "Palvelimemme ei vastaa, voitteko tarkistaa mitä on tapahtunut?"),
    ],
    ids=["el", "ru", "th", "ja", "ar", "fi"],
)
def test_a_language_that_was_never_learned_is_not_taken_for_one_that_was(router: Router, english_and_french: Router, code: str, text: str) -> None:
    for some in (router, english_and_french):
        assert some.answer([text]).languages[0][0] == code


def test_an_unsure_head_asks_langdetect(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def detect(text: str) -> tuple[str, float]:
        asked.append(text)
        return "fi", 0.98765

    monkeypatch.setattr(language, "detect", detect)
    three = router_of(
        {"yes": (0, 0, 5, 0, 0), "terve": (0, 0, 0, 0, 0)}, languages=Target("language", ("en", "pt", "de"), 2, 1.0, (0.0, 0.0, 0.0), 0.9, None)
    )
    assert three.answer(["yes", "terve", ""]).languages == [("en", 0.9867), ("fi", 0.9877), ("und", 0.0)]
    assert three.answer(["terve"], ["sv"]).languages == [("sv", 1.0)]
    assert asked == ["terve"]


def test_what_only_one_language_is_written_in_needs_no_langdetect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "detect", lambda text: ("fi", 0.5))
    three = router_of({"yes": (0, 0, 5, 0, 0)}, languages=Target("language", ("en", "ko", "de"), 2, 1.0, (0.0, 0.1, 0.0), 0.9, None))
    one = replace(SMALL, languages=None, only_language="ko")
    for router in (three, one):
        assert router.answer(["서버가 열리지 않습니다", "palvelin on alhaalla"]).languages == [("ko", 1.0), ("fi", 0.5)]


def test_a_router_of_one_language_knows_it_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "detect", lambda text: ("und", 0.1))
    one = replace(SMALL, languages=None, only_language="en")
    assert one.answer(["server down", "server zzyzzx down", "zzyzzx", ""]).languages == [("en", 1.0), ("en", 0.6667), ("und", 0.1), ("und", 0.0)]


def all_phrases(router: Router, text: str, column: int) -> list[Phrase]:
    return router.explain(text, [column])[0]


def test_phrases_are_the_words_in_the_customers_spelling() -> None:
    text = "Please HELP, server\u00a0DOWN"
    found = all_phrases(SMALL, text, 1)
    assert [(phrase.text, phrase.start, phrase.end) for phrase in found] == [("server\u00a0DOWN", 13, 24), ("Please HELP", 0, 11)]
    np.testing.assert_allclose([phrase.weight for phrase in found], [1.5, -0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("down. down", ["down", "down"]),
        ("down? down", ["down", "?", "down"]),
        ("down\ndown", ["down", "down"]),
        ("down, down", ["down, down"]),
        ("down ... down", ["down", "down"]),
        ("down    down", ["down", "down"]),
        ("down please down", ["down", "please", "down"]),
        ("down " * 9, ["down down down down"] * 2 + ["down"]),
        ("\U0001f600 DOWN \U00020bb7", ["DOWN", "\U00020bb7"]),
        ("...", []),
        ("", []),
    ],
)
def test_a_phrase_stays_within_a_sentence_and_four_words(text: str, phrases: list[str]) -> None:
    assert [phrase.text for phrase in sorted(all_phrases(SMALL, text, 1), key=lambda phrase: phrase.start)] == phrases


def test_the_strongest_phrases_come_first(router: Router, table: TicketTable) -> None:
    text = max(table.texts, key=len)
    columns = [router.targets[1].first + 3, router.targets[0].first]
    found = router.explain(text, columns)
    assert found == [all_phrases(router, text, column) for column in columns]
    for phrases in found:
        assert len(phrases) > 20
        assert all(abs(one.weight) >= abs(other.weight) for one, other in pairwise(phrases))


def test_the_phrases_add_up_to_the_score(router: Router, table: TicketTable) -> None:
    for text in table.texts[::40]:
        scores = router.answer([text]).scores[0]
        for column in range(len(router.bias)):
            phrases = all_phrases(router, text, column)
            assert sum(phrase.weight for phrase in phrases) + router.bias[column] == pytest.approx(scores[column], abs=1e-4)
            assert all(phrase.text == text[phrase.start : phrase.end] for phrase in phrases)
            in_order = sorted(phrases, key=lambda phrase: phrase.start)
            assert all(one.end <= other.start for one, other in pairwise(in_order))


def test_explain_speaks_of_the_label_that_was_asked_for(router: Router) -> None:
    kind = router.targets[0]
    columns = [kind.first + kind.labels.index(label) for label in ("advisory", "incident")]
    towards, away = router.explain("How do I transfer my domain to you?", columns)
    assert sum(phrase.weight for phrase in towards) > 0 > sum(phrase.weight for phrase in away)
