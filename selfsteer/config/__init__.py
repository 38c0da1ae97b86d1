"""Recipes: one typed tree, section by section, read from YAML with dotted overrides."""

from selfsteer.config.augment import AugmentSettings, Growth, growth_from
from selfsteer.config.base import MAX_LEFT_OUT, Positive, Section, Share, conflict, whole_micro_batches
from selfsteer.config.generation import (
    VLLM_TEMPERATURES,
    EndpointSettings,
    GenerationSettings,
    LocalModelSettings,
    ModelSettings,
    RaySettings,
    RolesSettings,
    ServerSettings,
)
from selfsteer.config.guards import Guard, GuardAction, GuardSettings
from selfsteer.config.judge import JudgeSettings
from selfsteer.config.loading import (
    Setting,
    dump_recipe,
    find_recipe,
    from_values,
    judge_settings,
    load_recipe,
    load_tree,
    read_recipe,
    shipped_recipes,
    template_kwargs,
)
from selfsteer.config.quality import HarmSettings, QualitySettings, RewardFilterSettings
from selfsteer.config.queries import BenchmarkSettings, CheckSettings, QuerySettings
from selfsteer.config.recipe import Recipe
from selfsteer.config.sweep import SweepFile, SweepSettings, load_sweep, shipped_sweeps
from selfsteer.config.train import (
    DISTILLATION,
    WITHOUT_PREFERENCES,
    GeneratorSettings,
    LoraSettings,
    TrainSettings,
    per_token,
)
