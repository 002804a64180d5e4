"""API keys: `pointsman keys` makes, shows and revokes them, and a service that runs knows it within seconds."""

import asyncio
import gc
import hashlib
import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

import pointsman
from service.database import keys
from tests.serving import DATABASES, INCIDENT, Service, apart

pytestmark = pytest.mark.anyio

SOON = 3.0  # seconds in which a running service knows of a key, or of its end


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def run(url: str, action: str, *arguments: str) -> Result:
    return CliRunner().invoke(pointsman.main, ["keys", action, "--database", url, *arguments], catch_exceptions=False)


def add(url: str, name: str, *scopes: str) -> tuple[str, str]:
    """The id and the secret of a new key."""
    made = run(url, "add", name, *(f"--scope={scope}" for scope in scopes))
    assert made.exit_code == 0, made.output
    key_id, *_ = made.stderr.split()
    (secret,) = made.stdout.splitlines()
    return key_id, secret


def listed(url: str) -> list[dict[str, object]]:
    return list(json.loads(run(url, "list", "--json").stdout))


def refused(answer: Result) -> str:
    """What the command says: one line, and nothing else."""
    assert answer.exit_code == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("pointsman: ")
    return line


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# The command


def test_a_key_is_shown_once_and_never_again(database_url: str) -> None:
    made = run(database_url, "add", "helpdesk", "--scope", "classify", "--scope", "reports")
    (secret,) = made.stdout.splitlines()
    prefix, key_id, chance = secret.split("_", 2)
    assert prefix == "pm"
    assert len(chance) >= 43  # 256 bits, six a letter
    assert made.stderr.split() == [key_id, "helpdesk", "classify", "reports"]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    later = [run(database_url, *asked) for asked in (["list"], ["list", "--json"], ["add", "another"], ["revoke", key_id], ["list"])]
    for answer in later:
        assert answer.exit_code == 0
        assert chance not in answer.output
        assert digest not in answer.output
    assert key_id in later[0].stdout


def test_a_key_is_stored_as_its_digest(database_url: str) -> None:
    key_id, secret = add(database_url, "helpdesk")
    with apart(database_url).connect() as connection:
        (row,) = connection.execute(sa.select(keys)).mappings()
    assert row["key_id"] == key_id
    assert row["digest"] == hashlib.sha256(secret.encode()).hexdigest()
    chance = secret.removeprefix(f"pm_{key_id}_")
    assert chance != secret
    assert not [name for name, value in row.items() if chance in str(value)]


def test_no_file_holds_a_key(sqlite: str, tmp_path: Path) -> None:
    key_id, secret = add(sqlite, "helpdesk")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key_id.encode() in written
    assert secret.removeprefix(f"pm_{key_id}_").encode() not in written


def test_every_key_is_another(database_url: str) -> None:
    made = [add(database_url, "helpdesk") for _ in range(3)]
    assert len({key_id for key_id, _ in made}) == len({secret for _, secret in made}) == 3
    assert [key["id"] for key in listed(database_url)] == [key_id for key_id, _ in made]


def test_the_list_says_what_each_key_is(database_url: str) -> None:
    helpdesk, _ = add(database_url, "the help desk")
    chief, _ = add(database_url, "chief", "admin", "reports")
    assert run(database_url, "revoke", helpdesk).exit_code == 0
    of_helpdesk, of_chief = listed(database_url)
    assert of_chief == {"id": chief, "name": "chief", "scopes": ["admin", "reports"], "created_at": of_chief["created_at"], "revoked_at": None}
    assert of_helpdesk["scopes"] == ["classify"]
    assert str(of_helpdesk["revoked_at"]) > str(of_helpdesk["created_at"])
    first, second = run(database_url, "list").stdout.splitlines()
    assert helpdesk in first
    assert "revoked" in first
    assert "the help desk" in first
    assert chief in second
    assert "valid" in second
    assert "admin reports" in second


def test_a_key_is_revoked_once(database_url: str) -> None:
    key_id, _ = add(database_url, "helpdesk")
    other, _ = add(database_url, "other")
    assert key_id in run(database_url, "revoke", key_id).stdout
    revoked_at = listed(database_url)[0]["revoked_at"]
    assert key_id in refused(run(database_url, "revoke", key_id))
    assert [(key["id"], key["revoked_at"]) for key in listed(database_url)] == [(key_id, revoked_at), (other, None)]


@pytest.mark.parametrize("key_id", ["00000000", "", "%", "x" * 500])
def test_a_key_that_there_is_not_cannot_be_revoked(database_url: str, key_id: str) -> None:
    add(database_url, "helpdesk")
    assert "keys list" in refused(run(database_url, "revoke", "--", key_id))
    assert [key["revoked_at"] for key in listed(database_url)] == [None]


def test_a_scope_that_there_is_not_makes_no_key(database_url: str) -> None:
    assert run(database_url, "add", "helpdesk", "--scope", "classify", "--scope", "everything").exit_code == 2
    assert listed(database_url) == []


@pytest.mark.parametrize("name", ["x" * 201, "", " ", "two\nlines", "\x1b[2Jclear"])
def test_a_name_that_cannot_be_kept_or_shown_is_refused_as_such(database_url: str, name: str) -> None:
    """The list has a line for each key, and both databases take the same names."""
    line = refused(run(database_url, "add", "--", name))
    gc.collect()  # a connection that was left open says so now, and not in another test
    assert "name" in line.lower()
    assert "database" not in line
    assert listed(database_url) == []


@pytest.mark.parametrize("asked", [["add", "helpdesk"], ["list"], ["revoke", "00000000"]])
@pytest.mark.parametrize("url", ["sqlite:////nowhere/x.db", "postgresql://me:xyzzy@localhost:1/x", "mysql://me:xyzzy@localhost/x", "no url"])
def test_a_database_that_cannot_be_used_is_said_in_a_line(asked: list[str], url: str) -> None:
    line = refused(run(url, *asked))
    assert "--database" in line
    assert "xyzzy" not in line


def test_the_database_is_the_one_of_the_service(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", database_url)
    assert CliRunner().invoke(pointsman.main, ["keys", "add", "helpdesk"]).exit_code == 0
    assert [key["name"] for key in listed(database_url)] == ["helpdesk"]


# The service that runs


async def until(service: Service, status: int, headers: dict[str, str]) -> float:
    """The seconds until a request with `headers` is answered `status`, and not something else before."""
    since = time.monotonic()
    while (answer := await service.client.get("/model", headers=headers)).status_code != status:
        assert answer.status_code in (200, 401)
        assert time.monotonic() - since < SOON, f"still {answer.status_code} after {SOON} s"
        await asyncio.sleep(0.5)  # ten wrong keys would be held back
    return time.monotonic() - since


async def test_a_running_service_takes_a_new_key_and_refuses_a_revoked_one(service: Service) -> None:
    assert (await service.client.get("/model")).status_code == 200  # the loopback rule
    kept, revoked = add(service.database_url, "kept"), add(service.database_url, "revoked")
    await until(service, 200, bearer(kept[1]))
    assert (await service.client.get("/model")).status_code == 401
    assert (await service.client.get("/model", headers=bearer(revoked[1]))).status_code == 200
    assert run(service.database_url, "revoke", revoked[0]).exit_code == 0
    await until(service, 401, bearer(revoked[1]))
    answer = await service.client.post("/classify", json={"body": INCIDENT}, headers=bearer(kept[1]))
    assert answer.status_code == 200
    assert len(service.rows()) == 1


async def test_the_first_key_ends_the_loopback_rule_for_good(service: Service) -> None:
    assert (await service.classify(body=INCIDENT)).status_code == 200
    key_id, _ = add(service.database_url, "helpdesk")
    await until(service, 401, {})
    assert run(service.database_url, "revoke", key_id).exit_code == 0
    service.app.state.service.keys.refresh()
    assert (await service.classify(body=INCIDENT)).status_code == 401
    assert len(service.rows()) == 1


async def test_keys_stay_good_while_the_keys_cannot_be_read(service: Service) -> None:
    header = service.key("classify")
    service.write(sa.text("ALTER TABLE api_keys RENAME TO away"))
    await asyncio.sleep(1.2)  # the service tried to read them, and could not
    assert (await service.client.get("/model", headers=header)).status_code == 200
    assert (await service.client.post("/classify", json={"body": INCIDENT}, headers=header)).status_code == 200
    assert (await service.client.get("/model")).status_code == 401
    service.write(sa.text("ALTER TABLE away RENAME TO api_keys"))
    service.write(sa.update(keys).values(revoked_at=sa.literal_column("created_at")))
    await until(service, 401, header)
