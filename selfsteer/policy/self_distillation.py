"""On-policy self-distillation under the positive principle: TRL's SDFT trainer on the prompts of contrasts.

A baseline (SDFT, arXiv 2601.19897; OPCD, arXiv 2602.12275): the student is the model under x, the teacher the same
model, as it started, under x+. The student answers x, and the divergence between its next-token distributions and the
teacher's is minimised on its own answers; no pairs, no negative principle.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfsteer.chat import Chat
from selfsteer.errors import DataError
from selfsteer.policy.adapters import check_trainable, with_adapter
from selfsteer.policy.dataset import kept_contrasts, without_over_long
from selfsteer.policy.nan_guard import NanGuard
from selfsteer.policy.unchanged import Unchanged
from selfsteer.policy.warmup import WarmupRatio, WarmupTrainer
from selfsteer.records import Contrast
from selfsteer.views import View

with warnings.catch_warnings():
    # It warns that its interfaces may change: constraints.txt has the version that was tested.
    warnings.simplefilter("ignore")
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer
    from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder


@dataclass
class DistillationConfig(WarmupRatio, SDFTConfig):
    """TRL's settings, with ``warmup_ratio``."""


class _SteeredTeacher(DemonstrationTeacherContextBuilder):
    """Gives the teacher the tokens of x+, which the rows bring, in place of TRL's own template."""

    def _compose_teacher_prompt(self, prompt: Any, privileged_context: Any) -> Any:
        return privileged_context


class SelfDistillationTrainer(WarmupTrainer, SDFTTrainer):
    """TRL's trainer on the rendered prompts x and x+ of kept rows.

    Args:
        model: A causal language model with float32 weights.
        args: TRL's settings; ``max_completion_length`` and the prompts have to fit the model's context.
        train_dataset: Rows with the columns of :class:`Contrast`. Those of a last, incomplete batch are filled up with
            the first rows: TRL would leave the batch out.
        chat: The template that rendered the prompts; its end tokens end an answer.
        max_length: Rows with a longer prompt are left out.
        peft_config: For LoRA; its teacher is the model without it, otherwise a frozen copy.

    Raises:
        DataError: No row is kept or fits.
    """

    views: tuple[View, ...] = ()
    """No view's pair is trained on."""

    def __init__(
        self,
        model: Any,
        args: DistillationConfig,
        train_dataset: Sequence[Contrast],
        chat: Chat,
        *,
        max_length: int | None = None,
        peft_config: Any = None,
    ) -> None:
        from datasets import Dataset

        rows = kept_contrasts(train_dataset, chat)
        if not rows:
            raise DataError("no row is kept, so there is nothing to train on", do="relax the quality filters")
        rows = without_over_long(rows, max_length)
        self.examples, self.say = len(rows), print
        batch = args.generation_batch_size
        filled = [rows[place % len(rows)] for place in range(-(-len(rows) // batch) * batch)]
        prompts = {"prompt": "prompt", "privileged_context": "positive_prompt"}
        data = Dataset.from_dict({name: [row.prompt_ids(of) for row in filled] for name, of in prompts.items()})
        model = with_adapter(model, peft_config)
        check_trainable(model)
        model.generation_config.eos_token_id = list(chat.end_ids)
        super().__init__(
            model=model,
            args=args,
            train_dataset=data,
            processing_class=chat.tokenizer,
            callbacks=[NanGuard(), Unchanged()],
        )
        self.teacher_context_builder = _SteeredTeacher(self)

    say: Callable[[str], None]

    def _tokenize_prompts(self, prompts: list[Any]) -> list[list[int]]:
        """Return the prompts, which are token ids: TRL would render messages, and cut long ones from the left."""
        return prompts

    def _setup_teacher_model(self) -> None:
        """Copy the model where no adapter separates student and teacher: TRL would load it again by its name."""
        if hasattr(self.model, "peft_config"):
            super()._setup_teacher_model()
            return
        self.teacher_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.teacher_model = self.accelerator.prepare_model(self.teacher_model, evaluation_mode=True)
