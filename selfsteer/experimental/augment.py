"""Extending a query set with a chat model, round by round.

A round is one batch of requests, planned from the seeds and the queries of earlier rounds. Its answers are on disk,
keyed by everything they depend on, before the next round is planned; the rest is derived from them. So an interrupted
process repeats one batch at most, and a changed check asks the model again only if later requests change.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from selfsteer.config import Growth
from selfsteer.contrast import Request
from selfsteer.errors import ConfigError, DataError, WorkFailed
from selfsteer.experimental.augment_prompts import TEMPLATE_OF, Ask, Planner, Source, as_prompt
from selfsteer.experimental.generated_checks import grown_fault
from selfsteer.experimental.parse_generated import Reading, read_list, read_one
from selfsteer.experimental.prompt_templates import template_contents, template_versions
from selfsteer.files import atomic_path, clone, fingerprint, read_json, remove, sha256_file, storage_errors, write_json
from selfsteer.language_id import language
from selfsteer.quality import think_apart
from selfsteer.queries import Checks, Fault, load_queries, reads_file, source_fingerprint
from selfsteer.queries.load import GROWN, content_hash, made_id
from selfsteer.queries.words import changed_words
from selfsteer.records import Response, read_rows
from selfsteer.runs.executor import BatchResult
from selfsteer.runs.progress import Display
from selfsteer.runs.shards import Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Store, Workspace
from selfsteer.seeding import batch_seed
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.responses import key_of, sample
from selfsteer.version import __version__

VERSION = 2
"""Raise it when the same answers would give other queries."""

_RECORD, _KEPT, _DROPPED = "augment.json", "kept.jsonl", "dropped.jsonl"
# Requests of the first round, doubled each round up to the batch; independent of the count, so it can be raised.
_FIRST = 4
_BARREN = 20  # a round with less than one new query in so many asked for counts as barren
_COMMON = 20  # a language is one of the seeds' if one seed in so many is in it
_CHANGED = 5  # changed words that make an evolved query differ from those it was made from, whatever their length
Row = dict[str, Any]


@dataclasses.dataclass
class Grown:
    """The result of a growth; the dictionaries hold counts.

    Attributes:
        languages: Languages that are kept, None for any.
        outcomes: Answers by how they were parsed: ok, repaired, failed; unanswered for requests without an answer.
        dropped: New queries by the check that dropped them.
        operations: Queries kept, by the operation that made them.
    """

    seeds: int = 0
    unused_seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    languages: list[str] | None = None
    rounds: int = 0
    requests: int = 0
    outcomes: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    operations: dict[str, int] = dataclasses.field(default_factory=dict)
    kept: int = 0


def augment(
    growth: Growth, output: Path, run_dir: Path, *, count: int, overwrite: bool = False, display: Display | None = None
) -> Grown:
    """Write ``count`` new queries to ``output``, and dropped ones to ``run_dir/dropped.jsonl``.

    The same call again does nothing, an interrupted one resumes, and a higher count continues a lower one.

    Raises:
        InputError: The seeds, a setting or the model can't be used, or ``output`` is a file that this command did not
            write, or that it reads.
        WorkFailed: Several rounds gave too few queries, or the model can't be asked. The queries so far are in
            ``run_dir/kept.jsonl``, and in ``output`` unless it has more.
    """
    _check_files(growth, output, run_dir, overwrite)
    display = display or Display(quiet=True)
    store = Store(run_dir, display)
    with display, storage_errors(run_dir), store.locked():
        return _Growing(growth, output, count, store).run()


def _check_files(growth: Growth, output: Path, run_dir: Path, overwrite: bool) -> None:
    """Refuse to write to a file of others, or to one that is read: it would be lost, or be a seed of the next call."""
    if output.suffix != ".jsonl":
        raise ConfigError(f"can't write {output.name!r}", where="--output", do="name a file that ends in .jsonl")
    ours = (read_json(run_dir / _RECORD) or {}).get("written", [])
    if output.exists() and not overwrite and (not output.is_file() or sha256_file(output) not in ours):
        what = "the file exists and was not written by this command, or was changed since"
        raise ConfigError(what, where=str(output), do="choose another name, or replace it with --overwrite")
    own = [run_dir / name for name in (_RECORD, _KEPT, _DROPPED)]
    if output.resolve() in [path.resolve() for path in own]:
        what = f"{output.name} is a file of the run directory itself"
        raise ConfigError(what, where="--output", do="choose another name, or another --run-dir")
    for source in _sources(growth):
        for path in [output, *own]:
            if reads_file(source, path):
                what = f"queries are read from there ({source}), so nothing can be written there"
                do = "choose a file (and a --run-dir) outside of the seeds and the benchmarks"
                raise ConfigError(what, where=str(path), do=do)


def _sources(growth: Growth) -> list[str]:
    return [growth.queries.source, *(benchmark.source for benchmark in growth.queries.decontaminate)]


class _Growing:
    """One growth: its settings, its files, and its results so far."""

    def __init__(self, growth: Growth, output: Path, count: int, store: Store) -> None:
        self.growth, self.output, self.count, self.store = growth, output, count, store
        self.models = ModelPool(growth.recipe, store.run_dir)
        self.grown = Grown()
        self._record = store.run_dir / _RECORD
        self._kept, self._dropped = store.run_dir / _KEPT, store.run_dir / _DROPPED

    def run(self) -> Grown:
        """Run the rounds that are not done yet, and write their queries."""
        display = self.store.display
        display.plan([1.0])
        policy = self.models.initial_policy(display.say)
        key = fingerprint([VERSION, __version__, self._depends(policy), self.count])
        known = read_json(self._record)
        if isinstance(known, dict) and known.get("key") == key and self.output.exists():
            found = Grown(**known["grown"])
            if found.kept == self.count and sha256_file(self.output) == known["written"][0]:
                display.finish("grow queries", reused=True)
                return found
        # A killed process may have left partial files.
        folders = {self.store.run_dir: "*", self.store.run_dir / "answers": "*", self.output.parent: self.output.name}
        for folder, name in folders.items():
            for left in folder.glob(f".{name}.*.tmp"):
                remove(left)
        display.begin("grow queries", self.count)
        try:
            self._grow(policy)
        finally:
            self.models.free()
        too_few = self.grown.kept < self.count
        if too_few and self.output.exists() and self.grown.kept < self.output.read_bytes().count(b"\n"):
            raise self._too_few(f"they are in {self._kept}; {self.output} is kept, as it has more")
        # The new output and the one it replaces: if the process dies in between, either is ours.
        written = [sha256_file(file) for file in (self._kept, self.output) if file.exists()]
        known = {"key": key, "written": list(dict.fromkeys(written)), "grown": dataclasses.asdict(self.grown)}
        write_json(self._record, known)
        clone(self._kept, self.output)
        if too_few:
            raise self._too_few(f"they are in {self.output}")
        display.finish("grow queries", reused=False, note=f": {self.grown.kept} kept")
        return self.grown

    def _depends(self, policy: Policy) -> list[Any]:
        settings = self.growth.model_dump(exclude={"model", "generation"})
        contents = [source_fingerprint(source) for source in _sources(self.growth)]
        return [settings, contents, template_contents(TEMPLATE_OF[self.growth.augment.method]), self._engine(policy)]

    def _engine(self, policy: Policy) -> list[Any]:
        """Dependencies of an answer besides the request."""
        settings = self.growth.generation
        return [*self.models.sampling_key(policy), settings.temperature, settings.top_p, settings.max_new_tokens]

    def _grow(self, policy: Policy) -> None:
        """Run rounds until there are enough queries, or too many rounds in a row are barren; write the queries."""
        seeds = self._seeds()
        planner = Planner(self.growth.augment, seeds, self.growth.seed)
        barren = 0
        with ExitStack() as stack:
            files = [stack.enter_context(atomic_path(path)) for path in (self._kept, self._dropped)]
            kept, dropped = (stack.enter_context(file.open("w", encoding="utf-8")) for file in files)
            sieve = _Sieve(self.growth, seeds, self.grown, self.count, self._provenance(policy), kept, dropped)
            while self.grown.kept < self.count and barren < self.growth.augment.patience:
                size = min(self.growth.generation.batch, _FIRST << min(self.grown.rounds, 20))
                asks = planner.plan(self.grown.rounds, size)
                before = self.grown.kept
                new = self._round(asks, policy, sieve)
                planner.add(new)
                barren = barren + 1 if len(new) * _BARREN < sum(ask.wanted for ask in asks) else 0
                self.store.display.advance(self.grown.kept - before)

    def _seeds(self) -> list[Source]:
        """Return the seeds: queries of one message within ``max_chars``."""
        settings = self.growth.queries
        shared = settings.model_dump(include={"field", "limit", "dataset_split", "max_left_out"})
        loaded = load_queries(settings.source, **shared)
        reasons = Counter({"empty or repeated": len(loaded.dropped)} if loaded.dropped else {})
        found = []
        for query in loaded.queries:
            text = query.prompt[0]["content"]
            if len(query.prompt) > 1:
                reasons["several messages"] += 1
            elif settings.max_chars and len(text) > settings.max_chars:
                reasons["longer than max_chars"] += 1
            else:
                found.append(Source(query.id, text))
        self.grown.seeds, self.grown.unused_seeds = len(found), dict(reasons)
        if not found:
            raise DataError(f"no usable seed: {_counts(reasons)}", where=settings.source, do="give other seeds")
        wanted = settings.languages
        codes = Counter(code for source in found if (code := language(source.text)) and wanted == "seeds")
        common = sorted(code for code, count in codes.items() if count * _COMMON >= codes.total())
        self.grown.languages = wanted if isinstance(wanted, list) else common or None
        return found

    def _round(self, asks: Sequence[Ask], policy: Policy, sieve: _Sieve) -> list[Source]:
        """Run one round; return its queries."""
        prompts = [ask.prompt for ask in asks]
        key = fingerprint([self._engine(policy), self.growth.seed, self.grown.rounds, prompts])
        space = Workspace(self.store.run_dir, "answers", key, Display(quiet=True))
        paths, info = run_sharded(space, 1, self._asking(asks, policy))
        check_any_left(paths, info, len(asks), "request")
        chat = self.models.chat(policy)
        answers = {row.id: think_apart(row, chat) for row in read_rows(paths, Response)}
        self.grown.rounds += 1
        self.grown.requests += len(asks)
        return [source for ask in asks for source in sieve.take(ask, answers.get(ask.id))]

    def _asking(self, asks: Sequence[Ask], policy: Policy) -> ShardJob[Request, Response]:
        """Return the job that asks the model for a round's answers."""
        growth, round = self.growth, self.grown.rounds
        new = growth.generation.max_new_tokens

        def plan(_: int) -> ShardPlan[Request]:
            backend = self.models.backend(policy)
            requests, left_out = [], []
            for ask in asks:
                if backend.context is None or (length := backend.length(ask.prompt)) + new <= backend.context:
                    requests.append(Request(ask.id, "original", ask.prompt))
                    continue
                reason = f"prompt of {length} tokens + {new} new ones exceed the model's context of {backend.context}"
                left_out.append(Dropped(ask.id, reason, "lower generation.max_new_tokens"))
            return ShardPlan([requests] if requests else [], left_out)

        def do(number: int, batch: Sequence[Request]) -> BatchResult[Response]:
            seed = batch_seed(growth.seed, "augment", round, number)
            return sample(growth.recipe, self.models.backend(policy), batch, seed)

        failed = growth.generation.endpoint.failed
        return ShardJob(Response, plan, do, item_key=key_of, row_key=key_of, failed=failed)

    def _provenance(self, policy: Policy) -> Row:
        settings = self.growth.generation
        [(template, version)] = template_versions(TEMPLATE_OF[self.growth.augment.method]).items()
        return {
            "selfsteer": __version__,
            "model": self.models.name,
            "weights": policy.fingerprint,
            "backend": settings.backend,
            "sampling": settings.sampling,
            "seed": self.growth.seed,
            "method": self.growth.augment.method,
            "template": f"{template} v{version}",
        } | ({"chat_template_kwargs": variables} if (variables := self.growth.model.chat_template_kwargs) else {})

    def _too_few(self, where: str) -> WorkFailed:
        last, dropped = self.growth.augment.patience, _counts(self.grown.dropped) or "nothing"
        return WorkFailed(
            f"only {self.grown.kept} of {self.count} queries: the last {last} rounds gave almost none; {where} "
            f"(dropped: {dropped})",
            where=str(self._dropped),
            do="check there what was dropped and why; more seeds, a larger model or a looser check give more",
        )


class _Sieve:
    """Parses answers, checks their queries, and writes kept and dropped ones."""

    def __init__(
        self, growth: Growth, seeds: Sequence[Source], grown: Grown, count: int, provenance: Row, kept: IO[str],
        dropped: IO[str],
    ) -> None:  # fmt: skip
        self.grown, self.count, self.provenance = grown, count, provenance
        self._kept, self._dropped = kept, dropped
        self._checks = Checks(growth.queries, grown.languages)
        self._seen = {content_hash(as_prompt(source.text)): source.id for source in seeds}
        for source in seeds:
            self._checks.remember(source.id, as_prompt(source.text))

    def take(self, ask: Ask, answer: Response | None) -> list[Source]:
        """Return the queries of an answer that pass the checks, and write as many of them as are still wanted."""
        if answer is None:
            reading = Reading("failed", why="no answer")
        else:
            reading = (read_list if ask.operation == "self-instruct" else read_one)(answer.text, answer.finish)
        _count(self.grown.outcomes, reading.outcome if answer else "unanswered")
        parents = [source.id for source in ask.sources]
        read = f"{reading.outcome}: {reading.why}" if reading.why else reading.outcome
        round = int(ask.id.partition("-")[0])
        origin = {
            "source": f"{GROWN}{ask.operation}",
            "provenance": self.provenance
            | {"operation": ask.operation, "seeds": parents, "depth": ask.depth, "round": round, "reading": read},
        }
        if answer and not reading.queries:
            self._drop(answer.text, Fault("unreadable", reading.why), origin)
        found = []
        for text in reading.queries:
            prompt, fault = as_prompt(text), grown_fault(text)
            source, content = Source(made_id(prompt), text, ask.depth, ask.parent), content_hash(prompt)
            if fault is None and content in self._seen:
                fault = Fault("duplicate", f"duplicate of {self._seen[content]}", {"of": self._seen[content]})
            apart = {one.id for one in source.ancestors if changed_words(text, one.text) >= _CHANGED}
            if fault := fault or self._checks.fault(source.id, prompt, apart):
                self._drop(text, fault, origin)
                continue
            self._seen[content] = source.id
            found.append(source)
            if self.grown.kept < self.count:
                self.grown.kept += 1
                _count(self.grown.operations, ask.operation)
                _write(self._kept, {"id": source.id, "prompt": text} | origin)
        return found

    def _drop(self, text: str, fault: Fault, origin: Row) -> None:
        _count(self.grown.dropped, fault.check)
        _write(self._dropped, {"prompt": text, "check": fault.check, "reason": fault.reason, **fault.found} | origin)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common())


def _write(file: IO[str], row: Row) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
