"""The model card of a trained policy: its data, its settings, its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.templates import markdown

_TEMPLATE = Path(__file__).parent / "card.md.jinja"


def model_card(
    *,
    base_model: str,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    version: str,
    annotated: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return a Hugging Face model card.

    Args:
        base_model: The model that the training started from.
        data: Facts about the training rows ("queries", "principle set", "kept rows", ...), name to value.
        settings: The resolved training settings, name to value.
        figures: One row per logged optimiser step, as in metrics.jsonl; the first and the last are shown.
        version: Of this package.
        annotated: Whether the preferences were annotated, not made by the model itself.
        template_kwargs: Variables of the chat template.
    """
    # No autoescape: a card is markdown; names are shown in code spans, and model output never gets here.
    shown = [figures[0], figures[-1]] if figures else []
    names = [name for name in shown[0] if name.startswith(("loss", "rewards/", "weight"))] if shown else []
    return markdown(
        _TEMPLATE,
        base_model=base_model,
        data=data,
        settings=settings,
        shown=shown,
        names=names,
        version=version,
        annotated=annotated,
        template_kwargs=json.dumps(template_kwargs, ensure_ascii=False) if template_kwargs else "",
    )
