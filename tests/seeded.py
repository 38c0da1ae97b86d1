"""Everything of a training that a seed decides, as digests: `python -m tests.seeded MODEL FOLDER SEED` prints them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from selfsteer.logprobs.score_keys import weights_key
from selfsteer.reward.loading import new_reward_model
from selfsteer.reward.recipe import RewardOptions
from selfsteer.reward.training import reward_trainer
from tests.conftest import build_tokenizer
from tests.policy.helpers import contrasts, policy, trainer
from tests.reward.pairs import toy_examples, toy_pairs

LORA = {"r": 2, "lora_dropout": 0.2, "task_type": "CAUSAL_LM"}


def digests(model: Path, folder: Path, seed: int) -> dict[str, str]:
    """Digests of the weights that trainings of a few steps end with, or start with, by what is trained."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    found = {}
    for name in ("lora", "qlora"):
        run = _policy_trainer(folder / name, tokenizer, seed, in_bits=name == "qlora")
        found[f"{name}, fresh"] = _state(run.model)
        run.train()
        found[name] = _state(run.model)
    found["reward head"] = _state(new_reward_model(str(model), seed=seed))
    for name, lora in (("reward", None), ("reward lora", {"r": 2, "dropout": 0.2})):
        options = RewardOptions.model_validate({"batch_size": 4, "micro_batch_size": 2, "lora": lora})
        run = reward_trainer(
            new_reward_model(str(model), seed=seed), tokenizer, toy_examples(tokenizer, toy_pairs(7)), options,
            folder / name, seed=seed, precision="float32",
        )  # fmt: skip
        found[f"{name}, fresh"] = _state(run.model)
        run.args.save_strategy = "no"
        run.train()
        found[name] = _state(run.model)
    return found


def _policy_trainer(folder: Path, tokenizer: Any, seed: int, *, in_bits: bool) -> Any:
    model = policy(tokenizer)
    if in_bits:  # as far as the trainer can tell: bitsandbytes needs a GPU
        model = model.to(torch.bfloat16)
        model.is_loaded_in_4bit = True
    return trainer(
        folder, tokenizer, contrasts(5), model, peft_config=LoraConfig(**LORA), seed=seed, check_start=False,
        num_train_epochs=2, learning_rate=1e-3,
    )  # fmt: skip


def _state(model: Any) -> str:
    """A digest of all weights; those of an adapter that changes no number yet, too."""
    values = torch.cat([value.detach().flatten().float() for value in model.state_dict().values()])
    return weights_key(torch.nn.ParameterList([values]))


if __name__ == "__main__":
    print(json.dumps(digests(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
