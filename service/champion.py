"""The champion that serves, and its successor: verified and tried aside, then swapped between two requests."""

import asyncio
from pathlib import Path
from typing import Any

import structlog

from model import bundle
from model.decision import Decider, Ticket
from model.errors import ModelError
from model.policy import Policy, load_policy
from service.state import State

log = structlog.get_logger()

_TRIAL = ("My site is down since this morning.", "How do I transfer a domain?", "\u65e5\u672c\u8a9e", "?")


def load(home: Path, policy: Policy) -> tuple[Decider, dict[str, Any]]:
    """The bundle in `home`, inspected, loaded and tried on a few texts. Raises BundleError."""
    router, manifest = bundle.load_with_manifest(home)
    decider = Decider(router, policy)
    # The compiled loops are loaded now, not in a customer's request.
    decider.decide([Ticket(body=text) for text in _TRIAL], explain=True, advise=True)
    return decider, manifest


async def watch(state: State) -> None:
    """Take each new champion until cancelled. A bad one leaves the old one serving, says so once, and is tried again when its files
    have changed."""
    refused: object = None
    while True:
        await asyncio.sleep(state.settings.watch_seconds)
        seen: object = None
        try:
            home = await asyncio.to_thread(bundle.find, state.settings.model)
            if home.name == state.router.version:
                state.reload_error, refused = None, None
                continue
            seen = await asyncio.to_thread(_stamps, home, state.settings.policy)
            if seen == refused:
                continue
            policy = await asyncio.to_thread(load_policy, state.settings.policy)
            decider, manifest = await asyncio.to_thread(load, home, policy)
        except (ModelError, OSError) as error:
            fault = str(error)
        except Exception as error:  # a router that fails its trial must not take the one that serves down with it
            fault = f"{home.name}: failed its trial: {type(error).__name__}"
        else:
            refused = None
            take(state, decider, manifest)
            continue
        refused = seen
        if fault != state.reload_error:
            state.reload_error = fault
            state.metrics.reloads.labels("refused").inc()
            log.error("champion_refused", serving=state.router.version, error=fault)


def _stamps(home: Path, policy: Path) -> object:
    """What changes when any of the files that a champion is loaded from does."""
    found = [*sorted(home.glob("*")), policy]
    return home.name, [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in found if path.exists()]


def take(state: State, decider: Decider, manifest: dict[str, Any]) -> None:
    """Serve with `decider` from the next request on."""
    log.info("champion_taken", version=decider.router.version, before=state.router.version)
    state.metrics.model.labels(state.router.version).set(0)
    state.decider, state.manifest, state.reload_error = decider, manifest, None
    state.metrics.model.labels(decider.router.version).set(1)
    state.metrics.reloads.labels("taken").inc()
