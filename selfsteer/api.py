"""`selfsteer run` as a Python function, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.config import Recipe, load_recipe, read_recipe
from selfsteer.errors import ConfigError
from selfsteer.records import Contrast, read_rows
from selfsteer.runs.active import active_rounds, check_files
from selfsteer.runs.events import Callback
from selfsteer.runs.ledger import Ledger
from selfsteer.runs.progress import Display
from selfsteer.workflows.benchmarked_run import run as run_recipe


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        run_dir: Its folder.
        summary: The content of summary.json: rounds, policies with their held-out metrics, verdict, stages.
    """

    run_dir: Path
    summary: dict[str, Any]

    @property
    def policy(self) -> Path | None:
        """The folder of the trained model, None where nothing was trained or guards rejected all rounds."""
        guards = self.summary["guards"]
        return self.run_dir / "policy" if guards and guards["best"] else None

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        return self.run_dir / "report.html"

    def rows(self, round: int | None = None, *, dropped: bool = False) -> Iterator[Contrast]:
        """Yield the training rows of a round, read shard by shard.

        Args:
            round: 1 for the first; None for the last that no guard rejected.
            dropped: Also yield rows that quality control dropped.

        Raises:
            ConfigError: The run has no such round, or a guard rejected it.
            InputError: A file of it is missing.
        """
        ledger = Ledger(self.run_dir)
        rounds = active_rounds(load_recipe(self.run_dir / "recipe.yaml"), ledger)
        number = max(rounds.rows, default=1) if round is None else round
        if number not in rounds.rows:
            raise ConfigError(f"there is no round {number}", where=str(self.run_dir), do=f"it has: {rounds}")
        check_files(ledger, rounds.rows[number])
        rows = read_rows([self.run_dir / name for name in rounds.rows[number].files], Contrast)
        return (row for row in rows if row.kept or dropped)


def run(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    run_dir: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> RunResult:
    """Run a recipe, or resume it, as `selfsteer run` does.

        result = selfsteer.run("quickstart", {"queries": "my_queries.jsonl"}, run_dir="runs/mine")

    Args:
        recipe: A :class:`Recipe`, a recipe file, the name of a shipped recipe, or a recipe's values.
        overrides: Settings that override the recipe's: "key=value" as on the command line, or values by dotted key.
        run_dir: The run directory (default: runs/NAME).
        callbacks: Each is called with a :class:`StageEvent` when a stage begins and ends: a function, or an object with
            ``on_begin`` or ``on_end``.
        quiet: Show no progress.

    Raises:
        InputError: The recipe, the queries, the principle set or the model can't be used.
        WorkFailed: A stage failed; finished stages stay, and the same call resumes.
    """
    settings = read_recipe(recipe, overrides)
    folder = Path(run_dir) if run_dir is not None else Path("runs") / settings.name
    summary = run_recipe(settings, folder, display=Display(quiet=quiet), callbacks=callbacks)
    return RunResult(folder, summary)
