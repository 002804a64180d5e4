"""What finding wrong labels, and choosing tickets to label, are worth: `python benchmarks/labels.py [NAME...]`.

- `noise`: labels flipped on purpose, evenly and by likely confusions: how many of them are suspected, how many suspects were flipped, and
  the accuracy on an untouched test table when learned from the labels as they are, without the suspects, and with them corrected;
- `acquire`: how many labels it takes to reach 95% of the accuracy that all of them give, chosen as `pointsman label` does, and by chance.

Both on it_service; where it is absent, on the shipped tickets and their exam. The table has errors of its own: each that is found counts
against the precision here. Classifiers are the quick ones of training.noise: one recipe, no search.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from training import acquire as choosing
from training import noise as suspecting
from training.evaluate import share
from training.features import Features, TermCounts
from training.table import TicketTable, read_table

HERE = Path(__file__).resolve().parent
TARGET = "label"
SHARES = (0.05, 0.10, 0.20)
SEEDS = range(5)
FIRST, SMALLEST, LARGEST = 200, 200, 500  # labels at the start, and in a worksheet: a fifth of those there are, within these
GOAL = 0.95  # of the accuracy that all labels give
SHARPNESS = 3.0  # of the scores of a router that has too few labels to be calibrated

Codes = NDArray[np.int64]
Found = dict[str, dict[str, Any]]


class Tables:
    """A table to learn from and one to judge on, their words read once."""

    def __init__(self, data: Path) -> None:
        self.name = "it_service" if (data / "it_service").is_dir() else "the shipped tickets"
        self.train, self.test = (self._read(data, part) for part in ("train", "test"))
        self.names = self.train.label_names(TARGET)
        self.right, self.judged = self.train.codes(TARGET, self.names), self.test.codes(TARGET, self.names)
        self.counts = TermCounts.of(self.train.texts + self.test.texts)
        self.held_out = np.arange(len(self.train), len(self.train) + len(self.test))

    def _read(self, data: Path, part: str) -> TicketTable:
        if self.name == "it_service":
            return read_table([str(data / "it_service" / f"{part}.csv.gz")], text=["text"], targets={TARGET: "label"}, for_training=part == "train")
        folder = HERE.parent / "data" / ("tickets" if part == "train" else "exam")
        files = [str(file) for file in sorted(folder.glob("*.jsonl"))]
        return read_table(files, targets={TARGET: "department"}, for_training=part == "train")

    def learn(self, which: Codes, codes: Codes) -> tuple[Features, NDArray[np.float32], NDArray[np.float32]]:
        """Classifiers from some tickets, whose labels are `codes` (all tickets of the table)."""
        # The last column is there even where no ticket of it is.
        padded = np.concatenate([codes, np.full(len(self.test), -1)])
        return suspecting.learn(self.counts, which, [padded])

    def accuracy(self, which: Codes, codes: Codes) -> dict[str, Any]:
        features, weights, bias = self.learn(which, codes)
        return share((features.transform(self.held_out) @ weights + bias).argmax(axis=1) == self.judged)


def noise(tables: Tables) -> Found:
    n, k = len(tables.train), len(tables.names)
    everything = np.arange(n)
    found: Found = {"clean": {"learned as it is": tables.accuracy(everything, tables.right)}}
    found["clean"] |= {"suspects": _suspect(tables, tables.right)[0].sum() / n}
    first = suspecting.out_of_fold(tables.train).targets[0]
    confusion = np.bincount(first.codes * k + first.best, minlength=k * k).reshape(k, k).astype(float) + 1e-3
    chance = np.random.default_rng(0)
    for kind in ("evenly", "by confusions"):
        for flipped in SHARES:
            mix = np.ones((k, k)) if kind == "evenly" else confusion.copy()
            np.fill_diagonal(mix, 0)
            codes, which = tables.right.copy(), chance.permutation(n)[: round(flipped * n)]
            for i in which.tolist():
                codes[i] = chance.choice(k, p=mix[codes[i]] / mix[codes[i]].sum())
            start = time.perf_counter()
            suspects, suggested = _suspect(tables, codes)
            seconds = time.perf_counter() - start
            wrong = codes != tables.right
            found[f"{flipped:.0%} flipped {kind}"] = {
                "suspects": suspects.sum() / n,
                "precision": share(wrong[suspects]),
                "recall": share(suspects[wrong]),
                "suggested is right": share((suggested == tables.right)[suspects & wrong]),
                "learned as it is": tables.accuracy(everything, codes),
                "suspects left out": tables.accuracy(np.flatnonzero(~suspects), codes),
                "suggestions taken": tables.accuracy(everything, np.where(suspects, suggested, codes)),
                "corrected by hand": tables.accuracy(everything, np.where(suspects, tables.right, codes)),
                "seconds": seconds,
            }
    return found


def _suspect(tables: Tables, codes: Codes) -> tuple[NDArray[np.bool_], Codes]:
    """Which tickets are suspected, and the codes that are suggested for them."""
    own = replace(tables.train, labels={TARGET: [tables.names[code] for code in codes.tolist()]})
    suspects, suggested = np.zeros(len(codes), bool), codes.copy()
    for one in suspecting.suspects(suspecting.out_of_fold(own), explain=False):
        suspects[one.ticket] = True
        suggested[one.ticket] = tables.names.index(one.suggested)
    return suspects, suggested


def acquire(tables: Tables) -> Found:
    everything = np.arange(len(tables.train))
    whole = tables.accuracy(everything, tables.right)
    goal = GOAL * whole["share"]
    curves: dict[str, list[list[tuple[int, float]]]] = {"chosen": [], "by chance": []}
    for seed in SEEDS:
        for way, of in curves.items():
            of.append(list(_curve(tables, way == "chosen", seed, goal)))
            print(f"seed {seed}, {way}: {of[-1][-1]}", file=sys.stderr, flush=True)
    found: Found = {"all labels": {"accuracy": whole, "labels": len(everything), "goal": goal}}
    for way, of in curves.items():
        needed = np.array([_reached(curve, goal) for curve in of])
        found[way] = {"labels": needed.mean(), "deviation": needed.std(ddof=1), "each seed": " ".join(f"{n:.0f}" for n in needed)}
        found[way] |= {"curves": [list(map(list, curve)) for curve in of]}
    saved = np.array([_reached(a, goal) / _reached(b, goal) for a, b in zip(curves["chosen"], curves["by chance"], strict=True)])
    found["chosen / by chance"] = {"labels": saved.mean(), "deviation": saved.std(ddof=1), "each seed": " ".join(f"{n:.3f}" for n in saved)}
    return found


def _curve(tables: Tables, chosen: bool, seed: int, goal: float) -> Iterator[tuple[int, float]]:
    """Accuracy by number of labels, until the goal is reached."""
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(tables.train))
    labelled, rest = order[:FIRST], order[FIRST:]
    while True:
        codes = tables.right.copy()
        features, weights, bias = tables.learn(np.sort(labelled), codes)
        accuracy = float(((features.transform(tables.held_out) @ weights + bias).argmax(axis=1) == tables.judged).mean())
        yield len(labelled), accuracy
        if accuracy >= goal or not len(rest):
            return
        count = int(np.clip(len(labelled) // 5, SMALLEST, LARGEST))
        if chosen:
            candidates = np.sort(rest[: choosing.MOST_CANDIDATES // 2])  # rest is in a random order
            logits = SHARPNESS * (features.transform(candidates) @ weights + bias)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            doubt = choosing.uncertainty(p / p.sum(axis=1, keepdims=True))
            own = replace(tables.counts, words=tables.counts.words[candidates])
            taken = candidates[choosing.choose(own, doubt, count, seed)]
        else:
            taken = rest[:count]
        labelled = np.concatenate([labelled, taken])
        rest = chance.permutation(np.setdiff1d(rest, taken))


def _reached(curve: list[tuple[int, float]], goal: float) -> float:
    """How many labels reach the goal, by a straight line between the last two steps."""
    if len(curve) < 2 or curve[-1][1] < goal:
        return float(curve[-1][0])
    (n, low), (m, high) = curve[-2:]
    return n + (m - n) * (goal - low) / (high - low)


PARTS = {part.__name__: part for part in (noise, acquire)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--data", default=HERE.parent.parent / "shared" / "data", type=click.Path(path_type=Path), help="Folder of public data sets.")
def main(names: tuple[str, ...], data: Path) -> None:
    """Measure the parts NAMES, all by default; write results/labels.json, where other parts stay as they are."""
    file = HERE / "results" / "labels.json"
    tables = Tables(data)
    for name in names or PARTS:
        start, load = time.perf_counter(), os.getloadavg()[0]  # before the work: what others do
        found = PARTS[name](tables)
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout.strip()
        facts = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "commit": commit, "cores": os.cpu_count(), "load_average_before": load}
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        known[name] = facts | {"on": tables.name, "took": time.perf_counter() - start, "results": found}
        # Five significant digits: more would be noise.
        known = json.loads(json.dumps(known), parse_float=lambda number: float(f"{float(number):.5g}"))
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        _show(f"{name}, on {tables.name}, {known[name]['took']:.0f} s", known[name]["results"])


def _show(title: str, found: Found) -> None:
    table = Table("", title=title, title_justify="left")
    columns = dict.fromkeys(column for row in found.values() for column, value in row.items() if not isinstance(value, list))
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in found.items():
        table.add_row(name, *(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['share']:.3f} {value['interval']}" if value.get("share") is not None else ""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
