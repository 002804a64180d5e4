"""A ticket's text as the customer meant it: HTML to text, quoted replies and signatures set aside, characters repaired.

Most tickets are plain text with nothing to repair. One search tells (`_SUSPECT`), and such a text passes untouched in
microseconds; only the others meet the libraries made for the work: selectolax (HTML), ftfy (mojibake), quotequail
(replies quoted below).
"""

import html
import re
import unicodedata

import ftfy
import quotequail
from ftfy.badness import is_bad
from selectolax.lexbor import LexborHTMLParser

LONGEST = 20_000  # characters of subject and body that are read; the rest of a longer ticket is logs

# What may need work: controls, invisible and undecodable characters, markup and entities, quotes, signature delimiters.
_INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff"
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SUSPECT = re.compile(rf"[{_CONTROL}\r{_INVISIBLE}\ud800-\udfff\ufffd<>&]")
_MARKS = (":\n", "\n--", "\n__")  # a reply's attribution, a signature, a forwarded message: as substrings, far faster
_DROPPED = re.compile(rf"[{_INVISIBLE}\ud800-\udfff\ufffd]")
_SPACED = re.compile(rf"[{_CONTROL}]")
_TAG = re.compile(r"<(?:!doctype|html|head|body|div|p|br|table|span|font|a|b|i|strong|em|ul|li|img|style|script)(?:[\s/][^<>]{0,2000})?>", re.I)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8}\d?);", re.I)
# UTF-8 read as Latin-1 or Windows-1252: a lead byte's character, then a continuation byte's. ftfy's own test is thorough
# and takes ten times as long as the rest of the cleaning; this one lets nearly every honest text by.
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]")
_WORD = re.compile(r"\w")
# RFC 3676, section 4.3: two dashes and a space. Many clients lose the space.
_SIGNATURE = re.compile(r"^-- ?$", re.MULTILINE)
# The line over a quoted reply, or its end where it is wrapped, in forms that quotequail does not know.
_ATTRIBUTION = re.compile(
    r"^(?P<before>[^\n]{0,120})\b(?:ha scritto|napisał(?:\(a\)|a)?|pisze|a scris|napsala?|írta|skrev|kirjoitti|έγραψε|yazdı"
    r"|написал[аи]?|пише|a écrit|escreveu|escribió|schrieb|wrote|schreef)(?P<after>[^\n:]{0,60}(?:\d\d?:\d\d)?)[ \u00a0]?:$",
    re.MULTILINE,
)
_WHEN = re.compile(r"\b\d{4}\b[^\n]{0,40}\d\d?[:.h]\d\d|@")  # a year and a time, or an address
_QUOTED_LINE = re.compile(r"^[ \t]*>.*$", re.MULTILINE)
# More marks on one letter than any script writes; to bring them in order would take the square of their number.
_PILED = re.compile(r"([^\w\s\x00-\x7f]{30})[^\w\s\x00-\x7f]+")
_FORWARDED = ("-", "_", "Begin", "Anfang", "D\u00e9but", "Inicio")  # how the lines begin that announce a forwarded message
# One word of every line that quotequail takes for the beginning of a quote or of a forwarded message: most texts have none, and are spared it.
_QUOTING = (
    ">", "____", "---", "wrote:", "schrieb", "écrit", "escribió:", "написал(а):", "skrev", "escreveu:", "schreef", "geschreven:",
    "essage:", "E-Mail:", "réexpédié:", "reenviado:", "ericht:", "eddelande:", "achricht:", "riginal:", "transféré:", "сообщение:",
)  # fmt: skip
_MOST_LINES = 400  # quotequail tries some sixty patterns on each line; a longer body is a log
_LONGEST_SIGNATURE = 1000


def clean(subject: str | None, body: str | None) -> str:
    """Subject and body as one text, subject first, at most `LONGEST` characters each; "" where nothing readable is left.

    Total: any two strings give a string that encodes as UTF-8 and has no control characters but tab and newline.
    """
    first = _tidy(subject or "", quotes=False)
    rest = _tidy(body or "", quotes=True)
    return f"{first}\n{rest}" if first and rest else first or rest


def _tidy(text: str, *, quotes: bool) -> str:
    if not text:
        return text
    text = text[:LONGEST]
    if _SUSPECT.search(text):
        text = _repair(text)
    if not text.isascii():
        if _MOJIBAKE.search(text) and is_bad(text):
            text = _visible(ftfy.fix_encoding(text))
        text = unicodedata.normalize("NFKC", _PILED.sub(r"\1", text))[:LONGEST]
    if quotes and (">" in text or ("\n" in text and any(mark in text for mark in _MARKS))):
        text = _own_words(text)
    return text.strip()


def _visible(text: str) -> str:
    return _DROPPED.sub("", _SPACED.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")))


def _repair(text: str) -> str:
    text = _visible(text)
    if _TAG.search(text):
        return _from_html(text)
    if _ENTITY.search(text):
        return _visible(html.unescape(text))
    return text


def _from_html(text: str) -> str:
    tree = LexborHTMLParser(text)
    tree.strip_tags(["script", "style", "head", "template"])
    whole = _shown(tree)
    for quoted in tree.css("blockquote, .gmail_quote, .moz-cite-prefix"):
        if not quoted.text(strip=True).startswith(_FORWARDED):
            quoted.decompose()
    own = _shown(tree)
    return own if _WORD.search(own) else whole


def _shown(tree: LexborHTMLParser) -> str:
    return _visible(tree.body.text(separator="\n", strip=True)) if tree.body else ""


def _own_words(text: str) -> str:
    """Without the reply quoted below and the signature, where words of the customer's own remain; a forwarded message
    stays: it is what the customer wants read."""
    kept = text
    found = _attribution(kept)
    if found:
        start, end = found
        # Where the quote is marked line by line, the customer may have answered below or between; else all that follows is quote.
        quoted = kept[end:].lstrip("\n").startswith(">")
        kept = kept[:start] + (kept[end:] if quoted else "")
    elif kept.count("\n") <= _MOST_LINES and any(mark in kept for mark in _QUOTING):
        (_, own), *below = quotequail.quote(kept, limit=_MOST_LINES, quote_intro_line=True)
        if below and not below[0][1].startswith(_FORWARDED):
            marked = below[0][1].partition("\n")[2].lstrip("\n")
            kept = f"{own}\n{marked}" if marked.startswith(">") else own
    kept = _QUOTED_LINE.sub("", kept)
    signature = _SIGNATURE.search(kept)
    if signature and len(kept) - signature.start() <= _LONGEST_SIGNATURE:
        kept = kept[: signature.start()]
    return kept if _WORD.search(kept) else text


def _attribution(text: str) -> tuple[int, int] | None:
    """Where the line that introduces a quoted reply begins and ends, None where there is none."""
    for found in _ATTRIBUTION.finditer(text):
        start, end = found.span()
        before = text.rfind("\n", 0, max(0, start - 1)) + 1
        # A short rest of a line belongs to a line that was wrapped.
        if len(found["before"]) < 40 and not _WHEN.search(found.group()) and start:
            start = before
        # "The message that it wrote:" is the customer's own; a reply has its date above it or its quote below.
        if text[end:].lstrip("\n").startswith(">") or _WHEN.search(text[start:end]):
            return start, end
    return None
