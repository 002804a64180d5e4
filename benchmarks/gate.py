"""How often the gate decides rightly: `python benchmarks/gate.py --help`.

The answers are those of real routers. The shipped tickets of the seven core languages are cut in two, near-duplicates kept together; on 80%
of each half `ROUTERS` routers are trained, which answer the other half: so many complete sets of answers to tickets that were not learned from.
A pair is two of these sets, made one of five kinds:

- same: on each ticket the two change places by the toss of a coin, so that neither is better, and they differ as real ones do;
- better: the same, then the candidate has so many points of all tickets more right, of those it had wrong;
- worse in one language: the same, then in one language, drawn anew for each seed, the candidate has so many points fewer right: an unsure
  answer is likelier to turn wrong than a sure one, and it turns into the label that it is most often taken for;
- fewer incidents: likewise, but real incidents of all languages turn into advice, and nothing holds them back.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.policy import load_policy
from model.taxonomy import load_taxonomy
from training import gate
from training.compare import Answered, answer, groups_of, measure
from training.evaluate import interval
from training.fit import Settings, fit
from training.split import folds
from training.table import TicketTable, read_table

ROOT = Path(__file__).resolve().parent.parent
CORE = ("fr", "en", "de", "es", "pt", "it", "pl")
ROUTERS = 5  # trained on each half
KINDS: tuple[tuple[str, float, bool], ...] = (  # kind, points, whether the gate should let it pass
    ("same", 0.0, True),
    ("better", 0.02, True),
    ("worse in one language", 0.05, False),
    ("worse in one language", 0.1, False),
    ("worse in one language", 0.15, False),
    ("fewer incidents", 0.05, False),
    ("fewer incidents", 0.1, False),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: python benchmarks/gate.py --seeds 20")
@click.option("--seeds", default=100, show_default=True, type=click.IntRange(1, 1000))
@click.option("--tickets", "sizes", multiple=True, default=(64, 128, 375), show_default=True, help="Tickets of each language that are judged.")
@click.option("--out", default=ROOT / "benchmarks" / "results" / "gate.json", type=click.Path(path_type=Path), help="Where the figures go.")
def main(seeds: int, sizes: tuple[int, ...], out: Path) -> None:
    """Measure how often the gate decides rightly on pairs whose difference is known."""
    console = Console(width=130)
    tickets = read_table([str(ROOT / "data" / "tickets" / f"{code}.jsonl") for code in CORE])
    group = groups_of(tickets.texts)
    sets = answers_of(tickets, group, console)
    accuracy = {name: [round(float((one.labels[name] == np.array(tickets.labels[name])).mean()), 4) for one in sets] for name in tickets.labels}
    figures = []
    shown = Table(title=f"{seeds} seeds each; accuracy of the routers: {accuracy}", title_justify="left")
    for column in ("tickets a language", "the candidate is", "points", "should", "decided rightly", "95% interval", "refused by"):
        shown.add_column(column)
    for size in sizes:
        for kind, points, passes in KINDS:
            decided = [trial(tickets, group, sets, size, kind, points, seed) for seed in range(seeds)]
            right = sum((not families) == passes for families in decided)
            by = Counter(family for families in decided for family in families)
            figures.append(
                {"tickets": size, "kind": kind, "points": points, "should_pass": passes, "seeds": seeds, "right": right,
                 "share": round(right / seeds, 4), "interval": interval(right, seeds), "refused_by": dict(by)}
            )  # fmt: skip
            told = ", ".join(f"{family} {count}" for family, count in by.most_common())
            shown.add_row(
                str(size), kind, f"{100 * points:g}", "pass" if passes else "be refused", f"{right / seeds:.0%}", str(interval(right, seeds)), told
            )
    console.print(shown)
    settings = {"gate": vars(gate.GateSettings()), "routers": ROUTERS, "accuracy": accuracy}
    out.write_text(json.dumps({"settings": settings, "pairs": figures}, indent=1) + "\n", encoding="utf-8")


def answers_of(tickets: TicketTable, group: NDArray[np.int64], console: Console) -> list[Answered]:
    """`ROUTERS` complete sets of answers, each by two routers that each did not see what it answers."""
    policy, taxonomy = load_policy(), load_taxonomy()
    strata = [f"{a} {b} {code}" for a, b, code in zip(tickets.labels["kind"], tickets.labels["department"], tickets.languages, strict=True)]
    halves = folds(strata, group, 0, 2)
    sets = []
    for number in range(ROUTERS):
        rng = np.random.default_rng(number)
        parts = []
        for half in halves:
            learned = np.sort(rng.permutation(half.train)[: round(0.8 * len(half.train))])
            router = fit(some(tickets, learned), Settings(seed=number), taxonomy).router
            parts.append(answer(router, policy, [tickets.texts[i] for i in half.held_out]))
            console.print(f"router {2 * number + len(parts)} of {2 * ROUTERS} is trained", style="dim")
        order = np.argsort(np.concatenate([half.held_out for half in halves]))
        sets.append(joined(parts, order, f"2026-11-22T10-00-00Z-{number:04x}"))
    return sets


def trial(tickets: TicketTable, group: NDArray[np.int64], sets: list[Answered], size: int, kind: str, points: float, seed: int) -> set[str]:
    """The families of checks that refuse one pair of the `kind`."""
    rng = np.random.default_rng([seed, size])
    spoken = np.array(tickets.languages)
    which = np.concatenate([rng.permutation(np.flatnonzero(spoken == code))[:size] for code in CORE])
    table = some(tickets, which)
    one, other = (picked(sets[i], which) for i in rng.permutation(len(sets))[:2])
    _, place = np.unique(group[which], return_inverse=True)
    heads = rng.random(place.max() + 1)[place] < 0.5
    champion, candidate = mixed(one, other, heads), mixed(other, one, heads)
    language = CORE[seed % len(CORE)]
    if kind == "better":
        candidate = mended(candidate, table, points, rng)
    elif kind == "worse in one language":
        candidate = spoiled(candidate, table, np.array(table.languages) == language, points, rng)
    elif kind == "fewer incidents":
        incidents = np.array(table.labels["kind"]) == "incident"
        candidate = spoiled(candidate, table, incidents, points, rng, only="kind")
    figures = measure(table, replace(champion, version="a"), replace(candidate, version="b"), group[which], resamples=0)
    return {check["family"] for check in gate.judge(figures)["checks"] if check["outcome"] == "refused"}


def mended(who: Answered, table: TicketTable, points: float, rng: np.random.Generator) -> Answered:
    """`who` with `points` of all tickets more right in each target."""
    labels = {}
    for name, said in who.labels.items():
        truth = np.array(table.labels[name])
        wrong = np.flatnonzero(said != truth)
        labels[name] = said.copy()
        turned = rng.permutation(wrong)[: round(points * len(said))]
        labels[name][turned] = truth[turned]
    return replace(who, labels=labels)


def spoiled(who: Answered, table: TicketTable, where: NDArray[np.bool_], points: float, rng: np.random.Generator, only: str = "") -> Answered:
    """`who` with `points` fewer right of the tickets `where`, in each target or `only` in one; unsure answers turn first. None is held back."""
    labels, held = dict(who.labels), {key: of.copy() for key, of in who.held.items()}
    for name in [only] if only else list(labels):
        truth, said = np.array(table.labels[name]), labels[name].copy()
        right = np.flatnonzero(where & (said == truth))
        unsure = 1.001 - who.confidence[name][right]
        turned = rng.choice(right, round(points * int(where.sum())), replace=False, p=unsure / unsure.sum())
        usual = {label: Counter(said[(truth == label) & (said != label)].tolist()).most_common(1) for label in set(truth.tolist())}
        others = {label: next(one for one in sorted(set(truth.tolist())) if one != label) for label in usual}
        said[turned] = [usual[label][0][0] if usual[label] else others[label] for label in truth[turned].tolist()]
        labels[name] = said
        for (target, _), of in held.items():
            of[turned] &= target != name
    return replace(who, labels=labels, held=held)


def each(who: Answered, make: Any) -> Answered:
    """`who` with every column made anew by `make`, which is given the column and where it stands."""
    return replace(
        who,
        labels={name: make(of, lambda w, name=name: w.labels[name]) for name, of in who.labels.items()},
        confidence={name: make(of, lambda w, name=name: w.confidence[name]) for name, of in who.confidence.items()},
        held={key: make(of, lambda w, key=key: w.held[key]) for key, of in who.held.items()},
        auto=make(who.auto, lambda w: w.auto),
        asked=make(who.asked, lambda w: w.asked),
    )


def picked(who: Answered, which: NDArray[np.int64]) -> Answered:
    return each(who, lambda column, at: column[which])


def mixed(one: Answered, other: Answered, heads: NDArray[np.bool_]) -> Answered:
    return each(one, lambda column, at: np.where(heads, column, at(other)))


def joined(parts: list[Answered], order: NDArray[np.int64], version: str) -> Answered:
    return replace(each(parts[0], lambda column, at: np.concatenate([at(part) for part in parts])[order]), version=version)


def some(table: TicketTable, which: NDArray[np.int64]) -> TicketTable:
    labels = {name: [of[i] for i in which] for name, of in table.labels.items()}
    return TicketTable([table.texts[i] for i in which], labels, [table.languages[i] for i in which], table.text_columns)


if __name__ == "__main__":
    main()
