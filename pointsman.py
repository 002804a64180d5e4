"""The front door: the `pointsman` command, one thin subcommand for each thing the program does; they stand in `commands/`."""

from importlib.metadata import PackageNotFoundError, version

import click

from commands import following, labelling, learning, promoting, retrain, routing


def _version() -> str:
    try:
        return version("pointsman")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(_version(), prog_name="pointsman")
def main() -> None:
    """Pointsman reads a support ticket in any language: is it a real incident or a request for advice, which department
    owns it, and how sure is that.

    \b
    pointsman train data/tickets/*.jsonl          learn a router from a table of tickets
    pointsman serve                               answer POST /classify with it
    """


for command in (
    learning.train,
    learning.evaluate,
    promoting.compare,
    promoting.promote,
    promoting.experiments,
    labelling.audit,
    labelling.label,
    labelling.worksheet,
    routing.classify,
    routing.serve,
    routing.keys,
    following.tickets,
    following.outcomes,
    following.report,
    following.demo,
    retrain.retrain,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
