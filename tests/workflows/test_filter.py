"""`selfsteer filter`: stored rows are filtered again, and the earlier rows stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfsteer.commands.filter import FilterArguments, filter_rows
from selfsteer.config import load_recipe
from selfsteer.errors import ConfigError, InputError, NothingSurvived
from selfsteer.export import read_contrasts
from selfsteer.files import read_json
from selfsteer.loop import run
from selfsteer.principles import load_set
from selfsteer.principles.yaml_writer import dump_set
from selfsteer.quality import steering_margin
from selfsteer.records import Contrast, read_rows, write_rows
from selfsteer.runs.active import active_records
from selfsteer.runs.ledger import Ledger
from selfsteer.workflows.filter import refilter_file, refilter_run
from selfsteer.workflows.row_source import open_source
from tests.example_rows import contrast
from tests.printed import printed
from tests.run_helpers import contrasts, scripted_recipe, small_recipe, without_reports, write_queries

STRICT = "quality.filters=[identical, {length_ratio: {max_ratio: 1.2}}]"


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    monkeypatch.setattr("selfsteer.workflows.filter.write_report", lambda run_dir: run_dir)
    with without_reports():
        yield


@pytest.fixture
def run_dir(scripted_run, tmp_path) -> Path:
    return Path(shutil.copytree(scripted_run, tmp_path / "run"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_force_rows(folder: Path) -> dict[str, Contrast]:
    return {row.id: row for row in open_source(folder).rows}


def test_new_rows_stand_beside_the_old_and_are_in_force(run_dir):
    before, old = everything(run_dir), in_force_rows(run_dir)
    (part,) = refilter_run(run_dir, [STRICT]).parts
    after = everything(run_dir)
    changed = {name for name in after if after[name] != before.get(name)} - {"ledger.jsonl"}
    new_files = {name for name in changed if name.endswith(".parquet")}
    assert changed - new_files == {"recipe.yaml", "summary.json"} and before.keys() <= after.keys()
    assert len(new_files) == 1 and next(iter(new_files)).startswith("round-01/contrasts/")
    rows = in_force_rows(run_dir)
    assert {name: row.positive_response for name, row in rows.items()} == {
        name: row.positive_response for name, row in old.items()
    }
    kept = [row.id for row in rows.values() if row.kept]
    assert part.after["kept"] == len(kept) and kept != [row.id for row in old.values() if row.kept]
    assert part.before["dropped"].keys() == {"empty", "identical", "direction"}
    assert list(part.after["dropped"]) == ["empty", "identical", "length_ratio"]
    assert sum(own["kept"] for own in part.after["aspects"].values()) == len(kept), "brief steers along one aspect"


def test_the_recipe_and_the_summary_follow_and_a_run_finds_all_done(run_dir):
    refilter_run(run_dir, [STRICT])
    recipe = load_recipe(run_dir / "recipe.yaml")
    assert recipe.quality.filters[1] == {"length_ratio": {"max_ratio": 1.2}}
    quality = read_json(run_dir / "summary.json")["rounds"][0]["quality"]
    summary = run(recipe, run_dir)
    assert all(stage["reused"] for stage in summary["stages"])
    assert summary["rounds"][0]["quality"] == quality
    assert "refiltered" not in summary, "the run has caught up"


def test_filters_of_before_find_their_rows_again(run_dir):
    old = in_force_rows(run_dir)
    refilter_run(run_dir, [STRICT])
    files = {path.name for path in (run_dir / "round-01/contrasts").iterdir()}
    refilter_run(run_dir, ["quality.filters=[identical, direction]"])
    assert in_force_rows(run_dir) == old
    assert {path.name for path in (run_dir / "round-01/contrasts").iterdir()} == files


def test_a_run_goes_by_the_principle_set_that_it_was_made_by(tmp_path):
    brief = load_set("brief")
    aspects = [aspect.model_copy(update={"harmful_negative": True}) for aspect in brief.aspects]
    file = tmp_path / "house.yaml"
    file.write_text(dump_set(brief.model_copy(update={"aspects": aspects}), notes={}), encoding="utf-8")
    run(scripted_recipe(write_queries(tmp_path), principles={"set": str(file)}), tmp_path / "run")
    file.unlink()
    refilter_run(tmp_path / "run", [STRICT])
    rows = in_force_rows(tmp_path / "run").values()
    assert rows and all(row.negative_harmful for row in rows)
    kept = load_set(tmp_path / "run" / "principles.yaml").fingerprint
    assert {row.provenance["principle_set"].split()[-1] for row in rows} == {kept}


def test_what_a_killed_run_was_writing_at_its_begin_is_gone_after_the_next_one(run_dir):
    for name in ("recipe.yaml", "principles.yaml", "summary.json"):
        (run_dir / f".{name}.0123abcd.tmp").write_text("half", encoding="utf-8")
    of_another = run_dir / ".report.html.0123abcd.tmp"  # `selfsteer report` needs no lock
    of_another.write_text("half", encoding="utf-8")
    run(load_recipe(run_dir / "recipe.yaml"), run_dir)
    assert list(run_dir.glob(".*.tmp")) == [of_another]


def test_a_dry_run_counts_the_same_and_changes_nothing(run_dir):
    before = everything(run_dir)
    dry = refilter_run(run_dir, [STRICT], dry_run=True)
    assert everything(run_dir) == before
    assert refilter_run(run_dir, [STRICT]).parts == dry.parts


def test_filters_that_keep_nothing_leave_those_of_before_in_force(run_dir):
    old, recipe = in_force_rows(run_dir), (run_dir / "recipe.yaml").read_text()
    with pytest.warns(match="dropped all"), pytest.raises(NothingSurvived, match="kept no row") as caught:
        refilter_run(run_dir, ["quality.filters=[{length_bias: {max_share: 0.5}}, {length_ratio: {max_ratio: 1}}]"])
    assert caught.value.exit_code == 1 or caught.value.do
    assert in_force_rows(run_dir) == old and (run_dir / "recipe.yaml").read_text() == recipe


@pytest.mark.parametrize("key", ["seed=3", "generation.temperature=1", "principles.set=quality", "quality.clean=false"])
def test_what_came_before_quality_control_can_not_be_changed(run_dir, key):
    before = everything(run_dir)
    with pytest.raises(ConfigError, match=f"{key.partition('=')[0]} can't be changed for stored rows"):
        refilter_run(run_dir, [key])
    assert everything(run_dir) == before


def test_unknown_filters_are_refused_with_a_suggestion(run_dir):
    with pytest.raises(ConfigError, match="unknown filter 'duplicate'") as caught:
        refilter_run(run_dir, ["quality.filters=[duplicate]"])
    assert "duplicates" in caught.value.do
    with pytest.raises(ConfigError, match="steering_margin use log-probs"):
        refilter_run(run_dir, ["quality.filters=[steering_margin]"])


def test_a_classifier_flags_and_its_threshold_names_the_result(run_dir, tiny_classifier):
    harm = f"classifier: {tiny_classifier}, label: harmful"
    (all_of_them,) = refilter_run(run_dir, [f"quality.harm={{{harm}, threshold: 0.000001}}"]).parts
    rows = in_force_rows(run_dir)
    assert all(row.negative_harmful.startswith("classifier: ") for row in rows.values())
    assert all_of_them.after["harmful"] == {"classifier": len(rows)}
    kept = {name for name, row in rows.items() if row.kept}
    (none,) = refilter_run(run_dir, ["quality.harm.threshold=0.999999"]).parts
    rows = in_force_rows(run_dir)
    assert not any(row.negative_harmful for row in rows.values()) and none.after["harmful"] == {}
    assert {name for name, row in rows.items() if row.kept} == kept, "a flag drops nothing"


def test_a_label_that_the_classifier_lacks_is_refused_before_anything_is_done(tmp_path, queries, tiny_classifier):
    harm = {"classifier": str(tiny_classifier), "label": "toxic"}
    recipe = scripted_recipe(queries, quality={"filters": ["identical"], "harm": harm})
    with pytest.raises(ConfigError, match="has no label 'toxic'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_later_round_is_not_filtered_by_itself(tmp_path, queries, tiny_chat_model):
    recipe = small_recipe(tiny_chat_model, queries, rounds=2, queries__heldout=0, train__epochs=1)
    run(recipe, tmp_path / "run")
    settings = ["quality.filters=[identical, {steering_margin: {top: 0.5}}]"]
    assert len(refilter_run(tmp_path / "run", [], dry_run=True).parts) == 2, "nothing is stale where nothing changes"
    outcome = refilter_run(tmp_path / "run", settings)
    assert [part.label for part in outcome.parts] == ["round 1"]
    assert outcome.notes[0].startswith("not filtered: round 2") and "selfsteer run" in outcome.notes[1]
    force = active_records(Ledger(tmp_path / "run").entries())
    assert ("contrasts", 1, False) in force and not {("policy", 1, False), ("contrasts", 2, False)} & force.keys()
    assert read_json(tmp_path / "run/summary.json")["refiltered"] == ["round 1"]
    summary = run(load_recipe(tmp_path / "run/recipe.yaml"), tmp_path / "run")
    redone = [stage["stage"] for stage in summary["stages"] if not stage["reused"]]
    assert redone[0] == "train, round 1" and "sample responses, round 1" not in redone
    assert "sample responses, round 2" in redone
    rows = contrasts(tmp_path / "run")
    assert [row.steering_margin for row in rows] == [steering_margin(row) for row in rows]
    assert any(row.steering_margin is not None for row in rows)


# ----------------------------------------------------------------------------------------------------------- files
@pytest.fixture
def file(tmp_path) -> Path:
    rows = [
        contrast("a"),
        contrast("b", positive_response="Blue light scatters."),
        contrast("c", negative_response="other").drop("leak: y+ repeats its instructions"),
        contrast("d", negative_response="one more").drop("too strange for us"),
        contrast("e", aspects=["Safety"], negative_response="and a fifth", negative_harmful="classifier: 0.90"),
    ]
    write_rows(tmp_path / "rows.parquet", Contrast, rows)
    return tmp_path / "rows.parquet"


def test_a_file_is_filtered_into_another_and_drops_of_filters_are_filtered_again(file, tmp_path):
    (part,) = refilter_file(file, ["quality.filters=[identical]"], tmp_path / "out.parquet").parts
    rows = {row.id: row for row in read_contrasts(tmp_path / "out.parquet")}
    assert {name: row.drop_reason for name, row in rows.items()} == {
        "a": "", "b": "identical: y+ equals yo", "c": "", "d": "too strange for us", "e": "",
    }  # fmt: skip
    assert (part.before["kept"], part.after["kept"]) == (3, 3)
    assert part.before["dropped"]["leak"] == 1 and part.after["dropped"]["dropped_before"] == 1
    assert rows["e"].negative_harmful == "classifier: 0.90", "nobody told anew"


def test_a_set_brings_its_flags_and_a_folder_can_be_read_again(file, tmp_path):
    settings = ["quality.filters=[duplicates]", "principles.set=quality"]
    refilter_file(file, settings, tmp_path / "out")
    rows = {row.id: row for row in open_source(tmp_path / "out").rows}
    assert rows["e"].negative_harmful == "principle: Safety; classifier: 0.90"
    assert [row.id for row in rows.values() if row.kept] == ["a"], "all ask the same"
    refilter_file(tmp_path / "out", ["quality.filters=[]"], tmp_path / "again.parquet")
    assert sum(row.kept for row in read_rows([tmp_path / "again.parquet"], Contrast)) == 4


def test_a_plain_folder_of_files_is_read_but_not_that_of_a_stage(file, tmp_path, run_dir):
    (tmp_path / "many").mkdir()
    shutil.copy(file, tmp_path / "many/1.parquet")
    write_rows(tmp_path / "many/2.parquet", Contrast, [contrast("f", negative_response="the sixth")])
    (part,) = refilter_file(tmp_path / "many", ["quality.filters=[identical]"], None).parts
    assert (part.after["total"], part.after["kept"]) == (6, 4)
    with pytest.raises(InputError, match="only the run directory says which"):
        refilter_file(run_dir / "round-01/contrasts", ["quality.filters=[identical]"], None)


def test_nothing_is_written_where_nothing_is_kept_or_something_is_there(file, tmp_path):
    with pytest.warns(match="dropped all"), pytest.raises(NothingSurvived):
        refilter_file(file, ["quality.filters=[{length_ratio: {max_ratio: 1}}]"], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(InputError, match="already exists"):
        refilter_file(file, ["quality.filters=[]"], file)
    with pytest.raises(InputError, match="needs log-probs"):
        refilter_file(file, ["quality.filters=[near_onpolicy]"], tmp_path / "out.parquet")


def test_the_command_prints_before_and_after(run_dir, file, tmp_path):
    _, shown, _ = printed(filter_rows, FilterArguments(run_dir, [STRICT], dry_run=True), width=120)
    assert "all rows" in shown and "Brevity" in shown and "→" in shown and "nothing was changed" in shown
    assert "are kept: " not in shown, "2 of 7 rows are enough"
    few = ["quality.filters=[{length_ratio: {max_ratio: 1.08}}]"]
    _, shown, _ = printed(filter_rows, FilterArguments(run_dir, few, dry_run=True))
    assert "only 1 of 7 rows (14%) are kept: 'length_ratio' dropped most (6 of 7 rows)" in shown
    with pytest.raises(ConfigError, match="--output"):
        filter_rows(FilterArguments(run_dir, [STRICT], tmp_path / "x.parquet"))
    with pytest.raises(ConfigError, match="no output is named"):
        filter_rows(FilterArguments(file))


def test_the_order_of_the_filters_outlives_the_ledger(run_dir):
    refilter_run(run_dir, ["quality.filters=[repetition, {length_ratio: {max_ratio: 1.5}}, identical]"])
    entry = active_records(Ledger(run_dir).entries())[("contrasts", 1, False)]
    assert list(entry.info["counts"]) != entry.info["order"], "JSON is written with sorted keys"
    summary = run(load_recipe(run_dir / "recipe.yaml"), run_dir)
    order = ["empty", "repetition", "length_ratio", "identical"]
    assert list(summary["rounds"][0]["quality"]["dropped"]) == order
    stored = json.loads((run_dir / "summary.json").read_text())
    assert stored["rounds"][0]["quality"]["dropped"] == summary["rounds"][0]["quality"]["dropped"]
