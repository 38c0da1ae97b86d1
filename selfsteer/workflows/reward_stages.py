"""The stages of `selfsteer reward`: pairs drawn, a model trained, a file scored."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from selfsteer.chat import tokenizer_fingerprint
from selfsteer.config.launch import LAUNCH_KEYS
from selfsteer.errors import ConfigError, NothingSurvived
from selfsteer.files import fingerprint, sha256_file, write_atomic
from selfsteer.jobs.launch import Launch, launch_of
from selfsteer.judges import Judge
from selfsteer.judges.loading import local_model
from selfsteer.judges.pair_datasets import PairSet, load_pairs
from selfsteer.judges.program import ProgramJudge, find_program
from selfsteer.reward.card import reward_card
from selfsteer.reward.data import (
    Examples,
    balanced,
    encoded,
    longer_chosen,
    mixed,
    prompt_key,
    with_margins,
    write_examples,
)
from selfsteer.reward.recipe import RewardRecipe, Trained
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.results import StageResult
from selfsteer.runs.store import Store, Workspace
from selfsteer.stages.judgements import judge_with_cache
from selfsteer.stages.resumable_training import MetricsLog
from selfsteer.workflows.reward_results import accuracy
from selfsteer.workflows.reward_sets import open_source
from selfsteer.workflows.reward_training import RewardResult, RewardTraining, metrics_log, result_of, trained_folder

MODELS = "models"
_CHANGES_NO_WEIGHT = {"save_steps"} | LAUNCH_KEYS
_SAID_BY_DATA = {"margin", "margin_scale", "length_balance", "max_length"}
"""They act through the examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsResult(StageResult):
    """The examples that a model is trained on: how many, of each set, left out by reason, with a steering margin.

    ``content`` names them, ``longer_chosen`` is the share whose chosen answer is the longer one.
    """

    examples: int
    content: str
    sets: dict[str, int] | None = None
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    longer_chosen: float | None = None
    with_margin: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyResult(StageResult):
    """Accuracy on a file's labelled pairs by subset, and how many rows could not be used, by reason."""

    subsets: Any
    left_out: dict[str, int]


class RewardStages:
    """The stages of one call, and what several of them need."""

    def __init__(self, recipe: RewardRecipe, store: Store) -> None:
        self.recipe, self.store = recipe, store
        for name in recipe.evaluate:
            if not Path(name).is_file():
                do = "give files of labelled preference pairs"
                raise ConfigError(f"no such file: {name}", where="evaluate", do=do)
        self.files = {name: sha256_file(Path(name)) for name in recipe.evaluate}
        self.sources = {name: open_source(name, settings) for name, settings in recipe.sets.items()}
        self._encoded: dict[str, Examples] = {}

    @cached_property
    def local(self) -> Any:
        """The base on this machine."""
        return local_model(self.recipe.hardware, self.recipe.model.name, "model.device")

    @cached_property
    def launch(self) -> Launch:
        """How trainings are started."""
        options = self.recipe.options
        if options.nodes > 1:
            what = "reward models are trained on one node"
            raise ConfigError(what, where="options.nodes", do="leave it out, or `selfsteer train` a job under torchrun")
        return launch_of(options, self.local.device, options.batch_size, "options")

    @property
    def _template_kwargs(self) -> dict[str, Any]:
        """The variables of the chat template, as a part of keys and cards; nothing where there are none."""
        kwargs = self.recipe.model.chat_template_kwargs
        return {"chat_template_kwargs": kwargs} if kwargs else {}

    @cached_property
    def max_length(self) -> int:
        """Tokens of a conversation: what the recipe allows, and the base's context."""
        from selfsteer.models.configs import model_config
        from selfsteer.models.rope import context_of

        context = context_of(model_config(self.local.source, **self.local.options))
        return min(self.recipe.options.max_length, context or self.recipe.options.max_length)

    @cached_property
    def evaluated(self) -> dict[str, PairSet]:
        """All pairs of the files to evaluate on, and what is none."""
        return {name: load_pairs(Path(name)) for name in self.recipe.evaluate}

    def check_model(self) -> None:
        """Raise :class:`InputError` where base, tokenizer and settings don't go together; no weights are read."""
        from selfsteer.models.configs import outline
        from selfsteer.policy.adapters import check_adapter
        from selfsteer.reward.loading import check_form

        local = self.local
        local.device  # noqa: B018  # raises where there is no such device
        local.chat  # noqa: B018  # its tokens are held against the embeddings
        options = self.recipe.options
        self.launch  # noqa: B018  # raises where processes and batch don't go together
        if options.lora and options.strategy not in ("auto", "single", "ddp"):
            what = f"an adapter is merged into the reward model, and {options.strategy} shards both"
            do = "leave options.strategy out, or train all weights (options.lora=null)"
            raise ConfigError(what, where="options.strategy", do=do)
        check_form(local.source)
        if self.recipe.options.lora:
            model = outline(local.source, outputs=1, **local.options)
            check_adapter(model, local.source, self.recipe.options.lora, where="options.lora", task="SEQ_CLS")

    # --- data

    def data_stage(self, one: Trained) -> StageRecord:
        """Draw a training's examples: tokenised, over-long and evaluated ones left out, weighted, balanced."""
        options, sets, names = self.recipe.options, self.recipe.sets, self.recipe.of_variant[one.variant]
        depends = {
            "sets": {
                name: {"content": self.sources[name].content, "weight": sets[name].weight, "limit": sets[name].limit}
                for name in names
            },
            "evaluate": self.files,
            "tokenizer": tokenizer_fingerprint(self.local.chat.tokenizer),
            "options": options.model_dump(include=_SAID_BY_DATA - {"max_length"}),
            "max_length": self.max_length,
            "seed": one.seed,
        } | self._template_kwargs

        return self.store.get_or_compute(
            "reward-data", 0, depends, partial(self._draw, one, names), part=str(one), folder="data", units=1,
            title=f"pairs of {one.variant}, seed {one.seed}", note=_note,
        )  # fmt: skip

    def _draw(self, one: Trained, names: Sequence[str], space: Workspace) -> tuple[list[Path], PairsResult]:
        options = self.recipe.options
        sets = {name: self._encode(name) for name in names}
        weights = {name: self.recipe.sets[name].weight for name in names}
        drawn = mixed({name: found.kept for name, found in sets.items()}, weights, one.seed)
        left_out = [*(item for found in sets.values() for item in found.left_out), *drawn.left_out]
        examples = drawn.kept
        if options.length_balance:
            even = balanced(examples, one.seed)
            examples, left_out = even.kept, left_out + even.left_out
        if not examples:
            reasons = collections.Counter(item.reason for item in left_out).most_common(3)
            why = ", ".join(f"{reason} ({count})" for reason, count in reasons) or "its sets are empty"
            what = f"no pair is left to train {one.variant} on: {why}"
            where = f"variant {one.variant}" + (f", first at {left_out[0].where}" if left_out else "")
            raise NothingSurvived(what, where=where, do="see what is left out, and change that")
        with_margin = sum(example.margin is not None for example in examples)
        examples = with_margins(examples, (options.margin_scale or 1.0) if options.margin == "steering" else None)
        paths = [space.path("examples.parquet"), space.path("left_out.jsonl")]
        write_examples(paths[0], examples)
        write_atomic(paths[1], "".join(json.dumps(vars(item), ensure_ascii=False) + "\n" for item in left_out))
        return paths, PairsResult(
            examples=len(examples),
            content=fingerprint([[ex.chosen_ids, ex.rejected_ids, ex.margin] for ex in examples]),
            sets=dict(collections.Counter(example.set for example in examples)),
            left_out=dict(collections.Counter(item.reason for item in left_out).most_common()),
            longer_chosen=longer_chosen(examples),
            with_margin=with_margin,
        )

    def _encode(self, name: str) -> Examples:
        """Return a set's examples; they are the same for every variant and seed."""
        if name not in self._encoded:
            prompts = frozenset(prompt_key(pair.prompt) for found in self.evaluated.values() for pair in found.pairs)
            self._encoded[name] = encoded(
                name, self.sources[name].pairs(), self.local.chat.template,
                max_length=self.max_length, evaluated=prompts, limit=self.recipe.sets[name].limit,
                model=self.recipe.model.name,
            )  # fmt: skip
        return self._encoded[name]

    def check_margins(self, data: Mapping[Trained, StageRecord]) -> None:
        """Raise where the steering margin is to weigh pairs, and no pair has one."""
        if self.recipe.options.margin == "steering" and not any(
            PairsResult.of(entry).with_margin for entry in data.values()
        ):
            what = "no pair of any set has a steering margin"
            do = "set options.margin to none, or take rows that a run with weights has scored"
            raise ConfigError(what, where="options.margin", do=do)

    # --- training

    def train_stage(self, one: Trained, data: StageRecord) -> StageRecord:
        """Train a model on drawn examples; what of the recipe does not change weights is not part of its key."""
        from selfsteer.models import model_fingerprint

        options = self.recipe.options
        depends = {
            "examples": data.info["content"],
            "options": options.model_dump(exclude=_CHANGES_NO_WEIGHT | _SAID_BY_DATA | {"precision"}),
            "precision": self.local.dtype,
            "model": model_fingerprint(self.local.source, **self.local.options),
            "tokenizer": tokenizer_fingerprint(self.local.chat.tokenizer),
            "seed": one.seed,
        }

        return self.store.get_or_compute(
            "reward", 0, depends, partial(self._train, one, data), part=str(one), folder=MODELS,
            units=PairsResult.of(data).examples * options.epochs, title=f"train {one.variant}, seed {one.seed}",
            note=lambda record: f": {RewardResult.of(record).steps} steps",
        )  # fmt: skip

    def _train(self, one: Trained, data: StageRecord, space: Workspace) -> tuple[list[Path], RewardResult]:
        """Return the folder with the model; resumes an interrupted training."""
        local, options = self.local, self.recipe.options
        training = RewardTraining(
            str(one), local.source, local.options, local.device, local.dtype, options, one.seed,
            str(self.store.files(data)[0]),
        )  # fmt: skip
        folder = trained_folder(training, space, self.launch)
        result = result_of(folder)
        write_atomic(folder / "README.md", self.card(one, data.info, result.info, {}))
        return [folder], result

    def log(self, one: Trained) -> MetricsLog:
        """Return the log of a training in metrics.jsonl."""
        return metrics_log(self.store.run_dir, str(one))

    def card(self, one: Trained, data: Any, training: Any, scores: Any) -> str:
        """Return the model card of a training."""
        recipe = self.recipe
        names = recipe.of_variant[one.variant]
        return reward_card(
            base_model=recipe.model.name, title=f"{recipe.name}: {one.variant}, seed {one.seed}",
            sets=[(name, recipe.sets[name], self.sources[name], data["sets"].get(name, 0)) for name in names],
            data=data, settings=recipe.options.model_dump() | {"seed": one.seed, **self._template_kwargs},
            training=training, scores=scores,
        )  # fmt: skip

    # --- scoring

    def score_stage(self, one: Trained, entry: StageRecord, name: str) -> StageRecord:
        """Score a file's pairs by a trained model, as `selfsteer judge FILE --judge reward:FOLDER` does."""

        def judge() -> Judge:
            from selfsteer.judges.reward import open_judge

            own = {"precision": "float32", "revision": None, "device": self.local.device}
            found = open_judge(self.recipe.hardware.model_copy(update=own), str(self.store.files(entry)[0]))
            found.name = f"{one} (reward)"
            return found

        return self._scored(
            str(one), {"model": entry.key} | self._template_kwargs, name, judge, f"score {name} by {one}"
        )

    def length_stage(self, name: str) -> StageRecord:
        """Score a file's pairs by length alone."""
        judge = partial(ProgramJudge, find_program("longer"))
        return self._scored("longer", {}, name, judge, f"score {name} by length")

    def _scored(self, who: str, depends: dict[str, Any], name: str, judge: Any, title: str) -> StageRecord:
        pairs = {"pairs": self.files[name], "limit": self.recipe.evaluate_limit}

        def write(space: Workspace) -> tuple[list[Path], AccuracyResult]:
            found = load_pairs(Path(name), limit=self.recipe.evaluate_limit)
            done = 0

            def progress(_: str, answered: int, total: int) -> None:
                nonlocal done
                space.display.advance((answered - done) / total)
                done = answered

            judged = judge_with_cache(judge(), found.pairs, self.store.run_dir / "answers", progress)
            path = space.path("scores.jsonl")
            lines = ({"id": j.pair.id, "subset": j.pair.subset, "label": j.pair.label, "difference": j.log_odds,
                      "outcome": j.outcome} for j in judged.judgements)  # fmt: skip
            write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            left_out = collections.Counter(item.reason for item in found.dropped)
            return [path], AccuracyResult(subsets=accuracy(judged.judgements), left_out=dict(left_out))

        return self.store.get_or_compute(
            "reward-scores", 0, depends | pairs, write, part=f"{who}:{name}", folder="scores", units=1, title=title
        )


def log_file(space: Workspace) -> Path:
    """Return where a training's lines of metrics.jsonl stay, for when its setting is put back."""
    return space.path("metrics.jsonl")


def _note(record: StageRecord) -> str:
    found = PairsResult.of(record)
    left_out = sum(found.left_out.values())
    first = f"{next(iter(found.left_out))}, ...; see data/*-left_out.jsonl" if left_out else ""
    return f": {found.examples}" + (f", {left_out} left out ({first})" if left_out else "")
