"""The model card and the manifest's facts: what a bundle says of itself."""

from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from model import bundle
from training import experiments
from training.fit import Settings, Trained
from training.table import TicketTable

LIBRARIES = ("numpy", "scipy", "scikit-learn", "numba", "pandas", "langdetect", "ftfy")


def save(trained: Trained, table: TicketTable, settings: Settings, folder: Path, test: dict[str, Any] | None = None) -> Path:
    """Write the bundle of `trained` below `folder`, with its metrics and its card; `test`: figures on a test table.

    It becomes the champion where `folder` has none, and leaves its experiment beside the bundles. Returns the version folder.
    """
    metrics = {"cross_validation": trained.metrics, "test": test}
    facts = {
        "trained_on": {
            "tickets": len(table),
            "data_digest": experiments.data_digest(table),
            "settings_digest": experiments.digest(asdict(settings)),
        },
        "settings": asdict(settings) | trained.chosen,
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "metrics": {name: _headline(figures) for name, figures in trained.metrics["targets"].items()},
    }
    extra = {bundle.METRICS: bundle.canonical(metrics), bundle.CARD: card(trained, test).encode()}
    home = bundle.save(trained.router, folder, facts, extra)
    if not (folder / bundle.CHAMPION).exists():
        with suppress(bundle.AnotherChampion):  # two first trainings at once: the other one was quicker
            bundle.promote(folder, home.name, instead_of=None, event="first", by="train", reason="the first bundle of its folder")
    experiments.keep(folder, home.name, facts, metrics, table)
    return home


def card(trained: Trained, test: dict[str, Any] | None) -> str:
    """The model card, as Markdown: what the router is for, how it was made, how good it is and where it is not."""
    router = trained.router
    spoken = ", ".join(router.languages.labels) if router.languages else router.only_language or "not known"
    lines = [
        f"# Router {router.version}",
        "",
        "Reads a support ticket and answers: " + "; ".join(f"**{t.name}** ({', '.join(t.labels)})" for t in router.targets) + ".",
        "",
        f"Learned from {trained.metrics['tickets']} tickets. Languages learned: {spoken}. In any other language a person sees its answer first.",
        "It proposes; thresholds and policy decide what is routed without a person. It must not be used to judge customers or staff.",
        "",
        "Linear support vector machines over words, pairs of words (neighbours; where it helps, words near each other) and character n-grams; calibrated on held-out tickets.",
        f"Chosen by cross-validation: {_settings(trained.chosen['recipe'] | {'cost': trained.chosen['cost']})}. Tried, with their macro-F1: "
        + "; ".join(f"{_settings(tried)}" for tried in trained.chosen["tried"])
        + ".",
        "",
        "## By cross-validation (no ticket was judged by a router that saw it or its near-duplicates)",
        "",
        *_figures(trained.metrics["targets"]),
    ]
    if router.deep:
        deep = trained.metrics["deep"]
        lines += [
            f"## With the deep path ({router.deep.encoder}), asked for {_said(deep['asked'])} of the tickets",
            "",
            "Asked where the confidence is below "
            + ", ".join(f"{least:.3f} in {name}" for name, least in router.deep.ask.items())
            + ", few words are known, or the language was not learned.",
            "",
            *_figures(deep["cascade"]),
        ]
        if deep["foreign"]:
            alone = "; ".join(f"{name} {_said(figures['accuracy'])}" for name, figures in deep["foreign"].items())
            lines += [f"In languages that it was not shown the deep path alone gives: {alone}.", ""]
    if "random_split" in trained.metrics:
        apart = "; ".join(f"{name} {figures['share']}" for name, figures in trained.metrics["random_split"].items())
        lines += [
            f"{trained.metrics['near_duplicates']} tickets are near-duplicates of another one, and stand on one side of each split here. A "
            f"random split, which lets copies stand on both and flatters where they are many, says: {apart}.",
            "",
        ]
    if "language" in trained.metrics:
        lines += [f"Language told rightly: {_said(trained.metrics['language'])}.", ""]
    if test:
        lines += ["## On the test table", "", *_figures(test["targets"])]
    return "\n".join(lines) + "\n"


def _headline(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: figures[key] for key in ("n", "accuracy", "macro_f1", "majority", "calibration_error", "promise", "protected") if key in figures}


def _figures(targets: dict[str, Any]) -> list[str]:
    lines = []
    for name, figures in targets.items():
        if not figures["n"]:
            continue
        promise = figures["promise"]
        lines += [
            f"### {name}",
            "",
            f"Accuracy {_said(figures['accuracy'])}; always saying *{figures['majority']['label']}* would give "
            f"{figures['majority']['accuracy']}. Macro-F1 {figures['macro_f1']}. Calibration error {figures['calibration_error']}.",
            f"Promised precision {promise['precision']}: "
            + (
                f"threshold {promise['threshold']:.3f}, covering {_said(promise['coverage'])}; observed {_said(promise['observed'])}."
                if promise["threshold"] is not None
                else "no confidence keeps it on these tickets, so nothing is routed without a person."
            ),
        ]
        for label, protected in figures.get("protected", {}).items():
            lines.append(
                f"Recall of *{label}*: {_said(protected['recall'])}; with those held back as possible: {_said(protected['recall_with_possible'])}."
            )
        lines += ["", "| label | tickets | precision | recall | F1 |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(label)} | {f['support']} | {f['precision']} | {f['recall']} {f['recall_interval']} | {f['f1']} |"
            for label, f in figures["labels"].items()
        ]
        lines += ["", "| language | tickets | accuracy | majority |", "|---|---|---|---|"]
        lines += [f"| {_cell(code)} | {f['n']} | {f['share']} {f['interval']} | {f['majority']} |" for code, f in figures["languages"].items()]
        lines.append("")
    return lines


def _settings(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in chosen.items())


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _said(figure: dict[str, Any]) -> str:
    return f"{figure['share']} {figure['interval']} (n {figure['n']})"
