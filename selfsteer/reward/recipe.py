"""The recipe of `selfsteer reward`: named sets of preference pairs, variants made of them, and the training options.

No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from selfsteer.config import LocalModelSettings, LoraSettings, ModelSettings, load_tree
from selfsteer.config.base import MAX_LEFT_OUT, Positive, Section, Seed, Share, conflict, whole_micro_batches
from selfsteer.config.launch import LaunchSettings
from selfsteer.errors import did_you_mean
from selfsteer.limits import MAX_VARIANTS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class SetSettings(Section):
    """A named set of preference pairs. A string is short for ``{source: STRING}``."""

    source: str
    """A file of pairs in any form that `selfsteer judge` reads, a folder of such files, a hub data set, or a run
    directory."""
    dataset_split: str = "train"
    """The split of a hub data set."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Share of the set's pairs to train on: 0.5 is half of them, drawn by the seed; 2 is each of them twice."""
    limit: Positive | None = None
    """Take so many usable pairs, drawn at random, the same for every seed and variant."""
    max_left_out: Share = MAX_LEFT_OUT
    """Stop if a larger share of the rows can't be used: malformed, or not a pair."""
    rounds: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Of a run directory: these rounds (default: all)."""
    finished: bool = False
    """Of a run directory: leave out pairs with a cut-off answer, which would get the end of a complete one."""
    licence: str | None = None
    """For the model card."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class RewardOptions(LaunchSettings):
    """Training options of a reward model."""

    margin: Literal["none", "steering"] = "none"
    """With "steering" the chosen reward has to exceed the rejected one by the pair's stored steering margin."""
    margin_scale: Annotated[float, Field(gt=0.0)] | None = None
    """Factor of the steering margin, which is in nats per token (default: 1)."""
    length_balance: bool = False
    """Leave pairs out until the chosen answer is the longer one in half of the pairs of any length difference."""
    center_rewards: Annotated[float, Field(gt=0.0)] | None = None
    """Coefficient of the mean squared sum of both rewards, which keeps rewards around zero (TRL recommends 0.01)."""
    lora: LoraSettings | None = None
    """Train an adapter instead of the whole model; it is merged before the model is saved."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    epochs: Positive = 1
    batch_size: Positive = 32
    """Pairs an optimiser step."""
    micro_batch_size: Positive = 8
    """Pairs computed at once."""
    warmup_ratio: Share = 0.1
    """Share of the steps, rounded up, in which the learning rate rises to its full value. Then it falls linearly. No
    step has rate 0 (docs/training.md)."""
    max_length: Positive = 2048
    """Tokens of a prompt with one answer; a pair with a longer one, or beyond the model's context, is left out."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    gradient_checkpointing: bool = False
    save_steps: Positive = 50
    """Optimiser steps between checkpoints."""

    @model_validator(mode="after")
    def _whole(self) -> RewardOptions:
        whole_micro_batches(self.batch_size, self.micro_batch_size)  # micro-batches of equal size, each step alike
        if self.margin_scale is not None and self.margin == "none":
            raise conflict("margin_scale needs margin: steering", "margin_scale", "margin")
        if self.lora is not None and self.lora.bits is not None:
            what = "an adapter over weights in 4 or 8 bits can't be merged into them exactly: leave bits out"
            raise conflict(what, "lora.bits")
        return self


class Trained(NamedTuple):
    """One training of a recipe; ``str`` of it is the name of its model's folder."""

    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}-seed-{self.seed}"


class RewardRecipe(Section):
    """All settings of `selfsteer reward`."""

    name: Name = "reward"
    model: ModelSettings = ModelSettings()
    """The base: a chat model, or a reward model to train further."""
    sets: Annotated[dict[Name, SetSettings], Field(min_length=1)]
    variants: Annotated[dict[Name, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)] | None = None
    """Lists of sets, by name; a model is trained on each (default: one variant, "all")."""
    seeds: list[Seed] = Field([0], min_length=1)
    """Each variant is trained once a seed, which draws the head, the order and the pairs of a weight or balance."""
    options: RewardOptions = RewardOptions()
    evaluate: list[str] = Field([])
    """Files of labelled pairs to score every model on. Training pairs with one of their prompts are left out."""
    evaluate_limit: Positive | None = None
    """Score a random sample of so many pairs of each file, the same for all models."""

    @property
    def of_variant(self) -> dict[str, list[str]]:
        """Names of the sets by variant."""
        return self.variants or {"all": list(self.sets)}

    @property
    def trainings(self) -> list[Trained]:
        """All trainings, in order."""
        return [Trained(variant, seed) for variant in self.of_variant for seed in self.seeds]

    @property
    def hardware(self) -> LocalModelSettings:
        """The device and precision of the training."""
        return LocalModelSettings(precision=self.options.precision, **self.model.model_dump(exclude={"name"}))

    @model_validator(mode="after")
    def _consistent(self) -> RewardRecipe:
        for variant, names in self.of_variant.items():
            for name in names:
                if name not in self.sets:
                    raise conflict(f"no set is called {name!r}. {did_you_mean(name, self.sets)}", f"variants.{variant}")
                if names.count(name) > 1:
                    what = f"{name!r} is listed {names.count(name)} times; sets.{name}.weight repeats its pairs"
                    raise conflict(what, f"variants.{variant}")
        idle = self.sets.keys() - {name for names in self.of_variant.values() for name in names}
        if idle:
            raise conflict(f"no variant uses the set {min(idle)!r}", "variants")
        if len(set(self.seeds)) < len(self.seeds):
            raise conflict(f"seeds {self.seeds} has a duplicate, which would train the same model", "seeds")
        count = len(self.of_variant) * len(self.seeds)
        if count > MAX_VARIANTS:
            what = f"{count:,} models to train (variants x seeds), and at most {MAX_VARIANTS:,} are planned"
            raise conflict(what, "seeds")
        if len(set(self.evaluate)) < len(self.evaluate):
            raise conflict("evaluate names a file twice", "evaluate")
        if self.evaluate_limit is not None and not self.evaluate:
            raise conflict("evaluate_limit needs files, and evaluate names none", "evaluate_limit")
        return self


def load_reward_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RewardRecipe:
    """Read a recipe file (or the name of a shipped recipe) and apply ``key=value`` overrides.

    Raises:
        ConfigError: The file is missing or is no YAML mapping; a key is unknown or given twice; a value is wrong.
    """
    return load_tree(RewardRecipe, path, overrides)
