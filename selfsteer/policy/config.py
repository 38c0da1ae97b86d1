"""SSOConfig: transformers' TrainingArguments with the settings of the SSO loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from selfsteer.errors import ConfigError
from selfsteer.logprobs import PairLogps
from selfsteer.losses import sso_loss
from selfsteer.views import SSO_VIEWS


@dataclass
class SSOConfig(TrainingArguments):
    """Settings of :class:`SSOTrainer`: those of :func:`selfsteer.losses.sso_loss`, and all of TrainingArguments.

    The defaults of the loss are those of the paper's v1 (arXiv 2410.17131, section 2 of its method): IPO, beta 0.2,
    g 0.1, alpha 0.66. ``max_length`` counts prompt + response tokens; a longer response is cut without an end label.
    """

    base_loss: str = "ipo"
    beta: float = 0.2
    steering_coef: float = 0.1
    onpolicy_alpha: float = 0.66
    use_weight: bool = True
    use_steering: bool = True
    weight_scope: Literal["all", "steering"] = "all"
    detach_weight: bool = False
    sft_coef: float = 0.0
    label_smoothing: float = 0.0
    margin: float = 0.0
    max_length: int | None = 2048
    check_start: bool = field(
        default=True, metadata={"help": "Stop if the policy does not equal its reference before the first step."}
    )
    show_examples: int = field(
        default=0, metadata={"help": "Before the first step, print so many examples with the role of each token."}
    )
    learning_rate: float = 5e-7
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    num_train_epochs: float = 1.0
    logging_steps: float = 1
    remove_unused_columns: bool | None = False

    def __post_init__(self) -> None:
        """Check the loss settings together with those of TrainingArguments."""
        super().__post_init__()
        check_loss_settings(loss_settings(self))
        if self.use_liger_kernel:
            raise ConfigError(
                "transformers would swap the model's kernels after its reference is scored",
                where="use_liger_kernel",
                do="leave it out; the head uses Liger where it is installed, and "
                "transformers.integrations.liger.apply_liger_kernel puts the rest on a model before it is given",
            )
        if self.show_examples < 0:
            raise ConfigError(f"show_examples is {self.show_examples}", where="SSOConfig", do="give 0 or more")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process, at most one: DataParallel would cut packed rows up, so each GPU takes a process."""
        return min(int(super().n_gpu), 1)


_LOSS_SETTINGS = (
    "beta steering_coef onpolicy_alpha use_weight use_steering weight_scope detach_weight sft_coef label_smoothing "
    "margin"
).split()


def loss_settings(settings: Any) -> dict[str, Any]:
    """Return the keyword arguments of :func:`selfsteer.losses.sso_loss`, from an SSOConfig or a recipe's section."""
    return {"base": settings.base_loss, **{name: getattr(settings, name) for name in _LOSS_SETTINGS}}


def check_loss_settings(settings: dict[str, Any]) -> None:
    """Raise :class:`ConfigError` where the loss refuses these settings, before anything is computed with them."""
    one = PairLogps(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([1]), torch.tensor([1]))
    pairs = dict.fromkeys(SSO_VIEWS, one)
    try:
        sso_loss(pairs, pairs, **settings)
    except ValueError as error:
        raise ConfigError(str(error), where="the settings of the loss (recipe section train)") from error
