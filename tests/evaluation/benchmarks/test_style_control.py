"""Style control: features against those recorded with Arena-Hard's answers, the regression against one in torch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsteer.evaluation.benchmarks.style_control import Style, fit_style, style_differences, style_of

ANSWERS = Path(__file__).parents[4] / "shared/data/arena_hard/v2.0/o3-mini-2025-01-31.jsonl.gz"


def test_headers_lists_and_bold_of_all_recorded_answers():
    """750 of 750 as arena-hard-auto counted them; token lengths, which are estimated here, within 6 % in the mean."""
    if not ANSWERS.is_file():
        pytest.skip(f"no {ANSWERS}")
    with gzip.open(ANSWERS, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    styles = [style_of(row["messages"][-1]["content"]["answer"]) for row in rows]
    counted = [
        tuple(sum(row["metadata"][name].values()) for name in ("header_count", "list_count", "bold_count"))
        for row in rows
    ]
    assert len(rows) == 750 and counted == [(one.headers, one.lists, one.bold) for one in styles]
    tokens = np.array([row["metadata"]["token_len"] for row in rows])
    lengths = np.array([one.length for one in styles])
    assert np.mean(lengths / tokens) == pytest.approx(1, abs=0.06)
    shifted = np.roll(np.arange(len(rows)), 1)  # pairs of answers to different questions: harder than two to one
    exact, estimated = ((one - one[shifted]) / (one + one[shifted]) for one in (tokens, lengths))
    assert np.corrcoef(exact, estimated)[0, 1] > 0.96


def test_style_by_hand():
    text = "# One\n#Not a header\n####### nor this\n- a\n* b\n1. c\n  + d\n-e\n**bold** and __this__, **not\nthis**\n"
    assert style_of(text) == Style(length=len(text) / 4, headers=1, lists=4, bold=2)
    assert style_of("```\n# comment\n- x\n```\n**b**") == Style(27 / 4, 0, 0, 1)
    assert style_of("ä") == Style(0.5, 0, 0, 0)
    assert style_of("") == Style(0, 0, 0, 0)


def test_differences_by_hand():
    """Lengths 30 and 10; headers 3 in 30 and 0 in 10 tokens, 0.1 / 1.1; bold 0 and 5 in 10, -0.5 / 1.5."""
    found = style_differences([Style(30, 3, 0, 0), Style(0, 0, 0, 0)], [Style(10, 0, 0, 5), Style(0, 0, 0, 0)])
    assert found == pytest.approx(np.array([[0.5, 0.1 / 1.1, 0, -0.5 / 1.5], [0, 0, 0, 0]]))


def games_of_style(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return differences and games; a longer answer (by 0.3 in the mean) wins more often, at equal length 30 %."""
    rng = np.random.default_rng(seed)
    differences = np.column_stack([rng.normal(0.3, 0.2, n), rng.normal(0, 0.02, (n, 3))])
    games = rng.choice([2, 4, 6], n).astype(float)
    odds = np.log(0.3 / 0.7) + 4 * differences[:, 0]
    return differences, rng.binomial(games.astype(int), 1 / (1 + np.exp(-odds))).astype(float), games


def test_the_regression_is_that_of_arena_hard():
    """Its loss over single games and their features as rows, minimised in float64 by torch, is the same optimum."""
    differences, wins, games = games_of_style(120)
    wins[0] = 0.5  # a tie
    rows = torch.from_numpy(np.repeat(differences, games.astype(int), axis=0))
    rows = torch.cat([torch.ones(len(rows), 1), (rows - rows.mean(0)) / rows.std(0)], dim=1).double()
    single = [[1.0] * int(w) + [0.5] * int(2 * (w % 1)) + [0.0] * int(g - w) for w, g in zip(wins, games, strict=True)]
    outcomes = torch.tensor([one for question in single for one in question])
    logits = torch.full((5,), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(rows @ logits, outcomes.double(), reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    fit = fit_style(differences, wins, games)
    assert fit.centred == pytest.approx(torch.sigmoid(logits[0]).item(), abs=1e-6)
    assert list(fit.coefficients.values()) == pytest.approx(logits[1:].tolist(), abs=1e-5)


def test_a_win_rate_that_comes_from_length_is_taken_at_equal_length():
    differences, wins, games = games_of_style(4000)
    fit = fit_style(differences, wins, games)
    assert wins.sum() / games.sum() > 0.55
    assert fit.win_rate == pytest.approx(0.3, abs=0.03)
    assert fit.centred == pytest.approx(wins.sum() / games.sum(), abs=0.02)  # what its own mean subtracted would say


def test_scale_and_order_do_not_change_the_fit():
    differences, wins, games = games_of_style(100)
    order = np.random.default_rng(1).permutation(100)
    fit, other = fit_style(differences, wins, games), fit_style(differences[order] * 7, wins[order], games[order])
    assert other.win_rate == pytest.approx(fit.win_rate, abs=1e-6)
    unplayed = fit_style(np.vstack([differences, [[1, 1, 1, 1]]]), np.append(wins, 0), np.append(games, 0))
    assert unplayed.win_rate == pytest.approx(fit.win_rate, abs=1e-9)
    assert other.coefficients == pytest.approx(fit.coefficients, abs=1e-4)


def test_games_that_do_not_determine_a_fit():
    differences = np.array([[0.1, 0, 0, 0], [0.2, 0, 0, 0], [0.3, 0, 0, 0], [0.4, 0, 0, 0]])
    lost = fit_style(differences, np.zeros(4), np.full(4, 2.0))
    assert (lost.win_rate, lost.centred) == (0, 0) and not lost.separated
    won = fit_style(differences, np.full(4, 2.0), np.full(4, 2.0))
    assert won.win_rate == 1
    separated = fit_style(differences, np.array([0, 0, 2.0, 2.0]), np.full(4, 2.0))
    assert separated.separated and separated.win_rate < 1e-3
    assert np.isnan(fit_style(differences, np.zeros(4), np.zeros(4)).win_rate)
    same = fit_style(np.full((4, 4), 0.25), np.array([0, 0, 1.0, 2.0]), np.full(4, 2.0))
    assert same.win_rate == pytest.approx(3 / 8) and not any(same.coefficients.values())
