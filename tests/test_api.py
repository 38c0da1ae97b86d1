"""`selfsteer.run`: the command line's behaviour from Python, with callbacks and a result that reads its rows."""

from __future__ import annotations

import subprocess
import sys

import pytest

import selfsteer
from selfsteer.config import dump_recipe
from selfsteer.errors import ConfigError
from selfsteer.loop import run as run_stages
from tests.run_helpers import contrasts, scripted_recipe, without_reports


class Watcher:
    """Listens to both kinds of events."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[tuple[str, int, bool]] = []

    def on_begin(self, event):
        self.begun.append(event.stage)

    def on_end(self, event):
        self.ended.append((event.stage, event.round, event.reused))


@pytest.fixture(scope="module")
def result(tmp_path_factory, queries):
    run_dir = tmp_path_factory.mktemp("api") / "run"
    with without_reports():
        return selfsteer.run(scripted_recipe(queries), run_dir=run_dir, quiet=True)


def test_importing_selfsteer_stays_light():
    code = "import sys, selfsteer; print([m for m in ('torch', 'pydantic', 'pyarrow', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="ran"):
        selfsteer.ran  # noqa: B018


def test_a_run_from_python_is_the_command_lines(result, queries, tmp_path):
    with without_reports():
        summary = run_stages(scripted_recipe(queries), tmp_path / "run")
    assert contrasts(result.run_dir) == contrasts(tmp_path / "run")
    assert result.summary["rounds"] == summary["rounds"] and result.policy is None


def test_a_recipe_may_be_a_file_values_or_a_recipe(result, queries, tmp_path):
    recipe = scripted_recipe(queries)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    for form in (file, recipe.model_dump(), recipe):
        with without_reports():
            again = selfsteer.run(form, run_dir=result.run_dir, quiet=True)
        assert all(stage["reused"] for stage in again.summary["stages"])


def test_callbacks_hear_of_each_stage(queries, tmp_path):
    watcher, events = Watcher(), []
    recipe = scripted_recipe(queries)
    with without_reports():
        found = selfsteer.run(recipe, run_dir=tmp_path / "run", callbacks=[watcher, events.append], quiet=True)
        assert watcher.begun == [stage for stage, _, _ in watcher.ended]
        assert watcher.ended[-1] == ("contrasts", 1, False)
        assert [(event.when, event.stage) for event in events[:3]] == [
            ("begin", "queries"), ("end", "queries"), ("begin", "principles"),
        ]  # fmt: skip
        assert events[-1].info["counts"]["kept"] == found.summary["rounds"][0]["quality"]["kept"]
        assert (tmp_path / "run" / events[-1].files[0]).is_file()
        later = Watcher()
        selfsteer.run(recipe, run_dir=tmp_path / "run", callbacks=[later], quiet=True)
    assert not later.begun and all(reused for _, _, reused in later.ended)


def test_what_a_callback_raises_ends_the_run_and_loses_nothing(result, queries, tmp_path):
    def stop(event):
        if event.stage == "scores":
            raise RuntimeError("enough")

    recipe, run_dir = scripted_recipe(queries), tmp_path / "run"
    with without_reports():
        with pytest.raises(RuntimeError, match="enough"):
            selfsteer.run(recipe, run_dir=run_dir, callbacks=[stop], quiet=True)
        selfsteer.run(recipe, run_dir=run_dir, quiet=True)
    assert contrasts(run_dir) == contrasts(result.run_dir)


def test_the_result_reads_a_rounds_rows(result):
    kept, everything = list(result.rows()), list(result.rows(1, dropped=True))
    assert len(kept) == result.summary["rounds"][0]["quality"]["kept"] < len(everything)
    assert all(row.kept for row in kept) and sorted(everything, key=lambda row: row.id) == contrasts(result.run_dir)
    with pytest.raises(ConfigError, match="no round 2"):
        result.rows(2)


def test_overrides_by_dotted_key(queries, tmp_path):
    overrides = {"queries.limit": 5, "queries.heldout": 0}
    with without_reports():
        found = selfsteer.run(scripted_recipe(queries), overrides, run_dir=tmp_path / "run", quiet=True)
    assert found.summary["rounds"][0]["quality"]["total"] == 5
