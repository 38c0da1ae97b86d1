"""The sections `train` and `generator`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from selfsteer.config.base import Natural, Positive, Section, Share, whole_micro_batches
from selfsteer.config.launch import LaunchSettings


class LoraSettings(Section):
    """LoRA in place of full fine-tuning."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"
    bits: Literal[4, 8] | None = None
    """QLoRA: hold the base's weights in 4 bits (NF4) or 8 (int8). Needs a CUDA GPU and the extra ``qlora``."""


DISTILLATION = "self-distillation"
WITHOUT_PREFERENCES = ("sft", DISTILLATION)
"""The objectives that compare no pairs: no base loss acts in them, and no reference."""
SUMMED_LOSSES = ("dpo", "hinge")
"""The base losses that compare sums of log-probs; the others compare means per token."""


def per_token(objective: str, base_loss: str | None) -> bool:
    """Return whether a loss compares means per token: its implicit reward is then such a mean, else a sum."""
    return objective in WITHOUT_PREFERENCES or base_loss not in SUMMED_LOSSES


class TrainSettings(LaunchSettings):
    """What is minimised, against which reference, on which rounds' data (v1 defaults), and the optimiser.

    ``mode: generator`` has v2's defaults: objective base, base_loss dpo, beta 0.1, batch_size 256.
    """

    objective: Literal["sso", "base", "sft", "self-distillation"] = "sso"
    """SSO's loss; the base view's preference loss alone (PBAA); fine-tuning on y+, without preferences; or on-policy
    distillation of the model under x+ into the model under x (SDFT, by TRL)."""
    reference: Literal["round-start", "first", "ema"] = "round-start"
    """What a round is compared with: the policy it starts from (v1), the run's start, or an average of the weights."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """With ``reference: ema``: after a round the average is decay * average + (1 - decay) * new policy."""
    older_rounds: Natural | Literal["all"] = 0
    """Of how many rounds before it a round trains on the data again."""
    base_loss: str = "ipo"
    beta: Annotated[float, Field(gt=0.0)] = 0.2
    steering_coef: Annotated[float, Field(ge=0.0)] = 0.1
    onpolicy_alpha: Share = 0.66
    use_weight: bool = True
    use_steering: bool = True
    weight_scope: Literal["all", "steering"] = "all"
    detach_weight: bool = False
    sft_coef: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    margin: float = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-7
    epochs: Positive = 1
    batch_size: Positive = 32
    """Examples per optimiser step."""
    micro_batch_size: Positive = 2
    """Examples in memory at once; gradients accumulate to ``batch_size``."""
    max_length: Positive = 2048
    """Tokens of the longest of a row's prompts + response; a longer response is cut under all of them at that place,
    without an end label."""
    warmup_ratio: Share = 0.1
    """Share of the steps, rounded up, in which the learning rate rises; the last of these has all of it. Then it falls
    along a cosine. No step has rate 0 (docs/training.md)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    optimizer: str = "adamw"
    """adamw, adamw_8bit (bitsandbytes), adafactor, or any name of transformers' ``optim``."""
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """bfloat16: autocast over float32 weights. Pure bfloat16 weights would swallow steps this small."""
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    save_steps: Positive = 50
    """Optimiser steps between checkpoints that an interrupted training resumes from."""
    show_examples: Natural = 0
    """Print so many training examples before the first step, decoded, with the role of each token."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainSettings:
        whole_micro_batches(self.batch_size, self.micro_batch_size)
        return self


class GeneratorSettings(Section):
    """``mode: generator``: how the data generator is trained (v2, Formulas 1 to 4). The rest is as in ``train``."""

    objective: ClassVar[str] = "generator"
    queries: Positive = 8000
    """It is trained on so many of a round's queries, the first ones; on all where there are fewer."""
    keep: bool = False
    """Keep its weights; else they are removed when it has answered."""
    terms: Annotated[list[Literal["positive", "negative"]], Field(min_length=1)] = ["positive", "negative"]
    """L+ and L-, or one of them."""
    negative: Literal["original", "negative"] = "original"
    """What L- prefers to y+ under x-: yo (Formula 4), or y- itself (Formula 3, the weaker one)."""
    allow_harmful_targets: bool = False
    """With ``negative: negative``: also train towards y- that are, or may be, harmful; else such rows are left out."""
    base_loss: str = "dpo"
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    sft_coef: Annotated[float, Field(ge=0.0)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    margin: float = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-7
    epochs: Positive = 1
    batch_size: Positive = 32
