"""The champion that serves, and its successor: verified and tried aside, then swapped between two requests."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog

from model import bundle
from model.decision import Decider, Ticket
from model.errors import ModelError
from model.policy import Policy, load_policy
from model.router import Router
from service.deep import DeepPath, Opened
from service.state import State

log = structlog.get_logger()

_TRIAL = ("My site is down since this morning.", "How do I transfer a domain?", "\u65e5\u672c\u8a9e", "?")


class Champion(NamedTuple):
    """What is ready to serve."""

    decider: Decider
    manifest: dict[str, Any]
    opened: Opened | None


def load(home: Path, policy: Policy, deep: DeepPath | None = None) -> Champion:
    """The bundle in `home`, inspected, loaded and tried on a few texts; its encoder, which may be missing, is opened for `deep`.
    Raises BundleError."""
    router, manifest = bundle.load_with_manifest(home)
    tickets = [Ticket(body=text) for text in _TRIAL]
    decider = Decider(router, policy)
    # The compiled loops are loaded now, not in a customer's request.
    decider.decide(tickets, explain=True, advise=True)
    if router.deep:
        decider.reconsider(tickets, decider.clean(tickets), np.stack([router.deep.probe] * len(tickets)), explain=True, advise=True)
    opened = deep.open(router) if deep else None
    if router.deep and deep and deep.off:
        decider = Decider(replace(router, deep=None), policy)  # nobody need look who is doubtful
    return Champion(decider, manifest, opened)


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
            loaded = await asyncio.to_thread(load, home, policy, state.deep)
        except (ModelError, OSError) as error:
            fault = str(error)
        except Exception as error:  # a router that fails its trial must not take the one that serves down with it
            fault = f"{home.name}: failed its trial: {type(error).__name__}"
        else:
            refused = None
            take(state, loaded)
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


def take(state: State, champion: Champion) -> None:
    """Serve with `champion` from the next request on."""
    log.info("champion_taken", version=champion.decider.router.version, before=state.router.version)
    state.metrics.model.labels(state.router.version).set(0)
    state.decider, state.manifest, state.reload_error = champion.decider, champion.manifest, None
    state.deep.take(champion.opened)
    state.reports.promised = promises(champion.decider.router)
    state.metrics.model.labels(state.router.version).set(1)
    state.metrics.reloads.labels("taken").inc()


def promises(router: Router) -> dict[str, float]:
    """The precision that the router promised for each target."""
    return {target.name: target.promise for target in router.targets}
