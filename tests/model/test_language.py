"""Language tags, and the language of texts that a router cannot tell."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from langdetect.detector_factory import PROFILES_DIRECTORY

from model import language
from model.taxonomy import load_taxonomy

TEXTS = {
    "el": "Ο ιστότοπός μας δεν ανοίγει από το πρωί, μπορείτε να το ελέγξετε;",
    "fi": "Palvelimemme ei vastaa, voitteko tarkistaa mitä on tapahtunut?",
    "nb": "Nettsiden vår er nede siden i morges, kan dere sjekke hva som har skjedd?",
    "ru": "Наш сайт не открывается с утра, проверьте, пожалуйста, сервер.",
    "th": "เว็บไซต์ของเราเปิดไม่ได้ตั้งแต่เช้า ช่วยตรวจสอบด้วย",
    "ja": "今朝からサイトが開きません。サーバーを確認してください。",
    "zh": "我们的网站从早上开始打不开，请检查一下服务器。",
    "ko": "오늘 아침부터 사이트가 열리지 않습니다. 서버를 확인해 주세요.",
    "ar": "موقعنا لا يعمل منذ الصباح، يرجى التحقق من الخادم",
    "hi": "हमारी वेबसाइट सुबह से नहीं खुल रही है, कृपया सर्वर की जाँच करें",
}


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("fr", "fr"), ("pt-BR", "pt"), ("PT_pt", "pt"), (" en ", "en"), ("zh-Hant-TW", "zh"), ("de-CH-1996", "de"), ("es-419", "es"),
        ("no", "nb"), ("nn", "nn"), ("iw", "he"), ("eng", "en"), ("sw-KE", "sw"), ("en-US-u-co-phonebk", "en"), ("i-klingon", "tlh"),
    ],
)  # fmt: skip
def test_a_tag_is_its_shortest_code(tag: str, code: str) -> None:
    assert language.normalise(tag) == code


@pytest.mark.parametrize(
    "tag", ["", " ", "-", "_", "und", "und-Latn", "français", "English", "en-a", "1", "en\x00", "\ud800", "f" * 36, "en" + "-x" * 17]
)
def test_what_is_no_tag_is_none(tag: str) -> None:
    assert language.normalise(tag) is None


def test_the_codes_of_the_taxonomy_stand_for_themselves() -> None:
    spoken = load_taxonomy().languages
    for code in (*spoken["core"], *spoken["further"]):
        assert language.normalise(code) == code


@pytest.mark.parametrize(("code", "text"), TEXTS.items(), ids=list(TEXTS))
def test_a_text_s_language_is_detected(code: str, text: str) -> None:
    found, sure = language.detect(text)
    assert found == code
    assert 0.5 < sure <= 1


@pytest.mark.parametrize("text", ["", "   ", "12345 / 67-89", "?!", "\U0001f600", "https://192.0.2.1/"])
def test_where_there_is_nothing_to_tell_by_it_is_undetermined(text: str) -> None:
    assert language.detect(text) == (language.UNKNOWN, 0.0)


def test_the_same_text_gets_the_same_answer() -> None:
    mixed = "server error on the Rechnung du serveur de la factura"
    first = language.detect(mixed)
    for text in TEXTS.values():
        language.detect(text)
        assert language.detect(mixed) == first


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    start = (TEXTS["ru"] + " ") * 20
    end = (TEXTS["fi"] + " ") * 3000
    language.detect(start)  # the profiles are read once
    begun = time.perf_counter()
    assert language.detect(start + end) == language.detect(start)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("profile", sorted(Path(PROFILES_DIRECTORY).iterdir()), ids=lambda path: str(path.name))
def test_the_scripts_of_one_language_are_of_one_language_to_langdetect(profile: Path) -> None:
    """Of the letters that langdetect has met in a language, nearly all are of its own script, and next to none of another one's alone."""
    letters = Counter({gram: n for gram, n in json.loads(profile.read_text("utf-8"))["freq"].items() if len(gram) == 1 and gram.isalpha()})
    for code, script in language._ALONE.items():
        share = sum(n for letter, n in letters.items() if script.match(letter)) / letters.total()
        assert share > 0.8 if code == profile.name else share < 0.01


def test_a_text_in_a_script_of_its_own_needs_no_detecting() -> None:
    alone = {code: text for code, text in TEXTS.items() if code in ("el", "th", "ko")}
    for code, text in TEXTS.items():
        for guess in alone:
            assert language.alone_in_its_script(text, guess) == (guess == code)
        assert not language.alone_in_its_script(text, "fr")
    for code, text in alone.items():
        assert language.detect(text)[0] == code
        assert language.alone_in_its_script(f"{text} HTTP 500 nginx", code)
        assert not language.alone_in_its_script(f"{text} {TEXTS['fi']} {TEXTS['nb']}", code)
    assert not language.alone_in_its_script("", "ko")
    assert not language.alone_in_its_script("500 - 12", "ko")
    assert not language.alone_in_its_script("฿ 500", "th")  # a sign of money, and no letter
    assert not language.alone_in_its_script("০১২৩", "bn")
    assert language.alone_in_its_script("எங்கள் இணையதளம் காலை முதல் திறக்கவில்லை VPS", "ta")
