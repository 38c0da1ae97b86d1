"""SSOTrainer: a transformers.Trainer with the loss of Self-Steering Optimization."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, set_seed

from selfsteer.chat import Chat
from selfsteer.errors import DataError, TrainingDiverged, WorkFailed
from selfsteer.logprobs import (
    PairLogps,
    pair_views,
    prepare_scoring,
    row_attention_on,
    row_tokens,
    score_cells,
    shares_prompts,
    view_cells,
)
from selfsteer.losses import SSOLoss
from selfsteer.models import load_model
from selfsteer.policy.adapters import check_trainable, with_adapter
from selfsteer.policy.balance import BalancedSampler
from selfsteer.policy.config import SSOConfig
from selfsteer.policy.dataset import ContrastDataset, collate, kept_contrasts, trainable, without_over_long
from selfsteer.policy.distributed import anywhere, check_even, first_time, gathered, joined, shared_out, summed
from selfsteer.policy.nan_guard import NanGuard
from selfsteer.policy.objective import objective_of
from selfsteer.policy.preview import preview
from selfsteer.policy.reference import ReferenceKey
from selfsteer.policy.sharding import ShardingTrainer
from selfsteer.policy.step_zero import start_gaps, start_line, start_tolerance
from selfsteer.policy.unchanged import Unchanged
from selfsteer.policy.warmup import WarmupTrainer
from selfsteer.records import Contrast
from selfsteer.views import View


class SSOTrainer(ShardingTrainer, WarmupTrainer):
    """Train a policy on contrasts (arXiv 2410.17131): with SSO's three views, or another ``objective`` of its settings.

    Args:
        model: A causal language model with float32 (or float64) weights, or the name of one.
        args: An :class:`SSOConfig`.
        train_dataset: Rows with the columns of :class:`Contrast` (a datasets.Dataset or a sequence of either form).
            Rows that are not ``kept`` are left out, and so are those with a prompt of ``max_length`` tokens or more.
            Stored ``scores`` with the key of the model as given, the settings and the row's tokens are the reference
            log-probs. Other rows' reference is scored once, before the first step, with the model as given, adapters
            active. (An objective without a reference takes any rows; ``reference="stored"`` takes any one weights'.)
        eval_dataset: The same, for ``evaluate``; or a dictionary of such data sets. ``evaluate`` and ``predict`` also
            take new ones: before the first step any, after that such as bring scores with the start's key.
        processing_class: The model's tokenizer.
        peft_config: A peft configuration for LoRA and its kin; ``args.seed`` decides how a fresh adapter starts. Of a
            model that brings an adapter, that one is trained.
        **trainer_kwargs: Anything else that transformers.Trainer takes.

    Attributes:
        say: Takes the lines that a fresh training prints once, on process zero: ``show_examples`` examples, and (with
            ``check_start``) the unweighted loss terms beside their known value. ``print`` unless set.

    Raises:
        ConfigError: The model brings an adapter with other settings than ``peft_config``; or several processes are not
            to get equally many micro-batches.
        DataError: No row is kept or fits, or a row's scores have the key of other weights, settings or tokens.
        WorkFailed: Before the first step the policy differs from its reference; or no step changed a weight.
        TrainingDiverged: A loss is not finite (the message names the rows), or a gradient, or a weight at the end.
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
        model = load_model(model) if isinstance(model, str) else model
        self._objective = objective_of(args)
        self.views = self._objective.views
        self.cells = view_cells(self.views)
        self._chat = Chat(processing_class, template_kwargs=args.chat_template_kwargs)
        self._start = ReferenceKey(model, self.cells, args.max_length, stored=args.reference == "stored")
        self._moved = False
        train_rows, eval_rows = (
            _each(data, lambda rows: self._read(rows, args)) for data in (train_dataset, eval_dataset)
        )
        # Before an adapter is put on: its key is that of the model that scored the rows.
        for data in (train_rows, eval_rows) if self._objective.compares else ():
            _each(data, lambda rows: self._start.read_weights(model, rows))
        self._metrics: dict[str, dict[str, float]] = {split: defaultdict(float) for split in ("start", "train", "eval")}
        self.say: Callable[[str], None] = print
        set_seed(args.seed)  # transformers does so later, after a fresh adapter is drawn
        model = with_adapter(model, peft_config)
        if train_dataset is not None:
            check_trainable(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            eval_dataset=eval_dataset,  # with an eval_strategy the base class needs it
            processing_class=processing_class,
            **trainer_kwargs,
        )
        check_even(self.accelerator)
        if self.accelerator.num_processes > 1:
            prepare_scoring(self.model)
        self.add_callback(NanGuard)
        self.add_callback(Unchanged)
        self.add_callback(_AtStart(self))
        self._start.mixed_precision = self.accelerator.mixed_precision
        self.train_dataset = _each(train_rows, lambda rows: self._with_reference(rows, refuse=True))
        self.eval_dataset = _each(eval_rows, lambda rows: self._with_reference(rows, refuse=True))

    def _read(self, rows: Any, args: SSOConfig) -> list[Contrast]:
        contrasts = kept_contrasts(rows, self._chat)  # dropped rows are in the files too, with their reasons
        if not contrasts:
            raise DataError("no row is kept, so there is nothing to train on", do="relax the quality filters")
        rows = trainable(contrasts, self.views, allow_harmful=args.allow_harmful_targets)
        return without_over_long(rows, args.max_length)

    def _later(self, data: Any) -> Any:
        """Prepare rows that evaluate or predict is given; None, and what is prepared already, pass."""
        if data is None or isinstance(data, str | ContrastDataset):
            return data
        rows = self._read(data, self.args)
        if not self._has_moved and self._objective.compares:
            self._start.read_weights(self.model, rows)
        return self._with_reference(rows, refuse=False)

    def _with_reference(self, rows: Sequence[Contrast], *, refuse: bool) -> ContrastDataset:
        """Use each row's stored scores where they are the start's, and score the others while the start is loaded."""
        if not self._objective.compares:
            return ContrastDataset(rows, torch.zeros(len(rows), len(self.cells)))
        reference = self._start.reference(rows, refuse=refuse)
        lacking = [row for row, sums in zip(rows, reference, strict=True) if sums is None]
        if lacking and self._has_moved:
            raise self._start.too_late(lacking)
        self._start.warn_of_rescoring(lacking)
        scored = iter(self._score(lacking) if lacking else [])
        return ContrastDataset(rows, torch.stack([next(scored) if sums is None else sums for sums in reference]))

    @property
    def _has_moved(self) -> bool:
        """Whether an optimiser step was taken, in this training or one before."""
        return self._moved or self.state.global_step > 0

    @torch.no_grad()
    def _score(self, contrasts: Sequence[Contrast]) -> list[Tensor]:
        """Return (C,) summed log-probs of each row under the policy as it is, in the training's precision.

        Each process scores its share: the weights are whole in all of them until training starts.
        """
        self.model.eval()
        found = torch.zeros(len(contrasts), len(self.cells), dtype=self._start.dtype)
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            for place in shared_out(len(contrasts)):
                sums, _ = score_cells(self.model, [contrasts[place]], self.cells, max_length=self.args.max_length)
                found[place] = sums[0].cpu()
        return list(joined(found))

    @property
    def examples(self) -> int:
        """Number of rows trained on."""
        return len(self.train_dataset) if self.train_dataset is not None else 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._moved = self._has_moved

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Do the forward and the backward pass of a micro-batch, over prompt-sharing rows where these are exact."""
        # Gradient checkpointing attends again in the backward pass. Between micro-batches the model attends as any
        # other does, so that callbacks may generate with it.
        with row_attention_on(model) if shares_prompts(model) else nullcontext():
            return super().training_step(model, inputs, num_items_in_batch)

    def get_train_dataloader(self) -> Any:
        """Return the batches of the training; with several processes, all of them get about as many tokens."""
        loader = super().get_train_dataloader()
        order, own = loader.get_sampler(), self.accelerator.dataloader_config
        if self.accelerator.num_processes > 1 and isinstance(order, SeedableRandomSampler) and not own.split_batches:
            tokens = [row_tokens(row, self.cells, self.args.max_length) for row in self.train_dataset.contrasts]
            micro, accumulate = self.args.train_batch_size, self.args.gradient_accumulation_steps
            loader.set_sampler(BalancedSampler(order, tokens, self.accelerator.num_processes, micro, accumulate))
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the batches of an evaluation; rows that are given here get their reference first."""
        return super().get_eval_dataloader(self._later(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the batches of a prediction; rows that are given here get their reference first."""
        return super().get_test_dataloader(self._later(test_dataset))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of one optimiser step and their number of examples over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [*batches[:-1], *map(self._counted, batches[-1:])]
        count = sum(batch.get("counted", len(batch["contrasts"])) for batch in batches)
        return batches, gathered(torch.tensor([count])).sum().to(device)

    def _counted(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add to the newest micro-batch of a data loader how many of its examples count; the rest are repeats."""
        counted = first_time(self.accelerator, len(batch["contrasts"]), drop_last=self.args.dataloader_drop_last)
        return batch | {"counted": counted}

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the examples' losses over the number of examples in the optimiser step."""
        contrasts = inputs["contrasts"]
        counted = inputs.get("counted", len(contrasts))
        with self.accelerator.autocast():
            sums, counts = score_cells(model, contrasts, self.cells, max_length=self.args.max_length)
        policy = pair_views(sums, counts, self.cells, self.views)
        reference = pair_views(inputs["reference"].to(sums), counts, self.cells, self.views)
        if self._starts:
            self._check_start(policy, reference)
        assert self._objective.loss is not None  # SSOConfig refuses such an objective
        bundle = self._objective.loss(policy, reference)
        finite = torch.isfinite(bundle.loss.detach()).tolist()
        bad = [row.id for row, good in zip(contrasts, finite, strict=True) if not good]
        if anywhere(bool(bad)):
            where = f"rows {', '.join(bad) or 'of another process'}, step {self.state.global_step}"
            do = "lower the learning rate, or drop those rows; the last checkpoint is kept"
            raise TrainingDiverged("the loss is not finite", where=where, do=do)
        self._record(bundle, policy, counted)
        # Gradients are averaged over processes, while the normaliser counts the examples of all of them.
        total = max(counted, 1) if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = bundle.loss[:counted].sum() / total
        return (loss, {}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Return the mean loss of one evaluation batch; the other figures go to the log."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(self._counted(inputs))).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means, over all processes' examples since the last log, of every loss term and view's figures."""
        evaluated = [key.removesuffix("loss") for key in logs if key.endswith("_loss") and key != "train_loss"]
        prefix, split = (evaluated[0], "eval") if evaluated else ("", "train")
        # Anything else may be logged by one process alone, which must not wait for the others.
        if evaluated or not logs.keys().isdisjoint({"loss", "train_loss"}):
            logs.update(self._means(split, prefix))
        super().log(logs, start_time)

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> Any:
        """Return transformers.Trainer's output, its metrics with every view's figures; there are no predictions."""
        output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        output.metrics.update(self._means("eval", f"{metric_key_prefix}_"))
        return output

    def _means(self, split: str, prefix: str) -> dict[str, float]:
        """Return the figures gathered since the last call as means over their examples, and forget them."""
        sums = summed(self._metrics[split])
        self._metrics[split].clear()
        count = sums.pop("examples", 0.0)
        return {f"{prefix}{name}": value / count for name, value in sums.items()}

    @torch.no_grad()
    def _record(self, bundle: SSOLoss, policy: Mapping[View, PairLogps], counted: int) -> None:
        figures = {"loss/base": bundle.base, "loss/steering": bundle.steering, "loss/sft": bundle.sft}
        figures["weight"] = bundle.weight
        for view, (chosen, rejected) in bundle.rewards.items():
            figures[f"rewards/{view}/chosen"], figures[f"rewards/{view}/rejected"] = chosen, rejected
            figures[f"rewards/{view}/accuracy"] = (chosen > rejected).float()
            figures[f"rewards/{view}/margin"] = chosen - rejected
        for view, pair in policy.items():
            figures[f"mean_logps/{view}/chosen"] = pair.chosen_mean
            figures[f"mean_logps/{view}/rejected"] = pair.rejected_mean
        self._add("train" if self.model.training else "eval", figures, counted)
        if self._starts:
            self._add("start", bundle.terms, counted)

    def _add(self, split: str, figures: Mapping[Any, Tensor], counted: int) -> None:
        sums = self._metrics[split]
        for name, values in figures.items():
            sums[name] += values[:counted].sum().item()
        sums["examples"] += counted

    @property
    def _starts(self) -> bool:
        """Whether the policy has to equal its reference: before the first step, unless the settings name another."""
        own = self.args.check_start and self.args.reference == "start" and self._objective.compares
        return bool(own and self.model.training and self.state.global_step == 0)

    def _check_start(self, policy: Mapping[View, PairLogps], reference: Mapping[View, PairLogps]) -> None:
        """Before the first step the policy is its own reference; anything else is a wrong reference or a wrong row.

        The keys of stored scores don't make this check needless: a rope factor, for one, is in no weight.
        """
        tolerance = start_tolerance(self.accelerator.mixed_precision, self.model)
        # Gathered, so that all processes stop, and with the same message.
        for view, gap in zip(policy, gathered(start_gaps(policy, reference)).amax(dim=0).tolist(), strict=True):
            if gap > tolerance:
                raise WorkFailed(
                    f"before the first step the policy differs from its reference by {gap:.3g} nats per token",
                    where=f"view {view}, tolerance {tolerance:g}",
                    do="drop the column scores to have the reference scored again; turn dropout off; or, where the "
                    "policy is meant to differ from its reference at the start, set check_start=False",
                )


def _each(data: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to a data set, or to each of a dictionary of data sets; None stays None."""
    if isinstance(data, dict):
        return {name: change(rows) for name, rows in data.items()}
    return None if data is None else change(data)


class _AtStart(TrainerCallback):
    """Prints what a fresh training starts from: examples, then the loss terms of the first step."""

    def __init__(self, trainer: SSOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: SSOConfig, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        trainer = self._trainer
        if state.global_step == 0 and state.is_world_process_zero:
            rows = trainer.train_dataset.contrasts[: args.show_examples]
            for number, row in enumerate(rows, 1):
                title = f"example {number} of {len(rows)}"
                trainer.say(preview(row, trainer.views, trainer._chat, args.max_length, title))

    def on_pre_optimizer_step(self, args: SSOConfig, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            means = self._trainer._means("start", "")  # in every process: it sums over all of them
            line = start_line(args.base_loss, args.beta, means) if means else ""
            if line and state.is_world_process_zero:
                self._trainer.say(line)
