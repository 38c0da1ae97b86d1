"""Sharded trainings of several processes, and the single-process ones that they have to equal.

test_trainer_sharded.py runs it in each process, as ``python -m tests.policy.sharded_ranks FOLDER OTHER`` with
torchrun's variables set; OTHER is FOLDER, or that of an earlier start with another number of processes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.tensor.debug import CommDebugMode
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from selfsteer.logprobs import chunked_head
from selfsteer.policy import trainer as trainer_module
from selfsteer.policy.checkpoints import ManifestCallback, verifies
from selfsteer.policy.strategies import strategy_arguments
from tests.conftest import build_tokenizer
from tests.policy.helpers import contrast, policy, step_logs, trainer

STEPS = 5
SAVED = 3
"""The step after which checkpoints are written; it is in the middle of a pass over the rows."""
CASES: dict[str, dict[str, Any]] = {
    "fsdp, tied, checkpointed activations": {"model": "llama", "gradient_checkpointing": True},
    "fsdp, untied": {"model": "qwen2", "save": True},
    "fsdp, LoRA": {"model": "qwen2", "lora": True},
    "fsdp, LoRA, tied, checkpointed activations": {
        "model": "llama",
        "lora": True,
        "gradient_checkpointing": True,
        "save": True,
    },
    "fsdp, unequal numbers of forward passes": {"model": "llama", "micro": 2, "token_budget": 150},
    "fsdp, bfloat16": {"model": "qwen2", "bf16": True},
    "ddp, LoRA": {"model": "llama", "lora": True, "strategy": "ddp"},
    "ddp, untied": {"model": "qwen2", "strategy": "ddp", "save": True},
}
_score_cells = trainer_module.score_cells


def build(kind: str, tokenizer: Any) -> Any:
    """A tiny model: a Llama with tied weights, or a Qwen2 (biases) with a head of its own."""
    if kind == "llama":
        return policy(tokenizer, tie_word_embeddings=True)
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model


def rows() -> list[Any]:
    """Seven rows of very different lengths."""
    long = " The mill is old, and the river runs past it." * 6
    return [contrast(n, **({"positive_response": f"Yes.{long}"} if n in (1, 4) else {})) for n in range(7)]


def made(name: str, folder: Path, processes: int) -> Any:
    """Return the trainer of a case: with the same global batches of 4 rows however many processes there are."""
    case = dict(CASES[name])
    kind, lora, save = case.pop("model"), case.pop("lora", False), case.pop("save", False)
    micro, strategy = min(case.pop("micro", 1), 4 // processes), case.pop("strategy", "fsdp")
    checkpointed = case.pop("gradient_checkpointing", False)
    trainer_module.score_cells = functools.partial(_score_cells, token_budget=case.pop("token_budget", 4096))
    tokenizer = build_tokenizer()
    seen = _Gradients()
    run = trainer(
        folder, tokenizer, rows(), build(kind, tokenizer), optim="adamw_torch", learning_rate=3e-4, max_steps=STEPS,
        weight_decay=0.1, max_grad_norm=1.0, per_device_train_batch_size=micro, logging_steps=1,
        gradient_accumulation_steps=4 // (micro * processes), save_strategy="steps" if save else "no",
        save_steps=SAVED, save_total_limit=2, callbacks=[ManifestCallback(), seen],
        eval_dataset=rows()[:3], per_device_eval_batch_size=1,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if lora else None,
        **strategy_arguments("single" if processes == 1 else strategy, gradient_checkpointing=checkpointed), **case,
    )  # fmt: skip
    run.say, run.gradients = (lambda _: None), seen.found
    return run


def finished(run: Any, folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Evaluate, train, evaluate and save; return the figures and where the weights and the gradients are."""
    before = run.evaluate()["eval_loss"]
    run.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    figures = {"losses": [log["loss"] for log in step_logs(run)], "norms": [log["grad_norm"] for log in step_logs(run)]}
    run.save_model(str(folder))
    if run.args.process_index == 0 and not checkpoint:
        save_file({name: value.contiguous() for name, value in run.gradients.items()}, folder / "gradients")
    return figures | {"evaluations": [before, run.evaluate()["eval_loss"]], "folder": str(folder)}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor that may be sharded; every process has to call it."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


class _Gradients(TrainerCallback):
    """Keeps the (clipped) gradients of the first and the last step."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if state.global_step in (0, STEPS - 1):
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    plain = name.removeprefix("module.").replace("_checkpoint_wrapped_module.", "")
                    self.found[f"{state.global_step} {plain}"] = whole(parameter.grad)


def gathers(folder: Path, processes: int) -> dict[str, int]:
    """All-gathers of one micro-batch: with the head in one chunk, in many, and with activations recomputed."""
    counts = {}
    for name, case, logits in (
        ("one chunk", "fsdp, untied", 1 << 25),
        ("many chunks", "fsdp, untied", 1 << 11),
        ("checkpointed, tied", "fsdp, tied, checkpointed activations", 1 << 11),
    ):
        run = made(case, folder, processes)
        run.train()
        batch = run.data_collator([run.train_dataset[0]])
        before, chunked_head.CHUNK_LOGITS["cpu"] = chunked_head.CHUNK_LOGITS["cpu"], logits
        with CommDebugMode() as seen:
            run.training_step(run.model_wrapped, batch)
        chunked_head.CHUNK_LOGITS["cpu"] = before
        counts[name] = sum(count for kind, count in seen.get_comm_counts().items() if "gather" in str(kind))
    return counts


def main(folder: Path, other: Path) -> None:
    """Do each case, and what goes on from the checkpoints in ``other``, and leave FOLDER/rank-N.json."""
    torch.set_num_threads(1)
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        own = folder / name
        found[name] = finished(made(name, own / "checkpoints", processes), own / "final")
        if case.get("save"):
            checkpoint = other / name / "checkpoints" / f"checkpoint-{SAVED}"
            found[f"resumed {name}"] = finished(made(name, own / "again", processes), own / "resumed", checkpoint) | {
                "intact": verifies(checkpoint)
            }
    found["gathers"] = gathers(folder / "gathers", processes)
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
