"""The trainers of policies and generators, set up by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selfsteer.config import DISTILLATION, GeneratorSettings, Recipe, TrainSettings
from selfsteer.errors import ConfigError
from selfsteer.jobs.ranks import world_size
from selfsteer.records import Contrast
from selfsteer.stages.model_pool import ModelPool, Policy

if TYPE_CHECKING:
    from selfsteer.policy import SSOConfig, SSOTrainer
    from selfsteer.policy.self_distillation import SelfDistillationTrainer


class Place(NamedTuple):
    """Where and how a training computes: "bfloat16" or "float32", the device, and how its processes share the work."""

    precision: str
    device: str
    strategy: str = "single"


class Task(NamedTuple):
    """What a trainer trains: the start, by the loss of a section of the recipe.

    ``stored`` is whether the reference is that of the rows' scores and not the start.
    """

    start: Policy
    loss: TrainSettings | GeneratorSettings
    stored: bool
    strategy: str


def check_trainer(objective: str) -> None:
    """Raise :class:`ConfigError` where an objective's trainer is TRL's, and the installed version lacks it."""
    if objective == DISTILLATION:
        try:
            import_module("selfsteer.policy.self_distillation")
        except ImportError as error:  # experimental there: a later version may move it
            what = f"the objective {objective} needs TRL's SDFT trainer, which can't be imported: {error}"
            raise ConfigError(what, where="train.objective", do="pip install 'trl==1.16.*'") from error


def open_trainer(
    recipe: Recipe, models: ModelPool, task: Task, rows: Sequence[Contrast], checkpoints: Path
) -> SSOTrainer | SelfDistillationTrainer:
    """Return the trainer of a training on scored rows, with a model of its own."""
    from selfsteer.policy.adapters import lora_config

    place = Place(models.precision(recipe.train.precision), models.device, task.strategy)
    adapter = recipe.train.lora and lora_config(recipe.train.lora)
    chat, model = models.chat(task.start), models.trainable(task.start)
    assert chat is not None  # the configuration lets only backends with weights train
    if task.loss.objective == DISTILLATION:
        from selfsteer.policy.self_distillation import SelfDistillationTrainer

        longest = max(row.longest_prompt for row in rows)
        config = distillation_config(recipe, checkpoints, place, longest)
        return SelfDistillationTrainer(
            model, config, rows, chat, max_length=recipe.train.max_length, peft_config=adapter
        )
    from selfsteer.policy import SSOTrainer

    args = sso_config(
        recipe.train, checkpoints, seed=recipe.seed, place=place, loss=task.loss, stored=task.stored,
        template_kwargs=recipe.model.chat_template_kwargs,
    )  # fmt: skip
    return SSOTrainer(model=model, args=args, train_dataset=rows, processing_class=chat.tokenizer, peft_config=adapter)


def sso_config(
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    place: Place,
    loss: TrainSettings | GeneratorSettings | None = None,
    stored: bool = False,
    template_kwargs: dict[str, Any] | None = None,
) -> SSOConfig:
    """Return the trainer's configuration for a recipe's train section.

    Args:
        loss: The section with the loss, learning rate, epochs and batch size (default: ``settings``).
        stored: As of :class:`Task`.
    """
    from selfsteer.policy import SSOConfig
    from selfsteer.policy.objective import loss_fields

    own = loss or settings
    options = loss_fields(own) | _arguments(settings, own, folder, seed=seed, place=place)
    options["allow_harmful_targets"] = isinstance(own, GeneratorSettings) and own.allow_harmful_targets
    # Dropout acts in the policy's first forward pass and not in its reference, so the two differ before any step.
    options["check_start"] = settings.lora is None or settings.lora.dropout == 0
    return SSOConfig(
        reference="stored" if stored else "start", chat_template_kwargs=template_kwargs or None,
        max_length=settings.max_length, show_examples=settings.show_examples, **options,
    )  # fmt: skip


def distillation_config(recipe: Recipe, folder: Path, place: Place, longest: int) -> Any:
    """Return the configuration of on-policy self-distillation, whose answers are sampled as ``generation`` says.

    Args:
        longest: Tokens of the longest prompt, beside which an answer has to fit.
    """
    from selfsteer.policy.self_distillation import DistillationConfig

    train, generation = recipe.train, recipe.generation
    return DistillationConfig(
        max_prompt_length=None, max_completion_length=min(generation.max_new_tokens, train.max_length - longest),
        temperature=generation.temperature, top_p=generation.top_p, num_generations=1,
        lr_scheduler_type="cosine", logging_steps=1, **_arguments(train, train, folder, seed=recipe.seed, place=place),
    )  # fmt: skip


def _arguments(
    settings: TrainSettings, own: TrainSettings | GeneratorSettings, folder: Path, *, seed: int, place: Place
) -> dict[str, Any]:
    """Return the entries of TrainingArguments that all trainers have; ``own`` is the section with the loss."""
    from selfsteer.policy.strategies import strategy_arguments

    share = own.batch_size // world_size()
    micro = next(size for size in range(min(settings.micro_batch_size, share), 0, -1) if share % size == 0)
    optimizer = {} if settings.optimizer == "adamw" else {"optim": settings.optimizer}
    strategy = strategy_arguments(place.strategy, gradient_checkpointing=settings.gradient_checkpointing)
    shared = {
        "output_dir": str(folder),
        "learning_rate": own.learning_rate,
        "num_train_epochs": own.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "warmup_ratio": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "adam_beta1": settings.adam_betas[0],
        "adam_beta2": settings.adam_betas[1],
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "bf16": place.precision == "bfloat16",
        "use_cpu": place.device == "cpu",
        "dataloader_pin_memory": place.device != "cpu",
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return optimizer | strategy | shared
