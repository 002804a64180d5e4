"""`pointsman compare`, `promote` and `experiments`: champion against candidate, and what was tried."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.learning import open_encoder
from commands.terminal import check_same_task, pairs, refuse, setting_path, show_problems, show_table, showing_progress, with_table, writing

if TYPE_CHECKING:
    from training.flips import Flip

# What is imported inside the commands is slow to import and not needed by the others.


MAIN_FIGURES = ("accuracy.share", "macro_f1", "recall.share", "calibration_error", "coverage.share", "observed.share", "tickets")
MOST_LANGUAGES = 12  # shown on a terminal by `compare`; the page and the JSON have all


@click.command(epilog="Example: pointsman compare models models/2026-11-22T10-00-00Z-3f2a later.csv --html comparison.html")
@click.argument("champion", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True)
@with_table
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
            refuse(f"{champion} and {candidate} are the same bundle, {routers['champion'].version}; there is nothing to compare")
        read = {router.text_columns for router in routers.values()}
        if text is None and len(read) > 1:
            refuse(f"the two read other columns ({' and '.join(','.join(one) for one in sorted(read))}); name the table's with --text")
        columns = tuple(part.strip() for part in text.split(",")) if text else routers["champion"].text_columns
        table = read_table(files, text=columns, targets=pairs("--target", targets, alone=True) or None, database=database, for_training=False)
        show_problems(table.problems)
        for router in routers.values():
            check_same_task(router, table.labels)
        with showing_progress() as progress:
            compared = hold_against(homes, table, load_policy(setting_path("POINTSMAN_POLICY")), open_encoder, progress=progress)
        if not compared.figures["targets"]:
            refuse("the table has none of the targets that both answer; name its columns with --target")
        most = (0 if as_json and not html else 3) if shown is None else shown
        found = flips(table, compared.champion, compared.candidate, routers, most)
        for warning in compared.warnings:
            click.secho(f"WARNING: {warning}", err=True, bold=True)
        if html:
            with writing(html) as out:
                out.write(comparison_page.page(compared.figures, compared.verdict, compared.warnings, found).encode())
    except (TrainingError, ModelError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{html}: cannot be written: {error.strerror}")
    if as_json:
        told = {"kept": compared.path and str(compared.path), "verdict": compared.verdict, "figures": compared.figures, "warnings": compared.warnings}
        click.echo(json.dumps(told | ({"flips": found} if shown else {})))
    else:
        _show_comparison(compared.figures, compared.verdict, found)
        if compared.path:
            click.echo(f"kept in {compared.path}")
    if not compared.verdict["passed"]:
        raise SystemExit(1)


@click.command(epilog="Example: pointsman promote 2026-11-22T10-00-00Z-3f2a --by Ada")
@click.argument("version", required=False)
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--by", default="", metavar="NAME", help="Who promotes.")
@click.option("--because", default="", metavar="REASON", help="Why. With --by it overrules the gate, and both are kept.")
@click.option("--rollback", is_flag=True, help="Go back to the champion before; takes --by and --because.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def promote(version: str | None, models: Path, by: str, because: str, rollback: bool, as_json: bool) -> None:
    """Make a candidate, VERSION or the path of its bundle, the champion, if a comparison with the present one let it pass. Running
    services take it within seconds. Each promotion is kept in promotions.jsonl."""
    from model.errors import ModelError
    from training import promotion
    from training.errors import TrainingError

    if rollback == (version is not None):
        refuse("name the VERSION to promote, or --rollback, and not both")
    if version and "/" in version:  # the path of a bundle, as `compare` takes it
        path = Path(version.rstrip("/"))
        if path.parent.resolve() != models.resolve():
            refuse(f"{version} is not in {models}; name its folder with --models")
        version = path.name
    try:
        if rollback:
            done = promotion.roll_back(models, by=by, because=because)
        else:
            done = promotion.promote(models, version or "", by=by, because=because, overrule=bool(by and because))
    except promotion.Refused as error:
        click.echo(f"pointsman: {error}", err=True)
        raise SystemExit(1) from error
    except (TrainingError, ModelError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{models}: cannot be written: {error.strerror}")
    if done.note:
        click.echo(f"pointsman: {done.note}", err=True)
    if as_json:
        click.echo(json.dumps(done._asdict()))
    elif done.version == done.before:
        click.echo(f"{done.version} is the champion already")
    else:
        click.echo(f"{done.version} is the champion now, instead of {done.before or 'none'}" + (", overruled" if done.verdict == "overruled" else ""))


@click.group(epilog="Example: pointsman experiments list --models models")
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
@click.option("--all", "everything", is_flag=True, help="All figures, those of each label and language too.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON, all of them.")
def experiments_compare(one: str, other: str, models: Path, everything: bool, as_json: bool) -> None:
    """Show the settings and the figures in which two experiments differ."""
    from model.errors import ModelError
    from training.errors import TrainingError
    from training.experiments import differences

    try:
        found = differences(models, one, other)
    except (TrainingError, ModelError) as error:
        refuse(error)
    if as_json:
        click.echo(json.dumps(found))
        return
    for part, rows in found.items():
        if part == "figures" and not everything:
            rows = [row for row in rows if row[0].endswith(MAIN_FIGURES) and ".labels." not in row[0] and ".languages." not in row[0]]
        show_table(f"{part} that differ", ["", one, other], [[name, *map(str, values)] for name, *values in rows])


def _show_comparison(figures: dict[str, Any], verdict: dict[str, Any], flips: "list[Flip]") -> None:
    from training.comparison_page import rows

    cells = [_line("", "routed without a person", figures["coverage"])]
    for name, of in figures["targets"].items():
        named = rows(of) + ([(f"in {code}", own) for code, own in of["languages"].items()] if len(of["languages"]) <= MOST_LANGUAGES else [])
        for title, own in named:
            cells.append(_line(name, title, own))
    title = f"{figures['candidate']} against {figures['champion']}: {figures['tickets']} tickets"
    show_table(title, ["target", "figure", "tickets", "champion", "candidate", "difference", "95% interval", "lost", "won"], cells)
    for flip in flips:
        said = "; ".join(f"{who} {flip[who]['label']} for {', '.join(flip[who]['words']) or 'no words'}" for who in ("champion", "candidate"))
        click.echo(f"{flip['target']} is {flip['label']}, {flip['right']} right: {' '.join(flip['text'].split())[:160]}\n    {said}")
    for blind in verdict["blind"]:
        click.echo(f"not to be seen: {blind}")
    for check in verdict["checks"]:
        if check["outcome"] == "refused":
            click.echo(f"refused: {check['about']}: {check['seen']}")
    click.echo("the gate lets the candidate pass" if verdict["passed"] else "the gate REFUSES the candidate")


def _line(target: str, title: str, own: dict[str, Any]) -> list[str]:
    values = ["-" if own[key] is None else f"{own[key]:{form}}" for key, form in (("champion", ".3f"), ("candidate", ".3f"), ("difference", "+.3f"))]
    interval = " to ".join(f"{bound:+.3f}" for bound in own["interval"] or []) or "-"
    return [target, title, str(own["n"]), *values, interval, str(own.get("lost", "-")), str(own.get("won", "-"))]


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
            kept = f"{promise['coverage']['share']:.2f} covered"
            if promise["observed"]["share"] is not None:
                kept += f", {promise['observed']['share']:.3f} of it right; {promise['precision']} promised"
            rows.append([one["version"], state, str(one["tickets"]), name, str(of["accuracy"]["share"]), str(of["macro_f1"]), recalls or "-", kept])
    show_table("experiments", ["version", "", "tickets", "target", "accuracy", "macro-F1", "recall", "promise"], rows)
