"""Experiments kept: what each training run was asked, what it learned from and how good it became, as plain files where analysts look.

``OUT/experiments/<version>/`` has `settings.json`, `figures.json`, `figures.md` (with the confusions), a plot or two for each target, and
`learned.npy`: a number for each ticket's text, by which a comparison knows the tickets that a router has learned from.
"""

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import bundle
from model.errors import BundleError
from training.errors import TrainingError
from training.table import TicketTable

FOLDER = "experiments"
SETTINGS, FIGURES, PAGE, LEARNED = "settings.json", "figures.json", "figures.md", "learned.npy"
LARGEST = 64 << 20  # bytes of a file that is read back
_HEADLINE = ("n", "accuracy", "macro_f1", "majority", "calibration_error", "promise", "protected")
_BULKY = ("confusion", "reliability", "risk", "labels", "languages", "interval", "tried")  # not compared number by number


def keep(folder: Path, version: str, facts: dict[str, Any], metrics: dict[str, Any], table: TicketTable) -> Path | None:
    """Leave the experiment of the bundle `version` beside it; `facts`: of its manifest, `metrics`: of its metrics file.

    The bundle is what matters: an experiment that cannot be written, or a plot that cannot be drawn, is a warning. Returns its folder.
    """
    home = folder / FOLDER / version
    making = None
    try:
        home.parent.mkdir(exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=home.parent))
        figures = {"version": version, "trained_on": facts["trained_on"] | _sizes(table), "libraries": facts["libraries"]} | metrics
        files = {SETTINGS: bundle.canonical(facts["settings"]), FIGURES: bundle.canonical(figures)}
        pictures = _pictures(metrics["cross_validation"]["targets"])
        files[PAGE] = _page(version, metrics["cross_validation"]["targets"], list(pictures)).encode()
        for name, data in (files | pictures).items():
            (making / name).write_bytes(data)
        np.save(making / LEARNED, np.unique(fingerprints(table.texts)), allow_pickle=False)
        making.chmod(0o755)
        making.rename(home)
    except Exception as error:
        if making:
            shutil.rmtree(making, ignore_errors=True)
        warnings.warn(f"the bundle is whole, but its experiment is not kept in {home}: {type(error).__name__}: {error}", stacklevel=2)
        return None
    return home


def fingerprints(texts: list[str]) -> NDArray[np.uint64]:
    """A number for each text, (texts,), that is the same for texts that differ in case only."""
    taken = (hashlib.blake2b(text.casefold().encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(taken), "<u8")


def data_digest(table: TicketTable) -> str:
    """The digest of what is learned from a table."""
    return digest([table.texts, table.labels, table.languages])


def digest(value: Any) -> str:
    return bundle.digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def learned(home: Path, manifest: dict[str, Any], table: TicketTable) -> dict[str, Any]:
    """How many tickets of `table` the bundle in `home` has learned from: ``{"known", "tickets", "said"}``.

    That is known by the number of each text, where the experiment was kept. Else the manifest's digest tells only whether it was this very
    table. Tickets that say nearly the same are not found.
    """
    path = home.parent / FOLDER / home.name / LEARNED
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        seen = np.load(path, allow_pickle=False)
        if seen.dtype != np.uint64 or seen.ndim != 1:
            raise ValueError("not numbers of texts")
    except (OSError, ValueError, EOFError):
        if manifest.get("trained_on", {}).get("data_digest") == data_digest(table):
            return {"known": True, "tickets": len(table), "said": f"{home.name} has learned from this very table"}
        said = (
            f"it is not known whether {home.name} has learned from some of these tickets: its experiment is not beside it, and its manifest tells "
            "only that this is not the whole table that it has learned from"
        )
        return {"known": False, "tickets": None, "said": said}
    tickets = int(np.isin(fingerprints(table.texts), seen).sum())
    said = f"{home.name} has learned from {tickets or 'none'} of these {len(table)} tickets (those that say nearly the same are not counted)"
    return {"known": True, "tickets": tickets, "said": said}


def read(folder: Path, version: str) -> dict[str, Any]:
    """The settings and figures of one experiment. Raises TrainingError where there is none."""
    home = folder / FOLDER / bundle.named(folder, version).name
    found = {}
    for name in (SETTINGS, FIGURES):
        try:
            if (home / name).stat().st_size > LARGEST:
                raise TrainingError(f"{home / name}: larger than the {LARGEST} bytes it may have")
            found[name.removesuffix(".json")] = json.loads((home / name).read_bytes())
        except FileNotFoundError as error:
            raise TrainingError(f"{home / name}: no such experiment; `pointsman experiments list` shows those that there are") from error
        except (OSError, ValueError, RecursionError) as error:
            raise TrainingError(f"{home / name}: cannot be read: it is damaged, or not an experiment's") from error
    return {"version": version} | found


def summaries(folder: Path) -> list[dict[str, Any]]:
    """All experiments below `folder`, oldest first: when, how many tickets, and the headline figures of each target by cross-validation.
    One that cannot be read has an `error` instead."""
    champion = bundle.champion(folder)
    found: list[dict[str, Any]] = []
    for home in sorted((folder / FOLDER).glob("[0-9]*")):
        try:
            figures = read(folder, home.name)["figures"]
            targets = {
                name: {key: own[key] for key in _HEADLINE if key in own} for name, own in figures["cross_validation"]["targets"].items() if own["n"]
            }
            line = {"at": home.name[:20], "tickets": figures["trained_on"]["tickets"], "targets": targets}
        except (TrainingError, BundleError, KeyError, TypeError) as error:
            line = {"error": str(error) if isinstance(error, TrainingError) else "not an experiment's figures"}
        found.append({"version": home.name, "champion": home.name == champion, "bundle": (folder / home.name).is_dir()} | line)
    return found


def differences(folder: Path, one: str, other: str) -> dict[str, list[list[Any]]]:
    """The settings and figures in which two experiments differ: ``{"settings": [[name, of one, of the other], ...], "figures": ...}``."""
    sides = [read(folder, version) for version in (one, other)]
    out = {}
    for part in ("settings", "figures"):
        a, b = (dict(_flat("", side[part])) for side in sides)
        names = [name for name in dict.fromkeys([*a, *b]) if name != "version" and a.get(name) != b.get(name)]
        out[part] = [[name, a.get(name), b.get(name)] for name in names]
    return out


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    inner = [(f"{prefix}.{name}" if prefix else name, below) for name, below in value.items() if name not in _BULKY]
    return [pair for name, below in inner for pair in _flat(name, below)]


def _sizes(table: TicketTable) -> dict[str, Any]:
    languages, counts = np.unique(np.array(table.languages, str), return_counts=True)
    labels = {
        name: dict(zip(*(x.tolist() for x in np.unique(np.array(of, str), return_counts=True)), strict=True)) for name, of in table.labels.items()
    }
    return {"languages_told": dict(zip(languages.tolist(), counts.tolist(), strict=True)), "label_counts": labels}


def _pictures(targets: dict[str, Any]) -> dict[str, bytes]:
    """Reliability, and risk against coverage, of each target; none of those that cannot be drawn."""
    found: dict[str, bytes] = {}
    try:
        from training import plots

        for number, (name, figures) in enumerate(targets.items(), 1):
            if figures["n"]:
                where = f"{number}-{re.sub('[^A-Za-z0-9]+', '-', name)[:40]}.svg"
                found[f"reliability-{where}"] = plots.reliability(name, figures)
                found[f"risk-{where}"] = plots.risk(name, figures)
    except Exception as error:
        warnings.warn(f"the plots of the experiment cannot be drawn: {type(error).__name__}", stacklevel=3)
    return found


def _page(version: str, targets: dict[str, Any], pictures: list[str]) -> str:
    lines = [f"# Experiment {version}", "", "By cross-validation: no ticket was judged by a router that saw it or its near-duplicates.", ""]
    for name, figures in targets.items():
        if not figures["n"]:
            continue
        labels = [_cell(label) for label in figures["labels"]]
        lines += [
            f"## {_cell(name)}",
            "",
            f"Accuracy {figures['accuracy']['share']}, macro-F1 {figures['macro_f1']}, calibration error {figures['calibration_error']}.",
            "",
            "Rows: the right label; columns: what was answered.",
            "",
            "| | " + " | ".join(labels) + " |",
            "|---" * (len(labels) + 1) + "|",
            *(f"| **{label}** | " + " | ".join(map(str, row)) + " |" for label, row in zip(labels, figures["confusion"], strict=True)),
            "",
        ]
    return "\n".join([*lines, *(f"![{name}]({name})" for name in pictures)]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
