"""The charts of the pages: SVG that pygal makes and the style sheet dresses.

The pages' policy forbids styles and scripts within a page, so what pygal adds of those is taken out again, and with it what only its script
could use. The colours are classes, so that they follow the page into the dark and onto paper. A chart is one picture to those who hear the
page: it is named, and its figures stand in a table beside it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

import pygal
from markupsafe import Markup
from pygal.style import Style

from service.reports.schemas import Band

# For maps, which are not used here, pygal adds a finder of modules in a way that Python has given up: 3.11 warns at every import that fails.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != pygal.__name__]

MOST_LABELS = 8  # on an axis; more would stand in each other
MOST_STEPS = 6
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
_STYLE = Style(font_family="sans-serif", label_font_size=13, major_label_font_size=13)
_SETTINGS: dict[str, Any] = {
    "css": [], "js": [], "style": _STYLE, "width": 560, "height": 250, "margin": 10, "margin_top": 20, "margin_right": 30, "show_legend": False,
    "disable_xml_declaration": True, "dots_size": 3, "no_data_text": "", "show_minor_x_labels": False, "truncate_label": -1,
}  # fmt: skip
_OF_THE_SCRIPT = {"tooltip-overlay", "text-overlay"}


@dataclass(frozen=True)
class Series:
    """One line, or one layer: a share from 0 to 1 for each place on the axis, None where there is none."""

    name: str
    values: list[float | None]


@dataclass(frozen=True)
class Mark:
    """What happened at a place on the axis."""

    place: int
    text: str


@dataclass(frozen=True)
class Chart:
    """The picture, and what its colours mean, in their order."""

    svg: Markup
    legend: list[str]
    layered: bool = False


def lines(name: str, places: Sequence[str], series: Sequence[Series], marks: Sequence[Mark] = (), least: float = 0.0) -> Chart:
    """Shares over time. The axis ends a little over the highest, or at 100%; it begins at `least`."""
    highest = max((value for one in series for value in one.values if value is not None), default=1.0)
    top = min(1.0, 1.15 * highest) or 0.1
    chart = pygal.Line(**_SETTINGS, **_upright(least, top), allow_interruptions=True)
    return _draw(chart, name, places, series, lambda root: _mark(root, chart, marks))


def layers(name: str, places: Sequence[str], series: Sequence[Series]) -> Chart:
    """Shares that make up a whole, over time."""
    chart = pygal.StackedBar(**_SETTINGS, **_upright(0, 1))
    return replace(_draw(chart, name, places, series), layered=True)


def promises(name: str, bands: Sequence[Band]) -> Chart:
    """What each band of confidence promised, and what came, with its interval."""
    places = [f"{100 * band.low:.0f}–{100 * band.high:.0f}%" for band in bands]
    series = [Series("came true", [band.right.share for band in bands]), Series("promised", [band.confidence for band in bands])]
    lowest = min((value for one in series for value in one.values if value is not None), default=0.0)
    lowest = min([lowest, *(band.right.interval[0] for band in bands if band.right.interval)])
    chart = pygal.Line(**_SETTINGS, **_upright(lowest, 1), allow_interruptions=True)

    def whiskers(root: Any) -> None:
        for place, band in enumerate(bands):
            if band.right.interval:
                _node(root, chart, "whisker", place, *band.right.interval)

    return _draw(chart, name, places, series, whiskers)


def _upright(low: float, high: float) -> dict[str, Any]:
    """The upright axis of shares, with few and round steps."""
    step = next((step for step in STEPS if (high - low) / step <= MOST_STEPS), STEPS[-1])
    first = floor(low / step + 1e-9)
    labels = [round(100 * step * i, 2) for i in range(first, ceil(high / step - 1e-9) + 1)]
    return {"range": (labels[0], labels[-1]), "y_labels": labels}


def _draw(
    chart: Any, name: str, places: Sequence[str], series: Sequence[Series], more: Callable[[Any], None] = lambda root: None
) -> Chart:  # fmt: skip
    if not places or not series:
        return Chart(Markup(""), [])
    every = -(-len(places) // MOST_LABELS)
    chart.x_labels = list(places)
    chart.x_labels_major = list(places)[::every]
    chart.value_formatter = "{:g}%".format
    for one in series:
        chart.add(one.name, [None if value is None else round(100 * value, 2) for value in one.values])

    def plain(root: Any) -> Any:
        more(root)
        _strip(root)
        root.set("role", "img")
        root.set("aria-label", name)
        return root

    chart.add_xml_filter(plain)
    svg = Markup(chart.render(is_unicode=True))  # noqa: S704  # an XML library wrote it, and escaped every name in it
    return Chart(svg, [one.name for one in series])


def _strip(root: Any) -> None:
    hints = []
    for node in [root, *root.iter("*")]:
        for attribute in ("id", "style"):
            node.attrib.pop(attribute, None)
        told = {child.get("class"): child.text for child in node if child.tag == "desc"}
        for child in list(node):
            if not isinstance(child.tag, str) or child.tag in ("defs", "desc", "title") or _OF_THE_SCRIPT & set(child.get("class", "").split()):
                node.remove(child)
        if "value" in told:
            hints.append((node[0], f"{told['x_label']}: {told['value']}" if told.get("x_label") else told["value"]))
    for shape, text in hints:  # what a pointer that rests on a dot or a bar is told
        hint = shape.makeelement("title", {})
        hint.text = text
        shape.append(hint)


def _mark(root: Any, chart: Any, marks: Sequence[Mark]) -> None:
    for mark in marks:
        low, high = chart.view.box.ymin / 100, chart.view.box.ymax / 100
        line = _node(root, chart, "mark", mark.place, low, high)
        text = line.makeelement("text", {"x": line.get("x1"), "y": "-3", "class": "mark"})
        text.text = mark.text
        line.getparent().append(text)


def _node(root: Any, chart: Any, kind: str, place: int, low: float, high: float) -> Any:
    """A line that stands over a place on the axis, from a share to another."""
    plot = next(node for node in root.iter("g") if "overlay" in node.get("class", "").split())
    x = f"{chart.view.x(chart._x_pos[place]):.1f}"
    ys = [f"{chart.view.y(100 * share):.1f}" for share in (low, high)]
    line = plot.makeelement("line", {"x1": x, "x2": x, "y1": ys[0], "y2": ys[1], "class": kind})
    plot.append(line)
    return line
