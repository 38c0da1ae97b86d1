"""What `selfsteer principles invent` does, writes and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.commands.principles_check import cells, trial_recipe
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, InputError
from selfsteer.evaluation.steerability import AspectProbe
from selfsteer.experimental.principles_invent import Invented, InventOptions, invent
from selfsteer.experimental.prompt_templates import template_versions
from selfsteer.experimental.proposals import TEMPLATE
from selfsteer.experimental.similarity import Candidate
from selfsteer.files import fingerprint, write_atomic
from selfsteer.judges.tables import percent
from selfsteer.models import cache_folder
from selfsteer.principles import Example, PrincipleSet, list_sets
from selfsteer.principles.choose import shortened
from selfsteer.principles.yaml_writer import dump_set
from selfsteer.records import Query
from selfsteer.runs.progress import Display

_FALLBACK = 3
_NAMED = 3
"""Queries that the comment above an aspect shows."""
_SHOWN = 60
_OPTIONS = {"model": "--model", "queries": "--queries", "principles.set": "--set", "judge": "--judge"}
"""Settings that have an option of their own."""


def principles_invent(
    overrides: Sequence[str],
    order: InventOptions,
    *,
    model: str,
    queries: str,
    given: str,
    judge: str | None,
    output: Path,
    extend: bool,
    overwrite: bool,
    folder: Path | None,
    out: Console,
) -> Invented:
    """Invent aspects, write them to ``output`` for a person to review, and print them.

    Args:
        overrides: Further settings, as a run takes them ("seed=1", "generation.temperature=...").
        order: How many of everything.
        model: A catalogue name, a folder or a hub name.
        queries: Where the queries are.
        given: The set that is there, by name or path.
        judge: Who says which answer is better, None is nobody.
        output: A YAML file.
        extend: Write the given set with the new aspects behind its own, not the new ones alone.
        overwrite: Replace a file that is there.
        folder: Where everything else goes; None takes one in the cache folder.
        out: Where the table goes.

    Raises:
        ConfigError: A setting is wrong, or given twice.
        InputError: ``output`` is there already; or as of :func:`selfsteer.experimental.principles_invent.invent`.
        WorkFailed: As of :func:`selfsteer.experimental.principles_invent.invent`.
    """
    named = [f"model={model}", f"queries={queries}", f"principles.set={given}"]
    recipe = _recipe([*named, *([f"judge={judge}"] if judge else [])], overrides)
    folder = folder or _own_folder(recipe)
    written = folder / "written" / f"{fingerprint(str(output.resolve()))}.yaml"
    _check_output(output, written, overwrite=overwrite)
    found = invent(recipe, order, folder, display=Display())
    made = extended_set(found, output.stem) if extend else new_set(found, output.stem)
    text = dump_set(made, head=_head(found, recipe, output), notes=_notes(found))
    if not _holds(output, text):
        _check_output(output, None, overwrite=overwrite)
        write_atomic(written, text)
        write_atomic(output, text)
    _show(found, output, out)
    return found


def new_set(found: Invented, name: str) -> PrincipleSet:
    """Return a set of the new aspects alone. The fallback are those that most answers propose."""
    aspects = [one.aspect for one in found.candidates]
    names = [aspect.name for aspect in aspects]
    count = min(found.given.aspects_per_query, len(names))
    return PrincipleSet(
        name=name,
        version=1,
        description=f"{_count(len(names), 'aspect')} that {found.model} proposed.",
        aspects_per_query=count,
        steering=found.given.steering,
        fallback=names[:_FALLBACK],
        aspects=aspects,
        few_shot=_examples(found, count, names),
    )


def extended_set(found: Invented, name: str) -> PrincipleSet:
    """Return the given set with the new aspects behind its own.

    A direction program of the whole set becomes one of each of its own aspects: it can't tell about the new ones.
    """
    given = found.given
    own = [aspect.model_copy(update={"direction": aspect.direction or given.direction}) for aspect in given.aspects]
    fill = given.fallback or [aspect.name for aspect in given.choosable]
    new = [one.aspect for one in found.candidates]
    return PrincipleSet(
        name=name,
        version=1,
        description=f"{given.name} v{given.version} and {_count(len(new), 'aspect')} that {found.model} proposed.",
        aspects_per_query=given.aspects_per_query,
        steering=given.steering,
        fallback=given.fallback,
        aspects=[*own, *new],
        few_shot=[*given.few_shot, *_examples(found, given.aspects_per_query, fill)],
    )


def _examples(found: Invented, count: int, fill: Sequence[str]) -> list[Example]:
    """Return an example of the choice for each new aspect: the shortest query that it matters for and no other has.

    Behind it stand further new aspects that matter for that query, then those of ``fill``, up to ``count``.
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


def _recipe(named: Sequence[str], overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        key = override.partition("=")[0].strip().removesuffix(".name").removesuffix(".source")
        if key in _OPTIONS:
            what = f"{key} has an option of its own"
            raise ConfigError(what, where=f"command line: {override}", do=f"give {_OPTIONS[key]}")
    return trial_recipe("invent", [*named, *overrides])


def _own_folder(recipe: Recipe) -> Path:
    """A folder for a model, a source and a given set, so that inventions of others lie beside it."""
    what = [recipe.model.model_dump(), recipe.generation.backend, recipe.queries.source, recipe.principles.set]
    return cache_folder() / "inventions" / fingerprint(what)


def _check_output(output: Path, written: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace a file. What an earlier call wrote may turn out to be what this one writes, so it passes."""
    if output.suffix not in (".yaml", ".yml") or output.stem in list_sets():
        what = f"{output.name} can't be the name of a new set's file"
        do = "name a .yaml file, and not like a shipped set, which would be found in its place"
        raise ConfigError(what, where=f"--output {output}", do=do)
    if (
        overwrite
        or not output.exists()
        or (written and written.exists() and _holds(output, written.read_text("utf-8")))
    ):
        return
    what = "there is such a file already, and what it holds may be somebody's work"
    raise InputError(what, where=str(output), do="name another one, or give --overwrite")


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _head(found: Invented, recipe: Recipe, output: Path) -> list[str]:
    versions = template_versions(TEMPLATE)
    settings = recipe.generation
    known = ", ".join(f"{name} ({count})" for name, count in found.known.items())
    return [
        f"Proposed by {found.model}, and read by no one yet. Keep what is worth keeping, mend it and delete the rest.",
        f"From {_count(len(found.queries), 'query', 'queries')} of {Path(recipe.queries.source).name} (seed "
        f"{recipe.seed}, temperature {settings.temperature:g}, top_p {settings.top_p:g}, template {TEMPLATE} "
        f"v{versions[TEMPLATE]}): {describe_answers(found)}.",
        *([f"Proposed though {found.given.name!r} has it: {known}."] if known else []),
        *([f"Left out: {', '.join(found.passed_over)}."] if found.passed_over else []),
        f"selfsteer principles check {output.name} --model MODEL",
    ]


def describe_answers(found: Invented) -> str:
    """Return "6 answers (ok 4, repaired 1, failed 1), 9 proposals, turned down 3 (...)"."""
    outcomes = ", ".join(f"{name} {found.outcomes[name]}" for name in ("ok", "repaired", "failed"))
    refused = found.refused
    proposals = sum(len(reading.proposals) for reading in found.readings) + refused.total()
    reasons = f" ({'; '.join(f'{reason}: {count}' for reason, count in refused.items())})" if refused else ""
    return (
        f"{_count(len(found.readings), 'answer')} ({outcomes}), {_count(proposals, 'proposal')}, turned down "
        f"{refused.total()}{reasons}"
    )


def _notes(found: Invented) -> dict[str, list[str]]:
    """Return what a reviewer should know of each new aspect, by its name."""
    texts = {query.id: query for query in found.queries}
    return {
        one.aspect.name: [
            f"Proposed in {one.answers} of {_count(len(found.readings), 'answer')}; {_fits(one, texts)}",
            *_tried(found.probes.get(one.aspect.name)),
            f"Nearest in {found.given.name!r}: {one.nearest}, similarity {one.similarity:.2f}.",
        ]
        for one in found.candidates
    }


def _fits(candidate: Candidate, texts: Mapping[str, Query]) -> str:
    if not candidate.queries:
        return "the model named no query that it matters for."
    shown = [f'{name} "{_short(texts[name])}"' for name in candidate.queries[:_NAMED]]
    more = len(candidate.queries) - len(shown)
    rest = f", and {more} more" if more else ""
    return f"for {_count(len(candidate.queries), 'query', 'queries')}: {', '.join(shown)}{rest}."


def _short(query: Query) -> str:
    text = " ".join(query.prompt[-1]["content"].split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _tried(probe: AspectProbe | None) -> list[str]:
    """Return what the trials say; margins come from log-probs, which not every backend has."""
    if probe is None:
        return ["Not tried."]
    pairs, margin, direction = _count(probe.n, "pair"), probe.margin, probe.direction
    said = f"Tried on {pairs}: no margin (it takes log-probs, of two pairs at least)."
    if margin is not None:
        low, high = margin.interval
        said = f"Tried on {pairs}: margin {margin.mean:+.3f} nats per token (95 % interval {low:+.3f} to {high:+.3f}"
        said += ")." if margin.matters else "), so the prompts may not even matter."
    if direction is None:
        return [said, "No judge said which way it steers."]
    share = f"{percent(direction.accuracy, direction.interval)} of {_count(direction.n, 'pair')}"
    return [said, f"y+ is better in {share}, by {direction.by}."]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _show(found: Invented, output: Path, out: Console) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("new aspect", "for", "answers", "queries", "nearest", "margin,\nnats/token", "y+ is better"):
        table.add_column(column)
    for one in found.candidates:
        aspect, probe = one.aspect, found.probes.get(one.aspect.name)
        margin, share = cells(probe.margin, probe.direction)[:2] if probe else ("-", "-")
        row = (aspect.name, f"{aspect.positive},\nnot {aspect.negative}", str(one.answers), str(len(one.queries)))
        table.add_row(*map(Text, (*row, f"{one.nearest}\n{one.similarity:.2f}", margin, share)))
    out.print(table)
    out.print(f"{describe_answers(found)}.", markup=False, soft_wrap=True)
    lines = f"{_count(len(found.candidates), 'new aspect')} in {output}. Read it before you use it: a model wrote it."
    out.print(lines, markup=False, soft_wrap=True)
