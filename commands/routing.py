"""`pointsman classify`, `serve` and `keys`: tickets decided, from a file and over HTTP, and who may ask."""

import gc
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.learning import open_encoder
from commands.parallel import with_backend
from commands.terminal import database_option, open_database, refuse, setting_path, showing_progress, silence_output, writing

if TYPE_CHECKING:
    from training.backend import Backend

# What is imported inside the commands is slow to import and not needed by the others.


LONGEST_NAME = 200


@click.command(epilog="Example: pointsman classify --model models tickets.csv --output decisions.jsonl")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.argument("source", metavar="[IN|-]", default="-")
@click.option("--output", default="-", help="File to write; - is standard output. [default: -]")
@click.option("--explain", is_flag=True, help="Say which words pulled each answer.")
@click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run.")
@with_backend
def classify(model: Path, source: str, output: str, explain: bool, database: str | None, backend: "Backend", scheduler: str | None) -> None:
    """Decide each ticket of a table: one JSON line a row, in order, in constant memory. A row that fails gives a line with
    its error, and exit status 1."""
    from model import bundle, policy
    from model.errors import ModelError
    from training import rows
    from training.backend import running_on
    from training.batches import decide
    from training.errors import TrainingError

    failed = 0
    unasked: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))  # so that a half-written output is removed
    try:
        router = bundle.load(bundle.find(model))
        rules = policy.load_policy(setting_path("POINTSMAN_POLICY"))
        # Decisions hold no cycles; looking for some in a million of them takes a third of the time.
        gc.freeze()
        gc.disable()
        with running_on(backend, scheduler), writing(output) as out, showing_progress() as progress:
            done = 0
            for batch in decide(rows.read(source, database), router, rules, open_encoder, explain=explain, parallel=backend != "threads"):
                out.write(batch.lines)
                done += batch.rows
                failed += batch.failed
                unasked += [batch.unasked] if batch.unasked else []
                progress("classifying", done, 0)
    except (TrainingError, ModelError) as error:
        refuse(error)
    except BrokenPipeError:
        silence_output()  # the reader has seen enough
    except OSError as error:
        silence_output()
        refuse(f"{output}: cannot be written: {error.strerror}")
    if unasked:
        click.echo(f"pointsman: the deep path was not asked for {len(unasked)} batches, whose fast answers stand: {unasked[0]}", err=True)
    if failed:
        click.echo(f"pointsman: {failed} rows failed; each has a line with its error", err=True)
        raise SystemExit(1)


@click.command(epilog="Example: pointsman serve --model models --port 8000")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
def serve(model: Path, host: str, port: int, workers: int) -> None:
    """Answer POST /classify over HTTP, and show the try-it page, with the champion of --model."""
    from model.errors import ModelError
    from service.run import CannotServeError, run

    try:
        run(model, host, port, workers)
    except (ModelError, CannotServeError) as error:
        refuse(error)


@click.group(epilog="Example: pointsman keys add helpdesk --scope classify")
def keys() -> None:
    """API keys: who may ask what. The first one ends the loopback rule."""


@keys.command("add", epilog="Example: pointsman keys add helpdesk --scope classify --scope outcomes")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("classify",),
    show_default=True,
    type=click.Choice(["classify", "outcomes", "reports", "review", "admin"]),
)
@database_option
def keys_add(name: str, scopes: tuple[str, ...], database: str) -> None:
    """Make a key and show it, this once."""
    from service.keys.service import make

    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        refuse(f"a key's name is 1 to {LONGEST_NAME} printable characters, such as helpdesk")

    with open_database(database) as engine:
        key, secret = make(engine, name, frozenset(scopes))
    click.echo(f"{key.key_id}  {name}  {' '.join(sorted(key.scopes))}", err=True)
    click.echo(secret)


@keys.command("list", epilog="Example: pointsman keys list --json")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def keys_list(database: str, as_json: bool) -> None:
    """Show the keys, never the secrets."""
    from service.keys.repository import find_all

    with open_database(database) as engine, engine.connect() as connection:
        found = find_all(connection)
    if as_json:
        shown = [
            {
                "id": k.key_id,
                "name": k.name,
                "scopes": sorted(k.scopes),
                "created_at": str(k.created_at),
                "revoked_at": k.revoked_at and str(k.revoked_at),
            }
            for k in found
        ]
        click.echo(json.dumps(shown))
        return
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        click.echo(f"{key.key_id}  {key.created_at:%Y-%m-%d}  {state:<18}  {' '.join(sorted(key.scopes)):<20}  {key.name}")


@keys.command("revoke", epilog="Example: pointsman keys revoke 1f2e3d4c")
@click.argument("key_id")
@database_option
def keys_revoke(key_id: str, database: str) -> None:
    """Make a key worthless; running services know within seconds."""
    from datetime import UTC, datetime

    from service.keys.repository import revoke

    with open_database(database) as engine, engine.begin() as connection:
        done = revoke(connection, key_id, datetime.now(UTC))
    if not done:
        refuse(f"no valid key has the id {key_id}; `pointsman keys list` shows them")
    click.echo(f"{key_id} is revoked")
