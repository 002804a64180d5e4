"""One retraining at a time below a folder of bundles, in a private folder that is gone afterwards."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"
LEFT_BEHIND = 3600  # seconds; what a bundle, a verdict or an experiment was being made in is nobody's by then


@contextmanager
def alone(folder: Path, name: str) -> Iterator[Path | None]:
    """A private folder to work in, below ``folder/name``; None where another process has one.

    What one that was killed has left is taken away: its own folders at once, and those that others may be working in, such as a training by
    hand, when they are old.
    """
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel takes it back, however its owner ends
        except BlockingIOError:
            yield None
            return
        _clean(folder, home)
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=home))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)


def _clean(folder: Path, home: Path) -> None:
    for path in home.glob(".*-*"):
        _remove(path)
    for pattern in (".making-*", ".champion-*", "experiments/.making-*", "comparisons/.*.json-*"):
        for path in folder.glob(pattern):
            if path.lstat().st_mtime < time.time() - LEFT_BEHIND:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
