"""Language tags, and the language of a text that the router itself cannot tell.

A router has a language head, trained on the features it has anyway; it is right and nearly free for the languages it
learned. langdetect (1 to 2 ms a text, 55 languages) is for the rest: the languages of a training table that names none, and a
ticket in a language that the router never saw.
"""

import re
import unicodedata
from functools import cache, lru_cache

import langcodes
import langdetect
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

UNKNOWN = "und"  # ISO 639-2: undetermined
_LONGEST_TAG = 35  # RFC 5646, section 4.4.1
_SAME = {"no": "nb"}  # Norwegian: langdetect says the one, the taxonomy the other
_TRIALS = 3  # that it takes the mean of; with its own 7 it is as often right, and takes two to four times as long (benchmarks/README.md)
_READ = 1000  # characters; more tells langdetect nothing new and costs time
# Scripts that langdetect knows one language of: where a text is written in one, it need not be asked.
_ALONE = {
    "bn": re.compile(r"[\u0980-\u09ff]"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "gu": re.compile(r"[\u0a80-\u0aff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "kn": re.compile(r"[\u0c80-\u0cff]"),
    "ko": re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    "ml": re.compile(r"[\u0d00-\u0d7f]"),
    "pa": re.compile(r"[\u0a00-\u0a7f]"),
    "ta": re.compile(r"[\u0b80-\u0bff]"),
    "te": re.compile(r"[\u0c00-\u0c7f]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
}


@lru_cache(maxsize=4096)
def normalise(tag: str) -> str | None:
    """The language of a BCP 47 tag, as its shortest code, or None where it is not a tag.

    >>> normalise("pt-BR"), normalise("PT_pt"), normalise("zh-Hant-TW"), normalise("klingon" * 9)
    ('pt', 'pt', 'zh', None)
    """
    if len(tag) > _LONGEST_TAG:
        return None
    try:
        language = langcodes.Language.get(tag.strip().replace("_", "-"))
    except (ValueError, AttributeError):  # langcodes' LanguageTagError is a ValueError
        return None
    code = language.language
    return _SAME.get(code, code) if code and code != UNKNOWN and language.is_valid() else None


@cache
def _factory() -> DetectorFactory:
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)  # 0.4 s, once
    factory.set_seed(0)  # it samples; without a seed the same text gives different answers
    return factory


def detect(text: str) -> tuple[str, float]:
    """The language of `text` by langdetect, and its probability; ("und", 0.0) where there is nothing to tell it by."""
    detector = _factory().create()
    detector.n_trial = _TRIALS
    detector.append(text[:_READ])
    try:
        best = detector.get_probabilities()[0]
    except (langdetect.LangDetectException, IndexError):
        return UNKNOWN, 0.0
    return normalise(best.lang) or UNKNOWN, float(best.prob)


def alone_in_its_script(text: str, code: str) -> bool:
    """Whether `text` is in the script of the language `code`, and langdetect could give no other: two in three of its letters and vowel
    signs are of a script that langdetect knows no other language of."""
    if code not in _ALONE:
        return False
    letters = [c for c in text[:_READ] if unicodedata.category(c)[0] in "LM"]
    return 3 * len(_ALONE[code].findall("".join(letters))) > 2 * len(letters)
