"""The comparison as one HTML page that stands alone: no script, nothing fetched, everything that a ticket or a table says escaped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training import plots
from training.flips import Flip

_MOST_ROWS = 60  # of a table or a picture; the JSON has all
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def page(figures: dict[str, Any], verdict: dict[str, Any], warnings: Sequence[str], flips: Sequence[Flip] = ()) -> str:
    """The page: the verdict with its checks, the differences with their intervals, and the `flips` with their words."""
    _PAGES.filters["share"] = lambda value: "–" if value is None else f"{100 * value:.1f}%"
    _PAGES.filters["points"] = lambda value: "–" if value is None else f"{100 * value:+.1f}"
    tables = [_table(name, of) for name, of in figures["targets"].items()]
    pictures = [
        Markup(plots.differences(f"{name}: the candidate's accuracy by language, in points", rows))  # noqa: S704  # an XML library wrote it
        for name, of in figures["targets"].items()
        if (rows := list(of["languages"].items())[:_MOST_ROWS])
    ]
    return _PAGES.get_template("comparison.html").render(
        figures=figures, verdict=verdict, warnings=warnings, flips=flips, tables=tables, pictures=pictures, left_out=_MOST_ROWS
    )


def rows(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The differences in one target that are looked at first, each with its name."""
    found = [("accuracy", figures["accuracy"]), ("macro-F1", figures["macro_f1"])]
    for label, protected in figures["protected"].items():
        found += [(f"recall of {label}", protected["recall"]), (f"{label} not let pass", protected["not_let_pass"])]
    return [*found, ("right of what is routed without a person", figures["promise"]["difference"])]


def _table(name: str, of: dict[str, Any]) -> dict[str, Any]:
    parts = [("by label", of["labels"]), ("by language", of["languages"]), ("by customer tier", of.get("tiers", {}))]
    shown = [(title, list(part.items())[:_MOST_ROWS], max(0, len(part) - _MOST_ROWS)) for title, part in parts if part]
    return {"name": name, "first": rows(of), "parts": shown, "of": of}
