"""SSOConfig: transformers' TrainingArguments with the settings of the SSO loss."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers import TrainingArguments

from selfsteer.errors import ConfigError
from selfsteer.policy.objective import objective_of
from selfsteer.policy.warmup import WarmupRatio


@dataclass
class SSOConfig(WarmupRatio, TrainingArguments):
    """Settings of :class:`SSOTrainer`: those of the losses in :mod:`selfsteer.losses`, and all of TrainingArguments.

    The defaults of the loss are those of the paper's v1 (arXiv 2410.17131, section 2 of its method): IPO, beta 0.2,
    g 0.1, alpha 0.66. ``max_length`` counts the tokens of a row's longest prompt + response; a longer response is
    cut without an end label, at the same place in all views.

    ``objective`` says what is minimised: "sso" (``sso_loss``), "base" (the base view's preference loss alone: PBAA),
    "generator" (``generator_loss``: ``terms`` and ``negative`` are its own) or "sft" (y+ alone, no preference). A
    setting that does not act in it is refused where it is not at its default.

    ``reference`` says which log-probs are stored with the rows: "start" accepts those of the starting weights alone;
    "stored" accepts those of any weights, which then are the reference, if they are the same in all rows.

    ``warmup_ratio`` is the share of the steps over which the learning rate rises: :class:`WarmupTrainer` says how.
    ``seed`` decides the start of an adapter, dropout and, unless ``data_seed`` is given, the order of the rows.
    """

    objective: Literal["sso", "base", "generator", "sft"] = "sso"
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
    terms: list[str] = field(default_factory=lambda: ["positive", "negative"])
    negative: Literal["original", "negative"] = "original"
    allow_harmful_targets: bool = field(
        default=False, metadata={"help": "Also train towards y- that are, or may be, harmful (negative='negative')."}
    )
    reference: Literal["start", "stored"] = "start"
    max_length: int | None = 2048
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Variables for the chat template, for rows without token ids of their own."}
    )
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
    data_seed: int | None = None
    logging_steps: float = 1
    remove_unused_columns: bool | None = False

    def __post_init__(self) -> None:
        """Check the loss settings together with those of TrainingArguments."""
        super().__post_init__()
        # Else accelerate takes the seed that torch was given last.
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        if objective_of(self).loss is None:
            what = f"SSOTrainer has no objective {self.objective!r}"
            do = "use selfsteer.policy.self_distillation.SelfDistillationTrainer"
            raise ConfigError(what, where="SSOConfig", do=do)
        if self.reference not in ("start", "stored"):
            raise ConfigError(f"reference is {self.reference!r}", where="SSOConfig", do="give 'start' or 'stored'")
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


def checkpointing_argument() -> str:
    """Return the name under which TrainingArguments take gradient checkpointing: a deprecated name is warned about."""
    known = {field.name for field in fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
