"""Re-filter stored rows, of a run directory or of a file, with other settings of quality control."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import Recipe, dump_recipe, from_values, load_recipe
from selfsteer.errors import ConfigError, InputError, NothingSurvived
from selfsteer.export.formats import FORMATS, Layout
from selfsteer.export.writers import WRITERS, write_shards
from selfsteer.files import atomic_path, read_json, storage_errors, write_atomic, write_json
from selfsteer.principles import load_set
from selfsteer.quality import FILTERS, DropCounts, FilterChain, advice, flag_harm
from selfsteer.records import Contrast, schema
from selfsteer.report import write_report
from selfsteer.runs.active import active_records, check_files, rerun_command
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store, output_folder, restore_output
from selfsteer.stages.context import RunContext, harm_classifier, with_direction
from selfsteer.stages.contrasts import ContrastsResult, contrasts_stage, try_filters, with_margin
from selfsteer.stages.reward_margins import margins_of
from selfsteer.stages.round_stats import quality_figures
from selfsteer.workflows.row_source import open_source

_BATCH = 32
Figures = dict[str, Any]


class Refiltered(NamedTuple):
    """Statistics of the earlier filters on some rows (None without any) and of the new ones, as in summary.json."""

    label: str
    before: Figures | None
    after: Figures


class Outcome(NamedTuple):
    """What was filtered, and notes for the user, one sentence each."""

    parts: list[Refiltered]
    notes: list[str]


def refilter_run(run_dir: Path, overrides: Sequence[str], *, dry_run: bool = False) -> Outcome:
    """Filter the scored rows of each round of a run again; the new rows become the active ones.

    The earlier rows stay under their key, and recipe.yaml and summary.json are updated. Rounds after the first that
    changes are not filtered if the run trains: their policy was trained on what the earlier filters kept.

    Args:
        overrides: Settings of ``quality`` other than ``clean``, as "key=value".
        dry_run: Count only, change nothing.

    Raises:
        ConfigError: Another setting is given, or one is wrong.
        InputError: There is no run, or it has no scored rows.
        NothingSurvived: The filters keep no row; the earlier rows stay active.
        WorkFailed: Another process works in the run directory.
    """
    _check_keys(overrides, ("quality",))
    recipe_file = run_dir / "recipe.yaml"
    old, recipe = load_recipe(recipe_file), load_recipe(recipe_file, overrides)
    if recipe.quality.clean != old.quality.clean:
        raise _fixed("quality.clean", "cleaning comes before scoring")
    store = Store(run_dir, Display(quiet=True))
    stages = RunContext.from_run(recipe, store)
    stages.check_filters()
    if dry_run:
        return _refilter_rounds(stages, dry_run=True, changed=recipe.quality != old.quality)
    stages.check_models()
    with storage_errors(run_dir), store.locked():
        outcome = _refilter_rounds(stages)
        write_atomic(recipe_file, dump_recipe(recipe))
        _update_summary(run_dir, outcome)
    return outcome


def _refilter_rounds(context: RunContext, *, dry_run: bool = False, changed: bool = False) -> Outcome:
    """Filter round by round up to the first that changes, if the next one's policy was trained on its rows.

    A dry run only counts; ``changed`` then says whether the settings differ.
    """
    recipe, ledger = context.recipe, context.store.ledger
    active = active_records(ledger.entries())
    rounds = [active[slot] for n in range(1, recipe.rounds + 1) if (slot := ("scores", n, False)) in active]
    if not rounds:
        do = rerun_command(ledger.run_dir, "to continue")
        raise InputError("this run has no scored rows to filter yet", where=str(ledger.run_dir), do=do)
    parts: list[Refiltered] = []
    for scores in rounds:
        check_files(ledger, scores)
        earlier = active.get(("contrasts", scores.round, False))
        if dry_run:
            found = try_filters(context, scores)
        else:
            entry = contrasts_stage(context, scores, scores.round)
            found, changed = ContrastsResult.of(entry), earlier is None or entry.key != earlier.key
        before = quality_figures(ContrastsResult.of(earlier)) if earlier else None
        parts.append(Refiltered(f"round {scores.round}", before, quality_figures(found)))
        if changed and recipe.trains:
            break
    done = len(parts)
    stale = _stale(recipe, ledger.run_dir, rounds[:done], rounds[done:]) if changed and recipe.trains else []
    return Outcome(parts, stale)


def _stale(recipe: Recipe, run_dir: Path, filtered: Sequence[StageRecord], later: Sequence[StageRecord]) -> list[str]:
    """Return notes on what depends on the rows that were filtered again."""
    notes = []
    if recipe.mode == "generator":
        notes.append("the generator's own data are not filtered again here; a run filters them and trains it again")
    if later:
        numbers = ", ".join(str(entry.round) for entry in later)
        notes.append(
            f"not filtered: round {numbers}, whose policy was trained on what the earlier filters kept in round "
            f"{filtered[-1].round}; a run makes its rows again"
        )
    return [*notes, f"{rerun_command(run_dir, 'to train on these rows')}; stages that do not depend on them are reused"]


def _update_summary(run_dir: Path, outcome: Outcome) -> None:
    """Put the new statistics into summary.json and the report; a trained policy is marked as older than its rows."""
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
    """Filter the rows of a file or an exported folder, and write all of them, dropped ones with their reason.

    Rows that an earlier filter dropped are filtered again. Flags of harm stay unless a set or a classifier gives new
    ones.

    Args:
        source: As of :func:`open_source`, other than a run directory.
        overrides: Settings of ``quality`` other than ``clean``, and ``principles.set`` for adjectives and flags.
        output: A new .parquet file, or a new folder; None counts only.

    Raises:
        ConfigError: Another setting is given, or one is wrong.
        InputError: There is no such source, the output exists, or filters need scores that rows don't have.
        NothingSurvived: The filters keep no row; nothing is written.
    """
    _check_keys(overrides, ("quality", "principles.set"))
    recipe = from_values(Recipe, {}, overrides)
    if not recipe.quality.clean:
        raise _fixed("quality.clean", "cleaning comes before scoring")
    named = any(override.startswith("principles.set") for override in overrides)
    known = load_set(recipe.principles.set) if named else None
    harmful = known.harmful if known else None
    filters = with_direction(recipe.quality.filters, known.direction if known else None)
    chain = FilterChain(filters, adjectives=known.adjectives if known else None, harmful=harmful or ())
    classifier = harm_classifier(recipe.quality.harm, "auto") if output else None
    margins = margins_of(filters, recipe.quality.reward, "auto")
    before = DropCounts(list(FILTERS))

    def stored() -> Iterator[Contrast]:
        rows = iter(open_source(source).rows)
        return margins.put_all(rows) if margins else rows

    def filtered() -> Iterator[Contrast]:
        chain.fit(lambda: map(_undropped, stored()))
        rows = stored()
        while batch := list(itertools.islice(rows, _BATCH)):
            for row in batch:
                before.read(row.kept, row.drop_reason, row.aspects, row.negative_harmful)
            for row in flag_harm([_undropped(row) for row in batch], harmful, classifier):
                yield chain.apply(with_margin(row))
        chain.finish()
        if not chain.counts["kept"]:
            what = f"quality control kept no row of {sum(chain.counts.values())}"
            raise NothingSurvived(what, where=str(source), do=advice(chain.counts))

    if output is None:
        deque(filtered(), maxlen=0)
    else:
        _write(filtered(), output)
    done = (ContrastsResult.from_tally(*one) for one in ((before, {}), (chain.tally, chain.thresholds)))
    figures = map(quality_figures, done)
    return Outcome([Refiltered(str(source), *figures)], [])


def _undropped(row: Contrast) -> Contrast:
    """Return a row as it was before a filter of ours dropped it."""
    name, colon, _ = row.drop_reason.partition(": ")
    filtered = not row.kept and colon and name in FILTERS
    return dataclasses.replace(row, kept=True, drop_reason="") if filtered else row


def _write(rows: Iterator[Contrast], output: Path) -> None:
    if output.suffix and output.suffix != ".parquet":
        raise ConfigError(
            f"can't write rows as {output.suffix}", where=f"--output {output}", do="name a .parquet file or a folder"
        )
    restore_output(output)
    if output.exists():
        raise InputError("the output already exists", where=str(output), do="name a new file or folder")
    made = (value for row in rows for value in FORMATS["contrast"].make(row, Layout()))
    with output_folder(output) as part, atomic_path(output, inside=part) as temporary:
        if output.suffix:
            WRITERS[output.suffix](temporary, made, schema(Contrast))
        else:
            write_shards(temporary / "data", ".parquet", made, schema(Contrast))


def _check_keys(overrides: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse settings of stages before quality control."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise _fixed(key, "it acts before quality control")


def _fixed(key: str, why: str) -> ConfigError:
    do = "give settings of quality (filters, harm); make new data with `selfsteer generate` or `selfsteer run`"
    return ConfigError(f"{key} can't be changed for stored rows: {why}", where="command line", do=do)
