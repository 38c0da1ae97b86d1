"""Self-distillation under the positive principle, by TRL's trainer on our prompts."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from selfsteer.chat import Chat
from selfsteer.config import Recipe, dump_recipe, load_recipe
from selfsteer.errors import ConfigError
from selfsteer.loop import run
from selfsteer.models import load_model
from selfsteer.policy import SSOConfig
from selfsteer.policy.self_distillation import DistillationConfig, SelfDistillationTrainer
from selfsteer.records import Contrast, read_rows
from tests.run_helpers import small_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_chat_model) -> Recipe:
    folder = tmp_path_factory.mktemp("distil")
    own = {"objective": "self-distillation", "learning_rate": 1e-2, "batch_size": 4, "micro_batch_size": 2}
    made = small_recipe(tiny_chat_model, write_queries(folder), queries__heldout=2)
    train = {"processes": made.train.processes, "epochs": 4, "precision": "float32"} | own
    return Recipe.model_validate(
        json.loads(made.model_dump_json()) | {"train": train, "quality": {"filters": ["identical"]}}
    )


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    with without_reports():
        return run_dir, run(recipe, run_dir)


def test_a_run_trains_by_it_and_has_all_its_figures(finished):
    run_dir, summary = finished
    training = summary["rounds"][0]["training"]
    assert training["objective"] == "self-distillation" and training["base_loss"] is None
    assert training["examples"] > 0 and training["steps"] == 4 * -(-training["examples"] // 4)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["sdft/distillation_loss"] for line in lines if line.get("stage") == "train"]
    assert len(losses) == training["steps"] and all(loss >= 0 for loss in losses)
    assert (run_dir / "policy/model.safetensors").is_file() and "self-distillation" in (
        run_dir / "policy/README.md"
    ).read_text()


def test_the_policy_without_the_principle_comes_nearer_to_the_start_with_it(finished, recipe, tmp_path):
    """The tiny model with ten times its weights, so that its next tokens depend on the prompt."""
    rows = rows_of(finished)
    start, policy = load_model(recipe.model.name), load_model(recipe.model.name)
    for model in (start, policy):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(10 if weight.ndim > 1 else 1)
    args = DistillationConfig(
        str(tmp_path), per_device_train_batch_size=len(rows), num_generations=1, max_completion_length=8, max_steps=30,
        learning_rate=1e-2, use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    before = distance(policy, start, rows)
    SelfDistillationTrainer(policy, args, rows, Chat.load(recipe.model.name)).train()
    assert before > 0.05 and distance(policy, start, rows) < 0.7 * before


@torch.no_grad()
def distance(model, start, rows) -> float:
    """Nats a token between the next-token distributions of a model under x and of the start under x+, on yo."""
    total = 0.0
    for row in rows:
        answer = row.response_ids("original")
        own, taught = (
            one(torch.tensor([row.prompt_ids(prompt) + answer])).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
            for one, prompt in ((model, "prompt"), (start, "positive_prompt"))
        )
        total += float(torch.nn.functional.kl_div(own, taught, log_target=True, reduction="batchmean"))
    return total / len(rows)


def rows_of(finished) -> list[Contrast]:
    files = sorted((finished[0] / "round-01" / "contrasts").glob("*.parquet"))
    return [row for row in read_rows(files, Contrast) if row.kept]


def test_an_interrupted_training_resumes(recipe, finished, tmp_path, monkeypatch):
    """Killed after some steps by an error, it goes on from its checkpoint and ends with as many steps."""
    run_dir, summary = finished
    own = recipe.model_copy(update={"train": recipe.train.model_copy(update={"save_steps": 2})})
    step, seen = SelfDistillationTrainer.training_step, []

    def failing(self, *args, **kwargs):
        seen.append(self.state.global_step)
        if self.state.global_step == 3 and len(seen) < 20:
            raise RuntimeError("stop")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SelfDistillationTrainer, "training_step", failing)
    with without_reports():
        with pytest.raises(RuntimeError, match="stop"):
            run(own, tmp_path / "run")
        monkeypatch.setattr(SelfDistillationTrainer, "training_step", step)
        again = run(own, tmp_path / "run")
    assert again["rounds"][0]["training"]["steps"] == summary["rounds"][0]["training"]["steps"]
    weights = [load_file(folder / "policy/model.safetensors") for folder in (run_dir, tmp_path / "run")]
    assert weights[0].keys() == weights[1].keys() and all(one.isfinite().all() for one in weights[1].values())


def test_rows_fill_the_last_batch_and_the_teacher_gets_the_steered_prompt(finished, recipe, tmp_path):
    rows = rows_of(finished)
    chat = Chat.load(recipe.model.name)
    args = DistillationConfig(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, num_generations=1,
        max_completion_length=4, use_cpu=True, bf16=False, report_to="none",
    )  # fmt: skip
    trainer = SelfDistillationTrainer(load_model(recipe.model.name), args, rows[:3], chat)
    assert trainer.examples == 3 and len(trainer.train_dataset) == 4
    batch = trainer._prepare_training_batch([trainer.train_dataset[0], trainer.train_dataset[1]])
    taught = batch["teacher_input_ids"][0][batch["teacher_attention_mask"][0].bool()].tolist()
    assert taught[: len(rows[0].prompt_ids("positive_prompt"))] == rows[0].prompt_ids("positive_prompt")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["train.beta=0.5"], "has no effect with objective 'self-distillation'"),
        (["train.strategy=fsdp", "train.processes=2"], "samples while it trains, in whole copies"),
        (["generation.temperature=0"], "samples answers while it trains"),
        (["rounds=2", "train.reference=first"], "compares with no reference"),
    ],
)
def test_what_does_not_go_with_it_is_said_before_any_work(recipe, tmp_path, settings, why):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    with pytest.raises(ConfigError, match=why):
        run(load_recipe(file, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("round-*"))


def test_a_trl_without_the_trainer_is_said_before_any_work(recipe, tmp_path, monkeypatch):
    for name in ("selfsteer.policy.self_distillation", "trl.experimental.sdft"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "trl.experimental.sdft", None)
    with pytest.raises(ConfigError, match="needs TRL's SDFT trainer") as caught:
        run(recipe, tmp_path / "run")
    assert "trl==1.16" in caught.value.do and not list(tmp_path.glob("run/round-*"))


def test_the_trainer_of_pairs_refuses_it(tmp_path):
    with pytest.raises(ConfigError, match="SSOTrainer has no objective 'self-distillation'"):
        SSOConfig(str(tmp_path), objective="self-distillation")
