"""Tasks without a model for worker processes, which do what the queries say: "die", "warn" and the like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.errors import PromptRefused, SelfsteerWarning
from selfsteer.records import Query
from selfsteer.runs.executor import BatchResult, OpenTask


class Models:
    """Stands for a model pool; leaves a file when it is freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def free(self) -> None:
        (self.folder / f"freed-{os.getpid()}").touch()


@dataclass(frozen=True)
class Obeying:
    """Returns each query with the batch's number; a query's text is an order to the worker."""

    folder: Path

    def open(self, models: Any) -> OpenTask[Query, Query]:
        (self.folder / f"opened-{os.getpid()}").touch()
        return OpenTask(self._do, 77)

    def _do(self, number: int, batch: Sequence[Query]) -> BatchResult[Query]:
        for query in batch:
            self._obey(query.prompt[0]["content"])
        return BatchResult([Query(query.id, query.prompt, source=str(number)) for query in batch])

    def _obey(self, text: str) -> None:
        order, _, given = text.partition(" ")
        match order:
            case "die":
                print("last words", file=sys.stderr, flush=True)
                os.kill(os.getpid(), getattr(signal, given))
            case "die-once" if not (self.folder / "died").exists():
                (self.folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "refuse":
                raise PromptRefused("what " * 300, where="here", do="that")
            case "crash":
                raise ValueError(given)
            case "warn":
                warnings.warn(given, SelfsteerWarning, stacklevel=1)
            case "wait":
                time.sleep(float(given))
            case "meet":  # until so many workers are at work
                while len(list(self.folder.glob("opened-*"))) < int(given):
                    time.sleep(0.01)
            case "hang":
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                (self.folder / "child").write_text(str(child.pid))
                time.sleep(600)
