"""Sweeps: what variants are read, what they share, what a failing one does, and the table at the end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.cli import app
from selfsteer.config import dump_recipe, load_sweep, shipped_sweeps
from selfsteer.errors import ConfigError, GuardStopped, InputError, WorkFailed
from selfsteer.files import read_json, read_json_lines
from selfsteer.loop import run
from selfsteer.records import Contrast, read_rows
from selfsteer.report.sweep import sweep_notes, write_sweep
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.store import locked
from selfsteer.workflows.sweep import check_all, failed, sweep
from selfsteer.workflows.sweep_variants import read_sweep
from tests.run_helpers import contrasts, policy_hash, scripted_recipe, small_recipe, without_reports

FILTERS = {"strict": {}, "loose": {"quality": {"filters": ["identical"]}}}


@pytest.fixture
def write(tmp_path, queries):
    """Write a recipe and a sweep over it; return the sweep's file."""

    def writes(base=None, **values) -> Path:
        (tmp_path / "recipe.yaml").write_text(dump_recipe(base or scripted_recipe(queries)), encoding="utf-8")
        file, whole = tmp_path / "sweep.yaml", {"name": "tried", "recipe": "recipe.yaml"} | values
        file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
        return file

    return writes


@pytest.fixture
def counted(monkeypatch):
    """How many prompts the scripted backend was asked for."""
    asked: list[int] = []
    generate = ScriptedBackend.generate

    def counting(self, prompts, *arguments, **options):
        asked.append(len(prompts))
        return generate(self, prompts, *arguments, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", counting)
    return asked


def swept(file, folder, overrides=()):
    with without_reports():
        return sweep(read_sweep(file, overrides), folder, command="selfsteer sweep")


def content(run_dir: Path) -> dict[str, bytes]:
    """The bytes of all files of a run's stages; what tells of times, paths and the run's name is left out."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and "round-" in str(path.relative_to(run_dir))]
    timed = ("selfsteer.json", "README.md", "training.json")
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files if not path.name.endswith(timed)}


# --- what a sweep file says


def test_variants_grid_and_seeds_give_named_recipes(write):
    variants = {"a": {}, "b": {"generation": {"top_p": 0.5}, "generation.temperature": 1.0}}
    file = write(variants=variants, grid={"generation.max_new_tokens": [8, 9]}, seeds=[3, 4])
    found = read_sweep(file, ["queries.limit=5"])
    names = [variant.name for variant in found.variants]
    assert names == [f"{v}_max_new_tokens-{n}_seed-{s}" for v in "ab" for n in (8, 9) for s in (3, 4)]
    last = found.variants[-1]
    assert (last.group, last.recipe.seed, last.recipe.name) == ("b_max_new_tokens-9", 4, f"tried-{last.name}")
    assert (last.recipe.generation.top_p, last.recipe.generation.temperature) == (0.5, 1.0)
    assert {variant.recipe.queries.limit for variant in found.variants} == {5}
    assert last.recipe.quality.filters == ["identical", "direction"], "nested settings leave the others"


def test_long_values_of_a_grid_are_named_by_their_place(write):
    found = read_sweep(write(grid={"quality.filters": [["identical"], ["leak"]]}))
    assert [variant.name for variant in found.variants] == ["filters-1", "filters-2"]


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({}, [], "a sweep without variants"),
        ({"variant": {"a": {}}}, [], "Did you mean 'variants'"),
        ({"variants": {"a": {}, "b": {}}}, [], "variants 'a' and 'b' are the same recipe in effect"),
        ({"variants": {"a": {}, "b": {"seed": 1}}}, ["seed=2"], "'a' and 'b' are the same"),
        ({"variants": {"a/b": {}}}, [], "can't be a variant's name"),
        ({"variants": {"sweep.json": {}}}, [], "can't be a variant's name"),
        ({"variants": {"a": {}, "A": {"seed": 1}}}, [], "one folder: 'a' and 'A'"),
        ({"variants": {"a": {"train": {"betta": 1}}}}, [], "variant 'a': unknown key 'train.betta'"),
        ({"variants": {"a": {"rounds": 2}}}, [], "variant 'a': .*data-only never changes the policy"),
        ({"variants": {"a": {"seed": 1}}, "seeds": [1, 2]}, [], "the sweep's seeds set the seed"),
        ({"variants": {"a": {"name": "x"}}}, [], "the sweep names its variants"),
        ({"variants": {"a": {}}, "recipe": "quikstart"}, [], "Did you mean 'quickstart'"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(write, values, overrides, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        read_sweep(write(**values), overrides)


def test_a_wrong_setting_is_told_with_its_line(write):
    with pytest.raises(ConfigError) as caught:
        read_sweep(write(variants={"a": {"train": {"betta": 1}}}))
    assert caught.value.where.startswith(str(write().with_name("sweep.yaml"))) and "beta" in caught.value.do


@pytest.mark.parametrize("name", sorted(shipped_sweeps()))
def test_a_shipped_sweep_loads_and_its_header_holds_the_command_that_runs_it(name):
    file = shipped_sweeps()[name]
    header = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    (command,) = [shlex.split(line) for line in header if line.startswith("selfsteer sweep ")]
    assert (
        load_sweep(command[2]).file.resolve() == file.resolve()
        and len(read_sweep(command[2], command[3:]).variants) >= 2
    )


# --- what is shared


def test_what_variants_have_in_common_is_computed_once(write, tmp_path, queries, counted):
    record = swept(write(variants=FILTERS), tmp_path / "out")
    together = sum(counted)
    counted.clear()
    with without_reports():
        for name, own in FILTERS.items():
            run(scripted_recipe(queries, **own), tmp_path / "alone" / name)
    assert together == sum(counted) / 2 > 0
    assert record["shared"] == {"taken": 7, "total": 16}
    for name in FILTERS:
        assert contrasts(tmp_path / "out" / name) == contrasts(tmp_path / "alone" / name)
        assert content(tmp_path / "out" / name) == content(tmp_path / "alone" / name)
    lines = read_json_lines(tmp_path / "out/loose/ledger.jsonl")
    assert [line["taken_from"] for line in lines] == ["strict"] * 7 + [""]


def test_a_finished_variant_needs_no_sibling_and_a_second_sweep_does_nothing(write, tmp_path, counted):
    file, out = write(variants=FILTERS), tmp_path / "out"
    swept(file, out)
    shutil.rmtree(out / "strict")
    counted.clear()
    ledger = (out / "loose/ledger.jsonl").read_bytes()
    with without_reports():
        summary = run(read_sweep(file).variants[1].recipe, out / "loose")
    assert all(stage["reused"] for stage in summary["stages"]) and not counted
    record = swept(file, out)
    assert not counted, "the removed variant takes back what the other one had taken"
    assert record["runs"][0]["stages"] == {"total": 8, "taken": 7, "from": {"strict": 7}}
    assert (out / "loose/ledger.jsonl").read_bytes() == ledger


def test_what_was_begun_here_gives_way_to_the_siblings_whole_result(write, tmp_path):
    file, out = write(variants=FILTERS), tmp_path / "out"
    swept(file, out)
    stage = next((out / "strict/round-01/responses").glob("*.parquet"))
    begun = out / "loose/round-01/responses" / stage.name
    (out / "loose/ledger.jsonl").unlink()
    begun.unlink()
    begun.write_bytes(b"half of it")
    begun.with_suffix(".pieces").mkdir()
    swept(file, out)
    assert begun.read_bytes() == stage.read_bytes() and not begun.with_suffix(".pieces").exists()


def test_trained_variants_share_what_is_the_same_and_equal_runs_of_their_own(write, tmp_path, tiny_chat_model, queries):
    changes = {"train__epochs": 1, "train__warmup_ratio": 0.0, "queries__limit": 6}
    variants = {"sso": {}, "guarded": {"guards.length.max_ratio": 9.0}, "pbaa": {"train.objective": "base"}}
    out = tmp_path / "out"
    record = swept(write(small_recipe(tiny_chat_model, queries, **changes), variants=variants), out)
    with without_reports():
        summary = run(small_recipe(tiny_chat_model, queries, **changes, train__objective="base"), tmp_path / "alone")
    assert policy_hash(out / "pbaa") == policy_hash(tmp_path / "alone") != policy_hash(out / "sso")
    assert content(out / "pbaa") == content(tmp_path / "alone")
    assert read_json(out / "pbaa/summary.json")["policies"] == read_json(tmp_path / "alone/summary.json")["policies"]
    lines = read_json_lines(out / "pbaa/ledger.jsonl")
    before = {"queries", "principles", "responses", "scores", "contrasts"}
    assert {line["stage"] for line in lines if line["taken_from"] == "sso"} == before
    figures = record["runs"][2]["figures"]
    assert figures["implicit_accuracy"] == summary["policies"][1]["implicit"]["accuracy"]
    assert "Implicit rewards: per token in sso, guarded, pbaa." in sweep_notes(record)
    assert figures["plain_before"] == summary["policies"][0]["length"]["original"]["mean_tokens"]
    assert figures["plain_after"] == summary["policies"][1]["length"]["original"]["mean_tokens"]
    # What is trained in the same way is taken with its weights and its curve, and needs its sibling no more.
    lines = read_json_lines(out / "guarded/ledger.jsonl")
    assert {line["taken_from"] for line in lines if line["stage"] != "guards"} == {"sso"}
    curve = read_json_lines(out / "sso/metrics.jsonl")
    assert read_json_lines(out / "guarded/metrics.jsonl") == curve != []
    shutil.rmtree(out / "sso")
    assert (out / "guarded/policy/model.safetensors").is_file()


# --- plans, failures, interruptions


def test_a_plan_says_what_is_done_shared_and_to_do_and_writes_nothing(write, tmp_path):
    file = write(variants=FILTERS)
    plans = {name: steps for name, (_, steps) in check_all(read_sweep(file), tmp_path / "out").items()}
    assert {step.state for step in plans["strict"]} == {StepState.TODO}
    assert [step.state for step in plans["loose"]] == [StepState.SHARED] * 7 + [StepState.TODO]
    assert {step.why for step in plans["loose"][:7]} == {"with strict"}
    assert not (tmp_path / "out").exists()
    found = CliRunner().invoke(app, ["sweep", str(file), "--dry-run", "--run-dir", str(tmp_path / "out")])
    assert found.exit_code == 0 and "7 of 16 stages are shared" in found.output
    swept(file, tmp_path / "out")
    plans = {name: steps for name, (_, steps) in check_all(read_sweep(file), tmp_path / "out").items()}
    assert {step.state for steps in plans.values() for step in steps} == {StepState.DONE}


@pytest.mark.filterwarnings("ignore:filter 'direction' dropped all")
def test_a_failing_variant_does_not_stop_the_others(write, tmp_path):
    nothing = {"quality.filters": [{"direction": {"program": "longer"}}]}
    file, out = write(variants={"bad": nothing, "good": {}}), tmp_path / "out"
    with without_reports():
        found = CliRunner().invoke(app, ["sweep", str(file), "--run-dir", str(out)])
    assert isinstance(found.exception, WorkFailed) and found.exception.exit_code == 1
    assert "1 of 2 variants are not done: bad" in str(found.exception) and "kept no row" in found.output
    record = read_json(out / "sweep.json")
    assert [run["outcome"] for run in record["runs"]] == ["failed", "done"]
    assert record["runs"][0]["figures"]["kept"] is None and record["runs"][1]["figures"]["kept"] > 0
    assert record["shared"]["taken"] == 7, "what the failed one had finished serves the others"
    assert "bad failed: quality control kept no row" in (out / "sweep.md").read_text(encoding="utf-8")


def test_a_variant_that_a_guard_ended_is_stopped_and_has_figures(write, tmp_path, monkeypatch):
    stop = {"loose": GuardStopped("a guard ended the run", where="x")}
    monkeypatch.setattr("selfsteer.workflows.sweep.stopped", lambda summary, run_dir: stop.get(run_dir.name))
    record = swept(write(variants=FILTERS), tmp_path / "out")
    assert record["runs"][1]["outcome"] == "stopped" and record["runs"][1]["figures"]["kept"] > 0
    assert failed(record, tmp_path / "out").exit_code == 1


def test_bad_settings_are_found_before_anything_starts(write, tmp_path):
    file = write(variants={"good": {}, "bad": {"queries.source": str(tmp_path / "none.txt")}})
    with pytest.raises(InputError, match="variant 'bad'"):
        swept(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_turned_away(write, tmp_path):
    file = write(variants=FILTERS)
    with locked(tmp_path / "out", "sweep's folder"), pytest.raises(WorkFailed, match="another process works in this"):
        swept(file, tmp_path / "out")


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(write, tmp_path, monkeypatch):
    file, out = write(variants=FILTERS), tmp_path / "out"

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ScriptedBackend, "generate", interrupted)
        assert CliRunner().invoke(app, ["sweep", str(file), "--run-dir", str(out)]).exit_code == 130
    assert [run["outcome"] for run in swept(file, out)["runs"]] == ["done", "done"]


def test_killed_while_taking_a_stage_it_goes_on(write, tmp_path, queries):
    """The process kills itself between a taken file and the ledger's line."""
    file, out = write(variants=FILTERS), tmp_path / "out"
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from selfsteer.runs.ledger import Ledger\nfrom selfsteer.workflows.sweep import sweep\n"
        "from selfsteer.workflows.sweep_variants import read_sweep\n"
        "add = Ledger.add\n"
        "def dying(self, entry):\n"
        "    if entry.taken_from and entry.stage == 'responses' and entry.round == 1:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return add(self, entry)\n"
        "Ledger.add = dying\n"
        "sweep(read_sweep(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(file), str(out)], env=os.environ)
    assert killed.returncode == -signal.SIGKILL and list((out / "loose/round-01/responses").glob("*.parquet"))
    assert not (out / "loose/round-01/scores").exists()
    record = swept(file, out)
    assert record["shared"] == {"taken": 7, "total": 16}
    with without_reports():
        run(scripted_recipe(queries, **FILTERS["loose"]), tmp_path / "alone")
    assert content(out / "loose") == content(tmp_path / "alone")
    assert not list(out.rglob("*.tmp"))


# --- the table


def test_the_table_has_a_row_a_run_and_the_mean_over_seeds(write, tmp_path):
    record = swept(write(variants=FILTERS, seeds=[0, 1]), tmp_path / "out")
    runs = {run["name"]: run["figures"]["kept"] for run in record["runs"]}
    one, two = runs["strict_seed-0"], runs["strict_seed-1"]
    mean = next(mean for mean in record["means"] if mean["variant"] == "strict")["figures"]["kept"]
    assert mean["mean"] == pytest.approx((one + two) / 2) and mean["n"] == 2
    assert mean["deviation"] == pytest.approx(abs(one - two) / 2**0.5)
    assert json.loads((tmp_path / "out/sweep.json").read_bytes()) == record
    text = (tmp_path / "out/sweep.md").read_text(encoding="utf-8")
    assert "| loose, mean of 2 runs |" in text and "14 of 32 stages taken from a sibling" in text


def test_kept_shares_are_those_of_the_rows(write, tmp_path):
    record = swept(write(variants=FILTERS), tmp_path / "out")
    for made in record["runs"]:
        files = sorted((tmp_path / "out" / made["name"] / "round-01/contrasts").glob("*.parquet"))
        rows = list(read_rows(files, Contrast))
        assert made["figures"]["kept"] == sum(row.kept for row in rows) / len(rows)


def test_the_page_stands_alone_and_links_the_reports(write, tmp_path):
    with without_reports():
        record = sweep(read_sweep(write(variants=FILTERS)), tmp_path / "out", command="selfsteer sweep <x>")
    (tmp_path / "out/strict/report.html").write_text("", encoding="utf-8")
    write_sweep(tmp_path / "out", record)
    page = (tmp_path / "out/sweep.html").read_text(encoding="utf-8")
    assert 'href="strict/report.html"' in page and "loose/report.html" not in page, "only reports that are there"
    assert "selfsteer sweep &lt;x&gt;" in page
    assert not any(word in page for word in ("<script", "http://", "https://", "<link"))
