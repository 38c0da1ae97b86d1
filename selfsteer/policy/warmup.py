"""The learning rate's warm-up, for every training: its first step has a rate above 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from selfsteer.errors import ConfigError


@dataclass
class WarmupRatio:
    """Adds ``warmup_ratio`` to TrainingArguments (name it before them among the bases): the warm-up's share of steps.

    transformers' own ``warmup_steps`` is a share below 1 and a number of steps from 1 on, so it can't say "all steps".
    Raises :class:`ConfigError` where the ratio lies outside 0 to 1, or both settings are given.
    """

    warmup_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Check the warm-up together with the other settings."""
        super().__post_init__()  # type: ignore[misc]  # TrainingArguments has it
        if not 0 <= self.warmup_ratio <= 1:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio}", where="warmup_ratio", do="give 0 to 1")
        if self.warmup_ratio and self.warmup_steps:  # type: ignore[attr-defined]
            what = "both warmup_ratio and warmup_steps are set"
            raise ConfigError(what, where="warmup_ratio, warmup_steps", do="leave one of them out")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return w, the steps of the warm-up: ``warmup_ratio`` of all, rounded up, or transformers' own count."""
        if self.warmup_ratio:
            # 0.07 * 100 is more than 7 in floats.
            return math.ceil(num_training_steps * self.warmup_ratio - 1e-9)
        return int(super().get_warmup_steps(num_training_steps))  # type: ignore[misc]


class WarmupTrainer(Trainer):
    """A Trainer whose warm-up ends at the full rate and loses no step.

    Of w warm-up steps, step k (from 1 on) has k/w of the learning rate; transformers gives it (k-1)/w, so that the
    first one changes no weight. Every later step has the rate that transformers gives it, which is above 0 up to the
    last of n steps: 1/(n-w) of the learning rate for "linear", (1 + cos(pi (n-w-1)/(n-w))) / 2 of it for "cosine". A
    schedule with a warm-up that starts above 0 is left as it is, and so is a scheduler that the caller brings.

    The decay is not shifted as well: that would change published settings and, with explicit step counts, give the last
    step rate 0.
    """

    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the scheduler; transformers calls this once a training."""
        given = self.lr_scheduler is not None
        own = super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        if not given and warmup and isinstance(own, LambdaLR) and own.lr_lambdas[0](0) == 0:
            shares: list[Callable[[int], float]] = [
                partial(_share, warmup, num_training_steps, each) for each in own.lr_lambdas
            ]
            self.lr_scheduler = LambdaLR(own.optimizer, shares)
        return self.lr_scheduler


def _share(warmup: int, steps: int, schedule: Callable[[int], float], done: int) -> float:
    """Return the share of the learning rate that the step after ``done`` others has."""
    done = min(done, steps - 1)  # torch calls once more after the last step, where "polynomial" may divide by 0
    return (done + 1) / warmup if done < warmup else schedule(done)
