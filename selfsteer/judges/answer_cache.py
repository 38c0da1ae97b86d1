"""A cache of judges' answers by content: a second run asks nothing, and a killed one loses at most a batch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from selfsteer.backends import Failure
from selfsteer.errors import WorkFailed
from selfsteer.files import GroupSync, append_json, iter_json_lines
from selfsteer.temp_db import TempDatabase


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


class AnswerCache:
    """Answers by :func:`answer_key`, kept in a JSON-lines file; without a path for as long as this object lives.

    Those of millions of pairs need no more memory than those of some hundred thousand: they are in a temporary
    database too.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        tables = ["CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID"]
        self._answers = TempDatabase(tables, "the answers of judges")
        self._synced = time.monotonic()
        for row in iter_json_lines(path) if path else ():
            answers = row.get("answers")
            for key, values in answers.items() if isinstance(answers, dict) else ():
                if (answer := _read(values)) is not None:
                    self._put(key, answer)

    def __contains__(self, key: str) -> bool:
        return self._get(key) is not None

    def __getitem__(self, key: str) -> Answer:
        found = self._get(key)
        if found is None:
            raise KeyError(key)
        return Answer(*json.loads(found))

    def __len__(self) -> int:
        [(count,)] = self._answers.execute("SELECT COUNT(*) FROM answers")
        return int(count)

    def add(self, answers: Mapping[str, Answer], judge: str) -> None:
        """Keep answers under their keys; the name ``judge`` is written beside them for people who read the file.

        A killed process loses none of them, a power cut those of the last second.
        """
        for key, answer in answers.items():
            self._put(key, answer)
        # An answer that did not fit is asked again next time: the judge may have a longer context then.
        lasting = {key: asdict(answer) for key, answer in answers.items() if answer != TOO_LONG}
        if self.path and lasting:
            due = time.monotonic() - self._synced >= GroupSync.INTERVAL
            append_json(self.path, {"judge": judge, "answers": lasting}, sync=due)  # a line a batch
            self._synced = time.monotonic() if due else self._synced

    def _put(self, key: str, answer: Answer) -> None:
        # As JSON in ASCII: a text of a server may hold half of a surrogate pair, which SQLite refuses.
        self._answers.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(astuple(answer))))

    def _get(self, key: str) -> str | None:
        found = self._answers.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None


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
