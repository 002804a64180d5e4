"""Promotion that can be trusted: by a comparison that passed, or by a person who says who and why; and back again."""

from pathlib import Path
from typing import Any, NamedTuple

from model import bundle, promotions
from model.errors import BundleError
from training import gate
from training.errors import TrainingError


class Refused(Exception):
    """The gate does not let it through. The message says what was found and what to run."""


class Promoted(NamedTuple):
    """What was done: `version` serves instead of `before`; `note`: what was found to be amiss, and is recorded, or ""."""

    version: str
    before: str | None
    verdict: str
    note: str = ""


def promote(folder: Path, version: str, *, by: str = "", because: str = "", overrule: bool = False) -> Promoted:
    """Make `version` the champion of `folder` if a comparison with the present champion let it pass, or if somebody overrules that.

    Raises Refused; BundleError where the version is not there or does not verify; TrainingError where an overruling has no name or reason.
    """
    _check_words(by, because)
    if overrule and not (by and because):
        raise TrainingError("overruling the gate takes a name and a reason: --by NAME --because REASON")
    bundle.load(bundle.named(folder, version))
    note = _settled(folder)
    champion = bundle.champion(folder)
    if champion == version:
        return Promoted(version, version, "none", note)
    passed, comparison, why = _verdict(folder, version, champion)
    if not passed and not overrule:
        raise Refused(f"{why}; or overrule it: --by NAME --because REASON")
    verdict = "passed" if passed else "overruled"
    _replace(folder, version, champion, {"by": by, "reason": because, "verdict": verdict, "comparison": comparison})
    return Promoted(version, champion, verdict, note)


def roll_back(folder: Path, *, by: str, because: str) -> Promoted:
    """Make the champion before the present one the champion again. Raises as `promote` does."""
    _check_words(by, because)
    if not (by and because):
        raise TrainingError("a rollback takes a name and a reason: --by NAME --because REASON")
    note = _settled(folder)
    champion = bundle.champion(folder)
    before = promotions.before(promotions.history(folder))
    if before is None:
        raise Refused(f"{folder / promotions.FILE}: tells of no champion before {champion or 'this'}; name one: pointsman promote VERSION")
    bundle.load(bundle.named(folder, before))
    _replace(folder, before, champion, {"by": by, "reason": because, "event": "rolled_back"})
    return Promoted(before, champion, "none", note)


def _verdict(folder: Path, version: str, champion: str | None) -> tuple[bool, str | None, str]:
    """Whether a comparison made from these very bundles passed, its digest, and why not."""
    again = f"run: pointsman compare {folder / (champion or 'CHAMPION')} {folder / version} FILES"
    if champion is None:
        return False, None, f"{folder}: no champion to compare with"
    try:
        kept = gate.read(folder, version, champion)
    except TrainingError as error:
        return False, None, f"{error}; {again}"
    if kept is None:
        return False, None, f"{version} was not compared with the champion {champion}; {again}"
    try:
        present = {"champion": bundle.fingerprint(folder / champion), "candidate": bundle.fingerprint(folder / version)}
    except BundleError as error:
        return False, None, f"the champion cannot be read: {error}"
    if (kept.get("champion"), kept.get("candidate"), kept.get("manifests")) != (champion, version, present):
        return False, None, f"{gate.path_of(folder, version, champion)}: was made from other bundles; {again}"
    refused = [f"{check['about']}: {check['seen']}" for check in kept["verdict"]["checks"] if check["outcome"] == "refused"]
    return kept["verdict"]["passed"], kept["digest"], f"the gate refused {version}: {'; '.join(refused)}"


def _replace(folder: Path, version: str, champion: str | None, said: dict[str, Any]) -> None:
    try:
        bundle.promote(folder, version, instead_of=champion, **said)
    except bundle.AnotherChampion as error:
        raise Refused(f"{error}; compare with that one") from error


def _settled(folder: Path) -> str:
    found = bundle.settle(folder)
    return found.reason if found else ""


def _check_words(*said: str) -> None:
    for words in said:
        if len(words) > promotions.LONGEST or not (words.isprintable() or not words):
            raise TrainingError(f"a name and a reason are one line of at most {promotions.LONGEST} printable characters each")
