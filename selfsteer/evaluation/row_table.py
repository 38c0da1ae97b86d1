"""The numbers of many rows, some 200 bytes each on disk, in place of rows with their texts and token ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfsteer.evaluation.columns import Columns
from selfsteer.judges.base import Judgement, Outcome
from selfsteer.quality import contrastive_likelihood, direction_of, steering_margin
from selfsteer.records import PROMPTS, ROLES, Contrast, has_score, is_full, is_scored, score

ProgramOf = Callable[[Contrast], str | None]
"""Names the program that decides the direction of a row, None where none can."""
Score = Callable[[Contrast], float | None]
"""Higher should mean more likely right; None where the row can't be scored."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
UNKNOWN = -2
"""In a column of verdicts (1 y+ is better, -1 y- is, 0 a tie): there is none."""
_NONE = -1


def plain_likelihood(row: Contrast) -> float | None:
    """Return m(y+|x) - m(y-|x), nats per token; None without scores."""
    return score(row, "positive", "prompt") - score(row, "negative", "prompt") if is_scored(row) else None


CANDIDATES: dict[str, Score] = {
    "steering margin": steering_margin,
    "contrastive likelihood (DLMA)": contrastive_likelihood,
    "plain likelihood": plain_likelihood,
}


def principles_of(aspects: Sequence[str], principle: str, writing: str | None) -> list[str]:
    """Return the names of a row's good principles: those of a set one by one, each after its aspect.

    Principles written for a single query count together, by the outcome of the writing (None: not recorded).
    """
    if writing not in (None, "fixed"):
        return [f"written for the query ({writing})"]
    lines = principle.split("\n")
    if len(lines) != len(aspects):  # a principle of the set has several lines
        return [principle]
    return [f"{aspect}: {line}" for aspect, line in zip(aspects, lines, strict=True)]


GROUPINGS: dict[str, Callable[[Contrast], Sequence[str]]] = {
    "aspects": lambda row: row.aspects,
    "principles": lambda row: principles_of(row.aspects, row.positive_principle, row.provenance.get("writing")),
}
"""The names of the groups that a row belongs to."""


class Texts(list[str]):
    """Different texts, each once, by their place."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Return the place of a text, which is added if it is new."""
        if text not in self._places:
            self._places[text] = len(self)
            self.append(text)
        return self._places[text]


def _score_column(role: str, prompt: str) -> str:
    return f"{role} under {prompt}"


_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        **dict.fromkeys(["full", "kept", "scored", "any_score", "has_margin", *ROLES], pa.bool_()),
        **dict.fromkeys(CANDIDATES, pa.float64()),
        **{_score_column(role, prompt): pa.float64() for role in ROLES for prompt in PROMPTS},
        "program": pa.int32(),
        **dict.fromkeys(["by_program", "by_judge", "outcome", "strict", "debiased"], pa.int8()),
        **dict.fromkeys(GROUPINGS, pa.list_(pa.int32())),
    }
)


class RowTable:
    """Columns of N rows. Rows are added one by one; :meth:`column` and the rest are for when all are there.

    Columns: ``full`` (no sampled response is empty), ``kept``, ``scored``, one for each role (it was sampled),
    ``any_score``, one for each name of :data:`CANDIDATES` (NaN without a value), ``has_margin``; ``program`` (its place
    in ``programs``, -1 without one), ``by_program`` and ``by_judge`` (verdicts, :data:`UNKNOWN` also where the judge's
    answer could not be read), ``outcome`` (its place in :data:`OUTCOMES`, -1 where the pair was not judged), ``strict``
    and ``debiased``. Programs and judges are asked about full rows only. Many rows are on disk, so that each call
    reads a column anew.
    """

    def __init__(self, program_of: ProgramOf) -> None:
        self._program_of = program_of
        self.programs = Texts()
        self._columns = Columns(_SCHEMA)
        self._groups = {name: Texts() for name in GROUPINGS}

    @classmethod
    def of(cls, rows: Iterable[Contrast], program_of: ProgramOf, judgements: Mapping[str, Judgement]) -> RowTable:
        """Return the table of some rows in their order, with their judgements by row id."""
        table = cls(program_of)
        for row in rows:
            table.add(row, judgements.get(row.id))
        return table

    def __len__(self) -> int:
        return len(self._columns)

    def add(self, row: Contrast, judgement: Judgement | None) -> None:
        """Take a row, and what a judge found on it."""
        full = is_full(row)
        program = self._program_of(row)
        judged = judgement if full else None
        values = {name: find(row) for name, find in CANDIDATES.items()}
        self._columns.add(
            {
                "id": row.id, "full": full, "kept": row.kept, "scored": is_scored(row), "any_score": bool(row.scores),
                **{role: role in row.roles for role in ROLES},
                **{name: math.nan if value is None else value for name, value in values.items()},
                "has_margin": values["steering margin"] is not None,
                "program": _NONE if program is None else self.programs.place(program),
                "by_program": direction_of(program, row) if program and full else UNKNOWN,
                "by_judge": UNKNOWN if judged is None or judged.outcome == "invalid" else judged.debiased,
                "outcome": _NONE if judged is None else OUTCOMES.index(judged.outcome),
                "strict": judged.strict if judged else 0,
                "debiased": judged.debiased if judged else 0,
                **{
                    _score_column(role, prompt): score(row, role, prompt) if has_score(row, role, prompt) else math.nan
                    for role in ROLES for prompt in PROMPTS
                },
                **{name: list(map(self._groups[name].place, find(row))) for name, find in GROUPINGS.items()},
            }
        )  # fmt: skip

    def in_order(self) -> np.ndarray:
        """Return the places of all rows in the order of their ids."""
        return pc.sort_indices(self._columns.column("id")).to_numpy().astype(np.int32)

    def column(self, name: str) -> np.ndarray:
        """Return a column (N,)."""
        return self._columns.column(name).to_numpy()

    def scores(self, role: str, prompt: str) -> np.ndarray:
        """Return the mean log-probs of a response under a prompt (N,), nats per token, NaN without one."""
        return self.column(_score_column(role, prompt))

    def values(self, by_id: Mapping[str, float]) -> np.ndarray:
        """Return a number for each row (N,) by its id, NaN where there is none."""
        ids = self._columns.column("id")
        return np.fromiter((by_id.get(name.as_py(), math.nan) for name in ids), float, len(ids))

    def named_programs(self, rows: np.ndarray) -> list[str]:
        """Return the programs of the rows at some places, in the order in which they come up."""
        places, first = np.unique(self.column("program")[rows], return_index=True)
        return [self.programs[place] for place in places[np.argsort(first)].tolist() if place != _NONE]

    def groups(self, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the members of each group of :data:`GROUPINGS` among the rows at some places, in their order.

        A row that names a group twice is in it twice.
        """
        texts = self._groups[name]
        lists = self._columns.column(name).combine_chunks().take(pa.array(rows))
        own, members = lists.flatten().to_numpy(), np.repeat(rows, lists.value_lengths().to_numpy())
        by_group = np.argsort(own, kind="stable")
        bounds = np.searchsorted(own, np.arange(len(texts) + 1), sorter=by_group)
        found = {text: members[by_group[bounds[i] : bounds[i + 1]]] for i, text in enumerate(texts)}
        return {text: places for text, places in found.items() if len(places)}


def programs_of_kept(tables: Iterable[RowTable]) -> set[str | None]:
    """Return the programs of the rows that the filters kept, None for a row without one."""
    found: set[str | None] = set()
    for table in tables:
        places = np.unique(table.column("program")[table.column("kept")]).tolist()
        found |= {None if place == _NONE else table.programs[place] for place in places}
    return found
