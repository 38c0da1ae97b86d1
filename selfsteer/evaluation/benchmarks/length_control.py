"""AlpacaEval's figures: win rate, discrete win rate, and the length-controlled (LC) win rate with its own bootstrap.

The LC win rate (Dubois et al., 2024, arXiv 2404.04475) is a logistic regression of the preference on the difference in
length, the instruction's difficulty and a constant, read off without the difference in length. The estimator here is
that of alpaca_eval 0.6.6, call by call: the penalty's strength is chosen by cross-validation among values that differ
by less than the solver's tolerance, so that another order of the same calls chooses another one.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfsteer.errors import DataError
from selfsteer.files import sha256_file, storage_errors

GAMED_SHA256 = "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d"
"""Of df_gamed.csv in the hub's data set tatsu-lab/alpaca_eval at 2edc6fad8be6b14ea7230aabfd08188da6b8b814."""
_GAMED_WEIGHT = 0.1
"""Of each row of the gamed baselines; 1 is the weight of a judged row."""
_FOLDS, _STRENGTHS, _SEED = 5, 10, 123
_TIE = 1.5


@dataclass(frozen=True)
class WinRate:
    """Shares in percent of N preferences between a baseline (1) and a model (2).

    Attributes:
        win_rate: 100 x the mean of preference - 1.
        standard_error: Of the win rate (sample standard deviation / sqrt(N)), NaN for a single preference.
        discrete: 100 x (wins + ties / 2) / N, where a preference counts as the whole number next to it.
        wins, losses, ties: By which response is preferred, however slightly.
    """

    win_rate: float
    standard_error: float
    discrete: float
    wins: int
    losses: int
    ties: int


def win_rate(preferences: Sequence[float] | np.ndarray) -> WinRate:
    """Return the win rate of N preferences in [1, 2]; 0 and 1.5 are ties; NaN and N = 0 are a ValueError."""
    shares = _shares(preferences)
    if not len(shares) or np.isnan(shares).any():
        raise ValueError("a win rate needs preferences, and no NaN among them")
    discrete = np.where(shares == 0.5, 0.5, np.round(shares))
    error = float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
    wins, losses = int((shares > 0.5).sum()), int((shares < 0.5).sum())
    ties = len(shares) - wins - losses
    return WinRate(100 * float(shares.mean()), 100 * error, 100 * float(discrete.mean()), wins, losses, ties)


@dataclass(frozen=True)
class GamedRows:
    """What the regression needs besides preferences: the difficulties, and rows of two baselines of other lengths.

    Attributes:
        difficulty: (805,) by the position of a row in a file of annotations.
        features: (G, 3), as of the judged rows, with 0 for the constant.
        shares: (G,) the gamed baseline's share of each preference, in [0, 1].
        reconstructed: Whether the file is another one than the official one: LC may then differ by up to 0.15.
    """

    difficulty: np.ndarray
    features: np.ndarray
    shares: np.ndarray
    reconstructed: bool


def read_gamed_rows(path: Path) -> GamedRows:
    """Return the rows of df_gamed.csv or of a file of its form; raises :class:`DataError` for another one."""
    columns = ("index", "std_delta_len", "instruction_difficulty", "preference")
    try:
        with storage_errors(path, "read"), path.open(encoding="utf-8", newline="") as stream:
            rows = [[float(row[name]) for name in columns] for row in csv.DictReader(stream)]
        table = np.array(rows)
        # As in the reference: each instruction's difficulty is that of its first row, in the order of the file.
        _, firsts = np.unique(table[:, 0], return_index=True)
    except (OSError, LookupError, TypeError, ValueError) as error:
        do = f"give df_gamed.csv of the data set tatsu-lab/alpaca_eval, with the columns {', '.join(columns)}"
        raise DataError(f"can't read the rows of the gamed baselines: {error!r}", where=str(path), do=do) from error
    features = np.column_stack([np.tanh(table[:, 1]), table[:, 2], np.zeros(len(table))])
    return GamedRows(table[np.sort(firsts), 2], features, table[:, 3], sha256_file(path) != GAMED_SHA256)


class LengthControlled:
    """The LC win rate of a model on N judged rows.

    Args:
        preferences: (N,) in [1, 2]; 0 is a tie. NaN, where there is none, leaves the row out of the fit; its LC
            preference counts all the same.
        baseline_lengths, lengths: (N,) characters of the baseline's and the model's outputs.
        rows: (N,) positions in the file of annotations, by which the reference reads the difficulty. They differ from
            those of the instructions where rows are missing.
        strength: C of the L1 penalty, to skip the cross-validation.

    Attributes:
        value: The LC win rate in percent; 50 for the baseline against itself, by definition.
        strength: The C in use, among logspace(-4, 4, 10); None for the baseline against itself.
        missing: How many rows have no preference.
    """

    def __init__(
        self,
        preferences: Sequence[float] | np.ndarray,
        baseline_lengths: Sequence[int] | np.ndarray,
        lengths: Sequence[int] | np.ndarray,
        *,
        gamed: GamedRows,
        rows: Sequence[int] | np.ndarray,
        strength: float | None = None,
    ) -> None:
        self._shares = _shares(preferences)
        self._differences = np.asarray(baseline_lengths, dtype=float) - np.asarray(lengths, dtype=float)
        self._difficulty, self._gamed = gamed.difficulty[np.asarray(rows)], gamed
        self.missing = int(np.isnan(self._shares).sum())
        if self.missing == len(self._shares):
            raise ValueError("an LC win rate needs preferences")
        self.strength = strength
        self.is_baseline = not self._differences.any() and bool((self._shares == 0.5).all())
        every = np.arange(len(self._shares))
        self.value = 50.0 if self.is_baseline else self._fitted(every)

    def on(self, picks: np.ndarray) -> float:
        """Return the LC win rate of the rows at ``picks``, in percent, with a fit of its own at the C of all rows.

        It is the statistic of a bootstrap; NaN where none of the rows has a preference.
        """
        return 50.0 if self.is_baseline else self._fitted(picks)

    def _fitted(self, picks: np.ndarray) -> float:
        differences, difficulty, shares = self._differences[picks], self._difficulty[picks], self._shares[picks]
        deviation = differences.std(ddof=1) if len(picks) > 1 else 0.0
        with np.errstate(divide="ignore"):  # all differences equal: the limit, 1 or -1
            lengths = np.tanh(np.divide(differences, deviation, out=np.zeros(len(picks)), where=differences != 0))
        own = np.column_stack([lengths, difficulty, np.ones(len(picks))])
        known = ~np.isnan(shares)
        if not known.any():
            return math.nan
        features = np.concatenate([self._gamed.features, own[known]])
        weights = np.repeat([_GAMED_WEIGHT, 1.0], [len(self._gamed.features), int(known.sum())])
        model = _fit(features, np.concatenate([self._gamed.shares, shares[known]]), weights, self.strength)
        if self.strength is None:
            self.strength = float(model.C_)
        _, by_difficulty, constant = model.coef_[0]
        return 100 * float((1 / (1 + np.exp(-(by_difficulty * difficulty + constant)))).mean())


def _fit(features: np.ndarray, shares: np.ndarray, weights: np.ndarray, strength: float | None) -> Any:
    """Return the logistic regression of shares in [0, 1]; scikit-learn knows labels only, so each row counts twice."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    labels = np.repeat([1, 0], len(features))
    own, twice = np.concatenate([shares, 1 - shares]), np.concatenate([weights, weights])
    both = np.concatenate([features, features])
    with config_context(enable_metadata_routing=True):
        if strength is not None:
            model = LogisticRegression(
                C=strength, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=_SEED
            )
            return model.fit(both, labels, sample_weight=own * twice)
        scorer = make_scorer(_log_loss, response_method="predict_proba", greater_is_better=False)
        search = LogisticRegressionCV(
            Cs=_STRENGTHS, cv=GroupKFold(_FOLDS), l1_ratios=(1,), solver="liblinear", fit_intercept=False,
            random_state=_SEED, scoring=scorer.set_score_request(share=True, weight=True), use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)  # fmt: skip
        groups = np.concatenate([np.arange(len(features))] * 2)
        return search.fit(both, labels, sample_weight=own * twice, groups=groups, share=own, weight=twice)


def _log_loss(observed: np.ndarray, predicted: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted log loss, in nats, of predicted shares (N,); ``share`` is that of the row's own label."""
    # Not named "labels": scikit-learn would pass the classes under that name.
    share = np.where(observed == 1, share, 1 - share)
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean((share * np.log(predicted) + (1 - share) * np.log(1 - predicted)) * weight))


def _shares(preferences: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the model's shares in [0, 1]; a tie may be written as 0."""
    found = np.asarray(preferences, dtype=float)
    return np.where(found == 0, _TIE, found) - 1
