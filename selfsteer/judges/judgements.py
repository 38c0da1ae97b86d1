"""The judgements of many pairs, without their texts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from selfsteer.judges.answer_cache import Answer
from selfsteer.judges.base import Judgement, Pair

_UNLABELLED = 2


@dataclass(frozen=True)
class JudgedPair(Pair):
    """A pair whose texts are no longer in memory; ``hashed`` is the hash of them."""

    hashed: str = ""

    @property
    def content(self) -> str:
        """As of :class:`Pair`."""
        return self.hashed


class Judgements(Sequence[Judgement]):
    """Judgements as columns, some 60 bytes a pair besides its id: all of them but the texts of pairs and answers."""

    def __init__(self, judgements: Iterable[Judgement] = ()) -> None:
        self._ids: list[str] = []
        self._words: dict[str, int] = {}  # subsets, and reasons for which answers are invalid
        # Of a pair: its label, subset and content; of each answer: vote, log-odds, whether it is valid and why not.
        self._labels, self._subsets, self._contents = array("b"), array("i"), array("Q")
        self._votes, self._odds, self._valid, self._why = array("b"), array("d"), array("B"), array("i")
        self._order: Sequence[int] | None = None
        self.extend(judgements)

    def extend(self, judgements: Iterable[Judgement]) -> None:
        """Add judgements at the end."""
        assert self._order is None
        for one in judgements:
            self._ids.append(one.pair.id)
            self._labels.append(_UNLABELLED if one.pair.label is None else one.pair.label)
            self._subsets.append(self._word(one.pair.subset))
            self._contents.append(int(one.pair.content, 16))
            for answer in (one.forward, one.backward):
                self._votes.append(answer.vote)
                self._odds.append(math.nan if answer.log_odds is None else answer.log_odds)
                self._valid.append(answer.valid)
                self._why.append(self._word(answer.why))

    def sort(self) -> None:
        """Put them in the order of the pairs' ids."""
        self._order = array("q", sorted(range(len(self)), key=self._ids.__getitem__))

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> Judgement: ...
    @overload
    def __getitem__(self, place: slice) -> list[Judgement]: ...
    def __getitem__(self, place: int | slice) -> Judgement | list[Judgement]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        at = range(len(self))[place] if self._order is None else self._order[place]
        words = list(self._words)
        label = self._labels[at]
        pair = JudgedPair(
            self._ids[at], [], "", "",
            label=None if label == _UNLABELLED else label,
            subset=words[self._subsets[at]], hashed=f"{self._contents[at]:016x}",
        )  # fmt: skip
        answers = [
            Answer(
                self._votes[both],
                log_odds=None if math.isnan(self._odds[both]) else self._odds[both],
                valid=bool(self._valid[both]),
                why=words[self._why[both]],
            )
            for both in (2 * at, 2 * at + 1)
        ]
        return Judgement(pair, *answers)

    def _word(self, text: str) -> int:
        return self._words.setdefault(text, len(self._words))
