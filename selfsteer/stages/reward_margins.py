"""The margin of a reward model on rows, for the filter ``reward_margin``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from selfsteer.config import JudgeSettings, RewardFilterSettings
from selfsteer.errors import ConfigError
from selfsteer.files import fingerprint
from selfsteer.judges import Judge, Pair, PresentedPair, make_judge
from selfsteer.judges.answer_cache import Answer
from selfsteer.quality import RewardMargin, parse_filters, put_margin, stored_margin
from selfsteer.records import Contrast, is_full
from selfsteer.temp_db import TempDatabase, hash_of

BATCH = 32
"""Rows that the reward model is given at once."""


class RewardMargins:
    """Puts r(x, y+) - r(x, y-) into rows; the model is loaded when the first row lacks it.

    A margin that a row brings from the same model stays, and one that was asked for is not asked again.
    """

    def __init__(self, settings: RewardFilterSettings, device: str) -> None:
        self._settings = JudgeSettings(
            name=f"reward:{settings.model}", device=device, revision=settings.revision,
            chat_template_kwargs=settings.chat_template_kwargs,
        )  # fmt: skip
        self._source, self._revision = settings.model, settings.revision
        self._judge: Judge | None = make_judge(self._settings)
        self._known = TempDatabase(
            ["CREATE TABLE margins (row BLOB PRIMARY KEY, margin REAL) WITHOUT ROWID"], "margins"
        )

    @cached_property
    def key(self) -> str:
        """Names the model: its weights and configuration, its tokenizer and its chat template."""
        from selfsteer.models import model_fingerprint

        content = model_fingerprint(self._source, self._revision, chat=True)
        kwargs = self._settings.chat_template_kwargs
        return fingerprint([content, kwargs]) if kwargs else content

    def put(self, rows: Sequence[Contrast]) -> list[Contrast]:
        """Return the rows with their margins; those with an empty response are left as they are."""
        asked = {self._name(row): row for row in rows if is_full(row) and stored_margin(row, self.key) is None}
        lacking = {name: row for name, row in asked.items() if self._of(name) is None}
        if lacking:
            self._judge = self._judge or make_judge(self._settings)
            pairs = [
                Pair(row.id, row.prompt, row.positive_response, row.negative_response,
                     first_finish=row.positive_finish, second_finish=row.negative_finish)
                for row in lacking.values()
            ]  # fmt: skip
            answers = self._judge.answer([PresentedPair(pair, swapped=False) for pair in pairs])
            for name, answer in zip(lacking, answers, strict=True):
                # None where a conversation doesn't fit.
                margin = answer.log_odds if isinstance(answer, Answer) and answer.valid else None
                self._known.execute("INSERT INTO margins VALUES (?, ?)", (name, margin))
        named = [(row, self._name(row)) for row in rows]
        return [put_margin(row, self._of(name)[0], self.key) if name in asked else row for row, name in named]  # type: ignore[index]

    def put_all(self, rows: Iterable[Contrast]) -> Iterator[Contrast]:
        """Yield rows of any number with their margins, a batch at a time in memory."""
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            yield from self.put(batch)

    def free(self) -> None:
        """Let go of the model; it is loaded again should a row need it."""
        self._judge = None

    def _of(self, name: bytes) -> tuple[float | None] | None:
        found: tuple[float | None] | None = self._known.execute(
            "SELECT margin FROM margins WHERE row = ?", (name,)
        ).fetchone()
        return found

    def _name(self, row: Contrast) -> bytes:
        return hash_of(repr([row.prompt, row.positive_response, row.negative_response]))


def margins_of(
    filters: Sequence[str | dict[str, Any]], settings: RewardFilterSettings | None, device: str
) -> RewardMargins | None:
    """Return what the filters need of a reward model, None where they need none.

    Raises:
        ConfigError: A filter needs a reward model and none is named, or one is named and no filter uses it.
        ModelError, FetchError: It is not a reward model, or can't be fetched.
    """
    needed = any(isinstance(step, RewardMargin) for step in parse_filters(filters))
    if needed and settings is None:
        what = "the filter reward_margin needs a reward model, and none is named"
        raise ConfigError(what, where="quality.reward", do="name it: quality.reward={model: MODEL}")
    if settings is None:
        return None
    if not needed:
        what = f"no filter uses the reward model {settings.model}"
        do = "add reward_margin to quality.filters, or set quality.reward=null"
        raise ConfigError(what, where="quality.reward", do=do)
    return RewardMargins(settings, device)
