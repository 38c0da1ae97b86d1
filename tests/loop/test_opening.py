"""The first lines of a run."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from selfsteer.loop import run
from selfsteer.loop.opening import opening_lines
from selfsteer.loop.run import open_stages
from selfsteer.runs.progress import Display
from selfsteer.version import __version__
from tests.run_helpers import scripted_recipe, small_recipe


def test_model_size_device_precision_versions_and_folder_are_said(tiny_chat_model, queries, tmp_path):
    context = open_stages(small_recipe(tiny_chat_model, queries), tmp_path / "run", Display(quiet=True))
    software, model = opening_lines(context)
    assert software.startswith(f"selfsteer {__version__}, torch {torch.__version__}, transformers ")
    assert software.endswith(f"run directory {tmp_path / 'run'}")
    assert f"model {tiny_chat_model} (" in model and "parameters), on cpu" in model
    assert f"({torch.get_num_threads()} threads), samples in float32, trains in float32" in model


def test_a_run_begins_with_them(queries, tmp_path):
    output = io.StringIO()
    run(scripted_recipe(queries), tmp_path / "run", display=Display(Console(file=output)))
    first, second, third = output.getvalue().splitlines()[:3]
    assert first.startswith(f"selfsteer {__version__}; run directory")
    assert second == "backend scripted, no model on this machine" and third.startswith("[1/")
