"""``executor: ray`` in a recipe: the rows of the local executor, and what can't be is refused before any work."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from selfsteer import cli
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError
from selfsteer.loop import generate
from selfsteer.loop.run import check, open_stages
from selfsteer.records import Contrast, Response, SteeredQuery, read_rows
from selfsteer.runs.progress import Display
from selfsteer.runs.ray_executor import Node, Share
from selfsteer.stages import engines
from selfsteer.stages.engines import ray_share
from tests.run_helpers import scripted_recipe, small_recipe, without_reports

KINDS = {"principles": SteeredQuery, "responses": Response, "scores": Contrast, "contrasts": Contrast}


def rows(run_dir: Path) -> dict[str, list]:
    return {
        stage: list(read_rows(sorted((run_dir / f"round-01/{stage}").glob("*.parquet")), kind))
        for stage, kind in KINDS.items()
    }


def names(run_dir: Path) -> set[str]:
    """The files of a run: their names have the stages' keys in them."""
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*.parquet")}


def both(tmp_path: Path, recipe) -> tuple[Path, Path]:
    """Generate with each executor; ``recipe`` is a function of the executor."""
    for executor in ("local", "ray"):
        with without_reports():
            generate(recipe(executor), tmp_path / executor)
    return tmp_path / "local", tmp_path / "ray"


@pytest.mark.ray
@pytest.mark.parametrize(
    "filters",
    [
        ["identical", "direction", "leak"],
        ["identical", {"length_bias": {"max_share": 0.5}}],
        ["identical", "duplicates"],
    ],
    ids=["one-pass", "two-passes", "index-of-the-set"],
)
def test_scripted_rows_are_those_of_the_local_executor(two_cpus, queries, tmp_path, filters):
    def recipe(executor: str) -> Recipe:
        generation = {"backend": "scripted", "max_new_tokens": 18, "batch_size": 4, "engines": 2}
        return scripted_recipe(queries, generation=generation, executor=executor, quality={"filters": filters})

    local, ray = both(tmp_path, recipe)
    assert rows(local) == rows(ray) and len(rows(ray)["contrasts"]) == 7
    assert names(local) == names(ray), "no key depends on it"


@pytest.mark.ray
def test_a_models_rows_are_those_of_the_local_executor(two_cpus, tiny_chat_model, queries, tmp_path):
    def recipe(executor: str) -> Recipe:
        return small_recipe(
            tiny_chat_model, queries, mode="data-only", generation__engines=2 if executor == "ray" else 1,
            generation__max_new_tokens=20, principles__strategy="per_aspect", principles__writing_max_tokens=8,
            executor=executor, quality__filters=["identical", "steering_gap"],
        )  # fmt: skip

    local, ray = both(tmp_path, recipe)
    assert rows(local) == rows(ray) and len(rows(ray)["scores"]) == 7
    assert names(local) == names(ray), "no key depends on it"


def checked(tmp_path: Path, queries: Path, **changes) -> None:
    check(open_stages(scripted_recipe(queries, executor="ray", **changes), tmp_path / "run", Display(quiet=True)))


def test_without_ray_it_is_refused_before_any_work(tmp_path, queries, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(ConfigError, match="not installed") as caught:
        checked(tmp_path, queries)
    assert "selfsteer[ray]" in caught.value.do and not (tmp_path / "run").exists()


@pytest.mark.ray
@pytest.mark.parametrize(
    "address, what",
    [
        ("{free}", "no Ray cluster answers"),
        ("ray://h:1", "must run on a machine"),
        ("nowhere", "not HOST:PORT"),
    ],
)
def test_a_cluster_that_does_not_exist_is_refused(tmp_path, queries, address, what, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        given = address.format(free=f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ConfigError, match=what) as caught:
            checked(tmp_path, queries, ray={"address": given})
    assert caught.value.where == "ray.address" and caught.value.do


@pytest.mark.ray
@pytest.mark.parametrize("address, what", [(None, "not installed"), ("127.0.0.1:1", "no Ray cluster answers")])
def test_the_command_exits_with_2(tmp_path, queries, monkeypatch, capsys, address, what):
    if address is None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest)
        )
    else:
        monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    recipe = tmp_path / "recipe.yaml"
    executor = {"executor": "ray", "ray": {"address": address}}
    recipe.write_text(scripted_recipe(queries, **executor).model_dump_json(exclude_unset=True))
    monkeypatch.setattr("sys.argv", ["selfsteer", "generate", str(recipe), "--run-dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 2 and what in " ".join(capsys.readouterr().err.split())


def test_what_does_not_go_together_is_refused(queries):
    with pytest.raises(ValueError, match="executor is local"):
        scripted_recipe(queries, ray={"address": "h:1"})
    with pytest.raises(ValueError, match="no model is left for Ray"):
        scripted_recipe(queries, executor="ray", generation={"backend": "endpoint", "endpoint": {"model": "m"}})


def shared(nodes: list[Node], device: str, engines: int | str = "auto", **generation) -> Share:
    recipe = Recipe.model_validate({"mode": "offline", "generation": {"engines": engines, **generation}})
    return ray_share(recipe, recipe.generation.backend, device, nodes)


def test_as_many_actors_as_fit_on_the_cluster():
    gpus, cpus = [Node("a", 8, 3), Node("b", 8, 4)], [Node("a", 8, 0), Node("b", 4, 0), Node("c", 0, 0)]
    two = {"backend": "vllm", "vllm": {"tensor_parallel_size": 2}}
    assert shared(gpus, "cuda") == Share(7, 1, 1)
    assert shared(gpus, "cuda", **two) == Share(3, 1, 2), "an engine is on one node"
    assert shared(gpus, "cuda", 2) == Share(2, 1, 1)
    assert shared(cpus, "cpu") == Share(2, 4, 0), "one a node, with its CPUs"
    assert shared(cpus, "cpu", 3) == Share(3, 2, 0)
    for nodes, device, asked, what in [
        (gpus, "cpu", "auto", "no GPU, and the Ray cluster has some"),
        (cpus, "cuda", "auto", "cluster has no GPU"),
        ([Node("a", 8, 1)], "cuda", "auto", "no node of the Ray cluster has the 2 GPUs"),
        ([Node("a", 0, 0)], "cpu", "auto", "no CPUs"),
    ]:
        with pytest.raises(ConfigError, match=what):
            shared(nodes, device, asked, **(two if "2 GPUs" in what else {}))


def test_more_actors_than_fit_are_refused_at_the_start_and_fewer_do_after_a_node_was_lost(monkeypatch):
    nodes = [Node("a", 8, 3), Node("b", 8, 4)]
    monkeypatch.setattr(engines, "connect", lambda address: nodes)
    recipe = Recipe.model_validate({"mode": "offline", "executor": "ray", "generation": {"engines": 8}})
    with pytest.raises(ConfigError, match="8 actors with 1 GPUs each don't fit") as caught:
        engines.check_engines(recipe, "cuda")
    assert "at most 7" in caught.value.do
    assert ray_share(recipe, "transformers", "cuda", nodes[:1]) == Share(3, 1, 1)
    nodes[:] = [Node("a", 4, 0), Node("b", 3, 0)]
    with pytest.raises(ConfigError, match="8 actors with 1 CPUs each don't fit") as caught:
        engines.check_engines(recipe, "cpu")
    assert "at most 7" in caught.value.do
