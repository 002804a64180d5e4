"""A trained router on disk: data only, versioned, checked.

A bundle is a folder named after its version. `manifest.json` names every other file with its size and SHA-256, and ends
with its own digest; it is written in one canonical form, so that any changed byte is seen. Loading inspects everything
(size, digest, format, shapes) before it constructs anything, and runs no code from the files.
"""

import hashlib
import json
import math
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from types import EllipsisType
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from model import promotions
from model.deep import Deep, KernelMachine
from model.errors import BundleError
from model.router import Router, Target
from model.scoring import EMPTY, MOST_ROWS, Rows

FORMAT: Final = 2  # raise it when old code could misread new files; keep a reader for each older number
MANIFEST = "manifest.json"
ARRAYS = "arrays.npz"
DEEP = "deep.npz"
SETTINGS = "router.json"
METRICS = "metrics.json"
CARD = "MODEL_CARD.md"
CHAMPION = "champion"

LARGEST_MANIFEST = 1 << 20
LARGEST_FILE = 4 << 30
_VERSION = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{4,16}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HEADER = re.compile(  # of a .npy file: magic, version 1.0, the header's length, the header
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype><[ufi]\d)', 'fortran_order': False, 'shape': \((?P<shape>\d{1,12}, ?(?:\d{1,6})?)\), \} *\n",
    re.DOTALL,
)
_Shapes = dict[str, tuple[str, int]]  # array: dtype, dimensions
_SHAPES: _Shapes = {"slots": ("<u8", 1), "values": ("<f4", 2), "bias": ("<f4", 1)}
_DEEP_SHAPES: _Shapes = {
    "probe": ("<f4", 1), "mean": ("<f4", 1), "anchors": ("<f2", 2), "weights": ("<f4", 2), "shares": ("<f4", 1)
}  # fmt: skip


class _Head(BaseModel):
    """A `Target`, as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: Annotated[str, StringConstraints(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    first: Annotated[int, Field(ge=0)]
    sharpness: Annotated[float, Field(gt=0)]
    offsets: tuple[float, ...]
    promise: Annotated[float, Field(ge=0, le=1)]
    threshold: float | None
    protect: dict[str, float]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) != len(self.labels) or len(self.offsets) != len(self.labels) or not set(self.protect) <= set(self.labels):
            raise ValueError(f"the labels of {self.name} do not fit together")
        return self


class _Deep(BaseModel):
    """A `Deep` without its arrays, as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    encoder: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    mixed: tuple[_Head, ...]
    alone: tuple[_Head, ...]
    width: Annotated[float, Field(gt=0, le=1e6)]
    scope: Annotated[float, Field(ge=0, le=1)]
    ask: dict[str, float]


class _Settings(BaseModel):
    """`router.json`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    targets: Annotated[tuple[_Head, ...], Field(min_length=1)]
    languages: _Head | None
    only_language: str | None
    least_known: float
    first_pair: Annotated[int, Field(ge=0)]
    reach: Annotated[int, Field(ge=1, le=64)]
    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    deep: _Deep | None


def save(router: Router, folder: Path, facts: dict[str, Any], extra: dict[str, bytes]) -> Path:
    """Write `router` to ``folder/<its version>`` and return that path. It appears whole or not at all.

    `facts` go into the manifest (data and settings digests, library versions, metrics); `extra` are further files.
    Raises BundleError where the version is there already.
    """
    home = folder / router.version
    if home.exists():
        raise BundleError(f"{home}: there is a bundle of this version already")
    folder.mkdir(parents=True, exist_ok=True)
    rows = router.rows
    settings = {
        "targets": [asdict(target) for target in router.targets],
        "languages": asdict(router.languages) if router.languages else None,
        "only_language": router.only_language,
        "least_known": router.least_known,
        "first_pair": rows.first_pair,
        "reach": rows.reach,
        "text_columns": router.text_columns,
        "deep": None,
    }
    files = {ARRAYS: _packed({"slots": rows.slots, "values": rows.values, "bias": router.bias}), **extra}
    if deep := router.deep:
        settings["deep"] = {
            "encoder": deep.encoder,
            "mixed": [asdict(target) for target in deep.mixed],
            "alone": [asdict(target) for target in deep.alone],
            "width": deep.machine.width,
            "scope": deep.scope,
            "ask": deep.ask,
        }
        arrays = deep.machine._asdict() | {"probe": deep.probe, "shares": deep.shares}
        files[DEEP] = _packed({name: np.ascontiguousarray(arrays[name], dtype) for name, (dtype, _) in _DEEP_SHAPES.items()})
    files[SETTINGS] = canonical(settings)
    manifest = facts | {
        "format": FORMAT,
        "version": router.version,
        "targets": {target.name: list(target.labels) for target in router.targets},
        "files": {name: {"bytes": len(data), "sha256": digest(data)} for name, data in sorted(files.items())},
    }
    manifest["digest"] = digest(canonical(manifest))
    files[MANIFEST] = canonical(manifest)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    try:
        for name, data in files.items():
            write(making / name, data)
        making.chmod(0o755)
        making.rename(home)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    _sync_folder(folder)
    return home


def find(model: Path) -> Path:
    """The version folder that `model` names: itself, or the champion of a folder of versions. Raises BundleError."""
    if (model / MANIFEST).is_file():
        return model
    try:
        version = (model / CHAMPION).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{model}: neither a bundle ({MANIFEST}) nor a folder of bundles with a {CHAMPION} file; train one with `pointsman train`"
        ) from error
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{model / CHAMPION}: does not hold the name of a version")
    return model / version


class AnotherChampion(BundleError):
    """The champion is no longer the one that was to be replaced."""


def champion(folder: Path) -> str | None:
    """The version that the champion file of `folder` names; None where it names none."""
    try:
        return find(folder).name if (folder / CHAMPION).is_file() else None
    except BundleError:
        return None


def named(folder: Path, version: str) -> Path:
    """The version folder of `version` below `folder`. Raises BundleError where that is no name of a version."""
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{version[:80]!r}: not the name of a version, such as 2026-11-22T10-00-00Z-3f2a")
    return folder / version


def promote(
    folder: Path, version: str, *, instead_of: str | EllipsisType | None = ..., event: Literal["first", "promoted", "rolled_back"] = "promoted",
    by: str = "", reason: str = "", verdict: Literal["passed", "overruled", "none"] = "none", comparison: str | None = None,
) -> None:  # fmt: skip
    """Make `version` the champion of `folder`, atomically, once the line that tells of it is on the disk; see `model.promotions`.

    `instead_of`: the champion that it was held against; raises AnotherChampion where another one, or none, is there by now.
    """
    with promotions.locked(folder) as record:
        before = champion(folder)
        record.settle(before)
        if instead_of is not ... and before != instead_of:
            raise AnotherChampion(f"{folder}: {before or 'no version'} is the champion by now, no longer {instead_of or 'none'}")
        line = {"from": before, "to": version, "by": by, "reason": reason, "verdict": verdict, "comparison": comparison}
        record.add(promotions.Promotion.model_validate({"at": promotions.now(), "event": event} | line))
        _sync_folder(folder)  # the record may be new; its name must not be lost where the champion's is kept
        write(folder / CHAMPION, version.encode("ascii") + b"\n")
        _sync_folder(folder)


def settle(folder: Path) -> promotions.Promotion | None:
    """Add a line to the promotions of `folder` where the last one did not come true; the line, or None where all is well."""
    if not promotions.history(folder) or promotions.history(folder)[-1].to == champion(folder):
        return None
    with promotions.locked(folder) as record:
        return record.settle(champion(folder))


def load(home: Path) -> Router:
    """The router in the version folder `home`. Raises BundleError, with the file and what is wrong with it."""
    return load_with_manifest(home)[0]


def load_with_manifest(home: Path) -> tuple[Router, dict[str, Any]]:
    """The router in `home` and its manifest, everything checked before it is opened."""
    manifest = _inspect_manifest(home)
    contents = {name: _inspect(home, name, entry) for name, entry in manifest["files"].items()}
    for name in (ARRAYS, SETTINGS):
        if name not in contents:
            raise BundleError(f"{home / MANIFEST}: names no {name}")
    try:
        settings = _Settings.model_validate_json(contents[SETTINGS])
    except ValidationError as error:
        raise BundleError(f"{home / SETTINGS}: not the settings of a router: {error.errors(include_input=False)[0]['msg']}") from error
    arrays = _arrays(home / ARRAYS, contents[ARRAYS], _SHAPES)
    if settings.deep and DEEP not in contents:
        raise BundleError(f"{home / MANIFEST}: names no {DEEP}, which {SETTINGS} speaks of")
    rows = Rows(arrays["slots"], arrays["values"], settings.first_pair, settings.reach)
    router = Router(
        rows=rows,
        bias=arrays["bias"],
        targets=tuple(_target(head) for head in settings.targets),
        languages=_target(settings.languages) if settings.languages else None,
        only_language=settings.only_language,
        least_known=settings.least_known,
        text_columns=settings.text_columns,
        version=manifest["version"],
        deep=_deep(home / DEEP, contents[DEEP], settings.deep) if settings.deep else None,
    )
    _check(home, router)
    return router, manifest


def canonical(value: Any) -> bytes:
    """JSON in the one form in which this module writes it."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none of it, and only return once it is on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(home: Path) -> str:
    """What tells the bundle in `home` from any other: the digest of its manifest, which has those of all its files. Raises BundleError."""
    return digest(_read(home / MANIFEST, LARGEST_MANIFEST))


def _read(path: Path, most: int) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: missing, or not a regular file")
        if path.stat().st_size > most:
            raise BundleError(f"{path}: larger than the {most} bytes it may have")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _inspect_manifest(home: Path) -> dict[str, Any]:
    path = home / MANIFEST
    raw = _read(path, LARGEST_MANIFEST)
    try:
        manifest = json.loads(raw)
        same = isinstance(manifest, dict) and canonical(manifest) == raw
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON") from error
    if not same:
        raise BundleError(f"{path}: not in the form in which it was written")
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{path}: format {manifest.get('format')!r}; this program reads format {FORMAT}; train again")
    told = manifest.pop("digest", None)
    if told != digest(canonical(manifest)):
        raise BundleError(f"{path}: its digest does not match its content")
    if not _VERSION.fullmatch(str(manifest.get("version"))):
        raise BundleError(f"{path}: names no version")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str) for entry in files.values()
    ):
        raise BundleError(f"{path}: lists its files wrongly")
    for name in files:
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{path}: names a file that is not a plain name in this folder")
    return dict(manifest)


def _inspect(home: Path, name: str, entry: dict[str, Any]) -> bytes:
    path = home / name
    size = path.stat().st_size if path.is_file() else -1
    if size != entry["bytes"]:
        raise BundleError(f"{path}: {'missing' if size < 0 else f'{size} bytes'}, expected {entry['bytes']} bytes")
    data = _read(path, LARGEST_FILE)
    if digest(data) != entry["sha256"]:
        raise BundleError(f"{path}: its SHA-256 differs from the manifest's; the file was changed or damaged")
    return data


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    packed = BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its other parameters
    return packed.getvalue()


def _deep(path: Path, data: bytes, settings: _Deep) -> Deep:
    arrays = {name: array.astype(np.float32) for name, array in _arrays(path, data, _DEEP_SHAPES).items()}
    mixed, alone = (tuple(_target(head) for head in heads) for heads in (settings.mixed, settings.alone))
    machine = KernelMachine(arrays["mean"], arrays["anchors"], arrays["weights"], settings.width)
    return Deep(settings.encoder, arrays["probe"], machine, arrays["shares"], mixed, alone, settings.scope, settings.ask)


def _arrays(path: Path, data: bytes, shapes: _Shapes) -> dict[str, NDArray[Any]]:
    """The arrays of `shapes` by their names. The archive must be exactly what `save` writes: numpy's own reader would follow headers that ask for
    more memory than there is, and names that hide one array behind another."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(BytesIO(data)) as packed:
            members = packed.infolist()
            if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in shapes):
                raise BundleError(f"{path}: not a file of arrays of a router, which are {', '.join(shapes)}")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                    raise BundleError(f"{path}: {member.filename} is packed in a way that could swell")
                name = member.filename.removesuffix(".npy")
                arrays[name] = _array(path, name, packed.read(member), *shapes[name])
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, EOFError, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{path}: not a file of arrays: {type(error).__name__}") from error
    return arrays


def _array(path: Path, name: str, data: bytes, dtype: str, dimensions: int) -> NDArray[Any]:
    """One array in the .npy format, version 1.0, with the one header that numpy writes for its kind."""
    if data[6:8] != b"\x01\x00":
        raise BundleError(f"{path}: {name} has an array header of another version")
    found = _HEADER.match(data)
    shape = tuple(int(size) for size in found["shape"].decode().split(",") if size.strip()) if found else ()
    kind = np.dtype(dtype)
    if not found or found["dtype"].decode() != dtype or len(shape) != dimensions or math.prod(shape) * kind.itemsize != len(data) - found.end():
        raise BundleError(f"{path}: {name} is not the array that it should be")
    return np.frombuffer(data, kind, offset=found.end()).reshape(shape)


def _target(head: "_Head") -> Target:
    return Target(**head.model_dump())


def _check(home: Path, router: Router) -> None:
    """The arrays fit each other and the targets; the compiled loops trust them without looking."""
    rows, columns = router.rows, len(router.bias)
    slots = len(rows.slots)
    taken = rows.slots[rows.slots != EMPTY]
    heads = [*router.targets, *([router.languages] if router.languages else [])]
    covered = [k for head in heads for k in range(head.first, head.first + len(head.labels))]
    names = [target.name for target in router.targets]
    sound = (
        slots > 0
        and slots & (slots - 1) == 0
        and rows.values.shape[1] == columns + 1
        and len(taken) < slots  # an empty slot ends every search
        and bool(((taken & np.uint64(MOST_ROWS)) < len(rows.values)).all())
        and rows.first_pair <= len(rows.values)
        and bool(np.isfinite(rows.values).all() and np.isfinite(router.bias).all())
        and covered == list(range(columns))
        and len(set(names)) == len(names) > 0
    )
    if not sound or (router.deep and not _sound(router.deep, router)):
        raise BundleError(f"{home}: the arrays and the settings do not fit each other")


def _sound(deep: Deep, router: Router) -> bool:
    """The parts of the deep path fit each other and the targets of the router."""
    machine = deep.machine
    dimensions, columns = len(machine.mean), sum(len(target.labels) for target in router.targets)
    asked = [(target.name, target.labels, target.first, set(target.protect)) for target in router.targets]
    arrays = (deep.probe, deep.shares, machine.mean, machine.anchors, machine.weights)
    return (
        deep.probe.shape == (dimensions,)
        and machine.anchors.shape[1:] == (dimensions,)
        and machine.weights.shape == (len(machine.anchors), columns)
        and deep.shares.shape == (columns,)
        and all([(t.name, t.labels, t.first, set(t.protect)) for t in targets] == asked for targets in (deep.mixed, deep.alone))
        and set(deep.ask) == {target.name for target in router.targets}
        and all(bool(np.isfinite(array).all()) for array in arrays)
    )
