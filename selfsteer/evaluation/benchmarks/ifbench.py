"""IFBench: instructions that no model was trained on and a program can check, by the checkers of if-verifiable."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from selfsteer.errors import ConfigError
from selfsteer.evaluation.benchmarks.item_scores import item_scores, percentage
from selfsteer.evaluation.benchmarks.judged import picked, read_rows
from selfsteer.evaluation.benchmarks.model_benchmark import BenchmarkScores, EvaluationContext, ItemScore, Question
from selfsteer.evaluation.benchmarks.nltk_tables import nltk_offline
from selfsteer.evaluation.benchmarks.table import model_benchmarks

try:
    with nltk_offline():
        from if_verifiable.common import get_loose_transformations
        from if_verifiable.ifbench import INSTRUCTION_DICT
except ImportError as error:
    what = f"IFBench needs if-verifiable: {error}"
    raise ConfigError(what, where="--suite", do="pip install 'selfsteer[bench]'") from error

NO_NLTK_DATA = "NLTK's data are missing: python -m nltk.downloader stopwords averaged_perceptron_tagger_eng"


@dataclass(frozen=True)
class Verdict:
    """Whether an answer follows an instruction: as it is, or in its most favourable form; None if unknown."""

    strict: bool | None
    loose: bool | None
    why: str = ""


def verdicts(row: Mapping[str, Any], answer: str) -> list[Verdict]:
    """Return the verdict on each instruction of a prompt (fields prompt, instruction_id_list, kwargs).

    The package's own function for a whole prompt leaves out instructions that it does not know, and strips the answer,
    which changes verdicts.
    """
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    return [_verdict(name, settings, row, answer) for name, settings in pairs]


def _verdict(name: str, settings: Mapping[str, Any], row: Mapping[str, Any], answer: str) -> Verdict:
    if name not in INSTRUCTION_DICT:
        return Verdict(None, None, f"no checker for {name}")
    random.seed(f"{row['key']} {name}")  # a checker draws what its settings leave open
    checker = INSTRUCTION_DICT[name](name)
    try:
        checker.build_description(**{key: value for key, value in settings.items() if value is not None})
        if "prompt" in (checker.get_instruction_args() or {}):
            checker.build_description(prompt=row["prompt"])
        followed = [bool(one.strip() and checker.check_following(one)) for one in get_loose_transformations(answer)]
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        # NLTK's error for missing data is a bare LookupError; others are a checker's own on an odd answer.
        why = NO_NLTK_DATA if type(error) is LookupError else f"the checker failed: {type(error).__name__}"
        return Verdict(None, None, why)
    return Verdict(strict=followed[0], loose=any(followed))  # the first form is the answer as it is


class IFBench:
    """The share of prompts all of whose instructions are followed, in the answer's most favourable form."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the scores by prompt and by instruction; :class:`DataError` where a row lacks a field."""
        rows = read_rows(context.files["prompts"], ("key", "prompt", "instruction_id_list", "kwargs"))
        rows = picked(rows, context.sample)
        sampling = model_benchmarks()["ifbench"].sampling
        answers = context.answer([Question([{"role": "user", "content": row["prompt"]}], sampling) for row in rows])
        scores: dict[str, list[ItemScore]] = {name: [] for name in _METRICS}
        state = random.getstate()
        for row, answer in zip(rows, answers, strict=True):
            found = verdicts(row, answer.text)
            for metric, (level, how) in _METRICS.items():
                values = [None if answer.error else getattr(one, how) for one in found]
                why = answer.error or next((one.why for one in found if one.why), "")
                values = values if level == "instruction" else [_all(values)]
                scores[metric] += item_scores(str(row["key"]), "", metric, values, why, answer)
        random.setstate(state)
        items = [one for own in scores.values() for one in own]
        metrics = {name: percentage(items, name) for name in _METRICS}
        return BenchmarkScores(
            items=items,
            metrics={name: metric for name, metric in metrics.items() if metric is not None},
            expected=len(rows),
            versions={"if-verifiable": version("if-verifiable")},
        )


_METRICS = {
    "prompt_level_loose": ("prompt", "loose"),
    "prompt_level_strict": ("prompt", "strict"),
    "instruction_level_loose": ("instruction", "loose"),
    "instruction_level_strict": ("instruction", "strict"),
}


def _all(values: Sequence[bool | None]) -> bool | None:
    """Return whether all are followed: one that is not decides, whatever the others are."""
    if False in values:
        return False
    return None if None in values else True


IFBENCH = IFBench()
