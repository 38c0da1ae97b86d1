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
    """Return a Hugging Face model card: data and settings as names and values, figures as in metrics.jsonl.

    The first and the last of the ``figures`` are shown. ``annotated``: the preferences were not made by the model.
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
