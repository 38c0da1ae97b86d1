"""Quality control anew on rows that are there already: of a run directory, or of a file. Nothing is generated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import Recipe, dump_recipe, load_recipe, recipe_from
from selfsteer.errors import ConfigError, InputError, NothingSurvived
from selfsteer.export.formats import FORMATS, Layout
from selfsteer.export.writers import WRITERS, write_shards
from selfsteer.files import atomic_path, read_json, storage_errors, write_atomic, write_json
from selfsteer.principles import PrincipleSet, load_set
from selfsteer.quality import FILTERS, FilterChain, Tally, advice, flag_harm
from selfsteer.records import Contrast, read_columns, schema
from selfsteer.report import write_report
from selfsteer.runs.active import active_records, check_files, rerun_command
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext, classifier_of, quality_info, with_direction, with_margin
from selfsteer.stages.reward_margins import margins_of
from selfsteer.stages.round_stats import quality_figures
from selfsteer.workflows.row_source import open_source

_BATCH = 32
Figures = dict[str, Any]


class Refiltered(NamedTuple):
    """What filtering rows anew did.

    Attributes:
        label: Which rows.
        before: What the filters of before had done, as in summary.json; None where none had run.
        after: What these do.
    """

    label: str
    before: Figures | None
    after: Figures


class Outcome(NamedTuple):
    """What was filtered, and what the reader should know, one sentence each."""

    parts: list[Refiltered]
    notes: list[str]


def refilter_run(run_dir: Path, overrides: Sequence[str], *, dry_run: bool = False) -> Outcome:
    """Filter the scored rows of each round of a run again, beside what there is; the new rows are in force then.

    The recipe and the summary in the run directory follow. A later round was made by a policy that was trained on what
    the earlier filters kept, so it is not filtered where they change.

    Args:
        run_dir: A run directory.
        overrides: Settings of ``quality`` other than ``clean``, as "key=value".
        dry_run: Change nothing, only count.

    Raises:
        ConfigError: Another setting is given, or one is wrong.
        InputError: There is no run, or no scored rows.
        NothingSurvived: The filters keep no row; those of before stay in force.
        WorkFailed: Another process works in the run directory.
    """
    _check_keys(overrides, ("quality",))
    recipe_file = run_dir / "recipe.yaml"
    old, recipe = load_recipe(recipe_file), load_recipe(recipe_file, overrides)
    if recipe.quality.clean != old.quality.clean:
        raise _fixed("quality.clean", "cleaning comes before scoring")
    store = Store(run_dir, Display(quiet=True))
    stages = RunContext.of_run(recipe, store)
    stages.check_filters()
    if dry_run:
        return _rounds(stages, lambda scores, _: (stages.try_filters(scores), recipe.quality != old.quality))
    stages.check_models()
    with storage_errors(run_dir), store.locked():
        outcome = _rounds(stages, lambda scores, earlier: _filtered(stages, scores, earlier))
        write_atomic(recipe_file, dump_recipe(recipe))
        _update_summary(run_dir, outcome)
    return outcome


def _filtered(stages: RunContext, scores: StageRecord, earlier: StageRecord | None) -> tuple[Figures, bool]:
    """Return what the ledger says of a round's contrasts, and whether they are others than before."""
    entry = stages.contrasts(scores, scores.round)
    return entry.info, earlier is None or entry.key != earlier.key


def _rounds(stages: RunContext, do: Callable[[StageRecord, StageRecord | None], tuple[Figures, bool]]) -> Outcome:
    """Filter round by round, as long as the policy that made the next one is still the one these rows train."""
    recipe, ledger = stages.recipe, stages.store.ledger
    force = active_records(ledger.entries())
    slots = [("scores", number, False) for number in range(1, recipe.rounds + 1)]
    rounds = [force[slot] for slot in slots if slot in force]
    if not rounds:
        do_first = rerun_command(ledger.run_dir, "to go on")
        raise InputError("this run has no scored rows to filter yet", where=str(ledger.run_dir), do=do_first)
    parts: list[Refiltered] = []
    changed = False
    for scores in rounds:
        check_files(ledger, scores)
        earlier = force.get(("contrasts", scores.round, False))
        info, changed = do(scores, earlier)
        before = _figures_of(stages, earlier) if earlier else None
        parts.append(Refiltered(f"round {scores.round}", before, quality_figures(info)))
        if changed and recipe.trains:
            break
    trains = changed and recipe.trains
    notes = _notes(ledger.run_dir, rounds, len(parts)) if trains else []
    if trains and recipe.mode == "generator":
        notes.insert(0, "the generator's own data are as they were: a run filters them too, and trains it anew")
    return Outcome(parts, notes)


def _figures_of(stages: RunContext, entry: StageRecord) -> Figures:
    """Return a finished stage's figures, counted anew where an earlier version did not count by aspect."""
    info = entry.info
    if "aspects" not in info:
        tally = Tally([name for name in info["counts"] if name in FILTERS])
        for kept, reason, aspects in read_columns(stages.store.files(entry), ["kept", "drop_reason", "aspects"]):
            tally.read(kept, reason, aspects)
        info = info | {"aspects": tally.aspects, "harmful": {}}
    return quality_figures(info)


def _notes(run_dir: Path, rounds: Sequence[StageRecord], done: int) -> list[str]:
    """Say what is stale now: the rounds after the one that was filtered, and what was trained on it."""
    notes = []
    if rounds[done:]:
        numbers = ", ".join(str(entry.round) for entry in rounds[done:])
        notes.append(
            f"not filtered: round {numbers}, whose policy was trained on what the earlier filters kept in round "
            f"{rounds[done - 1].round}; a run makes its rows anew"
        )
    notes.append(f"{rerun_command(run_dir, 'to train on these rows')}; what does not depend on them is found done")
    return notes


def _update_summary(run_dir: Path, outcome: Outcome) -> None:
    """Put the new figures into the summary and the report; what was trained before is told to be older."""
    file = run_dir / "summary.json"
    summary = read_json(file) if file.is_file() else None
    if not isinstance(summary, dict):
        return
    after = {part.label: part.after for part in outcome.parts}
    for made in summary["rounds"]:
        made["quality"] = after.get(f"round {made['round']}", made["quality"])
    if summary["mode"] != "data-only" and any(part.before != part.after for part in outcome.parts):
        summary["refiltered"] = [part.label for part in outcome.parts]
    write_json(file, summary)
    write_report(run_dir)


def refilter_file(source: Path, overrides: Sequence[str], output: Path | None) -> Outcome:
    """Filter the rows of a file or an exported folder and write all of them, dropped ones with their reason.

    What other filters dropped before is judged anew. Flags of harm stay where nothing tells anew.

    Args:
        source: Whatever :func:`open_source` takes, other than a run directory.
        overrides: Settings of ``quality`` other than ``clean``, and ``principles.set`` for adjectives and flags.
        output: A new .parquet file, or a new folder; None only counts.

    Raises:
        ConfigError: Another setting is given, or one is wrong.
        InputError: There is no such source, the output is there, or filters need scores that rows don't carry.
        NothingSurvived: The filters keep no row; nothing is written.
    """
    _check_keys(overrides, ("quality", "principles.set"))
    recipe = recipe_from({}, overrides)
    if not recipe.quality.clean:
        raise _fixed("quality.clean", "cleaning comes before scoring")
    named = any(override.startswith("principles.set") for override in overrides)
    principle_set = load_set(recipe.principles.set) if named else None
    work = _FileWork(source, recipe, principle_set, dry_run=output is None)
    _write(work.rows(), output)
    return Outcome([Refiltered(str(source), *work.figures())], [])


class _FileWork:
    """Rows of a file on their way through the filters."""

    def __init__(self, source: Path, recipe: Recipe, principle_set: PrincipleSet | None, *, dry_run: bool) -> None:
        self._source = source
        self._harmful = principle_set.harmful if principle_set else None
        filters = with_direction(recipe.quality.filters, principle_set.direction if principle_set else None)
        adjectives = principle_set.adjectives if principle_set else None
        self._chain = FilterChain(filters, adjectives=adjectives, harmful=self._harmful or ())
        self._classifier = None if dry_run else classifier_of(recipe.quality.harm, "auto")
        self._margins = margins_of(filters, recipe.quality.reward, "auto")
        self._before = Tally(list(FILTERS))

    def rows(self) -> Iterator[Contrast]:
        """Yield all rows, filtered."""
        self._chain.fit(lambda: map(_anew, self._given()))
        rows = self._given()
        while batch := list(itertools.islice(rows, _BATCH)):
            for row in batch:
                self._before.read(row.kept, row.drop_reason, row.aspects, row.negative_harmful)
            for row in flag_harm([_anew(row) for row in batch], self._harmful, self._classifier):
                yield self._chain.apply(with_margin(row))
        self._chain.finish()
        if not self._chain.counts["kept"]:
            what = f"quality control kept no row of {sum(self._chain.counts.values())}"
            raise NothingSurvived(what, where=str(self._source), do=advice(self._chain.counts))

    def _given(self) -> Iterator[Contrast]:
        """Yield the rows of the source, with the margins of a reward model where a filter goes by one."""
        rows = iter(open_source(self._source).rows)
        return self._margins.put_all(rows) if self._margins else rows

    def figures(self) -> tuple[Figures, Figures]:
        """Return what earlier filters and these did."""
        after = quality_info(self._chain.tally, self._chain.thresholds)
        return quality_figures(quality_info(self._before, {})), quality_figures(after)


def _anew(row: Contrast) -> Contrast:
    """Return a row as it was before any of our filters dropped it."""
    name, colon, _ = row.drop_reason.partition(": ")
    filtered = not row.kept and colon and name in FILTERS
    return dataclasses.replace(row, kept=True, drop_reason="") if filtered else row


def _write(rows: Iterable[Contrast], output: Path | None) -> None:
    if output is None:
        for _ in rows:
            pass
        return
    if output.suffix and output.suffix != ".parquet":
        raise ConfigError(
            f"can't write rows as {output.suffix}", where=f"--output {output}", do="name a .parquet file or a folder"
        )
    if output.exists():
        raise InputError("something is there already", where=str(output), do="name a new file or folder")
    made = (value for row in rows for value in FORMATS["contrast"].make(row, Layout()))
    with atomic_path(output) as temporary:
        if output.suffix:
            WRITERS[output.suffix](temporary, made, schema(Contrast))
        else:
            write_shards(temporary / "data", ".parquet", made, schema(Contrast))


def _check_keys(overrides: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse settings of what was done before quality control."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise _fixed(key, "these rows are there already")


def _fixed(key: str, why: str) -> ConfigError:
    do = "give settings of quality (filters, harm); make data anew with `selfsteer generate` or `selfsteer run`"
    return ConfigError(f"{key} can't be changed for stored rows: {why}", where="command line", do=do)
