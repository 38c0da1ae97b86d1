"""The interface of a filter, and the context that it gets besides the row."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from selfsteer.quality.duplicates import Repeats
from selfsteer.records import Contrast

FilterSpec = str | Mapping[str, Any]
"""One configuration entry: ``"leak"`` or ``{"direction": {"program": "shorter", "min_ratio": 0.9}}``."""

Role = Literal["positive", "negative", "original"]
ALL_ROLES: tuple[Role, ...] = ("positive", "negative", "original")
SYMBOLS = {
    "positive_response": "y+",
    "negative_response": "y-",
    "original_response": "yo",
    "prompt": "x",
    "positive_prompt": "x+",
    "negative_prompt": "x-",
}


@dataclasses.dataclass(frozen=True)
class Context:
    """The context of a filter.

    Attributes:
        thresholds: The filter's own, given in its settings or fitted to the set.
        repeats: Which rows repeat an earlier one, for the filter that needs it.
    """

    adjectives: Mapping[str, Sequence[str]]
    thresholds: Mapping[str, float]
    repeats: Repeats | None = None
    harmful: Collection[str] = ()


class Filter(BaseModel):
    """Base of the filters; the fields of a subclass are its settings.

    Attributes:
        scored: Whether it uses log-probs, so that rows without scores can't pass it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: ClassVar[str]
    relax: ClassVar[str]  # shown where a filter drops every row: an advice beats a count
    scored: ClassVar[bool] = False

    @property
    def given(self) -> Mapping[str, float] | None:
        """The thresholds that its settings say; None where it must be fitted to the set, at the cost of a pass."""
        return {}

    @property
    def content(self) -> str:
        """Names the content of a shipped file that its verdicts depend on; "" where there is none."""
        return ""

    def fit(self, rows: Iterable[Contrast], context: Context) -> Context | None:
        """Return the context with the set's own thresholds, None where the set holds no row.

        Args:
            rows: Those that the filters before this one keep, in the order of the set.
            context: With no thresholds.
        """
        return context

    def reason(self, row: Contrast, context: Context) -> str:
        """Return why ``row`` must be dropped, "" where it passes."""
        raise NotImplementedError
