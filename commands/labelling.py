"""`pointsman audit`, `label` and `worksheet`: what is wrong with a history, and which labels to put right or to add."""

import json
from pathlib import Path

import click

from commands.terminal import PROBLEMS_SHOWN, check_same_task, pairs, refuse, show_table, showing_progress, with_table, writing

# What is imported inside the commands is slow to import and not needed by the others.


@click.command(epilog="Example: pointsman audit history.csv --out audit.html --worksheet suspects.csv")
@click.argument("files", nargs=-1, required=True)
@with_table
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
    wanted = pairs("--target", targets, alone=True) or None
    try:
        with showing_progress() as progress:
            progress("reading tickets", 0, 0)
            history = read_history(files, text=columns, targets=wanted, database=database, declared=declared, annotator=annotator)
            found = look(history, seed, progress)
        for name, content in ((page_file, [page(found).encode("utf-8", "replace")]), (sheet, worksheet.write(questions(history, found.suspects)))):
            if name:
                with writing(name) as out:
                    out.writelines(content)
    except TrainingError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{page_file or sheet}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(json.dumps(found.as_json()))
    elif "-" not in (page_file, sheet):
        rows = [[one.level, one.title, how_many(one), one.to_do] for one in found.findings]
        show_table(f"{found.tickets} tickets in {found.rows} rows", ["", "finding", "how many", "what to do"], rows)
        click.echo(f"The report: {page_file}" if page_file else "With --out audit.html: the tickets and the words, in a report.", err=True)


@click.command(epilog="Example: pointsman label --model models unlabelled.jsonl --count 100 --out worksheet.csv")
@click.argument("files", nargs=-1, required=True, metavar="UNLABELLED...")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@with_table
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
        named = pairs("--target", targets, alone=True)
        of_router = [target.name for target in router.targets]
        if unknown := sorted(set(named) - set(of_router)):
            refuse(f"the router has no target {unknown[0]!r}; it has {', '.join(of_router)}")
        wanted = named or {name: name for name in of_router}
        with showing_progress() as progress:
            stream = acquire.read(files, columns, wanted, database=database, seed=seed, progress=progress)
            check_same_task(router, stream.labels)
            if not stream.candidates:
                refuse(f"no unlabelled ticket with text in {', '.join(columns)}: {stream.passed_over} rows have none, or have their labels")
            questions = acquire.next_to_label(router, stream.candidates, count, seed, progress)
        with writing(sheet) as out:
            out.writelines(worksheet.write(questions))
    except (TrainingError, ModelError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{sheet}: cannot be written: {error.strerror}")
    chosen = len({(question.source, question.row) for question in questions})
    click.echo(f"{chosen} of {stream.unlabelled} unlabelled tickets; {stream.passed_over} rows passed over (no text, or labelled)", err=True)


@click.group(epilog="Example: pointsman worksheet merge history.csv worksheet.csv --out corrected.csv")
def worksheet() -> None:
    """Worksheets that people filled in: the way back into the table of tickets."""


@worksheet.command("merge", epilog="Example: pointsman worksheet merge history.csv worksheet.csv --out corrected.csv")
@click.argument("history")
@click.argument("filled", metavar="WORKSHEET")
@click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text: one, or subject and body. [default: subject,body]")
@click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="A target, and its column. [default: named alike]")
@click.option("--out", "output", required=True, metavar="FILE", help="The corrected table, of the same kind; it may be HISTORY itself.")
@click.option("--new-labels", is_flag=True, help="Take labels that HISTORY does not have, which are left as slips otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def worksheet_merge(history: str, filled: str, text: str | None, targets: tuple[str, ...], output: str, new_labels: bool, as_json: bool) -> None:
    """Write HISTORY with the labels of the column `corrected` of WORKSHEET. Nothing else in it changes. Rows that do not fit
    (an unknown id, another text, a label that changed since, one that no ticket has) are named and left, with exit status 1."""
    from training import relabel
    from training.errors import TrainingError
    from training.worksheet import merge

    columns = tuple(part.strip() for part in text.split(",")) if text else None
    try:
        if output != "-" and relabel.form(output) != relabel.form(history):
            refuse(f"--out {output}: expected a {relabel.form(history)} file, as {history} is")
        merging = merge(history, filled, text=columns, targets=pairs("--target", targets, alone=True), allow_new=new_labels)
        with writing(output) as out:
            relabel.rewrite(history, merging.changes, out, packed=output.lower().endswith(".gz"))
    except TrainingError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{output}: cannot be written: {error.strerror}")
    for line, why in merging.left[:PROBLEMS_SHOWN]:
        click.echo(f"{filled}, row {line}: {why}; left as it was", err=True)
    if len(merging.left) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(merging.left) - PROBLEMS_SHOWN} further rows", err=True)
    for label_, times in merging.new_labels.items():
        click.echo(f"{label_!r} is a label that the table did not have ({times})", err=True)
    if as_json:
        click.echo(json.dumps({"changed": merging.changed, "already": merging.already, "new_labels": merging.new_labels, "left": merging.left}))
    else:
        click.echo(f"{merging.changed} labels changed, {merging.already} were so already, {len(merging.left)} left", err=True)
    if merging.left:
        raise SystemExit(1)


def _check_unwritten(sheet: str | None) -> None:
    """A worksheet may hold hours of somebody's work; it is not written over."""
    if sheet and Path(sheet).is_file():
        refuse(f"{sheet} is there already, and may hold corrections; merge them and remove it, or name another file")
