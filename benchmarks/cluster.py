"""What a Dask cluster gains: `python benchmarks/cluster.py --help`.

The same training, and the same batch classification, by a local cluster of one worker process and of two, each with one thread. The shipped
tickets are learned from; those classified are the shipped ones, again and again, each time with another number in them. Workers are warm: they
have done a small part of the work before, as those of a cluster have that is not started for one task. Training in threads of this process,
which is the default, stands beside it. The machine's load before each measurement is told, for other work on it is in the seconds.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from distributed import LocalCluster
from rich.console import Console
from rich.table import Table

from model import bundle
from model.policy import load_policy
from model.router import Router
from model.taxonomy import load_taxonomy
from training.backend import running_on
from training.batches import decide
from training.fit import Settings, fit
from training.table import TicketTable, read_table

ROOT = Path(__file__).resolve().parent.parent
WARM = 400  # tickets


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: python benchmarks/cluster.py --times 1")
@click.option("--tickets", default=20_000, show_default=True, type=click.IntRange(1), help="To classify.")
@click.option("--times", default=3, show_default=True, type=click.IntRange(1), help="How often each is measured; the median counts.")
@click.option("--out", default=ROOT / "benchmarks" / "results" / "cluster.json", type=click.Path(path_type=Path), help="Where the figures go.")
def main(tickets: int, times: int, out: Path) -> None:
    """Measure the same work with one worker and with two."""
    files = sorted(str(path) for path in (ROOT / "data" / "tickets").glob("*.jsonl"))
    table = read_table(files)
    rows = many([json.loads(line) for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()], tickets)
    small = TicketTable(table.texts[:WARM], {name: of[:WARM] for name, of in table.labels.items()}, table.languages[:WARM], table.text_columns)
    figures: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for workers in (0, 1, 2):
        with ExitStack() as stack:
            if workers:
                scratch = stack.enter_context(tempfile.TemporaryDirectory())
                cluster: Any = stack.enter_context(
                    LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=scratch)
                )
                stack.enter_context(running_on("dask", cluster.scheduler_address))
            answers(learned(small), rows[:WARM], workers > 0)
            seconds, loads, router = measured(times, partial(learned, table))
            figures.append({"work": "training", "workers": workers, "tickets": len(table), "seconds": seconds, "load": loads})
            same = kept.setdefault("router", router)
            figures[-1]["same"] = bool(np.array_equal(same.rows.values, router.rows.values) and same.targets == router.targets)
            seconds, loads, lines = measured(times, partial(answers, kept["router"], rows, workers > 0))
            figures.append({"work": "classifying", "workers": workers, "tickets": len(rows), "seconds": seconds, "load": loads})
            figures[-1]["same"] = kept.setdefault("lines", bundle.digest(lines)) == bundle.digest(lines)
    shown = Table(title=f"{os.cpu_count()} processors; median of {times}", title_justify="left")
    for column in ("work", "tickets", "where", "seconds", "against one worker", "the same result", "load before"):
        shown.add_column(column)
    of_one = {f["work"]: statistics.median(f["seconds"]) for f in figures if f["workers"] == 1}
    for f in figures:
        middle = statistics.median(f["seconds"])
        f["speed_up"] = round(of_one[f["work"]] / middle, 2)
        where = f"{f['workers']} worker{'s' if f['workers'] > 1 else ''}" if f["workers"] else "this process"
        cells = [f"{middle:.2f}", f"{f['speed_up']:.2f}", "yes" if f["same"] else "NO", ", ".join(map(str, f["load"]))]
        shown.add_row(f["work"], str(f["tickets"]), where, *cells)
    Console(width=130).print(shown)
    out.write_text(json.dumps({"processors": os.cpu_count(), "figures": figures}, indent=1) + "\n", encoding="utf-8")


def many(shipped: list[dict[str, Any]], tickets: int) -> list[dict[str, Any]]:
    """So many, no two alike."""
    alike = [(number, shipped[number % len(shipped)]) for number in range(tickets)]
    return [{**ticket, "id": str(number), "body": f"{ticket['body']}\n\nref. {number}"} for number, ticket in alike]


def learned(table: TicketTable) -> Router:
    return fit(table, Settings(), load_taxonomy()).router


def answers(router: Router, rows: list[dict[str, Any]], parallel: bool) -> bytes:
    return b"".join(batch.lines for batch in decide(rows, router, load_policy(), lambda router: None, parallel=parallel))


def measured(times: int, work: Callable[[], Any]) -> tuple[list[float], list[float], Any]:
    """The seconds and the load of the machine before, of each time, and what came out."""
    seconds, loads = [], []
    for _ in range(times):
        loads.append(round(os.getloadavg()[0], 1))
        begun = time.perf_counter()
        result = work()
        seconds.append(round(time.perf_counter() - begun, 3))
    return seconds, loads, result


if __name__ == "__main__":
    main()
