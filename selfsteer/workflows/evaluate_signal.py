"""`selfsteer evaluate signal`: is a run's data right? Reads the run, asks the judge, writes RUN/signal.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import JudgeSettings, judge_settings
from selfsteer.errors import ConfigError
from selfsteer.evaluation.signal_quality import Part, pairs_of, sample_rows, signal_quality
from selfsteer.files import write_json
from selfsteer.judges import Judge, make_judge
from selfsteer.judges.pair_datasets import check_limit
from selfsteer.judges.registry import runs_code, set_keys
from selfsteer.judges.tables import Judged, judge_warnings
from selfsteer.records import is_full
from selfsteer.report import write_report
from selfsteer.runs.active import dependencies_of
from selfsteer.stages.judgements import judge_with_cache
from selfsteer.stages.reader import Reading, RunReader

SCHEMA_VERSION = 1
Split = Literal["train", "heldout"]
Signal = dict[str, Any]
Progress = Callable[[str, int, int], None]


def evaluate_signal(
    run_dir: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    trust_recipe: bool = False,
    split: Split = "train",
    limit: int | None = None,
    progress: Progress = lambda name, done, total: None,
) -> Signal:
    """Return the signal quality of a run's data, and write it to ``RUN/signal.json`` and into the report.

    The judge's answers are kept in ``RUN/judgements``, so a second call asks nothing.

    Args:
        overrides: Judge settings in place of the recipe's; None leaves the recipe's value.
        trust_recipe: Use what the recipe in the run directory, which may be someone else's, says of programs, a model's
            own code, servers and the variables of keys.
        split: The training rows of each round, or the held-out rows of each policy.
        limit: Use a random sample of so many rows a round (:func:`sample_rows`).
        progress: Is called with the judge's name, the presentations answered, and their total.

    Raises:
        ConfigError: A setting is wrong.
        InputError: It is no run directory, the rows asked for aren't there yet, or the judge can't be used.
        WorkFailed: The judge failed; its answers so far are kept.
    """
    check_limit(limit)
    reader = RunReader(run_dir)
    settings = settings_for(reader.recipe.judge, overrides or {}, trusted=trust_recipe)
    reading = reader.train() if split == "train" else reader.heldout()
    parts, seed = [], reader.recipe.seed
    for part in reading.parts:
        rows = sample_rows(part.rows, limit, seed)
        implicit = part.implicit and replace(part.implicit, rows=sample_rows(part.implicit.rows, limit, seed))
        parts.append(replace(part, rows=rows, implicit=implicit))
    judge = make_judge(settings) if settings.name else None
    if judge:
        parts = _judged(parts, judge, settings, reader, progress)
    named = judge.name if judge else ""
    figures = [signal_quality(part, program_of=reader.stages.program, judge=named) for part in parts]
    signal = {
        "schema_version": SCHEMA_VERSION,
        "split": split,
        "limit": limit,
        "judge": {"name": judge.name, "key": judge.key, "by": settings.by} if judge else None,
        "made_from": dependencies_of(reading.entries),
        "notes": list(_notes(reading, parts, reader, judge)),
        "warnings": list(_warnings(parts, figures, judge, settings.by)) if judge else [],
        "parts": figures,
    }
    write_json(run_dir / "signal.json", signal)
    if (run_dir / "summary.json").is_file():  # a run in progress has no report yet
        write_report(run_dir)
    return signal


def settings_for(recipe: JudgeSettings, overrides: Mapping[str, Any], *, trusted: bool = False) -> JudgeSettings:
    """Return a recipe's judge with the command line's settings in place of its own.

    Raises:
        ConfigError: There is no judge, or a recipe that is not ``trusted`` names code or a server.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    values = recipe.model_dump() | given
    if values["name"] != recipe.name:  # these are about the recipe's model, not about another one
        fresh = JudgeSettings()
        about = ["revision", "trust_remote_code"]
        about += [] if values["name"].startswith("endpoint:") else ["base_url", "api_key_env"]
        values |= {name: getattr(fresh, name) for name in about if name not in given}
    if given and not values["name"]:
        what = f"--{next(iter(given))} needs a judge, and none is named"
        raise ConfigError(what, where="command line", do="name one with --judge")
    found = judge_settings(values)
    # Only what the caller gives acts; what the run's own recipe adds to it has to be trusted.
    acting = set_keys(found) & {"trust_remote_code", "base_url", "api_key_env"}
    acting |= {"name"} if runs_code(found) or (found.name or "").startswith("endpoint:") else set()
    own = [f"judge.{name}: {getattr(found, name)}" for name in sorted(acting - given.keys())]
    if own and not trusted:
        what = f"the run's own recipe names a judge that runs code or asks a server ({', '.join(own)})"
        do = "add --trust-recipe if you trust whoever wrote that recipe, or name another judge with --judge"
        raise ConfigError(what, where="recipe.yaml of the run directory", do=do)
    return found


def _judged(
    parts: Sequence[Part], judge: Judge, settings: JudgeSettings, reader: RunReader, progress: Progress
) -> list[Part]:
    groups = [
        list(filter(is_full, rows))
        for part in parts
        for rows in (part.rows, part.implicit.rows if part.implicit else ())
    ]
    # All parts at once: batches are fuller, and a pair that is in two of them is shown once.
    pairs = pairs_of(
        [row for rows in groups for row in rows], by=settings.by, principle_set=reader.stages.principle_set
    )
    verdicts = iter(judge_with_cache(judge, pairs, reader.run_dir / "judgements", progress).judgements)
    by_id = iter([{row.id: next(verdicts) for row in rows} for rows in groups])
    judged = []
    for part in parts:
        own, of_start = next(by_id), next(by_id)
        implicit = part.implicit and replace(part.implicit, judgements=of_start)
        judged.append(replace(part, judgements=own, implicit=implicit))
    return judged


def _warnings(parts: Sequence[Part], figures: Sequence[Mapping[str, Any]], judge: Judge, by: str) -> Iterator[str]:
    """Yield a sentence where the judge follows the order of a pair, lacks verdicts or contradicts the program."""
    for part in parts:
        for warning in judge_warnings(Judged(judge.name, list(part.judgements.values()))):
            yield f"{part.label}: {warning}"
    for part_figures in figures:
        check = part_figures["judge_check"]
        # Only a judge that was asked about the aspects answered the program's question.
        if check and by == "aspects" and check["interval"][0] <= 0.5:
            yield (
                f"{part_figures['label']}: {judge.name} agrees with the program {check['program']!r} in "
                f"{check['share']:.0%} of {check['n']} pairs, no better than chance: its verdicts here mean nothing"
            )


def _notes(reading: Reading, parts: Sequence[Part], reader: RunReader, judge: Judge | None) -> Iterator[str]:
    """Yield in plain words what is unknown, and why."""
    for pending in reading.pending:
        yield f"Not available yet: {pending}."
    cut = [f"{part.label}: {len(part.rows)} of {len(full.rows)}"
           for full, part in zip(reading.parts, parts, strict=True) if len(part.rows) < len(full.rows)]  # fmt: skip
    if cut:
        yield f"A sample of the rows ({', '.join(cut)})."
    rows = [row for part in parts for row in part.rows if is_full(row)]
    if empty := sum(len(part.rows) for part in parts) - len(rows):
        yield f"Rows with an empty response are left out: {empty}."
    without = sum(reader.stages.program(row) is None for row in rows)
    if judge is None and rows and without == len(rows):
        name = reader.stages.principle_set.name
        yield f"No judge named, and no program for the set {name!r}: accuracy unknown. Name a judge with --judge."
    elif judge is None and without:
        yield f"No judge named, and no program for {without} of {len(rows)} rows: their accuracy is unknown."
    elif judge and without == len(rows):
        yield f"No program checks {judge.name} here: `selfsteer judge` does, on labelled pairs."
    if not any(row.scores for row in rows):
        generation = reader.recipe.generation
        why = f"the {generation.backend} backend gives none" if generation.weightless else "they were not scored"
        yield f"The rows have no log-probs ({why}): on-policyness and margins unknown."
    # Rows kept by the filter 'direction' under their own program are right by construction: no news about the data.
    specs = [spec["direction"] for spec in reader.stages.filters if isinstance(spec, dict) and "direction" in spec]
    programs = {reader.stages.program(row) for part in parts if part.filtered for row in part.rows if row.kept}
    if specs and programs == {specs[0]["program"]}:
        kind = specs[0]["program"]
        yield f"The filter 'direction' keeps only rows that are {kind}: kept rows are right by construction."
