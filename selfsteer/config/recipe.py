"""The recipe: one typed tree, read from YAML with dotted overrides. Unknown keys are errors with a suggestion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfsteer.backends.registry import BACKENDS
from selfsteer.config.base import NAME, Section, Seed, conflict
from selfsteer.config.generation import VLLM_TEMPERATURES, GenerationSettings, ModelSettings, RaySettings
from selfsteer.config.guards import GuardSettings
from selfsteer.config.judge import EvaluationSettings, JudgeSettings
from selfsteer.config.principles import PrincipleSettings
from selfsteer.config.quality import QualitySettings
from selfsteer.config.queries import PreferenceSettings, QuerySettings
from selfsteer.config.train import DISTILLATION, WITHOUT_PREFERENCES, GeneratorSettings, TrainSettings, per_token
from selfsteer.limits import MAX_ROUNDS


class Recipe(Section):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=NAME)] = "run"
    mode: Literal["online", "generator", "offline", "data-only"] = "online"
    """Who writes the data: the newest policy (v1); a generator trained from it (v2); any model, once; no training."""
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = 1
    seed: Seed = 0
    executor: Literal["local", "ray"] = "local"
    """Where models sample and score, and filters run: on this machine, or in a Ray cluster. Rows don't depend on it."""
    ray: RaySettings = RaySettings()
    model: ModelSettings = ModelSettings()
    queries: QuerySettings = QuerySettings()
    preferences: PreferenceSettings = PreferenceSettings()
    principles: PrincipleSettings = PrincipleSettings()
    generation: GenerationSettings = GenerationSettings()
    quality: QualitySettings = QualitySettings()
    generator: GeneratorSettings = GeneratorSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    judge: JudgeSettings = JudgeSettings()
    guards: GuardSettings = GuardSettings()

    @property
    def trains(self) -> bool:
        """Whether the run trains a policy."""
        return self.mode != "data-only"

    @property
    def implicit_per_token(self) -> bool:
        """Whether implicit rewards are means per token."""
        asked = self.evaluation.per_token
        return per_token(self.train.objective, self.train.base_loss) if asked is None else asked

    @property
    def thinking_tokens(self) -> int:
        """Tokens for the thoughts of a model that chooses aspects or writes principles, where it may think."""
        own = self.principles.thinking_max_tokens
        return self.generation.max_new_tokens if own is None else own

    @property
    def writes_itself(self) -> bool:
        """Whether the policy, or a generator made of it, writes what it is trained on."""
        foreign = self.generation.model is not None or self.generation.weightless or self.preferences.source is not None
        return self.mode != "offline" or not foreign

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_v2(cls, values: Any) -> Any:
        """Give ``mode: generator`` the policy's settings of v2 where the recipe says nothing else."""
        if not isinstance(values, dict) or values.get("mode") != "generator":
            return values
        given = values.get("train", {})
        if not isinstance(given, dict):
            return values
        pairs = {} if given.get("objective") in WITHOUT_PREFERENCES else _V2_PREFERENCE
        return {**values, "train": _V2_POLICY | pairs | given}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for what, *keys in chain(_of_the_mode(self), _of_the_rounds(self), _of_the_backend(self)):
            raise conflict(what, *keys)
        if self.judge.name is None and self.judge != JudgeSettings():
            raise conflict("these settings are about a judge, and none is named: set judge.name", "judge")
        return self


_V2_POLICY: dict[str, Any] = {"objective": "base", "batch_size": 256}
_V2_PREFERENCE: dict[str, Any] = {"base_loss": "dpo", "beta": 0.1}


def _of_the_mode(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Yield what does not go together, each as a sentence and the dotted keys it is about."""
    mode, generation = recipe.mode, recipe.generation
    if generation.weightless and mode in ("online", "generator"):
        what = f"the {generation.backend} backend has no weights to train: set mode: data-only (or offline)"
        yield what, "generation.backend", "mode"
    if generation.model is not None and mode != "offline":
        what = f"another model than the policy writes the responses in mode offline only, not in {mode}"
        yield what, "generation.model"
    if generation.model is not None and generation.weightless:
        yield f"generation.model has no effect with the backend {generation.backend}", "generation.model"
    if mode != "generator" and recipe.generator != GeneratorSettings():
        yield f"these settings are about mode generator, and mode is {mode}", "generator", "mode"
    taught = recipe.generator.negative == "negative" and "negative" in recipe.generator.terms
    if recipe.generator.allow_harmful_targets and not taught:
        what = "allow_harmful_targets needs y- as a target: set generator.negative to negative, and L- among the terms"
        yield what, "generator.allow_harmful_targets", "generator.negative"
    guided = recipe.principles.strategy == "guideline" and recipe.quality.harm is None
    if taught and guided and not recipe.generator.allow_harmful_targets:
        what = (
            "y- is a target, and nobody knows whether a written guideline asks for harm: let a classifier look "
            "(quality.harm), or set generator.allow_harmful_targets: true"
        )
        yield what, "generator.negative", "principles.strategy", "quality.harm"
    if mode == "data-only" and recipe.evaluation.suites:
        yield "data-only trains no policy to compare on benchmarks", "evaluation.suites", "mode"
    size = recipe.generator.batch_size
    if mode == "generator" and size % min(recipe.train.micro_batch_size, size):
        what = f"train.micro_batch_size {recipe.train.micro_batch_size} must divide the generator's batch_size"
        yield what, "generator.batch_size", "train.micro_batch_size"
    if mode == "generator" and recipe.train.objective not in ("base", "sft"):
        what = "mode generator trains the policy on the base view (v2): set train.objective to base or sft"
        yield what, "train.objective", "mode"
    yield from _of_preferences(recipe)


def _of_preferences(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    settings = recipe.preferences
    if settings.source is None and settings != PreferenceSettings():
        what = "these settings are about annotated preferences, and there are none: set preferences.source"
        yield what, "preferences"
    if settings.source is None:
        return
    if recipe.mode != "offline":
        yield f"annotated preferences are trained on in mode offline, not in {recipe.mode}", "preferences", "mode"
    if recipe.train.objective not in ("base", "sft"):
        what = "annotated preferences have no principles to steer by: set train.objective to base or sft"
        yield what, "train.objective", "preferences"
    if recipe.generation.model is not None or recipe.generation.weightless:
        yield "with annotated preferences nobody writes responses", "generation.model", "generation.backend"
    if recipe.queries.per_round != "all":
        yield "with annotated preferences no queries are answered", "queries.per_round"


def _of_the_rounds(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    train = recipe.train
    if recipe.mode == "data-only" and recipe.rounds > 1:
        what = "data-only never changes the policy, so more than one round repeats itself: set rounds: 1"
        yield what, "rounds", "mode"
    if recipe.mode == "offline" and recipe.rounds > 1:
        yield "offline data are made once: set rounds: 1 (train.epochs passes over them again)", "rounds", "mode"
    later = {"train.reference": train.reference != "round-start", "train.older_rounds": train.older_rounds != 0}
    for key in (key for key, given in later.items() if given):
        if recipe.rounds == 1:
            yield f"{key} makes a difference from the second round on, and rounds is 1", key, "rounds"
    if train.reference != "ema" and train.ema_decay != TrainSettings().ema_decay:
        yield "ema_decay goes with train.reference: ema", "train.ema_decay", "train.reference"
    if train.reference != "round-start" and train.objective in WITHOUT_PREFERENCES:
        yield f"{train.objective} compares with no reference", "train.reference", "train.objective"
    if train.objective == DISTILLATION and train.strategy not in ("auto", "single", "ddp"):
        what = f"self-distillation samples while it trains, in whole copies of the model: not by {train.strategy}"
        yield what, "train.strategy", "train.objective"
    if train.objective == DISTILLATION and recipe.generation.temperature == 0:
        what = "self-distillation samples answers while it trains: set generation.temperature above 0"
        yield what, "generation.temperature", "train.objective"
    if train.reference == "ema" and train.lora is not None:
        what = (
            "an average of adapters is not the adapter of the average: train whole weights, or take another reference"
        )
        yield what, "train.reference", "train.lora"
    if train.older_rounds != "all" and train.older_rounds >= recipe.rounds > 1:
        what = f"of {recipe.rounds} rounds none has {train.older_rounds} before it: set all"
        yield what, "train.older_rounds", "rounds"


def _of_the_backend(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    backend = recipe.generation.backend
    if recipe.executor == "local" and recipe.ray != RaySettings():
        yield "these settings are about executor: ray, and executor is local", "ray", "executor"
    asks = BACKENDS[backend].remote and recipe.principles.model.kind != "local"
    if recipe.executor == "ray" and asks and not recipe.trains:
        what = (
            "a server's answers are asked for by this process (generation.endpoint.concurrency at once), so no "
            "model is left for Ray to run: set executor: local"
        )
        yield what, "executor", "generation.backend"
    if recipe.model.chat_template_kwargs and BACKENDS[backend].runs == "script" and not recipe.trains:
        what = f"the {backend} backend has no chat template to set variables of"
        yield what, "model.chat_template_kwargs", "generation.backend"
    if backend != "vllm":
        return
    temperatures = {"generation.temperature": recipe.generation.temperature} | {
        f"generation.roles.{role}.temperature": temperature
        for role, (temperature, _) in recipe.generation.own_drawings.items()
    }
    if recipe.principles.model.kind in ("policy", "local"):
        temperatures["principles.choice_temperature"] = recipe.principles.choice_temperature
    least, most = VLLM_TEMPERATURES
    for key, temperature in temperatures.items():
        if temperature and not least <= temperature <= most:
            yield f"vLLM can't sample at temperature {temperature:g}: give 0 (greedy), or {least:g} to {most:g}", key
    if recipe.train.lora is not None and recipe.train.lora.bits:
        what = "vLLM would sample from whole weights, which are not the policy: take another backend, or no bits"
        yield what, "train.lora.bits", "generation.backend"
    for key, device in (("model", recipe.model.device), ("principles.model", recipe.principles.model.device)):
        if device not in ("auto", "cpu", "cuda"):
            what = f"vLLM chooses its device by itself: set CUDA_VISIBLE_DEVICES, and {key}.device to auto"
            yield what, f"{key}.device", "generation.backend"
