"""`selfsteer evaluate reward`: the accuracy of reward models and other judges on sets of labelled pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks import BENCHMARKS, Benchmark, Section, own_subset
from selfsteer.judges import Judge, Pair
from selfsteer.judges.agreement import agreement, distinct
from selfsteer.judges.pair_datasets import PairSet, load_pairs, sample_pairs
from selfsteer.judges.program import PROGRAMS, ProgramJudge
from selfsteer.judges.tables import Judged
from selfsteer.queries.file_readers import format_of, read_file
from selfsteer.workflows.judge import as_json, check_ids, hub_split


@dataclass(frozen=True)
class LabelledSet:
    """Pairs with one response labelled as better, by people or a program.

    Attributes:
        name: Of the file or the hub data set; in a folder, its path there.
        pairs: The sample; the subset of a pair that has its own is "set/subset".
        labelled: Number of pairs in the file with a better response, in the sample or not.
        left_out: Number of its other rows, by reason.
    """

    name: str
    pairs: list[Pair]
    labelled: int
    left_out: Mapping[str, int]


def read_sets(
    sources: Sequence[Path], *, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[LabelledSet]:
    """Return the sets of all sources. A file without pairs in a folder is an empty set, with the reason.

    Args:
        sources: Files and hub data sets of preference pairs, and folders of such files at any depth.
        limit: Take a random sample of so many labelled pairs of each file.

    Raises:
        ConfigError: ``limit`` is not positive, or ``split`` is given and no source has splits.
        DataError: A file can't be read or has no pairs, two have the same name, or no labelled pair is left.
    """
    split = hub_split(sources, split)
    sets = [found for source in sources for found in _sets_of(source, split, limit, seed)]
    pairs = [pair for one in sets for pair in one.pairs]
    check_ids(pairs, sources)
    if not pairs:
        reasons = Counter[str]()
        for one in sets:
            reasons.update(one.left_out)
        found = ", ".join(f"{why} ({count} rows)" for why, count in reasons.most_common(3)) or "no rows"
        do = "give files of preference pairs with a label that names the better response"
        raise DataError(f"no labelled pair is left: {found}", where=", ".join(map(str, sources)), do=do)
    return sets


def _sets_of(source: Path, split: str, limit: int | None, seed: int) -> Iterator[LabelledSet]:
    if not source.is_dir():
        yield _labelled(load_pairs(source, split=split), limit, seed)
        return
    if (source / "ledger.jsonl").is_file():
        do = "judge a run's own pairs with `selfsteer judge` or `selfsteer evaluate signal`"
        raise DataError("the pairs of a run directory have no labels", where=str(source), do=do)
    found = (path for path in source.rglob("*") if path.is_file() and format_of(path))
    files = sorted(path for path in found if not path.name.startswith("."))
    if not files:
        do = "give a folder with files of preference pairs"
        raise DataError("the folder has no file of a known format", where=str(source), do=do)
    for path in files:
        name = str(Path(str(path.relative_to(source)).removesuffix(".gz")).with_suffix(""))
        try:
            yield _labelled(load_pairs(path, name=name), limit, seed)
        except DataError as error:  # a file named by itself is an error: whoever names a file means it
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
    # Two equally good answers of a row with several are judged for the benchmark's figures, which ask for their margin.
    used = [pair for pair in found.pairs if pair.label or (pair.label == 0 and pair.group)]
    unused = [pair for pair in found.pairs if not pair.label and not (pair.label == 0 and pair.group)]
    left_out.update("a tie by its label" if pair.label == 0 else "no label" for pair in unused)
    named = [
        pair if pair.subset == found.name else replace(pair, subset=f"{found.name}/{pair.subset}") for pair in used
    ]
    drawn = sample_pairs(named, limit, seed)
    return LabelledSet(found.name, drawn, sum(bool(pair.label) for pair in named), dict(left_out))


def length_baseline() -> Judge:
    """Return the judge that prefers the longer response: the accuracy of length alone."""
    return ProgramJudge(PROGRAMS["longer"], "longer is better")


def groups(sets: Sequence[LabelledSet]) -> dict[str, Sequence[int]]:
    """Return the groups of pairs with figures of their own: subsets, sets, and all sets (""), by name.

    Each is a list of positions among the pairs of all sets. Over all sets, a pair that is in two of them counts once.
    """
    found: dict[str, Sequence[int]] = {}
    pairs = [pair for one in sets for pair in one.pairs]
    start = 0
    for one in sets:
        places = [start + place for place, pair in enumerate(one.pairs) if pair.label]
        subsets: dict[str, list[int]] = {}
        for place in places:
            subsets.setdefault(pairs[place].subset, []).append(place)
        found |= subsets | ({one.name: places} if places else {})
        start += len(one.pairs)
    if sum(bool(one.pairs) for one in sets) > 1:
        found[""] = [place for place in distinct(pairs) if pairs[place].label]
    return found


def benchmarks_of(judged: Judged) -> dict[str, Benchmark]:
    """Return the benchmarks that some of the pairs belong to by the name of their subset, by key."""
    subsets = {own_subset(judgement) for judgement in judged.judgements}
    return {key: found for key, found in BENCHMARKS.items() if any(map(found.is_subset, subsets))}


def sections_of(benchmark: Benchmark, judged: Judged) -> list[Section]:
    """Return a benchmark's sections over the subsets that have its names, whichever files they came from."""
    return benchmark.sections(judged.judgements)


def evaluation_json(sets: Sequence[LabelledSet], all_judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the JSON of `selfsteer judge`, with the sets, each judge's figures on them, and the benchmarks'."""
    found = as_json(all_judged)
    found["sets"] = [
        {"name": one.name, "pairs": len(one.pairs), "labelled": one.labelled, "left_out": dict(one.left_out)}
        for one in sets
    ]
    places = {name: place for name, place in groups(sets).items() if name in {one.name for one in sets}}
    for own, judged in zip(found["judges"], all_judged, strict=True):
        own["sets"] = {name: asdict(agreement([judged.judgements[i] for i in place])) for name, place in places.items()}
        for key, benchmark in benchmarks_of(judged).items():
            sections = sections_of(benchmark, judged)
            own[key] = {
                "sections": [asdict(section) | {"state": section.state} for section in sections],
                "score": benchmark.score(sections),
            }
    return found
