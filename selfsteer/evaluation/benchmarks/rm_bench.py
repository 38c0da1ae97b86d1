"""RM-Bench's averages (arXiv 2410.16184): nine pairs a prompt, by domain and by how far style misleads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from selfsteer.confidence_intervals import wilson
from selfsteer.evaluation.benchmarks.base import Benchmark, Right, Section, mean_score, right_by_subset
from selfsteer.judges.base import Judgement

_LEVELS = ("hard", "normal", "easy")
_DOMAINS = {
    "Chat": {"chat": 129},
    "Code": {"code": 228},
    "Math": {"math": 529},
    "Safety": {"safety-refuse": 284, "safety-response": 157},
}
"""Subdomains of each domain, with their prompts; a domain is the mean of its subdomains."""
_PROMPTS = {name: count for domain in _DOMAINS.values() for name, count in domain.items()}
_SUBSETS = {f"{name}, {level}" for name in _PROMPTS for level in _LEVELS}


def sections(judgements: Sequence[Judgement]) -> list[Section]:
    """Return the domains, and the three levels as means over the domains."""
    subsets = {name: right for name, right in right_by_subset(judgements).items() if name in _SUBSETS}
    domains = [_section(title, _DOMAINS[title], _LEVELS, subsets) for title in _DOMAINS]
    return [*domains, *(_level(level, subsets) for level in _LEVELS)]


def _section(title: str, names: Mapping[str, int], levels: Sequence[str], subsets: Mapping[str, Right]) -> Section:
    """Return the mean over subdomains of the share of their pairs of these levels."""
    own = {name: [subsets[key] for level in levels if (key := f"{name}, {level}") in subsets] for name in names}
    found = {name: rights for name, rights in own.items() if rights}
    shares = [sum(one.right for one in rights) / sum(one.n for one in rights) for rights in found.values()]
    counts = [sum(one.n for one in rights) for rights in found.values()]
    effective = len(counts) ** 2 / sum(1 / n for n in counts) if counts else 0.0
    return Section(
        name=title,
        found=tuple(found),
        missing=tuple(name for name in names if name not in found),
        n=sum(counts),
        expected=sum(names[name] * 3 * len(levels) for name in found),  # each level has three of the nine pairs
        share=fmean(shares) if shares else None,
        interval=wilson(fmean(shares) * effective, effective) if shares else None,
    )


def _level(level: str, subsets: Mapping[str, Right]) -> Section:
    parts = [_section(title, names, (level,), subsets) for title, names in _DOMAINS.items()]
    there = [one for one in parts if one.share is not None]
    share = fmean(one.share for one in there if one.share is not None) if there else None
    effective = len(there) ** 2 / sum(1 / one.n for one in there) if there else 0.0
    return Section(
        name=level.capitalize(),
        found=tuple(name for one in parts for name in one.found),
        missing=tuple(name for one in parts for name in one.missing),
        n=sum(one.n for one in parts),
        expected=sum(one.expected for one in parts),
        share=share,
        interval=wilson(share * effective, effective) if share is not None else None,
    )


RM_BENCH = Benchmark(
    "RM-Bench",
    "A domain is the share of its pairs (Safety: the mean of its two parts), a level the mean over the domains, the "
    "score the mean of the four domains. Hard: the worse answer has the richer style.",
    _SUBSETS.__contains__,
    sections,
    lambda found: mean_score(found[: len(_DOMAINS)]),
)
