"""Which (prompt, response) cells of a contrast are scored, laid out as one row per prompt with its R responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfsteer.errors import DataError
from selfsteer.records import PROMPTS, ROLES, Contrast
from selfsteer.views import PAIRINGS, View


class Cell(NamedTuple):
    """A response role and the prompt it is scored under, e.g. ``Cell("positive", "negative_prompt")`` is y+ | x-."""

    role: str
    prompt: str


ALL_CELLS = tuple(Cell(role, prompt) for role in ROLES for prompt in PROMPTS)


@dataclass(frozen=True)
class PromptRow:
    """One prompt and the responses scored under it, as token ids."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]


def view_cells(views: Iterable[View]) -> list[Cell]:
    """Return the distinct cells that ``views`` need, in a fixed order."""
    pairs = (PAIRINGS[view] for view in views)
    cells = (Cell(role, pair.prompt) for pair in pairs for role in (pair.chosen, pair.rejected))
    return list(dict.fromkeys(cells))


def rows_of(contrast: Contrast, cells: Sequence[Cell], max_length: int | None = None) -> list[PromptRow]:
    """Group a contrast's cells into rows; the row order is that of first use, the response order that of ``cells``.

    Responses are cut, without an end token, at ``max_length`` tokens less those of the contrast's longest prompt,
    whichever cells are wanted. So a response has the same tokens under all three prompts: cut under each prompt by
    itself, filters would compare means of different texts.

    Raises:
        DataError: A response is empty, or the longest prompt leaves no room for a response.
    """
    room = None if max_length is None else max_length - contrast.longest_prompt
    if room is not None and room <= 0:
        raise DataError(
            f"the longest prompt of row {contrast.id!r} has {contrast.longest_prompt} tokens, which leaves no room for "
            "a response",
            do=f"drop that row or raise max_length above {contrast.longest_prompt}",
        )
    rows = []
    for prompt, roles in _by_prompt(cells).items():
        ids = contrast.prompt_ids(prompt)
        responses = [contrast.response_ids(role)[:room] for role in roles]
        if not all(responses):
            raise DataError(f"row {contrast.id!r} has an empty response", do="drop it: quality filter 'empty'")
        rows.append(PromptRow(ids, responses))
    return rows


def row_tokens(contrast: Contrast, cells: Sequence[Cell], max_length: int | None = None) -> int:
    """Return the tokens that a contrast's cells take in a forward pass: each prompt once, each response once a cell."""
    return sum(len(row.prompt) + sum(map(len, row.responses)) for row in rows_of(contrast, cells, max_length))


def cell_positions(cells: Sequence[Cell]) -> list[int]:
    """Return the position of each cell's score in the concatenated scores of :func:`rows_of`'s rows."""
    order = [Cell(role, prompt) for prompt, roles in _by_prompt(cells).items() for role in roles]
    return [order.index(cell) for cell in cells]


def _by_prompt(cells: Sequence[Cell]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for cell in cells:
        grouped.setdefault(cell.prompt, []).append(cell.role)
    return grouped
