"""The classifiers that are compared. As a program, it lets one of them learn and classify in a process of its own:

    python benchmarks/peers.py fastText FOLDER 3 kind department

FOLDER holds `train.jsonl`, `test.jsonl` and `warmup.jsonl` (a ticket a line: subject, body, a label for each target). Timings are
repeated three times. What it took and what was answered is written to `FOLDER/answers.json`.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

TRAINING_THREADS = 2
CLASSIFYING_THREADS = 1
REPEATS = 3
PATIENCE = 60.0  # seconds: training is repeated while all runs together took less
ALONE = 500  # tickets that are classified one at a time

Row = dict[str, str]
Classify = Callable[[list[Row]], dict[str, list[str]]]


class Learned(NamedTuple):
    """`classify` gives the labels of each target; `decide`, where there is more than labels, the whole answer."""

    classify: Classify
    decide: Callable[[list[Row]], object] | None = None


def pointsman(path: Path, targets: list[str]) -> Learned:
    """As `pointsman train` does it, deep path off: read, clean, drop what cannot be used, choose the cost by cross-validation, calibrate."""
    from model.cleaning import clean
    from model.decision import Decider, Ticket
    from model.policy import load_policy
    from model.taxonomy import DATA, load_taxonomy
    from training.fit import Settings, fit
    from training.table import read_table

    table = read_table([str(path)], targets={target: target for target in targets})
    router = fit(table, Settings(), load_taxonomy()).router
    decider = Decider(router, load_policy(DATA / "policy.yaml"))

    def classify(tickets: list[Row]) -> dict[str, list[str]]:
        best = router.answer([clean(ticket["subject"], ticket["body"]) for ticket in tickets]).top
        return {target.name: [target.labels[place] for place in best[target.name][:, 0].tolist()] for target in router.targets}

    def decide(tickets: list[Row]) -> object:
        return decider.decide([Ticket(ticket["subject"], ticket["body"]) for ticket in tickets])

    return Learned(classify, decide)


def tfidf_logistic_regression(path: Path, targets: list[str]) -> Learned:
    """Words and pairs of words seen twice or more, sublinear counts; LogisticRegression(C=10, max_iter=1000)."""
    from sklearn.linear_model import LogisticRegression

    return _tfidf(path, targets, lambda: LogisticRegression(C=10, max_iter=1000))


def tfidf_linear_svc(path: Path, targets: list[str]) -> Learned:
    """Words and pairs of words seen twice or more, sublinear counts; LinearSVC(C=1)."""
    from sklearn.svm import LinearSVC

    return _tfidf(path, targets, lambda: LinearSVC(C=1, random_state=0))


def _tfidf(path: Path, targets: list[str], new: Callable[[], Any]) -> Learned:
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = read(path)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    matrix = words.fit_transform([_text(row) for row in rows])
    heads = {target: new().fit(matrix, [row[target] for row in rows]) for target in targets}

    def classify(tickets: list[Row]) -> dict[str, list[str]]:
        unseen = words.transform([_text(ticket) for ticket in tickets])
        return {target: head.predict(unseen).tolist() for target, head in heads.items()}

    return Learned(classify)


def fasttext(path: Path, targets: list[str]) -> Learned:
    """One model a target; epoch=25, lr=0.5, wordNgrams=2, minn=3, maxn=5, dim=50."""
    import fasttext as library

    rows = read(path)
    heads = {}
    for target in targets:
        labels = sorted({row[target] for row in rows})  # fastText wants them without spaces: their numbers
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.writelines(f"__label__{labels.index(row[target])} {_line(row)}\n" for row in rows)
            file.flush()
            model = library.train_supervised(
                file.name, epoch=25, lr=0.5, wordNgrams=2, minn=3, maxn=5, dim=50, thread=TRAINING_THREADS, verbose=0
            )  # fmt: skip
        heads[target] = model, {f"__label__{number}": label for number, label in enumerate(labels)}

    def classify(tickets: list[Row]) -> dict[str, list[str]]:
        lines = [_line(ticket) for ticket in tickets]
        return {target: [names[best] for (best,) in model.predict(lines)[0]] for target, (model, names) in heads.items()}

    return Learned(classify)


CLASSIFIERS: dict[str, Callable[[Path, list[str]], Learned]] = {
    "Pointsman": pointsman,
    "TF-IDF + LogisticRegression": tfidf_logistic_regression,
    "TF-IDF + LinearSVC": tfidf_linear_svc,
    "fastText": fasttext,
}


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _text(row: Row) -> str:
    return f"{row['subject']}\n{row['body']}"


def _line(row: Row) -> str:
    return " ".join(_text(row).split())


def main() -> None:
    name, folder, repeats, targets = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    learn = CLASSIFIERS[name]
    tickets = read(folder / "test.jsonl")
    _use_cores(TRAINING_THREADS)
    learn(folder / "warmup.jsonl", targets)  # imports and compiles, which is done once a machine
    training: list[float] = []
    peak = 0.0
    learned = None
    while learned is None or (len(training) < repeats and sum(training) < PATIENCE):
        learned = None  # two at a time would count as memory of one
        seconds, learned = _timed(lambda: learn(folder / "train.jsonl", targets))
        training.append(seconds)
        peak = peak or _peak_megabytes()
    _use_cores(CLASSIFYING_THREADS)
    answers = learned.classify(tickets)  # warms up, too
    alone = [[ticket] for ticket in tickets[:ALONE]]
    result = {
        "training_seconds": training,
        "peak_megabytes": peak,
        "microseconds_a_ticket": _microseconds(learned.classify, [tickets], repeats),
        "microseconds_a_ticket_alone": _microseconds(learned.classify, alone, repeats),
        "answers": answers,
    }
    if learned.decide:
        learned.decide(tickets)
        result["microseconds_a_decision"] = _microseconds(learned.decide, [tickets], repeats)
        result["microseconds_a_decision_alone"] = _microseconds(learned.decide, alone, repeats)
    (folder / "answers.json").write_text(json.dumps(result), encoding="utf-8")


def _timed(work: Callable[[], Learned]) -> tuple[float, Learned]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done


def _microseconds(answer: Callable[[list[Row]], object], calls: list[list[Row]], repeats: int) -> list[float]:
    """A ticket, of each repeat, where each of `calls` is handed over at once."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for tickets in calls:
            answer(tickets)
        times.append((time.perf_counter() - start) / sum(map(len, calls)) * 1e6)
    return times


def _use_cores(n: int) -> None:
    """Bind every thread of this process to `n` cores: where no library is asked to obey, none can cheat."""
    cores = _CORES[:n]
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


_CORES = sorted(os.sched_getaffinity(0))


def _peak_megabytes() -> float:
    # Not getrusage: it remembers the process that this one was started from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
