"""A run as a reader sees it: tables on the screen, and a picture with a row for each data set and one for the service."""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import ALONE, CLASSIFYING_THREADS, TRAINING_THREADS
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from training.duplicates import SIMILAR

OURS, THEIRS = "#c2410c", "#94a3b8"
MARKERS = (("o", "●"), ("D", "◆"))  # of the targets of a data set, and how a title shows them
COLUMNS = 4


def tables(found: dict[str, Any], console: Console) -> None:
    """Print what `found` (bench.json) holds."""
    if "data" in found:
        _quality(found["data"]["results"], console)
        _cost(found["data"]["results"], console)
    if "service" in found:
        _service(found["service"]["results"], console)


def _quality(results: list[dict[str, Any]], console: Console) -> None:
    heads = ("", "accuracy [95%]", "near-dup. out", "macro-F1", "Pointsman's lead [95%]", "McNemar p")
    for data in results:
        seen = f"{data['judged_near_duplicates_of_learned']:.1%} of the judged nearly repeat a learned one"
        for target, figures in data["targets"].items():
            table = _table(f"{data['name']}, {target}: {data['learned']:,} tickets learned, {data['judged']:,} judged; {seen}", heads)
            for name, f in figures.items():
                lead = f.get("lead")
                told = (f"{lead['accuracy']:+.4f} {_between(lead['interval'], '+.3f')}", f"{lead['mcnemar_p']:.2g}") if lead else ("", "")
                accuracy = f"{f['accuracy']:.4f} {_between(f['interval'], '.3f')}"
                table.add_row(name, accuracy, f"{f['accuracy_without_near_duplicates']:.4f}", f"{f['macro_f1']:.4f}", *told)
            console.print(table)
    legend = "Intervals: Wilson's for accuracy; for the lead, the bootstrap over the same tickets. Near-dup. out: without the judged tickets that"
    console.print(f"{legend} share {SIMILAR:.0%} of their words with a learned one.\n")


def _cost(results: list[dict[str, Any]], console: Console) -> None:
    heads = ("", "training s (runs)", "peak MB", "µs a ticket, batch", "µs a ticket, alone")
    table = _table(f"Cost: {TRAINING_THREADS} cores to train, {CLASSIFYING_THREADS} to classify; peak memory while training", heads)
    for data in results:
        table.add_row(f"[bold]{data['name']}[/] ({', '.join(data['targets'])})", *[""] * 4)
        for name, cost in data["cost"].items():
            if not cost:
                table.add_row(f"  {name}", "not installed", "", "", "")
                continue
            alone = f"{median(cost['microseconds_a_ticket_alone']):.0f}"
            training = f"{median(cost['training_seconds']):.1f} ({len(cost['training_seconds'])})"
            table.add_row(f"  {name}", training, f"{cost['peak_megabytes']:.0f}", f"{median(cost['microseconds_a_ticket']):.1f}", alone)
            if "microseconds_a_decision" in cost:
                times = (f"{median(cost[key]):.{digits}f}" for key, digits in (("microseconds_a_decision", 1), ("microseconds_a_decision_alone", 0)))
                table.add_row("    whole decisions: language, action, route", "", "", *times)
        table.add_section()
    console.print(table)
    console.print(
        f"From raw text to labels. Alone: one call a ticket, {ALONE} tickets. scikit-learn's word pattern does not cut Chinese, Japanese or Thai.\n"
    )


def _service(found: dict[str, Any], console: Console) -> None:
    table = _table("The service at rest", ("", "import s", "start to ready s", "resident MB", "shared counted once MB"))
    for name, server in found["servers"].items():
        memory = (f"{server[key]:.0f}" for key in ("resident_megabytes", "shared_once_megabytes"))
        table.add_row(name, f"{median(server['import_seconds']):.2f}", f"{median(server['start_seconds']):.2f}", *memory)
    console.print(table)
    table = _table(f"The service under load ({found['client']})", ("", "connections", "requests/s", "p50 ms", "p99 ms", "errors", "over the no-op"))
    for row in found["load"]:
        figures = (
            f"{row['requests_per_second']:.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            str(row["errors"]),
            f"{row['ratio_to_noop']:.2f}",
        )
        table.add_row(f"{row['server']}, {row['workers']} worker{'s' if row['workers'] > 1 else ''}", str(row["connections"]), *figures)
    console.print(table)
    console.print(f"Every decision is on the disk before it is answered; a synced write takes {found['synced_write_milliseconds']:.2f} ms here.\n")


def _table(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    return table


def _between(interval: list[float], form: str) -> str:
    return f"\\[{interval[0]:{form}}, {interval[1]:{form}}]"


def picture(found: dict[str, Any], path: Path) -> None:
    """Draw what `found` (bench.json) holds, 1200 pixels wide."""
    data = found.get("data", {}).get("results", [])
    n_rows = len(data) + ("service" in found)
    figure = Figure(figsize=(12, 0.5 + 1.8 * n_rows), dpi=100, layout="constrained")
    axes = figure.subplots(n_rows, COLUMNS, squeeze=False)
    for row, one in zip(axes, data, strict=False):
        _draw_data(row, one)
    if "service" in found:
        _draw_service(axes[-1], found["service"]["results"])
    half = found.get("data") or found["service"]
    figure.suptitle(f"Pointsman beside its peers: {half['machine']['cpu']}, {half['machine']['cores']} cores, {half['at'][:10]}", fontsize=12)
    figure.savefig(path, facecolor="white")


def _draw_data(axes: Any, data: dict[str, Any]) -> None:
    cost = {name: figures for name, figures in data["cost"].items() if figures}
    several = len(data["targets"]) > 1
    marked = ", ".join(f"{sign} {target}" for (_, sign), target in zip(MARKERS, data["targets"], strict=False))
    axes[0].set_title(f"{data['name']}: {marked if several else 'accuracy'}", fontsize=9, loc="left")
    for number, ((marker, _), figures) in enumerate(zip(MARKERS, data["targets"].values(), strict=False)):
        for place, name in enumerate(cost):
            accuracy, (low, high) = figures[name]["accuracy"], figures[name]["interval"]
            y = place + (0.36 * number - 0.18 if several else 0)
            bounds = [[accuracy - low], [high - accuracy]]
            axes[0].errorbar(accuracy, y, xerr=bounds, fmt=marker, color=_colour(name), capsize=2, markersize=5)
            axes[0].annotate(f"{accuracy:.3f}", (high, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes[0].margins(x=0.25)
    axes[0].tick_params(axis="x", labelsize=8)
    _names(axes[0], list(cost))
    _bars(axes[1], "µs a ticket, one core (less is better)", {name: median(c["microseconds_a_ticket"]) for name, c in cost.items()})
    _bars(axes[2], "seconds to train (less is better)", {name: median(c["training_seconds"]) for name, c in cost.items()})
    _bars(axes[3], "MB, peak of training (less is better)", {name: c["peak_megabytes"] for name, c in cost.items()})


def _draw_service(axes: Any, service: dict[str, Any]) -> None:
    rest = service["servers"]
    clients = service["load"][0]["connections"]
    busy = [row for row in service["load"] if row["connections"] == clients]
    under = {key: dict(zip(rest, (row[key] for row in busy), strict=True)) for key in ("requests_per_second", "p99_ms")}
    _bars(axes[0], f"requests/s of {clients} clients (more is better)", under["requests_per_second"])
    _names(axes[0], list(rest))
    _bars(axes[1], f"p99 of {clients} clients, ms (less is better)", under["p99_ms"])
    _bars(axes[2], "seconds to ready (less is better)", {name: median(server["start_seconds"]) for name, server in rest.items()})
    _bars(axes[3], "MB at rest (less is better)", {name: server["shared_once_megabytes"] for name, server in rest.items()})


def _bars(axes: Axes, title: str, values: dict[str, float]) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    bars = axes.barh(list(values), list(values.values()), color=[_colour(name) for name in values])
    axes.bar_label(bars, [f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in values.values()], padding=3, fontsize=8)
    axes.margins(x=0.2)
    axes.set_xticks([])
    _names(axes, [""] * len(values))


def _names(axes: Axes, names: list[str]) -> None:
    """A row of the picture has its names on the left only."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(name: str) -> str:
    return OURS if name.startswith("Pointsman") else THEIRS
