"""Stopping and going on: checkpoints that verify, bitwise equal weights after a resume, what is saved at the end."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from selfsteer.policy.card import model_card
from selfsteer.policy.checkpoints import InterruptCallback, ManifestCallback, last_checkpoint, verifies
from tests.policy.helpers import contrasts, policy, step_logs, trainer, weights

STEPS_AN_EPOCH = 4
LORA = {"r": 2, "task_type": "CAUSAL_LM", "lora_dropout": 0.1}


def long_run(folder, tokenizer, *callbacks, lora=False, **options):
    """Two epochs of four steps with dropout, so that the state of the random generators matters as well."""
    config = {"peft_config": LoraConfig(**LORA)} if lora else {}
    return trainer(
        folder, tokenizer, contrasts(7), policy(tokenizer, attention_dropout=0.1), num_train_epochs=2,
        per_device_train_batch_size=1, gradient_accumulation_steps=2, check_start=False, save_strategy="steps",
        lr_scheduler_type="cosine", warmup_ratio=0.4, callbacks=[ManifestCallback(), *callbacks], **options, **config,
    )  # fmt: skip


class At(TrainerCallback):
    """Does something in the middle of an optimiser step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_substep_end(self, args, state, control, **_):
        if state.global_step == self.step - 1:
            self.action()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("saved_at", [2, 5])
def test_resuming_in_mid_epoch_gives_bitwise_the_weights_of_an_unbroken_run(tmp_path, tokenizer, lora, saved_at):
    unbroken = long_run(tmp_path, tokenizer, lora=lora, save_steps=saved_at)
    unbroken.train()
    assert unbroken.state.global_step == 2 * STEPS_AN_EPOCH
    checkpoint = tmp_path / f"checkpoint-{saved_at}"
    assert verifies(checkpoint)
    resumed = long_run(tmp_path / "again", tokenizer, lora=lora, save_steps=saved_at)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert step_logs(resumed) == step_logs(unbroken)
    for name, value in weights(unbroken.model).items():
        assert torch.equal(value, weights(resumed.model)[name]), name


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_to_go_on_from(tmp_path, tokenizer):
    unbroken = long_run(tmp_path / "unbroken", tokenizer, save_steps=100)
    unbroken.train()

    said: list[str] = []
    interrupt = InterruptCallback(said.append)
    before = signal.getsignal(signal.SIGINT)
    ctrl_c = At(3, lambda: signal.raise_signal(signal.SIGINT))
    run = long_run(tmp_path, tokenizer, interrupt, ctrl_c, save_steps=100)
    with interrupt:
        run.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert interrupt.asked
    assert len(said) == 1
    assert run.state.global_step == 3
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"

    resumed = long_run(tmp_path, tokenizer, save_steps=100)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path)))
    for name, value in weights(unbroken.model).items():
        assert torch.equal(value, weights(resumed.model)[name]), name


def test_a_second_ctrl_c_stops_at_once_and_gives_the_handler_back(tmp_path, tokenizer):
    interrupt = InterruptCallback(lambda _: None)
    before = signal.getsignal(signal.SIGINT)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = long_run(tmp_path, tokenizer, interrupt, At(2, twice), save_steps=100)
    with pytest.raises(KeyboardInterrupt), interrupt:
        run.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert run.state.global_step == 1
    assert last_checkpoint(tmp_path) is None


def checkpoints(folder, *steps):
    """Folders as a trainer leaves them."""
    for step in steps:
        own = folder / f"checkpoint-{step}"
        (own / "deep").mkdir(parents=True)
        (own / "model.safetensors").write_bytes(b"weights %d" % step)
        (own / "deep" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        ManifestCallback().on_save(SimpleNamespace(output_dir=str(folder)), state, None)
    return [folder / f"checkpoint-{step}" for step in steps]


def test_the_newest_checkpoint_by_number_is_taken(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    *_, newest = checkpoints(tmp_path, 9, 99, 100)
    (tmp_path / "checkpoint-tmp").mkdir()
    assert last_checkpoint(tmp_path) == newest


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"weights 5"),
        lambda folder: (folder / "deep" / "trainer_state.json").unlink(),
        lambda folder: (folder / "selfsteer_manifest.json").unlink(),
        lambda folder: (folder / "selfsteer_manifest.json").write_text('{"model.safe'),
        lambda folder: (folder / "selfsteer_manifest.json").write_text("{}"),
    ],
    ids=["changed file", "missing file", "no manifest", "torn manifest", "empty manifest"],
)
def test_a_checkpoint_that_does_not_verify_is_passed_over_for_the_older_one(tmp_path, damage):
    older, newer = checkpoints(tmp_path, 2, 4)
    assert last_checkpoint(tmp_path) == newer
    damage(newer)
    assert last_checkpoint(tmp_path) == older


def test_every_file_of_a_checkpoint_is_in_its_manifest(tmp_path, tokenizer):
    run = long_run(tmp_path, tokenizer, save_steps=8)
    run.train()
    folder = tmp_path / "checkpoint-8"
    listed = json.loads((folder / "selfsteer_manifest.json").read_text())
    there = {path.name for path in folder.iterdir()} - {"selfsteer_manifest.json"}
    assert set(listed) == there >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}


def test_a_saved_policy_is_safetensors_and_loads_back_with_equal_weights(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2), save_strategy="steps", save_steps=1)
    run.train()
    run.save_model(str(tmp_path / "policy"))
    for folder in (tmp_path / "policy", tmp_path / "checkpoint-1"):
        assert (folder / "model.safetensors").is_file()
        assert "selfsteer_rows" not in (folder / "config.json").read_text()
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert loaded(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()
        for name, value in weights(run.model).items():
            assert torch.equal(value, loaded.get_parameter(name)), name
        assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template


def test_a_saved_adapter_loads_back_onto_its_base(tmp_path, tokenizer):
    policy(tokenizer).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    run = trainer(tmp_path, tokenizer, contrasts(2), base, peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"))
    run.train()
    run.save_model(str(tmp_path / "policy"))
    assert not (tmp_path / "policy" / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "policy")
    )
    found = {name: value for name, value in weights(loaded).items() if "lora_" in name}
    assert found
    for name, value in found.items():
        assert torch.equal(value, run.model.get_parameter(name)), name


def test_the_model_card_shows_the_figures_of_the_first_and_the_last_step(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(6))
    run.train()
    figures = [logs | {"step": number} for number, logs in enumerate(step_logs(run), 1)]
    card = model_card(
        base_model="some/chat-model",
        data={"rows": "6 kept of 9"},
        settings={"beta": 0.2},
        figures=figures,
        version="1.2",
        annotated=False,
    )
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "some/chat-model"
    lines = body.splitlines()
    assert "| rows | 6 kept of 9 |" in lines
    assert "| `beta` | 0.2 |" in lines
    assert "| | step 1 | step 3 |" in lines
    for name in ("loss", "rewards/base/margin", "weight"):
        assert f"| {name} | {figures[0][name]:.4g} | {figures[2][name]:.4g} |" in lines
    bare = {"base_model": "x", "data": {}, "settings": {}, "figures": [], "version": "1", "annotated": False}
    assert "Figures of the training" not in model_card(**bare) and "## Use" not in model_card(**bare)
    assert '`{"enable_thinking": false}`' in model_card(**bare, template_kwargs={"enable_thinking": False})
