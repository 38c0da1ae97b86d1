"""A training that changed no weight ends as a failure, and no other does."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from selfsteer.errors import WorkFailed
from selfsteer.policy.checkpoints import ManifestCallback
from tests.policy.helpers import contrasts, largest_change, policy, trainer, weights


def brief(folder, tokenizer, model=None, **options):
    """Two steps of one example."""
    return trainer(folder, tokenizer, contrasts(2), model, per_device_train_batch_size=1, **options)


class NoGradient(TrainerCallback):
    """Sets the gradients of some steps to 0, as a loss that is flat everywhere gives them."""

    def __init__(self, *steps):
        self.steps = steps

    def on_pre_optimizer_step(self, args, state, control, *, model, **_):
        if state.global_step + 1 in self.steps:
            for parameter in model.parameters():
                parameter.grad.zero_()


def test_steps_too_small_for_the_weights_precision_fail(tmp_path, tokenizer):
    run = brief(tmp_path, tokenizer, policy(tokenizer).bfloat16(), learning_rate=1e-12, check_start=False)
    before = weights(run.model)
    with pytest.raises(WorkFailed, match="changed no weight in 2 steps") as caught:
        run.train()
    assert caught.value.where == "learning rate up to 1e-12, bfloat16 weights, gradients above 0"
    assert "lost in the rounding" in caught.value.do and caught.value.exit_code == 1
    assert largest_change(before, weights(run.model)) == 0


def test_a_learning_rate_of_0_fails(tmp_path, tokenizer):
    with pytest.raises(WorkFailed, match="changed no weight") as caught:
        brief(tmp_path, tokenizer, learning_rate=0.0).train()
    assert "learning rate up to 0," in caught.value.where and "raise learning_rate" in caught.value.do


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_without_a_gradient_fail_whatever_weight_decay_does(tmp_path, tokenizer, decay):
    run = brief(tmp_path, tokenizer, weight_decay=decay, callbacks=[NoGradient(1, 2)])
    with pytest.raises(WorkFailed, match="changed no weight") as caught:
        run.train()
    assert "gradients all 0" in caught.value.where and "check the losses" in caught.value.do


def test_an_adapter_that_did_not_move_fails_over_a_base_that_is_never_trained(tmp_path, tokenizer):
    config = LoraConfig(r=2, task_type="CAUSAL_LM")
    with pytest.raises(WorkFailed, match="changed no weight"):
        brief(tmp_path, tokenizer, peft_config=config, learning_rate=0.0).train()
    brief(tmp_path, tokenizer, peft_config=config, learning_rate=1e-6).train()


@pytest.mark.parametrize("silent", [(1,), (2,)])
def test_one_step_that_trains_is_enough(tmp_path, tokenizer, silent):
    run = brief(tmp_path, tokenizer, callbacks=[NoGradient(*silent)])
    before = weights(run.model)
    run.train()
    assert largest_change(before, weights(run.model)) > 0


def test_one_weight_that_moved_is_enough(tmp_path, tokenizer):
    model = policy(tokenizer).requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    # The smallest step that float32 weights of 1 can take, in the only parameter that is trained.
    brief(tmp_path, tokenizer, model, learning_rate=2e-7, num_train_epochs=1).train()


class Stop(TrainerCallback):
    """Ends the process, so to speak, after a step."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


SAVED = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}


@pytest.mark.parametrize(("silent", "stopped"), [((2, 3, 4), 1), ((2, 3, 4), 4), ((1, 2), 2)])
def test_a_resumed_training_knows_of_the_steps_before(tmp_path, tokenizer, silent, stopped):
    """Step 1 alone trains, and it is resumed after that or after the last step; or the steps after the stop train."""
    callbacks = [NoGradient(*silent), ManifestCallback()]
    with pytest.raises(KeyboardInterrupt):
        brief(tmp_path, tokenizer, callbacks=[*callbacks, Stop(stopped)], **SAVED).train()
    resumed = brief(tmp_path, tokenizer, callbacks=callbacks, **SAVED)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped}"))
    assert resumed.state.global_step == 4


def test_a_failed_training_fails_again_with_the_same_words_when_it_is_resumed(tmp_path, tokenizer):
    said = []
    for resume in (None, str(tmp_path / "checkpoint-4")):
        run = brief(tmp_path, tokenizer, callbacks=[NoGradient(1, 2, 3, 4)], **SAVED)
        with pytest.raises(WorkFailed) as caught:
            run.train(resume_from_checkpoint=resume)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_checkpoint_that_says_nothing_of_its_steps_is_believed(tmp_path, tokenizer):
    """One that another version wrote."""
    brief(tmp_path, tokenizer, **SAVED).train()
    state = tmp_path / "checkpoint-2/trainer_state.json"
    state.write_text(state.read_text().replace('"Unchanged"', '"Another"'))
    resumed = brief(tmp_path, tokenizer, callbacks=[NoGradient(3, 4)], **SAVED)
    resumed.train(resume_from_checkpoint=str(state.parent))
    assert resumed.state.global_step == 4


def test_a_second_training_of_the_same_trainer_is_looked_at_by_itself(tmp_path, tokenizer):
    run = brief(tmp_path, tokenizer, check_start=False)
    run.train()
    run.args.learning_rate = 0.0
    run.optimizer = None
    with pytest.raises(WorkFailed, match="changed no weight"):
        run.train()


def test_a_training_that_stops_early_is_not_judged(tmp_path, tokenizer):
    class Ends(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = True

    run = brief(tmp_path, tokenizer, learning_rate=0.0, callbacks=[Ends()])
    run.train()
    assert run.state.global_step == 1


def test_float16_steps_that_the_loss_scaler_skips_are_no_failure(tmp_path, tokenizer):
    """The weights of the first step stay, as with an overflow; what counts is where they are at the end."""

    class Skips(TrainerCallback):
        def on_optimizer_step(self, args, state, control, *, model, **_):
            if state.global_step == 0:
                with torch.no_grad():
                    for parameter, old in zip(model.parameters(), self.start, strict=True):
                        parameter.copy_(old)

        def on_train_begin(self, args, state, control, *, model, **_):
            self.start = [parameter.detach().clone() for parameter in model.parameters()]

    brief(tmp_path, tokenizer, callbacks=[Skips()]).train()
