"""`selfsteer evaluate signal`: is a run's data right? Reads the run, asks the judge, writes RUN/signal.json."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import JudgeSettings, judge_settings
from selfsteer.errors import ConfigError
from selfsteer.evaluation.row_table import RowTable, programs_of_kept
from selfsteer.evaluation.signal_quality import Part, pairs_of, sample_ids, sample_rows, table_figures
from selfsteer.files import storage_errors, write_json
from selfsteer.judges import Judge, Judgement, Pair, make_judge
from selfsteer.judges.agreement import AgreementTally
from selfsteer.judges.pair_datasets import check_limit
from selfsteer.judges.registry import runs_code, set_keys
from selfsteer.judges.tables import judge_warnings
from selfsteer.records import Contrast, StoredRows, is_full
from selfsteer.report import write_report
from selfsteer.runs.active import dependencies_of
from selfsteer.runs.store import output_folder
from selfsteer.stages.judgements import judge_blocks
from selfsteer.stages.reader import Reading, RunReader

SCHEMA_VERSION = 1
Split = Literal["train", "heldout"]
By = Literal["overall", "aspects"]
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
    show: Callable[[Signal], None] = lambda signal: None,
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
        show: Is called with the result before it is written, which may fail.

    Raises:
        ConfigError: A setting is wrong.
        InputError: It is not a run directory, the rows asked for aren't there yet, or the judge can't be used.
        WorkFailed: The judge failed, and its answers so far are kept; or the result can't be written.
    """
    check_limit(limit)
    reader = RunReader(run_dir)
    settings = settings_for(reader.recipe.judge, overrides or {}, trusted=trust_recipe)
    reading = reader.train() if split == "train" else reader.heldout()
    judge = make_judge(settings) if settings.name else None
    read = _Reader(reader, limit, judge, settings.by, progress)
    parts = read.parts(reading.parts)
    named = judge.name if judge else ""
    figures = [table_figures(one.part, one.table, one.table.in_order(), one.start, judge=named) for one in parts]
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
    show(signal)
    with storage_errors(run_dir), output_folder(run_dir / "signal.json", wait=60) as part:
        write_json(run_dir / "signal.json", signal, inside=part)
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


@dataclass(frozen=True)
class _PartRead:
    """A part of a run in tables: its sampled rows, what the judge said, and the pairs of its implicit reward."""

    part: Part
    table: RowTable
    judged: AgreementTally
    start: RowTable | None = None


class _Reader:
    """Reads the rows of parts, and asks the judge about those that are full, some thousand rows at a time."""

    def __init__(self, reader: RunReader, limit: int | None, judge: Judge | None, by: By, progress: Progress) -> None:
        self._reader, self._limit, self._judge, self._by, self._progress = reader, limit, judge, by, progress

    def parts(self, parts: Sequence[Part]) -> list[_PartRead]:
        """Return the parts in their tables."""
        seed = self._reader.recipe.seed
        # In turn the rows of a part and the pairs of its implicit reward.
        sources: list[tuple[Iterable[Sequence[Contrast]], int]] = []
        for part in parts:
            assert isinstance(part.rows, StoredRows)
            sources.append(self._sampled(part.rows, seed))
            start = sample_rows(part.implicit.rows, self._limit, seed) if part.implicit else []
            sources.append(([start], sum(map(is_full, start))))
        tables = [RowTable(self._reader.stages.program) for _ in sources]
        tallies = [AgreementTally() for _ in sources]
        for place, block, judged in self._blocks([blocks for blocks, _ in sources], sum(n for _, n in sources)):
            verdicts = {one.pair.id: one for one in judged}
            for one in judged:
                tallies[place].add(one)
            for row in block:
                tables[place].add(row, verdicts.get(row.id))
        return [
            _PartRead(part, tables[2 * i], tallies[2 * i], tables[2 * i + 1] if part.implicit else None)
            for i, part in enumerate(parts)
        ]

    def _sampled(self, rows: StoredRows, seed: int) -> tuple[Iterable[Sequence[Contrast]], int]:
        """Return the blocks of the sampled rows, and how many of these are full."""
        if self._limit is None:
            return rows.blocks(), sum(1 for _ in rows.full_ids()) if self._judge else 0
        wanted = sample_ids(rows.ids(), self._limit, seed)
        blocks = ([row for row in block if row.id in wanted] for block in rows.blocks())
        return blocks, sum(name in wanted for name in rows.full_ids())

    def _blocks(
        self, sources: Sequence[Iterable[Sequence[Contrast]]], count: int
    ) -> Iterator[tuple[int, Sequence[Contrast], list[Judgement]]]:
        """Yield the place of its source, a block of rows, and their judgements; ``count`` rows are judged in all."""
        reading: deque[tuple[int, Sequence[Contrast]]] = deque()

        def pairs() -> Iterator[list[Pair]]:
            for place, blocks in enumerate(sources):
                for block in blocks:
                    reading.append((place, block))
                    full = list(filter(is_full, block))
                    yield pairs_of(full, by=self._by, principle_set=self._reader.stages.principle_set)

        if self._judge is None:
            judged: Iterator[list[Judgement]] = ([] for _ in pairs())
        else:
            judged = judge_blocks(
                self._judge, pairs(), count, self._reader.run_dir / "judgements", self._progress
            )  # one cache for all: a pair that is in two of them is shown once
        for found in judged:
            yield *reading.popleft(), found


def _warnings(parts: Sequence[_PartRead], figures: Sequence[Mapping[str, Any]], judge: Judge, by: str) -> Iterator[str]:
    """Yield a sentence where the judge follows the order of a pair, lacks verdicts or contradicts the program."""
    for one in parts:
        for warning in judge_warnings(judge.name, one.judged.figures(kappas=False)):
            yield f"{one.part.label}: {warning}"
    for part_figures in figures:
        check = part_figures["judge_check"]
        # Only a judge that was asked about the aspects answered the program's question.
        if check and by == "aspects" and check["interval"][0] <= 0.5:
            yield (
                f"{part_figures['label']}: {judge.name} agrees with the program {check['program']!r} in "
                f"{check['share']:.0%} of {check['n']} pairs, no better than chance: its verdicts here mean nothing"
            )


def _notes(reading: Reading, parts: Sequence[_PartRead], reader: RunReader, judge: Judge | None) -> Iterator[str]:
    """Yield in plain words what is unknown, and why."""
    for pending in reading.pending:
        yield f"Not available yet: {pending}."
    cut = [f"{one.part.label}: {len(one.table)} of {count}"
           for one in parts if len(one.table) < (count := len(one.part.rows))]  # fmt: skip
    if cut:
        yield f"A sample of the rows ({', '.join(cut)})."
    full = [one.table.column("full") for one in parts]
    rows = sum(int(flags.sum()) for flags in full)
    if empty := sum(len(one.table) for one in parts) - rows:
        yield f"Rows with an empty response are left out: {empty}."
    without = sum(int((one.table.column("program")[flags] < 0).sum()) for one, flags in zip(parts, full, strict=True))
    if judge is None and rows and without == rows:
        name = reader.stages.principle_set.name
        yield f"No judge named, and no program for the set {name!r}: accuracy unknown. Name a judge with --judge."
    elif judge is None and without:
        yield f"No judge named, and no program for {without} of {rows} rows: their accuracy is unknown."
    elif judge and without == rows:
        yield f"No program checks {judge.name} here: `selfsteer judge` does, on labelled pairs."
    if not any(one.table.column("any_score")[flags].any() for one, flags in zip(parts, full, strict=True)):
        generation = reader.recipe.generation
        why = f"the {generation.backend} backend gives none" if generation.weightless else "they were not scored"
        yield f"The rows have no log-probs ({why}): on-policyness and margins unknown."
    # Rows kept by the filter 'direction' under their own program are right by construction: no news about the data.
    specs = [spec["direction"] for spec in reader.stages.filters if isinstance(spec, dict) and "direction" in spec]
    programs = programs_of_kept(one.table for one in parts if one.part.filtered)
    if specs and programs == {specs[0]["program"]}:
        kind = specs[0]["program"]
        yield f"The filter 'direction' keeps only rows that are {kind}: kept rows are right by construction."
