"""Pairwise judges: models by their label log-probs or in words, reward models, programs, people."""

from selfsteer.evaluation.judges.base import Judge, Judgement, Pair, Shown, judge_pairs
from selfsteer.evaluation.judges.cache import Answer, AnswerCache
from selfsteer.evaluation.judges.opening import open_judge

__all__ = ["Answer", "AnswerCache", "Judge", "Judgement", "Pair", "Shown", "judge_pairs", "open_judge"]
