"""The section `quality`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from selfsteer.config.base import Section, TemplateKwargs, conflict
from selfsteer.errors import shortened


class HarmSettings(Section):
    """A text-classification model that says which y- are harmful; they are flagged, not dropped."""

    classifier: str
    """A local folder or a hub name."""
    label: str
    """The model's label for harmful texts, e.g. "toxic"."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Least probability of the label at which y- is flagged."""
    revision: str | None = None


class RewardFilterSettings(Section):
    """The reward model of the filter ``reward_margin``; it computes in float32."""

    model: str
    """A local folder or a hub name: a sequence-classification model with one output."""
    revision: str | None = None
    chat_template_kwargs: TemplateKwargs = {}
    """Variables for its chat template."""


def _readable(filters: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
    """Refuse what is neither a name nor {name: settings}; names and settings are checked where filters are known."""
    for entry in filters:
        if isinstance(entry, dict) and (len(entry) != 1 or not isinstance(next(iter(entry.values())), dict | None)):
            what = f"can't read the filter {shortened(repr(entry), 200)}: write a name, or {{name: {{setting: value}}}}"
            raise conflict(what)
    return filters


class QualitySettings(Section):
    """What happens to the sampled responses before they are trained on."""

    clean: bool = True
    """Strip leaked labels and end cut-off sentences."""
    filters: Annotated[list[str | dict[str, Any]], AfterValidator(_readable)] = [
        "identical",
        "leak",
        "repetition",
        "refusal_mismatch",
        "duplicates",
        "language_mismatch",
        {"steering_gap": {"min": 0.0}},
    ]
    """In the order in which they run; docs/quality.md has them all. The paper's are identical, leak, preference_order,
    near_onpolicy and steering_gap without ``min``: they keep a few rows of a hundred."""
    harm: HarmSettings | None = None
    """Flag harmful y- by a classifier too, besides those that an aspect of the principle set flags."""
    reward: RewardFilterSettings | None = None
    """The reward model whose margin the filter ``reward_margin`` uses."""
