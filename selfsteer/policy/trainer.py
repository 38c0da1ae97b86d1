"""SSOTrainer: a transformers.Trainer whose loss is Self-Steering Optimization's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfsteer.chat import Chat
from selfsteer.errors import DataError, TrainingDiverged, WorkFailed
from selfsteer.logprobs import PairLogps, pair_views, row_attention_on, score_cells, shares_prompts, view_cells
from selfsteer.losses import SSOLoss, sso_loss
from selfsteer.models import load_model
from selfsteer.policy.adapters import with_adapter
from selfsteer.policy.config import SSOConfig, loss_settings
from selfsteer.policy.data import ContrastDataset, collate, kept_contrasts, stored_reference
from selfsteer.records import Contrast
from selfsteer.views import SSO_VIEWS, View

_START_TOLERANCE = {False: 1e-4, True: 0.02}
"""Largest |policy - reference| mean log-prob before the first step, nats per token, without and with bf16 autocast."""


class SSOTrainer(Trainer):
    """Train a policy on contrasts: three views, a steering loss and an on-policy weight (arXiv 2410.17131).

    Args:
        model: A causal language model with float32 weights, or the name of one.
        args: An :class:`SSOConfig`.
        train_dataset: Rows with the columns of :class:`Contrast` (a datasets.Dataset or a sequence of either form).
            Rows that are not ``kept`` are left out. Their stored ``scores`` are the reference log-probs where all of
            them are there; else the reference is scored once, before the first step, with the model as given,
            adapters active.
        eval_dataset: The same, for ``evaluate``.
        processing_class: The model's tokenizer.
        peft_config: A peft configuration for LoRA and its kin; a model that brings an adapter goes on with that one.
        **trainer_kwargs: Anything else that transformers.Trainer takes.

    Raises:
        ConfigError: The model brings an adapter with other settings than ``peft_config``.
        DataError: No row is kept.
        WorkFailed: Before the first step the policy differs from its reference.
        TrainingDiverged: A loss is not finite (the message names the rows), or a gradient.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the number of examples in the whole optimiser step

    def __init__(
        self,
        model: Any,
        args: SSOConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        model = with_adapter(load_model(model) if isinstance(model, str) else model, peft_config)
        self.views = SSO_VIEWS if args.use_steering else SSO_VIEWS[:1]
        self.cells = view_cells(self.views)
        self._chat = Chat(processing_class)
        self._metrics: dict[str, dict[str, float]] = {"train": defaultdict(float), "eval": defaultdict(float)}
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            eval_dataset=eval_dataset,  # with an eval_strategy the base class asks for it
            processing_class=processing_class,
            **trainer_kwargs,
        )
        self.add_callback(_FiniteGradients)
        self.train_dataset = self._prepare(train_dataset) if train_dataset is not None else None
        self.eval_dataset = self._prepare(eval_dataset) if eval_dataset is not None else None

    def _prepare(self, rows: Any) -> ContrastDataset:
        contrasts = kept_contrasts(rows, self._chat)
        if not contrasts:
            raise DataError("no row is kept, so there is nothing to train on", do="relax the quality filters")
        reference = stored_reference(contrasts, self.cells, self.args.max_length)
        return ContrastDataset(contrasts, self._score(contrasts) if reference is None else reference)

    @torch.no_grad()
    def _score(self, contrasts: Sequence[Contrast]) -> Tensor:
        self.model.eval()
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            scores = [score_cells(self.model, [row], self.cells, max_length=self.args.max_length) for row in contrasts]
        return torch.cat([sums for sums, _ in scores]).float().cpu()

    @property
    def examples(self) -> int:
        """Number of rows trained on."""
        return len(self.train_dataset) if self.train_dataset is not None else 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does, with prompt-sharing rows where the architecture allows them."""
        with row_attention_on(self.model) if shares_prompts(self.model) else nullcontext():
            return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of one optimiser step and their number of examples over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["contrasts"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the examples' losses over the number of examples in the optimiser step."""
        contrasts = inputs["contrasts"]
        with self.accelerator.autocast():
            sums, counts = score_cells(model, contrasts, self.cells, max_length=self.args.max_length)
        policy = pair_views(sums, counts, self.cells, self.views)
        reference = pair_views(inputs["reference"].to(sums.device), counts, self.cells, self.views)
        if self.args.check_start and self.model.training and self.state.global_step == 0:
            self._check_start(policy, reference)
        bundle = sso_loss(policy, reference, **loss_settings(self.args))
        self._check_finite(bundle.loss, contrasts)
        self._record(bundle, policy)
        # Gradients are averaged over processes, while the normaliser counts the examples of all of them.
        total = len(contrasts) if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = bundle.loss.sum() / total
        return (loss, {}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Return the mean loss of one evaluation batch; the other figures go to the log."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means, over the examples since the last log, of every loss term and every view's figures."""
        evaluated = [key.removesuffix("loss") for key in logs if key.endswith("_loss") and key != "train_loss"]
        prefix, split = (evaluated[0], "eval") if evaluated else ("", "train")
        sums = self._metrics[split]
        count = sums.pop("examples", 0.0)
        logs.update({f"{prefix}{name}": value / count for name, value in sums.items()} if count else {})
        sums.clear()
        super().log(logs, start_time)

    @torch.no_grad()
    def _record(self, bundle: SSOLoss, policy: Mapping[View, PairLogps]) -> None:
        figures = {
            "loss/base": bundle.base,
            "loss/steering": bundle.steering,
            "loss/sft": bundle.sft,
            "weight": bundle.weight,
        }
        for view, (chosen, rejected) in bundle.rewards.items():
            figures[f"rewards/{view}/chosen"], figures[f"rewards/{view}/rejected"] = chosen, rejected
            figures[f"rewards/{view}/accuracy"] = (chosen > rejected).float()
            figures[f"rewards/{view}/margin"] = chosen - rejected
            figures[f"mean_logps/{view}/chosen"] = policy[view].chosen_mean
            figures[f"mean_logps/{view}/rejected"] = policy[view].rejected_mean
        sums = self._metrics["train" if self.model.training else "eval"]
        for name, values in figures.items():
            sums[name] += values.sum().item()
        sums["examples"] += len(bundle.loss)

    def _check_start(self, policy: Mapping[View, PairLogps], reference: Mapping[View, PairLogps]) -> None:
        """Before the first step the policy is its own reference; anything else is a wrong reference or a wrong row."""
        tolerance = _START_TOLERANCE[self.accelerator.mixed_precision == "bf16"]
        for view, pair in policy.items():
            gaps = [pair.chosen_mean - reference[view].chosen_mean, pair.rejected_mean - reference[view].rejected_mean]
            gap = torch.stack(gaps).abs().max().item()
            if gap > tolerance:
                raise WorkFailed(
                    f"before the first step the policy differs from its reference by {gap:.3g} nats per token",
                    where=f"view {view}, tolerance {tolerance:g}",
                    do="score the rows again with these weights and this precision; turn dropout off; or, where "
                    "another reference is meant, set check_start=False",
                )

    def _check_finite(self, loss: Tensor, contrasts: Sequence[Contrast]) -> None:
        finite = torch.isfinite(loss.detach()).tolist()
        bad = [row.id for row, good in zip(contrasts, finite, strict=True) if not good]
        if bad:
            raise TrainingDiverged(
                "the loss is not finite",
                where=f"rows {', '.join(bad)}, step {self.state.global_step}",
                do="lower the learning rate, or drop those rows; the last checkpoint is kept",
            )


class _FiniteGradients(TrainerCallback):
    """Stops before a gradient that is not finite reaches the weights: the losses of the step were finite."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any = None, **_: Any
    ) -> None:
        if args.fp16:  # the loss scaler looks for itself, skips such a step and lowers its scale
            return
        finite = [torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None]
        if finite and not torch.stack(finite).all():
            raise TrainingDiverged(
                "a gradient is not finite",
                where=f"step {state.global_step}",
                do="lower the learning rate or train in float32; the last checkpoint is kept",
            )
