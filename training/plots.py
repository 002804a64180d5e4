"""Plots as SVG that stands alone: no script, nothing fetched. Each figure in them also stands in a table or a file beside them."""

from collections.abc import Sequence
from typing import Any

import pygal
from pygal.style import Style

_COLOURS = ("#1f5fa8", "#b4560c", "#8a8a8a")
_STYLE = Style(background="white", plot_background="white", font_family="sans-serif", colors=_COLOURS, label_font_size=13, legend_font_size=13)
_SETTINGS: dict[str, Any] = {
    "js": [], "style": _STYLE, "width": 640, "height": 420, "explicit_size": True, "legend_at_bottom": True, "dots_size": 3, "truncate_legend": -1,
    "truncate_label": 40, "value_formatter": "{:.1f}%".format, "x_value_formatter": "{:.0f}%".format,
    "show_y_guides": False,
}  # fmt: skip


def reliability(name: str, figures: dict[str, Any]) -> bytes:
    """What the router said of its answers on `name`, and what came."""
    low = 100 * min(min(said, came) for said, came, _ in figures["reliability"])
    chart = pygal.XY(**_SETTINGS, title=f"{name}: what was said, and what came", x_title="mean confidence", y_title="right answers")
    chart.add("what came", [(100 * said, 100 * came) for said, came, _ in figures["reliability"]])
    chart.add("as promised", [(low, low), (100, 100)], show_dots=False, stroke_style={"width": 2})
    return bytes(_plain(chart).render())


def risk(name: str, figures: dict[str, Any]) -> bytes:
    """How many answers would be wrong if so many were acted on, the surest first."""
    chart = pygal.XY(**_SETTINGS, title=f"{name}: risk against coverage", x_title="acted on, the surest first", y_title="wrong among them")
    chart.add("wrong answers", [(100 * covered, 100 * wrong) for covered, wrong, _ in figures["risk"]])
    allowed = 100 * (1 - figures["promise"]["precision"])
    chart.add("allowed by the promise", [(0, allowed), (100, allowed)], show_dots=False, stroke_style={"width": 2})
    return bytes(_plain(chart).render())


def differences(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The candidate's gain or loss in each of `rows`, in points, to stand within a page."""
    chart = pygal.HorizontalBar(
        **_SETTINGS | {"height": 120 + 24 * len(rows), "value_formatter": "{:+.1f}".format},
        title=title, show_legend=False, disable_xml_declaration=True,
    )  # fmt: skip
    chart.x_labels = [name for name, _ in reversed(rows)]
    values = [own["difference"] or 0.0 for _, own in reversed(rows)]
    chart.add("points", [{"value": 100 * value, "color": _COLOURS[0] if value >= 0 else _COLOURS[1]} for value in values])
    return str(_plain(chart).render(is_unicode=True))


def _plain(chart: Any) -> Any:
    """Without the script that pygal puts in for its own, which is not there; and named for those who hear a page."""

    def strip(root: Any) -> Any:
        for parent in list(root.iter()):
            for node in list(parent):
                if isinstance(node.tag, str) and node.tag.rpartition("}")[2] == "script":
                    parent.remove(node)
        root.set("role", "img")
        root.set("aria-label", chart.title)
        return root

    chart.add_xml_filter(strip)
    return chart
