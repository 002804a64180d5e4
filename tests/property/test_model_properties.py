"""What holds of the model package for any text, any batch, any policy and any damaged byte."""

import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import bundle, language
from model.cleaning import LONGEST, clean
from model.decision import Ticket, decide
from model.errors import BundleError
from model.policy import Policy, load_policy
from model.router import Router
from training.features import Features, Recipe, TermCounts
from training.table import TicketTable

ANYTHING = st.text(st.characters(), max_size=80)  # surrogates, controls and all
PIECES = [
    "<p>", "</p>", "<div class=gmail_quote>", "<blockquote>", "</blockquote>", "<script>", "<br>", "<", ">", "&amp;", "&#13;", "&#x200b;", "&lt;",
    "\n> ", "\n-- \n", "\n--", "\n__", ":\n", "On Mon, Bob wrote:\n", "Il 3/3 Bob ha scritto:\n", "a écrit :\n", "\r\n", "\r", "\t", "\x00", "\x85",
    "\u2028", "\u200b", "\ufeff", "\ud800", "\udfff", "\ufffd", "Ã©", "â€™", "\ufdfa", "＜", "＆", "：", "e\u0301", "\u1100\u1161",
    "server", "\U0001f600",
]  # fmt: skip
MIXED = st.lists(st.sampled_from(PIECES) | ANYTHING, max_size=12).map("".join)
PLAIN = st.text(st.characters(exclude_characters="&<>＆＜＞﹠﹤﹥\u226e\u226f", exclude_categories=["Cs"]), max_size=80)
INVISIBLE = frozenset("\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufffd") | {chr(c) for c in range(0x202A, 0x202F)}
TAGS = st.sampled_from(["fr", "pt-BR", "fi", "no", "zh-Hant", "und", "klingon", ""]) | ANYTHING | st.none()
SHARES = st.floats(0, 1)


@st.composite
def tickets_like(draw: st.DrawFn, corpus: list[dict[str, str]]) -> list[Ticket]:
    """Tickets of the corpus, of any text, and of both."""
    body = st.sampled_from([ticket["body"] for ticket in corpus]) | MIXED
    declared = st.sampled_from(["incident", "advisory", None])
    return draw(st.lists(st.builds(Ticket, subject=MIXED, body=body, language=TAGS, declared_kind=declared, customer_tier=TAGS), max_size=6))


@pytest.fixture(scope="module")
def copy(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to be harmed and mended."""
    return Path(shutil.copytree(home, tmp_path_factory.mktemp("harmed") / home.name))


@settings(max_examples=100, deadline=None)
@given(ANYTHING | MIXED, ANYTHING | MIXED)
@example("\u0301\u0316" * 50, "<p>a&#13;b</p>")
def test_cleaning_is_total_and_leaves_readable_text(subject: str, body: str) -> None:
    text = clean(subject, body)
    assert text.encode().decode() == text
    assert not [ascii(c) for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n") or c in INVISIBLE]
    assert text == text.strip()
    assert unicodedata.is_normalized("NFKC", text)
    assert len(text) <= 2 * LONGEST + 1


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_cleaning_what_is_clean_changes_nothing(text: str) -> None:
    once = clean(text, "")
    assert clean(once, "") == once
    assert clean("", clean("", text)) == clean("", text)


@settings(max_examples=60, deadline=None)
@given(MIXED)
def test_a_quoted_reply_never_takes_the_customers_words_along(quoted: str) -> None:
    lines = "\n".join(f"> {line}" for line in quoted.replace("<", "").replace("&", "").splitlines())
    assert clean("", f"My own words come first.\n\nOn Mon, 3 Mar 2025, Support wrote:\n{lines}").startswith("My own words come first.")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_batch_is_decided_as_each_ticket_alone(data: st.DataObject, router: Router, policy: Policy, tickets: list[dict[str, str]]) -> None:
    batch = data.draw(tickets_like(tickets))
    together = decide(router, policy, batch, explain=True, advise=True)
    assert together == [decide(router, policy, [ticket], explain=True, advise=True)[0] for ticket in batch]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_decision_is_well_formed(data: st.DataObject, router: Router, policy: Policy, tickets: list[dict[str, str]]) -> None:
    for ticket in data.draw(tickets_like(tickets)):
        decision = decide(router, policy, [ticket], explain=True)[0]
        assert set(decision["labels"]) == {target.name for target in router.targets}
        for target in router.targets:
            answer = decision["labels"][target.name]
            confidences = [answer["confidence"], *(guess["confidence"] for guess in answer["alternatives"])]
            assert confidences == sorted(confidences, reverse=True)
            assert len({answer["label"], *(guess["label"] for guess in answer["alternatives"])}) == len(confidences)
            assert sum(confidences) <= 1 + 1e-3
        told = language.normalise(ticket.language) if ticket.language else None
        assert told is None or decision["language"] == {"code": told, "confidence": 1.0}
        assert (decision["action"] == "auto") <= (not decision["reasons"])
        assert ("empty" in decision["reasons"]) == (clean(ticket.subject, ticket.body) == "")
        assert decision["misdirected"] == (decision["labels"]["kind"]["label"] != ticket.declared_kind if ticket.declared_kind else None)
        text = clean(ticket.subject, ticket.body)
        for phrases in decision["explanation"].values():
            assert all(phrase["text"] == text[phrase["start"] : phrase["end"]] for phrase in phrases)


@pytest.fixture(scope="module")
def far_reaching(router: Router, table: TicketTable) -> Router:
    """The router with other rows: those of words up to twelve apart too, all that come up often."""
    features = Features(TermCounts.of(table.texts, 12), Recipe(reach=12, power=0.0, doubt=1.0))
    features.fit_transform(np.arange(len(table)))
    weights = np.random.default_rng(0).standard_normal((len(features.scale_), len(router.bias))).astype(np.float32)
    return replace(router, rows=features.rows(weights))


def adds_up(router: Router, text: str) -> None:
    answers = router.answer([text])
    assert np.isfinite(answers.scores).all()
    columns = list(range(len(router.bias)))
    sums = [sum(phrase.weight for phrase in phrases) for phrases in router.explain(text, columns)]
    np.testing.assert_allclose(np.array(sums) + router.bias, answers.scores[0], atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(MIXED)
@example("漢字かな交じり文の東京都 เว็บล่ม ΟΔΟΣ 𠮷野家で İİ")
def test_an_explanation_adds_up_to_the_score(router: Router, raw: str) -> None:
    adds_up(router, clean(raw, ""))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_explanation_adds_up_also_where_words_near_each_other_count(
    data: st.DataObject, far_reaching: Router, tickets: list[dict[str, str]]
) -> None:
    words = data.draw(st.sampled_from(tickets))["body"].split()
    adds_up(far_reaching, clean("", " ".join(data.draw(st.lists(st.sampled_from(words), max_size=40)))))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), learned_kind=SHARES, learned_department=SHARES, kind=SHARES, department=SHARES)
def test_a_policy_may_raise_thresholds_never_lower_them(
    data: st.DataObject, learned_kind: float, learned_department: float, kind: float, department: float, router: Router, tickets: list[dict[str, str]]
) -> None:
    some = [Ticket(body=ticket["body"]) for ticket in data.draw(st.lists(st.sampled_from(tickets), min_size=1, max_size=5))]
    asked = load_policy().model_copy(update={"thresholds": {"kind": kind, "department": department}})
    plain = load_policy().model_copy(update={"thresholds": {}})
    first, second = router.targets
    learned = replace(router, targets=(replace(first, threshold=learned_kind), replace(second, threshold=learned_department)))
    raised = replace(
        router,
        targets=(replace(first, threshold=max(kind, learned_kind)), replace(second, threshold=max(department, learned_department))),
    )
    assert decide(learned, asked, some) == decide(raised, plain, some)


@settings(max_examples=60, deadline=None)
@given(
    ticket=st.integers(0, 1000), limit=SHARES, threshold=SHARES,
    route_on=st.lists(st.sampled_from(["kind", "department", "other"]), max_size=3), thresholds=st.dictionaries(st.sampled_from(["kind"]), SHARES),
)  # fmt: skip
def test_no_policy_routes_a_probable_incident_as_advisory(
    ticket: int, limit: float, threshold: float, route_on: list[str], thresholds: dict[str, float], router: Router, tickets: list[dict[str, str]]
) -> None:
    body = tickets[ticket % len(tickets)]["body"]
    kind = replace(router.targets[0], protect={"incident": limit}, threshold=threshold)
    careful = replace(router, targets=(kind, replace(router.targets[1], threshold=0.0)), least_known=0.0)
    policy = load_policy().model_copy(update={"route_on": tuple(route_on), "thresholds": thresholds})
    decision = decide(careful, policy, [Ticket(body=body)])[0]
    p = router.answer([clean("", body)]).probabilities["kind"][0, kind.labels.index("incident")]
    if decision["labels"]["kind"]["label"] == "advisory":
        assert ("possible_incident" in decision["reasons"]) == (p >= limit)
        assert p < limit or decision["action"] != "auto"


@settings(max_examples=100, deadline=None)
@given(ANYTHING | st.text("abcdefghijklmnopqrstuvwxyzABX0159-_ ", max_size=40))
def test_a_language_tag_is_normalised_once_or_refused(tag: str) -> None:
    code = language.normalise(tag)
    assert code is None or language.normalise(code) == code


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_bundle_with_any_byte_changed_is_refused(data: st.DataObject, copy: Path) -> None:
    path = data.draw(st.sampled_from(sorted(copy.iterdir())))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    flip = data.draw(st.integers(1, 255))
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ flip]))
    try:
        with pytest.raises(BundleError, match=path.name):
            bundle.load(copy)
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))


def test_the_mended_bundle_is_whole(copy: Path) -> None:
    assert bundle.load(copy).version == copy.name
