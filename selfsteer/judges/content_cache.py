"""Answers kept by content in a file: a second run asks nothing, and a killed one loses at most a batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from selfsteer.files import GroupSync, append_json, iter_json_lines
from selfsteer.temp_db import TempDatabase

T = TypeVar("T")
"""A frozen dataclass whose fields JSON keeps as they are."""


class ContentCache(Generic[T]):
    """Answers by key, kept in a JSON-lines file; without a path for as long as this object lives.

    Those of millions of questions need no more memory than those of some hundred thousand: they are in a temporary
    database too.

    Args:
        read: Returns the answer of what was written; None for a damaged or foreign one, so that it is asked again.
        lasts: Whether an answer is kept in the file; one that may be another next time is kept in this object alone.
    """

    def __init__(
        self, path: Path | None, read: Callable[[Any], T | None], lasts: Callable[[T], bool] = lambda answer: True
    ) -> None:
        self.path, self._read, self._lasts = path, read, lasts
        tables = ["CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID"]
        self._answers = TempDatabase(tables, "the answers of judges")
        self._synced = time.monotonic()
        for row in iter_json_lines(path) if path else ():
            answers = row.get("answers")
            for key, values in answers.items() if isinstance(answers, dict) else ():
                if read(values) is not None:
                    self._put(key, values)

    def __contains__(self, key: str) -> bool:
        return self._get(key) is not None

    def __getitem__(self, key: str) -> T:
        found = self._get(key)
        answer = None if found is None else self._read(json.loads(found))
        if answer is None:
            raise KeyError(key)
        return answer

    def __len__(self) -> int:
        [(count,)] = self._answers.execute("SELECT COUNT(*) FROM answers")
        return int(count)

    def add(self, answers: Mapping[str, T], judge: str) -> None:
        """Keep answers under their keys; the name ``judge`` is written beside them for people who read the file.

        A killed process loses none of them, a power cut those of the last second.
        """
        written = {key: asdict(answer) for key, answer in answers.items()}  # type: ignore[call-overload]
        for key, values in written.items():
            self._put(key, values)
        lasting = {key: written[key] for key, answer in answers.items() if self._lasts(answer)}
        if self.path and lasting:
            due = time.monotonic() - self._synced >= GroupSync.INTERVAL
            append_json(self.path, {"judge": judge, "answers": lasting}, sync=due)  # a line a batch
            self._synced = time.monotonic() if due else self._synced

    def _put(self, key: str, values: Any) -> None:
        # As JSON in ASCII: a text of a server may hold half of a surrogate pair, which SQLite refuses.
        self._answers.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(values)))

    def _get(self, key: str) -> str | None:
        found = self._answers.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None
