"""A new champion is taken while the service answers; one that is no good is refused, and the one that serves goes on."""

import asyncio
import gc
import shutil
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import bundle
from service import champion
from service.settings import Settings
from tests.service.test_health import sample
from tests.serving import INCIDENT, Service, error_of, serving

pytestmark = pytest.mark.anyio

ROUND = 0.05  # seconds between two looks at the folder
GOOD, OTHER = "2026-11-22T10-00-00Z-0001", "2026-11-22T10-00-00Z-0002"


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A folder of bundles of one's own, with its champion."""
    return Path(shutil.copytree(models, tmp_path / "models"))


@pytest.fixture
def serves(folder: Path) -> str:
    """The version that serves at the beginning."""
    return bundle.find(folder).name


@pytest.fixture
def settings(folder: Path, settings: Settings) -> Settings:
    policy = shutil.copy(settings.policy, folder / "policy.yaml")
    return settings.model_copy(update={"model": folder, "policy": Path(policy), "watch_seconds": ROUND})


def make(folder: Path, version: str = GOOD) -> Path:
    """A bundle that can be told by its answers: it takes every ticket for a request for advice."""
    first = next(path.parent for path in folder.glob(f"*/{bundle.MANIFEST}") if path.parent.name not in (GOOD, OTHER))
    router, manifest = bundle.load_with_manifest(first)
    kind = next(target for target in router.targets if target.name == "kind")
    bias = router.bias.copy()
    bias[kind.first + kind.labels.index("advisory")] += 100
    facts = {name: manifest[name] for name in ("trained_on", "settings", "libraries", "metrics")}
    return bundle.save(replace(router, bias=bias, version=version), folder, facts, {})


def promote(folder: Path, version: str = GOOD) -> None:
    make(folder, version)
    bundle.promote(folder, version)


async def decided_by(service: Service) -> str:
    """The version that decides: in the decision, at /model, at /readyz and in the metrics, all the same; and as it decides."""
    decision = (await service.classify(body=INCIDENT)).json()
    version = str(decision["model_version"])
    assert decision["labels"]["kind"]["label"] == ("advisory" if version in (GOOD, OTHER) else "incident")
    assert (await service.client.get("/model")).json()["version"] == version
    ready = await service.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["model_version"] == version
    assert await sample(service.client, "pointsman_model_info", version=version) == await sample(service.client, "pointsman_model_info") == 1
    return version


async def reload_error(service: Service) -> str | None:
    answer = await service.client.get("/readyz")
    assert answer.status_code == 200
    error = answer.json()["reload_error"]
    return None if error is None else str(error)


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        await asyncio.sleep(ROUND / 5)


async def taken(service: Service, version: str) -> None:
    """Wait until `version` serves, with nothing to complain of."""

    async def serves() -> bool:
        ready = (await service.client.get("/readyz")).json()
        return bool(ready["model_version"] == version and ready["reload_error"] is None)

    await until(serves, f"{version} serves")
    assert await decided_by(service) == version


async def refused(service: Service) -> str:
    """Wait until a champion is refused; why it was."""

    async def told() -> bool:
        return await reload_error(service) is not None

    await until(told, "a champion is refused")
    return str(await reload_error(service))


async def counted(service: Service, outcome: str) -> float:
    return await sample(service.client, "pointsman_reloads_total", outcome=outcome)


# Taken


@asynccontextmanager
async def asked_all_the_time(service: Service) -> AsyncIterator[list[Any]]:
    """Requests without a pause, alone and in batches; the list gets their decisions."""
    decisions: list[Any] = []
    ending = False

    async def ask(batch: bool) -> None:
        while not ending:
            answer = await (service.batch(*[{"body": INCIDENT}] * 3) if batch else service.classify(body=INCIDENT))
            assert answer.status_code == 200
            decisions.extend(answer.json()["results"] if batch else [answer.json()])

    asking = [asyncio.create_task(ask(batch)) for batch in (False, False, True)]
    yield decisions
    ending = True
    await asyncio.gather(*asking)


async def test_a_new_champion_is_taken_between_two_requests(settings: Settings, folder: Path, serves: str) -> None:
    async with serving(settings) as service:
        assert await decided_by(service) == serves
        async with asked_all_the_time(service) as decisions:
            await asyncio.sleep(ROUND)
            promote(folder)
            await taken(service, GOOD)
            await asyncio.sleep(ROUND)
        assert await counted(service, "taken") == 1
        assert await counted(service, "refused") == 0
    versions = [decision["model_version"] for decision in decisions]
    assert set(versions) == {serves, GOOD}
    for decision in decisions:  # version and answer change together
        assert decision["labels"]["kind"]["label"] == ("advisory" if decision["model_version"] == GOOD else "incident")
    assert len(service.rows()) == len(decisions) + 2


async def test_champions_are_taken_one_after_the_other_and_back(settings: Settings, folder: Path, serves: str) -> None:
    async with serving(settings) as service:
        for times, version in enumerate((GOOD, OTHER, GOOD, serves), 1):
            if not (folder / version).exists():
                make(folder, version)
            bundle.promote(folder, version)
            await taken(service, version)
            assert await counted(service, "taken") == times


async def test_a_candidate_that_is_not_promoted_is_not_taken(settings: Settings, folder: Path, serves: str) -> None:
    async with serving(settings) as service:
        make(folder)
        await asyncio.sleep(4 * ROUND)
        assert await decided_by(service) == serves
        assert await counted(service, "taken") == 0


async def test_a_ticket_keeps_the_decision_of_the_champion_that_decided_it(settings: Settings, folder: Path, serves: str) -> None:
    async with serving(settings) as service:
        first = (await service.classify(ticket_id="T-1", body=INCIDENT)).json()
        promote(folder)
        await taken(service, GOOD)
        assert (await service.classify(ticket_id="T-1", body=INCIDENT)).json() == first
        assert first["model_version"] == serves
        assert error_of(await service.classify(ticket_id="T-1", body=INCIDENT + "!")) == "ticket_conflict"


# Refused


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damaged(name: str) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        flip(make(folder, OTHER) / name)
        bundle.promote(folder, OTHER)
        return OTHER

    return damage


def incomplete(folder: Path) -> str:
    (make(folder, OTHER) / bundle.ARRAYS).unlink()
    bundle.promote(folder, OTHER)
    return OTHER


def missing(folder: Path, version: str = OTHER) -> str:
    bundle.promote(folder, version)
    return version


def garbage(content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / bundle.CHAMPION).write_bytes(content)
        return bundle.CHAMPION

    return write


def gone(folder: Path) -> str:
    (folder / bundle.CHAMPION).unlink()
    return bundle.CHAMPION


# What is done to the folder; it gives what the reason must name.
FAULTS: dict[str, Callable[[Path], str]] = {
    "a bit in the arrays": damaged(bundle.ARRAYS),
    "a bit in the settings": damaged(bundle.SETTINGS),
    "a bit in the manifest": damaged(bundle.MANIFEST),
    "a file that is missing": incomplete,
    "a version that is missing": missing,
    "an empty champion file": garbage(b""),
    "no version in the champion file": garbage(b"latest\n"),
    "a path in the champion file": garbage(b"../../elsewhere/" + GOOD.encode()),
    "no text in the champion file": garbage(b"\xff\xfe\x00"),
    "no champion file": gone,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_champion_that_is_no_good_leaves_the_old_one_serving(settings: Settings, folder: Path, serves: str, fault: str) -> None:
    async with serving(settings) as service:
        named = FAULTS[fault](folder)
        assert named in await refused(service)
        await asyncio.sleep(4 * ROUND)  # it is looked at again and again
        assert named in str(await reload_error(service))
        assert await decided_by(service) == serves
        assert await counted(service, "refused") == 1
        assert await counted(service, "taken") == 0

        promote(folder, GOOD)
        await taken(service, GOOD)
        assert await counted(service, "refused") == 1
        assert await counted(service, "taken") == 1


async def test_a_champion_that_fails_its_trial_leaves_the_old_one_serving(
    settings: Settings, folder: Path, serves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as service:
        with monkeypatch.context() as patch:
            patch.setattr(champion, "load", lambda *_: 1 / 0)
            promote(folder, OTHER)
            assert OTHER in await refused(service)
            await asyncio.sleep(4 * ROUND)
        assert await decided_by(service) == serves
        assert await counted(service, "refused") == 1
        promote(folder, GOOD)
        await taken(service, GOOD)


async def test_each_fault_is_counted_once(settings: Settings, folder: Path, serves: str) -> None:
    faults = [damaged(bundle.ARRAYS), garbage(b"latest\n"), lambda folder: missing(folder, GOOD), gone, garbage(b"")]
    async with serving(settings) as service:
        said = ""
        for times, fault in enumerate(faults, 1):
            before, named = said, fault(folder)

            async def another(before: str = before) -> bool:
                return await reload_error(service) != before

            await until(another, "the fault is told")
            said = await refused(service)
            await asyncio.sleep(3 * ROUND)
            assert named in said
            assert await counted(service, "refused") == times
        assert await decided_by(service) == serves


# Mended: what serves is the champion, or /readyz says why not


async def test_the_old_champion_promoted_again_ends_the_complaint(settings: Settings, folder: Path, serves: str) -> None:
    async with serving(settings) as service:
        damaged(bundle.ARRAYS)(folder)
        assert OTHER in await refused(service)
        bundle.promote(folder, serves)
        await taken(service, serves)


@pytest.mark.parametrize("fault", ["no version in the champion file", "no champion file"])
async def test_a_champion_file_that_was_mended_ends_the_complaint(settings: Settings, folder: Path, serves: str, fault: str) -> None:
    async with serving(settings) as service:
        FAULTS[fault](folder)
        assert bundle.CHAMPION in await refused(service)
        bundle.promote(folder, serves)
        await taken(service, serves)


async def test_a_champion_that_arrives_late_is_taken(settings: Settings, folder: Path, serves: str) -> None:
    """Whoever copies a folder of bundles may copy its champion file first."""
    arriving = make(folder, GOOD).rename(folder / "arriving")
    async with serving(settings) as service:
        bundle.promote(folder, GOOD)
        assert GOOD in await refused(service)
        assert await decided_by(service) == serves
        arriving.rename(folder / GOOD)
        await taken(service, GOOD)


async def test_a_champion_that_was_mended_is_taken(settings: Settings, folder: Path, serves: str) -> None:
    arrays = make(folder, GOOD) / bundle.ARRAYS
    flip(arrays)
    async with serving(settings) as service:
        bundle.promote(folder, GOOD)
        assert bundle.ARRAYS in await refused(service)
        assert await decided_by(service) == serves
        flip(arrays)
        await taken(service, GOOD)


async def test_a_champion_refused_for_the_policy_is_taken_once_that_is_mended(settings: Settings, folder: Path, serves: str) -> None:
    mended = settings.policy.read_bytes()
    async with serving(settings) as service:
        settings.policy.write_text("queues: [", encoding="utf-8")
        promote(folder, GOOD)
        assert settings.policy.name in await refused(service)
        assert await decided_by(service) == serves
        assert await counted(service, "refused") == 1
        settings.policy.write_bytes(mended)
        await taken(service, GOOD)


async def test_what_no_longer_serves_leaves_memory_at_once(settings: Settings, folder: Path) -> None:
    """The collector comes by rarely, and never to what was loaded before the first request."""
    gc.disable()
    try:
        async with serving(settings) as service:
            await service.classify(body=INCIDENT)
            first = weakref.ref(service.app.state.service.router)
            promote(folder)
            await taken(service, GOOD)
            second = weakref.ref(service.app.state.service.router)
            assert first() is None
        assert second() is None
    finally:
        gc.enable()
