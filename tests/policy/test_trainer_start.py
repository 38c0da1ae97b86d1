"""Step 0: what a fresh training says about its start, and how far rounding may set policy and reference apart."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from selfsteer.errors import ConfigError, WorkFailed
from selfsteer.policy import SSOConfig
from selfsteer.policy.adapters import with_adapter
from selfsteer.policy.step_zero import start_line, start_tolerance
from tests.policy.helpers import contrasts, policy, step_logs, trainer

LN2 = "0.69315"


def said(run) -> list[str]:
    """What the trainer says in a training."""
    lines: list[str] = []
    run.say = lines.append
    run.train()
    return lines


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"base_loss": "dpo", "beta": 0.1}, f"dpo base {LN2}, positive {LN2}, negative {LN2} (ln 2 = {LN2} expected)"),
        # Smoothing mixes two equal values, and neither the weight nor a coefficient touches these terms.
        ({"base_loss": "dpo", "label_smoothing": 0.2}, f"dpo base {LN2}, positive {LN2}, negative {LN2} (ln 2 = {LN2}"),
        ({"base_loss": "ipo", "beta": 0.2}, "ipo base 6.25, positive 6.25, negative 6.25 (1/(4 beta^2) = 6.25"),
        ({"base_loss": "ipo", "beta": 0.5}, "ipo base 1, positive 1, negative 1 (1/(4 beta^2) = 1 expected)"),
        ({"base_loss": "ipo", "use_steering": False}, "ipo base 6.25 (1/(4 beta^2) = 6.25 expected)"),
        (
            {"base_loss": "ln_dpo", "beta": 5.0},
            f"ln_dpo base {LN2}, positive {LN2}, negative {LN2} (ln 2 = {LN2} expected)",
        ),
        ({"base_loss": "hinge", "steering_coef": 0.7}, "hinge base 1, positive 1, negative 1 (1 expected)"),
    ],
)
def test_the_terms_of_step_0_stand_beside_their_known_value(tmp_path, tokenizer, settings, line):
    run = trainer(tmp_path, tokenizer, contrasts(3), gradient_accumulation_steps=2, num_train_epochs=2, **settings)
    (found,) = said(run)
    # Policy and reference are scored in other batches, which may show in the last digits.
    assert rounded(found).startswith(rounded(f"step 0: {line}"))


def rounded(line: str) -> str:
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.3g}", line)


@pytest.mark.parametrize("settings", [
    {"base_loss": "simpo", "beta": 2.0, "margin": 0.5},
    {"base_loss": "orpo", "beta": 0.1},
    {"check_start": False},
], ids=lambda settings: next(iter(settings.values())))  # fmt: skip
def test_where_no_value_is_known_nothing_is_said(tmp_path, tokenizer, settings):
    assert said(trainer(tmp_path, tokenizer, contrasts(2), **settings)) == []


def test_it_is_printed_unless_someone_listens(tmp_path, tokenizer, capsys):
    trainer(tmp_path, tokenizer, contrasts(2)).train()
    assert capsys.readouterr().out.count("step 0: ipo base 6.25") == 1


def test_a_resumed_training_says_nothing(tmp_path, tokenizer):
    options = {"save_strategy": "steps", "save_steps": 1, "show_examples": 1, "num_train_epochs": 2}
    assert len(said(trainer(tmp_path, tokenizer, contrasts(2), **options))) == 2
    resumed = trainer(tmp_path, tokenizer, contrasts(2), **options)
    lines: list[str] = []
    resumed.say = lines.append
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.state.global_step == 2 and lines == []


def test_the_line_shows_what_differs():
    assert start_line("dpo", 0.1, {"base": 0.7}) == "step 0: dpo base 0.7 (ln 2 = 0.69315 expected)"


def test_examples_are_shown_before_the_first_step(tmp_path, tokenizer):
    first, second, line = said(trainer(tmp_path, tokenizer, contrasts(5), show_examples=2))
    assert first.startswith("example 1 of 2: row 'q0'\n") and second.startswith("example 2 of 2: row 'q1'\n")
    assert line.startswith("step 0:")
    with pytest.raises(ConfigError, match="show_examples"):
        SSOConfig(output_dir=str(tmp_path), show_examples=-1)


def test_fewer_examples_than_asked_for_are_counted_right(tmp_path, tokenizer):
    first, _ = said(trainer(tmp_path, tokenizer, contrasts(1), show_examples=4))
    assert first.startswith("example 1 of 1:")


# --- how far policy and reference may lie apart


def test_the_tolerance_follows_the_digits_of_the_precision():
    model = torch.nn.Linear(1, 1)
    exact, half, brain = (start_tolerance(kind, model) for kind in ("no", "fp16", "bf16"))
    assert exact < half < brain
    assert half == brain / 4  # three bits more, less a margin
    model.is_loaded_in_4bit = True
    assert {start_tolerance(kind, model) for kind in ("no", "fp16", "bf16")} == {0.05}


@pytest.mark.parametrize(("apart", "stops"), [(0.003, False), (0.008, True)])
def test_float16_has_a_tolerance_of_its_own(tmp_path, tokenizer, monkeypatch, apart, stops):
    run = trainer(tmp_path, tokenizer, contrasts(2))
    row = run.train_dataset.contrasts[0]
    cell = run.cells[0]
    run.train_dataset.reference[0, 0] += apart * len(row.response_ids(cell.role))
    monkeypatch.setattr(type(run.accelerator), "mixed_precision", "fp16")
    monkeypatch.setattr(run.accelerator, "native_amp", False)
    if not stops:
        run.train()
        return
    with pytest.raises(WorkFailed, match=r"differs from its reference by 0\.008"):
        run.train()


# --- a base that is held in bits


def quantised(tokenizer):
    """A base as bitsandbytes leaves it, as far as the trainer can tell: frozen in part, the rest in bfloat16."""
    model = policy(tokenizer).to(torch.bfloat16)
    model.is_loaded_in_4bit = True
    return model


def test_what_is_not_packed_becomes_float32_and_only_the_adapter_trains(tokenizer):
    config = LoraConfig(r=2, task_type="CAUSAL_LM")
    model = with_adapter(quantised(tokenizer), config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


def test_a_policy_that_brings_its_adapter_is_prepared_too(tokenizer):
    config = LoraConfig(r=2, task_type="CAUSAL_LM")
    brought = get_peft_model(quantised(tokenizer), config)
    brought.requires_grad_(False)  # as loaded
    model = with_adapter(brought, config)
    assert model is brought
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains and all("lora_" in name for name in trains)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# --- between the steps


class Generates(TrainerCallback):
    """Samples from the policy at the end of each step, as a callback that shows progress would."""

    def __init__(self):
        self.sampled = []

    def on_step_end(self, args, state, control, *, model, **_):
        model.eval()
        with torch.no_grad():
            self.sampled.append(model.generate(input_ids=torch.tensor([[3, 4, 5]]), max_new_tokens=4, min_new_tokens=4))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_a_callback_may_generate_between_steps(tmp_path, tokenizer, checkpointing):
    options = {"activation_checkpointing": checkpointing, "num_train_epochs": 2, "optim": "sgd"}
    plain = trainer(tmp_path, tokenizer, contrasts(2), **options)
    plain.train()
    callback = Generates()
    run = trainer(tmp_path, tokenizer, contrasts(2), callbacks=[callback], **options)
    run.train()
    assert [tuple(ids.shape) for ids in callback.sampled] == [(1, 7)] * 2
    assert step_logs(run) == step_logs(plain)
    assert run.model.config._attn_implementation != "selfsteer_rows"


def test_liger_is_not_put_on_after_the_reference_is_scored(tmp_path):
    with pytest.raises(ConfigError, match="after its reference is scored"):
        SSOConfig(output_dir=str(tmp_path), use_liger_kernel=True)
