"""Answers of judges kept by content, so that a second run asks nothing and a killed one loses at most a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfsteer.backends import Failure
from selfsteer.files import append_json, read_json_lines


@dataclass(frozen=True)
class Answer:
    """What a judge says of one presentation, in the order of presentation.

    Attributes:
        vote: 1 for the response shown first, -1 for the one shown second, 0 for a tie or where ``valid`` is false.
        log_odds: log p(first) - log p(second) in nats (or any score of which the sign is the vote), None where the
            judge gives words only.
        text: What it wrote, "" where it wrote nothing.
        valid: Whether an answer could be made out at all.
        why: Why not, in a few words; "" for a valid one.
    """

    vote: int
    log_odds: float | None = None
    text: str = ""
    valid: bool = True
    why: str = ""


BLOCKED = "blocked by the server"
REFUSED = "refused by the chat template"
TOO_LONG = Answer(0, valid=False, why="does not fit into the judge's context")


def blocked_answer(failure: Failure) -> Answer:
    """Return what a judge says of a presentation that its server does not take."""
    if failure.blocked == "length":
        return TOO_LONG
    return Answer(0, text=failure.error.what, valid=False, why=BLOCKED)


class AnswerCache:
    """A JSON-lines file of answers, by the name of what was shown to whom.

    Args:
        path: The file; None keeps answers in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        for row in read_json_lines(path) if path else []:
            self._read(row)

    def __contains__(self, key: str) -> bool:
        """Return whether there is an answer under that key."""
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        """Return the answer kept under a key."""
        return self._answers[key]

    def add(self, answers: Mapping[str, Answer], judge: str) -> None:
        """Keep answers under their keys; ``judge`` is written beside them for people who read the file.

        What did not fit is not written: the judge may have a longer context another time.
        """
        self._answers.update(answers)
        lasting = {key: asdict(answer) for key, answer in answers.items() if answer != TOO_LONG}
        if self.path and lasting:
            append_json(self.path, {"judge": judge, "answers": lasting})

    def _read(self, row: dict[str, Any]) -> None:
        answers = row.get("answers")
        for key, values in answers.items() if isinstance(answers, dict) else ():
            answer = _as_answer(values)
            if answer is not None:
                self._answers[key] = answer


def _as_answer(values: Any) -> Answer | None:
    """Return the answer that was written; None where that is none (damaged, another version's): it is asked again."""
    try:
        answer = Answer(**values)
    except TypeError:
        return None
    odds = answer.log_odds
    sound = (
        type(answer.vote) is int
        and answer.vote in (-1, 0, 1)
        and (odds is None or (type(odds) in (int, float) and math.isfinite(odds)))
        and isinstance(answer.text, str)
        and isinstance(answer.valid, bool)
        and isinstance(answer.why, str)
    )
    return answer if sound else None
