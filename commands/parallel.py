"""The options that say where the parallel parts of a command run."""

from typing import Any

import click

_options = [
    click.option(
        "--backend", default="threads", show_default=True, type=click.Choice(["threads", "processes", "dask"]), help="Where the parallel parts run."
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, such as tcp://10.0.0.5:8786; its workers have Pointsman installed."),
]


def with_backend(command: Any) -> Any:
    for option in reversed(_options):
        command = option(command)
    return command
