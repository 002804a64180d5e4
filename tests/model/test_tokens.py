"""The tokeniser, held against a reference in plain Python that works on characters and strings, not on codes and hashes."""

import unicodedata
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import tokens

UNSPACED_BLOCKS = [("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u30ff"), ("\u31f0", "\u31ff"), ("\u3400", "\u4dbf"),
                   ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U00031fff")]  # fmt: skip
SYMBOLS = "?!؟。？！"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MANY_SCRIPTS = st.text("aZé_-1٣ \n?!؟。İıΣςσßÄ가나ไทยลาวမြန်ខ្មែรかなカー々漢字一𠮷𝒳𐐀😀\U000e0100", max_size=30)


def kind(character: str) -> str:
    if character in SYMBOLS:
        return "symbol"
    if character >= "\U00020000":
        return "unspaced" if character <= "\U00031fff" else "separator"
    if unicodedata.category(character)[0] not in "LMN":
        return "separator"
    return "unspaced" if any(low <= character <= high for low, high in UNSPACED_BLOCKS) else "letters"


def reference_words(text: str) -> list[tuple[int, int]]:
    """Where the words of `text` begin and end."""
    found = []
    for what, run in groupby(range(len(text)), key=lambda i: kind(text[i])):
        places = list(run)
        begin, end = places[0], places[-1] + 1
        if what == "symbol":
            found += [(i, i + 1) for i in places]
        elif what == "unspaced" and end - begin > 2:
            found += [(i, i + 2) for i in range(begin, end - 1)]
        elif what != "separator":
            found.append((begin, end))
    return found


def reference_subwords(word: str) -> list[str]:
    """The word itself with its edges, then its n-grams of three and four characters that are not that."""
    edged = f"<{word}>"
    grams = [edged[i : i + n] for n in (tokens.SHORTEST, tokens.LONGEST) for i in range(len(edged) - n + 1) if n < len(edged)]
    return [edged, *grams]


def found_words(text: str) -> list[tuple[int, int]]:
    words = tokens.words(text)
    return list(zip(words.begins.tolist(), words.ends.tolist(), strict=True))


def subwords(word: str) -> list[int]:
    codes, _ = tokens.encode([word])
    out = np.zeros(tokens.subword_count(len(codes)) + 1, np.uint64)  # one more, to see that it stays untouched
    n = tokens.cut(codes, 0, len(codes), out)
    assert n == len(out) - 1
    assert out[n] == 0
    return [int(h) for h in out[:n]]


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT | MANY_SCRIPTS)
@example("İSTANBUL'DA İİİ SUNUCU ÇÖKTÜ")
@example("𝒳𐐀 𠮷野家で😀買う \U00031fff\U00032000\U000e0100x")
@example("漢\u309a\u0e48?!?。。")
def test_words_are_those_of_the_reference(text: str) -> None:
    assert found_words(text) == reference_words(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mon site: erreur 500 !", ["Mon", "site", "erreur", "500", "!"]),
        ("can't log_in e-mail", ["can", "t", "log", "in", "e", "mail"]),
        ("Quoi ?! Déjà…", ["Quoi", "?", "!", "Déjà"]),
        ("เว็บล่ม", ["เว", "ว็", "็บ", "บล", "ล่", "่ม"]),
        ("サーバーが落ちた。", ["サー", "ーバ", "バー", "ーが", "が落", "落ち", "ちた", "。"]),
        ("网站 打不开 VPS坏", ["网站", "打不", "不开", "VPS", "坏"]),
        ("सर्वर बंद है", ["सर्वर", "बंद", "है"]),
        ("الخادم متوقف؟", ["الخادم", "متوقف", "؟"]),
        ("서버가 다운됐어요", ["서버가", "다운됐어요"]),
        ("Ο διακομιστής έπεσε", ["Ο", "διακομιστής", "έπεσε"]),
        ("İstanbul 𠮷野家 𝒳y", ["İstanbul", "𠮷野", "野家", "𝒳y"]),
        ("😀 -- …", []),
        ("", []),
    ],
)
def test_words_of_many_languages(text: str, words: list[str]) -> None:
    assert [text[begin:end] for begin, end in found_words(text)] == words


@settings(max_examples=60, deadline=None)
@given(ANY_TEXT | MANY_SCRIPTS)
def test_a_word_has_one_hash_wherever_it_stands(text: str) -> None:
    words = tokens.words(text)
    codes = tokens.encode([text])[0]
    spelled = [codes[begin:end].tobytes() for begin, end in zip(words.begins, words.ends, strict=True)]
    by_word: dict[bytes, int] = {}
    for word, found in zip(spelled, words.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, found) == found
    assert len(set(by_word.values())) == len(by_word)


def test_words_of_the_corpus_do_not_collide(tickets: list[dict[str, str]]) -> None:
    text = "\n".join(ticket["body"] for ticket in tickets)
    words = tokens.words(text)
    codes = tokens.encode([text])[0]
    spelled = {codes[begin:end].tobytes() for begin, end in zip(words.begins.tolist(), words.ends.tolist(), strict=True)}
    assert len(spelled) > 10_000
    assert len(np.unique(words.hashes)) == len(spelled)


@pytest.mark.parametrize(
    ("one", "other"), [("ÉCOLE", "école"), ("ΣΙΓΜΑ", "σιγμα"), ("İSTANBUL", "istanbul"), ("СЕРВЕР", "сервер"), ("ԲԱՐԵՎ", "բարեվ")]
)
def test_case_does_not_count(one: str, other: str) -> None:
    assert tokens.words(one).hashes.tolist() == tokens.words(other).hashes.tolist()


def test_every_character_is_read_as_its_lower_case_without_accents() -> None:
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    read = tokens.encode(["".join(characters)])[0].tolist()
    for character, code in zip(characters, read, strict=True):
        lower = character.lower()[0]
        base = unicodedata.normalize("NFD", lower)[0] if ord(lower) < 0x2000 else lower
        if base not in "łøđħıŧς":
            assert chr(code) == (base if unicodedata.category(base)[0] == "L" else lower)
    assert "".join(chr(code) for code in tokens.encode(["ŁØĐĦIİŦÅÉ łøđħiıŧåé Σσς"])[0]) == "lodhiitae lodhiitae σσσ"


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_TEXT | MANY_SCRIPTS, max_size=4))
@example(["ΟΔΟΣ", "α"])  # a sigma is written otherwise at the end of a word
@example(["α", "Σ"])
def test_a_text_is_encoded_alike_alone_and_among_others(texts: list[str]) -> None:
    codes, offsets = tokens.encode(texts)
    assert offsets.tolist() == [sum(map(len, texts[:i])) for i in range(len(texts) + 1)]
    for i, text in enumerate(texts):
        assert codes[offsets[i] : offsets[i + 1]].tolist() == tokens.encode([text])[0].tolist()


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        tokens.encode(["\ud800"])


def test_the_order_of_a_pair_counts() -> None:
    left, right = tokens.words("down server").hashes
    assert tokens.pair_hash(left, right, 1) == tokens.pair_hash(left, right, 1)
    assert len({int(tokens.pair_hash(a, b, 1)) for a in (left, right) for b in (left, right)}) == 4


def test_words_near_each_other_come_in_no_order_and_at_any_distance() -> None:
    left, right, other = tokens.words("down server disk").hashes
    near = {int(tokens.pair_hash(*pair, gap)) for pair in ((left, right), (right, left)) for gap in (2, 3, 12, 64)}
    assert len(near) == 1
    assert near.isdisjoint(int(tokens.pair_hash(*pair, 1)) for pair in ((left, right), (right, left)))
    assert len({int(tokens.pair_hash(a, b, 2)) for a in (left, right, other) for b in (left, right, other)}) == 6


def test_pairs_of_the_corpus_do_not_collide(tickets: list[dict[str, str]]) -> None:
    """Also in the part of a hash that a table keeps: its upper 38 bits."""
    kept: dict[int, tuple[str, ...]] = {}
    for ticket in tickets[::12]:
        text = ticket["body"]
        words = tokens.words(text)
        codes = tokens.encode([text])[0]
        spelled = [codes[begin:end].tobytes().decode("utf-32-le") for begin, end in zip(words.begins, words.ends, strict=True)]
        for gap in range(1, 13):
            for i in range(gap, len(spelled)):
                pair = (spelled[i - gap], spelled[i])
                name = ("beside", *pair) if gap == 1 else ("near", *sorted(pair))
                assert kept.setdefault(int(tokens.pair_hash(words.hashes[i - gap], words.hashes[i], gap)) >> 26, name) == name
    assert len(kept) > 50_000


@pytest.mark.parametrize("length", range(70))
def test_the_count_of_subwords_is_the_reference_s(length: int) -> None:
    word = "".join(chr(ord("a") + i % 26) for i in range(length))
    assert tokens.subword_count(length) == len(reference_subwords(word)) == len(subwords(word))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcé漢𠮷", min_size=1, max_size=9), min_size=1, max_size=5))
def test_subwords_have_equal_hashes_where_their_characters_are_equal(words: list[str]) -> None:
    for word in words:
        expected, found = Counter(reference_subwords(word)), Counter(subwords(word))
        assert sorted(found.values()) == sorted(expected.values())
    for one in words:
        for other in words:
            assert len(set(subwords(one)) & set(subwords(other))) == len(set(reference_subwords(one)) & set(reference_subwords(other)))


def test_a_word_is_cut_alike_inside_a_text() -> None:
    codes, _ = tokens.encode(["le serveur tombe"])
    out = np.zeros(tokens.subword_count(7), np.uint64)
    assert tokens.cut(codes, 3, 10, out) == len(out)
    assert out.tolist() == subwords("serveur")
    assert set(subwords("serveur")).isdisjoint(tokens.words("le serveur tombe").hashes.tolist())


def test_the_classes_are_shared_and_cannot_be_changed() -> None:
    classes = tokens.character_classes()
    assert classes is tokens.character_classes()
    with pytest.raises(ValueError, match="read-only"):
        classes[0] = 1


def test_plain_and_accented_texts_come_in_arrays_of_one_kind() -> None:
    """Else numba compiles its loops once more when the first of the other kind arrives, and a customer waits for it."""
    kinds = {
        (codes.dtype, codes.flags.writeable, codes.flags.c_contiguous) for codes in (tokens.encode([text])[0] for text in ("down", "é", "", "日本"))
    }
    assert len(kinds) == 1
