"""Three ways to compute the gradients of one SSO example: (a) plain, (b) TRL, (c) prompt-sharing rows.

Each takes the policy and the reference model and the examples; ``prepare`` does what is done once a round, ``step``
forward, loss and backward for one example (no optimiser step: it is the same for all).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from selfsteer.logprobs import PairLogps, row_attention_on
from selfsteer.losses import sso_loss
from selfsteer.policy import SSOConfig, SSOTrainer
from selfsteer.policy.dataset import collate
from selfsteer.records import Contrast
from selfsteer.views import PAIRINGS, SSO_VIEWS, View

BETA = 0.1
_QUIET: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}


def autocast(bf16: bool, device: str = "cpu") -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=bf16)


class Plain:
    """(a) As the authors' trainer works: the six sequences in a padded batch, full float32 logits, and a reference
    forward pass in every step.
    """

    name = "a"

    def __init__(self, policy: Any, reference: Any, rows: Sequence[Contrast], tokenizer: Any, bf16: bool) -> None:
        self.policy, self.reference, self.rows, self.bf16 = policy, reference, rows, bf16
        self.pad = tokenizer.pad_token_id

    def prepare(self) -> None:
        """Do nothing: all of it is done in every step."""

    def step(self, index: int) -> Tensor:
        """Forward, loss, backward."""
        row = self.rows[index]
        with autocast(self.bf16, next(self.policy.parameters()).device.type):
            ours = self.pairs(self.policy, row)
            with torch.no_grad():
                theirs = self.pairs(self.reference, row)
        loss = sso_loss(ours, theirs, base="dpo", beta=BETA).loss.mean()
        loss.backward()
        return loss.detach()

    def pairs(self, model: Any, row: Contrast) -> dict[View, PairLogps]:
        """Return each view's log-probs of one example, (1,) each, from the logits of all six sequences at once."""
        device = next(model.parameters()).device
        named = [(PAIRINGS[v].prompt, role) for v in SSO_VIEWS for role in (PAIRINGS[v].chosen, PAIRINGS[v].rejected)]
        pairs = [(row.prompt_ids(prompt), row.response_ids(role)) for prompt, role in named]
        width = max(len(prompt) + len(response) for prompt, response in pairs)
        ids = torch.tensor([[*p, *r, *[self.pad] * (width - len(p) - len(r))] for p, r in pairs], device=device)
        lengths = torch.tensor([len(p) + len(r) for p, r in pairs], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        logps = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
        logps = logps[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        sums = [logps[i, len(p) - 1 : len(p) + len(r) - 1].sum()[None] for i, (p, r) in enumerate(pairs)]
        counts = [torch.tensor([len(response)], device=device) for _, response in pairs]
        ends = zip(sums[::2], sums[1::2], counts[::2], counts[1::2], strict=True)
        return {view: PairLogps(*own) for view, own in zip(SSO_VIEWS, ends, strict=True)}


class TRL:
    """(b) TRL's DPOTrainer on the same three pairs an example, reference log-probs precomputed by it.

    Its loss is the mean of the three plain DPO losses: no weight, no steering coefficient.
    """

    name = "b"

    def __init__(self, policy: Any, reference: Any, rows: Sequence[Contrast], tokenizer: Any, bf16: bool) -> None:
        self.policy, self.reference, self.rows, self.tokenizer, self.bf16 = policy, reference, rows, tokenizer, bf16

    def prepare(self) -> None:
        """Build the trainer, which precomputes the reference's log-probs; the same token ids go in."""
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        class Tokenised(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
                return dataset

        table = [
            {
                "prompt_ids": row.prompt_ids(PAIRINGS[view].prompt),
                "chosen_ids": row.response_ids(PAIRINGS[view].chosen),
                "rejected_ids": row.response_ids(PAIRINGS[view].rejected),
            }
            for row in self.rows
            for view in SSO_VIEWS
        ]
        args = DPOConfig(
            output_dir=tempfile.mkdtemp(), beta=BETA, bf16=self.bf16, max_length=None, precompute_ref_log_probs=True,
            per_device_train_batch_size=3, precompute_ref_batch_size=3, gradient_checkpointing=False, **_QUIET,
        )  # fmt: skip
        self.trainer = Tokenised(
            model=self.policy, ref_model=self.reference, args=args, train_dataset=Dataset.from_list(table),
            processing_class=self.tokenizer,
        )  # fmt: skip
        self.trainer.ref_model = None

    def step(self, index: int) -> Tensor:
        """Forward, loss, backward."""
        data = self.trainer.train_dataset
        batch = self.trainer.data_collator([data[3 * index + i] for i in range(3)])
        with autocast(self.bf16):
            loss: Tensor = self.trainer.compute_loss(self.policy, batch)
        loss.backward()
        return loss.detach()


class Rows:
    """(c) Ours, through SSOTrainer: packed prompt-sharing rows, chunked head, reference scored once."""

    name = "c"

    def __init__(self, policy: Any, reference: Any, rows: Sequence[Contrast], tokenizer: Any, bf16: bool) -> None:
        self.policy, self.reference, self.rows, self.tokenizer, self.bf16 = policy, reference, rows, tokenizer, bf16

    def prepare(self) -> None:
        """Build the trainer on the reference, which scores it once."""
        args = SSOConfig(
            tempfile.mkdtemp(), base_loss="dpo", beta=BETA, bf16=self.bf16, max_length=None, check_start=False, **_QUIET
        )
        self.trainer = SSOTrainer(self.reference, args, self.rows, processing_class=self.tokenizer)
        # From here on it trains the policy, and the reference model is not needed any more.
        self.trainer.model = self.trainer.model_wrapped = self.trainer.callback_handler.model = self.policy

    def step(self, index: int) -> Tensor:
        """Forward, loss, backward."""
        with row_attention_on(self.policy):
            loss: Tensor = self.trainer.compute_loss(self.policy, collate([self.trainer.train_dataset[index]]))
            loss.backward()
        return loss.detach()

    def unweighted(self) -> float:
        """The mean of the three views' plain losses in the steps since the last call, as TRL's loss is."""
        sums = self.trainer._metrics["train"]
        mean = (sums["loss/base"] + sums["loss/steering"]) / (3 * sums["examples"])
        sums.clear()
        return mean


WAYS = {way.name: way for way in (Plain, TRL, Rows)}
