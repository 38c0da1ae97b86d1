"""`selfsteer reward`: models, table and cards; nothing is done twice; killed anywhere it ends with the same bits."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from selfsteer.cli import app
from selfsteer.commands.reward import RewardArguments, train_rewards
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, DataError, NothingSurvived, TrainingDiverged, WorkFailed
from selfsteer.files import read_json_lines, sha256_file
from selfsteer.judges import PresentedPair, make_judge
from selfsteer.judges.pair_datasets import load_pairs
from selfsteer.loop import run
from selfsteer.loop.run import generate
from selfsteer.models import load_tokenizer
from selfsteer.reward import load_reward_model, score
from selfsteer.reward.data import read_examples
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.workflows.reward import reward
from tests.printed import printed
from tests.reward_runs import reward_recipe, reward_values, write_pairs
from tests.run_helpers import scripted_recipe


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return write_pairs(folder / "train.jsonl", 24), write_pairs(folder / "held.jsonl", 12, start=100)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_chat_model, files):
    """Two variants, two seeds."""
    train, held = files
    sets = {"a": str(train), "half": {"source": str(train), "weight": 0.5, "licence": "cc-by-4.0"}}
    values = reward_values(tiny_chat_model, train, held, sets=sets, variants={"one": ["a"], "both": ["a", "half"]})
    run_dir = tmp_path_factory.mktemp("runs") / "reward"
    recipe = run_dir.parent / "recipe.yaml"
    recipe.write_text(json.dumps(values | {"seeds": [0, 1]}), encoding="utf-8")
    result = CliRunner().invoke(app, ["reward", str(recipe), "--run-dir", str(run_dir)])
    assert result.exit_code == 0, result.output
    return recipe, run_dir, result.output


def weights_of(run_dir: Path, name: str = "all-seed-0") -> str:
    return sha256_file(run_dir / "models" / name / "model.safetensors")


def test_every_variant_and_seed_gets_a_model_that_ranks_unseen_pairs_right(finished):
    _, run_dir, output = finished
    results = json.loads((run_dir / "results.json").read_text())
    assert [(one["variant"], one["seed"]) for one in results["models"]] == [
        ("one", 0), ("one", 1), ("both", 0), ("both", 1)
    ]  # fmt: skip
    assert [one["data"]["sets"] for one in results["models"]] == [{"a": 24}] * 2 + [{"a": 24, "half": 12}] * 2
    for one in results["models"]:
        (file,) = one["accuracy"].values()
        assert file["subsets"]["held"] | {"interval": None} == {
            "n": 12, "right": 12, "share": 1.0, "interval": None, "tied": 0, "invalid": 0, "unlabelled": 0
        }  # fmt: skip
    assert "100.0 % ± 0.0" in output and "100.0 % ± 0.0" in (run_dir / "results.md").read_text()
    assert len({weights_of(run_dir, one["folder"].removeprefix("models/")) for one in results["models"]}) == 4


def planned(recipe: Path, run_dir: Path, *overrides: str) -> str:
    """The plan, a line a stage, without a table's spaces."""
    arguments = RewardArguments(str(recipe), list(overrides), run_dir, dry_run=True)
    _, shown, _ = printed(train_rewards, arguments)
    return "\n".join(" ".join(line.split()) for line in shown.splitlines())


def test_a_plan_says_what_is_done_and_why_something_is_redone_and_touches_nothing(finished, tmp_path, monkeypatch):
    recipe, run_dir, _ = finished
    monkeypatch.setattr("selfsteer.models.load_model", lambda *_, **__: pytest.fail("weights are loaded"))
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    told = planned(recipe, run_dir)
    assert told.count(" done") == 4 + 4 + 4 + 1 and "0 to do" in told
    told = planned(recipe, run_dir, "options.learning_rate=0.002")
    assert told.count("redo options.learning_rate 0.003 -> 0.002") == 4 and "8 to do" in told
    assert told.count("redo weights ") == 4 and told.count(" done") == 4 + 1
    told = planned(recipe, run_dir, "sets.half.weight=0.25")
    assert "pairs of both, seed 1 redo sets.half.weight 0.5 -> 0.25" in told and told.count("after that") == 4
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    told = planned(recipe, tmp_path / "none")
    assert told.count("to do") == 4 + 1 + 1 and told.count("after that") == 8
    result = CliRunner().invoke(app, ["reward", str(recipe), "--run-dir", str(tmp_path / "none"), "--dry-run"])
    assert result.exit_code == 0 and "13 to do" in result.output and not (tmp_path / "none").exists()


def test_the_card_says_what_the_model_is_made_of_and_not_for(finished):
    _, run_dir, _ = finished
    card = (run_dir / "models/both-seed-1/README.md").read_text()
    for told in (
        "| `half` | 12 | labelled pairs |",
        "| cc-by-4.0 |",
        "weight: not drawn (12)",
        "`learning_rate` | 0.003",
        "| held | 12 | 100.0 % |",
        "must not be used for",
    ):
        assert told in card
    assert "labelled by nobody" not in card


def test_a_model_is_a_judge_and_its_verdicts_are_those_of_score(finished, files):
    _, run_dir, _ = finished
    folder = str(run_dir / "models/one-seed-0")
    pairs = load_pairs(files[1]).pairs
    answers = make_judge(JudgeSettings(name=f"reward:{folder}", device="cpu")).answer(
        [PresentedPair(p, False) for p in pairs]
    )
    assert [answer.vote for answer in answers] == [pair.label for pair in pairs]
    conversations = [
        [*pair.prompt, {"role": "assistant", "content": text}] for pair in pairs for text in (pair.first, pair.second)
    ]
    rewards = score(load_reward_model(folder), load_tokenizer(folder), conversations, batch_size=5)
    differences = [first - second for first, second in zip(rewards[::2], rewards[1::2], strict=True)]
    assert [answer.log_odds for answer in answers] == pytest.approx(differences, abs=1e-5)


def test_a_second_run_does_nothing(finished):
    recipe, run_dir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file() and path.name[0] != "."}
    result = CliRunner().invoke(app, ["reward", str(recipe), "--run-dir", str(run_dir)])
    assert result.exit_code == 0
    written = {"recipe.yaml", "results.json", "results.md", "README.md"}  # anew, with the same content
    assert {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp} <= written
    assert "done in" not in result.stderr and result.stderr.count("done before") == 13


def test_what_changes_no_weight_trains_nothing_anew(tmp_path, tiny_chat_model, files):
    train, held = files
    reward(reward_recipe(tiny_chat_model, train, options={"epochs": 1}), tmp_path / "run")
    before = weights_of(tmp_path / "run")
    link = (tmp_path / "run/models/all-seed-0").resolve()
    recipe = reward_recipe(tiny_chat_model, train, held, options={"save_steps": 3})
    results = reward(recipe, tmp_path / "run")
    assert (tmp_path / "run/models/all-seed-0").resolve() == link and results["length"]
    changed = reward_recipe(tiny_chat_model, train, held, options={"learning_rate": 1e-3})
    reward(changed, tmp_path / "run")
    assert weights_of(tmp_path / "run") != before and link.exists()
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(1, 7))
    assert "num_tokens" not in metrics[0] and metrics[0]["loss"] > 0
    (model,) = reward(recipe, tmp_path / "run")["models"]  # the first setting again
    restored = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert restored != metrics and restored[-1]["loss"] == model["training"]["last"]["loss"]


def test_a_smaller_share_of_unusable_rows_acts_on_models_that_are_there_and_a_larger_one_keeps_them(
    tmp_path, tiny_chat_model, files
):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(files[0].read_text() + '{"prompt": ""}\n' * 6)  # a fifth

    def allowing(share: float) -> RewardRecipe:
        sets = {"a": {"source": str(pairs), "max_left_out": share}}
        return reward_recipe(tiny_chat_model, pairs, sets=sets, options={"epochs": 1})

    reward(allowing(0.3), tmp_path / "run")
    model = (tmp_path / "run/models/all-seed-0").resolve()
    with pytest.raises(DataError, match=r"sets\.a\.max_left_out"):
        reward(allowing(0.1), tmp_path / "run")
    reward(allowing(0.4), tmp_path / "run")
    assert (tmp_path / "run/models/all-seed-0").resolve() == model


def test_pairs_with_an_evaluated_prompt_are_not_trained_on(tmp_path, tiny_chat_model, files):
    train, _ = files
    overlapping = write_pairs(tmp_path / "overlapping.jsonl", 6, start=20)
    recipe = reward_recipe(tiny_chat_model, train, overlapping, evaluate_limit=2)
    (model,) = reward(recipe, tmp_path / "run")["models"]
    assert model["accuracy"][str(overlapping)]["subsets"]["overlapping"]["n"] == 2
    assert model["data"]["examples"] == 20
    assert model["data"]["left_out"] == {"its prompt is also in a file of evaluate": 4}
    rows = [json.loads(line) for path in (tmp_path / "run/data").glob("*left_out.jsonl") for line in path.open()]
    assert [row["id"] for row in rows] == [f"train.jsonl-{number}" for number in range(21, 25)]
    assert all(row["where"] and row["reason"] for row in rows)
    with pytest.raises(NothingSurvived, match="no pair is left to train all on: its prompt is also"):
        reward(reward_recipe(tiny_chat_model, train, train), tmp_path / "run")


def test_steering_margins_act_and_sets_without_them_get_0(tmp_path, tiny_chat_model, files):
    train, _ = files
    with_margin = write_pairs(tmp_path / "margins.jsonl", 8, start=50, steering_margin=0.5)
    sets = {"a": str(train), "b": str(with_margin)}
    options = {"margin": "steering", "margin_scale": 4.0}
    reward(reward_recipe(tiny_chat_model, train, sets=sets), tmp_path / "plain")
    reward(reward_recipe(tiny_chat_model, train, sets=sets, options=options), tmp_path / "run")
    assert weights_of(tmp_path / "plain") != weights_of(tmp_path / "run")
    (file,) = (tmp_path / "run/data").glob("*examples.parquet")
    assert {(one.set, one.margin) for one in read_examples(file)} == {("a", 0.0), ("b", 2.0)}
    with pytest.raises(ConfigError, match="no pair of any set has a steering margin"):
        reward(reward_recipe(tiny_chat_model, train, options={"margin": "steering"}), tmp_path / "none")


def test_pairs_beyond_the_models_context_are_left_out(tmp_path, tiny_chat_model, files):
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"rejected": "No. " * 600}]))
    recipe = reward_recipe(tiny_chat_model, long, options={"max_length": 4096})
    (model,) = reward(recipe, tmp_path / "run")["models"]
    assert model["data"]["left_out"] == {"longer than 512 tokens": 1} and model["data"]["examples"] == 24


def test_length_balance_says_what_is_left(tmp_path, tiny_chat_model, files):
    train, _ = files
    recipe = reward_recipe(tiny_chat_model, train, options={"length_balance": True})
    with pytest.raises(NothingSurvived, match="length_balance"):  # all of its chosen answers are the shorter ones
        reward(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:8]]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows[8:] + turned))
    (model,) = reward(reward_recipe(tiny_chat_model, mixed, options={"length_balance": True}), tmp_path / "run")[
        "models"
    ]
    assert model["data"]["longer_chosen"] == 0.5 and 0 < model["data"]["examples"] <= 16
    (reason,) = model["data"]["left_out"]
    assert "length_balance" in reason and model["data"]["left_out"][reason] + model["data"]["examples"] == 24


def test_bad_input_is_one_message(tmp_path, tiny_chat_model, files):
    train, _ = files
    for values, message in (
        ({"sets": {"a": {"source": str(train), "rounds": [1]}}}, "rounds applies to run directories only"),
        ({"sets": {"a": str(tmp_path / "gone.jsonl")}}, "gone.jsonl"),
        ({"evaluate": ["gone.json"]}, "no such file: gone.json"),
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps(reward_values(tiny_chat_model, train) | values))
        result = CliRunner().invoke(app, ["reward", str(recipe), "--run-dir", str(tmp_path / "run")])
        assert message in str(result.exception) and result.exception.exit_code == 2, result


def test_the_directory_of_a_run_is_not_taken(scripted_run, tiny_chat_model, files):
    before = (scripted_run / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match="holds a run of `selfsteer run`"):
        reward(reward_recipe(tiny_chat_model, files[0]), scripted_run)
    assert (scripted_run / "recipe.yaml").read_text() == before


@pytest.mark.parametrize("command", [run, generate])
def test_a_run_does_not_take_the_directory_of_reward_models(finished, queries, command):
    run_dir = finished[1]
    before = (run_dir / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match="holds a run of `selfsteer reward`"):
        command(scripted_recipe(queries), run_dir)
    assert (run_dir / "recipe.yaml").read_text() == before


def test_a_second_process_is_told_to_wait(tmp_path, tiny_chat_model, files):
    with (
        Store(tmp_path / "run", Display(quiet=True)).locked(),
        pytest.raises(WorkFailed, match="another process works in this run directory"),
    ):
        reward(reward_recipe(tiny_chat_model, files[0]), tmp_path / "run")


def test_a_training_that_diverges_says_so_and_how_to_go_on(tmp_path, tiny_chat_model, files):
    recipe = reward_recipe(tiny_chat_model, files[0], options={"learning_rate": 1e30})
    for _ in range(2):
        with pytest.raises(TrainingDiverged) as caught:
            reward(recipe, tmp_path / "run")
    assert "lower options.learning_rate" in caught.value.do


def test_ctrl_c_leaves_a_checkpoint_and_is_exit_130(tmp_path, tiny_chat_model, files, monkeypatch):
    from trl import RewardTrainer

    values = reward_values(tiny_chat_model, files[0], options={"save_steps": 50})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(values))
    compute, asked = RewardTrainer.compute_loss, []

    def interrupting(self, *arguments, **options):
        if self.state.global_step == 2 and not asked:
            asked.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return compute(self, *arguments, **options)

    monkeypatch.setattr(RewardTrainer, "compute_loss", interrupting)
    command = ["reward", str(recipe), "--run-dir", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).exit_code == 130
    assert list((tmp_path / "run/models").glob("checkpoints-*/checkpoint-3/selfsteer_manifest.json"))
    monkeypatch.setattr(RewardTrainer, "compute_loss", compute)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert not list((tmp_path / "run/models").glob("checkpoints-*"))
    reward(reward_recipe(tiny_chat_model, files[0]), tmp_path / "unbroken")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["whole", "lora"])
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, tiny_chat_model, files, lora):
    from tests.killable_reward import train_until

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killable_reward"])
    values = reward_values(tiny_chat_model, *files, options={"lora": lora, "epochs": 2})

    def go(run_dir: Path, what: str, step: int = 0) -> int | None:
        process = context.Process(target=train_until, args=(values, run_dir, what, step))
        process.start()
        process.join(300)
        return process.exitcode

    assert go(tmp_path / "whole", "end") == 0
    for what, step in (("step", 0), ("step", 3), ("checkpoint", 7), ("checkpoint", 12)):
        assert go(tmp_path / "killed", what, step) == -signal.SIGKILL
    assert go(tmp_path / "killed", "end") == 0
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    told = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    steps = [[json.loads(line) for line in lines] for lines in told]
    assert [row["loss"] for row in steps[0]] == [row["loss"] for row in steps[1]] and len(steps[0]) == 12


@pytest.mark.slow
def test_sharded_weights_train_the_model_of_one(tmp_path, tiny_chat_model, monkeypatch):
    """Saved by both processes as one folder, which scores as usual."""
    _train_by_one_and_two(tmp_path, tiny_chat_model, monkeypatch, {"strategy": "fsdp"})


def test_an_adapter_is_not_sharded(tmp_path, tiny_chat_model):
    source = write_pairs(tmp_path / "train.jsonl", 4)
    options = {"processes": 2, "strategy": "fsdp", "lora": {"r": 4}}
    with pytest.raises(ConfigError, match="an adapter is merged into the reward model, and fsdp shards both"):
        reward(reward_recipe(tiny_chat_model, source, options=options), tmp_path / "run")


def test_two_processes_train_the_model_of_one(tmp_path, tiny_chat_model, monkeypatch):
    """23 pairs: the last step has fewer than a batch, and one process repeats a pair that must not count twice."""
    _train_by_one_and_two(tmp_path, tiny_chat_model, monkeypatch, {"lora": {"r": 4}})


def _train_by_one_and_two(tmp_path, model, monkeypatch, by_two):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = write_pairs(tmp_path / "train.jsonl", 23)
    for count in (0, 2):
        options = {"processes": count, "center_rewards": 0.01} | (by_two if count else {"lora": by_two.get("lora")})
        reward(reward_recipe(model, source, options=options), tmp_path / str(count))
    weights = [load_file(tmp_path / count / "models/all-seed-0/model.safetensors") for count in ("0", "2")]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-5
    logged = [read_json_lines(tmp_path / count / "metrics.jsonl") for count in ("0", "2")]
    assert [row["loss"] for row in logged[1]] == pytest.approx([row["loss"] for row in logged[0]], rel=1e-3)
