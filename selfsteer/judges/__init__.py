"""Pairwise judges: models by their label log-probs or in words, reward models, programs, people."""

from selfsteer.judges.answer_cache import Answer, AnswerCache
from selfsteer.judges.base import Judge, Judgement, Pair, PresentedPair, judge_pairs
from selfsteer.judges.registry import make_judge

__all__ = ["Answer", "AnswerCache", "Judge", "Judgement", "Pair", "PresentedPair", "judge_pairs", "make_judge"]
