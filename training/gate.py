"""The gate: may the candidate take the champion's place? It refuses what is significantly worse, and says what it could not have seen.

Four families of checks, one-sided, each held to `alpha` as a family (Holm): recall of protected labels, accuracy overall, accuracy in each
language, and the promise. Then what makes the figures worthless: a target or label that cannot be judged, tickets that were learned from.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model import bundle
from model.promotions import now
from training import paired
from training.errors import TrainingError

FORMAT = 1
FOLDER = "comparisons"
LARGEST = 64 << 20  # bytes of a verdict
Outcome = Literal["held", "refused", "not judged"]


@dataclass(frozen=True)
class GateSettings:
    """`alpha`: the chance of each family to refuse a candidate that is as good; `least`: tickets from which a target or language is judged,
    and `least_protected` of a protected label; `loss` and `power`: the loss that should be seen, with which chance, or it is said."""

    alpha: float = 0.05
    least: int = 50
    least_protected: int = 20
    loss: float = 0.05
    power: float = 0.8


@dataclass(frozen=True)
class Check:
    """One question of the gate. `p_value`: of what was seen where the candidate is no worse, adjusted for the family; `seen` and `blind` (what
    could not have been seen, or ""): for people."""

    family: Literal["protected", "overall", "language", "promise", "judged", "unseen"]
    about: str
    outcome: Outcome
    seen: str
    n: int = 0
    p_value: float | None = None
    blind: str = ""


def judge(figures: dict[str, Any], settings: GateSettings | None = None, learned: dict[str, Any] | None = None) -> dict[str, Any]:
    """The verdict on the `figures` of `training.compare.measure`; `learned`: what is known of tickets that were learned from
    (`training.experiments.learned`). ``{"passed", "checks", "blind", "settings"}``."""
    settings = settings or GateSettings()
    checks = [
        *_judged(figures),
        *_unseen(learned or {}),
        *_losses("protected", _protected(figures), settings.least_protected, settings),
        *_losses("overall", [(f"accuracy of {name}", f["accuracy"]) for name, f in figures["targets"].items()], settings.least, settings),
        *_losses("language", _languages(figures), settings.least, settings),
        *_promises(figures, settings),
    ]
    return {
        "passed": all(check.outcome != "refused" for check in checks),
        "checks": [asdict(check) for check in checks],
        "blind": [check.blind for check in checks if check.blind],
        "settings": asdict(settings),
    }


def _protected(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (about, of[key])
        for name, f in figures["targets"].items()
        for label, of in f["protected"].items()
        for about, key in ((f"recall of {name} {label}", "recall"), (f"{name} {label} not let pass", "not_let_pass"))
    ]


def _languages(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"accuracy of {name} in {code}", own) for name, f in figures["targets"].items() for code, own in f["languages"].items()]


def _losses(
    family: Literal["protected", "overall", "language"], differences: list[tuple[str, dict[str, Any]]], least: int, settings: GateSettings
) -> Iterator[Check]:
    """Checks that nothing is lost. A language with too few tickets is not judged; without a target or a protected label there is no verdict."""
    judged = [(about, own) for about, own in differences if own["n"] >= least]
    adjusted = dict(zip([about for about, _ in judged], paired.holm([own["p_loss"] for _, own in judged]), strict=True))
    for about, own in differences:
        n = own["n"]
        if about not in adjusted:
            blind = f"{about}: {n} tickets are too few to judge by: bring {least - n} more that neither has learned from; a loss of any size could not have been seen"
            outcome: Outcome = "not judged" if family == "language" else "refused"
            yield Check(family, about, outcome, f"{n} tickets", n, blind=blind)
            continue
        refused = adjusted[about] <= settings.alpha
        told = f"{own['champion']:.4f} -> {own['candidate']:.4f} {own['interval'] or ''} on {n} tickets; lost {own['lost']}, won {own['won']}"
        blind = "" if refused else _blind(about, own, settings, len(judged))
        yield Check(family, about, "refused" if refused else "held", told, n, adjusted[about], blind)


def _blind(about: str, own: dict[str, Any], settings: GateSettings, together: int) -> str:
    """What loss could not have been seen, by the level that the first of the family is held to; "" where `settings.loss` could."""
    groups, alpha = own["groups"], settings.alpha / together
    anyway = 2 * min(own["lost"], own["won"]) / groups  # the two differ in so many, to and fro
    if paired.power(groups, anyway, settings.loss, alpha) >= settings.power:
        return ""
    least = paired.detectable(groups, anyway, alpha, settings.power)
    from_where = f"; one of {100 * least:.0f} points could" if least else ""
    return f"{about}: a loss of {100 * settings.loss:.0f} points could not have been seen with n={own['n']}{from_where}"


def _promises(figures: dict[str, Any], settings: GateSettings) -> Iterator[Check]:
    """Checks that what the candidate routes without a person is as right as it promised."""
    promises = {name: f["promise"] for name, f in figures["targets"].items()}
    adjusted = dict(zip(promises, paired.holm([p["candidate"]["p_value"] for p in promises.values()]), strict=True))
    for name, both in promises.items():
        own, other = both["candidate"], both["champion"]
        about = f"promise of {name}"
        if not own["n"]:
            yield Check("promise", about, "not judged", f"the candidate routes nothing without a person; the champion {other['n']} tickets")
            continue
        told = f"{own['observed']:.4f} of {own['n']} routed without a person are right, {own['promised']:g} was promised"
        if other["n"]:
            told += f"; champion {other['observed']:.4f} of {other['n']}"
        outcome: Outcome = "refused" if adjusted[name] <= settings.alpha else "held"
        blind = f"{about}: {own['n']} routed tickets are too few to judge by" if own["n"] < settings.least and outcome == "held" else ""
        yield Check("promise", about, outcome, told, own["n"], adjusted[name], blind)


def _judged(figures: dict[str, Any]) -> Iterator[Check]:
    """What the champion answers must be judged."""
    for name in figures["missing"]:
        yield Check("judged", f"target {name}", "refused", "the champion answers it; the table has no labels of it, or the candidate no answer")
    for name, f in figures["targets"].items():
        gone = sorted(set(f["unknown_labels"]["candidate"]) - set(f["unknown_labels"]["champion"]))
        if gone:
            yield Check("judged", f"labels of {name}", "refused", f"the candidate does not know {', '.join(gone)}, which the champion does")


def _unseen(learned: dict[str, Any]) -> Iterator[Check]:
    """A candidate must not be judged on tickets that it alone has learned from."""
    own, other = (learned.get(who, {}) for who in ("candidate", "champion"))
    if own.get("tickets") and not other.get("tickets"):
        told = f"the candidate has learned from {own['tickets']} of the tickets that it is judged on, the champion from none that is known"
        yield Check("unseen", "tickets that were learned from", "refused", told, own["tickets"])


def path_of(folder: Path, candidate: str, champion: str) -> Path:
    """Where the verdict on the two is kept beside the bundles in `folder`."""
    return folder / FOLDER / f"{candidate}-against-{champion}.json"


def keep(folder: Path, homes: dict[str, Path], figures: dict[str, Any], verdict: dict[str, Any], table: dict[str, Any]) -> Path:
    """Write the verdict, with its figures, atomically. `homes`: the folders of `champion` and `candidate`; `table`: what it was judged on."""
    path = path_of(folder, figures["candidate"], figures["champion"])
    content = {
        "format": FORMAT,
        "at": now(),
        "champion": figures["champion"],
        "candidate": figures["candidate"],
        "manifests": {who: bundle.fingerprint(home) for who, home in homes.items()},
        "table": table,
        "verdict": verdict,
        "figures": figures,
    }
    content["digest"] = bundle.digest(bundle.canonical(content))
    path.parent.mkdir(exist_ok=True)
    bundle.write(path, bundle.canonical(content))
    return path


def read(folder: Path, candidate: str, champion: str) -> dict[str, Any] | None:
    """The kept verdict on the two; None where there is none. Raises TrainingError where the file is damaged or was changed."""
    path = path_of(folder, candidate, champion)
    try:
        if path.stat().st_size > LARGEST:
            raise TrainingError(f"{path}: larger than the {LARGEST} bytes it may have; compare again")
        content = json.loads(path.read_bytes())
        told = content.pop("digest", None) if isinstance(content, dict) else None
        sound = told is not None and told == bundle.digest(bundle.canonical(content)) and content.get("format") == FORMAT
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: cannot be read; compare again") from error
    if not sound:
        raise TrainingError(f"{path}: damaged or changed since it was written; compare again")
    return dict(content) | {"digest": told}
