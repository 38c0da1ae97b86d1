"""`selfsteer evaluate reward`: sets of labelled pairs, and how often reward models and other judges rank them right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.evaluation import rewardbench
from selfsteer.judges import Judge, Judgement, Pair
from selfsteer.judges.agreement import agreement, distinct
from selfsteer.judges.pair_datasets import PairSet, load_pairs, sample_pairs
from selfsteer.judges.program import PROGRAMS, ProgramJudge
from selfsteer.judges.tables import Judged
from selfsteer.queries.file_readers import format_of, read_file
from selfsteer.workflows.judge import as_json, check_ids, hub_split

_NO_LABEL, _TIED = "no label", "a tie by its label"


@dataclass(frozen=True)
class LabelledSet:
    """Pairs of which people (or a program) found one response better.

    Attributes:
        name: Of the file or the hub data set; in a folder, its path there.
        pairs: What judges are shown; the subset of one that names its own is "set/subset".
        labelled: How many such pairs the file holds, in the sample or not.
        left_out: How many of its rows are none, by reason.
    """

    name: str
    pairs: list[Pair]
    labelled: int
    left_out: Mapping[str, int]


def read_sets(
    sources: Sequence[Path], *, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[LabelledSet]:
    """Return the sets of all sources. A file of a folder that holds no pairs is a set without any, with the reason.

    Args:
        sources: Files and hub data sets of preference pairs, and folders of such files at any depth.
        limit: Take a random sample of so many labelled pairs of each file.
        seed: Chooses the sample.
        split: Of hub data sets; None is train.

    Raises:
        ConfigError: ``limit`` is not positive, or ``split`` is given and no source has splits.
        DataError: A file can't be read or holds no pairs, two have the same name, or no labelled pair is left.
    """
    split = hub_split(sources, split)
    sets = [found for source in sources for found in _sets_of(source, split, limit, seed)]
    pairs = [pair for one in sets for pair in one.pairs]
    check_ids(pairs, sources)
    if not pairs:
        reasons = Counter[str]()
        for one in sets:
            reasons.update(one.left_out)
        told = ", ".join(f"{why} ({count} rows)" for why, count in reasons.most_common(3)) or "no rows"
        do = "give files of preference pairs with a label that names the better response"
        raise DataError(f"no labelled pair is left: {told}", where=", ".join(map(str, sources)), do=do)
    return sets


def _sets_of(source: Path, split: str, limit: int | None, seed: int) -> Iterator[LabelledSet]:
    if not source.is_dir():
        yield _labelled(load_pairs(source, split=split), limit, seed)
        return
    if (source / "ledger.jsonl").is_file():
        do = "put a run's own pairs before judges with `selfsteer judge` or `selfsteer evaluate signal`"
        raise DataError("a run directory holds pairs that nobody labelled", where=str(source), do=do)
    found = (path for path in source.rglob("*") if path.is_file() and format_of(path))
    files = sorted(path for path in found if not path.name.startswith("."))
    if not files:
        do = "give a folder that holds files of preference pairs"
        raise DataError("the folder holds no file of a known format", where=str(source), do=do)
    for path in files:
        name = str(path.relative_to(source)).removesuffix(".gz")
        name = str(Path(name).with_suffix(""))
        try:
            yield _labelled(load_pairs(path, name=name), limit, seed)
        except DataError as error:
            where = error.where.replace(str(path), path.name)
            yield LabelledSet(name, [], 0, {f"{where}: {error.what}": _count(path)})


def _count(path: Path) -> int:
    """Return how many rows a file holds, up to where it can't be read."""
    count = 0
    try:
        for _ in read_file(path):
            count += 1
    except DataError:
        return max(count, 1)
    return count


def _labelled(found: PairSet, limit: int | None, seed: int) -> LabelledSet:
    left_out = Counter(dropped.reason for dropped in found.dropped)
    left_out.update({0: _TIED, None: _NO_LABEL}[pair.label] for pair in found.pairs if not pair.label)
    labelled = [_named(pair, found.name) for pair in found.pairs if pair.label]
    return LabelledSet(found.name, sample_pairs(labelled, limit, seed), len(labelled), dict(left_out))


def _named(pair: Pair, name: str) -> Pair:
    return pair if pair.subset == name else replace(pair, subset=f"{name}/{pair.subset}")


def length_baseline() -> Judge:
    """Return the judge that takes the longer response: what a set's length alone tells."""
    return ProgramJudge(PROGRAMS["longer"], "longer is better")


def groups(sets: Sequence[LabelledSet]) -> dict[str, Sequence[int]]:
    """Return the groups of pairs that figures are given for: subsets, sets, and all sets (""), by name.

    Returns:
        The positions of each group's pairs among those of all sets. Pairs of one subset stand together; over all sets a
        pair that lies in two of them is counted once.
    """
    found: dict[str, Sequence[int]] = {}
    start = 0
    for one in sets:
        first = start
        for subset, n in Counter(pair.subset for pair in one.pairs).items():
            found[subset] = range(start, start + n)
            start += n
        if one.pairs:
            found[one.name] = range(first, start)
    if sum(bool(one.pairs) for one in sets) > 1:
        found[""] = distinct(pair for one in sets for pair in one.pairs)
    return found


def in_order(one: LabelledSet) -> LabelledSet:
    """Return a set with the pairs of each subset together, as :func:`groups` takes them."""
    places = {subset: place for place, subset in enumerate(dict.fromkeys(pair.subset for pair in one.pairs))}
    return replace(one, pairs=sorted(one.pairs, key=lambda pair: places[pair.subset]))


def bench_sections(judged: Judged) -> list[rewardbench.Section]:
    """Return RewardBench's sections of the subsets that have its names, whichever files they came from."""
    right, total = Counter[str](), Counter[str]()
    for judgement in judged.judgements:
        subset = bench_subset(judgement)
        total[subset] += 1
        right[subset] += judgement.debiased == judgement.pair.label
    return rewardbench.sections({name: rewardbench.Right(right[name], n) for name, n in total.items()})


def bench_subset(judgement: Judgement) -> str:
    """Return the name of a pair's subset without that of its set."""
    return judgement.pair.subset.rpartition("/")[2]


def is_bench(judged: Judged) -> bool:
    """Return whether a pair belongs to RewardBench, going by the name of its subset."""
    return any(rewardbench.is_subset(bench_subset(judgement)) for judgement in judged.judgements)


def evaluation_json(sets: Sequence[LabelledSet], all_judged: Sequence[Judged]) -> dict[str, Any]:
    """Return what `selfsteer judge --json` gives, and the sets, each judge's figures on them, and RewardBench's."""
    found = as_json(all_judged)
    found["sets"] = [
        {"name": one.name, "pairs": len(one.pairs), "labelled": one.labelled, "left_out": dict(one.left_out)}
        for one in sets
    ]
    places = {name: place for name, place in groups(sets).items() if name in {one.name for one in sets}}
    for own, judged in zip(found["judges"], all_judged, strict=True):
        own["sets"] = {name: asdict(agreement([judged.judgements[i] for i in place])) for name, place in places.items()}
        if is_bench(judged):
            sections = bench_sections(judged)
            own["rewardbench"] = {
                "sections": [asdict(section) | {"state": section.state} for section in sections],
                "score": rewardbench.score(sections),
            }
    return found
