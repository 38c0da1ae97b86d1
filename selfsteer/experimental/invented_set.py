"""The YAML file that `selfsteer principles invent` writes: a set of new aspects, with comments for its reviewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from selfsteer.confidence_intervals import share_text
from selfsteer.config import Recipe
from selfsteer.evaluation.steerability import AspectProbe
from selfsteer.experimental.principles_invent import Invented
from selfsteer.experimental.prompt_templates import template_versions
from selfsteer.experimental.proposals import TEMPLATE
from selfsteer.experimental.similarity import Candidate
from selfsteer.principles import Example, PrincipleSet
from selfsteer.principles.choose import shortened
from selfsteer.principles.yaml_writer import dump_set

_FALLBACK = 3
_NAMED = 3
"""Queries that the comment above an aspect shows."""
_SHOWN = 60


def as_yaml(found: Invented, recipe: Recipe, output: Path, *, extend: bool) -> str:
    """Return the file's text: the new aspects alone, or with ``extend`` behind those of the given set."""
    given, new = found.given, [one.aspect for one in found.candidates]
    names = [aspect.name for aspect in new]
    proposed = f"{counted(len(new), 'aspect')} that {found.model} proposed."
    if extend:
        # A program of the whole set becomes one of each of its own aspects: it can't decide the new ones.
        own = [aspect.model_copy(update={"direction": aspect.direction or given.direction}) for aspect in given.aspects]
        fill = given.fallback or [aspect.name for aspect in given.choosable]
        count, fallback, few_shot = given.aspects_per_query, given.fallback, given.few_shot
        description = f"{given.name} v{given.version} and {proposed}"
    else:
        # The fallback are the aspects that most answers propose.
        own, fill, few_shot, description = [], names, [], proposed
        count, fallback = min(given.aspects_per_query, len(names)), names[:_FALLBACK]
    made = PrincipleSet(
        name=output.stem, version=1, description=description, aspects_per_query=count, steering=given.steering,
        fallback=fallback, aspects=[*own, *new], few_shot=[*few_shot, *_examples(found, count, fill)],
    )  # fmt: skip
    return dump_set(made, head=_head(found, recipe, output), notes=_notes(found))


def _examples(found: Invented, count: int, fill: Sequence[str]) -> list[Example]:
    """Return an example of the choice for each new aspect: the shortest query that it matters for and no other has.

    It is followed by further new aspects that matter for that query, then those of ``fill``, up to ``count``.
    """
    texts = {query.id: shortened(query.prompt[-1]["content"]) for query in found.queries}
    examples: dict[str, list[str]] = {}
    for candidate in found.candidates:
        free = [texts[name] for name in candidate.queries if texts[name] not in examples]
        if not free:
            continue
        query = min(free, key=len)
        others = [one.aspect.name for one in found.candidates if any(texts[name] == query for name in one.queries)]
        examples[query] = list(dict.fromkeys([candidate.aspect.name, *others, *fill]))[:count]
    return [Example(query=query, aspects=aspects) for query, aspects in examples.items()]


def _head(found: Invented, recipe: Recipe, output: Path) -> list[str]:
    versions = template_versions(TEMPLATE)
    settings = recipe.generation
    known = ", ".join(f"{name} ({count})" for name, count in found.known.items())
    return [
        f"Proposed by {found.model}, not reviewed yet. Keep what is worth keeping, fix it and delete the rest.",
        f"From {counted(len(found.queries), 'query', 'queries')} of {Path(recipe.queries.source).name} (seed "
        f"{recipe.seed}, temperature {settings.temperature:g}, top_p {settings.top_p:g}, template {TEMPLATE} "
        f"v{versions[TEMPLATE]}): {describe_answers(found)}.",
        *([f"Proposed although {found.given.name!r} has it: {known}."] if known else []),
        *([f"Left out: {', '.join(found.passed_over)}."] if found.passed_over else []),
        f"selfsteer principles check {output.name} --model MODEL",
    ]


def describe_answers(found: Invented) -> str:
    """Return "6 answers (ok 4, repaired 1, failed 1), 9 proposals, 3 rejected (...)"."""
    outcomes = ", ".join(f"{name} {found.outcomes[name]}" for name in ("ok", "repaired", "failed"))
    refused = found.refused
    proposals = sum(len(reading.proposals) for reading in found.readings) + refused.total()
    reasons = f" ({'; '.join(f'{reason}: {count}' for reason, count in refused.items())})" if refused else ""
    return (
        f"{counted(len(found.readings), 'answer')} ({outcomes}), {counted(proposals, 'proposal')}, "
        f"{refused.total()} rejected{reasons}"
    )


def _notes(found: Invented) -> dict[str, list[str]]:
    """Return the comments above each new aspect, by its name."""
    texts = {query.id: " ".join(query.prompt[-1]["content"].split()) for query in found.queries}
    texts = {name: text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..." for name, text in texts.items()}
    return {
        one.aspect.name: [
            f"Proposed in {one.answers} of {counted(len(found.readings), 'answer')}; {_fits(one, texts)}",
            *_tried(found.probes.get(one.aspect.name)),
            f"Nearest in {found.given.name!r}: {one.nearest}, similarity {one.similarity:.2f}.",
        ]
        for one in found.candidates
    }


def _fits(candidate: Candidate, texts: Mapping[str, str]) -> str:
    if not candidate.queries:
        return "the model named no query that it matters for."
    shown = [f'{name} "{texts[name]}"' for name in candidate.queries[:_NAMED]]
    more = len(candidate.queries) - len(shown)
    rest = f", and {more} more" if more else ""
    return f"for {counted(len(candidate.queries), 'query', 'queries')}: {', '.join(shown)}{rest}."


def _tried(probe: AspectProbe | None) -> list[str]:
    """Return the results of the trials; margins come from log-probs, which not every backend has."""
    if probe is None:
        return ["Not tried."]
    pairs, margin, direction = counted(probe.n, "pair"), probe.margin, probe.direction
    text = f"Tried on {pairs}: no margin (it takes log-probs, of two pairs at least)."
    if margin is not None:
        low, high = margin.interval
        text = f"Tried on {pairs}: margin {margin.mean:+.3f} nats per token (95 % interval {low:+.3f} to {high:+.3f}"
        text += ")." if margin.matters else "), so the prompts may not even matter."
    if direction is None:
        return [text, "No judge decided which way it steers."]
    share = f"{share_text(direction.accuracy, direction.interval)} of {counted(direction.n, 'pair')}"
    return [text, f"y+ is better in {share}, by {direction.by}."]


def counted(number: int, one: str, many: str = "") -> str:
    """Return "1 aspect" or "3 aspects"."""
    return f"{number} {one if number == 1 else many or one + 's'}"
