"""The deep path: what it computes, when it is asked, what follows from its answers, and what comes back from a bundle.

The router is that of the decisions, whose every word has known scores; a text's place among three anchors is given by its last word.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics.pairwise import rbf_kernel

from model import bundle
from model import deep as deep_module
from model.cleaning import clean
from model.decision import DEEP_NOTE, Decider, Decision, Ticket
from model.deep import Deep, KernelMachine, Rows, kernel, open_for
from model.errors import EncoderError
from model.policy import Policy
from model.router import MOST_PHRASES, RANKS, Router, Target
from tests.model.test_bundle import change_manifest, change_settings, declare, npy, refuses, replace_file
from tests.model.test_decision import SMALL, columns

# Columns: advisory incident | domains hosting network.
ANCHORS = np.eye(3, 4, dtype=np.float32)
WEIGHTS = np.array([(5, -5, 5, -5, -5), (-5, 5, -5, -5, 5), (5, -5, 0, 0, 0)], np.float32)
MEAN = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
MACHINE = KernelMachine(MEAN, ANCHORS, WEIGHTS, 2.0)
PLACES = {"advice": 0, "fault": 1, "any": 2, "nowhere": 3}  # the last one is far from all anchors
SHARES = np.array([2, 2, 1, 1, 1], np.float32)


def calibrated(target: Target, sharpness: float, threshold: float | None) -> Target:
    return replace(target, sharpness=sharpness, threshold=threshold)


MIXED = (calibrated(SMALL.targets[0], 0.9, 0.7), calibrated(SMALL.targets[1], 1.1, 0.6))
ALONE = (calibrated(SMALL.targets[0], 0.5, 0.6), calibrated(SMALL.targets[1], 0.4, 0.5))
DEEP = Deep("fake", np.array([1, 0, 0, 0], np.float32), MACHINE, SHARES, MIXED, ALONE, 0.5, {"kind": 0.8, "department": 0.7})
ROUTER = replace(SMALL, deep=DEEP)
DOUBTED = ["whatever", "hmm", "shrug", "transfer zzyzzx qwrtz", "murmur"]


def embedding(place: str) -> Rows:
    row: Rows = np.eye(4, dtype=np.float32)[PLACES[place]] + MEAN
    return row


def embeddings(*places: str) -> Rows:
    return np.stack([embedding(place) for place in places])


class Fake:
    """An encoder that finds a text's place in its last word, "any" where it is none; it remembers what it was asked."""

    name = "fake"
    dimensions = 4

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def encode(self, texts: list[str]) -> Rows:
        self.asked += texts
        if self._fails:
            raise EncoderError("fake: away")
        last = [(text.split() or [""])[-1] for text in texts]
        return embeddings(*(word if word in PLACES else "any" for word in last))


def with_deep(**changes: Any) -> Router:
    return replace(SMALL, deep=replace(DEEP, **changes))


def deep_one(policy: Policy, body: str, place: str, router: Router = ROUTER, *, explain: bool = False, **known: Any) -> Decision:
    tickets = [Ticket(body=body, **known)]
    decider = Decider(router, policy)
    return decider.reconsider(tickets, decider.clean(tickets), embeddings(place), explain=explain)[0]


@pytest.mark.parametrize("width", [0.01, 1.0, 30.0])
def test_the_kernel_is_the_gaussian_one(width: float) -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(n, 7)).astype(np.float32) for n in (5, 9))
    found = kernel(left, right, width)
    assert (found.dtype.name, found.shape) == ("float32", (5, 9))
    np.testing.assert_allclose(found, rbf_kernel(left, right, gamma=width), rtol=1e-3, atol=1e-6)


def test_a_row_is_wholly_like_itself_and_never_more() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 384)).astype(np.float32) * 1e-3
    found = kernel(rows, rows, 1e3)
    assert found.max() <= 1  # rounding could make a squared distance negative
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-3)


def test_scores_are_weighted_similarities_to_the_anchors() -> None:
    rng = np.random.default_rng(2)
    mean, anchors, weights, rows = (rng.normal(size=size).astype(np.float32) for size in (6, (11, 6), (11, 4), (3, 6)))
    scores, nearest = KernelMachine(mean, anchors, weights, 0.2).scores(rows)
    similar = rbf_kernel(rows - mean, anchors, gamma=0.2)
    np.testing.assert_allclose(scores, similar @ weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(nearest, similar.max(axis=1), rtol=1e-4)


def test_scores_of_no_texts_and_by_no_anchors() -> None:
    scores, nearest = MACHINE.scores(np.empty((0, 4), np.float32))
    assert (scores.shape, nearest.shape) == ((0, 5), (0,))
    empty = KernelMachine(MEAN, ANCHORS[:0], WEIGHTS[:0], 2.0)
    scores, nearest = empty.scores(embeddings("advice"))
    assert (scores.tolist(), nearest.tolist()) == ([[0] * 5], [0])


@pytest.mark.parametrize(
    ("text", "told", "doubtful"),
    [
        ("transfer", None, False),
        ("outage", None, False),
        ("queda", None, False),
        ("transfer", "pt", False),
        ("whatever", None, True),  # of no sure department
        ("hmm", None, True),  # of no sure kind
        ("transfer zzyzzx", None, False),  # half of the words are known
        ("transfer zzyzzx qwrtz", None, True),  # a third are
        ("transfer", "fi", True),
        ("", None, False),
    ],
)
def test_doubtful_is_what_is_unsure_or_unfamiliar_or_in_a_language_not_learned(text: str, told: str | None, doubtful: bool) -> None:
    answers = ROUTER.answer([text], [told])
    assert (answers.path, answers.doubtful) == ("fast", [doubtful])


def test_doubt_is_of_each_text_by_itself() -> None:
    texts = ["transfer", "hmm", "outage", "whatever", "transfer"]
    assert ROUTER.answer(texts).doubtful == [False, True, False, True, False]
    assert ROUTER.answer(["transfer"] * 3, [None, "fi", "en"]).doubtful == [False, True, False]
    assert ROUTER.answer([]).doubtful == []


def test_a_text_is_doubtful_below_the_confidence_and_not_at_it() -> None:
    sure = float(ROUTER.answer(["whatever"]).probabilities["department"].max())
    for least, doubtful in ((sure, False), (np.nextafter(sure, 1), True), (np.nextafter(sure, 0), False), (0.0, False), (1.01, True)):
        assert with_deep(ask={"kind": 0.0, "department": float(least)}).answer(["whatever"]).doubtful == [doubtful]
    assert with_deep(ask={"kind": 1.01, "department": 0.0}).answer(["transfer", "outage"]).doubtful == [True, True]


def test_without_a_deep_path_and_on_it_nothing_is_doubtful() -> None:
    texts = ["transfer", *DOUBTED, ""]
    assert SMALL.answer(texts, ["fi"] * len(texts)).doubtful == [False] * len(texts)
    assert ROUTER.answer(texts, embeddings=Fake().encode(texts)).doubtful == [False] * len(texts)


def test_embeddings_are_nothing_to_a_router_without_a_deep_path() -> None:
    plain, given = SMALL.answer(["hmm"]), SMALL.answer(["hmm"], embeddings=embeddings("fault"))
    assert given.path == plain.path == "fast"
    assert given.probabilities["kind"].tolist() == plain.probabilities["kind"].tolist()


def test_where_training_saw_one_language_the_others_are_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.language.detect", lambda text: ("fi", 0.9))
    english = columns(slice(0, 5), languages=None, only_language="en", deep=DEEP)
    assert english.answer(["transfer", "transfer"], [None, "fi"]).doubtful == [False, True]
    unknown = replace(english, only_language=None)
    assert unknown.answer(["transfer"]).doubtful == [True]


def test_deep_answers_mix_both_scores_and_go_alone_where_the_language_is_not_learned() -> None:
    texts = ["transfer", "hmm", "transfer", "hmm", "outage"]
    told = [None, None, "fi", "fi", "pt"]
    rows = embeddings("fault", "any", "fault", "advice", "nowhere")
    answers = ROUTER.answer(texts, told, embeddings=rows)
    assert answers.path == "deep"
    assert answers.targets == [MIXED, MIXED, ALONE, ALONE, MIXED]
    fast = SMALL.answer(texts).scores
    deep = rbf_kernel(rows - MEAN, ANCHORS, gamma=2.0) @ WEIGHTS
    for k, name in enumerate(("kind", "department")):
        own = slice(*((0, 2), (2, 5))[k])
        both = softmax((fast[:, own] + deep[:, own] * SHARES[own]) * MIXED[k].sharpness, axis=1)
        alone = softmax(deep[:, own] * ALONE[k].sharpness, axis=1)
        found = answers.probabilities[name]
        assert found.dtype.name == "float32"
        np.testing.assert_allclose(found, np.where(np.array([[0], [0], [1], [1], [0]], bool), alone, both), atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        top = answers.top[name]
        labels = len(MIXED[k].labels)
        assert top.shape == (5, RANKS)
        assert top[:, :labels].tolist() == np.argsort(-found, axis=1, kind="stable").tolist()
        assert (top[:, labels:] == -1).all()
    # The words go on telling the language, and the scores by which further departments are involved.
    assert answers.scores.tolist() == fast.tolist()
    assert [code for code, _ in answers.languages] == ["en", "en", "fi", "fi", "pt"]


def test_deep_offsets_count() -> None:
    shifted = tuple(replace(target, offsets=(3.0, *target.offsets[1:])) for target in MIXED)
    found = with_deep(mixed=shifted).answer(["shrug"], embeddings=embeddings("nowhere")).probabilities["kind"][0]
    deep = rbf_kernel((embeddings("nowhere") - MEAN), ANCHORS, gamma=2.0) @ WEIGHTS[:, :2]
    np.testing.assert_allclose(found, softmax(deep[0] * 2 * 0.9 + [3, 0]), atol=1e-5)


def test_what_is_like_no_ticket_is_unfamiliar_whatever_its_words(policy: Policy) -> None:
    assert ROUTER.answer(["transfer", "transfer"], embeddings=embeddings("nowhere", "advice")).familiar == [False, True]
    strange = deep_one(policy, "transfer", "nowhere")
    assert (strange["action"], strange["reasons"][0]) == ("review", "unfamiliar")


def test_unknown_words_are_familiar_in_a_language_that_was_not_learned_only(policy: Policy) -> None:
    assert deep_one(policy, "zzyzzx qwrtz", "advice", language="en")["reasons"][0] == "unfamiliar"
    assert "unfamiliar" not in deep_one(policy, "zzyzzx qwrtz", "advice", language="fi")["reasons"]


def test_as_near_as_the_scope_is_familiar() -> None:
    nearest = float(MACHINE.scores(embeddings("nowhere"))[1][0])
    for scope, familiar in ((nearest, True), (float(np.nextafter(np.float32(nearest), np.float32(1))), False)):
        assert with_deep(scope=scope).answer(["transfer"], embeddings=embeddings("nowhere")).familiar == [familiar]


@pytest.mark.parametrize(
    ("told", "changes", "action", "reasons"),
    [
        ("en", {}, "auto", []),
        ("en", {"alone": tuple(replace(t, threshold=None) for t in ALONE)}, "auto", []),
        ("en", {"mixed": tuple(replace(t, threshold=None) for t in MIXED)}, "review", ["unsure_kind", "unsure_department"]),
        ("en", {"mixed": (MIXED[0], replace(MIXED[1], threshold=None))}, "suggest", ["unsure_department"]),
        ("en", {"mixed": (replace(MIXED[0], protect={"incident": 0.0}), MIXED[1])}, "suggest", ["possible_incident"]),
        ("fi", {}, "suggest", ["unknown_language"]),
        ("fi", {"mixed": tuple(replace(t, threshold=None) for t in MIXED)}, "suggest", ["unknown_language"]),
        ("fi", {"alone": (ALONE[0], replace(ALONE[1], threshold=None))}, "suggest", ["unknown_language", "unsure_department"]),
        ("fi", {"alone": tuple(replace(t, threshold=None) for t in ALONE)}, "review", ["unknown_language", "unsure_kind", "unsure_department"]),
        ("fi", {"alone": (replace(ALONE[0], protect={"incident": 0.0}), ALONE[1])}, "suggest", ["unknown_language", "possible_incident"]),
    ],
)
def test_the_thresholds_are_those_of_the_path_that_answered(
    policy: Policy, told: str, changes: dict[str, Any], action: str, reasons: list[str]
) -> None:
    # The fast path would be sure of both: its thresholds must not be what counts.
    decision = deep_one(policy, "transfer", "advice", with_deep(**changes), language=told)
    assert (decision["path"], decision["action"], decision["reasons"]) == ("deep", action, reasons)


def test_the_fast_path_keeps_its_own_thresholds(policy: Policy) -> None:
    strict = with_deep(mixed=tuple(replace(t, threshold=None) for t in MIXED), alone=tuple(replace(t, threshold=None) for t in ALONE))
    decision = Decider(strict, policy).decide([Ticket(body="transfer")])[0]
    assert (decision["path"], decision["action"]) == ("fast", "auto")
    lenient = replace(ROUTER, targets=tuple(replace(t, threshold=None) for t in SMALL.targets))
    assert Decider(lenient, policy).decide([Ticket(body="transfer")])[0]["action"] == "review"
    assert deep_one(policy, "transfer", "advice", lenient)["action"] == "auto"


def test_the_policys_thresholds_hold_on_the_deep_path_too(policy: Policy) -> None:
    asking = policy.model_copy(update={"thresholds": {"department": 0.99}})
    lenient = with_deep(mixed=(MIXED[0], replace(MIXED[1], threshold=0.1)))
    assert deep_one(policy, "whatever", "any", lenient)["reasons"] == []
    assert deep_one(asking, "whatever", "any", lenient)["reasons"] == ["unsure_department"]


def test_an_unknown_language_is_a_suggestion_on_the_deep_path_and_for_a_person_on_the_fast_one(policy: Policy) -> None:
    ticket = Ticket(body="transfer", language="fi")
    fast = Decider(ROUTER, policy).decide([ticket])[0]
    assert (fast["path"], fast["action"], fast["reasons"]) == ("fast", "review", ["unknown_language"])
    deep = Decider(ROUTER, policy).decide([replace_body(ticket, "transfer advice")], encoder=Fake())[0]
    assert (deep["path"], deep["action"], deep["reasons"]) == ("deep", "suggest", ["unknown_language"])
    strange = Decider(ROUTER, policy).decide([replace_body(ticket, "transfer nowhere")], encoder=Fake())[0]
    assert (strange["action"], strange["reasons"][:2]) == ("review", ["unfamiliar", "unknown_language"])


def replace_body(ticket: Ticket, body: str) -> Ticket:
    return ticket._replace(body=body)


def test_an_empty_ticket_stays_empty(policy: Policy) -> None:
    decision = Decider(ROUTER, policy).decide([Ticket(body="<p></p>")], encoder=Fake())[0]
    assert (decision["action"], decision["reasons"], decision["also_involve"]) == ("review", ["empty"], [])


def test_phrases_are_those_of_the_deep_label(policy: Policy) -> None:
    body = "transfer. whatever. " * 4 + "slow. hmm."
    decision = deep_one(policy, body, "fault", with_deep(shares=SHARES * 100), explain=True)
    assert [decision["labels"][name]["label"] for name in ("kind", "department")] == ["incident", "network"]
    text = clean("", body)
    assert {name: answer["label"] for name, answer in Decider(SMALL, policy).decide([Ticket(body=body)])[0]["labels"].items()} == {
        "kind": "advisory",
        "department": "domains",
    }
    for name, pulled in zip(("kind", "department"), ROUTER.explain(text, [1, 4]), strict=True):
        found = decision["explanation"][name]
        assert len(found) == MOST_PHRASES < len(pulled)
        assert [(phrase["text"], phrase["start"], phrase["end"]) for phrase in found] == [(p.text, p.start, p.end) for p in pulled[:MOST_PHRASES]]
        assert [phrase["weight"] for phrase in found] == [round(p.weight, 3) for p in pulled[:MOST_PHRASES]]
        assert all(phrase["weight"] < 0 for phrase in found)  # the words speak against both labels
    assert decision["explanation_note"] == DEEP_NOTE


def test_the_note_stands_by_deep_explanations_only(policy: Policy) -> None:
    tickets = [Ticket(body="transfer"), Ticket(body="hmm advice")]
    fast, deep = Decider(ROUTER, policy).decide(tickets, explain=True, encoder=Fake())
    assert (fast["path"], deep["path"]) == ("fast", "deep")
    assert "explanation_note" not in fast
    assert deep["explanation_note"] == DEEP_NOTE
    assert "explanation" not in deep_one(policy, "transfer", "advice")
    assert "explanation_note" not in deep_one(policy, "transfer", "advice")


BATCH = [
    Ticket(body="transfer"),
    Ticket(body="hmm hmm advice"),
    Ticket(body="outage", language="fi"),
    Ticket(body=""),
    Ticket(subject="whatever", body="whatever fault", declared_kind="incident"),
    Ticket(body="shrug nowhere"),
    Ticket(body="outage"),
    Ticket(body="hmm any", language="ja", customer_tier="premium"),
]


def same(left: Any, right: Any) -> bool:
    """Equal but for the last digit of a number: a batch may be multiplied in another order."""
    if isinstance(left, float):
        return bool(abs(left - right) < 2e-3)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    return bool(left == right)


def test_a_batch_decides_as_each_alone(policy: Policy) -> None:
    decider = Decider(ROUTER, policy)
    together = decider.decide(BATCH, explain=True, advise=True, encoder=Fake())
    alone = [decider.decide([ticket], explain=True, advise=True, encoder=Fake())[0] for ticket in BATCH]
    assert [decision["path"] for decision in together] == ["fast", "deep", "deep", "fast", "deep", "deep", "fast", "deep"]
    for one, other in zip(together, alone, strict=True):
        assert same(one, other)
    turned = decider.decide(BATCH[::-1], explain=True, advise=True, encoder=Fake())
    assert all(same(one, other) for one, other in zip(together, turned[::-1], strict=True))


def test_the_encoder_is_asked_for_the_doubtful_texts_only_once_each(policy: Policy) -> None:
    encoder = Fake()
    Decider(ROUTER, policy).decide([*BATCH[:2], *BATCH[4:7]], encoder=encoder)
    assert encoder.asked == ["hmm hmm advice", clean("whatever", "whatever fault"), "shrug nowhere"]
    sure = Fake()
    Decider(ROUTER, policy).decide([BATCH[0], BATCH[6]], encoder=sure)
    assert sure.asked == []


def test_an_encoder_is_nothing_to_a_router_without_a_deep_path(policy: Policy) -> None:
    encoder = Fake()
    assert {decision["path"] for decision in Decider(SMALL, policy).decide(BATCH, encoder=encoder)} == {"fast"}
    assert encoder.asked == []


def test_an_encoder_that_fails_leaves_the_fast_decisions(policy: Policy) -> None:
    told: list[EncoderError] = []
    decider = Decider(ROUTER, policy)
    decisions = decider.decide(BATCH, explain=True, encoder=Fake(fails=True), failed=told.append)
    assert [str(error) for error in told] == ["fake: away"]
    assert decisions == decider.decide(BATCH, explain=True)
    assert decider.decide(BATCH, explain=True, encoder=Fake(fails=True)) == decisions  # who does not listen is not bothered
    decider.decide([Ticket(body="transfer")], encoder=Fake(fails=True), failed=told.append)
    assert len(told) == 1


def test_another_encoder_under_the_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    encoder = Fake()

    def opened(name: str, seconds: float) -> Fake:
        asked.append((name, seconds))
        return encoder

    monkeypatch.setattr(deep_module, "open_encoder", opened)
    probe = encoder.encode(["any probe"])[0]
    assert open_for(replace(DEEP, probe=probe), 3.0) is encoder
    assert asked == [("fake", 3.0)]
    for other in (np.roll(probe, 1), -probe, probe[:3], np.zeros(4, np.float32)):
        with pytest.raises(EncoderError, match="train again"):
            open_for(replace(DEEP, probe=other), 3.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.save(ROUTER, tmp_path_factory.mktemp("models"), {}, {})


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A bundle to be harmed."""
    return Path(shutil.copytree(saved, tmp_path / saved.name))


def members(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / bundle.DEEP) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def repack(folder: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    replace_file(folder, bundle.DEEP, out.getvalue())


def array_of(folder: Path, name: str) -> NDArray[Any]:
    found: NDArray[Any] = np.load(io.BytesIO(members(folder)[f"{name}.npy"]))
    return found


def put(folder: Path, name: str, array: NDArray[Any]) -> None:
    repack(folder, members(folder) | {f"{name}.npy": npy(array)})


def deep_settings(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda settings: change(settings["deep"])


def test_a_deep_path_comes_back_equal(saved: Path) -> None:
    loaded = bundle.load(saved).deep
    assert loaded is not None
    assert (loaded.encoder, loaded.mixed, loaded.alone, loaded.scope, loaded.ask) == ("fake", MIXED, ALONE, 0.5, DEEP.ask)
    assert loaded.machine.width == MACHINE.width
    pairs = [(loaded.probe, DEEP.probe), (loaded.shares, DEEP.shares), *zip(loaded.machine[:3], MACHINE[:3], strict=True)]
    for found, expected in pairs:
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


def test_anchors_come_back_as_half_precision_holds_them(tmp_path: Path) -> None:
    half = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float16).astype(np.float32)
    router = with_deep(machine=MACHINE._replace(anchors=half, width=0.1 + 0.2))
    loaded = bundle.load(bundle.save(router, tmp_path, {}, {})).deep
    assert loaded is not None
    assert np.array_equal(loaded.machine.anchors, half)
    assert loaded.machine.width == 0.1 + 0.2


def test_a_loaded_deep_path_decides_the_same(saved: Path, policy: Policy) -> None:
    loaded = Decider(bundle.load(saved), policy).decide(BATCH, explain=True, encoder=Fake())
    assert loaded == Decider(ROUTER, policy).decide(BATCH, explain=True, encoder=Fake())


def test_a_router_without_a_deep_path_has_no_file_of_it(tmp_path: Path) -> None:
    home = bundle.save(SMALL, tmp_path, {}, {})
    assert not (home / bundle.DEEP).exists()
    assert bundle.load(home).deep is None


def test_the_same_deep_path_gives_the_same_file(saved: Path, tmp_path: Path) -> None:
    assert (bundle.save(ROUTER, tmp_path, {}, {}) / bundle.DEEP).read_bytes() == (saved / bundle.DEEP).read_bytes()


ARRAYS = ("probe", "mean", "anchors", "weights", "shares")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf], ids=str)
def test_one_number_that_is_none_is_refused(copy: Path, name: str, wrong: float) -> None:
    array = array_of(copy, name)
    array.flat[-1] = wrong
    put(copy, name, array)
    refuses(copy, "do not fit each other")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("shorter", [True, False])
def test_an_array_of_another_length_is_refused(copy: Path, name: str, shorter: bool) -> None:
    for axis in range(array_of(copy, name).ndim):
        array = array_of(copy, name)
        # Anchors without a row, or without a dimension, must be missed by weights and mean.
        put(copy, name, np.delete(array, 0, axis) if shorter else np.concatenate([array, array.take([0], axis)], axis))
        refuses(copy, "do not fit each other")
        put(copy, name, array)
        bundle.load(copy)  # so it was the length


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", ["<f8", ">f4", "<i4", "<f2", "<f4"])
def test_an_array_of_another_kind_is_refused(copy: Path, name: str, kind: str) -> None:
    own = "<f2" if name == "anchors" else "<f4"
    put(copy, name, array_of(copy, name).astype(kind))
    if kind == own:
        bundle.load(copy)
    else:
        refuses(copy, f"{name} is not the array")


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_other_dimensions_is_refused(copy: Path, name: str) -> None:
    array = array_of(copy, name)
    put(copy, name, array[None] if array.ndim == 1 else array.ravel())
    refuses(copy, f"{name} is not the array")


@pytest.mark.parametrize("shape", ["(1099511627776, 4)", "(999999999999, 999999)", "(-3, 4)", "()"])
def test_a_header_that_promises_other_sizes_is_refused(copy: Path, shape: str) -> None:
    data = members(copy)["anchors.npy"]
    repack(copy, members(copy) | {"anchors.npy": declare(data, shape, "'<f2'")})
    refuses(copy, "anchors is not the array")


@pytest.mark.parametrize("name", ARRAYS)
def test_an_archive_with_an_array_less_or_one_more_is_refused(copy: Path, name: str) -> None:
    whole = members(copy)
    repack(copy, {member: data for member, data in whole.items() if member != f"{name}.npy"})
    refuses(copy, r"deep\.npz: not a file of arrays")
    repack(copy, whole | {f"{name}2.npy": whole[f"{name}.npy"]})
    refuses(copy, r"deep\.npz: not a file of arrays")


def test_a_packed_or_broken_archive_is_refused(copy: Path) -> None:
    repack(copy, members(copy), zipfile.ZIP_DEFLATED)
    refuses(copy, "packed in a way that could swell")
    for data in (b"", b"PK\x03\x04", (copy / bundle.DEEP).read_bytes()[:-30]):
        replace_file(copy, bundle.DEEP, data)
        refuses(copy, r"deep\.npz: not a file of arrays")


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / bundle.DEEP).unlink()
    refuses(copy, r"deep\.npz: missing")
    change_manifest(copy, lambda manifest: manifest["files"].pop(bundle.DEEP))
    refuses(copy, r"names no deep\.npz")


def test_a_changed_byte_is_refused(copy: Path) -> None:
    data = bytearray((copy / bundle.DEEP).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / bundle.DEEP).write_bytes(bytes(data))
    refuses(copy, r"deep\.npz: its SHA-256 differs")


def test_arrays_that_agree_with_each_other_but_not_with_the_targets_are_refused(copy: Path) -> None:
    put(copy, "weights", array_of(copy, "weights")[:, :-1])
    put(copy, "shares", array_of(copy, "shares")[:-1])
    refuses(copy, "do not fit each other")


def test_a_probe_of_another_encoder_s_size_is_refused(copy: Path) -> None:
    put(copy, "probe", np.ones(5, np.float32))
    refuses(copy, "do not fit each other")


SETTINGS_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an ask that names another target": lambda d: d["ask"].update(colour=0.5),
    "an ask less": lambda d: d["ask"].pop("kind"),
    "an ask of another name": lambda d: d.update(ask={"kind": 0.5, "colour": 0.5}),
    "an ask that is no number": lambda d: d["ask"].update(kind=float("nan")),
    "an ask that is text": lambda d: d["ask"].update(kind="0.5"),
    "an ask that is none": lambda d: d.update(ask=None),
    "mixed labels in another order": lambda d: d["mixed"][0]["labels"].reverse(),
    "alone labels in another order": lambda d: d["alone"][1]["labels"].reverse(),
    "mixed targets in another order": lambda d: d["mixed"].reverse(),
    "alone targets in another order": lambda d: d["alone"].reverse(),
    "a mixed target less": lambda d: d["mixed"].pop(),
    "an alone target more": lambda d: d["alone"].append(d["alone"][0]),
    "no mixed targets": lambda d: d.update(mixed=[]),
    "no alone targets": lambda d: d.pop("alone"),
    "another name": lambda d: d["mixed"][0].update(name="colour"),
    "another label": lambda d: d["alone"][0].update(labels=["advisory", "colour"], protect={}),
    "another column": lambda d: d["mixed"][1].update(first=3),
    "an offset less": lambda d: d["mixed"][0]["offsets"].pop(),
    "a sharpness of nothing": lambda d: d["alone"][0].update(sharpness=0.0),
    "a width of nothing": lambda d: d.update(width=0.0),
    "a width below nothing": lambda d: d.update(width=-1.0),
    "a width without end": lambda d: d.update(width=float("inf")),
    "a width that is no number": lambda d: d.update(width=float("nan")),
    "a width that is text": lambda d: d.update(width="1"),
    "no width": lambda d: d.pop("width"),
    "a scope above one": lambda d: d.update(scope=1.5),
    "a scope below nothing": lambda d: d.update(scope=-0.1),
    "a scope that is no number": lambda d: d.update(scope=float("nan")),
    "an encoder without a name": lambda d: d.update(encoder=""),
    "an encoder with too long a name": lambda d: d.update(encoder="http://" + "x" * 1000),
    "an encoder that is a number": lambda d: d.update(encoder=7),
    "a field more": lambda d: d.update(colour="red"),
}


@pytest.mark.parametrize("fault", SETTINGS_FAULTS.values(), ids=SETTINGS_FAULTS.keys())
def test_deep_settings_that_do_not_fit_are_refused(copy: Path, fault: Callable[[dict[str, Any]], object]) -> None:
    change_settings(copy, deep_settings(fault))
    refuses(copy, "not the settings of a router|do not fit each other")


def test_a_width_that_no_float32_holds_is_refused(copy: Path) -> None:
    """It is finite, but what it is multiplied with is float32: 0 times infinity is the score of a text that equals an anchor."""
    change_settings(copy, deep_settings(lambda deep: deep.update(width=1e300)))
    refuses(copy, "not the settings of a router|do not fit each other")


@pytest.mark.parametrize("which", ["mixed", "alone"])
def test_a_protected_label_on_one_path_only_is_refused(copy: Path, which: str) -> None:
    """`evaluate` looks for the protected labels of a target on every path."""
    change_settings(copy, deep_settings(lambda deep: deep[which][0].update(protect={})))
    refuses(copy, "not the settings of a router|do not fit each other")


def test_settings_that_speak_of_no_deep_path_leave_its_file_closed(copy: Path) -> None:
    replace_file(copy, bundle.DEEP, b"anything")
    change_settings(copy, lambda settings: settings.update(deep=None))
    assert bundle.load(copy).deep is None
    assert json.loads((copy / bundle.SETTINGS).read_bytes())["deep"] is None
