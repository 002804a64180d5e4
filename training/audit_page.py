"""An audit as a page of its own: no script, nothing loaded from elsewhere, pictures within it."""

from pathlib import Path
from typing import Any

import pygal
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.audit import Audit
from training.audit_table import Finding

_LONGEST_NAME = 32  # characters of a bar's name
_STYLE = pygal.style.Style(font_family="inherit", label_font_size=13)


def page(audit: Audit) -> str:
    """The page as HTML. All that stands in the tickets is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"how_many": how_many, "picture": _picture, "number": lambda count: f"{count:,}"}
    return environment.get_template("audit.html").render(audit=audit)


def how_many(finding: Finding) -> str:
    """``12 of 3,681 tickets (0.3%)``."""
    share = f" ({finding.count / finding.of:.1%})" if finding.of else ""
    return f"{finding.count:,} of {finding.of:,} {finding.unit}{share}"


def _picture(bars: list[tuple[str, float]], name: str) -> Markup:
    chart = pygal.HorizontalBar(
        css=[], js=[], style=_STYLE, width=740, height=24 + 24 * len(bars), margin=8, show_legend=False, disable_xml_declaration=True,
        truncate_label=-1, no_data_text="", show_x_labels=False, show_x_guides=False, margin_bottom=16, range=(0, max(1.0, *(value for _, value in bars))),
    )  # fmt: skip
    # pygal draws the first one at the bottom.
    shown = [(label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 1] + "…", value) for label, value in reversed(bars)]
    chart.x_labels = [f"{label}  {value:,.0f}" for label, value in shown]
    chart.value_formatter = "{:,.0f}".format
    chart.add("", [value for _, value in shown])

    def plain(root: Any) -> Any:
        _strip(root)
        root.set("role", "img")
        root.set("aria-label", f"{name}: " + ", ".join(f"{label} {value:,.0f}" for label, value in reversed(shown)))
        return root

    chart.add_xml_filter(plain)
    return Markup(chart.render(is_unicode=True))  # noqa: S704  # an XML library wrote it, and escaped every name in it


def _strip(root: Any) -> None:
    """Take out styles, scripts and what only the script could use; say each bar's value in a title, which needs none."""
    for node in [root, *root.iter("*")]:
        for attribute in ("id", "style"):
            node.attrib.pop(attribute, None)
        told = {child.get("class"): child.text for child in node if child.tag == "desc"}
        for child in list(node):
            overlay = {"tooltip-overlay", "text-overlay"} & set((child.get("class") or "").split())
            if not isinstance(child.tag, str) or child.tag in ("defs", "desc", "title", "style", "script") or overlay:
                node.remove(child)
        if "value" in told and len(node):
            hint = node[0].makeelement("title", {})
            hint.text = f"{told.get('x_label', '')}: {told['value']}"
            node[0].append(hint)
