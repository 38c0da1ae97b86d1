"""The parts of benchmarks/gpu.py that are timed: the matrix product, SSO steps, SSOTrainer."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from functools import partial
from typing import Any

import torch
from gpu_scale import CELLS, PAD, Cases, Row, Scale, attending, free, measured, random_model
from measuring import matmul_rate, needed, synchronize
from torch import Tensor
from ways import BETA, Plain, autocast

from examples import drawn_examples
from selfsteer.chat import Chat
from selfsteer.logprobs import pair_views, row_attention, row_attention_on, score_cells
from selfsteer.losses import sso_loss
from selfsteer.records import Contrast
from selfsteer.views import SSO_VIEWS


class Stepper:
    """A random policy that is its own reference, its optimiser and the examples of one step.

    The learning rate is 0, so that every way and every repetition sees the same weights; the optimiser does all its
    work nevertheless. The reference is scored once in every step, as an epoch scores each example once.
    """

    def __init__(self, scale: Scale, size: str, kind: str) -> None:
        self.scale, self.kind = scale, kind
        shape = scale.shapes[size]
        examples, *lengths = scale.step
        self.rows = drawn_examples(examples, *lengths, shape["vocab_size"])
        self.model = random_model(shape, scale.device).train()
        self.floors = [needed(self.model, row) for row in self.rows]
        if kind == "LoRA":
            from selfsteer.config import LoraSettings
            from selfsteer.policy.adapters import lora_config, with_adapter

            self.model = with_adapter(self.model, lora_config(LoraSettings()))
        elif size == "7B":  # weights, gradients and the optimiser's state leave no room for all layers' activations
            self.model.gradient_checkpointing_enable()
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if kind == "8-bit Adam":
            from bitsandbytes.optim import AdamW8bit

            self.optimizer: Any = AdamW8bit(self.weights, lr=0.0)
        else:
            self.optimizer = torch.optim.AdamW(self.weights, lr=0.0, fused=True)

    @property
    def flops(self) -> float:
        """What a step needs at least, the reference included; recomputation does not count."""
        back = "adapting" if self.kind == "LoRA" else "training"
        return sum(one.forward + getattr(one, back) for one in self.floors)

    @property
    def tokens(self) -> int:
        """Tokens of the six sequences of each example, whichever way they are computed."""
        pairs = [(row.prompt_ids(cell.prompt), row.response_ids(cell.role)) for row in self.rows for cell in CELLS]
        return sum(len(prompt) + len(response) for prompt, response in pairs)

    def step(self, shared: bool) -> tuple[float, float]:
        """One optimiser step; returns the mean loss of its examples and the norm of the gradient of their sum."""
        losses = []
        plain = Plain(self.model, self.model, self.rows, PAD, True)
        for index, row in enumerate(self.rows):
            losses.append(self._by_rows(row) if shared else plain.step(index))
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack(losses).mean().item(), norm.item()

    def _by_rows(self, row: Contrast) -> Tensor:
        with row_attention_on(self.model):
            # Two contexts: autocast keeps cast weights until its end, and those cast here would give no gradient.
            with autocast(True, self.scale.device), torch.no_grad():
                before, _ = score_cells(self.model, [row], CELLS)
            with autocast(True, self.scale.device):
                sums, counts = score_cells(self.model, [row], CELLS)
            pairs = (pair_views(one, counts, CELLS, SSO_VIEWS) for one in (sums, before))
            loss = sso_loss(*pairs, base="dpo", beta=BETA).loss.mean()
            loss.backward()
        return loss.detach()


_held: dict[tuple[str, str], Stepper] = {}


def stepper(scale: Scale, size: str, kind: str) -> Stepper:
    """Return the stepper, which the ways share; the one before is freed first."""
    if (size, kind) not in _held:
        _held.clear()
        free()
        _held[size, kind] = Stepper(scale, size, kind)
    return _held[size, kind]


def step_cases(scale: Scale, size: str) -> Cases:
    """SSO steps of one shape in bfloat16 over float32 weights, rows and padded sequences side by side."""

    def case(kind: str, shared: bool) -> Row:
        own = stepper(scale, size, kind)
        with attending("chooses") as used:
            found = measured(partial(own.step, shared), scale)
        rate = matmul_rate(torch.bfloat16, scale.product, device=scale.device)
        kernel = (used[0] if used else "segments") if shared else "SDPA"
        checkpoints = ", activation checkpointing" if row_attention.recomputes(own.model) else ""
        loss, norm = found.result
        return {
            "seconds": found.seconds,
            "memory_gb": found.peak_gb,
            "tokens_s": own.tokens / found.seconds,
            "share": own.flops / found.seconds / rate,
            "loss": loss,
            "gradient_norm": norm,
            "note": f"loss {loss:.5f}, gradient {norm:.4g}, {len(own.rows)} examples, {kernel}{checkpoints}",
        }

    for kind in ("AdamW", "LoRA", "8-bit Adam") if size == "1.5B" else ("LoRA", "8-bit Adam"):
        for shared in (True, False):
            way = "prompt-sharing rows" if shared else "padded sequences, full logits"
            yield f"{size} {kind}, {way}", partial(case, kind, shared)


def product_cases(scale: Scale) -> Cases:
    """The matrix product that shares are of."""

    def case(dtype: torch.dtype) -> Row:
        rate = matmul_rate(dtype, scale.product, device=scale.device)
        return {"seconds": 2 * scale.product**3 / rate, "note": f"{rate / 1e12:.4g} TFLOP/s"}

    for dtype in (torch.bfloat16, torch.float32):
        yield f"{scale.product} x {scale.product}, {str(dtype).removeprefix('torch.')}", partial(case, dtype)


def trainer_cases(scale: Scale) -> Cases:
    """SSOTrainer itself: reference, check of step 0, two steps."""

    def case() -> Row:
        from transformers import PrinterCallback

        from selfsteer.policy import SSOConfig, SSOTrainer

        tokenizer = byte_tokenizer()
        shape = scale.attention | {"num_hidden_layers": 2, "vocab_size": len(tokenizer)}
        own = {"tokenizer": Chat(tokenizer).fingerprint}  # or the trainer would tokenise the rows' texts
        drawn = drawn_examples(2, *scale.row, len(tokenizer))
        rows = [dataclasses.replace(row, provenance=own) for row in drawn]
        lines: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            args = SSOConfig(
                folder, bf16=scale.device == "cuda", max_steps=2, per_device_train_batch_size=1, learning_rate=1e-4,
                report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=scale.device == "cpu",
                dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = SSOTrainer(random_model(shape, scale.device), args, rows, processing_class=tokenizer)
            trainer.say = lines.append
            trainer.remove_callback(PrinterCallback)
            started = time.perf_counter()
            trainer.train()
            synchronize(scale.device)
        return {"seconds": time.perf_counter() - started, "note": " ".join(lines)}

    yield "SSOTrainer, two steps of a small model", case


def byte_tokenizer() -> Any:
    """Return a tokenizer of bytes with a chat template, since nothing can be downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<start>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", additional_special_tokens=["<start>"]
    )
    fast.chat_template = (
        "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
    )
    return fast
