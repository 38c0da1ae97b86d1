"""Arena-Hard's style control: the win rate against a baseline that writes in the same style.

A logistic regression (Bradley-Terry of two models) explains the games by four differences in style: length, headers,
lists and bold (Li et al., "Does style matter?", lmsys.org/blog/2024-08-28-style-control; arena-hard-auto@196f6b8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEATURES = ("length", "headers", "lists", "bold")
_BYTES_A_TOKEN = 4
_RIDGE = 1e-6
"""A penalty far below what is printed, so that games that do not determine the fit have one all the same."""
_CODE = re.compile(r"```([^`]*)```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^[^\S\n]*(?:[0-9]+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True)
class Style:
    """What an answer looks like. ``length`` is in tokens, the other three are counts outside of code blocks."""

    length: float
    headers: int
    lists: int
    bold: int


@dataclass(frozen=True)
class StyleFit:
    """The regression of games on differences in style.

    Attributes:
        win_rate: At equal style, in [0, 1].
        centred: Win rate at the mean difference in style: what arena-hard-auto prints for this model alone.
        coefficients: Change of the log-odds with one standard deviation of each difference, by name; 0 where the
            difference is the same everywhere.
    """

    win_rate: float
    centred: float
    coefficients: dict[str, float]

    @property
    def separated(self) -> bool:
        """Whether style (nearly) tells won from lost games, so that the games do not determine the fit."""
        return max(map(abs, self.coefficients.values())) > 10


def style_of(text: str) -> Style:
    """Return the style of an answer.

    Arena-Hard counts tokens of GPT-4o's vocabulary; here four bytes of UTF-8 are a token (its recorded answers have 4.2
    bytes a token), so that a score needs no download. What a code block contains is removed wherever it occurs, as
    there.
    """
    length = len(text.encode("utf-8", "surrogatepass")) / _BYTES_A_TOKEN
    for block in filter(None, dict.fromkeys(_CODE.findall(text))):
        text = text.replace(block, "")
    return Style(length, *(len(pattern.findall(text)) for pattern in (_HEADER, _LIST, _BOLD)))


def style_differences(model: Sequence[Style], baseline: Sequence[Style]) -> np.ndarray:
    """Return the (n, 4) differences between two models' answers to the same questions, each within (-1, 1).

    Of lengths it is (m - b) / (m + b); of the other features, per token, (m - b) / (m + b + 1).
    """
    own, other = (np.array([_densities(style) for style in side]) for side in (model, baseline))
    total = own + other + np.array([0.0, 1.0, 1.0, 1.0])
    return np.divide(own - other, total, out=np.zeros_like(own), where=total > 0)


def fit_style(differences: np.ndarray, wins: np.ndarray, games: np.ndarray) -> StyleFit:
    """Fit the log-odds of a game as constant + differences @ coefficients, without a penalty.

    arena-hard-auto subtracts the mean difference over all models that a judge has judged: its levels are those at the
    style of the average model. One model alone has no such average: with its own mean subtracted nothing would be
    controlled for. So the win rate is taken at no difference; all models shift by the same log-odds against theirs.

    Args:
        differences: (n, 4).
        wins: (n,) games that a question's verdicts count as won, ties as half.
        games: (n,) games that they count as, 0 for a question without a verdict. Without any the win rate is NaN.
    """
    share = float(wins.sum() / games.sum()) if games.any() else math.nan
    if share in (0, 1) or math.isnan(share):  # the likelihood has no maximum, its limit is this win rate in every style
        return StyleFit(share, share, dict.fromkeys(FEATURES, 0.0))
    mean = np.average(differences, axis=0, weights=games)
    # As if each game were a row: torch.std of arena-hard-auto divides by their number less one.
    spread = np.sqrt(games @ (differences - mean) ** 2 / max(games.sum() - 1, 1))
    scaled = differences / np.where(spread > 1e-12, spread, np.inf)
    constant, *slopes = _maximum(np.column_stack([np.ones(len(games)), scaled]), wins, games)
    centre = constant + slopes @ np.average(scaled, axis=0, weights=games)
    coefficients = {name: float(slope) for name, slope in zip(FEATURES, slopes, strict=True)}
    return StyleFit(float(_sigmoid(constant)), float(_sigmoid(centre)), coefficients)


def _densities(style: Style) -> list[float]:
    """Return the length, and the other features per token."""
    counts = style.headers, style.lists, style.bold
    return [style.length, *(count / style.length if style.length else 0.0 for count in counts)]


def _maximum(x: np.ndarray, wins: np.ndarray, games: np.ndarray) -> np.ndarray:
    """Return the coefficients of greatest likelihood, by Newton's method.

    scikit-learn finds the same in 4 ms; a bootstrap takes thousands of fits, many of them with too few games for five
    coefficients, for which it takes ten times as long and warns.
    """
    found = np.zeros(x.shape[1])
    for _ in range(100):
        rates = _sigmoid(x @ found)
        hessian = (x.T * (games * rates * (1 - rates))) @ x + _RIDGE * np.eye(len(found))
        step = np.linalg.solve(hessian, x.T @ (wins - games * rates) - _RIDGE * found)
        step *= min(1.0, 2 / max(np.abs(step).max(), 1e-300))  # far away a full step may go too far
        found += step
        if np.abs(step).max() < 1e-9:
            break
    return found


def _sigmoid(log_odds: np.ndarray | float) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -np.asarray(log_odds)))  # 1 / (1 + exp(-x)) overflows
