"""`selfsteer evaluate signal`: is a run's data right? Reads the run, asks the judge, writes RUN/signal.json."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import JudgeSettings, Recipe, judge_settings
from selfsteer.errors import ConfigError
from selfsteer.evaluation.signal_quality import Implicit, Part, pairs_of, signal_quality
from selfsteer.files import write_json
from selfsteer.judges import Judge, Judgement, make_judge
from selfsteer.judges.tables import Judged, judge_warnings
from selfsteer.records import Contrast, is_full
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
    split: Split = "train",
    limit: int | None = None,
    progress: Progress = lambda name, done, total: None,
) -> Signal:
    """Return the signal quality of a run's data, and write it to ``RUN/signal.json`` and into the report.

    The judge's answers are kept in ``RUN/judgements``, so a second call asks nothing.

    Args:
        run_dir: A run directory, of a run that is finished or goes on.
        overrides: Judge settings in place of the recipe's; None leaves the recipe's value.
        split: The training rows of each round, or the held-out rows of each policy.
        limit: Look at a sample of so many rows a round; a larger one holds the smaller.
        progress: Is called with the judge's name, the presentations answered, and those in all.

    Raises:
        ConfigError: A setting is wrong.
        InputError: It is no run directory, what is asked for isn't there yet, or the judge can't be used.
        WorkFailed: The judge failed; its answers so far are kept.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", where="--limit", do="ask for 1 or more, or leave it out for all")
    reader = RunReader(run_dir)
    settings = settings_for(reader.recipe.judge, overrides or {})
    reading = reader.train() if split == "train" else reader.heldout()
    parts = [_sampled(part, limit, reader.recipe.seed) for part in reading.parts]
    judge = make_judge(settings) if settings.name else None
    if judge:
        parts = _judged(parts, judge, settings, reader, progress)
    figures = signal_quality(parts, program_of=reader.stages.program, judge=judge.name if judge else "")
    signal = {
        "schema_version": SCHEMA_VERSION,
        "split": split,
        "limit": limit,
        "judge": {"name": judge.name, "key": judge.key, "by": settings.by} if judge else None,
        "made_from": dependencies_of(reading.entries),
        "notes": _notes(reading, parts, reader, judge),
        "warnings": [*_judge_warnings(parts, judge), *_check_warnings(figures, settings, judge)] if judge else [],
        "parts": figures,
    }
    write_json(run_dir / "signal.json", signal)
    if (run_dir / "summary.json").is_file():
        write_report(run_dir)
    return signal


def settings_for(recipe: JudgeSettings, overrides: Mapping[str, Any]) -> JudgeSettings:
    """Return a recipe's judge with the settings from the command line in place of its own.

    Raises:
        ConfigError: A setting is wrong, or is about a judge and none is named.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    values = recipe.model_dump() | given
    if values["name"] != recipe.name:  # these are about the recipe's model, not about another one
        fresh = JudgeSettings()
        values |= {name: getattr(fresh, name) for name in ("revision", "trust_remote_code") if name not in given}
    if given and not values["name"]:
        what = f"--{next(iter(given))} is about a judge, and none is named"
        raise ConfigError(what, where="command line", do="name one with --judge")
    return judge_settings(values)


def _sampled(part: Part, limit: int | None, seed: int) -> Part:
    def sample(rows: Sequence[Contrast]) -> list[Contrast]:
        drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\n{row.id}".encode()).digest())[:limit]
        return sorted(drawn, key=lambda row: row.id)

    if limit is None:
        return part
    implicit = replace(part.implicit, rows=sample(part.implicit.rows)) if part.implicit else None
    return replace(part, rows=sample(part.rows), implicit=implicit)


def _judged(
    parts: Sequence[Part], judge: Judge, settings: JudgeSettings, reader: RunReader, progress: Progress
) -> list[Part]:
    """Put the pairs of all parts before the judge at once: its batches are fuller, equal pairs are shown once."""
    groups = [[row for row in rows if is_full(row)] for rows in _row_lists(parts)]
    everything = [row for rows in groups for row in rows]
    pairs = pairs_of(everything, by=settings.by, principle_set=reader.stages.principle_set)
    found = iter(judge_with_cache(judge, pairs, reader.run_dir / "judgements", progress).judgements)
    told = iter([{row.id: next(found) for row in rows} for rows in groups])
    return [_with_judgements(part, told) for part in parts]


def _row_lists(parts: Sequence[Part]) -> Iterator[Sequence[Contrast]]:
    for part in parts:
        yield part.rows
        if part.implicit:
            yield part.implicit.rows


def _with_judgements(part: Part, told: Iterator[dict[str, Judgement]]) -> Part:
    """Take a part's judgements in the order of :func:`_row_lists`."""
    own = next(told)
    implicit: Implicit | None = replace(part.implicit, judgements=next(told)) if part.implicit else None
    return replace(part, judgements=own, implicit=implicit)


def _judge_warnings(parts: Sequence[Part], judge: Judge) -> list[str]:
    """Return a sentence for each part in which the judge follows the order, or gives no verdict on some pairs."""
    judged = {part.label: Judged(judge.name, list(part.judgements.values())) for part in parts}
    return [f"{label}: {warning}" for label, one in judged.items() for warning in judge_warnings(one)]


def _check_warnings(figures: Sequence[Mapping[str, Any]], settings: JudgeSettings, judge: Judge) -> list[str]:
    """Return a sentence for each part in which a judge that was asked the program's question can't answer it."""
    checks = [(part["label"], part["judge_check"]) for part in figures if part["judge_check"]]
    return [
        f"{label}: {judge.name} agrees with the program {check['program']!r} in {check['share']:.0%} of {check['n']} "
        "pairs, no better than chance: what rests on this judge says nothing"
        for label, check in checks
        if settings.by == "aspects" and check["interval"][0] <= 0.5
    ]


# --- what is not known, in plain words


def _notes(reading: Reading, parts: Sequence[Part], reader: RunReader, judge: Judge | None) -> list[str]:
    rows = [row for part in parts for row in part.rows if is_full(row)]
    return [
        note
        for note in (
            *(f"Not there yet: {pending}." for pending in reading.pending),
            _sample_note(reading.parts, parts),
            _empty_note(parts),
            _accuracy_note(rows, reader, judge),
            _judge_note(rows, reader, judge),
            _scores_note(rows, reader.recipe),
            _filter_note(parts, reader),
        )
        if note
    ]


def _sample_note(whole: Sequence[Part], parts: Sequence[Part]) -> str:
    cut = [f"{part.label}: {len(part.rows)} of {len(full.rows)}" for full, part in zip(whole, parts, strict=True)
           if len(part.rows) < len(full.rows)]  # fmt: skip
    return f"A sample of the rows ({', '.join(cut)})." if cut else ""


def _empty_note(parts: Sequence[Part]) -> str:
    count = sum(not is_full(row) for part in parts for row in part.rows)
    return f"Rows with an empty response are left out: {count}." if count else ""


def _accuracy_note(rows: Sequence[Contrast], reader: RunReader, judge: Judge | None) -> str:
    untold = sum(reader.stages.program(row) is None for row in rows)
    if judge or not untold:
        return ""
    if untold == len(rows):
        name = reader.stages.principle_set.name
        return f"No judge named, and no program for the set {name!r}: accuracy unknown. Name a judge with --judge."
    return f"No judge named, and no program for {untold} of {len(rows)} rows: their accuracy is unknown."


def _judge_note(rows: Sequence[Contrast], reader: RunReader, judge: Judge | None) -> str:
    if judge is None or any(reader.stages.program(row) for row in rows):
        return ""
    return f"Nothing here checks {judge.name} itself: `selfsteer judge` does, on pairs whose labels are known."


def _scores_note(rows: Sequence[Contrast], recipe: Recipe) -> str:
    if any(row.scores for row in rows):
        return ""
    why = "the scripted backend gives none" if recipe.generation.backend == "scripted" else "they were not scored"
    return f"The rows carry no log-probs ({why}): on-policyness and margins unknown."


def _filter_note(parts: Sequence[Part], reader: RunReader) -> str:
    """Tell where the kept rows are right by construction, which says nothing about the data."""
    specs = [spec["direction"] for spec in reader.stages.filters if isinstance(spec, dict) and "direction" in spec]
    kept = [row for part in parts if part.filtered for row in part.rows if row.kept]
    programs = {reader.stages.program(row) for row in kept}
    if not specs or programs != {specs[0]["program"]}:
        return ""
    return (
        f"The filter 'direction' keeps only rows that are {specs[0]['program']}: kept rows are right by construction."
    )
