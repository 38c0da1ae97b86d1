"""One panel: matplotlib draws it, and its SVG is adapted to an HTML page.

The same input gives the same bytes: ids come from a salt, there is no date, and the user's matplotlibrc is ignored.
"""

from __future__ import annotations

import dataclasses
import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure as Canvas

from selfsteer.report.figures.style import RC

Axes = Any  # matplotlib.axes.Axes

WIDE, NARROW = 400, 340  # user units, near the CSS pixels a panel gets where two or three stand in a row
_PER_CHARACTER = 8.5  # user units of legend text, marker included


@dataclasses.dataclass(frozen=True)
class Panel:
    """A drawn panel; ``svg`` carries its own title and description for screen readers."""

    title: str
    svg: Markup


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the page: panels in a row, or a sentence on why there are none."""

    title: str
    caption: str
    panels: list[Panel]
    missing: str = ""


def draw_panel(
    name: str, title: str, alt: str, draw: Callable[[Axes], None], *, width: float = NARROW, height: float = 260
) -> Panel:
    """Draw one panel of a size in user units.

    Args:
        name: Prefix of its ids, unique on the page.
        title: The heading above the panel, in HTML.
        alt: A description for readers who can't see it, with the numbers.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**RC, "svg.hashsalt": f"selfsteer-{name}"})
        # The text stays text: the browser's fonts draw it, so glyphs missing in matplotlib's own font don't matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=(width / 72, height / 72), layout="constrained")  # one SVG unit is 1/72 inch
        axes = canvas.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            fits = sum(len(text) + 4 for text in labels) * _PER_CHARACTER <= width
            canvas.legend(handles, labels, loc="outside upper left", ncols=len(labels) if fits else 2)
        svg = io.StringIO()
        canvas.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Panel(title, _embed(svg.getvalue(), name, title, alt))


def tick_names(names: list[str]) -> list[str]:
    """Return names for ticks; on several lines if there are more than two."""
    return names if len(names) < 3 else [textwrap.fill(name, 9, break_long_words=False) for name in names]


def _embed(document: str, name: str, title: str, alt: str) -> Markup:
    """Turn an SVG document into an element of an HTML page: no namespaces, no style sheet, ids of its own."""
    root = ElementTree.fromstring(document)
    used = set(re.findall(r"""(?:url\(|href=")#([^)"]+)""", document))
    for element in root.iter():
        _strip(element, name, used)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-desc",
    }
    for tag, text in (("desc", alt), ("title", title)):
        child = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        child.text = text
        root.insert(0, child)
    # Attributes and text are escaped by the writer.
    return Markup(ElementTree.tostring(root, encoding="unicode", method="html"))


def _strip(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Make one element HTML: plain names, referenced ids only (prefixed), two decimals, no blank text."""
    element.tag = _local(element.tag)
    for child in [child for child in element if _local(child.tag) in ("metadata", "style")]:
        element.remove(child)
    if element.get("id", "") not in used:
        element.attrib.pop("id", None)
    element.attrib = {_local(key): _attribute(_local(key), value, name) for key, value in element.attrib.items()}
    element.text = element.text if element.tag == "text" else None
    element.tail = None  # white space between elements


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "style":
        value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
    value = value.replace("url(#", f"url(#{name}-")
    if key in ("d", "x", "y", "transform", "points"):
        value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value).replace("\n", "")
    return value


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
