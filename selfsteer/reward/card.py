"""The model card of a reward model: its pairs, settings and figures, and misuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.templates import markdown
from selfsteer.version import __version__

_TEMPLATE = Path(__file__).parent / "card.md.jinja"


def reward_card(
    *,
    base_model: str,
    title: str,
    sets: Sequence[tuple[str, Any, Any, int]],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
    scores: Mapping[str, Any],
) -> str:
    """Return a Hugging Face model card.

    Args:
        sets: Of each set its name, its settings, its source and the number of its pairs trained on.
        scores: By file, the accuracies of its subsets; empty before the evaluation.
    """
    # A card is markdown, without escaping: names are in code spans, and no model output is in it.
    return markdown(
        _TEMPLATE,
        base_model=base_model,
        title=title,
        sets=sets,
        data=data,
        settings=settings,
        training=training,
        names=[name for name in ("loss", "accuracy", "margin", "mean_reward") if name in training["first"]],
        scores=scores,
        self_made=any(source.self_made for _, _, source, _ in sets),
        version=__version__,
    )
