"""What a run says while it works: which stage, how far, how long to go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from selfsteer.sanitize import SafeConsole

_SILENCE = 180.0
"""Seconds after which a log without a terminal gets a line again."""


class Display:
    """Progress of a run, as two bars on a terminal and as plain lines elsewhere.

    The time to go is the cost of the stages left, scaled by how the finished ones compared with their expected cost.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or SafeConsole(stderr=True, quiet=quiet)
        self._plan: list[float] = []
        self._done = 0
        self._spent = self._spent_cost = 0.0
        self._units, self._advanced, self._started, self._shown = 1.0, 0.0, 0.0, 0.0
        self._figures, self._said_at = "", 0.0
        title, note = (TextColumn(f"{{task.{part}}}", markup=False) for part in ("description", "fields[note]"))
        self._bars = Progress(
            SpinnerColumn(), title, BarColumn(bar_width=24), MofNCompleteColumn(), note, console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self._stage_bar: TaskID | None = None
        self._run_bar: TaskID | None = None

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def plan(self, costs: Sequence[float]) -> None:
        """Tell what is to come; may be called again when more is known. Finished stages stay in front."""
        self._plan = list(costs)
        if self._run_bar is None:
            self._run_bar = self._bars.add_task("whole run", total=len(costs), note="")
        self._bars.update(self._run_bar, total=len(costs))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(Text(text), soft_wrap=True)

    def begin(self, title: str, units: float) -> None:
        """A stage starts; ``units`` is how many steps :meth:`advance` will count."""
        self._units, self._advanced, self._started, self._shown = max(units, 1e-9), 0.0, time.monotonic(), 0.0
        self._figures, self._said_at = "", self._started
        self._stage_bar = self._bars.add_task(f"{self._number()} {title}", total=units, note="")
        if not self.console.is_terminal:
            self.say(f"{self._number()} {title} ...")

    def advance(self, units: float = 1) -> None:
        """So many units of the stage are done."""
        if units <= 0:  # says nothing about the speed
            return
        self._advanced += units
        if self._stage_bar is not None:
            self._bars.update(self._stage_bar, advance=units, note=self._stage_note())
        if self._run_bar is not None:
            self._bars.update(self._run_bar, note=f"about {clock(self._run_left())} to go")
        share = self._advanced / self._units
        # Without a terminal, a line at each quarter of a stage that takes long, and every few minutes.
        silent = time.monotonic() - self._said_at > _SILENCE
        if not self.console.is_terminal and share < 1 and (self._shown + 0.25 <= share or silent):
            self._shown, self._said_at = share, time.monotonic()
            self.say(f"{self._number()}   {share:.0%} {self._stage_note()}; run: {clock(self._run_left())} to go")

    def figures(self, text: str) -> None:
        """Show the latest figures of the training beside its progress."""
        self._figures = text
        if self._stage_bar is not None:
            self._bars.update(self._stage_bar, note=self._stage_note())

    def alive(self, done: int = 1) -> None:
        """A training goes on, with so many more micro-batches; a job's display passes that on."""

    @property
    def stop_asked(self) -> bool:
        """Whether a training is asked from outside its process to save a checkpoint and end."""
        return False

    def stopped(self) -> None:
        """The stage can't continue; say what is left of it."""
        left = max(0.0, self._units - self._advanced)
        said = f"{left:,.0f} of {self._units:,.0f} are left, the others are on disk"
        self.say(f"{self._number()} stopped: {said if self._advanced else f'none of {self._units:,.0f} is done'}")

    def finish(self, title: str, *, reused: bool, note: str = "", taken_from: str = "") -> None:
        """A stage is done, or was found done, here or where it was taken from."""
        seconds = 0.0 if reused else time.monotonic() - self._started
        if not reused and self._done < len(self._plan):  # an unplanned stage says nothing about the plan
            self._spent, self._spent_cost = self._spent + seconds, self._spent_cost + self._plan[self._done]
        if self._stage_bar is not None:
            self._bars.remove_task(self._stage_bar)
            self._stage_bar = None
        found = f"taken from {taken_from}" if taken_from else "done before"
        self.say(f"{self._number()} {title}: {found if reused else f'done in {clock(seconds)}'}{note}")
        self._done += 1
        if self._run_bar is not None:
            self._bars.update(self._run_bar, completed=self._done)

    def _number(self) -> str:
        return f"[{self._done + 1}/{max(len(self._plan), self._done + 1)}]"

    def _stage_note(self) -> str:
        elapsed, left = clock(time.monotonic() - self._started), clock(self._stage_left())
        return f"after {elapsed}, {left} left{f'; {self._figures}' if self._figures else ''}"

    def _stage_left(self) -> float:
        if not self._advanced:
            return 0.0
        elapsed = time.monotonic() - self._started
        return elapsed * max(0.0, self._units / self._advanced - 1)

    def _run_left(self) -> float:
        scale = (self._spent + 1.0) / (self._spent_cost + 1.0)
        return self._stage_left() + scale * sum(self._plan[self._done + 1 :])


def clock(seconds: float) -> str:
    """Return seconds as people read them: "45 s", "3 min 20 s", "2 h 05 min", "3 days 4 h"."""
    whole = round(seconds)
    if whole >= 48 * 3600:
        return f"{whole // 86400} days {whole % 86400 // 3600} h"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number: float) -> str:
    """Return bytes as people read them, in powers of ten: "512 B", "34.6 MB"."""
    for unit, whole in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= 0.9995 * whole:  # three digits round up to it
            return f"{number / whole:.3g} {unit}"
    return f"{number:.0f} B"
