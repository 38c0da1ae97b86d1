"""Answers of judges to pairs, and their cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.backends import Failure
from selfsteer.errors import WorkFailed
from selfsteer.judges.content_cache import ContentCache


@dataclass(frozen=True)
class Answer:
    """A judge's answer to one presentation, in the order of presentation.

    Attributes:
        vote: 1 for the response shown first, -1 for the one shown second, 0 for a tie or where ``valid`` is false.
        log_odds: log p(first) - log p(second) in nats (or any score with the vote as its sign), None where the judge
            gives words only.
        text: The judge's reply, "" without one.
        valid: Whether the reply could be read as an answer.
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
    """Return the invalid answer to a presentation that the judge's server rejects."""
    if failure.blocked == "length":
        return TOO_LONG
    return Answer(0, text=failure.error.what, valid=False, why=BLOCKED)


def scored_answer(scores: Sequence[float], what: str, where: str) -> Answer:
    """Return the answer of a judge that scores both responses; the scores' difference is the log-odds.

    Raises :class:`WorkFailed` if it is not finite; ``what`` names the scores, ``where`` the judge.
    """
    first, second = scores
    odds = first - second
    if not math.isfinite(odds):  # as a tie it would look like a verdict
        do = "load the model in float32: half precision may overflow; or use another model"
        raise WorkFailed(f"{what} are {first} and {second}", where=where, do=do)
    return Answer((odds > 0) - (odds < 0), log_odds=odds)


class AnswerCache(ContentCache[Answer]):
    """Answers by :func:`selfsteer.judges.base.answer_key`."""

    def __init__(self, path: Path | None) -> None:
        # An answer that did not fit is asked again next time: the judge may have a longer context then.
        super().__init__(path, _read, lambda answer: answer != TOO_LONG)


def _read(values: Any) -> Answer | None:
    """Return the answer that was written; a damaged or foreign one is None, so that it is asked again."""
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
