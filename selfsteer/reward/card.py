"""The model card of a reward model: its pairs, settings and figures, and misuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.templates import markdown
from selfsteer.version import __version__

_TEMPLATE = Path(__file__).parent / "card.md.jinja"


def reward_card(sets: Sequence[tuple[str, Any, Any, int]], training: Mapping[str, Any], **values: Any) -> str:
    """Return a Hugging Face model card.

    Args:
        sets: Of each set its name, its settings, its source and the number of its pairs trained on.
        values: base_model, title, data, settings and scores (by file, the accuracies of its subsets).
    """
    names = [name for name in ("loss", "accuracy", "margin", "mean_reward") if name in training["first"]]
    self_made = any(source.self_made for _, _, source, _ in sets)
    # A card is markdown, without escaping: names are in code spans, and no model output is in it.
    return markdown(
        _TEMPLATE, sets=sets, training=training, names=names, self_made=self_made, version=__version__, **values
    )
