"""A finished run without a model, for tests that only read it (or copy it before they change it)."""

from __future__ import annotations

import pytest

from selfsteer.loop import run

from .helpers import scripted_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    return write_queries(tmp_path_factory.mktemp("queries"))


@pytest.fixture(scope="module")
def scripted_run(tmp_path_factory, queries):
    run_dir = tmp_path_factory.mktemp("runs") / "scripted"
    with without_reports():
        run(scripted_recipe(queries), run_dir)
    return run_dir
