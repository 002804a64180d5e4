import random
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from model.router import Router
from model.taxonomy import Taxonomy, load_taxonomy
from training import fit as fit_module
from training.calibrate import shift
from training.errors import TrainingError
from training.evaluate import evaluate
from training.features import Recipe, TermCounts
from training.fit import COSTS, LEAST_IN_LANGUAGE, PROMISE, RECIPES, SEARCHED, USUAL, Settings, Trained, fit
from training.split import Fold, folds
from training.table import TicketTable


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load_taxonomy()


def made(texts: list[str], labels: dict[str, list[str]], language: str = "en") -> TicketTable:
    return TicketTable(texts, labels, [language] * len(texts), ("body",))


def some_of(table: TicketTable, which: range) -> TicketTable:
    labels = {name: [values[i] for i in which] for name, values in table.labels.items()}
    return TicketTable([table.texts[i] for i in which], labels, [table.languages[i] for i in which], table.text_columns)


@pytest.fixture(scope="module")
def small(table: TicketTable) -> TicketTable:
    """Every fifth of the shipped tickets: all labels and languages, learned in a quarter of a second."""
    return some_of(table, range(0, len(table), 5))


@pytest.fixture(scope="module")
def plain(small: TicketTable, taxonomy: Taxonomy) -> Trained:
    return fit(small, Settings(), taxonomy)


def mixed(n: int, incidents: float, seed: int) -> TicketTable:
    """Tickets of eight words each; three quarters of the words that an incident can have, an advisory ticket can have too."""
    rng = np.random.default_rng(seed)
    kinds = np.where(rng.random(n) < incidents, "incident", "advisory").tolist()
    first = {"incident": 0, "advisory": 15}
    texts = [" ".join(f"word{number}x" for number in rng.integers(first[kind], first[kind] + 60, 8)) for kind in kinds]
    return made(texts, {"kind": kinds})


@pytest.fixture(scope="module")
def shifted(small: TicketTable, taxonomy: Taxonomy) -> Router:
    """As `plain`, but told that at the door one ticket in ten is an incident."""
    return fit(small, Settings(priors={"kind": {"incident": 0.1}}), taxonomy).router


def arrays(router: Router) -> list[Any]:
    return [router.rows.slots, router.rows.values, router.bias]


def settled(router: Router) -> list[Any]:
    """All of a router but its arrays and its version."""
    return [
        router.rows.first_pair,
        router.rows.reach,
        router.targets,
        router.languages,
        router.only_language,
        router.least_known,
        router.text_columns,
    ]


def test_the_same_table_settings_and_seed_give_the_same_router(small: TicketTable, plain: Trained, taxonomy: Taxonomy) -> None:
    again = fit(small, Settings(), taxonomy)
    for left, right in zip(arrays(plain.router), arrays(again.router), strict=True):
        assert np.array_equal(left, right)
    assert settled(plain.router) == settled(again.router)
    assert plain.metrics == again.metrics
    assert plain.chosen == again.chosen
    assert plain.router.version != again.router.version


def test_another_seed_gives_other_folds(small: TicketTable, plain: Trained, taxonomy: Taxonomy) -> None:
    assert fit(small, Settings(seed=1), taxonomy).metrics["targets"] != plain.metrics["targets"]


def test_on_the_shipped_tickets_the_router_is_far_above_the_majority(trained: Trained, table: TicketTable) -> None:
    assert trained.metrics["tickets"] == len(table)
    for name, least in {"kind": 0.88, "department": 0.87}.items():
        figures = trained.metrics["targets"][name]
        assert figures["n"] == len(table)
        assert figures["accuracy"]["interval"][0] > least > figures["majority"]["accuracy"] + 0.3
        assert figures["macro_f1"] > least - 0.01
        assert figures["calibration_error"] < 0.03
        for code in ("fr", "en", "de", "es", "pt", "it", "pl"):
            of = figures["languages"][code]
            assert of["n"] == table.languages.count(code)
            assert of["share"] > of["majority"] + 0.25
    assert trained.metrics["language"]["share"] > 0.98


def test_on_the_shipped_tickets_promises_are_kept_with_much_covered(trained: Trained) -> None:
    for name in ("kind", "department"):
        promise = trained.metrics["targets"][name]["promise"]
        assert promise["precision"] == PROMISE
        assert promise["observed"]["share"] >= PROMISE
        assert promise["coverage"]["share"] > 0.7
    incident = trained.metrics["targets"]["kind"]["protected"]["incident"]
    assert incident["recall_with_possible"]["share"] >= 0.97
    assert incident["recall"]["share"] > 0.88


def test_the_figures_are_of_tickets_not_seen(trained: Trained, router: Router, table: TicketTable) -> None:
    seen = evaluate(router, table)["targets"]["department"]["accuracy"]["share"]
    assert seen > 0.99
    assert trained.metrics["targets"]["department"]["accuracy"]["share"] < seen - 0.03


def test_near_duplicates_never_stand_on_both_sides(taxonomy: Taxonomy) -> None:
    """Random words with random labels teach nothing but their own near-duplicates: who sees those is right, who does not
    can only guess."""
    rng = random.Random(0)
    texts, kinds = [], []
    for _ in range(150):
        base, kind = " ".join(f"word{rng.randrange(10**6)}x" for _ in range(15)), rng.choice(["advisory", "incident"])
        texts += [base, f"{base} once more", f"{base} please"]
        kinds += [kind] * 3
    metrics = fit(made(texts, {"kind": kinds}), Settings(), taxonomy).metrics
    assert metrics["near_duplicates"] == 300
    assert metrics["random_split"]["kind"]["share"] > 0.95
    assert metrics["targets"]["kind"]["accuracy"]["share"] < 0.65


def test_without_near_duplicates_there_is_no_second_figure(plain: Trained) -> None:
    assert plain.metrics["near_duplicates"] == 0
    assert "random_split" not in plain.metrics


def test_a_ticket_may_lack_one_of_its_labels(small: TicketTable, taxonomy: Taxonomy) -> None:
    kinds = [label if i % 3 else "" for i, label in enumerate(small.labels["kind"])]
    partly = TicketTable(small.texts, {"kind": kinds, "department": small.labels["department"]}, small.languages, small.text_columns)
    trained = fit(partly, Settings(), taxonomy)
    assert [target.name for target in trained.router.targets] == ["kind", "department"]
    assert trained.router.targets[0].labels == ("advisory", "incident")
    assert trained.metrics["targets"]["kind"]["n"] == sum(map(bool, kinds))
    assert trained.metrics["targets"]["department"]["n"] == len(small)
    assert trained.metrics["targets"]["kind"]["accuracy"]["share"] > 0.65


def test_what_has_one_label_only_is_no_question(small: TicketTable, taxonomy: Taxonomy) -> None:
    labels = {"kind": small.labels["kind"], "brand": ["ours"] * len(small)}
    router = fit(TicketTable(small.texts, labels, small.languages, small.text_columns), Settings(), taxonomy).router
    assert [target.name for target in router.targets] == ["kind"]


def test_the_answers_have_a_column_for_every_label_and_the_language_head_comes_last(router: Router) -> None:
    kind, department = router.targets
    assert router.languages is not None
    assert (kind.columns, department.columns, router.languages.columns) == (slice(0, 2), slice(2, 10), slice(10, 17))
    assert router.languages.labels == ("de", "en", "es", "fr", "it", "pl", "pt")
    assert router.only_language is None
    assert router.text_columns == ("subject", "body")
    assert len(router.bias) == 17
    assert router.rows.values.shape[1] == 18


def test_a_rare_language_is_not_learned(small: TicketTable, taxonomy: Taxonomy) -> None:
    languages = ["fr" if i >= LEAST_IN_LANGUAGE - 1 else "sv" for i in range(len(small))]
    router = fit(TicketTable(small.texts, small.labels, languages, small.text_columns), Settings(), taxonomy).router
    assert router.languages is None
    assert router.only_language == "fr"


def test_the_language_of_rows_that_name_none_may_be_given(taxonomy: Taxonomy) -> None:
    texts, kinds = ["site down now", "site is down", "how to order", "how to pay"], ["incident", "incident", "advisory", "advisory"]
    table = made(texts * 3, {"kind": kinds * 3}, language="")
    assert fit(table, Settings(language="nl"), taxonomy).router.only_language == "nl"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(promises={"mood": 0.9}), ["no target 'mood'", "kind, department"]),
        (Settings(priors={"mood": {"bad": 0.9}}), ["no target 'mood'", "kind, department"]),
        (Settings(priors={"kind": {"outage": 0.2}}), ["kind has no label 'outage'", "advisory, incident"]),
        (Settings(priors={"kind": {"incident": 0.6, "advisory": 0.6}}), ["shares of kind add up to 1.2"]),
        (Settings(priors={"kind": {"incident": 0.2, "advisory": 0.2}}), ["shares of kind add up to 0.4"]),
        (Settings(priors={"department": {"sales": 0.7, "domains": 0.7}}), ["shares of department add up to 1.4"]),
    ],
)
def test_a_promise_or_prior_that_does_not_fit_the_table_is_refused(
    small: TicketTable, taxonomy: Taxonomy, settings: Settings, words: list[str]
) -> None:
    with pytest.raises(TrainingError) as caught:
        fit(small, settings, taxonomy)
    assert [word for word in words if word not in str(caught.value)] == []


def test_tickets_that_are_all_near_duplicates_are_refused(taxonomy: Taxonomy) -> None:
    texts = [f"these are the very same ten words in every single ticket {i}" for i in range(10)]
    with pytest.raises(TrainingError, match="10 tickets, but fewer than two distinct"):
        fit(made(texts, {"kind": ["incident", "advisory"] * 5}), Settings(), taxonomy)


def test_a_target_called_language_is_learned_like_any_other(small: TicketTable, taxonomy: Taxonomy) -> None:
    """Any label column can be a target."""
    table = TicketTable(small.texts, {"language": small.languages}, small.languages, small.text_columns)
    trained = fit(table, Settings(), taxonomy)
    assert [target.name for target in trained.router.targets] == ["language"]
    assert trained.metrics["targets"]["language"]["accuracy"]["share"] > 0.9


def test_a_higher_promise_asks_for_more_confidence(small: TicketTable, taxonomy: Taxonomy) -> None:
    low, high, most = (fit(small, Settings(promises={"kind": promise}), taxonomy).router.targets[0] for promise in (0.75, 0.9, 1.0))
    assert (low.promise, high.promise) == (0.75, 0.9)
    assert low.threshold is not None
    assert high.threshold is not None
    assert low.threshold < high.threshold
    assert most.threshold is None


def test_a_prior_moves_probabilities_as_bayes_says(small: TicketTable, plain: Trained, shifted: Router) -> None:
    share = small.labels["kind"].count("incident") / len(small)
    odds = 0.1 / 0.9 / (share / (1 - share))
    scores = plain.router.answer(small.texts[:50]).scores
    before, after = (router.targets[0].probabilities(scores)[:, 1] for router in (plain.router, shifted))
    assert after / (1 - after) == pytest.approx(odds * before / (1 - before))
    assert shifted.targets[1] == plain.router.targets[1]


def test_with_a_prior_the_same_incidents_are_possible(small: TicketTable, plain: Trained, shifted: Router) -> None:
    """How many of the incidents are found does not hang on how many there are, so the limit must move with the
    probabilities: a rarer label is protected from a lower one."""
    before = plain.router.targets[0]
    moved = shift(small.codes("kind", before.labels), before.labels, {"incident": 0.1})
    expected = expit(logit(before.protect["incident"]) + moved[1] - moved[0])
    assert shifted.targets[0].protect["incident"] == pytest.approx(expected)


def test_with_a_prior_incidents_are_still_found(taxonomy: Taxonomy) -> None:
    prior = {"kind": {"incident": 0.1}}
    router = fit(mixed(1500, 0.5, seed=0), Settings(priors=prior), taxonomy).router
    figures = evaluate(router, mixed(6000, 0.1, seed=1))["targets"]["kind"]
    assert figures["protected"]["incident"]["recall_with_possible"]["share"] > 0.955


def test_with_a_prior_the_promise_is_kept_at_the_door(taxonomy: Taxonomy) -> None:
    """Learned where nine of ten tickets are easy to be right about, asked where that is no longer so."""
    router = fit(mixed(1500, 0.1, seed=0), Settings(promises={"kind": 0.96}, priors={"kind": {"incident": 0.5}}), taxonomy).router
    promise = evaluate(router, mixed(6000, 0.5, seed=1))["targets"]["kind"]["promise"]
    assert promise["threshold"] is None or promise["observed"]["share"] > 0.955


def first_among_alike(figures: list[float]) -> int:
    """The place of the first that is as good as the best, which is the simplest one."""
    return min(place for place, figure in enumerate(figures) if figure > max(figures) - fit_module.ALIKE)


def test_the_best_of_what_was_tried_is_chosen(plain: Trained) -> None:
    tried = plain.chosen["tried"]
    names = ("reach", "power", "doubt")
    recipes = [Recipe(*(setting[name] for name in names)) for setting in tried]
    assert recipes[: len(RECIPES)] == list(RECIPES)
    assert {setting["cost"] for setting in tried[: len(RECIPES)]} == {USUAL}
    figures = [setting["macro_f1"] for setting in tried]
    best = RECIPES[first_among_alike(figures[: len(RECIPES)])]
    assert plain.chosen["recipe"] == asdict(best)
    by_cost = {setting["cost"]: figure for setting, figure in zip(tried[len(RECIPES) :], figures[len(RECIPES) :], strict=True)}
    assert set(recipes[len(RECIPES) :]) == {best}
    assert tuple(by_cost) == COSTS
    assert plain.chosen["cost"] == COSTS[first_among_alike(list(by_cost.values()))]
    assert all(0.5 < figure < 1 for figure in figures)
    assert plain.router.rows.reach == best.reach


def test_words_near_each_other_are_counted_as_far_as_the_farthest_recipe_looks() -> None:
    """`TermCounts` counts them once for all recipes, so that one that looked less far would be served other pairs than it learned."""
    assert {recipe.reach for recipe in RECIPES} <= {1, max(recipe.reach for recipe in RECIPES)}


def test_recipes_are_compared_on_enough_tickets_and_costs_on_all(
    small: TicketTable, taxonomy: Taxonomy, scored: list[tuple[Recipe, tuple[float, ...], int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "COMPARED", 100)
    fit(small, Settings(), taxonomy)
    assert [learned for _, costs, learned, _ in scored if costs == (USUAL,)][: len(RECIPES) * SEARCHED] == [100] * len(RECIPES) * SEARCHED
    assert all(learned > 0.7 * len(small) for _, costs, learned, _ in scored if costs == COSTS)


@pytest.mark.parametrize("budget", [60.0, 1e-9])
def test_what_the_search_says_of_held_out_tickets_is_by_the_chosen_settings(
    budget: float, small: TicketTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "LEAST_SEARCHED", 300)
    heads = fit_module._heads(small, small.languages)
    counts = TermCounts.of(small.texts, 12)
    split = folds(small.labels["department"], np.arange(len(small)), 0)
    recipe, cost, _, judged = fit_module._search(counts, heads, split, Settings(budget=budget), lambda *_: None)
    assert judged.shape == (len(small), heads[-1].columns.stop)
    for number, fold in enumerate(split):
        own = judged[fold.held_out]
        if budget < 1 or number >= SEARCHED:
            assert np.isnan(own).all()
            continue
        apart = {other: np.abs(own - fit_module._score(counts, heads, fold, recipe, (other,), 0)[other]).max() for other in COSTS}
        assert min(apart, key=lambda other: apart[other]) == cost
        assert apart[cost] < 0.05


def test_a_target_without_labels_in_the_searched_folds_has_no_say(small: TicketTable) -> None:
    counts, codes = TermCounts.of(small.texts, 12), np.full(len(small), -1)
    split = folds(small.labels["department"], np.arange(len(small)), 0)
    codes[split[3].held_out[:4]] = [0, 0, 1, 1]
    (head,) = (head for head in fit_module._heads(small, [""] * len(small)) if head.name == "kind")
    rare = replace(head, name="rare", labels=("a", "b"), codes=codes, first=head.columns.stop)
    chosen = [fit_module._search(counts, heads, split, Settings(), lambda *_: None) for heads in ([head], [head, rare])]
    assert chosen[0][:2] == chosen[1][:2]
    assert {setting["macro_f1"] for setting in fit_module._search(counts, [replace(rare, first=0)], split, Settings(), lambda *_: None)[2]} == {0.0}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, tuple[float, ...], int, int]]:
    """What is cross-validated: the recipe, the costs, how many tickets it learns from, and how many are held out."""
    seen = []
    real = fit_module._score

    def score(counts: Any, heads: Any, fold: Fold, recipe: Recipe, costs: tuple[float, ...], seed: int) -> Any:
        seen.append((recipe, costs, len(fold.train), len(fold.held_out)))
        assert np.intersect1d(fold.train, fold.held_out).size == 0
        return real(counts, heads, fold, recipe, costs, seed)

    monkeypatch.setattr(fit_module, "_score", score)
    return seen


def tickets_searched(scored: list[tuple[Recipe, tuple[float, ...], int, int]]) -> int:
    """How many tickets of the two folds the search judged settings by."""
    (tickets,) = {sum(n for own, costs, _, n in scored[: len(RECIPES) * SEARCHED] if (own, costs) == (recipe, (USUAL,))) for recipe in RECIPES}
    (by_cost,) = {sum(n for _, costs, _, n in scored if costs == COSTS)}
    assert by_cost == tickets
    assert len([None for _, costs, _, _ in scored if costs == COSTS]) == SEARCHED
    return tickets


def test_a_short_budget_searches_fewer_tickets_and_judges_all(
    small: TicketTable, plain: Trained, taxonomy: Taxonomy, scored: list[tuple[Recipe, tuple[float, ...], int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "LEAST_SEARCHED", 300)
    found = {}
    for budget in (1e-9, 0.45, 60.0):
        scored.clear()
        trained = fit(small, Settings(budget=budget), taxonomy)
        found[budget] = tickets_searched(scored)
        assert len(trained.chosen["tried"]) == len(RECIPES) + len(COSTS)
        judged = sum(n for *_, n in scored[len(RECIPES) * SEARCHED + SEARCHED :])  # by the chosen settings, after the search
        assert judged == len(small) - (found[budget] if budget == 60.0 else 0)  # its whole folds are not scored again
        assert trained.metrics["targets"]["kind"]["n"] == len(small)
        assert trained.metrics["targets"]["kind"]["accuracy"]["share"] > 0.7
        assert trained.router.answer(small.texts[:3]).scores.shape == (3, len(trained.router.bias))
    assert found[1e-9] == pytest.approx(300 * 2 / 5, rel=0.2)
    assert found[1e-9] < found[0.45] < found[60.0] == pytest.approx(len(small) * 2 / 5, rel=0.1)
    scored.clear()
    again = fit(small, Settings(budget=1e-9), taxonomy)
    assert tickets_searched(scored) == found[1e-9]
    assert again.chosen == fit(small, Settings(budget=1e-9), taxonomy).chosen
    assert fit(small, Settings(budget=1e9), taxonomy).chosen == plain.chosen


def test_few_tickets_are_all_searched_however_short_the_budget(
    small: TicketTable, plain: Trained, taxonomy: Taxonomy, scored: list[tuple[Recipe, tuple[float, ...], int, int]]
) -> None:
    trained = fit(small, Settings(budget=1e-9), taxonomy)
    assert tickets_searched(scored) == pytest.approx(len(small) * 2 / 5, rel=0.1)
    assert trained.chosen == plain.chosen


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_scores_of_held_out_tickets_do_not_hang_on_their_labels_or_on_each_other(small: TicketTable, recipe: Recipe) -> None:
    """Neither the classifiers nor the weights of the features have seen them."""
    spoken = small.languages
    heads = fit_module._heads(small, spoken)
    held_out = np.arange(0, len(small), 5)
    fold = Fold(np.setdiff1d(np.arange(len(small)), held_out), held_out)
    wrong = [replace(head, codes=head.codes.copy()) for head in heads]
    for head in wrong:
        head.codes[held_out] = (head.codes[held_out] + 1) % len(head.labels)
    other = small.texts.copy()
    for i in held_out[1:]:
        other[i] = f"{other[i]} and quite another end"

    def scores(texts: list[str], heads: Any) -> Any:
        return fit_module._score(TermCounts.of(texts, recipe.reach), heads, fold, recipe, (1.0,), 0)[1.0]

    right = scores(small.texts, heads)
    assert np.abs(right).max(axis=1).min() > 0
    assert np.array_equal(right, scores(small.texts, wrong))
    # The features stand in another order now, which the solver's sums follow.
    np.testing.assert_allclose(scores(other, heads)[0], right[0], atol=0.02)


def test_progress_is_told_from_beginning_to_end(small: TicketTable, taxonomy: Taxonomy) -> None:
    told: list[tuple[str, int, int]] = []
    fit(small, Settings(), taxonomy, lambda stage, done, of: told.append((stage, done, of)))
    assert told[0][0] == "reading the words"
    # Two of the five folds were scored in the search; the fourth task learns from all tickets.
    for stage, tasks in {"trying recipes": len(RECIPES) * SEARCHED, "trying costs": SEARCHED, "learning and cross-validating": 4}.items():
        assert [(done, of) for named, done, of in told if named == stage] == [(i, tasks) for i in range(tasks + 1)]
    assert told[-1] == ("done", 1, 1)
