"""The stages that make data, each keyed by what it depends on: queries, principles, responses, scores, contrasts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import selfsteer
from selfsteer.config import Recipe
from selfsteer.contrast import requests
from selfsteer.errors import ConfigError, DataError, NothingSurvived, did_you_mean
from selfsteer.evaluation.measures import is_full
from selfsteer.evaluation.probe import Tell
from selfsteer.loop import work
from selfsteer.loop.ledger import Entry
from selfsteer.loop.models import Models, Policy
from selfsteer.loop.store import Store, Workspace, in_batches
from selfsteer.principles import PrincipleSet, template_versions
from selfsteer.quality import DIRECTIONS, advice, apply_filters, direction_of
from selfsteer.queries import load_queries, source_fingerprint
from selfsteer.records import Contrast, Principled, Query, Response, write_rows

_SCORE_BATCH = 8
Info = dict[str, Any]


@dataclasses.dataclass
class DataStages:
    """The data stages of one run; ``heldout`` stages write beside those of the training split."""

    recipe: Recipe
    principle_set: PrincipleSet
    store: Store
    models: Models

    @property
    def direction(self) -> str | None:
        """Program that says which way y+ must differ from y-, None where neither recipe nor principle set names one."""
        return self.recipe.evaluation.direction or self.principle_set.direction

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

    def teller(self, judged: Mapping[str, tuple[str, int]]) -> Tell:
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
        if self.direction is None:
            return self.recipe.quality.filters
        return [
            {"direction": {"program": self.direction, **(spec["direction"] if isinstance(spec, dict) else {})}}
            if spec == "direction" or (isinstance(spec, dict) and "direction" in spec)
            else spec
            for spec in self.recipe.quality.filters
        ]

    def queries(self) -> Entry:
        """Load and split the queries, once for all rounds."""
        settings = self.recipe.queries
        sources = [settings.source, *([settings.heldout] if isinstance(settings.heldout, str) else [])]
        depends = {
            "settings": settings.model_dump(),
            "content": [source_fingerprint(source) for source in sources],
            "seed": self.recipe.seed,
        }

        def note(info: Info) -> str:
            left_out = f", {len(info['dropped'])} left out" if info["dropped"] else ""
            return f": {info['train']} to align on, {info['heldout']} held out{left_out}"

        return self.store.stage(
            "queries", 1, depends, self._load, folder="round-01/queries", units=1, title="read queries", note=note
        )

    def _load(self, space: Workspace) -> tuple[list[Path], Info]:
        settings = self.recipe.queries
        loaded = load_queries(
            settings.source, field=settings.field, limit=settings.limit, dataset_split=settings.dataset_split
        )
        dropped = [(drop.where, drop.reason) for drop in loaded.dropped]
        if isinstance(settings.heldout, str):
            apart = load_queries(settings.heldout, split="heldout", limit=settings.heldout_limit)
            dropped += [(drop.where, drop.reason) for drop in apart.dropped]
            held = apart.queries
            ids = {query.id for query in held}
            dropped += [(query.id, "is a held-out query too") for query in loaded.queries if query.id in ids]
            train = [query for query in loaded.queries if query.id not in ids]
        else:
            train, held = work.split_off(loaded.queries, settings.heldout, self.recipe.seed)
        if not train:
            raise DataError(
                "every query is held out", where="queries.heldout", do="hold out fewer, or give more queries"
            )
        path = space.path("queries.parquet")
        write_rows(path, Query, [*train, *held])
        info = {"read": len(loaded.queries) + len(loaded.dropped), "train": len(train), "heldout": len(held)}
        return [path], info | {"dropped": [{"where": where, "reason": reason} for where, reason in dropped]}

    def principles(self, queries: Entry, split: str, round: int, policy: Policy) -> Entry:
        """Choose aspects for each query of a split and write its two steered prompts."""
        rows = [query for query in self.store.read(queries, Query) if query.split == split]
        depends = {
            "queries": [queries.key, split],
            "settings": self.recipe.principles.model_dump(exclude={"below_chance"}),
            "set": self.principle_set.fingerprint,
            "templates": template_versions(),
            "seed": self.recipe.seed,
        } | self._engine(policy)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            backend = self.models.backend(policy)
            ordered = sorted(rows, key=lambda query: (backend.length(query.prompt), query.id))
            plan = in_batches(ordered, self.recipe.generation.batch_size)
            paths = space.batches(
                Principled, plan, lambda _, batch: work.principled(self.recipe, self.principle_set, backend, batch)
            )
            return paths, {}

        entry = self.store.stage(
            "principles", round, depends, write, folder=stage_folder(split, round, "principles"), units=len(rows),
            title=stage_title("choose aspects", split, round),
        )  # fmt: skip
        found = self.store.read(entry, Principled)
        aspects = Counter(name for row in found for name in row.aspects)
        return dataclasses.replace(
            entry, info={"aspects": dict(aspects), "choices": dict(Counter(row.choice for row in found))}
        )

    def responses(self, principles: Entry, split: str, round: int, policy: Policy) -> Entry:
        """Sample y+, y- and yo for each row; rows whose prompts don't fit are left out and named."""
        rows = self.store.read(principles, Principled)
        settings = self.recipe.generation
        depends = {
            "principles": principles.key,
            "sampling": [settings.temperature, settings.top_p, settings.max_new_tokens],
            "limit": None if self.models.scripted else self.recipe.train.max_length,
            "seed": self.recipe.seed,
            "round": round,
        } | self._engine(policy)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            backend = self.models.backend(policy)
            reasons = {row.id: work.too_long(row, backend, self.recipe) for row in rows}
            fitting = [row for row in rows if not reasons[row.id]]
            dropped = [{"where": name, "reason": reason} for name, reason in reasons.items() if reason]
            if not fitting:
                raise DataError(
                    f"no prompt fits: {dropped[0]['reason']}",
                    where=f"query {dropped[0]['where']} and {len(dropped) - 1} more",
                    do="lower generation.max_new_tokens or raise train.max_length",
                )
            self.store.display.advance(3 * len(dropped))
            plan = in_batches(work.plan_order(requests(fitting), backend), settings.batch_size)
            seeds = [
                work.batch_seed(self.recipe.seed, "responses", split, round, number) for number in range(len(plan))
            ]
            return space.batches(
                Response, plan, lambda number, batch: work.sample(self.recipe, backend, batch, seeds[number])
            ), {"dropped": dropped}

        def note(info: Info) -> str:
            return f": {len(info['dropped'])} queries do not fit and are left out" if info["dropped"] else ""

        return self.store.stage(
            "responses", round, depends, write, folder=stage_folder(split, round, "responses"), units=3 * len(rows),
            title=stage_title("sample responses", split, round), note=note,
        )  # fmt: skip

    def scores(self, principles: Entry, responses: Entry, split: str, round: int, policy: Policy) -> Entry:
        """Join, clean and score the rows: every response under every prompt, by the policy that wrote them."""
        depends = {
            "responses": responses.key,
            "clean": self.recipe.quality.clean,
        } | self.scoring(policy)

        def write(space: Workspace) -> tuple[list[Path], Info]:
            scorer = self.models.scorer(policy)
            plan = in_batches(self._joined(principles, responses, round, policy), _SCORE_BATCH)

            def score(_: int, batch: Sequence[Contrast]) -> list[Contrast]:
                scored = {row.id: row for row in scorer.score(list(filter(is_full, batch)))} if scorer else {}
                return [scored.get(row.id, row) for row in batch]

            return space.batches(Contrast, plan, score), {}

        left_out = {drop["where"] for drop in responses.info["dropped"]}
        rows = [row for row in self.store.read(principles, Principled) if row.id not in left_out]
        return self.store.stage(
            "scores", round, depends, write, folder=stage_folder(split, round, "scores"), units=len(rows),
            title=stage_title("clean and score", split, round),
        )  # fmt: skip

    def contrasts(self, scores: Entry, round: int) -> Entry:
        """Filter the scored rows; every dropped row is kept with its reason."""
        depends = {
            "scores": scores.key,
            "filters": self.filters,
            "set": self.principle_set.fingerprint,
        }

        def write(space: Workspace) -> tuple[list[Path], Info]:
            adjectives = {a.name: (a.positive, a.negative) for a in self.principle_set.aspects}
            report = apply_filters(self.store.read(scores, Contrast), self.filters, adjectives=adjectives)
            path = space.path("contrasts.parquet")
            write_rows(path, Contrast, report.rows)
            self.store.display.advance()
            return [path], {"total": len(report.rows), "counts": report.counts, "thresholds": report.thresholds}

        entry = self.store.stage(
            "contrasts", round, depends, write, folder=f"round-{round:02d}/contrasts", units=1,
            title=stage_title("quality control", "train", round),
            note=lambda info: f": {describe_counts(info['counts'])}",
        )  # fmt: skip
        if not entry.info["counts"]["kept"]:
            raise NothingSurvived(
                f"quality control kept no row of {entry.info['total']} ({describe_counts(entry.info['counts'])})",
                where=entry.files[0],
                do=advice(entry.info["counts"]),
            )
        return entry

    def scoring(self, policy: Policy) -> dict[str, Any]:
        """What scores depend on besides the rows: weights, precision, length limit; None for the scripted backend."""
        if self.models.scripted:
            return {"scorer": None}
        precision = self.models.precision(self.recipe.train.precision)
        return {"scorer": [policy.fingerprint, precision, self.recipe.train.max_length]}

    def _engine(self, policy: Policy) -> dict[str, Any]:
        settings = self.recipe.generation
        precision = None if self.models.scripted else self.models.precision(settings.precision)
        return {"engine": [settings.backend, policy.fingerprint, precision, settings.batch_size]}

    def _joined(self, principles: Entry, responses: Entry, round: int, policy: Policy) -> list[Contrast]:
        found: Mapping[tuple[str, str], Response] = {
            (response.id, response.role): response for response in self.store.read(responses, Response)
        }
        rows = [row for row in self.store.read(principles, Principled) if (row.id, "original") in found]
        chat = self.models.chat(policy)
        return work.joined(
            rows,
            found,
            principle_set=self.principle_set if self.recipe.quality.clean else None,
            chat=chat,
            round=round,
            provenance=self._provenance(policy, chat.fingerprint if chat else ""),
        )

    def _provenance(self, policy: Policy, tokenizer: str) -> dict[str, str]:
        settings, principles = self.recipe.generation, self.principle_set
        return {
            "selfsteer": selfsteer.__version__,
            "backend": settings.backend,
            "model": self.recipe.model.name if policy.round == 0 else f"{self.recipe.name}, round {policy.round}",
            "weights": policy.fingerprint,
            "tokenizer": tokenizer,
            "sampling": f"temperature {settings.temperature}, top_p {settings.top_p}, {settings.max_new_tokens} tokens",
            "principle_set": f"{principles.name} v{principles.version} {principles.fingerprint}",
            "templates": ", ".join(f"{name} v{version}" for name, version in template_versions().items()),
            "seed": str(self.recipe.seed),
        }


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return "24 kept; dropped: direction 12, leak 1"."""
    drops = ", ".join(f"{name} {count}" for name, count in counts.items() if name != "kept" and count)
    return f"{counts['kept']} kept" + (f"; dropped: {drops}" if drops else "")


def stage_folder(split: str, round: int, stage: str) -> str:
    """Return where a stage writes, relative to the run directory."""
    return f"round-{round:02d}/{'' if split == 'train' else 'heldout/'}{stage}"


def stage_title(what: str, split: str, round: int) -> str:
    """Return what a stage is called while it works."""
    if split == "train":
        return f"{what}, round {round}"
    return f"{what}, held-out, {'before' if round == 0 else f'after round {round}'}"
