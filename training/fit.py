"""History in, router out: features, classifiers, calibration, thresholds, and an honest figure for each.

Every ticket is scored once by classifiers that saw neither it nor its near-duplicates (cross-validation); calibration,
thresholds and figures stand on those scores. The router that serves is then learned from all tickets.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from model.deep import Deep, KernelMachine
from model.router import Router, Target
from model.scoring import Rows
from model.taxonomy import Taxonomy
from training import calibrate, duplicates, languages, solver
from training import deep as deep_path
from training.deep import Embedded
from training.errors import TrainingError
from training.evaluate import Progress, judge, share
from training.features import LEAST_DOCUMENTS, Features, Recipe, TermCounts
from training.split import Fold, folds
from training.table import TicketTable

# What the search over settings tries, by mean macro-F1 on `SEARCHED` folds. Much noisy text wants words that are near each
# other and features that tell the labels apart; few tickets, or short ones, do without. See benchmarks/README.md.
RECIPES = (Recipe(reach=1, power=0.2, doubt=20), Recipe(reach=12, power=0.2, doubt=20), Recipe(reach=12, power=0.3, doubt=80))
COSTS = (0.25, 0.5, 1.0, 2.0)  # of a margin missed
USUAL = 0.5  # the cost with which recipes are compared
SEARCHED = 2  # folds, which the search over settings is held to
ALIKE = 0.001  # of macro-F1; of what differs by no more the folds cannot tell the better, so the simpler recipe is taken, and the lower cost
COMPARED = 15_000  # tickets of a fold are enough to learn from where recipes are compared
BALANCE = 0.3  # how much more the rare labels count; chosen by cross-validation, see benchmarks/README.md
PROMISE = 0.95  # precision of the answers that are acted on without a person, unless another one is asked for
RECALL = 0.97  # of a protected label, for the threshold of "possible"
LEAST_SEARCHED = 2_000  # tickets, however short the budget
LEAST_IN_LANGUAGE = 5  # tickets; a rarer language is not learned
_Scores = dict[float, NDArray[np.float32]]  # by cost: (tickets, columns)
_ENTRIES_A_SECOND = 9e6  # of the document matrix, one fold and one cost, on one slow core; for the budget


@dataclass(frozen=True)
class Settings:
    """What an analyst chooses: promises (precision per target), priors (label shares at the door), the language of rows
    that name none, seconds that the search over settings may take, the seed, and how many seconds of the deep path a right label is
    worth."""

    promises: dict[str, float] = field(default_factory=dict)
    priors: dict[str, dict[str, float]] = field(default_factory=dict)
    language: str | None = None
    budget: float = 60.0
    seed: int = 0
    error_seconds: float = 60.0


@dataclass(frozen=True)
class Trained:
    """A router, its figures (`training.evaluate.judge` per target, by cross-validation) and what was chosen on the way."""

    router: Router
    metrics: dict[str, Any]
    chosen: dict[str, Any]


@dataclass(frozen=True)
class _Head:
    """A target while it is learned: its labels, each ticket's right one (-1: none), its first column."""

    name: str
    labels: tuple[str, ...]
    codes: NDArray[np.int64]
    first: int
    is_language: bool = False

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + len(self.labels))


def fit(
    table: TicketTable,
    settings: Settings,
    taxonomy: Taxonomy,
    progress: Progress = lambda stage, done, of: None,
    *,
    embedded: Embedded | Callable[[], Embedded | None] | None = None,
) -> Trained:
    """Learn a router from `table`, with a deep path where its tickets are `embedded`, or come to be when it is called, which is after
    everything was checked. The same table, settings and seed give the same router but for its version.

    Raises TrainingError where a promise or prior names a target or label that the table does not have, or the tickets are
    too few to be split.
    """
    progress("reading the words", 0, 1)
    counts = TermCounts.of(table.texts, max(recipe.reach for recipe in RECIPES))
    known = [code or settings.language or "" for code in table.languages]
    spoken = languages.fill(table.texts, known, counts, settings.seed)
    heads = _heads(table, spoken)
    targets = [head for head in heads if not head.is_language]
    _check_names(settings, targets)
    group = duplicates.groups(counts.words, counts.word_hashes)
    strata = ["\x1f".join(parts) for parts in zip(*(table.labels[head.name] for head in targets), spoken, strict=True)]
    try:
        split = folds(strata, group, settings.seed)
    except ValueError as error:
        raise TrainingError(f"{len(table)} tickets, but {error}") from error
    seen = embedded() if callable(embedded) else embedded
    recipe, cost, tried, judged = _search(counts, heads, split, settings, progress)
    near_duplicates = int(len(group) - len(np.unique(group)))
    left = [fold for fold in split if not np.isfinite(judged[fold.held_out]).all()]
    # How well it would seem to do if near-duplicates were not kept together.
    apart = folds(strata, np.arange(len(table)), settings.seed)[:SEARCHED] if near_duplicates else []
    work = [delayed(_learn)(counts, heads, recipe, cost, settings.seed)]
    work += [delayed(_score)(counts, heads, fold, recipe, (cost,), settings.seed) for fold in left]
    work += [delayed(_score)(counts, targets, fold, recipe, (cost,), settings.seed) for fold in apart]
    (rows, bias), *scored = _in_parallel(work, "learning and cross-validating", progress)
    scores = _together(left, [own[cost] for own in scored[: len(left)]], judged)
    progress("calibrating", 0, 1)
    calibrated = [_calibrate(head, scores, split, settings, taxonomy) for head in heads]
    spoken_head = calibrated[-1] if heads[-1].is_language else None
    metrics: dict[str, Any] = {"tickets": len(table), "near_duplicates": near_duplicates}
    metrics["targets"] = {
        head.name: judge(target, probabilities, head.codes, spoken) for head, (target, probabilities) in zip(targets, calibrated, strict=False)
    }
    if spoken_head:
        guess = spoken_head[1].argmax(axis=1)
        metrics["language"] = share((guess == heads[-1].codes)[heads[-1].codes >= 0])
    if apart:
        random = _together(apart, [own[cost] for own in scored[len(left) :]], np.full_like(scores, np.nan))
        which = np.concatenate([fold.held_out for fold in apart])
        metrics["random_split"] = {
            head.name: share((random[:, head.columns].argmax(axis=1) == head.codes)[which][head.codes[which] >= 0]) for head in targets
        }
    deep = None
    if seen:
        progress("learning the deep path", 0, 1)
        deep, metrics["deep"] = _learn_deep(seen, targets, scores, [p for _, p in calibrated[: len(targets)]], split, spoken, settings, taxonomy)
    router = Router(
        rows=rows,
        bias=bias,
        targets=tuple(target for target, _ in calibrated[: len(targets)]),
        languages=spoken_head[0] if spoken_head else None,
        only_language=None if spoken_head else Counter(spoken).most_common(1)[0][0] or None,
        least_known=_least_known(counts, split),
        text_columns=table.text_columns,
        version=f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(2)}",
        deep=deep,
    )
    progress("done", 1, 1)
    return Trained(router, metrics, {"recipe": asdict(recipe), "cost": cost, "balance": BALANCE, "tried": tried})


def _heads(table: TicketTable, spoken: list[str]) -> list[_Head]:
    """The targets with two labels or more, then the language head where there are two languages to tell apart."""
    heads: list[_Head] = []
    first = 0
    for name in table.labels:
        labels = tuple(table.label_names(name))
        if len(labels) >= 2:
            heads.append(_Head(name, labels, table.codes(name, labels), first))
            first += len(labels)
    learned = tuple(sorted(code for code, n in Counter(spoken).items() if code and n >= LEAST_IN_LANGUAGE))
    if len(learned) >= 2:
        codes = np.array([learned.index(code) if code in learned else -1 for code in spoken])
        heads.append(_Head("language", learned, codes, first, is_language=True))
    return heads


def _check_names(settings: Settings, targets: list[_Head]) -> None:
    labels = {head.name: head.labels for head in targets}
    for name in [*settings.promises, *settings.priors]:
        if name not in labels:
            raise TrainingError(f"no target {name!r} with two labels in the table; there is {', '.join(labels)}")
    for name, prior in settings.priors.items():
        unknown = sorted(set(prior) - set(labels[name]))
        total = sum(prior.values())
        if unknown:
            raise TrainingError(f"--prior: {name} has no label {unknown[0]!r}; it has {', '.join(labels[name])}")
        if total > 1 or (set(prior) == set(labels[name]) and abs(total - 1) > 1e-6):
            raise TrainingError(f"--prior: the shares of {name} add up to {total:g}; expected 1, or less where labels are left out")


def _labels(heads: list[_Head], which: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The right labels of the targets: what features are weighed by. Not the languages: nearly every word tells them apart."""
    return [head.codes[which] for head in heads if not head.is_language]


def _search(
    counts: TermCounts, heads: list[_Head], split: list[Fold], settings: Settings, progress: Progress
) -> tuple[Recipe, float, list[dict[str, Any]], NDArray[np.float32]]:
    """The first recipe and the first cost that are as good as the best on the first folds, to `ALIKE`; the figures of all that were tried, and
    the scores of those folds' held-out tickets (tickets, columns) by the chosen ones, NaN for other tickets, and where not all were used.

    A table too large for the budget is searched on as many tickets as it allows. That depends on the table's size, not on the
    clock, so that the same input gives the same router.
    """
    entries = (counts.words.nnz * counts.cuts.nnz / max(1, counts.cuts.shape[0]) + counts.pairs.nnz) * SEARCHED
    tickets = counts.words.shape[0]
    whole = len(RECIPES) * min(1.0, COMPARED / max(1, len(split[0].train))) + len(COSTS)  # fits of a fold, in fits from all of its tickets
    affordable = settings.budget * _ENTRIES_A_SECOND / max(1.0, entries * whole)
    most = max(LEAST_SEARCHED, int(tickets * affordable))
    kept = np.zeros(tickets, bool)
    random = np.random.default_rng(settings.seed)
    kept[random.permutation(tickets)[:most]] = True
    searched = [Fold(fold.train[kept[fold.train]], fold.held_out[kept[fold.held_out]]) for fold in split[:SEARCHED]]
    compared = [Fold(np.sort(random.permutation(fold.train)[:COMPARED]), fold.held_out) for fold in searched]
    which = np.concatenate([fold.held_out for fold in searched])
    judges = [head for head in heads if not head.is_language and (head.codes[which] >= 0).any()]
    unknown = np.full((tickets, heads[-1].columns.stop), np.nan, np.float32)
    tried: list[dict[str, Any]] = []

    def judge_settings(recipe: Recipe, cost: float, learned: list[Fold], scored: list[_Scores]) -> tuple[float, NDArray[np.float32]]:
        scores = _together(searched, [own[cost] for own in scored], unknown)
        figure = float(np.mean([_macro_f1(head, scores, which) for head in judges])) if judges else 0.0
        tried.append(asdict(recipe) | {"cost": cost, "tickets": len(learned[0].train), "macro_f1": round(figure, 4)})
        return figure, scores

    # All recipes on all folds are one run of the parallel work: a cluster has a use for more workers than there are folds.
    work = [delayed(_score)(counts, heads, fold, recipe, (USUAL,), settings.seed) for recipe in RECIPES for fold in compared]
    scored = _in_parallel(work, "trying recipes", progress)
    by_recipe = [judge_settings(recipe, USUAL, compared, scored[i * SEARCHED : (i + 1) * SEARCHED])[0] for i, recipe in enumerate(RECIPES)]
    recipe = next(recipe for recipe, figure in zip(RECIPES, by_recipe, strict=True) if figure >= max(by_recipe) - ALIKE)
    scored = _in_parallel([delayed(_score)(counts, heads, fold, recipe, COSTS, settings.seed) for fold in searched], "trying costs", progress)
    by_cost = {cost: judge_settings(recipe, cost, searched, scored) for cost in COSTS}
    cost = next(cost for cost in COSTS if by_cost[cost][0] >= max(figure for figure, _ in by_cost.values()) - ALIKE)
    return recipe, cost, tried, by_cost[cost][1] if kept.all() else unknown


def _in_parallel(work: list[Any], stage: str, progress: Progress) -> list[Any]:
    """What the tasks of `work` give, in their order; they are done in parallel, where `training.backend` says."""
    done = []
    progress(stage, 0, len(work))
    for result in Parallel(n_jobs=-1, prefer="threads", return_as="generator")(work):
        done.append(result)
        progress(stage, len(done), len(work))
    return done


def _together(split: list[Fold], scored: list[NDArray[np.float32]], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of all tickets (tickets, columns): of those held out by a fold what was `scored` for it, of the rest those of `others`."""
    out = others.copy()
    for fold, own in zip(split, scored, strict=True):
        out[fold.held_out, : own.shape[1]] = own
    return out


def _score(counts: TermCounts, heads: list[_Head], fold: Fold, recipe: Recipe, costs: tuple[float, ...], seed: int) -> _Scores:
    """The scores of the tickets that the fold holds out, (tickets, columns), for each cost: by classifiers that did not see them."""
    features = Features(counts, recipe)
    matrix = features.fit_transform(fold.train, _labels(heads, fold.train))
    unseen = features.transform(fold.held_out)
    learned = _solve(matrix, heads, fold.train, costs, seed)
    return {cost: unseen @ weights + bias for cost, (weights, bias) in zip(costs, learned, strict=True)}


def _learn(counts: TermCounts, heads: list[_Head], recipe: Recipe, cost: float, seed: int) -> tuple[Rows, NDArray[np.float32]]:
    """What serves: the rows and the bias that all tickets teach."""
    everything = np.arange(counts.words.shape[0])
    features = Features(counts, recipe)
    ((weights, bias),) = _solve(features.fit_transform(everything, _labels(heads, everything)), heads, everything, (cost,), seed)
    return features.rows(weights), bias


def _solve(
    matrix: Any, heads: list[_Head], which: NDArray[np.int64], costs: tuple[float, ...], seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The classifiers of all heads at once, from the tickets numbered `which`, for each cost."""
    codes, labels = [head.codes[which] for head in heads], [len(head.labels) for head in heads]
    return solver.path(matrix, *solver.one_against_rest(codes, labels, 1.0, BALANCE), costs, seed)


def _macro_f1(head: _Head, scores: NDArray[np.float32], which: NDArray[np.int64]) -> float:
    has = which[head.codes[which] >= 0]
    return float(f1_score(head.codes[has], scores[has, head.columns].argmax(axis=1), average="macro", zero_division=0.0))


def _calibrate(
    head: _Head, scores: NDArray[np.float32], split: list[Fold], settings: Settings, taxonomy: Taxonomy
) -> tuple[Target, NDArray[np.float64]]:
    """The finished target, and every ticket's probabilities as a router would give them that had not seen it.

    The probabilities of a fold are calibrated on the other folds; the target that serves, on all of them.
    """
    own = scores[:, head.columns]
    promise = settings.promises.get(head.name, PROMISE)
    sharpness, offsets = calibrate.fit(own, head.codes)
    target = Target(head.name, head.labels, head.first, sharpness, tuple(offsets.tolist()), promise, None)
    probabilities = np.zeros(own.shape)
    for fold in split:
        a, b = calibrate.fit(own[fold.train], head.codes[fold.train], (sharpness, offsets))
        alone = replace(target, first=0, sharpness=a, offsets=tuple(b.tolist()))
        probabilities[fold.held_out] = alone.probabilities(own[fold.held_out])
    has = head.codes >= 0
    p, codes = probabilities[has], head.codes[has]
    weights = None
    if prior := settings.priors.get(head.name):
        # The thresholds must hold at the door, so they are set on the probabilities and the mix that will be met there.
        moved = calibrate.shift(head.codes, head.labels, prior)
        offsets = offsets + moved
        weights = np.exp(moved)[codes]
        p = p * np.exp(moved)
        p /= p.sum(axis=1, keepdims=True)
    threshold = calibrate.promise_threshold(p.max(axis=1), p.argmax(axis=1) == codes, promise, weights)
    protect = {
        label: calibrate.protect_threshold(p[codes == k, k], RECALL) for k, label in enumerate(head.labels) if label in taxonomy.protected(head.name)
    }
    return replace(target, offsets=tuple(offsets.tolist()), threshold=threshold, protect=protect), probabilities


def _learn_deep(
    embedded: Embedded, targets: list[_Head], fast_scores: NDArray[np.float32], fast: list[NDArray[np.float64]], split: list[Fold],
    spoken: list[str], settings: Settings, taxonomy: Taxonomy,
) -> tuple[Deep, dict[str, Any]]:  # fmt: skip
    """The deep path, and its figures by cross-validation: of itself, of the two paths as they work together, and of it alone in languages
    that it was not shown."""
    rows = embedded.rows
    wanted = np.concatenate([head.codes[:, None] == np.arange(len(head.labels)) for head in targets], axis=1).astype(np.float32)

    # What a label means speaks of its own target only: for the others it has the usual mix of labels.
    meanings = np.concatenate([embedded.meanings[head.name] for head in targets])
    meant = np.repeat(wanted.mean(axis=0, keepdims=True), len(meanings), axis=0)
    for head in targets:
        meant[head.columns, head.columns] = np.eye(len(head.labels))

    def learn(which: NDArray[np.int64]) -> KernelMachine:
        return deep_path.fit(np.concatenate([rows[which], meanings]), np.concatenate([wanted[which], meant]), settings.seed)

    def held_out(folds_: list[Fold]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = np.zeros(wanted.shape, np.float32), np.zeros(len(rows), np.float32)
        for fold in folds_:
            machine = learn(fold.train)
            for out, own in zip(found, machine.scores(rows[fold.held_out]), strict=True):
                out[fold.held_out] = own
        return found

    scores, nearest = held_out(split)
    languages_apart = deep_path.languages_apart(spoken, settings.seed)
    foreign = held_out(languages_apart)[0] if languages_apart else scores
    shares = np.zeros(wanted.shape[1], np.float32)
    for head in targets:
        shares[head.columns] = calibrate.mix(fast_scores[:, head.columns], scores[:, head.columns], head.codes)
    both = fast_scores[:, : wanted.shape[1]] + scores * shares
    mixed = [_calibrate(head, both, split, settings, taxonomy) for head in targets]
    alone = [_calibrate(head, foreign, split, settings, taxonomy) for head in targets]
    ask = {
        head.name: deep_path.ask_below(quick, slow, head.codes, settings.error_seconds)
        for head, quick, (_, slow) in zip(targets, fast, mixed, strict=True)
    }
    deep = Deep(
        encoder=embedded.encoder,
        probe=embedded.probe,
        machine=learn(np.arange(len(rows))),
        shares=shares,
        mixed=tuple(target for target, _ in mixed),
        alone=tuple(target for target, _ in alone),
        scope=float(np.quantile(nearest, deep_path.STRANGE)),
        ask=ask,
    )
    asked = np.any([quick.max(axis=1) < ask[head.name] for head, quick in zip(targets, fast, strict=True)], axis=0)
    figures: dict[str, Any] = {"asked": share(asked), "ask_below": ask, "targets": {}, "cascade": {}, "foreign": {}}
    for head, quick, (target, slow), (away, far) in zip(targets, fast, mixed, alone, strict=True):
        figures["targets"][head.name] = judge(target, slow, head.codes, spoken)
        figures["cascade"][head.name] = judge(target, np.where(asked[:, None], slow, quick), head.codes, spoken)
        if languages_apart:
            figures["foreign"][head.name] = judge(away, far, head.codes, spoken)
    return deep, figures


def _least_known(counts: TermCounts, split: list[Fold]) -> float:
    """The share of known words that only one held-out ticket in a hundred is under."""
    words = counts.words
    shares = []
    for fold in split:
        seen = np.bincount(words[fold.train].indices, minlength=words.shape[1]) >= LEAST_DOCUMENTS
        own = words[fold.held_out]
        total = own @ np.ones(own.shape[1], np.float32)
        shares.append((own @ seen.astype(np.float32)) / np.maximum(total, 1))
    return float(np.quantile(np.concatenate(shares), 0.01))
