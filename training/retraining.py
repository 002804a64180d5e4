"""A scheduled retraining: audit, hold out, train, compare, promote; each step can be cut short, and the next run takes it up again.

What was done is known by what it left: the candidate's bundle, by the digests in its manifest; the verdict beside it; the line in the
promotions. ``OUT/retraining/state.json`` says only which question is being answered, and how the last one was. The champion serves all the
time: the one write that changes it is the atomic one of `model.bundle.promote`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from model import bundle, promotions
from model.encoder import Encoder
from model.errors import BundleError
from model.policy import Policy
from model.router import Router
from model.taxonomy import Taxonomy
from training import card, compare, experiments, promotion, rows, trial
from training.audit import Audit, audit
from training.deep import Embedded
from training.errors import TrainingError
from training.evaluate import Progress
from training.fit import Settings, fit
from training.history import History, read_history
from training.hold_out import Cut, cut
from training.table import TicketTable, read_table, thinned
from training.trial import Compared

FOLDER, STATE, SEEN, JUDGED_BY = "retraining", "state.json", "seen.npy", "judged_by.jsonl"
BY = "retrain"
LARGEST = 64 << 20  # bytes of a file that is read back
Outcome = Literal["promoted", "passed", "refused", "stopped", "nothing_new", "running"]
FAILED: tuple[Outcome, ...] = ("refused", "stopped")


@dataclass(frozen=True)
class Asked:
    """What is to be done. `most`: tickets to learn from; `promote`: whether a candidate that passes takes the champion's place; `hold_out`:
    the share to judge by; `least_new`: tickets from which on it is worth it; `despite_problems` that the audit finds."""

    settings: Settings
    encoder: str
    most: int
    promote: bool
    hold_out: float
    least_new: int
    despite_problems: bool


@dataclass(frozen=True)
class Tables:
    """Where the tickets are, as `training.table.read_table` takes it; not standard input, for they are read more than once. `shown`: by
    source and row, the version whose answer was seen before somebody gave another label."""

    sources: list[str]
    text: tuple[str, ...]
    targets: dict[str, str] | None
    database: str | None
    shown: dict[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What the work is done with. `embed` gives the embeddings of the table that is learned from, or None where there is to be no deep path;
    `step` is told each step as it begins."""

    taxonomy: Taxonomy
    policy: Policy
    open_encoder: Callable[[Router], Encoder | None]
    embed: Callable[[TicketTable], Embedded | None]
    step: Callable[[str], None]
    progress: Progress


@dataclass
class Done:
    """What came of it: the `outcome`, and what is `said` of it to people. `new`: tickets that the last run did not have; `problems` of the
    audit; `judged_by`: which tickets; `refused` and `blind`: what the gate says; `last`: the outcome of the last run, where there was
    nothing to do; `audit` and `compared`: the evidence."""

    outcome: Outcome
    said: str
    tickets: int = 0
    new: int = 0
    champion: str | None = None
    candidate: str | None = None
    problems: list[str] = field(default_factory=list)
    judged_by: str = ""
    refused: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    last: str | None = None
    audit: Audit | None = field(default=None, repr=False)
    compared: Compared | None = field(default=None, repr=False)

    def so(self, outcome: Outcome, said: str) -> "Done":
        """It ends with that."""
        self.outcome, self.said = outcome, said
        return self

    def as_json(self) -> dict[str, Any]:
        """All but the evidence, which is in files."""
        return {name: value for name, value in vars(self).items() if name not in ("audit", "compared")}


def retrain(folder: Path, work: Path, tables: Tables, asked: Asked, tools: Tools) -> Done:
    """Make a candidate from `tables` and hold it against the champion of `folder`, or take that up where it was cut short.

    `work`: a private folder for what has tickets' text. Raises TrainingError and ModelError.
    """
    tools.step("reading")
    history = read_history(tables.sources, text=tables.text, targets=tables.targets, database=tables.database)
    of = {place.source for place in history.places}
    if useless := [source for source in tables.sources if source not in of]:
        raise TrainingError(f"{useless[0]}: no row has text in {' and '.join(tables.text)} and a label; name its columns with --text and --target")
    numbers = np.unique(experiments.fingerprints(history.table.texts))
    new = int((~np.isin(numbers, _numbers(folder / FOLDER / SEEN))).sum())
    done = Done("nothing_new", "", len(history.table), new, bundle.champion(folder))
    how = [asdict(asked.settings), asked.encoder, asked.most, asked.hold_out]
    task = experiments.digest([experiments.data_digest(history.table), history.moments, how])
    state = _state(folder)
    same = state.get("task") == task
    if same and state.get("asked") == [asked.promote, asked.despite_problems] and state.get("outcome"):
        done.last, done.candidate = state["outcome"], state["candidate"]
        return done.so("nothing_new", f"the same tickets and settings as in the last run, whose outcome was: {done.last}")
    if not same and new < asked.least_new:
        return done.so("nothing_new", f"{new} tickets are new; it is done from {asked.least_new} on")
    begun = state if same else {"begun": promotions.now(), "champion": done.champion}
    state = {"task": task, "asked": [asked.promote, asked.despite_problems], "begun": begun["begun"], "champion": begun["champion"]}
    _write_state(folder, state)
    done = _answer(folder, work, tables, history, asked, tools, done, state)
    np.save(work / SEEN, numbers, allow_pickle=False)
    bundle.write(folder / FOLDER / SEEN, (work / SEEN).read_bytes())
    _write_state(folder, state | {"outcome": done.outcome, "candidate": done.candidate, "ended": promotions.now()})
    return done


def _answer(
    folder: Path, work: Path, tables: Tables, history: History, asked: Asked, tools: Tools, done: Done, state: dict[str, Any]
) -> Done:  # fmt: skip
    tools.step("auditing")
    done.audit = audit(history, asked.settings.seed, tools.progress)
    done.problems = [f"{one.title}: {one.count} of {one.of} {one.unit}" for one in done.audit.findings if one.level == "problem"]
    if done.problems and not asked.despite_problems:
        return done.so("stopped", "the audit found problems; mend them (pointsman audit shows the tickets), or go on with --despite-problems")
    tools.step("holding out")
    # The champion as it was when the question was put: it may be the candidate by now.
    learned = _numbers(folder / experiments.FOLDER / str(state["champion"]) / experiments.LEARNED)
    shown = np.array([tables.shown.get(place, "") == state["champion"] for place in history.places], bool)
    held = cut(history, compare.groups_of(history.table.texts), learned, shown, asked.hold_out, asked.settings.seed)
    done.judged_by = held.by
    table, judged_by = _tables(work, tables, history, held)
    table = thinned(table, asked.most, asked.settings.seed)
    tools.step(f"training on {len(table)} tickets")
    candidate = _trained(folder, table, asked, tools, state["begun"])
    done.candidate = candidate.name
    if done.champion is None:
        with suppress(bundle.AnotherChampion):  # saving it has done so, unless that was cut short
            bundle.promote(folder, candidate.name, instead_of=None, event="first", by=BY, reason="the first bundle of its folder")
        return done.so("promoted", f"{candidate.name} is the first champion")
    if done.champion == candidate.name:
        return done.so("promoted", f"{candidate.name} is the champion already, by a run that was cut short or by hand")
    tools.step(f"comparing {candidate.name} with {done.champion}")
    homes = {"champion": bundle.find(folder), "candidate": candidate}
    done.compared = trial.hold_against(homes, judged_by, tools.policy, tools.open_encoder, progress=tools.progress)
    verdict = done.compared.verdict
    done.warnings, done.blind = done.compared.warnings, verdict["blind"]
    done.refused = [f"{check['about']}: {check['seen']}" for check in verdict["checks"] if check["outcome"] == "refused"]
    if not verdict["passed"]:
        return done.so("refused", f"the gate refuses {candidate.name}")
    if not asked.promote:
        return done.so("passed", f"the gate lets {candidate.name} pass; to make it the champion: pointsman promote {candidate.name}")
    if any(one.event == "rolled_back" and one.before == candidate.name for one in promotions.history(folder)):
        return done.so("refused", f"{candidate.name} was rolled back by somebody; only a person may promote it again")
    tools.step(f"promoting {candidate.name}")
    try:
        promotion.promote(folder, candidate.name, by=BY, because=f"scheduled retraining, judged by {held.by}")
    except promotion.Refused as error:
        return done.so("refused", str(error))
    return done.so("promoted", f"{candidate.name} is the champion now, instead of {done.champion}")


def _tables(work: Path, tables: Tables, history: History, held: Cut) -> tuple[TicketTable, TicketTable]:
    """The tickets to learn from, and those to judge by."""
    places = [tuple(place) for place in history.places]
    files = {work / "learn.jsonl": held.learn, work / JUDGED_BY: held.judge}
    for path, chosen in files.items():
        wanted = {place for place, yes in zip(places, chosen, strict=True) if yes}
        if not wanted:
            raise TrainingError(f"{len(places)} tickets are too few to hold some out")
        with path.open("wb") as out:
            for source in tables.sources:
                for number, row in enumerate(rows.read(source, tables.database), 1):
                    if (source, number) in wanted:
                        out.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))
    learn, judge = (str(path) for path in files)
    table = read_table([learn], text=tables.text, targets=tables.targets)
    return table, read_table([judge], text=tables.text, targets=tables.targets, for_training=False)


def _trained(folder: Path, table: TicketTable, asked: Asked, tools: Tools, begun: str) -> Path:
    """The candidate's bundle: the one that a run since `begun` has left, or a new one."""
    digests = {"data_digest": experiments.data_digest(table), "settings_digest": experiments.digest(asdict(asked.settings))}
    for home in sorted(folder.glob("[0-9]*"), reverse=True):
        if home.name[:20] < begun.replace(":", "-"):
            break
        with suppress(BundleError):
            _, manifest = bundle.load_with_manifest(home)
            if digests.items() <= manifest.get("trained_on", {}).items():
                if not (folder / experiments.FOLDER / home.name).is_dir():
                    experiments.keep(folder, home.name, manifest, json.loads((home / bundle.METRICS).read_bytes()), table)
                return home
    trained = fit(table, asked.settings, tools.taxonomy, tools.progress, embedded=lambda: tools.embed(table))
    return card.save(trained, table, asked.settings, folder)


def _numbers(path: Path) -> NDArray[np.uint64]:
    """The numbers of texts that are kept there; none where there are none, or the file is no such."""
    try:
        if path.stat().st_size <= LARGEST:
            found = np.load(path, allow_pickle=False)
            if found.dtype == np.uint64 and found.ndim == 1:
                return np.asarray(found)
    except (OSError, ValueError, EOFError):
        pass
    return np.array([], np.uint64)


def _state(folder: Path) -> dict[str, Any]:
    """What the last run left; nothing where that cannot be read, and the question is put anew."""
    path = folder / FOLDER / STATE
    with suppress(OSError, ValueError, RecursionError):
        state = json.loads(path.read_bytes()) if path.stat().st_size < LARGEST else None
        if isinstance(state, dict) and {"task", "asked", "begun", "champion"} <= set(state):
            return state
    return {}


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    bundle.write(folder / FOLDER / STATE, bundle.canonical(state))
