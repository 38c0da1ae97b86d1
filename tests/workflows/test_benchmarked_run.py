"""Runs whose recipe names benchmarks: the comparison, what a second call and an interrupted one do, what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from selfsteer.backends.transformers import TransformersBackend
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, InputError, StorageError
from selfsteer.evaluation.benchmarks import table
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from selfsteer.files import remove
from selfsteer.loop.run import run as run_stages
from selfsteer.report import write_report
from selfsteer.runs.ledger import Ledger
from selfsteer.workflows import benchmarked_run
from selfsteer.workflows.benchmarked_run import run
from tests.evaluation.benchmarks import toy
from tests.run_helpers import small_recipe, write_queries


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_table", toy.toy_table)
        patch.setenv("SELFSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        model_benchmarks.cache_clear()
        yield
    model_benchmarks.cache_clear()


@pytest.fixture(scope="module")
def asked():
    """The sizes of the batches that benchmarks ask for."""
    sizes: list[int] = []
    generate = TransformersBackend.generate

    def counting(self, prompts, sampling, **options):
        if sampling.max_new_tokens == toy.SAMPLING["max_new_tokens"]:
            sizes.append(len(prompts))
        return generate(self, prompts, sampling, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersBackend, "generate", counting)
        yield sizes


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_chat_model) -> Recipe:
    folder = tmp_path_factory.mktemp("data")
    data, queries = toy.write_data(folder / "data"), write_queries(folder)
    benchmarks = {"suites": ["toy", "toy_labels"], "data_dir": str(data), "limit": 8}
    return small_recipe(tiny_chat_model, queries, evaluation=benchmarks, train__epochs=1)


@pytest.fixture(scope="module")
def done(recipe, asked, tmp_path_factory, toys):
    """A whole run, and how many questions its policies were asked."""
    run_dir = tmp_path_factory.mktemp("done") / "run"
    asked.clear()
    run(recipe, run_dir)
    return run_dir, sum(asked)


@pytest.fixture
def copied(done, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(done[0], tmp_path / "run", symlinks=True)


def keys(run_dir):
    return [(entry.stage, entry.round, entry.key) for entry in Ledger(run_dir).entries()]


def test_the_first_and_the_last_policy_are_compared_in_the_report(done):
    run_dir, questions = done
    found = json.loads((run_dir / "benchmarks.json").read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert found["models"] == ["before", "after round 1"] and found["run"] == summary["created"]
    assert [one["name"] for one in found["benchmarks"]] == ["toy", "toy_labels"] and questions == 16
    for one in found["benchmarks"]:
        assert [standing["scored"] for standing in one["models"]] == [8, 8]
        assert one["metrics"]["points"][1]["change"]["n"] == 8
    stored = [json.loads(file.read_text()) for file in sorted((run_dir / "benchmarks/results").glob("*.json"))]
    after, before = (one["model"]["fingerprint"] for one in stored)
    assert before != after, "the trained weights are evaluated, not the start's again"
    page = (run_dir / "report.html").read_text()
    assert '<section id="benchmarks">' in page and "Toy of labels: points" in page
    assert "benchmarks.json and the filtered rows of this run" in page


def test_a_second_call_asks_nothing_and_says_the_same(recipe, copied, asked):
    asked.clear()
    before = (copied / "benchmarks.json").read_bytes()
    run(recipe, copied)
    assert asked == [] and (copied / "benchmarks.json").read_bytes() == before


def test_benchmarks_change_no_stage(recipe, copied):
    before = keys(copied)
    run_stages(recipe.model_copy(update={"evaluation": Recipe().evaluation}), copied)
    assert before and keys(copied) == before, "all stages are found done"


@pytest.mark.slow
def test_an_interrupted_evaluation_resumes(recipe, copied, asked, monkeypatch):
    wanted = (copied / "benchmarks.json").read_bytes()
    for left in (copied / "benchmarks", copied / "benchmarks.json"):
        remove(left)
    evaluate, evaluated = toy.Toy.evaluate, []

    def interrupted(self, context):
        evaluated.append(self.kind)
        if evaluated.count("labels") == 2:
            raise KeyboardInterrupt
        return evaluate(self, context)

    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(toy.Toy, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, copied)
    assert sum(asked) == 16 and not (copied / "benchmarks.json").exists()
    assert '<section id="benchmarks">' not in (copied / "report.html").read_text()
    asked.clear()
    run(recipe, copied)
    assert asked == [] and (copied / "benchmarks.json").read_bytes() == wanted


def test_figures_of_an_earlier_policy_are_not_shown(copied):
    found = json.loads((copied / "benchmarks.json").read_text())
    (copied / "benchmarks.json").write_text(json.dumps(found | {"run": "2020-01-01T00:00:00+00:00"}))
    assert '<section id="benchmarks">' not in write_report(copied).read_text()


@pytest.mark.parametrize(
    "damaged", ['{"run": RUN}', '{"run": RUN, "models": [1, {}], "benchmarks": [7, {"metrics": {"a": 1}}]}', "[", "[]"]
)
def test_a_damaged_file_does_not_hinder_the_report(copied, damaged):
    created = json.loads((copied / "summary.json").read_text())["created"]
    (copied / "benchmarks.json").write_text(damaged.replace("RUN", json.dumps(created)))
    page = write_report(copied).read_text()
    assert ("No benchmark has a figure." in page) == ("RUN" in damaged)


def test_without_a_good_policy_nothing_is_compared(recipe, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(benchmarked_run, "run_stages", lambda *_, **__: {"guards": {"best": None}, "created": "now"})
    asked.clear()
    run(recipe, tmp_path / "run")
    assert sum(asked) == 8 and not (tmp_path / "run" / "benchmarks.json").exists()


def test_what_is_missing_is_said_before_the_run(recipe, tmp_path):
    lacking = recipe.evaluation.model_copy(update={"suites": ["toy", "toy_judged"]})
    with pytest.raises(InputError, match="it needs a judge"):
        run(recipe.model_copy(update={"evaluation": lacking}), tmp_path / "run")
    unknown = recipe.evaluation.model_copy(update={"suites": ["toi"]})
    with pytest.raises(ConfigError, match="no benchmark or suite is named 'toi'"):
        run(recipe.model_copy(update={"evaluation": unknown}), tmp_path / "run")
    assert not keys(tmp_path / "run")


@pytest.mark.parametrize("link", ["benchmarks", "benchmarks/answers"])
def test_nothing_is_written_where_a_link_leads(recipe, tmp_path, link):
    (tmp_path / "run" / link).parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="outside of the run directory"):
        run(recipe, tmp_path / "run")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"evaluation": {"limit": 3}}, "limit is about benchmarks, and none is named: set suites"),
        ({"evaluation": {"data_dir": "x"}}, "data_dir is about benchmarks, and none is named: set suites"),
        (
            {"evaluation": {"suites": ["v1"]}, "mode": "data-only"},
            "data-only trains no policy to compare on benchmarks",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(values)
