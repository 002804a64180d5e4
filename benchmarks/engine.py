"""What the engine is worth beyond one split of one table: `python benchmarks/engine.py [NAME...]`.

- `exam`: the shipped router on the exam, by the fast path, the deep one and both, and the milliseconds of tickets that come one by one;
- `few`: ten questions an intent; `xsid`: languages that training did not see;
- `calibration`: confidences, promised precision and recall, by resampling, and again when the mix shifts;
- `scope`: text that is none of the router's business; `language`: which language, beside langdetect;
- `scale`: seconds and memory of training, as tables grow.

Embeddings are kept in benchmarks/.embeddings; where they are missing they are made, 25,000 texts at 30 ms and more.
"""

import json
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import training.fit as learning
from model import scoring
from model.cleaning import clean
from model.decision import Decider, Ticket
from model.encoder import LOCAL, Encoder, Rows, open_encoder
from model.language import detect
from model.policy import load_policy
from model.router import Router
from model.taxonomy import load_taxonomy
from training import calibrate, duplicates
from training.embeddings import SHIPPED, Store, beside, for_training
from training.evaluate import evaluate, share
from training.features import Recipe, TermCounts
from training.split import folds
from training.table import TicketTable, read_table

HERE = Path(__file__).resolve().parent
TAXONOMY = load_taxonomy()
PER_INTENT, SEEDS = 10, range(5)
LEARNED = ("en", "de", "it", "nl")  # of xsid's languages
PROMISES = (0.90, 0.95, 0.97)
SPLITS = 200
OFTEN = 0.8  # the share, after the shift, of the labels that had about half
KEPT = 0.95  # of in-scope tickets, where limits are compared
WARM = 50  # texts
SAMPLE = 600  # texts that langdetect reads of each set
SIZES, MILLION = (38_269, 150_000), 1_000_000
SPAM = """\
Congratulations! You have been selected to receive a free cruise for two, claim within 24 hours | Hot singles in your area are waiting to meet you
tonight, no sign up needed | Lose 10 kilos in 10 days with this one weird trick doctors hate | Cheap replica watches, 90% off, worldwide shipping,
buy two get one free | Earn $5000 a week working from home, no experience required, ask me how | Dear beloved, I am the widow of a late general and
wish to share 18 million dollars with you | Your horoscope for this week is ready: love and fortune are coming to Scorpios | Get rich quick with
crypto, our signals made 300% last month, join our channel | Best pills without prescription, discreet packaging, overnight delivery | Play at our
casino now and receive 200 free spins on your first deposit | Buy cheap sunglasses and designer handbags, summer sale ends at midnight | You won the
lottery!!! Send your name, age and bank account to collect the prize | Refinance your mortgage today at the lowest rates of the year, bad credit
accepted | Make your neighbours jealous: new solar panels at zero cost, call our hotline now | Miracle cream removes wrinkles in three days,
celebrities swear by it | Herzlichen Glückwunsch, Sie haben einen Einkaufsgutschein über 500 Euro gewonnen | Abnehmen ohne Sport: mit dieser
Wunderpille schmilzt das Bauchfett über Nacht | Einsame Frauen aus deiner Stadt warten auf dich, melde dich jetzt kostenlos an | Billige
Potenzmittel rezeptfrei und diskret nach Hause geliefert | Félicitations, vous avez gagné un week-end à Venise, cliquez ici pour en profiter |
Perdez du poids sans effort grâce à ce thé brûle-graisse venu du Japon | Rencontrez des célibataires près de chez vous dès ce soir | Voyance
gratuite par téléphone, votre avenir amoureux dévoilé en dix minutes | Felicidades, ha sido elegido para recibir un teléfono nuevo totalmente gratis
| Gane dinero desde casa sin invertir, plazas limitadas, escriba ahora | Ofertas increíbles en perfumes originales, envío gratis solo esta semana |
Complimenti! Hai vinto un buono spesa da 1000 euro, ritiralo subito | Dimagrisci cinque chili in una settimana con le nostre gocce naturali |
Parabéns, o seu número foi sorteado e ganhou um carro novo | Empréstimo imediato sem consulta ao cadastro, dinheiro na mão em uma hora | Gratulacje,
wygrałeś ekspres do kawy, odbierz nagrodę w ciągu doby | Tanie pożyczki bez zaświadczeń, pieniądze jeszcze dziś w domu | Поздравляем, вы выиграли
миллион рублей, заберите приз сегодня | Похудейте к лету без диет, чудо-чай со скидкой семьдесят процентов |
恭喜您中奖了，请立即领取您的大礼包 | おめでとうございます、高級腕時計が当選しました"""

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]
Found = dict[str, dict[str, Any]]  # rows of columns: what is printed and written


@cache
def _store() -> Store:
    return Store.read(LOCAL, [SHIPPED, beside(HERE, LOCAL)])


def _encode(texts: list[str]) -> Rows:
    if _store().missing(texts):
        _store().embed(texts, open_encoder(LOCAL, seconds=120.0))
    return _store().rows(texts)


def _fit(table: TicketTable, encoder: str = LOCAL) -> learning.Trained:
    return learning.fit(table, learning.Settings(), TAXONOMY, embedded=for_training(table, TAXONOMY, encoder, 60.0, HERE)[0])


@cache
def _default() -> learning.Trained:
    """The router of `make run`, learned from the shipped tickets."""
    return _fit(_shipped("tickets"))


def _shipped(part: str) -> TicketTable:
    return read_table([str(file) for file in sorted((HERE.parent / "data" / part).glob("*.jsonl"))], for_training=part == "tickets")


def _public(folder: Path, half: str) -> TicketTable:
    return read_table([str(next(folder.glob(f"{half}.csv*")))], text=["text"], targets={"label": "label"}, for_training=half == "train")


def _by_path(router: Router, table: TicketTable) -> dict[str, tuple[Router, dict[str, Any]]]:
    """The fast path alone, the deep one asked for every ticket, and both as they work together: who was asked, and the figures."""
    always = replace(router, deep=router.deep and replace(router.deep, ask=dict.fromkeys(router.deep.ask, 1.01)))
    asked = {"fast": (router, None), "deep": (always, _encode), "cascade": (router, _encode)}
    return {path: (own, evaluate(own, table, encode)) for path, (own, encode) in asked.items()}


def _paths(router: Router, table: TicketTable) -> Found:
    """The figures of the one target of a public table, by path."""
    found = _by_path(router, table)
    return {path: figures["targets"]["label"] | {"asked": figures["asked"]["share"]} for path, (_, figures) in found.items()}


def exam(data: Path) -> Found:  # noqa: ARG001  # as the other parts
    table = _shipped("exam")
    core = set(TAXONOMY.languages["core"])
    encoder = open_encoder(LOCAL, seconds=120.0, engines=1)
    found: Found = {}
    for path, (router, figures) in _by_path(_default().router, table).items():
        row: dict[str, Any] = {"asked": figures["asked"]["share"]}
        for name, of in figures["targets"].items():
            by_language = of["languages"]
            for who, codes in (("core", core), ("others", set(by_language) - core)):
                own = [each for code, each in by_language.items() if code in codes]
                row[f"{name}, {who}"] = float(np.average([each["share"] for each in own], weights=[each["n"] for each in own]))
            row[f"{name} by language"] = {code: each["share"] for code, each in by_language.items()}
        row["recall of incidents"] = figures["targets"]["kind"]["protected"]["incident"]["recall"]
        taken = _milliseconds(Decider(router, load_policy()), table.texts, None if path == "fast" else encoder)
        found[path] = row | {"mean ms": float(np.mean(taken)), "p50 ms": float(np.median(taken)), "p99 ms": float(np.quantile(taken, 0.99))}
    return found


def _milliseconds(decider: Decider, texts: list[str], encoder: Encoder | None) -> list[float]:
    """What each takes by itself, with explanation and advice, once the first have warmed everything up."""
    taken = []
    for text in [*texts[:WARM], *texts]:
        start = time.perf_counter()
        decider.decide([Ticket(body=text)], explain=True, advise=True, encoder=encoder)
        taken.append(1e3 * (time.perf_counter() - start))
    return taken[WARM:]


def few(data: Path) -> Found:
    train, test = (_public(data / "banking77", half) for half in ("train", "test"))
    labels, draws = np.array(train.labels["label"]), []
    for seed in SEEDS:
        chance = np.random.default_rng(seed)
        drawn = np.concatenate([chance.permutation(np.flatnonzero(labels == label))[:PER_INTENT] for label in sorted(set(labels))])
        which = np.sort(drawn).tolist()
        labelled = {"label": labels[which].tolist()}
        own = replace(train, texts=[train.texts[i] for i in which], labels=labelled, languages=[train.languages[i] for i in which])
        draws.append(_paths(_fit(own).router, test))
    found: Found = {}
    for path in draws[0]:
        accuracy = np.array([draw[path]["accuracy"]["share"] for draw in draws])
        means = {name: float(np.mean([draw[path][name] for draw in draws])) for name in ("macro_f1", "asked", "calibration_error")}
        found[path] = {"accuracy": accuracy.mean(), "deviation": accuracy.std(ddof=1)} | means
        found[path] |= {f"seed {seed}": draw[path]["accuracy"] for seed, draw in zip(SEEDS, draws, strict=True)}
    return found


def xsid(data: Path) -> Found:
    train, tested = (pd.read_csv(data / "xsid" / f"{half}.csv", keep_default_na=False) for half in ("train", "test"))
    with tempfile.TemporaryDirectory(prefix="pointsman-xsid-") as folder:
        train[train["language"].isin(LEARNED)].to_csv(f"{folder}/train.csv", index=False)
        router = _fit(_public(Path(folder), "train")).router
    # Dialects have tags of their own there, which reading shortens to "de".
    test = replace(_public(data / "xsid", "test"), languages=tested["language"].tolist())
    paths = _paths(router, test)
    found: Found = {code: {path: own["languages"][code] for path, own in paths.items()} for code in sorted(set(test.languages))}
    for name, among in (("mean", set(found)), ("mean of learned", set(LEARNED)), ("mean of others", set(found) - set(LEARNED))):
        found[name] = {path: float(np.mean([own["languages"][code]["share"] for code in among])) for path, own in paths.items()}
    for name in ("accuracy", "macro_f1", "calibration_error", "asked"):
        found[name] = {path: own[name] for path, own in paths.items()}
    return found


def calibration(data: Path) -> Found:
    found: Found = {}
    for name in ("it_service", "banking77", "exam"):
        train, test = (_shipped("tickets"), _shipped("exam")) if name == "exam" else (_public(data / name, half) for half in ("train", "test"))
        trained = _default() if name == "exam" else _fit(train, "none" if name == "it_service" else LOCAL)
        router = trained.router
        cases = {"cross-validated": (train, _held_out(train, trained)), "fast": (test, _probabilities(router, test.texts))}
        if router.deep:
            cases["cascade"] = test, _probabilities(router, test.texts, _encode)
        for (case, (table, probabilities)), target in ((case, target) for case in cases.items() for target in router.targets):
            p, codes, learned = probabilities[target.name], table.codes(target.name, target.labels), train.codes(target.name, target.labels)
            places = {label: target.labels.index(label) for label in TAXONOMY.protected(target.name)}
            prior = _prior(codes, target.labels, places)
            moved = p * np.exp(calibrate.shift(learned, target.labels, prior))
            weights = np.exp(calibrate.shift(codes, target.labels, prior))[codes]
            for mix, own in {"": _promised(p, codes, np.ones(len(codes)), places), ", shifted": _promised(moved, codes, weights, places)}.items():
                found |= {f"{name} {target.name}, {case}{mix}: {promise}": figures for promise, figures in own.items()}
        for case, encode in ({"fast": None, "cascade": _encode} if router.deep else {"fast": None}).items():
            for target_name, own in evaluate(router, test, encode)["targets"].items():
                thresholds = {"n": own["n"], "error": own["calibration_error"], "observed": own["promise"]["observed"]}
                found[f"{name} {target_name}, {case}, the bundle's threshold"] = thresholds | {"coverage": own["promise"]["coverage"]}
                for label, recall in own.get("protected", {}).items():
                    found[f"{name} {target_name}, {case}, the bundle's {label}"] = {"observed": recall["recall_with_possible"]}
    return found


def _held_out(table: TicketTable, trained: learning.Trained) -> dict[str, Numbers]:
    """Each ticket's probabilities by classifiers and a calibration that did not see it. `fit` makes the same and keeps its summaries alone."""
    recipe, cost = Recipe(**trained.chosen["recipe"]), trained.chosen["cost"]
    counts = TermCounts.of(table.texts, max(one.reach for one in learning.RECIPES))
    heads = [head for head in learning._heads(table, table.languages) if not head.is_language]
    strata = ["\x1f".join(parts) for parts in zip(*(table.labels[head.name] for head in heads), table.languages, strict=True)]
    split = folds(strata, duplicates.groups(counts.words, counts.word_hashes), 0)
    scored = [learning._score(counts, heads, fold, recipe, (cost,), 0)[cost] for fold in split]
    scores = learning._together(split, scored, np.zeros((len(table), heads[-1].columns.stop), np.float32))
    return {head.name: learning._calibrate(head, scores, split, learning.Settings(), TAXONOMY)[1] for head in heads}


def _probabilities(router: Router, texts: list[str], encode: Callable[[list[str]], Rows] | None = None) -> dict[str, Numbers]:
    answers = router.answer(texts)
    doubtful = np.flatnonzero(answers.doubtful)
    if encode and len(doubtful):
        asked = [texts[i] for i in doubtful]
        for name, p in router.answer(asked, embeddings=encode(asked)).probabilities.items():
            answers.probabilities[name][doubtful] = p
    return {name: p.astype(float) for name, p in answers.probabilities.items()}


def _prior(codes: Codes, labels: tuple[str, ...], protected: dict[str, int]) -> dict[str, float]:
    """A mix as `--prior` is told it: the labels are parted into two halves of about as many tickets (of `kind`, its two labels), and one of
    them, without what is protected, comes to have `OFTEN` of all."""
    counts, sides = np.bincount(codes, minlength=len(labels)), ([], [])  # type: tuple[Codes, tuple[list[int], list[int]]]
    for code in np.argsort(-counts, kind="stable").tolist():
        min(sides, key=lambda side: counts[side].sum()).append(code)
    usual = sorted(sides, key=lambda side: bool(set(side) & set(protected.values())))
    return {labels[code]: part * counts[code] / counts[side].sum() for part, side in zip((OFTEN, 1 - OFTEN), usual, strict=True) for code in side}


def _promised(p: Numbers, codes: Codes, weights: Numbers, protected: dict[str, int]) -> Found:
    """What was promised on one half of the tickets and what the other half shows, over random halves. The half that judges is itself a
    sample: a limit that keeps its promise nine times in ten (`calibrate.RISK`) is seen to keep it about 82 times in 100."""
    p = p / p.sum(axis=1, keepdims=True)
    guess, confidence, chance = p.argmax(axis=1), p.max(axis=1), np.random.default_rng(0)
    right = guess == codes
    perfect = [_error(confidence, chance.random(len(p)) < confidence, weights) for _ in range(SPLITS)]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for half in (chance.permutation(len(p)) < len(p) // 2 for _ in range(SPLITS)):
        for promise in PROMISES:
            threshold = calibrate.promise_threshold(confidence[half], right[half], promise, weights[half])
            covered = ~half & (confidence >= (2.0 if threshold is None else threshold))
            observed = float(np.average(right[covered], weights=weights[covered])) if covered.any() else np.nan
            pairs.setdefault(f"precision {promise}", []).append((observed, weights[covered].sum() / weights[~half].sum()))
        for label, code in protected.items():
            held = (guess == code) | (p[:, code] >= calibrate.protect_threshold(p[half & (codes == code), code], learning.RECALL))
            recall = float(held[~half & (codes == code)].mean())
            pairs.setdefault(f"recall of {label} {learning.RECALL}", []).append((recall, np.average(held[~half], weights=weights[~half])))
    found: Found = {}
    for name, told in pairs.items():
        observed, coverage = np.array([pair for pair in told if np.isfinite(pair[0])] or np.empty((0, 2))).T
        found[name] = {"n": len(p), "accuracy": float(np.average(right, weights=weights)), "error": _error(confidence, right, weights)}
        found[name] |= {"a perfect one's": float(np.mean(perfect)), "97.5%": float(np.quantile(perfect, 0.975)), "with a threshold": len(observed)}
        if len(observed):
            found[name] |= {"kept": share(observed >= float(name.split()[-1])), "observed": observed.mean(), "coverage": coverage.mean()}
            found[name] |= {"2.5% to 97.5%": np.quantile(observed, [0.025, 0.975]).tolist()}
    return found


def _error(confidence: Numbers, right: NDArray[np.bool_], weights: Numbers) -> float:
    """`training.evaluate.calibration_error`, weighted."""
    gaps = ((right - confidence) * weights)[np.argsort(confidence, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, 15)) / weights.sum())


def scope(data: Path) -> Found:
    router, chance = _default().router, random.Random(0)
    nonsense = [["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 10))) for _ in range(chance.randint(4, 25))] for _ in range(300)]
    texts = {"exam": _shipped("exam").texts, **{name: _public(data / name, "test").texts for name in ("banking77", "xsid")}}
    texts |= {"gibberish": [" ".join(words) for words in nonsense], "spam": [clean("", text) for text in SPAM.replace("\n", " ").split("|")]}
    known = {name: seen / np.maximum(words, 1) for name, own in texts.items() for _, words, seen in [scoring.score(own, router.rows, router.bias)]}
    near = {name: router.deep.machine.scores(_encode(own))[1] for name, own in texts.items() if router.deep}
    ways: dict[str, Any] = {"known words": (known, router.least_known), "nearest ticket": (near, router.deep.scope if router.deep else 0.0)}
    found: Found = {}
    for way, (scores, shipped) in ways.items():
        for what, limit in ((f"at {KEPT} of the exam", float(np.quantile(scores["exam"], 1 - KEPT))), ("as shipped", shipped)):
            found[f"{way}, {what}"] = {"limit": limit} | {name: share(own < limit) for name, own in scores.items()}
    decider = Decider(router, load_policy())
    for way, encoder in {"fast alone": None, "cascade": cast(Encoder, SimpleNamespace(encode=_encode))}.items():
        for name, own in texts.items():
            decided = decider.decide([Ticket(body=text) for text in own], encoder=encoder)
            found.setdefault(f"{way}: unfamiliar", {})[name] = share(np.array(["unfamiliar" in one["reasons"] for one in decided]))
            for action in ("review", "suggest", "auto"):
                found.setdefault(f"{way}: {action}", {})[name] = share(np.array([one["action"] == action for one in decided]))
    return found


def language(data: Path) -> Found:
    """Its times are worth their order of magnitude only while others work on the machine."""
    router, exam = _default().router, _shipped("exam")
    rows = pd.read_csv(data / "language_id" / "test.csv.gz", keep_default_na=False)
    sets = {f"language_id, {kind}": (own["text"].tolist(), own["language"].tolist()) for kind, own in rows.groupby("kind")}
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "Pointsman": lambda texts: [code for code, _ in router.answer(texts).languages],
        "langdetect": lambda texts: [detect(text)[0] for text in texts],
    }
    found: Found = {}
    for answer in ways.values():
        answer(exam.texts[:100])  # what is made once
    for name, (texts, gold) in (sets | {"exam": (exam.texts, exam.languages)}).items():
        sample = sorted(random.Random(0).sample(range(len(texts)), SAMPLE))
        for way, which in (("Pointsman", [*range(len(texts))]), ("Pointsman", sample), ("langdetect", sample)):
            own = [clean("", texts[i]) for i in which]
            start, guesses = time.perf_counter(), ways[way](own)
            us = (time.perf_counter() - start) / len(which) * 1e6
            right, spoken = np.array([guess == gold[i] for guess, i in zip(guesses, which, strict=True)]), np.array([gold[i] for i in which])
            by = {code: share(right[spoken == code]) for code in sorted(set(gold))}
            found[f"{name}, {way}, {len(which)} texts"] = {"right": share(right), "microseconds a text": us, "by_language": by}
    return found


def scale(data: Path, million: bool = False) -> Found:
    frame = pd.read_csv(data / "it_service" / "train.csv.gz", keep_default_na=False)
    options = ["--text=text", "--target=label", "--encoder=none", "--out=out"]
    found: Found = {}
    for size in [*SIZES, *([MILLION] if million else [])]:
        with tempfile.TemporaryDirectory(prefix="pointsman-scale-") as folder:
            _resample(frame, size).to_csv(f"{folder}/train.csv", index=False)
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, str(HERE.parent / "pointsman.py"), "train", "train.csv", *options],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, used = os.wait4(process.pid, 0)  # the peak of this child alone
        seconds, processor = time.perf_counter() - start, used.ru_utime + used.ru_stime
        found[f"{size} tickets"] = {"status": status, "seconds": seconds, "of a processor": processor, "peak, GB": used.ru_maxrss / 2**20}
    return found


def _resample(frame: pd.DataFrame, size: int) -> pd.DataFrame:
    """The table itself, then tickets of it drawn again, each with about one word in eight left out or swapped with the one before."""
    chance, texts, labels = random.Random(0), frame["text"].tolist()[:size], frame["label"].tolist()[:size]
    for i in chance.choices(range(len(texts)), k=size - len(texts)):
        words = texts[i].split()
        for place in sorted(chance.sample(range(1, len(words)), (len(words) + 6) // 8), reverse=True):
            words[place - 1 : place + 1] = chance.choice([[words[place]], [words[place], words[place - 1]]])
        texts.append(" ".join(words))
        labels.append(labels[i])
    return pd.DataFrame({"text": texts, "label": labels})


PARTS = {part.__name__: part for part in (exam, few, xsid, calibration, scope, language, scale)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--data", default=HERE.parent.parent / "shared" / "data", type=click.Path(path_type=Path), help="Folder of public data sets.")
@click.option("--million", is_flag=True, help="Let `scale` go on to a million tickets.")
def main(names: tuple[str, ...], data: Path, million: bool) -> None:
    """Measure the parts NAMES of the engine, all by default; write results/engine.json, where other parts stay as they are."""
    file = HERE / "results" / "engine.json"
    for name in names or PARTS:
        start, load = time.perf_counter(), os.getloadavg()[0]  # before the work: what others do
        found = scale(data, million) if name == "scale" else PARTS[name](data)
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout.strip()
        facts = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "commit": commit, "cores": os.cpu_count(), "load_average_before": load}
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        known[name] = facts | {"took": time.perf_counter() - start, "results": found}
        # Five significant digits: more would be noise.
        known = json.loads(json.dumps(known), parse_float=lambda number: float(f"{float(number):.5g}"))
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        _show(f"{name}, {known[name]['took']:.0f} s", found)


def _show(title: str, found: Found) -> None:
    table = Table("", title=title, title_justify="left")
    columns = dict.fromkeys(column for row in found.values() for column, value in row.items() if _cell(value) is not None)
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in found.items():
        table.add_row(name, *(_cell(row.get(column)) or "" for column in columns))
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def _cell(value: Any) -> str | None:
    """None for what is written but too long to be shown."""
    if isinstance(value, dict):
        return f"{value['share']:.3f} {_cell(value['interval'])}" if value.get("share") is not None else None
    if isinstance(value, list):
        return " ".join(f"{each:.3f}" for each in value)
    return f"{value:.4f}" if isinstance(value, float) else value if value is None else str(value)


if __name__ == "__main__":
    main()
