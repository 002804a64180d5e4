"""Cleaning: HTML to text, quoted replies and signatures set aside, characters repaired, hostile text in bounded time."""

import re
import time
import unicodedata

import pytest
from quotequail._patterns import FORWARD_PATTERNS, REPLY_PATTERNS

from model import cleaning
from model.cleaning import LONGEST, clean

OWN = "\u0416 own words"  # not ASCII, so that the repairs for such text run too
INVISIBLE = [
    "\u00ad", "\u061c", "\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2060", "\u2066", "\u2069",
    "\ufeff", "\U000e0001", "\U000e0041",
]  # fmt: skip

# The lines that mail programs put over a quoted reply, one to three for each core language.
REPLIES = {
    "en": ["On Mon, 3 Mar 2025 at 10:12, Support <support@host.example> wrote:"],
    "fr": ["Le lun. 3 mars 2025 à 10:12, Support <support@host.example> a écrit :", "Le 03/03/2025 à 10:12, Support a écrit\u00a0:"],
    "de": ["Am Mo., 3. März 2025 um 10:12 Uhr schrieb Support <support@host.example>:", "Am 03.03.2025 um 10:12 schrieb Support:"],
    "es": ["El lun, 3 mar 2025 a las 10:12, Soporte (<support@host.example>) escribió:"],
    "pt": ["Em seg., 3 de mar. de 2025 às 10:12, Suporte <support@host.example> escreveu:",
           "Suporte <support@host.example> escreveu no dia segunda, 3/03/2025 à(s) 10:12:"],
    "it": ["Il giorno lun 3 mar 2025 alle ore 10:12 Supporto <support@host.example> ha scritto:", "Il 03/03/2025 10:12, Supporto ha scritto:"],
    "pl": ["pon., 3 mar 2025 o 10:12 Pomoc <support@host.example> napisał(a):", "W dniu 03.03.2025 o 10:12, Pomoc pisze:"],
}  # fmt: skip

LINES = [(language, line) for language, lines in REPLIES.items() for line in lines]

# Mail programs break lines near 76 characters: the name and the address are long, the verb falls on a line of its own.
WRAPPED = {
    "en": "On Mon, 3 Mar 2025 at 10:12, Support of Your Host <support@host.example>\nwrote:",
    "fr": "Le lun. 3 mars 2025 à 10:12, Support de votre hébergeur <support@host.example>\na écrit :",
    "de": "Am Mo., 3. März 2025 um 10:12 Uhr schrieb Support Ihres Hosters <\nsupport@host.example>:",
    "es": "El lun, 3 mar 2025 a las 10:12, Soporte de su proveedor (<support@host.example>)\nescribió:",
    "pt": "Em seg., 3 de mar. de 2025 às 10:12, Suporte do alojamento <support@host.example>\nescreveu:",
    "it": "Il giorno lun 3 mar 2025 alle ore 10:12 Supporto clienti <support@host.example>\nha scritto:",
    "pl": "pon., 3 mar 2025 o 10:12 Pomoc techniczna hostingu <support@host.example>\nnapisał(a):",
}

FORWARDED = [
    "---------- Forwarded message ---------\nFrom: Bob <bob@shop.example>\nDate: Mon\nSubject: down\nTo: me\n\nThe server is down",
    "Begin forwarded message:\n\nFrom: Bob\nSubject: down\nDate: Mon\nTo: me\n\nThe server is down",
    "---------- Message transféré ---------\nDe : Bob\nDate: lun.\nSubject: panne\nTo: moi\n\nLe serveur ne répond plus",
    "Début du message réexpédié :\n\nDe: Bob\nObjet: panne\nDate: lundi\nÀ: moi\n\nLe serveur ne répond plus",
    "Anfang der weitergeleiteten Nachricht:\n\nVon: Bob\nBetreff: Ausfall\nDatum: Montag\nAn: mich\n\nDer Server steht",
    "---------- Mensaje reenviado ---------\nDe: Bob\nDate: lunes\nSubject: caída\nTo: yo\n\nEl servidor no responde",
    "---------- Mensagem encaminhada ---------\nDe: Bob\nDate: segunda\nSubject: falha\nTo: eu\n\nO servidor caiu",
    "---------- Messaggio inoltrato ---------\nDa: Bob\nDate: lunedì\nSubject: guasto\nTo: me\n\nIl server è fermo",
    "---------- Przekazana wiadomość ---------\nOd: Bob\nDate: pon.\nSubject: awaria\nTo: ja\n\nSerwer nie działa",
]

HOSTILE_PIECES = [
    "<", ">", ">\n", "a:\n", "<div>", "<div", "<a ", '<a href="', "<a><div>", "<b><i><p>", "<table><a>", "<p><blockquote>", "<!--<p>",
    "-- \n", "\n--", "__\n", "&amp", "&amp;", "&#x1;", "On ", "On a wrote:\n", "wrote:\n", "wrote ", "ha scritto ", "a écrit 1:11:\n",
    "\r", "\0", "\u200b", "\ud800", "Ã©",
    "Ã\x83Â©", "\ufdfa", "a\u0301", "\u0301\u0316", "\u1100\u1161",
]  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "body", "whole"),
    [
        ("Site down", "Since noon.", "Site down\nSince noon."),
        ("Site down", "", "Site down"),
        ("Site down", None, "Site down"),
        ("", "Since noon.", "Since noon."),
        (None, "Since noon.", "Since noon."),
        (" \t", "\n Since noon.\n\n", "Since noon."),
        (None, None, ""),
        ("\u200b", "\u00a0\u2003\ufeff", ""),
    ],
)
def test_subject_and_body_become_one_text(subject: str | None, body: str | None, whole: str) -> None:
    assert clean(subject, body) == whole


def test_plain_text_is_left_alone(tickets: list[dict[str, str]]) -> None:
    plain = [t for t in tickets if not set("<>&\r:-_") & set(t["subject"] + t["body"])]
    assert len(plain) > 100
    for ticket in plain:
        parts = [unicodedata.normalize("NFKC", ticket[name]).strip() for name in ("subject", "body")]
        assert clean(ticket["subject"], ticket["body"]) == "\n".join(part for part in parts if part)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Mon site &eacute;choue &amp; tombe&nbsp;!</p>", "Mon site échoue & tombe !"),
        ("<html><head><title>T</title><style>p{color:red}</style></head><body><p>Hi</p></body></html>", "Hi"),
        ("<P>Hi<SCRIPT>alert(1)</SCRIPT></P>", "Hi"),
        ("<script>if(a<b){alert(1)}</script>Hi", "Hi"),
        ("Hi<style>body{", "Hi"),
        ("<div>Hi<!-- secret --></div>", "Hi"),
        ("Hello<br>world", "Hello\nworld"),
        ("<table><tr><td>IP</td><td>192.0.2.1</td></tr></table>", "IP\n192.0.2.1"),
        ("<p>&lt;script&gt;stays text&lt;/script&gt;</p>", "<script>stays text</script>"),
        ("<p>never closed <br>twice", "never closed\ntwice"),
        ("<p><img src=x></p>", ""),
    ],
)
def test_html_becomes_the_text_a_reader_sees(page: str, text: str) -> None:
    assert clean("", page) == text


@pytest.mark.parametrize(
    "page",
    [
        '<div>Own words</div><br><div class="gmail_quote"><div class="gmail_attr">On Monday Support wrote:<br></div>'
        '<blockquote class="gmail_quote">We <blockquote>restarted</blockquote> it</blockquote></div>',
        '<html><body>Own words<br><div><blockquote type="cite"><div>On 3 Mar 2025, Support wrote:</div>Restarted</blockquote></div></body></html>',
        '<body><p>Own words</p><div class="moz-cite-prefix">On 3/3/25 10:12, Support wrote:<br></div><blockquote>Restarted</blockquote></body>',
    ],
    ids=["gmail", "apple", "thunderbird"],
)
def test_a_reply_quoted_in_html_is_set_aside(page: str) -> None:
    assert clean("", page) == "Own words"


@pytest.mark.parametrize(
    "page",
    [
        '<div>See below<br><div class="gmail_quote"><div class="gmail_attr">---------- Forwarded message ---------<br>From: Bob<br></div>'
        "<p>The server is down</p></div></div>",
        "<html><body><div>See below</div><blockquote type=cite><div>Begin forwarded message:</div><div>From: Bob</div>"
        "<div>The server is down</div></blockquote></body></html>",
        "<div><blockquote>The server is down</blockquote></div>",
    ],
    ids=["gmail", "apple", "nothing but a quote"],
)
def test_mail_forwarded_in_html_is_kept(page: str) -> None:
    assert "The server is down" in clean("", page)


@pytest.mark.parametrize(
    "text",
    ["x < 5 and y > 3", "a <- b -> c", "AT&T, R&D", "Tom <tom@shop.example> wants access", "Ask <a.silva@shop.example> please", "List<String> fails"],
)
def test_what_only_looks_like_markup_is_kept(text: str) -> None:
    assert clean(text, "") == text


def test_entities_in_plain_text_are_read_once() -> None:
    assert clean("Tom &amp; Jerry &lt;3 &amp;amp; caf&eacute;", "") == "Tom & Jerry <3 &amp; café"


@pytest.mark.parametrize(("language", "line"), LINES, ids=[language for language, _ in LINES])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_quoted_reply_is_set_aside(language: str, line: str, newline: str) -> None:
    body = f"{OWN} ({language})\n\n{line}\n> We restarted it.\n>\n> Is it well?\n".replace("\n", newline)
    assert clean("", body) == f"{OWN} ({language})"


@pytest.mark.parametrize(("language", "line"), WRAPPED.items(), ids=list(WRAPPED))
def test_a_reply_under_a_wrapped_line_is_set_aside(language: str, line: str) -> None:
    assert clean("", f"{OWN} ({language})\n\n{line}\n> We restarted it.\n") == f"{OWN} ({language})"


@pytest.mark.parametrize(("language", "line"), LINES, ids=[language for language, _ in LINES])
@pytest.mark.parametrize("above", ["", "Hi,\n\n"], ids=["alone", "below words"])
def test_an_answer_below_the_quote_is_kept(language: str, line: str, above: str) -> None:
    answer = f"{OWN} ({language}), it is still down."
    assert clean("", f"{above}{line}\n> Did you restart it?\n>\n> Regards\n\n{answer}\n").endswith(answer)


@pytest.mark.parametrize(
    "body",
    [
        "Dear support,\nat 10:12 the log wrote:\nfatal error\nplease help",
        "Hello,\nmy colleague wrote:\nthe server is down since noon",
        "Salve,\nil tecnico mi ha scritto:\nriavviare il server",
    ],
)
def test_what_only_sounds_like_a_quoted_reply_is_kept(body: str) -> None:
    assert clean("", body) == body


def test_words_between_the_quotes_are_kept() -> None:
    assert clean("", "> Did you restart?\nYes, twice.\n> And then?\nStill down.").split() == ["Yes,", "twice.", "Still", "down."]


def test_a_ticket_of_nothing_but_a_quote_is_kept() -> None:
    assert clean("", "> My site is down") == "> My site is down"


@pytest.mark.parametrize("mail", FORWARDED, ids=range(len(FORWARDED)))
@pytest.mark.parametrize("above", ["", "Please look:\n\n"], ids=["alone", "below words"])
def test_forwarded_mail_is_kept(mail: str, above: str) -> None:
    assert clean("", above + mail) == above + mail


@pytest.mark.parametrize("delimiter", ["-- ", "--"])
def test_the_signature_is_set_aside(delimiter: str) -> None:
    assert clean("", f"Site down\n{delimiter}\nBob\nACME Ltd") == "Site down"


@pytest.mark.parametrize(
    "body",
    ["-- \nBob", "Options:\n--verbose\n--debug", "Totals\n---\n12", "Log:\n--\n" + "error\n" * 300 + "end"],
    ids=["nothing else", "options", "a rule", "too long for one"],
)
def test_what_only_looks_like_a_signature_is_kept(body: str) -> None:
    assert clean("", body) == body


@pytest.mark.parametrize(
    ("broken", "whole"),
    [("lâ€™hÃ©bergement est tombÃ©", "l’hébergement est tombé"), ("MÃ¼ller grÃ¼ÃŸt", "Müller grüßt"), ("zażółć gęślą jaźń", "zażółć gęślą jaźń"),
     ("Ünal â çok", "Ünal â çok"), ("caf\u00e9 ｆｕｌｌ　ﬁne №１", "café full fine No1")],
)  # fmt: skip
def test_characters_are_repaired(broken: str, whole: str) -> None:
    assert clean(broken, "") == whole
    assert clean("", broken) == whole


@pytest.mark.parametrize("invisible", INVISIBLE, ids=ascii)
def test_invisible_characters_do_not_cut_words(invisible: str) -> None:
    assert clean(f"ser{invisible}ver", "") == "server"


def test_no_character_at_all_leaves_a_control_or_a_surrogate() -> None:
    for start in range(0, 0x110000, 0x1000):
        text = clean("".join(f"{chr(c)}a" for c in range(start, start + 0x1000)), "")
        assert not [ascii(c) for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]


@pytest.mark.parametrize("entity", ["&#13;", "&#x0d;", "&#0;", "&#x7f;", "&#x85;", "&#xd800;", "&#x200b;", "&zwnj;", "&#1114112;"])
@pytest.mark.parametrize("frame", ["a{}b", "<p>a{}b</p>"], ids=["text", "html"])
def test_entities_smuggle_nothing_in(frame: str, entity: str) -> None:
    text = clean(frame.format(entity), "")
    assert text.startswith("a")
    assert text.endswith("b")
    assert not [ascii(c) for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\t\n"]


@pytest.mark.parametrize("piece", ["a", "é", "\ufdfa", "<p>a", "&amp;", "Ã©", "a\n"], ids=ascii)
def test_a_long_ticket_is_read_up_to_a_limit(piece: str) -> None:
    assert len(clean(piece * 3 * LONGEST, "")) <= LONGEST
    assert len(clean(piece * 3 * LONGEST, piece * 3 * LONGEST)) <= 2 * LONGEST + 1
    assert clean("", "a" * LONGEST + "b") == "a" * LONGEST


@pytest.mark.parametrize("piece", HOSTILE_PIECES, ids=ascii)
def test_hostile_text_takes_no_longer_than_it_should(piece: str) -> None:
    text = piece * (LONGEST // len(piece))
    start = time.perf_counter()
    for _ in range(5):  # a plain ticket of this length takes a fraction of a millisecond
        clean(text, text).encode()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("line", [*REPLY_PATTERNS, *FORWARD_PATTERNS])
def test_whatever_quotequail_takes_for_a_quote_s_beginning_is_looked_for(line: str) -> None:
    """A text without any of the words is not shown to it, so each of its patterns must need one."""
    assert any(mark in re.sub(r"\[(.).\]", r"\1", line).replace("\\", "") for mark in cleaning._QUOTING)
