"""Bundles: what is saved is what is loaded; what was changed, damaged or made to harm is refused with its name.

Where a fault is put in on purpose, the manifest is made to fit it, so that no other check can be what refuses it.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model import bundle, promotions
from model.decision import Ticket, decide
from model.errors import BundleError
from model.policy import Policy
from model.router import Router
from model.scoring import EMPTY, MOST_ROWS, Rows

FILES = ("MODEL_CARD.md", "arrays.npz", "manifest.json", "metrics.json", "router.json")
VERSION = "2026-11-22T10-00-00Z-3f2a"


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A bundle to be harmed."""
    return Path(shutil.copytree(home, tmp_path / "models" / home.name))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and make its digest fit."""
    path = folder / bundle.MANIFEST
    manifest = json.loads(path.read_bytes())
    del manifest["digest"]
    change(manifest)
    manifest["digest"] = digest(bundle.canonical(manifest))
    path.write_bytes(bundle.canonical(manifest))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Change a file and make the manifest fit."""
    (folder / name).write_bytes(data)
    change_manifest(folder, lambda manifest: manifest["files"].update({name: {"bytes": len(data), "sha256": digest(data)}}))


def change_settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    settings = json.loads((folder / bundle.SETTINGS).read_bytes())
    change(settings)
    replace_file(folder, bundle.SETTINGS, (json.dumps(settings) + "\n").encode())


def npy(array: NDArray[Any], **how: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **how)
    return out.getvalue()


def members(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / bundle.ARRAYS) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def replace_members(folder: Path, changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as packed:
        for name, data in (members(folder) | changed).items():
            packed.writestr(name, data)
    replace_file(folder, bundle.ARRAYS, out.getvalue())


def declare(data: bytes, shape: str, kind: str) -> bytes:
    """The numbers of the array file `data` under a header that says something else of them."""
    start = 10 + int.from_bytes(data[8:10], "little")
    words = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    words += b" " * (-(len(words) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words + data[start:]


def refuses(folder: Path, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        bundle.load(folder)


def test_what_is_loaded_is_what_was_saved(router: Router, home: Path) -> None:
    loaded = bundle.load(home)
    assert replace(loaded, rows=router.rows, bias=router.bias) == router
    for name in ("slots", "values"):
        ours, theirs = getattr(loaded.rows, name), getattr(router.rows, name)
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())
    assert loaded.bias.tobytes() == router.bias.tobytes()
    assert (loaded.rows.first_pair, loaded.rows.reach) == (router.rows.first_pair, router.rows.reach)


@pytest.mark.parametrize("reach", [1, 12, 64])
def test_the_reach_of_a_router_comes_back(router: Router, tmp_path: Path, reach: int) -> None:
    rows = replace(router.rows, reach=reach)
    assert bundle.load(bundle.save(replace(router, rows=rows), tmp_path, {}, {})).rows.reach == reach


def test_a_router_that_knows_no_word_comes_back(router: Router, tmp_path: Path) -> None:
    nothing = Rows.build(np.empty(0, np.uint64), np.empty((0, len(router.bias) + 1), np.float32), 0, 1)
    loaded = bundle.load(bundle.save(replace(router, rows=nothing), tmp_path, {}, {}))
    assert loaded.answer(["server down"]).scores[0].tolist() == router.bias.tolist()


def test_a_loaded_router_decides_the_same(router: Router, home: Path, policy: Policy, tickets: list[dict[str, str]]) -> None:
    some = [Ticket(t["subject"], t["body"], declared_kind="incident") for t in tickets[::7]]
    asked = {"explain": True, "advise": True}
    assert decide(bundle.load(home), policy, some, **asked) == decide(router, policy, some, **asked)


def test_a_router_of_one_language_and_one_text_column_comes_back(router: Router, tmp_path: Path) -> None:
    last = router.targets[-1].columns.stop
    values = np.concatenate([router.rows.values[:, :last], router.rows.values[:, -1:]], axis=1)
    rows = replace(router.rows, values=values)
    one = replace(router, rows=rows, bias=router.bias[:last], languages=None, only_language="en", text_columns=("body",))
    loaded = bundle.load(bundle.save(one, tmp_path, {}, {}))
    assert (loaded.languages, loaded.only_language, loaded.text_columns) == (None, "en", ("body",))


def test_the_same_router_gives_the_same_files(router: Router, tmp_path: Path) -> None:
    homes = [bundle.save(router, tmp_path / name, {"note": "x"}, {"NOTES.txt": b"n"}) for name in "ab"]
    assert sorted(path.name for path in homes[0].iterdir()) == ["NOTES.txt", "arrays.npz", "manifest.json", "router.json"]
    for path in homes[0].iterdir():
        assert path.read_bytes() == (homes[1] / path.name).read_bytes()


def test_the_manifest_names_every_other_file(home: Path, router: Router) -> None:
    loaded, manifest = bundle.load_with_manifest(home)
    assert sorted(path.name for path in home.iterdir()) == sorted(FILES)
    assert set(manifest["files"]) == set(FILES) - {bundle.MANIFEST}
    for name, entry in manifest["files"].items():
        data = (home / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": digest(data)}
    assert manifest["version"] == loaded.version == home.name
    assert manifest["targets"] == {target.name: list(target.labels) for target in router.targets}
    assert set(manifest["libraries"]) >= {"numpy", "numba", "scikit-learn"}


def test_every_byte_of_the_manifest_counts(router: Router, tmp_path: Path) -> None:
    home = bundle.save(router, tmp_path, {}, {})
    path = home / bundle.MANIFEST
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            bundle.load(home)
    path.write_bytes(raw)
    assert bundle.load(home).version == router.version


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refuses(copy, name)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_a_link_in_a_file_s_place_is_refused(copy: Path, home: Path, name: str) -> None:
    (copy / name).unlink()
    (copy / name).symlink_to(home / name)
    refuses(copy, name)
    (copy / name).unlink()
    (copy / name).mkdir()
    refuses(copy, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_a_truncated_file_is_refused(copy: Path, name: str, kept: float) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    refuses(copy, name)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_refused(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    refuses(copy, name)


def test_a_file_that_is_declared_and_not_there_is_refused(copy: Path) -> None:
    change_manifest(copy, lambda manifest: manifest["files"].update({"extra.bin": {"bytes": 0, "sha256": digest(b"")}}))
    refuses(copy, r"extra\.bin: missing")


@pytest.mark.parametrize("name", [bundle.ARRAYS, bundle.SETTINGS])
def test_a_manifest_without_a_file_that_is_needed_is_refused(copy: Path, name: str) -> None:
    change_manifest(copy, lambda manifest: manifest["files"].pop(name))
    refuses(copy, f"names no {name}")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\n", "a\x00", "\u00e9", "manifest.json", "a" * 65, "C:x"])
def test_a_file_outside_the_folder_is_refused(copy: Path, name: str) -> None:
    (copy.parent / "x").write_bytes(b"")
    change_manifest(copy, lambda manifest: manifest["files"].update({name: {"bytes": 0, "sha256": digest(b"")}}))
    refuses(copy, "not a plain name in this folder")


@pytest.mark.parametrize("size", [10**18, 0, -1, True, "4", 4.0, None, [4]], ids=str)
def test_a_wrong_size_in_the_manifest_is_refused(copy: Path, size: Any) -> None:
    change_manifest(copy, lambda manifest: manifest["files"]["arrays.npz"].update({"bytes": size}))
    refuses(copy, r"arrays\.npz|lists its files wrongly")


@pytest.mark.parametrize("files", [None, [], "arrays.npz", {"arrays.npz": 1}, {"arrays.npz": {"bytes": 1}}, {"arrays.npz": {"sha256": ""}}], ids=str)
def test_a_wrong_list_of_files_is_refused(copy: Path, files: Any) -> None:
    change_manifest(copy, lambda manifest: manifest.update({"files": files}))
    refuses(copy, "lists its files wrongly|names no arrays")


@pytest.mark.parametrize("number", [0, 1, 3, "2", None, [2]], ids=str)
def test_another_format_is_refused(copy: Path, number: Any) -> None:
    change_manifest(copy, lambda manifest: manifest.update({"format": number}))
    refuses(copy, "this program reads format 2")


def test_an_earlier_format_is_refused_with_what_to_do(copy: Path) -> None:
    """Its table cannot be read any more: the tickets that it was learned from are still there."""
    change_manifest(copy, lambda manifest: manifest.update({"format": 1}))
    refuses(copy, "train")


@pytest.mark.parametrize("version", ["", "../x", "2026", VERSION + "/..", 7, None], ids=str)
def test_a_version_that_is_no_name_is_refused(copy: Path, version: Any) -> None:
    change_manifest(copy, lambda manifest: manifest.update({"version": version}))
    refuses(copy, "names no version")


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"9" * 5000, b"x" * (bundle.LARGEST_MANIFEST + 1)],
    ids=lambda content: repr(content[:9]),
)
def test_a_manifest_that_is_none_is_refused(copy: Path, content: bytes) -> None:
    (copy / bundle.MANIFEST).write_bytes(content)
    refuses(copy, r"manifest\.json")


def test_a_manifest_in_another_form_is_refused(copy: Path) -> None:
    path = copy / bundle.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes())), encoding="utf-8")
    refuses(copy, "not in the form in which it was written")


def test_packed_arrays_may_not_swell(copy: Path) -> None:
    replace_members(copy, {}, zipfile.ZIP_DEFLATED)
    refuses(copy, "packed in a way that could swell")


def test_a_pickle_is_never_opened(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    objects = np.array([Harm()], dtype=object)
    replace_members(copy, {"bias.npy": npy(objects, allow_pickle=True)})
    refuses(copy, "bias is not the array")
    replace_file(copy, bundle.ARRAYS, pickle.dumps(Harm()))
    refuses(copy, r"arrays\.npz: not a file of arrays")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("(1099511627776,)", "'<f4'"),
        ("(9223372036854775807, 9223372036854775807)", "'<f4'"),
        ("(-17,)", "'<f4'"),
        ("(17, 1)", "'<f4'"),
        ("()", "'<f4'"),
        ("(17,)", "'>f4'"),
        ("(17,)", "'<i4'"),
        ("(17,)", "'|O'"),
        ("(17,)", "[('a', '<f4')]"),
        ("(17,)", "'no such kind'"),
        ("('17',)", "'<f4'"),
        ("(17,)" + "-" * 5000 + "1", "'<f4'"),
        ("(17,)+" + "(" * 3000, "'<f4'"),
    ],
    ids=lambda said: said[:24],
)
def test_a_header_that_does_not_fit_the_numbers_is_refused(copy: Path, shape: str, kind: str) -> None:
    bias = members(copy)["bias.npy"]
    columns = str(len(bundle.load(copy).bias))
    replace_members(copy, {"bias.npy": declare(bias, f"({columns},)", "'<f4'")})
    bundle.load(copy)  # so it is what follows that is refused
    replace_members(copy, {"bias.npy": declare(bias, shape.replace("17", columns), kind)})
    refuses(copy, r"arrays\.npz")


def test_another_version_of_array_header_is_refused(copy: Path) -> None:
    replace_members(copy, {"bias.npy": npy(np.zeros(17, np.float32), version=(2, 0))})
    refuses(copy, "header of another version")


def test_an_array_that_hides_behind_another_is_refused(copy: Path) -> None:
    # numpy takes the member "values" before "values.npy", so the one that was looked at is not the one that is read.
    replace_members(copy, {"values": declare(members(copy)["values.npy"], "(1099511627776,)", "'<f4'")})
    refuses(copy, r"arrays\.npz")


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04", npy(np.zeros(17, np.float32))], ids=lambda data: repr(data[:6]))
def test_arrays_that_are_no_archive_are_refused(copy: Path, data: bytes) -> None:
    replace_file(copy, bundle.ARRAYS, data)
    refuses(copy, r"arrays\.npz: not a file of arrays")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_an_archive_cut_short_is_refused(copy: Path, kept: float) -> None:
    data = (copy / bundle.ARRAYS).read_bytes()
    replace_file(copy, bundle.ARRAYS, data[: int(kept * len(data))])
    refuses(copy, r"arrays\.npz: not a file of arrays")


@pytest.mark.parametrize(("offset", "value"), [(8, 0x01), (8, 0x20), (6, 99), (10, 99)], ids=["encrypted", "patched", "newer version", "method"])
def test_an_archive_that_asks_for_more_than_reading_is_refused(copy: Path, offset: int, value: int) -> None:
    data = bytearray((copy / bundle.ARRAYS).read_bytes())
    entry = data.index(b"PK\x01\x02")  # the first entry of the central directory
    data[entry + offset] = value
    replace_file(copy, bundle.ARRAYS, bytes(data))
    refuses(copy, r"arrays\.npz")


@pytest.mark.parametrize("name", ["slots", "values", "bias"])
def test_a_missing_array_is_refused(copy: Path, name: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for member, data in members(copy).items():
            if member != f"{name}.npy":
                packed.writestr(member, data)
    replace_file(copy, bundle.ARRAYS, out.getvalue())
    refuses(copy, r"arrays\.npz: not a file of arrays")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slots", lambda slots: np.where(slots == EMPTY, 0, slots)),  # no empty slot: a search would never end
        ("slots", lambda slots: np.where(slots == EMPTY, slots, EMPTY ^ 1)),  # the last row that a slot could name
        ("slots", lambda slots: slots[:-1]),
        ("slots", lambda slots: slots[: 3 * len(slots) // 4]),
        ("slots", lambda slots: np.concatenate([slots, slots[:1]])),
        ("slots", lambda slots: slots[:0]),
        ("values", lambda values: values[:, :-1]),
        ("values", lambda values: values[:-1]),
        ("values", lambda values: values * np.float32("nan")),
        ("bias", lambda bias: bias[:-1]),
        ("bias", lambda bias: bias + np.float32("inf")),
        ("bias", lambda bias: np.append(bias, np.float32(0))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(copy: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    array = np.load(io.BytesIO(members(copy)[f"{name}.npy"]))
    replace_members(copy, {f"{name}.npy": npy(change(array).astype(array.dtype))})
    refuses(copy, "do not fit each other")


def arrays(folder: Path) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    slots, values = (np.load(io.BytesIO(members(folder)[f"{name}.npy"])) for name in ("slots", "values"))
    return slots, values


def test_a_slot_that_points_past_the_values_is_refused(copy: Path) -> None:
    slots, values = arrays(copy)
    row, taken = np.uint64(MOST_ROWS), np.flatnonzero(slots != EMPTY)[7]
    for wrong in (len(values), len(values) + 1, MOST_ROWS - 1):
        slots[taken] = (slots[taken] & ~row) | np.uint64(wrong)
        replace_members(copy, {"slots.npy": npy(slots)})
        refuses(copy, "do not fit each other")
    slots[taken] = (slots[taken] & ~row) | np.uint64(len(values) - 1)
    replace_members(copy, {"slots.npy": npy(slots)})
    bundle.load(copy)  # so it is the number that was refused


def test_a_slot_that_points_into_no_values_at_all_is_refused(copy: Path) -> None:
    _, values = arrays(copy)
    one = np.full(16, EMPTY)
    one[3] = 0  # row 0
    change_settings(copy, lambda settings: settings.update(first_pair=0))
    replace_members(copy, {"slots.npy": npy(one), "values.npy": npy(values[:0])})
    refuses(copy, "do not fit each other")
    replace_members(copy, {"slots.npy": npy(np.full(16, EMPTY)), "values.npy": npy(values[:0])})
    bundle.load(copy)


def test_pairs_that_begin_past_the_values_are_refused(copy: Path) -> None:
    rows = len(arrays(copy)[1])
    for wrong in (rows + 1, 1 << 40, 1 << 70):
        change_settings(copy, lambda settings, wrong=wrong: settings.update(first_pair=wrong))  # type: ignore[misc]
        refuses(copy, "do not fit each other|not the settings of a router")
    for right in (0, rows):
        change_settings(copy, lambda settings, right=right: settings.update(first_pair=right))  # type: ignore[misc]
        assert bundle.load(copy).rows.first_pair == right


SETTINGS_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no targets": lambda s: s.pop("targets"),
    "targets is a number": lambda s: s.update(targets=3),
    "a target without labels": lambda s: s["targets"][0].pop("labels"),
    "a target with a field more": lambda s: s["targets"][0].update(colour="red"),
    "a column too far": lambda s: s["targets"][1].update(first=3),
    "a column that is text": lambda s: s["targets"][1].update(first="2"),
    "a column that is a fraction": lambda s: s["targets"][1].update(first=2.5),
    "targets in another order than their columns": lambda s: s["targets"].reverse(),
    "one target only": lambda s: s["targets"].pop(),
    "a label less": lambda s: s["targets"][0]["labels"].pop(),
    "an offset less": lambda s: s["targets"][0]["offsets"].pop(),
    "offsets that are text": lambda s: s["targets"][0].update(offsets=["0", "0"]),
    "an offset that is no number": lambda s: s["targets"][0].update(offsets=[float("nan"), 0.0]),
    "sharpness that is text": lambda s: s["targets"][0].update(sharpness="4"),
    "sharpness without end": lambda s: s["targets"][0].update(sharpness=float("inf")),
    "a threshold that is text": lambda s: s["targets"][0].update(threshold="0.9"),
    "a threshold that is no number": lambda s: s["targets"][0].update(threshold=float("nan")),
    "a label that is a number": lambda s: s["targets"][0].update(labels=[1, 2]),
    "the same label twice": lambda s: s["targets"][0].update(labels=["incident", "incident"]),
    "a name that is a number": lambda s: s["targets"][0].update(name=1),
    "no name": lambda s: s["targets"][0].update(name=""),
    "the same target twice": lambda s: s["targets"][0].update(name="department"),
    "a protected label that is none": lambda s: s["targets"][0].update(protect={"fire": 0.1}),
    "a protected label without a number": lambda s: s["targets"][0].update(protect={"incident": None}),
    "no language head, but its columns": lambda s: s.update(languages=None),
    "least_known is text": lambda s: s.update(least_known="much"),
    "no first pair": lambda s: s.pop("first_pair"),
    "a first pair below nought": lambda s: s.update(first_pair=-1),
    "a first pair that is text": lambda s: s.update(first_pair="5"),
    "a first pair that is a fraction": lambda s: s.update(first_pair=5.5),
    "no reach": lambda s: s.pop("reach"),
    "a reach of nothing": lambda s: s.update(reach=0),
    "a reach below nought": lambda s: s.update(reach=-12),
    "a reach too far": lambda s: s.update(reach=65),
    "a reach that is text": lambda s: s.update(reach="12"),
    "a reach that is none": lambda s: s.update(reach=None),
    "a reach that is a truth": lambda s: s.update(reach=True),
    "no text columns": lambda s: s.update(text_columns=[]),
    "three text columns": lambda s: s.update(text_columns=["a", "b", "c"]),
    "text columns that are numbers": lambda s: s.update(text_columns=[1, 2]),
}


@pytest.mark.parametrize("fault", SETTINGS_FAULTS.values(), ids=SETTINGS_FAULTS.keys())
def test_settings_that_are_no_router_s_are_refused(copy: Path, fault: Callable[[dict[str, Any]], object]) -> None:
    change_settings(copy, fault)
    refuses(copy, "not the settings of a router|do not fit each other")


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"3", b"\xff", b"{", b"[" * 100_000, b'{"targets": []}'], ids=lambda content: repr(content[:9])
)
def test_settings_that_are_none_are_refused(copy: Path, content: bytes) -> None:
    replace_file(copy, bundle.SETTINGS, content)
    refuses(copy, "not the settings of a router")


def test_a_version_is_not_saved_twice(router: Router, models: Path, home: Path) -> None:
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(BundleError, match="already"):
        bundle.save(router, models, {}, {})
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


@pytest.mark.parametrize("fails_at", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_leaves_nothing(
    router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, error: BaseException
) -> None:
    written = []

    def write(path: Path, data: bytes) -> None:
        written.append(path.name)
        if len(written) == fails_at:
            raise error
        path.write_bytes(data)

    monkeypatch.setattr(bundle, "write", write)
    with pytest.raises(type(error)):
        bundle.save(router, tmp_path / "models", {}, {})
    assert list((tmp_path / "models").iterdir()) == []


def test_a_bundle_appears_only_when_it_is_whole(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bundle.write

    def write(path: Path, data: bytes) -> None:
        assert not (tmp_path / router.version).exists()
        real(path, data)

    monkeypatch.setattr(bundle, "write", write)
    bundle.load(bundle.save(router, tmp_path, {}, {}))
    assert [path.name for path in tmp_path.iterdir()] == [router.version]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    bundle.write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="the disk is gone"):
                bundle.write(path, b"new and longer")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    bundle.write(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"


def test_the_champion_is_found_and_replaced(router: Router, tmp_path: Path) -> None:
    first, second = (bundle.save(replace(router, version=f"2026-11-22T10-00-0{i}Z-3f2a"), tmp_path, {}, {}) for i in (1, 2))
    bundle.promote(tmp_path, first.name)
    assert bundle.find(tmp_path) == first
    bundle.promote(tmp_path, second.name)
    assert bundle.find(tmp_path) == second
    assert bundle.find(first) == first
    assert (tmp_path / bundle.CHAMPION).read_bytes() == second.name.encode() + b"\n"
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, bundle.CHAMPION, promotions.FILE}


def version(number: int) -> str:
    return f"2026-11-22T10-00-0{number}Z-3f2a"


def told(folder: Path) -> list[tuple[str, str | None, str | None]]:
    return [(one.event, one.before, one.to) for one in promotions.history(folder)]


def test_every_promotion_is_a_line(tmp_path: Path) -> None:
    bundle.promote(tmp_path, version(1), event="first")
    bundle.promote(tmp_path, version(2), by="Ada", reason="better in fr \u2713", verdict="overruled", comparison="0" * 64)
    lines = [json.loads(line) for line in (tmp_path / promotions.FILE).read_text(encoding="utf-8").splitlines()]
    assert [line.pop("at")[:2] for line in lines] == ["20", "20"]
    nothing = {"by": "", "reason": "", "verdict": "none", "comparison": None}
    said = {"by": "Ada", "reason": "better in fr \u2713", "verdict": "overruled", "comparison": "0" * 64}
    assert lines == [{"event": "first", "from": None, "to": version(1)} | nothing, {"event": "promoted", "from": version(1), "to": version(2)} | said]


@pytest.mark.parametrize("step", ["add", "write", "_sync_folder"])
def test_a_promotion_that_is_cut_short_leaves_a_champion_that_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    bundle.promote(tmp_path, version(1))
    with monkeypatch.context() as patch:
        owner = promotions.Record if step == "add" else bundle
        patch.setattr(owner, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bundle.promote(tmp_path, version(2))
    assert bundle.champion(tmp_path) == version(1)
    found = bundle.settle(tmp_path)
    promoted = [("promoted", None, version(1))]
    if step == "add":
        assert found is None
        assert told(tmp_path) == promoted
    else:
        assert found is not None
        assert version(2) in found.reason
        assert told(tmp_path) == [*promoted, ("promoted", version(1), version(2)), ("found", version(2), version(1))]
    assert bundle.settle(tmp_path) is None  # said once
    bundle.promote(tmp_path, version(2))
    assert bundle.champion(tmp_path) == version(2)
    assert promotions.before(promotions.history(tmp_path)) == version(1)


def test_the_line_is_on_the_disk_before_the_champion_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append(Path(f"/proc/self/fd/{handle}").readlink().name.split("-")[0])
        real_fsync(handle)

    def swap(source: str, target: Path) -> None:
        steps.append("replaced")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", swap)
    bundle.promote(tmp_path, version(1))
    folder = tmp_path.name.split("-")[0]
    assert steps == [promotions.FILE, folder, ".champion", "replaced", folder]


@pytest.mark.parametrize("torn", [b'{"at":"2026', b"{", b"\xff\x00"])
def test_a_line_that_was_half_written_is_taken_away(tmp_path: Path, torn: bytes) -> None:
    bundle.promote(tmp_path, version(1))
    with (tmp_path / promotions.FILE).open("ab") as file:
        file.write(torn)
    assert told(tmp_path) == [("promoted", None, version(1))]
    bundle.promote(tmp_path, version(2))
    assert told(tmp_path) == [("promoted", None, version(1)), ("promoted", version(1), version(2))]


@pytest.mark.parametrize("line", [b"", b"null", b"{}", b'{"at": 1}', b"\xff", b"[" * 10_000])
def test_a_line_that_is_no_promotion_is_named(tmp_path: Path, line: bytes) -> None:
    bundle.promote(tmp_path, version(1))
    with (tmp_path / promotions.FILE).open("ab") as file:
        file.write(line + b"\n")
    for look in (lambda: promotions.history(tmp_path), lambda: bundle.promote(tmp_path, version(2))):
        with pytest.raises(BundleError, match=r"promotions\.jsonl, line 2"):
            look()
    assert bundle.champion(tmp_path) == version(1)


def test_only_the_champion_that_was_meant_is_replaced(tmp_path: Path) -> None:
    bundle.promote(tmp_path, version(1), instead_of=None)
    for meant in (None, version(2)):
        with pytest.raises(bundle.AnotherChampion, match=version(1)):
            bundle.promote(tmp_path, version(3), instead_of=meant)
    assert told(tmp_path) == [("promoted", None, version(1))]
    bundle.promote(tmp_path, version(3), instead_of=version(1))
    assert bundle.champion(tmp_path) == version(3)


def test_of_many_promotions_at_once_one_wins(tmp_path: Path) -> None:
    bundle.promote(tmp_path, version(0))
    won: list[str] = []
    lost: list[str] = []

    def one(number: int) -> None:
        try:
            bundle.promote(tmp_path, version(number), instead_of=version(0))
            won.append(version(number))
        except bundle.AnotherChampion:
            lost.append(version(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert bundle.champion(tmp_path) == won[0]
    assert told(tmp_path) == [("promoted", None, version(0)), ("promoted", version(0), won[0])]


def test_the_champion_before_is_the_one_that_an_undoing_goes_back_to(tmp_path: Path) -> None:
    def before() -> str | None:
        return promotions.before(promotions.history(tmp_path))

    assert before() is None
    bundle.promote(tmp_path, version(1))
    assert before() is None
    bundle.promote(tmp_path, version(2))
    bundle.promote(tmp_path, version(3))
    assert before() == version(2)
    bundle.promote(tmp_path, version(2), event="rolled_back")
    assert before() == version(1)
    bundle.promote(tmp_path, version(3))
    assert before() == version(2)
    (tmp_path / bundle.CHAMPION).write_text(version(1), encoding="ascii")  # by hand
    bundle.settle(tmp_path)
    assert before() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"latest", b"..", b"../../etc", b"/etc", b"\xff\xfe", b"\x00", VERSION.encode() + b"/..", b"2026-11-22T10-00-00Z", b"x" * 10**6,
     VERSION.encode() + b"\n" + VERSION.encode()],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_champion_that_names_no_version_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / bundle.CHAMPION).write_bytes(content)
    with pytest.raises(BundleError, match="champion"):
        bundle.find(tmp_path)


def test_a_champion_that_is_not_there_is_refused(tmp_path: Path) -> None:
    bundle.promote(tmp_path, VERSION)
    refuses(bundle.find(tmp_path), f"{VERSION}.*missing")
    (tmp_path / bundle.CHAMPION).unlink()
    (tmp_path / bundle.CHAMPION).mkdir()
    for nothing in (tmp_path, tmp_path / "missing", tmp_path / bundle.CHAMPION):
        with pytest.raises(BundleError, match="neither a bundle"):
            bundle.find(nothing)
