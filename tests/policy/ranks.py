"""Trainings that several processes do together, and the single-process ones that they have to equal.

test_trainer_ranks.py runs it in each process, as ``python -m tests.policy.ranks FOLDER`` with torchrun's variables set.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from selfsteer.errors import SelfsteerError
from selfsteer.policy import trainer as trainer_module
from selfsteer.policy.checkpoints import InterruptCallback, ManifestCallback, last_checkpoint
from tests.conftest import build_tokenizer
from tests.policy.helpers import contrasts, policy, step_logs, trainer, weights

PROCESSES = 2
CASES: dict[str, dict[str, Any]] = {
    "a ragged last step": {"examples": 5, "micro": 1, "accumulate": 2},
    "a whole micro-batch of repeats": {"examples": 5, "micro": 2, "accumulate": 2},
    "fewer examples than processes": {"examples": 1, "micro": 2, "accumulate": 1},
    "gradient checkpointing": {"examples": 7, "micro": 2, "accumulate": 1, "activation_checkpointing": True},
    "several forward passes a micro-batch": {"examples": 6, "micro": 2, "accumulate": 1, "token_budget": 60},
    "a log line for three steps": {"examples": 7, "micro": 1, "accumulate": 1, "logging_steps": 3},
}
_score_cells = trainer_module.score_cells


def made(name: str, folder: Path, processes: int = PROCESSES, *callbacks: TrainerCallback, **options: Any) -> Any:
    """Return the trainer of a case: with the same global batches however many processes there are."""
    case = CASES[name] | options
    examples, micro, accumulate = case.pop("examples"), case.pop("micro"), case.pop("accumulate")
    trainer_module.score_cells = functools.partial(_score_cells, token_budget=case.pop("token_budget", 4096))
    tokenizer = build_tokenizer()
    run = trainer(
        folder, tokenizer, contrasts(examples), policy(tokenizer), optim="sgd", learning_rate=0.05, num_train_epochs=2,
        per_device_train_batch_size=micro, gradient_accumulation_steps=accumulate * PROCESSES // processes,
        eval_dataset=contrasts(6)[3:], per_device_eval_batch_size=2, callbacks=list(callbacks), **case,
    )  # fmt: skip
    run.lines = []
    run.say = run.lines.append
    return run


def finished(run: Any, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train and return the figures; the weights are the model's."""
    run.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return {"said": run.lines, "logs": step_logs(run), "evaluation": run.evaluate(), "steps": run.state.global_step}


def refused(train: Callable[[], Any]) -> str:
    """Return the error that a training ends with."""
    try:
        train()
    except SelfsteerError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def resumed(folder: Path) -> dict[str, Any]:
    """Stop where one process alone is asked to, and go on from there, in the middle of the second epoch."""
    interrupt = InterruptCallback(lambda _: None)
    options = {"save_strategy": "steps", "save_steps": 100}
    run = made("a ragged last step", folder, PROCESSES, ManifestCallback(), interrupt, _AskOne(interrupt), **options)
    run.train()
    checkpoint = last_checkpoint(folder)
    again = made("a ragged last step", folder, **options)
    return finished(again, checkpoint) | {
        "stopped": [interrupt.asked, run.state.global_step],
        "checkpoint": sorted(path.name for path in checkpoint.iterdir()) if checkpoint else [],
        "saved": save(again, folder / "weights.safetensors"),
    }


def save(run: Any, path: Path) -> str:
    """Write the weights and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights(run.model).items()}, path)
    return str(path)


def spoilt(folder: Path, amount: float, **options: Any) -> str:
    """Train with a reference that is wrong for one row, which one of the processes gets."""
    run = made("a ragged last step", folder, **options)
    run.train_dataset.reference[2] += amount
    return refused(run.train)


class _AskOne(TrainerCallback):
    """Ctrl-C that reaches the last process alone, during the third step."""

    def __init__(self, interrupt: InterruptCallback) -> None:
        self._interrupt = interrupt

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2 and args.process_index == PROCESSES - 1:
            self._interrupt.asked = True


def main(folder: Path) -> None:
    """Do everything once and leave FOLDER/rank-N.json, with each case's weights beside it."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}
    for name in CASES:
        run = made(name, folder / "cases")
        found[name] = finished(run) | {"saved": save(run, folder / f"rank-{rank}" / f"{name}.safetensors")}
    found["resumed"] = resumed(folder / "resumed")
    found["not finite"] = spoilt(folder / "not-finite", float("nan"))
    found["another start"] = spoilt(folder / "another-start", 30.0)
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
