"""The rate of each step: the warm-up loses none, and every later step has the rate that transformers gives it."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import TrainerCallback

from selfsteer.errors import ConfigError
from selfsteer.policy import SSOConfig
from tests.policy.helpers import contrasts, largest_change, policy, step_logs, trainer, weights


def rates(run, steps: int) -> list[float]:
    """The share of the learning rate that each of so many steps has, without training."""
    optimizer = run.create_optimizer()
    scheduler = run.create_scheduler(steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / run.args.learning_rate)
        optimizer.step()
        scheduler.step()
    return found


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(("settings", "steps", "expected"), [
    ({"warmup_ratio": 0.1}, 1, [1]),
    ({"warmup_ratio": 0.1}, 2, [1, 1]),
    ({"warmup_ratio": 0.1}, 3, [1, 1, cosine(1 / 2)]),
    ({"warmup_ratio": 0.5}, 6, [1 / 3, 2 / 3, 1, 1, cosine(1 / 3), cosine(2 / 3)]),
    ({"warmup_ratio": 0.25, "lr_scheduler_type": "linear"}, 8, [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ({"warmup_ratio": 0.4, "lr_scheduler_type": "constant_with_warmup"}, 5, [1 / 2, 1, 1, 1, 1]),
    ({"warmup_ratio": 1.0}, 4, [1 / 4, 2 / 4, 3 / 4, 1]),
    ({"warmup_ratio": 1.0}, 1, [1]),
    ({"warmup_ratio": 0.0}, 3, [1, cosine(1 / 3), cosine(2 / 3)]),
    ({"warmup_steps": 2, "lr_scheduler_type": "linear"}, 4, [1 / 2, 1, 1, 1 / 2]),
    ({"warmup_steps": 0.5, "lr_scheduler_type": "linear"}, 4, [1 / 2, 1, 1, 1 / 2]),
    ({"warmup_steps": 8}, 4, [1 / 8, 2 / 8, 3 / 8, 4 / 8]),
    ({"warmup_steps": 2, "lr_scheduler_type": "inverse_sqrt"}, 4, [1 / 2, 1, 1, math.sqrt(2 / 3)]),
    ({"warmup_steps": 1, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}}, 3,
     [1, 1, 0.75]),
    ({"warmup_steps": 2, "lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}, 6,
     [1 / 2, 1, 1, 1 / 2, 1, 1 / 2]),
    ({"warmup_steps": 1, "lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs":
      {"num_stable_steps": 1, "num_decay_steps": 2, "decay_type": "linear"}}, 4, [1, 1, 1, 1 / 2]),
    # These begin their warm-up above 0 themselves, and are left alone.
    ({"warmup_steps": 4, "lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs":
      {"num_stable_steps": 2, "num_decay_steps": 2, "min_lr_ratio": 0.5, "warmup_type": "linear"}}, 3,
     [0.5, 0.625, 0.75]),
    ({"warmup_steps": 2, "lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs":
      {"min_lr_rate": 0.0, "warmup_lr_rate": 0.25}}, 2, [0.25, 1]),
], ids=str)  # fmt: skip
def test_step_k_of_w_warm_up_steps_has_k_of_w_and_then_transformers_goes_on(
    tmp_path, tokenizer, settings, steps, expected
):
    run = trainer(tmp_path, tokenizer, contrasts(1), **({"lr_scheduler_type": "cosine"} | settings))
    assert rates(run, steps) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "constant_with_warmup", "inverse_sqrt"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("ratio", [0.0, 0.04, 0.1, 0.5, 1.0])
def test_no_step_has_rate_0_and_none_more_than_all(tmp_path, tokenizer, one_row, name, steps, ratio):
    one_row.lr_scheduler, one_row.args.lr_scheduler_type, one_row.args.warmup_ratio = None, name, ratio
    found = rates(one_row, steps)
    assert 0 < min(found) <= max(found) <= 1
    assert max(found) == 1, "the full rate is reached"


@pytest.fixture(scope="module")
def one_row(tmp_path_factory, tokenizer):
    return trainer(tmp_path_factory.mktemp("one"), tokenizer, contrasts(1))


@pytest.mark.parametrize(("ratio", "steps", "warmup"), [(0.07, 100, 7), (0.1, 30, 3), (0.1, 31, 4), (1.0, 9, 9)])
def test_the_warm_up_is_rounded_up_and_no_further(tmp_path, ratio, steps, warmup):
    assert SSOConfig(output_dir=str(tmp_path), warmup_ratio=ratio).get_warmup_steps(steps) == warmup


@pytest.mark.parametrize(("settings", "message"), [
    ({"warmup_ratio": 1.5}, "give 0 to 1"),
    ({"warmup_ratio": -0.1}, "give 0 to 1"),
    ({"warmup_ratio": 0.1, "warmup_steps": 3}, "both"),
])  # fmt: skip
def test_a_warm_up_that_can_not_be_is_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        SSOConfig(output_dir=str(tmp_path), **settings)


def test_a_scheduler_of_the_callers_stays_as_it_is(tmp_path, tokenizer, one_row):
    model = policy(tokenizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    own = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: done / 10)
    run = trainer(tmp_path, tokenizer, contrasts(1), model, warmup_steps=3, optimizers=(optimizer, own))
    assert run.create_scheduler(10) is own and own.get_last_lr() == [0]


class Rates(TrainerCallback):
    """The rate that the optimiser has in each step."""

    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, *, optimizer, **_):
        self.used.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_the_log_has_the_rate_that_each_step_used(tmp_path, tokenizer, ratio):
    used = Rates()
    run = trainer(
        tmp_path, tokenizer, contrasts(4), lr_scheduler_type="cosine", warmup_ratio=ratio, callbacks=[used],
        num_train_epochs=2, learning_rate=0.1, optim="sgd",
    )  # fmt: skip
    run.train()
    assert len(used.used) == 4
    assert [logs["learning_rate"] for logs in step_logs(run)] == used.used == pytest.approx(
        [0.1 * share for share in rates(trainer(tmp_path, tokenizer, contrasts(4), lr_scheduler_type="cosine",
                                                warmup_ratio=ratio, learning_rate=0.1), 4)]
    )  # fmt: skip


def test_the_only_step_of_a_training_trains_at_the_full_rate(tmp_path, tokenizer):
    model, still = policy(tokenizer), policy(tokenizer)
    run = trainer(
        tmp_path, tokenizer, contrasts(2), model, lr_scheduler_type="cosine", warmup_ratio=0.1, learning_rate=1e-3
    )
    run.train()
    assert step_logs(run)[0]["learning_rate"] == 1e-3
    # Adam's first step moves every weight that has a gradient by the learning rate.
    assert largest_change(weights(still), weights(run.model)) == pytest.approx(1e-3, rel=1e-2)
