"""Bradley-Terry training through TRL's RewardTrainer, on token ids made by our own rendering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from trl import RewardConfig, RewardTrainer

from selfsteer.errors import ModelError
from selfsteer.policy.adapters import lora_config, with_adapter
from selfsteer.policy.config import checkpointing_argument
from selfsteer.policy.finite import Finite
from selfsteer.reward.data import Example
from selfsteer.reward.recipe import RewardOptions


def reward_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    options: RewardOptions,
    folder: Path,
    *,
    seed: int,
    precision: str,
    device: str = "cpu",
) -> RewardTrainer:
    """Return TRL's trainer over rendered pairs: loss -log sigmoid(r(chosen) - r(rejected) - margin), mean over pairs.

    Args:
        model: A float32 model with one output (:func:`selfsteer.reward.loading.new_reward_model`).
        tokenizer: Its tokenizer; gets another pad token where its own ends conversations (:func:`set_pad_token`).
        examples: What is trained on. Their margins act if they have any.
        options: The recipe's.
        folder: Where checkpoints go.
        seed: Of the order, and of an adapter's start.
        precision: "bfloat16" (autocast over float32 weights) or "float32".
        device: The model's.

    Raises:
        ModelError: No token can be padded with.
    """
    from datasets import Dataset

    ends = {ids[-1] for one in examples for ids in (one.chosen_ids, one.rejected_ids)}
    set_pad_token(tokenizer, ends, model.get_input_embeddings().weight.shape[0])
    names = ["chosen_ids", "rejected_ids", *(["margin"] if any(one.margin is not None for one in examples) else [])]
    rows = Dataset.from_dict({name: [getattr(one, name) for one in examples] for name in names})
    set_seed(seed)
    with _no_telemetry():
        return RewardTrainer(
            model=with_adapter(model, options.lora and lora_config(options.lora, "SEQ_CLS")),
            args=_arguments(options, folder, seed=seed, precision=precision, device=device),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Finite()],
        )


def _arguments(options: RewardOptions, folder: Path, *, seed: int, precision: str, device: str) -> RewardConfig:
    checkpointing: dict[str, Any] = {checkpointing_argument(): options.gradient_checkpointing}
    micro = min(options.micro_batch_size, options.batch_size)
    return RewardConfig(
        output_dir=str(folder),
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=options.batch_size // micro,
        warmup_steps=options.warmup_ratio,
        max_length=None,  # over-long pairs are left out before, and counted
        center_rewards_coefficient=options.center_rewards,
        bf16=precision == "bfloat16",
        logging_steps=1,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        **checkpointing,
    )


def set_pad_token(tokenizer: Any, ends: set[int], rows: int) -> None:
    """Give a tokenizer a pad token that ends no conversation and has an embedding.

    A sequence-classification model of transformers reads the reward at the last token that is not its padding. Where
    the padding is the end token, which is usual, that would be the token before the end.

    Args:
        tokenizer: Is changed.
        ends: The last tokens of conversations.
        rows: Of the model's embedding.

    Raises:
        ModelError: All of its special tokens end conversations.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends and tokenizer.pad_token_id < rows:
        return
    special = [tokenizer.unk_token_id, tokenizer.bos_token_id, *sorted(tokenizer.added_tokens_decoder)]
    spare = next((id for id in special if id is not None and id not in ends and id < rows), None)
    if spare is None:
        what = "every special token of the tokenizer ends conversations, so there is none to pad with"
        raise ModelError(what, where=str(tokenizer.name_or_path), do="add a pad_token to its tokenizer_config.json")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spare)


def save_reward_model(trainer: RewardTrainer, folder: Path) -> None:
    """Write a plain sequence-classification model (an adapter is merged), with its tokenizer."""
    model = trainer.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.to(torch.float32).save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """TRL tells its makers what kind of model is trained, unless this switch of huggingface_hub is on."""
    from huggingface_hub import constants

    before, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
