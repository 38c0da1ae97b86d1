"""The model card of a trained policy: its data, its settings, its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsteer.templates import markdown

_TEMPLATE = Path(__file__).parent / "card.md.jinja"


def model_card(
    *, figures: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any] | None = None, **facts: Any
) -> str:
    """Return a Hugging Face model card; ``facts`` are base_model, version, annotated, and data and settings by name.

    Of the ``figures``, a row a logged step as in metrics.jsonl, the first and the last are shown.
    """
    # No autoescape: a card is markdown; names are shown in code spans, and model output never gets here.
    shown = [figures[0], figures[-1]] if figures else []
    names = [name for name in shown[0] if name.startswith(("loss", "rewards/", "weight"))] if shown else []
    kwargs = json.dumps(template_kwargs, ensure_ascii=False) if template_kwargs else ""
    return markdown(_TEMPLATE, shown=shown, names=names, template_kwargs=kwargs, **facts)
