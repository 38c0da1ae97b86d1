"""Colours with one meaning in all figures, safe for colour-blind readers.

Colour is never the only sign: responses and policies also differ by marker, loss terms by dashes, bars by hatching.
"""

from __future__ import annotations

from typing import Any

from matplotlib.colors import LinearSegmentedColormap, to_hex

INK = "#1f2328"
GRID = "#d9dde2"

ROLE_COLOURS = {"positive": "#00865f", "original": "#b8478c", "negative": "#c9560a"}
ROLE_MARKERS = {"positive": "^", "original": "o", "negative": "v"}
ROLE_NAMES = {"positive": "y\N{SUPERSCRIPT PLUS SIGN}", "original": "yₒ", "negative": "y\N{SUPERSCRIPT MINUS}"}
PROMPT_NAMES = {
    "positive_prompt": "x\N{SUPERSCRIPT PLUS SIGN}",
    "prompt": "x",
    "negative_prompt": "x\N{SUPERSCRIPT MINUS}",
}

LOSS_TERMS = {  # colour and dashes
    "loss": ("total", INK, "-"),
    "loss/base": ("base", "#a87400", "--"),
    "loss/steering": ("steering", "#5b3fa0", "-."),
    "loss/sft": ("SFT", "#6b7280", ":"),
}
WEIGHT_COLOUR = "#44546a"
TRUTHS = {"program": ("#1b7f8c", "D"), "strict": ("#7d8590", "s"), "debiased": (INK, "o")}  # colour and marker
KEPT_COLOUR, DROPPED_COLOUR = "#44546a", "#ccd2da"

_BEFORE = "#858b93"
_AFTER = ("#56a5dc", "#0072b2", "#0b3a5e")  # light to dark, the last policy darkest
_MARKERS = ("o", "D", "s", "P", "X")

RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8b929b",
    "xtick.color": "#8b929b",
    "ytick.color": "#8b929b",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.8,
    "hatch.color": "#7d8590",
}


def policy_colours(count: int) -> list[str]:
    """Return a colour a policy: grey before training, then blues that darken to the last round."""
    if count <= 2:
        return [_BEFORE, _AFTER[1]][:count]
    blues = LinearSegmentedColormap.from_list("rounds", _AFTER)
    return [_BEFORE, *(to_hex(blues(index / (count - 2))) for index in range(count - 1))]


def policy_marker(index: int) -> str:
    """Return the marker of the policy with this index."""
    return _MARKERS[index % len(_MARKERS)]
