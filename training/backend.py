"""Where the parallel parts of the work run: in threads of this process, in processes of this machine, or on a Dask cluster.

All of them go through joblib, and what they compute does not hang on where: the same input, settings and seed give the same bytes. Of a
cluster that asks for workers with the same versions of the libraries, which is checked, and the same kind of processor, which is not: the
compiled loops add up in the order that suits its vector units.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal, get_args

from training.errors import TrainingError

Backend = Literal["threads", "processes", "dask"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PATIENCE = 15  # seconds for a scheduler to answer, and for the first worker
SAME = ("numpy", "scipy", "scikit-learn", "numba", "joblib", "pointsman")  # of which the workers must have the versions that are here
MISSING = "--backend dask needs Dask, which is not installed; add it with: pip install 'pointsman[dask]'"

# joblib is imported where it is needed: it costs a command that works alone a fifth of a second.


@contextmanager
def running_on(backend: Backend, scheduler: str | None = None) -> Iterator[None]:
    """While it lasts, the parallel parts run on `backend`; `scheduler` is the address of a Dask cluster's.

    Raises TrainingError where the two do not go together, Dask is not installed, the cluster does not answer or is not alike, or a worker
    dies at the work.
    """
    if (scheduler is not None) != (backend == "dask"):
        raise TrainingError("--backend dask takes --scheduler ADDRESS, such as tcp://10.0.0.5:8786, and no other backend does")
    if scheduler is not None:
        with _on_cluster(scheduler):
            yield
    elif backend == "processes":
        with _in_processes():
            yield
    else:
        yield  # threads are what the parallel parts prefer where nothing is said


@contextmanager
def _in_processes() -> Iterator[None]:
    import joblib
    from joblib.externals.loky.process_executor import BrokenProcessPool

    try:
        with joblib.parallel_config(backend="loky", n_jobs=-1):
            yield
    except BrokenProcessPool as error:
        raise TrainingError("--backend processes: a process was ended from outside; each needs its own memory for the table") from error


@contextmanager
def _on_cluster(scheduler: str) -> Iterator[None]:
    import joblib

    try:
        from distributed import CancelledError, Client, KilledWorker
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise TrainingError(MISSING) from error
    try:
        client: Any = Client(scheduler, timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"--scheduler {scheduler}: no Dask scheduler answers there ({type(error).__name__})") from error
    try:
        with client:
            _check_workers(scheduler, client)
            _tell_sizes()
            with joblib.parallel_config(backend="dask", client=client, n_jobs=-1):
                yield
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise TrainingError(f"--scheduler {scheduler}: the work was lost ({type(error).__name__}): a worker died, or the scheduler went") from error


def _check_workers(scheduler: str, client: Any) -> None:
    """There is one at least, and they compute what is computed here."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise TrainingError(f"--scheduler {scheduler}: the cluster has no worker, {PATIENCE} seconds long") from error
    own = _versions()
    for worker, theirs in client.run(_versions).items():
        for name, version in own.items():
            if theirs[name] != version:
                raise TrainingError(f"--scheduler {scheduler}: the worker {worker} has {name} {theirs[name]}, here it is {version}; install the same")


def _versions() -> dict[str, str | None]:
    """The versions, where this runs, of what must be the same everywhere; None for what is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _tell_sizes() -> None:
    """Let Dask know how large the things are that every task needs: what it takes for small is sent anew with each task."""
    from dask.sizeof import sizeof

    from model.router import Router
    from model.scoring import Rows
    from training.features import TermCounts

    def size(value: Any) -> int:
        return sum(sizeof(getattr(value, field.name)) for field in fields(value))

    for kind in (TermCounts, Router, Rows):
        sizeof.register(kind, size)  # type: ignore[no-untyped-call]
