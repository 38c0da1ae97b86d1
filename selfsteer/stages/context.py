"""The stages that make data, each keyed by what it depends on: queries, principles, responses, scores, contrasts."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import HarmSettings, QuerySettings, Recipe, dump_recipe
from selfsteer.contrast import Request
from selfsteer.errors import ConfigError, InputError, NothingSurvived, did_you_mean
from selfsteer.evaluation.steerability import VerdictFn
from selfsteer.files import write_atomic
from selfsteer.principles import PrincipleSet, load_set, template_contents, template_versions
from selfsteer.principles.yaml_writer import dump_set
from selfsteer.quality import (
    DIRECTIONS,
    DropCounts,
    FilterChain,
    HarmClassifier,
    advice,
    direction_of,
    few_kept,
    flag_harm,
    parse_filters,
    steering_margin,
)
from selfsteer.queries import source_fingerprint
from selfsteer.records import (
    ROLES,
    Contrast,
    Query,
    Response,
    SteeredQuery,
    count_rows,
    is_full,
    read_columns,
    read_rows,
)
from selfsteer.report.fallbacks import all_fell_back, fallbacks_told
from selfsteer.runs.dropped import check_dropped_share, dropped_note
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.row_ranges import RowRange, row_ranges
from selfsteer.runs.shards import SHARD_ROWS, BatchResult, Dropped, ShardJob, ShardPlan, check_any_left, run_sharded
from selfsteer.runs.store import Store, Workspace, in_batches, stage_key
from selfsteer.seeding import batch_seed
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.principle_strategies import (
    acting_settings,
    needs_model,
    principled,
    refusal,
    templates_of,
    text_of,
)
from selfsteer.stages.queries import of_round, query_files, split_queries
from selfsteer.stages.responses import SHORTER, key_of, planned, sample
from selfsteer.stages.reward_margins import BATCH, RewardMargins, margins_of
from selfsteer.stages.round_stats import data_figures
from selfsteer.stages.scores import fitting, joined
from selfsteer.version import __version__

_SCORE_BATCH = 8
_CLASSIFIED = 32  # rows that a classifier of harm looks at together
Info = dict[str, Any]
PRINCIPLES = "principles.yaml"
"""The principle set in a run directory."""


@dataclasses.dataclass
class RunContext:
    """The data stages of one run; ``heldout`` stages write beside those of the training split."""

    recipe: Recipe
    principle_set: PrincipleSet
    store: Store
    models: ModelPool

    @classmethod
    def of(cls, recipe: Recipe, store: Store) -> RunContext:
        """Return the stages of a recipe in a run directory, with the principle set as the recipe steers by it."""
        found = load_set(recipe.principles.set)
        steering = recipe.principles.steering
        principle_set = found.model_copy(update={"steering": steering}) if steering else found
        return cls(recipe, principle_set, store, ModelPool(recipe, store.run_dir))

    @classmethod
    def of_run(cls, recipe: Recipe, store: Store) -> RunContext:
        """Return the stages over what a run has made, with the set that it was made by, whatever became of its file."""
        kept = store.run_dir / PRINCIPLES
        if kept.is_file():
            return cls(recipe, load_set(kept), store, ModelPool(recipe, store.run_dir))
        return cls.of(recipe, store)

    def keep_settings(self) -> None:
        """Write the recipe and the principle set into the run directory, for whoever reads its rows later."""
        write_atomic(self.store.run_dir / "recipe.yaml", dump_recipe(self.recipe))
        head = [f"The principle set of this run, as it was: {self.principle_set.fingerprint}."]
        write_atomic(self.store.run_dir / PRINCIPLES, dump_set(self.principle_set, head=head, notes={}))

    @property
    def direction(self) -> str | None:
        """Program that says which way y+ must differ from y-, None where neither recipe nor principle set names one.

        The set's says nothing of guidelines that were written without it.
        """
        own = None if self.recipe.principles.strategy == "guideline" else self.principle_set.direction
        return self.recipe.evaluation.direction or own

    def check_models(self) -> None:
        """Raise where a classifier of harm or a reward model to filter by can't be used; no weights are loaded."""
        _ = self._classifier, self._margins

    def check_programs(self) -> None:
        """Raise :class:`ConfigError` where recipe or principle set name a direction program that there is not."""
        for program in [self.direction, *(aspect.direction for aspect in self.principle_set.aspects)]:
            if program is not None and program not in DIRECTIONS:
                raise ConfigError(
                    f"unknown direction program {program!r}",
                    where="evaluation.direction, or the principle set",
                    do=did_you_mean(program, DIRECTIONS),
                )

    def program(self, row: Contrast) -> str | None:
        """Return the program that tells a row's direction: the recipe's, its only aspect's, or the set's."""
        return self.recipe.evaluation.direction or self.principle_set.direction_of(row.aspects)

    def teller(self, judged: Mapping[str, tuple[str, int]]) -> VerdictFn:
        """Return what says which response of a row is better: the row's program, else a judge's verdict.

        Args:
            judged: By row id, the judge's name and its verdict: 1 for y+, -1 for y-, 0 for neither.
        """

        def tell(row: Contrast) -> tuple[str, int] | None:
            program = self.program(row)
            return (program, direction_of(program, row)) if program else judged.get(row.id)

        return tell

    @property
    def filters(self) -> list[str | dict[str, Any]]:
        """The recipe's filters; a ``direction`` filter that names no program takes the run's."""
        return with_direction(self.recipe.quality.filters, self.direction)

    def chain(self) -> FilterChain:
        """Return the recipe's filters, not fitted yet, with what they need to know of the principle set."""
        known = self.principle_set
        return FilterChain(self.filters, adjectives=known.adjectives, harmful=known.harmful)

    def check_filters(self) -> None:
        """Refuse, before anything is paid for, filters by log-probs that the rows won't have."""
        scored = [step.name for step in parse_filters(self.filters) if step.scored]
        if self.models.weightless:
            what = f"the backend {self.recipe.generation.backend} has no weights to score with"
        elif self.recipe.preferences.source:
            what = "annotated preferences have no principles to score under"
        else:
            return
        if scored:
            raise ConfigError(
                f"{', '.join(scored)} go by log-probs, and {what}",
                where="quality.filters",
                do="take them out, for example quality.filters=[identical, leak]",
            )

    def queries(self) -> StageRecord:
        """Load and split the queries, once for all rounds.

        Raises:
            DataError: More rows can't be used than the recipe allows; or as :func:`split_queries`.
        """
        settings = self._query_settings
        sources = [settings.source, *([settings.heldout] if isinstance(settings.heldout, str) else [])]
        sources += [benchmark.source for benchmark in settings.decontaminate]
        depends = {
            "settings": settings.model_dump(exclude={"per_round", "round_size", "max_left_out"}),
            "content": [source_fingerprint(source) for source in sources],
            "seed": self.recipe.seed,
        }

        def note(info: Info) -> str:
            return f": {info['train']} to align on, {info['heldout']} held out{dropped_note(info)}"

        entry = self.store.get_or_compute(
            "queries", 1, depends, self._load, folder="round-01/queries", units=1, title="read queries", note=note
        )
        check_dropped_share(entry.info, "query", settings.source, settings.max_left_out)
        return entry

    def _load(self, space: Workspace) -> tuple[list[Path], Info]:
        return split_queries(space, self._query_settings, self.recipe.seed)

    @property
    def _query_settings(self) -> QuerySettings:
        """The recipe's; beside annotated preferences none of these queries is trained on, and the pairs are checked."""
        return self.recipe.queries.unchecked if self.recipe.preferences.source else self.recipe.queries

    def asked(self, queries: StageRecord, split: str, round: int) -> range:
        """Return which queries of a split are answered: of the training split, those of the round, by their positions.

        Raises:
            DataError: There are too few for the rounds of the recipe.
        """
        total = queries.info[split]
        train = split == "train"
        return of_round(self.recipe.queries, total, round, self.recipe.rounds) if train else range(total)

    def principles(
        self, queries: StageRecord, split: str, round: int, policy: Policy, *, reader: Policy | None = None
    ) -> StageRecord:
        """Choose aspects for each query of a split, give it its principles and write its two steered prompts.

        Args:
            queries: The stage before.
            split: "train" or "heldout".
            round: Where it belongs.
            policy: Who chooses, and answers the prompts.
            reader: Who is trained on them where that is another: they have to suit its template too.
        """
        asked = self.asked(queries, split, round)
        settings = acting_settings(self.recipe, self.principle_set)
        depends = {
            "queries": [queries.key, split],
            "settings": settings,
            "thoughts": self._thinking_tokens(policy),
            "set": self.principle_set.fingerprint,
            "templates": template_contents(*templates_of(self.recipe)),
            "seed": self.recipe.seed,
        } | self._writer(policy)
        if split == "train" and self.recipe.queries.per_round != "all":
            depends["asked"] = [self.recipe.queries.per_round, asked.start, asked.step, self.recipe.queries.round_size]
        if settings.get("choice_temperature"):
            depends["top_p"] = self.recipe.generation.top_p
        seed = self.recipe.seed
        if split == "train" and round > 1 and self.recipe.principles.per_round == "redrawn":
            depends["drawn"] = round
            seed = batch_seed(seed, "principles", round)
        readers = [policy, reader] if reader is not None and reader != policy else [policy]
        if len(readers) > 1:
            depends["reader"] = readers[1].fingerprint
        parts = row_ranges(query_files(self.store.files(queries), split, queries.info["heldout"]), asked)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            paths, info = run_sharded(space, len(parts), self._writing(parts, policy, readers, seed))
            check_any_left(paths, info, len(asked), "query")
            return paths, info | chosen(paths)

        def note(info: Info) -> str:
            written = [counted(info["writings"])] if info["writings"].keys() - {"fixed"} else []
            fell_back = fallbacks_told(info["choices"], info["writings"])
            whole = "warning: " if all_fell_back(info["choices"], info["writings"]) else ""
            told = "; ".join(filter(None, [*written, *fell_back, dropped_note(info).removeprefix(", ")]))
            return f": {whole}{told}" if told else ""

        what = "choose aspects" if self.recipe.principles.strategy == "fixed" else "write principles"
        entry = self.store.get_or_compute(
            "principles", round, depends, write, folder=stage_folder(split, round, "principles"),
            units=len(asked), title=stage_title(what, split, round), note=note,
        )  # fmt: skip
        self._check_left_out(entry, len(asked))
        return entry

    def _check_left_out(self, entry: StageRecord, rows: int) -> None:
        settings = self.recipe.queries
        check_dropped_share(entry.info, "query", settings.source, settings.max_left_out, rows)

    def _writing(
        self, parts: Sequence[RowRange], policy: Policy, readers: Sequence[Policy], seed: int
    ) -> ShardJob[Query, SteeredQuery]:
        """Return how the aspects and principles of blocks of queries are planned and done."""
        chats = [chat for chat in map(self.models.chat, readers) if chat]
        backend, writer = self.models.writing_backend(policy), self.models.writer
        asked = writer.batch if writer else self._batch(policy)
        size = asked if needs_model(self.recipe, self.principle_set) else SHARD_ROWS

        def plan(number: int) -> ShardPlan[Query]:
            rows = list(read_rows([parts[number].path], Query))[parts[number].rows]
            refused = {query.id: reason for query in rows if (reason := refusal(query, chats))}
            self.store.display.advance(len(refused))
            ordered = sorted(
                (query for query in rows if query.id not in refused),
                key=lambda query: (backend.length([{"role": "user", "content": text_of(query)}]), query.id),
            )
            return ShardPlan(in_batches(ordered, size), [Dropped(*reason) for reason in refused.items()])

        def do(_: int, batch: Sequence[Query]) -> BatchResult[SteeredQuery]:
            return principled(self.recipe, self.principle_set, backend, chats, batch, seed)

        return ShardJob(SteeredQuery, plan, do, failed=writer.failed if writer else self.failed)

    def responses(
        self,
        principles: StageRecord,
        split: str,
        round: int,
        policy: Policy,
        *,
        roles: Sequence[str] = ROLES,
        limit: int | None = None,
    ) -> StageRecord:
        """Sample responses for each row; rows whose prompts don't fit are left out and named.

        Args:
            principles: The stage before.
            split: "train", "heldout", or "generator" for what a generator is trained on.
            round: Where it belongs.
            policy: Who answers.
            roles: Which responses: y+, y- and yo, or y+ and y- alone.
            limit: Answer the first so many rows.
        """
        settings = self.recipe.generation
        depends = {
            "principles": principles.key,
            "sampling": [settings.temperature, settings.top_p, settings.max_new_tokens],
            "limit": None if policy.weightless else self.recipe.train.max_length,
            "seed": self.recipe.seed,
            "round": round,
            "roles": list(roles),
            "rows": limit,
        } | self.engine(policy)
        if settings.own_drawings:
            depends["own_sampling"] = settings.own_drawings
        files = self.store.files(principles)
        parts = row_ranges(files, range(sum(map(count_rows, files)) if limit is None else limit))
        rows = sum(part.size for part in parts)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            sampling = self._sampling(parts, policy, roles, split, round)
            paths, info = run_sharded(space, len(parts), sampling)
            check_any_left(paths, info, rows, "query")
            return paths, info | counted_tokens(paths)

        def note(info: Info) -> str:
            return dropped_note(info).replace(",", ":", 1)

        entry = self.store.get_or_compute(
            stage_name("responses", split), round, depends, write, folder=stage_folder(split, round, "responses"),
            units=len(roles) * rows, title=stage_title("sample responses", split, round), note=note,
        )  # fmt: skip
        self._check_left_out(entry, rows)
        return entry

    def _sampling(
        self, parts: Sequence[RowRange], policy: Policy, roles: Sequence[str], split: str, round: int
    ) -> ShardJob[Request, Response]:
        """Return how the requests of blocks of rows are planned and done."""
        size = self._batch(policy)
        backend = self.models.backend(policy)

        def plan(number: int) -> ShardPlan[Request]:
            rows = list(read_rows([parts[number].path], SteeredQuery))[parts[number].rows]
            items, reasons = planned(rows, backend, self.recipe, roles)
            self.store.display.advance(len(roles) * len(reasons))
            return ShardPlan(in_batches(items, size), [Dropped(*reason, SHORTER) for reason in reasons.items()])

        def do(number: int, batch: Sequence[Request]) -> BatchResult[Response]:
            seed = batch_seed(self.recipe.seed, "responses", split, round, number)
            return sample(self.recipe, backend, batch, seed)

        return ShardJob(
            Response,
            plan,
            do,
            item_key=key_of,
            row_key=key_of,
            per_block=-(-len(roles) * SHARD_ROWS // size),
            failed=self.failed,
        )

    def scores(
        self,
        principles: StageRecord,
        responses: StageRecord,
        split: str,
        round: int,
        policy: Policy,
        *,
        roles: Sequence[str] = ROLES,
        scorer: Policy | None = None,
    ) -> StageRecord:
        """Join, clean and score the rows: every response under every prompt.

        Args:
            principles, responses: The stages before.
            split, round: As for the responses.
            policy: Who wrote the responses.
            roles: Which responses a row has.
            scorer: Who scores them: the policy that is to be trained (default: who wrote them).
        """
        judge = scorer or policy
        depends = {
            "responses": responses.key,
            "clean": self.recipe.quality.clean,
            "thinking": self.recipe.generation.thinking,
        } | self.scoring(judge)
        # Where the last rows were not asked for, there are more files of principles than of responses.
        sources = list(zip(self.store.files(principles), self.store.files(responses), strict=False))

        def join(number: int) -> list[Contrast]:
            return self._joined(*sources[number], round, policy, roles)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            paths, info = run_sharded(space, len(sources), self._scoring(join, judge))
            check_any_left(paths, info, info["left_out"] + sum(map(count_rows, paths)), "query")
            return paths, info | {"figures": data_figures(read_rows(paths, Contrast))}

        rows: int = responses.info["responses"] // len(roles)
        entry = self.store.get_or_compute(
            stage_name("scores", split), round, depends, write, folder=stage_folder(split, round, "scores"),
            units=rows, title=stage_title("clean and score", split, round), note=dropped_note,
        )  # fmt: skip
        self._check_left_out(entry, rows)
        return entry

    def _scoring(self, join: Callable[[int], list[Contrast]], judge: Policy) -> ShardJob[Contrast, Contrast]:
        """Return how blocks of rows are scored: ``join`` gives the rows of a block, ``judge`` their log-probs."""
        scorer = self.models.scorer(judge)

        def plan(number: int) -> ShardPlan[Contrast]:
            rows = join(number)
            fits, left_out = (rows, []) if scorer is None else fitting(rows, scorer.chat, self.recipe)
            return ShardPlan(in_batches(fits, _SCORE_BATCH if scorer else SHARD_ROWS), left_out)

        def do(_: int, batch: Sequence[Contrast]) -> BatchResult[Contrast]:
            scored = {row.id: row for row in scorer.score(list(filter(is_full, batch)))} if scorer else {}
            return BatchResult([scored.get(row.id, row) for row in batch])

        return ShardJob(Contrast, plan, do)

    def contrasts(self, scores: StageRecord, round: int, split: str = "train") -> StageRecord:
        """Filter the scored rows; every dropped row is kept with its reason.

        Args:
            scores: The stage before.
            round: Where it belongs.
            split: "train", or "generator" for what a generator is trained on.

        Raises:
            NothingSurvived: No row is kept. The rows are on disk, and no result of the stage is recorded.
        """
        judged = self.rewards(scores, round, split)
        files, classifier = self.store.files(judged), self._classifier
        depends = {
            "scores": scores.key,
            "filters": self.filters,
            "files": {step.name: step.content for step in parse_filters(self.filters) if step.content},
            "set": self.principle_set.fingerprint,
            "harmful": self.principle_set.harmful,
            "classifier": classifier and classifier.key,
        } | ({} if judged is scores else {"rewards": judged.key})
        size = _CLASSIFIED if classifier else SHARD_ROWS

        def write(space: Workspace) -> tuple[list[Path], Info]:
            chain = self._fitted(files)

            def plan(number: int) -> ShardPlan[Contrast]:
                return ShardPlan(in_batches(list(read_rows([files[number]], Contrast)), size))

            def do(_: int, batch: Sequence[Contrast]) -> BatchResult[Contrast]:
                rows = flag_harm(batch, self.principle_set.harmful, classifier)
                return BatchResult([chain.apply(with_margin(row)) for row in rows])

            paths, _ = run_sharded(space, len(files), ShardJob(Contrast, plan, do))
            chain.count(read_columns(paths, TALLIED))  # on disk: a resumed stage has not seen all rows
            return paths, self._checked(chain, paths[0])

        title = stage_title("quality control", split, round)
        entry = self.store.get_or_compute(
            stage_name("contrasts", split), round, depends, write, folder=stage_folder(split, round, "contrasts"),
            units=sum(map(count_rows, files)), title=title,
            note=lambda info: f": {describe_counts(info['counts'])}",
        )  # fmt: skip
        if few := few_kept(entry.info["counts"]):
            self.store.display.say(f"{title}: {few}")
        return entry

    def rewards(self, scores: StageRecord, round: int, split: str) -> StageRecord:
        """Put the margin of the filters' reward model into the rows; ``scores`` itself where no filter goes by one."""
        margins, files = self._margins, self.store.files(scores)
        if margins is None:
            return scores

        def write(space: Workspace) -> tuple[list[Path], Info]:
            self.models.free()

            def plan(number: int) -> ShardPlan[Contrast]:
                return ShardPlan(in_batches(list(read_rows([files[number]], Contrast)), BATCH))

            paths, info = run_sharded(
                space, len(files), ShardJob(Contrast, plan, lambda _, batch: BatchResult(margins.put(batch)))
            )
            margins.free()
            return paths, info

        return self.store.get_or_compute(
            stage_name("rewards", split), round, self._reward_depends(scores, margins), write,
            folder=stage_folder(split, round, "rewards"), units=sum(map(count_rows, files)),
            title=stage_title("ask the reward model", split, round),
        )  # fmt: skip

    def _reward_depends(self, scores: StageRecord, margins: RewardMargins) -> dict[str, Any]:
        return {"scores": scores.key, "reward": margins.key}

    def try_filters(self, scores: StageRecord) -> Info:
        """Return what :meth:`contrasts` would record, and write nothing; no classifier and no reward model is asked.

        Raises:
            InputError: A filter goes by a reward model that was not asked about these rows yet.
        """
        entry = scores
        if self._margins:
            key = stage_key("rewards", self._reward_depends(scores, self._margins))
            found = self.store.ledger.find("rewards", scores.round, key)
            if found is None:
                what = "a dry run asks no model, and the reward model of reward_margin was not asked about these rows"
                do = "leave --dry-run out; its margins are kept, so that every later filter run finds them"
                raise InputError(what, where=f"round {scores.round}", do=do)
            entry = found
        files = self.store.files(entry)
        chain = self._fitted(files)
        for row in read_rows(files, Contrast):
            chain.apply(*flag_harm([row], self.principle_set.harmful))
        chain.finish()
        return quality_info(chain.tally, chain.thresholds)

    def _fitted(self, files: Sequence[Path]) -> FilterChain:
        chain = self.chain()
        chain.fit(lambda: read_rows(files, Contrast))
        return chain

    def _checked(self, chain: FilterChain, file: Path) -> Info:
        chain.finish()
        info = quality_info(chain.tally, chain.thresholds)
        counts = info["counts"]
        if not counts["kept"]:
            raise NothingSurvived(
                f"quality control kept no row of {info['total']} ({describe_counts(counts)})",
                where=str(file.relative_to(self.store.run_dir)),
                do=advice(counts),
            )
        return info

    @cached_property
    def _classifier(self) -> HarmClassifier | None:
        return classifier_of(self.recipe.quality.harm, self.recipe.model.device)

    @cached_property
    def _margins(self) -> RewardMargins | None:
        return margins_of(self.filters, self.recipe.quality.reward, self.recipe.model.device)

    def scoring(self, policy: Policy) -> dict[str, Any]:
        """What scores depend on besides the rows: weights, precision, length limit; None without weights."""
        if policy.weightless:
            return {"scorer": None, "lengths": "words"}  # no tokens: the figures count words
        precision = self.models.precision(self.recipe.train.precision)
        return {"scorer": [policy.fingerprint, precision, self.recipe.train.max_length]}

    @property
    def failed(self) -> Literal["stop", "drop"]:
        """What becomes of requests that fail to the last."""
        return self.recipe.generation.endpoint.failed

    def _thinking_tokens(self, policy: Policy) -> int:
        """Tokens for the thoughts of whoever chooses aspects or writes principles; 0 where none of them may think."""
        writer = self.models.writer
        asked = needs_model(self.recipe, self.principle_set)
        thinks = asked and (writer.may_think if writer else self.models.may_think(policy))
        return self.recipe.thinking_tokens if thinks else 0

    def _writer(self, policy: Policy) -> dict[str, Any]:
        """What principles depend on besides the queries: who writes them, and for which form of prompt."""
        writer = self.models.writer
        # A plan may be made for a model that is not on this machine; it has no fingerprint, and no template to read.
        chat = self.models.chat(policy) if policy.fingerprint else None
        if writer is None:
            return self.engine(policy)
        role = chat.system_role if chat else "native"
        return {"writer": [writer.backend, writer.fingerprint, writer.batch], "system_role": role}

    def engine(self, policy: Policy) -> dict[str, Any]:
        """What sampled texts depend on besides the requests."""
        return {"engine": self.models.sampling_key(policy)}

    def _batch(self, policy: Policy) -> int:
        return self.recipe.generation.batch_of(policy.backend)

    def _joined(
        self, principles: Path, responses: Path, round: int, policy: Policy, roles: Sequence[str]
    ) -> list[Contrast]:
        """Return the rows of a block that have all their responses."""
        found: Mapping[tuple[str, str], Response] = {
            (response.id, response.role): response for response in read_rows([responses], Response)
        }
        rows = read_rows([principles], SteeredQuery)
        chat = self.models.chat(policy)
        return joined(
            [row for row in rows if all((row.id, role) in found for role in roles)],
            found,
            roles=roles,
            principle_set=self.principle_set if self.recipe.quality.clean else None,
            chat=chat,
            thinking_apart=self.recipe.generation.thinking == "apart",
            round=round,
            provenance=self._provenance(policy, chat.fingerprint if chat else ""),
        )

    def _provenance(self, policy: Policy, tokenizer: str) -> dict[str, str]:
        settings, principles, writer = self.recipe.generation, self.principle_set, self.models.writer
        variables = self.recipe.model.chat_template_kwargs
        versions = template_versions(*templates_of(self.recipe))
        return {
            "selfsteer": __version__,
            "backend": policy.backend,
            "model": policy.name,
            "weights": policy.fingerprint,
            "tokenizer": tokenizer,
            "sampling": settings.sampling,
            "principle_set": f"{principles.name} v{principles.version} {principles.fingerprint}",
            "strategy": self.recipe.principles.strategy,
            "writer": f"{writer.name} {writer.fingerprint}" if writer else "the policy",
            "templates": ", ".join(f"{name} v{version}" for name, version in versions.items()),
            "seed": str(self.recipe.seed),
        } | ({"chat_template_kwargs": json.dumps(variables, sort_keys=True)} if variables else {})


TALLIED = ("kept", "drop_reason", "aspects", "negative_harmful")
"""The columns that a tally of stored rows reads."""


def quality_info(tally: DropCounts, thresholds: Mapping[str, float]) -> Info:
    """Return what quality control did, for the ledger."""
    counts = tally.counts
    return {
        "total": sum(counts.values()),
        "counts": counts,
        "order": list(counts),  # JSON objects are written with their keys sorted
        "thresholds": dict(thresholds),
        "aspects": tally.aspects,
        "harmful": tally.harmful,
    }


def with_direction(filters: Sequence[str | dict[str, Any]], program: str | None) -> list[str | dict[str, Any]]:
    """Return filters in which a ``direction`` that names no program takes this one."""
    if program is None:
        return list(filters)
    return [
        {"direction": {"program": program, **(spec["direction"] or {} if isinstance(spec, dict) else {})}}
        if spec == "direction" or (isinstance(spec, dict) and "direction" in spec)
        else spec
        for spec in filters
    ]


def classifier_of(harm: HarmSettings | None, device: str) -> HarmClassifier | None:
    """Return the classifier of harm that a recipe names; ``device`` may be "auto"."""
    if harm is None:
        return None
    from selfsteer.models import pick_device

    found = pick_device() if device == "auto" else device
    return HarmClassifier(harm.classifier, harm.label, harm.threshold, device=found, revision=harm.revision)


def with_margin(row: Contrast) -> Contrast:
    """Return a row with its steering margin in the column for it, None where it has no scores."""
    return dataclasses.replace(row, steering_margin=steering_margin(row))


def chosen(paths: Sequence[Path]) -> Info:
    """Return how often each aspect was chosen, how the choices were made, and how the principles came about."""
    aspects: Counter[str] = Counter()
    choices: Counter[str] = Counter()
    writings: Counter[str] = Counter()
    for names, choice, outcome in read_columns(paths, ["aspects", "choice", "writing"]):
        aspects.update(names)
        choices[choice] += 1
        writings[outcome] += 1
    return {"aspects": dict(aspects), "choices": dict(choices), "writings": dict(writings)}


def counted_tokens(paths: Sequence[Path]) -> Info:
    """Return how many responses there are, how many were cut off, and their sampled tokens (None without tokens)."""
    responses = cut = tokens = 0
    for count, ids in read_columns(paths, ["finish", "token_ids"]):
        responses += 1
        cut += count == "length"
        tokens += len(ids or ())
    return {"responses": responses, "cut": cut, "tokens": tokens or None}


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return "24 kept; dropped: direction 12, leak 1"."""
    drops = counted({name: count for name, count in counts.items() if name != "kept" and count})
    return f"{counts['kept']} kept" + (f"; dropped: {drops}" if drops else "")


def counted(counts: Mapping[str, int]) -> str:
    """Return "direction 12, leak 1"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def stage_name(stage: str, split: str) -> str:
    """Return a stage's name in the ledger; the data that a generator is trained on have names of their own."""
    return f"generator-{stage}" if split == "generator" else stage


def stage_folder(split: str, round: int, stage: str) -> str:
    """Return where a stage writes, relative to the run directory."""
    return f"round-{round:02d}/{'' if split == 'train' else f'{split}/'}{stage}"


def stage_title(what: str, split: str, round: int) -> str:
    """Return what a stage is called while it works."""
    if split != "heldout":
        return f"{what}{' for the generator' if split == 'generator' else ''}, round {round}"
    return f"{what}, held-out, {'before' if round == 0 else f'after round {round}'}"
