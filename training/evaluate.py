"""How good: per target, language and label, with the majority baseline beside every score and an interval around it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from model.router import Router, Target
from training.table import TicketTable

_BINS = 15
_STEPS = 20  # of coverage
_BATCH = 4096
BATCH_DEEP = 256  # tickets between two looks at the progress, where the deep path is asked

Progress = Callable[[str, int, int], None]


def interval(right: int, of: int, confidence: float = 0.95) -> list[float]:
    """The interval of a share (Wilson, 1927): [low, high], [0, 1] where there is nothing to go by."""
    if not of:
        return [0.0, 1.0]
    z = float(norm.ppf(0.5 + confidence / 2))
    share = right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return [round(max(0.0, float(middle - half)), 4), round(min(1.0, float(middle + half)), 4)]


def calibration_error(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over `_BINS` bins of as many tickets each
    (Nixon et al., "Measuring calibration in deep learning", 2019: adaptive bins)."""
    if not len(confidence):
        return 0.0
    order = np.argsort(confidence, kind="stable")
    return float(sum(abs(right[bin_].sum() - confidence[bin_].sum()) for bin_ in np.array_split(order, _BINS)) / len(order))


def reliability(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> list[list[float]]:
    """What was said and what came: [mean confidence, share of right answers, tickets] of each bin of `calibration_error`."""
    order = np.argsort(confidence, kind="stable")
    bins = [bin_ for bin_ in np.array_split(order, _BINS) if len(bin_)]
    return [[round(float(confidence[bin_].mean()), 4), round(float(right[bin_].mean()), 4), len(bin_)] for bin_ in bins]


def risk(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> list[list[float]]:
    """What each threshold would give: [coverage, share of wrong answers among the covered, threshold], at `_STEPS` steps of coverage."""
    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = confidence[order], np.cumsum(~right[order])
    last = sorted({max(1, round(len(order) * step / _STEPS)) - 1 for step in range(1, _STEPS + 1)}) if len(order) else []
    return [[round((at + 1) / len(order), 4), round(float(wrong[at]) / (at + 1), 4), round(float(ranked[at]), 4)] for at in last]


def judge(
    target: Target, probabilities: NDArray[np.floating[Any]], codes: NDArray[np.int64], languages: list[str], by: list[Target] | None = None
) -> dict[str, Any]:
    """The figures of one target. `by`: the target as it was calibrated for each ticket, where two paths answered.

    `probabilities` (tickets, labels), made without having seen the tickets; `codes` (tickets,) the right labels, -1 where
    there is none, and the number of labels where it is one that the router does not know: the answer is wrong then.
    """
    which = np.flatnonzero(codes >= 0)
    n = len(which)
    if not n:
        return {"n": 0}
    right_codes, p = codes[which], probabilities[which]
    guess = p.argmax(axis=1)
    confidence = p[np.arange(n), guess]
    right = guess == right_codes
    labels = np.arange(len(target.labels))
    precision, recall, f1, support = precision_recall_fscore_support(right_codes, guess, labels=labels, zero_division=0.0)
    present = support > 0
    biggest = int(support.argmax())
    own = [by[i] for i in which] if by else [target] * n
    covered = confidence >= np.array([2.0 if t.threshold is None else t.threshold for t in own])
    figures: dict[str, Any] = {
        "n": n,
        "accuracy": share(right),
        "macro_f1": round(float(f1[present].mean()), 4),
        "majority": {"label": target.labels[biggest], "accuracy": round(int(support[biggest]) / n, 4)},
        "calibration_error": round(calibration_error(confidence, right), 4),
        "log_loss": round(float(-np.log(np.maximum(_given(p, right_codes), 1e-12)).mean()), 4),
        "promise": {
            "precision": target.promise,
            "threshold": target.threshold,
            "coverage": share(covered),
            "observed": share(right[covered]),
        },
        "labels": {
            name: {
                "support": int(support[k]),
                "precision": round(float(precision[k]), 4),
                "recall": round(float(recall[k]), 4),
                "recall_interval": interval(int(((guess == k) & (right_codes == k)).sum()), int(support[k])),
                "f1": round(float(f1[k]), 4),
            }
            for k, name in enumerate(target.labels)
        },
        "confusion": confusion_matrix(right_codes, guess, labels=labels).tolist(),
        "reliability": reliability(confidence, right),
        "risk": risk(confidence, right),
    }
    if target.protect:
        figures["protected"] = {
            label: _protected(
                p[:, target.labels.index(label)], guess, right_codes, target.labels.index(label), np.array([t.protect[label] for t in own])
            )
            for label in target.protect
        }
    figures["languages"] = {
        code or "?": _language(right[own], right_codes[own])
        for code in sorted({languages[i] for i in which})
        for own in [np.array([languages[i] == code for i in which])]
    }
    return figures


def evaluate(
    router: Router,
    table: TicketTable,
    encode: Callable[[list[str]], NDArray[np.float32]] | None = None,
    progress: Progress = lambda stage, done, of: None,
) -> dict[str, Any]:
    """The figures of `router` on a table it never saw: ``{"tickets", "asked", "targets": {name: figures}, "language": figures}``. With
    `encode`, texts in and embeddings out, the deep path is asked for the tickets that the fast one doubts, `asked` of them."""
    probabilities: dict[str, list[NDArray[np.floating[Any]]]] = {target.name: [] for target in router.targets}
    by: dict[str, list[Target]] = {target.name: [] for target in router.targets}
    guessed: list[str] = []
    asked = np.zeros(len(table), bool)
    size = BATCH_DEEP if encode else _BATCH
    for start in range(0, len(table), size):
        texts = table.texts[start : start + size]
        answers = router.answer(texts)
        guessed += [code for code, _ in answers.languages]
        own, p = list(answers.targets), answers.probabilities
        if encode and any(answers.doubtful):
            doubtful = np.flatnonzero(answers.doubtful)
            asked[start + doubtful] = True
            deep = router.answer([texts[i] for i in doubtful], embeddings=encode([texts[i] for i in doubtful]))
            for place, i in enumerate(doubtful):
                own[i] = deep.targets[place]
            for name in p:
                p[name][doubtful] = deep.probabilities[name]
        for place, target in enumerate(router.targets):
            probabilities[target.name].append(p[target.name])
            by[target.name] += [targets[place] for targets in own]
        progress("judging", start + len(texts), len(table))
    figures: dict[str, Any] = {"tickets": len(table), "asked": share(asked), "targets": {}}
    for target in router.targets:
        if target.name in table.labels:
            codes = table.codes(target.name, target.labels)
            named = np.array([label != "" for label in table.labels[target.name]])
            codes[named & (codes < 0)] = len(target.labels)
            judged = judge(target, np.concatenate(probabilities[target.name]), codes, table.languages, by[target.name])
            strange = sorted(set(table.labels[target.name]) - {""} - set(target.labels))
            figures["targets"][target.name] = judged | {"unknown_labels": strange}
    said = [(told, guess) for told, guess in zip(table.languages, guessed, strict=True) if told]
    if said:
        figures["language"] = share(np.array([told == guess for told, guess in said]))
    return figures


def share(right: NDArray[np.bool_]) -> dict[str, Any]:
    """The share of right answers, its interval and how many there are: ``{"share", "interval", "n"}``."""
    hits, n = int(right.sum()), len(right)
    return {"share": round(hits / n, 4) if n else None, "interval": interval(hits, n), "n": n}


def _given(probabilities: NDArray[np.floating[Any]], codes: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    """The probability that each right label was given, 0 for one that the router does not know."""
    padded = np.column_stack([probabilities, np.zeros(len(probabilities))])
    return np.asarray(padded[np.arange(len(codes)), codes])


def _protected(
    probability: NDArray[np.floating[Any]], guess: NDArray[np.int64], codes: NDArray[np.int64], label: int, limits: NDArray[np.float64]
) -> dict[str, Any]:
    """Recall of a protected label: decided, and decided or held back from being routed as something else."""
    real = codes == label
    return {
        "recall": share((guess == label)[real]),
        "recall_with_possible": share(((guess == label) | (probability >= limits))[real]),
        "threshold": round(float(limits[0]), 4),
    }


def _language(right: NDArray[np.bool_], codes: NDArray[np.int64]) -> dict[str, Any]:
    return share(right) | {"majority": round(int(np.bincount(codes).max()) / len(codes), 4)}
