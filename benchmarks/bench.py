"""Pointsman beside its peers, measured in the same run: `make bench`, or `python benchmarks/bench.py --help`."""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import load
import numpy as np
import show
from numpy.typing import NDArray
from peers import CLASSIFIERS, REPEATS, TRAINING_THREADS, Row
from rich.console import Console
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from model.cleaning import clean
from training import duplicates, rows
from training.evaluate import interval
from training.features import TermCounts
from training.split import folds
from training.table import read_table

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ("it_service", "banking77")
TARGETS = ["kind", "department"]  # of the shipped tickets
OURS, MAJORITY = "Pointsman", "majority"
NEEDED = {"fastText": ("fasttext", "fasttext-community")}  # module and package of what may be missing
LIBRARIES = ("numpy", "scipy", "scikit-learn", "numba", "fasttext-community", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "sqlalchemy")
QUICK_TRAIN, QUICK_TEST = 1000, 500
WARM_UP = 500  # tickets

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class DataSet:
    name: str
    targets: list[str]
    train: list[Row]
    test: list[Row]


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Example: python benchmarks/bench.py --quick --only data",
)
@click.option(
    "--quick", is_flag=True, help=f"About two minutes: at most {QUICK_TRAIN} tickets to learn from, short rounds, one worker. Not figures to quote."
)
@click.option("--only", type=click.Choice(["data", "service"]), help="One half; the other keeps what an earlier run wrote. [default: both]")
@click.option(
    "--data", default=ROOT.parent / "shared" / "data", type=click.Path(path_type=Path), help="Folder of public data sets, where there is one."
)
@click.option("--out", default=ROOT / "benchmarks" / "results", type=click.Path(path_type=Path), help="Folder of bench.json and bench.png.")
def main(quick: bool, only: str | None, data: Path, out: Path) -> None:
    """Measure Pointsman beside its peers: quality, training, memory and speed of the classifiers on the same tickets, and the service
    beside a FastAPI no-op. Prints tables; writes bench.json and bench.png (quick.json and quick.png with --quick).

    Every classifier works in a process of its own: two cores to train, one to classify. Figures are medians of repeats.
    Close what else uses the machine first; about 15 minutes on two cores.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("quick.json" if quick else "bench.json")
    found = json.loads(file.read_text(encoding="utf-8")) if only and file.exists() else {}
    for half in ("data", "service"):
        if only in (None, half):
            facts = _facts()  # before the work: the load average is what others do
            results = [_measure(one, quick) for one in _data_sets(data, quick)] if half == "data" else load.measure(quick, _say)
            found[half] = facts | {"results": results}
            file.write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    show.tables(found, console)
    show.picture(found, file.with_suffix(".png"))
    console.print(f"{file} and {file.with_suffix('.png').name} are written.")


def _data_sets(public: Path, quick: bool) -> Iterator[DataSet]:
    """The public ones that are there, then the shipped tickets."""
    for name in PUBLIC:
        files = [next((public / name).glob(f"{half}.csv*"), None) for half in ("train", "test")]
        if all(files):
            yield _cut(DataSet(name, ["label"], *([_row(row) for row in rows.read(str(file))] for file in files)), quick)
        else:
            console.print(f"{name}: not in {public}; left out")
    yield _cut(_shipped(), quick)


def _row(row: rows.Row | rows.BadRow) -> Row:
    if isinstance(row, rows.BadRow):
        raise click.ClickException(row.why)
    return {"subject": "", "body": str(row["text"]), "label": str(row["label"]), "language": str(row.get("language", ""))}


def _shipped() -> DataSet:
    """The shipped tickets, a fifth of them held out as `pointsman train` does it: near-duplicates stay on one side."""
    files = [str(file) for file in sorted((ROOT / "data" / "tickets").glob("*.jsonl"))]
    table = read_table(files)
    strata = ["\x1f".join(parts) for parts in zip(*(table.labels[target] for target in TARGETS), table.languages, strict=True)]
    split = folds(strata, _groups(table.texts), seed=0)[0]
    known = {str(row["id"]): row for file in files for row in rows.read(file) if isinstance(row, dict)}
    kept = [{name: str(known[id_][name]) for name in ("subject", "body", "language", *TARGETS)} for id_ in table.ids]
    return DataSet("shipped tickets", TARGETS, *([kept[i] for i in half] for half in split))


def _groups(texts: list[str]) -> NDArray[np.int64]:
    counts = TermCounts.of(texts)
    return duplicates.groups(counts.words, counts.word_hashes)


def _cut(data: DataSet, quick: bool) -> DataSet:
    if not quick:
        return data
    chance = random.Random(0)
    train, test = (chance.sample(half, min(len(half), most)) for half, most in ((data.train, QUICK_TRAIN), (data.test, QUICK_TEST)))
    return DataSet(data.name, data.targets, train, test)


def _measure(data: DataSet, quick: bool) -> dict[str, Any]:
    """Every classifier on one data set."""
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as name:
        folder = Path(name)
        warm_up = random.Random(0).sample(data.train, min(len(data.train), WARM_UP))
        for half, tickets in {"train": data.train, "test": data.test, "warmup": warm_up}.items():
            (folder / f"{half}.jsonl").write_text("".join(f"{json.dumps(ticket)}\n" for ticket in tickets), encoding="utf-8")
        cost = {classifier: _run(classifier, data, folder, quick) for classifier in CLASSIFIERS}
    answers = {classifier: result.pop("answers") for classifier, result in cost.items() if result}
    everything = _groups([clean(ticket["subject"], ticket["body"]) for ticket in data.train + data.test])
    seen = np.isin(everything[len(data.train) :], everything[: len(data.train)])
    return {
        "name": data.name,
        "learned": len(data.train),
        "judged": len(data.test),
        "judged_near_duplicates_of_learned": float(seen.mean()),
        "targets": {target: _judge(data, target, {name: given[target] for name, given in answers.items()}, seen) for target in data.targets},
        "cost": cost,
    }


def _run(classifier: str, data: DataSet, folder: Path, quick: bool) -> dict[str, Any]:
    """What one classifier took and answered; nothing where it is not installed."""
    if classifier in NEEDED and not find_spec(NEEDED[classifier][0]):
        console.print(f"{data.name}: {classifier} is left out; `pip install {NEEDED[classifier][1]}` brings it")
        return {}
    threads = {f"{library}_NUM_THREADS": str(TRAINING_THREADS) for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), classifier, str(folder), str(1 if quick else REPEATS), *data.targets]
    with _step(f"{data.name}, {len(data.train)} tickets to learn from: {classifier}"):
        done = subprocess.run(command, env=os.environ | threads | {"POINTSMAN_DEEP": "off"})
    if done.returncode:
        raise click.ClickException(f"{classifier} failed on {data.name}")
    result: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return result


def _judge(data: DataSet, target: str, answers: dict[str, list[str]], seen: NDArray[np.bool_]) -> dict[str, Any]:
    """The quality of each classifier on one target, and Pointsman's lead over it on the same tickets."""
    gold = [ticket[target] for ticket in data.test]
    most = Counter(ticket[target] for ticket in data.train).most_common(1)[0][0]
    right = {name: np.array(given) == np.array(gold) for name, given in (answers | {MAJORITY: [most] * len(gold)}).items()}
    figures = {}
    for name, own in right.items():
        figures[name] = {
            "accuracy": float(own.mean()),
            "interval": interval(int(own.sum()), len(own)),
            "accuracy_without_near_duplicates": float(own[~seen].mean()),
            "macro_f1": float(f1_score(gold, answers.get(name, [most] * len(gold)), labels=sorted(set(gold)), average="macro", zero_division=0.0)),
        } | ({} if name in (OURS, MAJORITY) else {"lead": _lead(right[OURS], own)})
    return figures


def _lead(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> dict[str, Any]:
    """Our accuracy less theirs on the same tickets: its bootstrap interval (95%) and McNemar's exact test."""
    n, only_ours, only_theirs = len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    # Drawing tickets again comes to drawing how many fall to each side.
    shares = [only_ours / n, only_theirs / n, 1 - (only_ours + only_theirs) / n]
    draws = np.random.default_rng(0).multinomial(n, shares, size=10_000)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    p = binomtest(only_ours, only_ours + only_theirs).pvalue if only_ours + only_theirs else 1.0
    return {"accuracy": (only_ours - only_theirs) / n, "interval": [float(low), float(high)], "mcnemar_p": float(p)}


def _say(what: str) -> None:
    console.print(f"[dim]{datetime.now():%H:%M:%S}[/] {what}")


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Show what is being done, then how long it took."""
    start = time.perf_counter()
    with console.status(what):
        yield
    _say(f"{what}: {time.perf_counter() - start:.0f} s")


def _facts() -> dict[str, Any]:
    """What the figures were measured on, and of which commit."""
    try:
        model = next(line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + (" and changes" if _git("status", "--porcelain") else ""),
        "machine": {
            "cpu": model,
            "cores": len(os.sched_getaffinity(0)),
            "memory_gigabytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            "load_average_before": os.getloadavg()[0],
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "classifiers": {name: learn.__doc__ for name, learn in CLASSIFIERS.items()},
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _rounded(value: Any) -> Any:
    """Five significant digits: more would be noise."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
