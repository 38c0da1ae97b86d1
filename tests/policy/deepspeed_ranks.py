"""ZeRO-2 and ZeRO-3 on CPUs: test_trainer_deepspeed.py runs it in each process, as the other modules of this kind.

accelerate has no backend for DeepSpeed on CPUs, so its state is configured here, where a GPU needs no such step.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from selfsteer.policy.strategies import strategy_arguments
from tests.conftest import build_tokenizer
from tests.policy.helpers import step_logs, trainer
from tests.policy.sharded_ranks import SAVED, STEPS, build, rows

CASES = {"deepspeed-zero2": "llama", "deepspeed-zero3": "qwen2"}


def made(strategy: str, folder: Path, processes: int, **options: Any) -> Any:
    """Return the trainer of a strategy, or its counterpart in one process."""
    tokenizer = build_tokenizer()
    if processes > 1:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(backend="gloo")
        options |= strategy_arguments(strategy) | {"accelerator_config": {"use_configured_state": True}}
    run = trainer(
        folder, tokenizer, rows(), build(CASES[strategy], tokenizer), use_cpu=processes == 1, optim="adamw_torch",
        learning_rate=3e-4, max_steps=STEPS, weight_decay=0.1, per_device_train_batch_size=1, logging_steps=1,
        gradient_accumulation_steps=4 // processes, save_strategy="steps", save_steps=SAVED, **options,
    )  # fmt: skip
    run.say = lambda _: None
    return run


def finished(run: Any, folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train and save; return the figures and where the weights are."""
    run.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    run.save_model(str(folder))
    logs = step_logs(run)
    return {"losses": [log["loss"] for log in logs], "norms": [log["grad_norm"] for log in logs], "folder": str(folder)}


def main(folder: Path) -> None:
    """Do all cases and leave FOLDER/rank-N.json."""
    torch.set_num_threads(1)
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {}
    for strategy in CASES:
        own = folder / strategy
        found[strategy] = finished(made(strategy, own / "checkpoints", processes), own / "final")
        checkpoint = own / "checkpoints" / f"checkpoint-{SAVED}"
        again = finished(made(strategy, own / "again", processes), own / "resumed", checkpoint)
        found[f"resumed {strategy}"] = again
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
