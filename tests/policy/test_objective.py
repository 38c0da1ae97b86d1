"""What SSOTrainer minimises: each objective's loss and views, and whose log-probs the reference is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selfsteer.config import GeneratorSettings, TrainSettings
from selfsteer.errors import ConfigError, DataError, SelfsteerWarning
from selfsteer.losses import generator_loss
from selfsteer.policy import SSOTrainer
from selfsteer.policy.dataset import untrainable
from selfsteer.policy.objective import loss_fields, objective_of
from selfsteer.records import HARM_UNKNOWN
from selfsteer.views import View
from tests.policy.helpers import (
    contrasts,
    largest_change,
    plain_logps,
    policy,
    step_logs,
    trainer,
    weights,
    with_scores,
)

GENERATOR = {"objective": "generator", "base_loss": "dpo", "beta": 0.1, "sft_coef": 0.1}


def first_loss(tmp_path, tokenizer, rows, **options):
    """The logs of the first step over all rows, and the log-probs that the policy started from."""
    model = policy(tokenizer)
    with torch.no_grad():
        logps = plain_logps(model, tokenizer, rows)
    run = trainer(tmp_path, tokenizer, rows, model, per_device_train_batch_size=len(rows), **options)
    run.train()
    return step_logs(run)[0], logps


@pytest.mark.parametrize("terms", [["positive", "negative"], ["positive"], ["negative"]])
def test_the_generators_first_loss_is_that_of_its_formulas(tmp_path, tokenizer, terms):
    logs, logps = first_loss(tmp_path, tokenizer, contrasts(3), terms=terms, **GENERATOR)
    wanted = generator_loss(logps, logps, base="dpo", beta=0.1, sft_coef=0.1, terms=terms)
    assert logs["loss"] == pytest.approx(wanted.loss.mean().item(), rel=1e-4)
    assert {name.split("/")[1] for name in logs if name.startswith("rewards/")} == set(terms)


def test_formula_3_prefers_y_minus_under_the_negative_prompt(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2), negative="negative", **GENERATOR)
    assert run.views == (View.POSITIVE, View.NEGATIVE_STRICT)


def test_a_harmful_y_minus_is_no_target_of_formula_3_unless_that_is_allowed(tmp_path, tokenizer):
    rows = contrasts(3)
    rows[1] = dataclasses.replace(rows[1], negative_harmful="principle: Safety")
    options = GENERATOR | {"negative": "negative"}
    with pytest.warns(SelfsteerWarning, match="1 of 3 rows .* y-, is flagged as harmful \\(principle: Safety\\)"):
        run = trainer(tmp_path, tokenizer, rows, **options)
    assert [row.id for row in run.train_dataset.contrasts] == [rows[0].id, rows[2].id]
    unknown = dataclasses.replace(rows[1], negative_harmful=HARM_UNKNOWN)
    assert "it is unknown whether its target" in untrainable(unknown, View.NEGATIVE_STRICT)
    assert trainer(tmp_path, tokenizer, rows, **options, allow_harmful_targets=True).examples == 3
    assert trainer(tmp_path, tokenizer, rows, **GENERATOR).examples == 3, "as the rejected response it stays"


def test_fine_tuning_moves_y_plus_up_and_needs_no_reference(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(SSOTrainer, "_score", lambda self, rows: pytest.fail("scored a reference"))
    rows = contrasts(3)
    logs, logps = first_loss(tmp_path, tokenizer, rows, objective="sft", num_train_epochs=3)
    assert logs["loss"] == pytest.approx(-logps[View.BASE].chosen_mean.mean().item(), rel=1e-4)
    run = trainer(tmp_path, tokenizer, rows, objective="sft", num_train_epochs=10, per_device_train_batch_size=3)
    before = weights(run.model)
    run.train()
    steps = step_logs(run)
    assert steps[-1]["loss"] < steps[0]["loss"] and largest_change(before, weights(run.model)) > 0
    assert steps[-1]["mean_logps/base/chosen"] > steps[0]["mean_logps/base/chosen"]


def test_the_base_objective_is_sso_without_weight_and_steering(tmp_path, tokenizer):
    found = []
    for options in ({"objective": "base"}, {"use_weight": False, "use_steering": False}):
        run = trainer(tmp_path, tokenizer, contrasts(4), **options)
        run.train()
        found.append(weights(run.model))
    assert largest_change(*found) == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "ssoo"}, "Did you mean 'sso'"),
        ({"objective": "base", "steering_coef": 0.5}, "steering_coef=0.5 has no effect with objective 'base'"),
        ({"objective": "sft", "beta": 0.5}, "beta=0.5 has no effect"),
        ({"objective": "sso", "terms": ["positive"]}, "acts in generator only"),
        ({"objective": "generator", "use_weight": False}, "acts in sso only"),
        ({"objective": "generator", "terms": ["both"]}, "term"),
        ({"objective": "generator", "terms": ["positive"], "negative": "negative"}, "no effect"),
        ({"use_weight": False, "onpolicy_alpha": 0.3}, "onpolicy_alpha=0.3 has no effect with use_weight=False"),
        ({"use_weight": False, "weight_scope": "steering"}, "weight_scope='steering' has no effect with use_weight"),
        ({"use_steering": False, "weight_scope": "steering"}, "no effect with use_steering=False"),
        ({"use_steering": False, "steering_coef": 0.7}, "steering_coef=0.7 has no effect with use_steering=False"),
        ({"use_weight": False, "detach_weight": True}, "detach_weight=True has no effect"),
        ({"reference": "first"}, "'start' or 'stored'"),
    ],
)
def test_what_would_not_act_is_refused(tmp_path, tokenizer, options, words):
    with pytest.raises(ConfigError, match=words):
        trainer(tmp_path, tokenizer, contrasts(1), **options)


def test_recipes_and_trainer_mean_the_same():
    assert objective_of(GeneratorSettings()).views == (View.POSITIVE, View.NEGATIVE)
    assert loss_fields(TrainSettings())["objective"] == "sso" and "terms" not in loss_fields(TrainSettings())
    assert set(loss_fields(GeneratorSettings())) == {
        *("objective", "base_loss", "beta", "sft_coef", "negative", "terms", "label_smoothing", "margin")
    }


# --- a reference that is not the start


def test_stored_scores_of_other_weights_are_the_reference_where_that_is_meant(tmp_path, tokenizer):
    other = policy(tokenizer, seed=5)
    rows = with_scores(other, tokenizer, contrasts(2))
    with pytest.raises(DataError, match="not the reference of this start"):
        trainer(tmp_path, tokenizer, rows)
    run = trainer(tmp_path, tokenizer, rows, reference="stored", objective="base", per_device_train_batch_size=2)
    run.train()
    with torch.no_grad():
        base = plain_logps(other, tokenizer, rows)[View.BASE]
        start = plain_logps(policy(tokenizer), tokenizer, rows)[View.BASE]
    margin = start.chosen_mean - base.chosen_mean - (start.rejected_mean - base.rejected_mean)
    assert step_logs(run)[0]["loss"] == pytest.approx(((margin - 1 / 0.4) ** 2).mean().item(), rel=1e-4)


def test_stored_scores_of_two_weights_are_refused(tmp_path, tokenizer):
    rows = contrasts(2)
    mixed = [with_scores(policy(tokenizer, seed=seed), tokenizer, [row])[0] for seed, row in enumerate(rows)]
    with pytest.raises(DataError, match="those of the first row are from weights"):
        trainer(tmp_path, tokenizer, mixed, reference="stored")


def test_without_stored_scores_there_is_no_stored_reference(tmp_path, tokenizer):
    with pytest.raises(DataError, match="needs stored scores with a key"):
        trainer(tmp_path, tokenizer, contrasts(2), reference="stored")


# --- rows without an original response


def test_rows_without_an_original_response_serve_the_base_view_alone(tmp_path, tokenizer):
    from tests.policy.helpers import contrast

    rows = [contrast(0), contrast(1, original_response="", original_finish="absent")]
    assert trainer(tmp_path, tokenizer, rows, objective="base").examples == 2
    with pytest.warns(UserWarning, match=r"1 of 2 rows can't be trained .*'q1': no original response was sampled"):
        assert trainer(tmp_path, tokenizer, rows).examples == 1
    with pytest.raises(DataError, match="1 of 1 rows"):
        trainer(tmp_path, tokenizer, rows[1:])
