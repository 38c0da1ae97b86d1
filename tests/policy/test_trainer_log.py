"""The figures of training and evaluation: every view's, as means over the examples."""

from __future__ import annotations

import pytest

from selfsteer.losses import sso_loss
from selfsteer.views import SSO_VIEWS, View
from tests.policy.helpers import contrasts, plain_logps, policy, step_logs, trainer

FIGURES = {"loss/base", "loss/steering", "loss/sft", "weight"} | {
    name
    for view in SSO_VIEWS
    for name in (
        *(f"rewards/{view}/{part}" for part in ("chosen", "rejected", "accuracy", "margin")),
        *(f"mean_logps/{view}/{part}" for part in ("chosen", "rejected")),
    )
}


def expected_figures(policy_logps, reference_logps) -> dict[str, float]:
    """Means over all examples, from log-probs of plain transformers."""
    bundle = sso_loss(policy_logps, reference_logps, base="ipo", beta=0.2)
    figures = {"loss/base": bundle.base, "loss/steering": bundle.steering, "loss/sft": bundle.sft}
    figures["weight"] = bundle.weight
    for view, pair in policy_logps.items():
        # Worked out from the definition: beta times the difference of mean log-probs (IPO).
        chosen = 0.2 * (pair.chosen_mean - reference_logps[view].chosen_mean)
        rejected = 0.2 * (pair.rejected_mean - reference_logps[view].rejected_mean)
        figures |= {f"rewards/{view}/chosen": chosen, f"rewards/{view}/rejected": rejected}
        figures |= {
            f"rewards/{view}/margin": chosen - rejected,
            f"rewards/{view}/accuracy": (chosen > rejected).float(),
        }
        figures |= {f"mean_logps/{view}/chosen": pair.chosen_mean, f"mean_logps/{view}/rejected": pair.rejected_mean}
    return {"loss": bundle.loss.mean().item()} | {name: values.mean().item() for name, values in figures.items()}


def test_a_step_logs_means_over_its_examples_also_with_a_ragged_micro_batch(tmp_path, tokenizer):
    rows = contrasts(5)
    # Reference and policy differ (as after some steps), so no figure is trivially zero.
    start, reference = (plain_logps(policy(tokenizer, seed), tokenizer, rows) for seed in (0, 1))
    run = trainer(
        tmp_path, tokenizer, rows, policy(tokenizer, seed=1), gradient_accumulation_steps=3, check_start=False
    )
    run.model.load_state_dict(policy(tokenizer, seed=0).state_dict())
    run.train()
    (logs,) = step_logs(run)
    expected = expected_figures(start, reference)
    assert expected.keys() == FIGURES | {"loss"}
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert 0 < logs["rewards/base/accuracy"] < 1 or 0 < logs["rewards/positive/accuracy"] < 1


def test_several_steps_a_log_line_are_averaged_over_all_their_examples(tmp_path, tokenizer):
    rows = contrasts(5)
    every = trainer(tmp_path, tokenizer, rows)
    every.train()
    together = trainer(tmp_path, tokenizer, rows, logging_steps=3)
    together.train()
    (line,) = step_logs(together)
    sizes = [2, 2, 1]
    for name in FIGURES:
        mean = sum(size * logs[name] for size, logs in zip(sizes, step_logs(every), strict=True)) / 5
        assert line[name] == pytest.approx(mean, rel=1e-4, abs=1e-6), name


def test_evaluation_gives_the_same_figures_with_their_prefix(tmp_path, tokenizer):
    rows, held_out = contrasts(2), contrasts(6)[3:]
    run = trainer(tmp_path, tokenizer, rows, eval_dataset=held_out, per_device_eval_batch_size=2, num_train_epochs=3)
    reference = {view: pair.detach() for view, pair in plain_logps(run.model, tokenizer, held_out).items()}
    before = run.evaluate()
    assert before["eval_loss/base"] == pytest.approx(6.25, rel=1e-4)
    assert run.model.training is False
    run.train()
    metrics = run.evaluate()
    run.model.eval()
    expected = expected_figures(plain_logps(run.model, tokenizer, held_out), reference)
    assert expected[f"rewards/{View.BASE}/chosen"] != 0
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert FIGURES.isdisjoint(metrics)
    assert run.evaluate(metric_key_prefix="test")["test_rewards/base/margin"] == metrics["eval_rewards/base/margin"]


def test_evaluating_between_steps_leaves_the_training_and_its_figures_alone(tmp_path, tokenizer):
    rows = contrasts(4)
    plain = trainer(tmp_path, tokenizer, rows)
    plain.train()
    run = trainer(tmp_path, tokenizer, rows, eval_dataset=contrasts(6)[4:], eval_strategy="steps", eval_steps=1)
    run.train()
    assert sum("eval_rewards/base/margin" in logs for logs in run.state.log_history) == 2
    assert step_logs(run) == step_logs(plain)
