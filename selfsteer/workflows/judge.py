"""`selfsteer judge`: judges the preference pairs of files, or a run's own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, DataError, WorkFailed
from selfsteer.evaluation.signal_quality import pairs_of, sample_ids
from selfsteer.judges import Judge, Pair, make_judge
from selfsteer.judges.agreement import agreement, by_subset, pooled
from selfsteer.judges.answer_cache import BLOCKED, TOO_LONG
from selfsteer.judges.pair_datasets import load_pairs
from selfsteer.judges.registry import set_keys, settings_of
from selfsteer.judges.tables import Judged, common_kappa, invalid_warning
from selfsteer.judges.text import CUT_OFF
from selfsteer.queries import is_split
from selfsteer.queries.tally import in_words
from selfsteer.records import StoredRows, is_full
from selfsteer.stages.reader import RunReader

By = Literal["overall", "aspects"]


def read_pairs(
    sources: Sequence[Path], *, limit: int | None = None, seed: int = 0, by: By = "overall", split: str | None = None
) -> tuple[list[Pair] | RunPairs, list[str]]:
    """Return the pairs of all sources, and a sentence on the rows left out of each.

    The pairs of a run directory that is the only source stay in its files.

    Args:
        sources: Files, folders and hub data sets of preference pairs, and run directories: of these the kept pairs of
            the newest round, labelled as the data claims: y+ is better.
        by: The criterion for a run's pairs: overall quality, or the aspects that they were steered by.
        split: Of hub data sets; None is train, and another one where no source has splits is an error.
    """
    split = hub_split(sources, split)
    if len(sources) == 1 and is_run(sources[0]):
        return RunPairs(sources[0], limit, seed, by), []
    pairs: list[Pair] = []
    notes = []
    for source in sources:
        if is_run(source):
            pairs += sorted(RunPairs(source, limit, seed, by), key=lambda pair: pair.id)
            continue
        found = load_pairs(source, limit=limit, seed=seed, split=split)
        pairs += found.pairs
        if found.dropped:
            notes.append(f"{source.name}: {len(found.dropped)} rows left out: {in_words(found.reasons)}")
    check_ids(pairs, sources)
    return pairs, notes


def is_run(source: Path) -> bool:
    """Return whether a source is a run directory."""
    return (source / "recipe.yaml").is_file() or (source / "ledger.jsonl").is_file()


def hub_split(sources: Sequence[Path], split: str | None) -> str:
    """Return the split of hub data sets; :class:`ConfigError` if one is given and no source has splits."""
    if split is not None and not any(is_split(str(source)) for source in sources):
        what = f"--split {split} applies to hub data sets only, and no source is one"
        raise ConfigError(what, where="--split", do="leave it out, or name a hub data set (org/name)")
    return split or "train"


def check_ids(pairs: Sequence[Pair], sources: Sequence[Path]) -> None:
    """Raise :class:`DataError` if two pairs have the same id."""
    twice = len(pairs) - len({pair.id for pair in pairs})
    if twice:
        do = "give each file once, and files of different names: a pair's id is the file's name and the row's number"
        raise DataError(f"{twice} pairs have the id of another", where=", ".join(map(str, sources)), do=do)


class RunPairs(Collection[Pair]):
    """The kept pairs of a run's newest round, those that a training would see, read again at each pass.

    Attributes:
        name: The run's and the round's; the pairs' subset, and the beginning of their ids.
    """

    def __init__(self, run_dir: Path, limit: int | None, seed: int, by: By) -> None:
        reader = RunReader(run_dir)
        part = reader.train().parts[-1]
        self.name = f"{run_dir.resolve().name}, {part.label}"
        assert isinstance(part.rows, StoredRows)
        self._rows, self._by, self._set = part.rows, by, reader.stages.principle_set
        # None is all, which are counted alone: the ids of many rows would fill the memory.
        self._ids = None if limit is None else sample_ids(self._rows.full_ids(kept=True), limit, seed)
        self._count = sum(1 for _ in self._rows.full_ids(kept=True)) if self._ids is None else len(self._ids)

    def blocks(self) -> Iterator[list[Pair]]:
        """Yield all pairs, some thousand at a time."""
        for block in self._rows.blocks():
            kept = (row for row in block if row.kept and is_full(row))
            rows = [row for row in kept if self._ids is None or row.id in self._ids]
            pairs = pairs_of(rows, by=self._by, principle_set=self._set)
            yield [replace(pair, id=f"{self.name}, {pair.id}", subset=self.name) for pair in pairs]

    def __iter__(self) -> Iterator[Pair]:
        return (pair for block in self.blocks() for pair in block)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, pair: object) -> bool:
        return any(pair == own for own in self)


_NEVER_JUDGED = {
    CUT_OFF: "raise --max-tokens (judge.max_tokens), or use --mode logprobs; a model that thinks needs room for it",
    TOO_LONG.why: "use a judge with a longer context, or lower --max-tokens (judge.max_tokens) in mode text",
    BLOCKED: "use another server or model",
}
"""Reasons for an invalid reply that are not the judge's fault, with the remedy."""


def check_verdicts(all_judged: Sequence[Judged]) -> None:
    """Raise :class:`WorkFailed` if no reply of a judge could reach a verdict.

    A judge that replies without a verdict is no failure: the figures show that it is of no use.
    """
    for judged in all_judged:
        found = agreement(judged.judgements, kappas=False)
        if found.n and found.outcomes["invalid"] == found.n and found.why_invalid.keys() <= _NEVER_JUDGED.keys():
            most = max(found.why_invalid, key=lambda why: found.why_invalid[why])
            raise WorkFailed(f"no verdict. {invalid_warning(judged.name, asdict(found))}", do=_NEVER_JUDGED[most])


def open_judges(settings: JudgeSettings, names: Sequence[str]) -> list[Judge]:
    """Open a judge for each name, with those of the settings that its kind uses.

    Raises:
        ConfigError: No judge uses one of the settings, or as :func:`make_judge`.
        ModelError, FetchError: As :func:`make_judge`.
    """
    idle = set_keys(settings) - set().union(*(settings_of(name) for name in names))
    if idle:
        what = f"none of the judges uses {', '.join(sorted(idle))}"
        where = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(idle))
        raise ConfigError(what, where=where, do="leave it out, or name a judge that does")
    judges = []
    for name in names:
        known = {key: getattr(settings, key) for key in settings_of(name)}
        judges.append(make_judge(JudgeSettings(name=name, **known)))
    count = Counter(judge.name for judge in judges)  # two folders may both be called "policy"
    for judge, name in zip(judges, names, strict=True):
        if count[judge.name] > 1:
            judge.name = name
    return judges


def as_json(all_judged: Sequence[Judged]) -> dict[str, Any]:
    """Return all figures and every verdict as JSON."""
    judges = []
    for judged in all_judged:
        subsets = {name: asdict(found) for name, found in by_subset(judged.judgements).items()}
        together = next(iter(subsets.values())) if len(subsets) == 1 else asdict(pooled(judged.judgements))
        pairs = [
            {"id": one.pair.id, "label": one.pair.label, "strict": one.strict, "debiased": one.debiased,
             "log_odds": one.log_odds, "outcome": one.outcome}
            for one in judged.judgements
        ]  # fmt: skip
        judges.append({"name": judged.name, "subsets": subsets, "all_sets": together, "pairs": pairs})
    kappas = [
        {"one": one.name, "other": other.name, "kappa": value, "interval": interval}
        for one, other in itertools.combinations(all_judged, 2)
        for value, interval in [common_kappa(one, other) or (None, None)]
    ]
    return {"schema_version": 1, "judges": judges, "kappa": kappas}
