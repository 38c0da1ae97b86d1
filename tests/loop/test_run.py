"""A whole run on a tiny model: what it leaves behind, what it redoes, how it ends."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
import torch

from selfsteer.errors import ConfigError, DataError, ModelError, NothingSurvived, StorageError, WorkFailed
from selfsteer.files import read_json_lines
from selfsteer.loop import run
from selfsteer.loop.dry_run import plan
from selfsteer.loop.run import open_stages
from selfsteer.records import PROMPTS, ROLES, Contrast, read_rows
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from tests.run_helpers import contrasts, policy_hash, small_recipe, stages, without_reports

_WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_chat_model, queries):
    """One finished run that the tests below read (and copy before they change it)."""
    run_dir = tmp_path_factory.mktemp("runs") / "done"
    summary = run(small_recipe(tiny_chat_model, queries), run_dir)
    return run_dir, summary


def test_the_run_directory_holds_everything(done):
    run_dir, summary = done
    assert {path.name for path in run_dir.iterdir()} >= {
        "recipe.yaml", "ledger.jsonl", "metrics.jsonl", "summary.json", "report.html", "policy", "round-01",
    }  # fmt: skip
    assert (run_dir / "policy/model.safetensors").is_file()
    assert "arXiv 2410.17131" in (run_dir / "policy/README.md").read_text(encoding="utf-8")
    assert not list(run_dir.rglob("*.tmp")) and not list(run_dir.rglob("checkpoints-*"))
    assert not list(run_dir.rglob("*.bin")), "no pickles beside the weights"
    assert [policy["label"] for policy in summary["policies"]] == ["before", "after round 1"]
    assert summary["rounds"][0]["quality"]["total"] == 7


def test_every_row_has_scores_ids_and_provenance(done):
    rows = contrasts(done[0])
    assert len(rows) == 7
    for row in rows:
        assert row.provenance["backend"] == "transformers" and "brief" in row.provenance["principle_set"]
        for role in ROLES:
            ends = getattr(row, f"{role}_token_ids")[-1] == 2
            assert ends == (getattr(row, f"{role}_finish") == "stop")
        if row.kept:
            assert all(row.scores[f"{role}_response"][prompt] < 0 for role in ROLES for prompt in PROMPTS)


def test_the_policy_loads_as_any_model_and_differs_from_its_start(done, tiny_chat_model):
    from selfsteer.models import load_model

    before, after = load_model(str(tiny_chat_model)), load_model(str(done[0] / "policy"))
    moved = [not a.equal(b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(moved)


def test_the_metrics_start_at_the_losses_of_a_policy_that_is_its_reference(done):
    first = read_json_lines(done[0] / "metrics.jsonl")[0]
    assert first["loss/base"] == pytest.approx(1 / (4 * 0.2**2), rel=1e-3)
    assert first["loss/steering"] == pytest.approx(2 / (4 * 0.2**2), rel=1e-3)


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
def test_a_policy_that_lost_a_file_is_trained_again(done, tmp_path, tiny_chat_model, queries, lost):
    run_dir = shutil.copytree(done[0], tmp_path / "run", symlinks=True)
    before = policy_hash(done[0])
    (run_dir / "policy" / lost).unlink()
    recipe = small_recipe(tiny_chat_model, queries)
    steps = [step for step in plan(open_stages(recipe, run_dir, Display(quiet=True)), measure=True) if step.why]
    assert steps[0].title == "train, round 1" and steps[0].state is StepState.REDO
    assert steps[0].why.startswith("its files are gone: ") and steps[0].why.endswith(f"/{lost}")
    with without_reports():
        summary = run(recipe, run_dir)
    assert [stage["stage"] for stage in summary["stages"] if not stage["reused"]] == ["train, round 1"]
    assert policy_hash(run_dir) == before and (run_dir / "policy" / lost).is_file()


def test_a_second_run_does_nothing(done, tmp_path, tiny_chat_model, queries):
    run_dir, first = shutil.copytree(done[0], tmp_path / "run", symlinks=True), done[1]
    before = (run_dir / "ledger.jsonl").read_bytes()
    second = run(small_recipe(tiny_chat_model, queries), run_dir)
    assert (run_dir / "ledger.jsonl").read_bytes() == before
    assert all(stage["reused"] for stage in second["stages"])
    assert second["policies"] == first["policies"] and second["created"] == first["created"]


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"quality__filters": ["leak"]}, {"contrasts"}),
        ({"train__beta": 0.5}, {"policy", "responses", "scores", "implicit"}),
        ({"train__save_steps": 3, "train__show_examples": 2}, set()),
    ],
)
def test_a_changed_setting_redoes_only_what_depends_on_it(done, tmp_path, tiny_chat_model, queries, change, redone):
    run_dir = shutil.copytree(done[0], tmp_path / "run", symlinks=True)
    before = len(stages(run_dir))
    run(small_recipe(tiny_chat_model, queries, **change), run_dir)
    new = stages(run_dir)[before:]
    # Everything after training depends on the new policy; if filtering keeps other rows, training is redone too.
    after_training = {"policy", "responses", "scores", "implicit"}
    assert redone <= {stage for stage, _ in new} <= redone | (after_training if redone else set())
    assert all(number == 1 for _, number in new)


def test_implicit_rewards_follow_the_loss_or_what_is_asked_and_redo_nothing(done, tmp_path, tiny_chat_model, queries):
    assert done[1]["policies"][1]["implicit"]["scale"] == "per token", "the loss is ipo"
    run_dir = shutil.copytree(done[0], tmp_path / "run", symlinks=True)
    summary = run(small_recipe(tiny_chat_model, queries, evaluation__per_token=False), run_dir)
    assert all(stage["reused"] for stage in summary["stages"])
    found = summary["policies"][1]["implicit"]
    sums = []
    for folder in ("round-00/heldout/scores", "round-01/heldout/implicit"):
        rows = sorted(read_rows(sorted((run_dir / folder).glob("*.parquet")), Contrast), key=lambda row: row.id)
        sums.append([
            sum(sign * row.scores[f"{role}_response"]["prompt"] * len(row.response_ids(role))
                for sign, role in ((1, "positive"), (-1, "negative")))
            for row in rows
        ])  # fmt: skip
    margins = [after - before for before, after in zip(*sums, strict=True)]
    assert found["scale"] == "summed" and found["margin"] == pytest.approx(sum(margins) / len(margins))
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "Implicit-reward accuracy (summed)" in page and "Implicit accuracy, held-out, summed" in page


def test_the_same_seed_gives_the_same_rows_and_weights(done, tmp_path, tiny_chat_model, queries):
    run(small_recipe(tiny_chat_model, queries), tmp_path / "again")
    assert contrasts(tmp_path / "again") == contrasts(done[0])
    assert policy_hash(tmp_path / "again") == policy_hash(done[0])


def test_another_seed_gives_other_responses(done, tmp_path, tiny_chat_model, queries):
    run(small_recipe(tiny_chat_model, queries, seed=2, mode="data-only"), tmp_path / "other")
    texts = {row.original_response for row in contrasts(tmp_path / "other")}
    assert texts != {row.original_response for row in contrasts(done[0])}


def test_a_second_round_starts_from_the_first_rounds_policy(done, tmp_path, tiny_chat_model, queries):
    run_dir = shutil.copytree(done[0], tmp_path / "run", symlinks=True)
    summary = run(small_recipe(tiny_chat_model, queries, rounds=2), run_dir)
    assert [policy["round"] for policy in summary["policies"]] == [0, 1, 2]
    first, second = contrasts(run_dir, 1), contrasts(run_dir, 2)
    assert {row.round for row in second} == {2}
    assert first[0].provenance["weights"] != second[0].provenance["weights"]
    assert (run_dir / "policy").resolve() == (run_dir / "round-02/policy").resolve()


def test_lora_trains_an_adapter_that_loads(tmp_path, tiny_chat_model, queries):
    run(small_recipe(tiny_chat_model, queries, train__lora={"r": 2, "dropout": 0.1}), tmp_path / "lora")
    assert (tmp_path / "lora/policy/adapter_model.safetensors").is_file()
    from selfsteer.models import load_model

    assert load_model(str(tmp_path / "lora/policy")) is not None


def test_without_held_out_queries_there_is_no_before_and_after(tmp_path, tiny_chat_model, queries):
    summary = run(small_recipe(tiny_chat_model, queries, queries__heldout=0), tmp_path / "run")
    assert summary["policies"] == [] and summary["verdict"] == []
    assert (tmp_path / "run/report.html").is_file()


def test_nothing_survives(tmp_path, tiny_chat_model, queries):
    recipe = small_recipe(
        tiny_chat_model, queries, quality__filters=[{"length_ratio": {"max_ratio": 1.0}}, "truncated"]
    )
    with pytest.raises(NothingSurvived, match="kept no row of 7"), pytest.warns(UserWarning):
        run(recipe, tmp_path / "run")
    assert all(row.drop_reason for row in contrasts(tmp_path / "run"))


def test_a_query_longer_than_the_context_is_left_out_and_said(tmp_path, tiny_chat_model, queries):
    longer = tmp_path / "longer.txt"
    longer.write_text(queries.read_text() + "river " * 600 + "\n", encoding="utf-8")
    summary = run(small_recipe(tiny_chat_model, longer, queries__heldout=0, mode="data-only"), tmp_path / "run")
    (drop,) = summary["rounds"][0]["queries"]["dropped"]
    assert "exceed the model's context of 512" in drop["reason"]
    assert summary["rounds"][0]["quality"]["total"] == 10


def test_a_query_longer_than_what_is_scored_is_left_out_in_data_only_too(tmp_path, tiny_chat_model, queries):
    longer = tmp_path / "longer.txt"
    longer.write_text(queries.read_text() + "river " * 250 + "\n", encoding="utf-8")
    recipe = small_recipe(tiny_chat_model, longer, queries__heldout=0, mode="data-only", train__max_length=300)
    summary = run(recipe, tmp_path / "run")
    (drop,) = summary["rounds"][0]["queries"]["dropped"]
    assert "train.max_length" in drop["reason"]


def test_no_prompt_fits(tmp_path, tiny_chat_model, queries):
    with pytest.raises(DataError, match=r"max_new_tokens"):
        run(small_recipe(tiny_chat_model, queries, generation__max_new_tokens=510), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"principles__set": "breif"}, None, "brief"),
        ({"quality__filters": ["identicle"]}, ConfigError, "identical"),
        ({"evaluation__direction": "shortest"}, ConfigError, "shorter"),
        ({"train__base_loss": "ippo"}, ConfigError, "ipo"),
        ({"train__margin": 0.5}, ConfigError, "margin"),
        pytest.param({"train__lora": {"bits": 4}}, ConfigError, r"train\.lora\.bits=4 needs", marks=_WITHOUT_GPU),
        ({"model__name": "./nowhere"}, ModelError, "no such folder"),
        ({"queries__source": "nowhere.jsonl"}, DataError, "no such file"),
        ({"queries__heldout": 10}, DataError, "held out"),
    ],
)
def test_a_wrong_setting_is_one_clear_message_of_exit_code_2(tmp_path, tiny_chat_model, queries, change, error, words):
    with pytest.raises(error or Exception, match=words) as caught:
        run(small_recipe(tiny_chat_model, queries, **change), tmp_path / "run")
    assert caught.value.exit_code == 2


def test_two_processes_on_one_run_directory(tmp_path, tiny_chat_model, queries):
    from selfsteer.runs.progress import Display

    entered, leave = threading.Event(), threading.Event()

    def hold():
        with Store(tmp_path / "run", Display(quiet=True)).locked():
            entered.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(20)
    try:
        with pytest.raises(WorkFailed, match="another process"):
            run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    finally:
        leave.set()
        holder.join()


def test_a_full_disk_keeps_what_is_finished(tmp_path, tiny_chat_model, queries, monkeypatch):
    import errno

    from selfsteer.runs import shards as blocks

    written = blocks.write_rows

    def full(path, kind, rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(blocks, "write_rows", full)
    with pytest.raises(StorageError, match="No space left"):
        run(small_recipe(tiny_chat_model, queries), tmp_path / "run")
    monkeypatch.setattr(blocks, "write_rows", written)
    summary = run(small_recipe(tiny_chat_model, queries, mode="data-only"), tmp_path / "run")
    assert summary["rounds"][0]["quality"]["kept"]


def test_the_summary_is_json_and_the_report_shows_the_verdict(done):
    run_dir, summary = done
    assert json.loads((run_dir / "summary.json").read_text()) == json.loads(json.dumps(summary))
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "Did held-out answers become shorter?" in page
