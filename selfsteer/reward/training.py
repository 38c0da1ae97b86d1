"""Bradley-Terry training through TRL's RewardTrainer, on token ids made by our own rendering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed
from trl import RewardConfig, RewardTrainer

from selfsteer.errors import ModelError
from selfsteer.jobs.ranks import world_size
from selfsteer.policy.adapters import lora_config, with_adapter
from selfsteer.policy.config import checkpointing_argument
from selfsteer.policy.distributed import first_time, gathered
from selfsteer.policy.nan_guard import NanGuard
from selfsteer.policy.sharding import ShardingTrainer
from selfsteer.policy.strategies import strategy_arguments
from selfsteer.policy.unchanged import Unchanged
from selfsteer.policy.warmup import WarmupRatio, WarmupTrainer
from selfsteer.reward.data import Example
from selfsteer.reward.recipe import RewardOptions

_MEANS = ("mean_reward", "accuracy", "margin")
"""TRL's figures that are means over a micro-batch; it logs their mean over the micro-batches of a step."""


@dataclass
class PairConfig(WarmupRatio, RewardConfig):
    """TRL's settings, with ``warmup_ratio``."""


class PairTrainer(ShardingTrainer, WarmupTrainer, RewardTrainer):
    """TRL's trainer with equal weights for all pairs of an optimiser step, whatever its micro-batches."""

    # TRL averages the micro-batches' means, so that the pairs of a smaller last one weigh more.
    loss_is_scaled_for_ga = True  # compute_loss divides by the number of pairs in the whole optimiser step

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the micro-batches of one optimiser step and their number of pairs over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._counted = [_pairs(batch) for batch in batches]
        if batches:  # accelerate repeats pairs, so that all processes get equally many
            self._counted[-1] = first_time(self.accelerator, self._counted[-1])
        return batches, gathered(torch.tensor([sum(self._counted)])).sum().to(device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the pairs' losses divided by the number of pairs in the step; in evaluation their mean."""
        pairs, split = _pairs(inputs), "train" if self.model.training else "eval"
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        for name in _MEANS:
            values = self._metrics[split][name]
            values += values[-1:] * (pairs - 1)  # a micro-batch counts once a pair
        if num_items_in_batch is not None:
            counted = self._counted.pop(0)
            if counted < pairs:
                loss = self._mean_loss(outputs.logits, inputs.get("margin"), counted)
            # Gradients are averaged over processes, while the normaliser counts the pairs of all of them.
            loss = loss * counted * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _mean_loss(self, rewards: Tensor, margin: Tensor | None, count: int) -> Tensor:
        """Return TRL's loss over the first ``count`` pairs of (2N, 1) rewards, chosen ones first; 0 without any."""
        chosen, rejected = rewards.squeeze(-1).chunk(2)
        losses = -torch.nn.functional.logsigmoid(chosen - rejected - (0 if margin is None else margin))
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (chosen + rejected) ** 2
        return losses[:count].sum() / max(count, 1)


def _pairs(batch: dict[str, Any]) -> int:
    """Return the number of pairs in a micro-batch, which holds the chosen conversations and then the rejected ones."""
    return len(batch["input_ids"]) // 2


def reward_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    options: RewardOptions,
    folder: Path,
    *,
    seed: int,
    precision: str,
) -> PairTrainer:
    """Return a trainer over rendered pairs: loss -log sigmoid(r(chosen) - r(rejected) - margin), mean over pairs.

    Args:
        model: A float32 model with one output (:func:`selfsteer.reward.loading.new_reward_model`).
        tokenizer: Its tokenizer; gets another pad token if its own ends conversations (:func:`set_pad_token`).
        examples: The training pairs; their margins act if they have any.
        seed: Of the order, of dropout, and of an adapter's initial weights.
        precision: "bfloat16" (autocast over float32 weights) or "float32".

    Raises:
        ModelError: The tokenizer has no token to pad with.
    """
    from datasets import Dataset

    ends = {ids[-1] for one in examples for ids in (one.chosen_ids, one.rejected_ids)}
    set_pad_token(tokenizer, ends, model.get_input_embeddings().weight.shape[0])
    names = ["chosen_ids", "rejected_ids", *(["margin"] if any(one.margin is not None for one in examples) else [])]
    # Our own ids: TRL would tokenise by the chat template, where a control token's text in an answer ends its turn.
    rows = Dataset.from_dict({name: [getattr(one, name) for one in examples] for name in names})
    set_seed(seed)
    on_cpu = model.device.type == "cpu"
    with _no_telemetry():
        return PairTrainer(
            model=with_adapter(model, options.lora and lora_config(options.lora, "SEQ_CLS")),
            args=_arguments(options, folder, seed=seed, precision=precision, on_cpu=on_cpu),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[NanGuard(), Unchanged()],
        )


def _arguments(options: RewardOptions, folder: Path, *, seed: int, precision: str, on_cpu: bool) -> PairConfig:
    chosen = ("ddp" if world_size() > 1 else "single") if options.strategy == "auto" else options.strategy
    # TRL's own default is True, which FSDP does not take beside its own.
    strategy = {checkpointing_argument(): False}
    strategy |= strategy_arguments(chosen, gradient_checkpointing=options.gradient_checkpointing)
    share = options.batch_size // world_size()
    micro = next(size for size in range(min(options.micro_batch_size, share), 0, -1) if share % size == 0)
    return PairConfig(
        output_dir=str(folder),
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        warmup_ratio=options.warmup_ratio,
        max_length=None,  # pairs that are too long were left out before, and counted
        center_rewards_coefficient=options.center_rewards,
        bf16=precision == "bfloat16",
        logging_steps=1,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,  # the old checkpoint must outlive the writing of the new one
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        **strategy,
    )


def set_pad_token(tokenizer: Any, ends: set[int], rows: int) -> None:
    """Give a tokenizer a pad token that is none of ``ends`` (of conversations) and has one of ``rows`` embeddings.

    Raises:
        ModelError: All of its special tokens end conversations.
    """
    # A sequence-classification model of transformers reads the reward at the last token that is not padding. If the
    # end token is the padding, as usual, that would be the token before the end.
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends and tokenizer.pad_token_id < rows:
        return
    special = [tokenizer.unk_token_id, tokenizer.bos_token_id, *sorted(tokenizer.added_tokens_decoder)]
    spare = next((id for id in special if id is not None and id not in ends and id < rows), None)
    if spare is None:
        what = "every special token of the tokenizer ends conversations, so none is left to pad with"
        raise ModelError(what, where=str(tokenizer.name_or_path), do="add a pad_token to its tokenizer_config.json")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spare)


def save_reward_model(trainer: RewardTrainer, folder: Path) -> None:
    """Write a plain sequence-classification model (an adapter is merged) and its tokenizer; all processes call it."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # gathered by all processes
        trainer.save_model(str(folder))
        return
    if not trainer.is_world_process_zero():
        return
    model = trainer.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.to(torch.float32).save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep TRL from reporting the kind of model to its makers, by a switch of huggingface_hub."""
    from huggingface_hub import constants

    before, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
