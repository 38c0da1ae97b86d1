"""The reference: the round's starting weights, adapters active, scored once, or taken from the rows."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from selfsteer.errors import ConfigError, WorkFailed
from selfsteer.logprobs import Cell
from selfsteer.models import load_model
from selfsteer.policy import SSOTrainer
from selfsteer.views import SSO_VIEWS
from tests.policy.helpers import (
    VIEWS,
    contrasts,
    largest_change,
    plain_logps,
    policy,
    step_logs,
    trainer,
    weights,
    with_scores,
)


def count_calls(model) -> list[int]:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def expected_reference(model, tokenizer, rows, cells):
    """(B, C) by plain transformers."""
    with torch.no_grad():
        logps = plain_logps(model, tokenizer, rows)
    columns = {}
    for view, (prompt, chosen, rejected) in VIEWS.items():
        columns |= {Cell(chosen, prompt): logps[view].chosen, Cell(rejected, prompt): logps[view].rejected}
    return torch.stack([columns[cell] for cell in cells], dim=1)


def test_without_scores_the_reference_is_scored_once_before_the_first_step(tmp_path, tokenizer):
    rows, model = contrasts(4), policy(tokenizer)
    expected = expected_reference(model, tokenizer, rows, trainer(tmp_path, tokenizer, rows, model).cells)
    calls = count_calls(model)
    run = trainer(tmp_path, tokenizer, rows, model, num_train_epochs=3)
    assert run.train_dataset.reference == pytest.approx(expected, abs=1e-4)
    assert len(calls) == 4  # one row at a time
    calls.clear()
    before = run.train_dataset.reference.clone()
    run.train()
    assert len(calls) == 6  # a micro-batch each: nothing else is computed
    assert torch.equal(run.train_dataset.reference, before)


def test_stored_scores_are_the_reference_and_the_model_is_not_asked(tmp_path, tokenizer):
    rows, model = contrasts(4), policy(tokenizer)
    scored = with_scores(model, tokenizer, rows)
    calls = count_calls(model)
    run = trainer(tmp_path, tokenizer, scored, model)
    assert not calls
    assert run.train_dataset.reference == pytest.approx(expected_reference(model, tokenizer, rows, run.cells), abs=1e-4)
    run.train()
    assert step_logs(run)[0]["rewards/base/margin"] == pytest.approx(0, abs=1e-4)


def test_only_a_row_that_lacks_a_score_is_scored(tmp_path, tokenizer, monkeypatch):
    model, scored, score = policy(tokenizer), [], SSOTrainer._score
    monkeypatch.setattr(SSOTrainer, "_score", lambda run, rows: scored.extend(rows) or score(run, rows))
    whole, holed = with_scores(model, tokenizer, contrasts(2))
    holed.scores["original_response"]["negative_prompt"] = None
    run = trainer(tmp_path, tokenizer, [whole, holed], model)
    assert [row.id for row in scored] == ["q1"]
    assert run.train_dataset.reference == pytest.approx(
        expected_reference(model, tokenizer, [whole, holed], run.cells), abs=1e-4
    )


def test_scores_of_cells_that_are_not_used_may_be_missing(tmp_path, tokenizer):
    model = policy(tokenizer)
    scored = with_scores(model, tokenizer, contrasts(2))
    plain = {"positive_response": "prompt", "negative_response": "prompt"}
    rows = [
        dataclasses.replace(row, scores={role: {prompt: row.scores[role][prompt]} for role, prompt in plain.items()})
        for row in scored
    ]
    calls = count_calls(model)
    assert trainer(tmp_path, tokenizer, rows, model, use_steering=False).train_dataset.reference.shape == (2, 2)
    assert not calls
    assert trainer(tmp_path, tokenizer, rows, model).train_dataset.reference.shape == (2, 6)
    assert calls


def test_a_policy_that_does_not_equal_its_reference_stops_before_the_first_step(tmp_path, tokenizer):
    """The second line behind the key: scores that were altered after they were keyed."""
    scored = with_scores(policy(tokenizer), tokenizer, contrasts(2))
    for row in scored:
        row.scores["positive_response"]["prompt"] -= 0.01
    run = trainer(tmp_path, tokenizer, scored)
    before = weights(run.model)
    with pytest.raises(WorkFailed, match="differs from its reference") as caught:
        run.train()
    assert "check_start=False" in str(caught.value)
    assert largest_change(before, weights(run.model)) == 0
    trainer(tmp_path, tokenizer, scored, check_start=False).train()


@pytest.mark.parametrize("fresh", [True, False], ids=["a fresh adapter", "an adapter trained before"])
def test_lora_trains_the_adapter_alone_with_the_start_as_its_reference(tmp_path, tokenizer, fresh):
    """With a trained adapter the base model is another model: it must not become the reference."""
    rows, base = contrasts(4), policy(tokenizer)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=fresh)
    if fresh:
        run = trainer(tmp_path, tokenizer, rows, base, peft_config=config, num_train_epochs=2)
    else:
        torch.manual_seed(0)
        run = trainer(tmp_path, tokenizer, rows, get_peft_model(base, config), num_train_epochs=2)
    assert isinstance(run.model, PeftModel)
    reference = run.train_dataset.reference
    assert reference == pytest.approx(expected_reference(run.model, tokenizer, rows, run.cells), abs=1e-4)
    with run.model.disable_adapter():
        of_base = expected_reference(run.model, tokenizer, rows, run.cells)
    assert ((reference - of_base).abs().max() < 1e-4) == fresh

    start = weights(run.model)
    run.train()
    first = step_logs(run)[0]
    assert [first[f"rewards/{view}/margin"] for view in SSO_VIEWS] == pytest.approx([0, 0, 0], abs=1e-4)
    moved = {name for name, value in weights(run.model).items() if not torch.equal(value, start[name])}
    assert moved == {name for name in start if "lora_" in name}


def test_a_policy_that_brings_an_adapter_goes_on_with_that_one(tmp_path, tokenizer):
    """The next round of a LoRA run: an adapter on top of the adapter could not be loaded back."""
    policy(tokenizer).save_pretrained(tmp_path / "base")
    folders = [tmp_path / name for name in ("base", "round-1", "round-2")]
    config = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    for start, end in pairwise(folders):
        lora = LoraConfig(**config)
        run = trainer(tmp_path, tokenizer, contrasts(2), load_model(str(start)), peft_config=lora, num_train_epochs=2)
        before = weights(run.model)
        run.train()
        run.save_model(str(end))
        moved = {name for name, value in weights(run.model).items() if not torch.equal(value, before[name])}
        assert moved == {name for name in before if "lora_" in name}
        ids = torch.tensor([[3, 4, 5, 6]])
        assert torch.equal(load_model(str(end))(ids).logits, run.model.eval()(ids).logits)
    run = trainer(tmp_path, tokenizer, contrasts(2), str(folders[-1]))  # by name, and with no peft_config
    run.train()
    for changes, name in (({"r": 4}, "r=2"), ({"target_modules": ["q_proj"]}, "target_modules")):
        with pytest.raises(ConfigError, match=f"adapter with {name}"):
            trainer(tmp_path, tokenizer, contrasts(2), str(folders[-1]), peft_config=LoraConfig(**(config | changes)))
