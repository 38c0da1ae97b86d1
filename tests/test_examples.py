"""The examples run as they are, on the tiny model."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from selfsteer.errors import SelfsteerWarning

EXAMPLE = Path(__file__).parent.parent / "examples" / "sso_loop.py"


@pytest.fixture(scope="module")
def sso_loop():
    spec = spec_from_file_location("sso_loop", EXAMPLE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _options(model, queries, *more: str) -> list[str]:
    fixed = ["--limit", "3", "--max-new-tokens", "6", "--batch-size", "2", "--learning-rate", "1e-3"]
    return ["--model", str(model), "--queries", str(queries), *fixed, *more]


def test_the_loop_keeps_pairs_lowers_the_loss_and_moves_the_margins(sso_loop, tiny_chat_model, queries, capsys):
    sso_loop.main(_options(tiny_chat_model, queries, "--filters", "identical"))
    said = capsys.readouterr().out
    assert "3 queries" in said and "3 of 3 pairs kept" in said
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", said)]
    assert len(losses) == 4, "two epochs of two steps"
    assert 7.4 < losses[0] < 7.5, "W * (1 + 2 * 0.1) * (1 / (2 * 0.2))^2, and W is nearly 1 for a random model"
    before, after = (re.search(rf"margins {when}: +(.*)", said)[1] for when in ("before", "after"))
    assert before != after and sum(losses[2:]) < sum(losses[:2])


def test_without_a_pair_it_says_what_to_change(sso_loop, tiny_chat_model, queries):
    with pytest.raises(SystemExit, match="no pair is left"), pytest.warns(SelfsteerWarning, match="dropped all 3 rows"):
        sso_loop.main(_options(tiny_chat_model, queries, "--filters", "direction"))


def test_the_page_stays_a_page():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 150
