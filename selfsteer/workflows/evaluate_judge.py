"""`selfsteer evaluate judge`: a judge of benchmarks on recorded preferences, on human labels, on published models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, DataError, SelfsteerError
from selfsteer.evaluation.benchmarks.alpaca import BASELINE, GAMED, PROMPT
from selfsteer.evaluation.benchmarks.data import FoundFile, data_problems, find_data
from selfsteer.evaluation.benchmarks.judge_calibration import (
    RECORDED,
    Calibration,
    against_people,
    beside_published,
    calibrate_judge,
)
from selfsteer.evaluation.benchmarks.judge_model import open_benchmark_judge
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext, TextJudgeModel
from selfsteer.evaluation.benchmarks.table import model_benchmarks
from selfsteer.judges import Judge, Pair
from selfsteer.judges.pair_datasets import load_pairs

CALIBRATED = 100
"""Recorded preferences of the calibration beside other figures: 200 short questions to the judge."""
LLMBAR = Path("preferences") / "llmbar"
"""Where LLMBar's sets lie in a data folder; each has its name from its file."""
_LLMBAR_SETS = ("Natural", "Adversarial_Neighbor", "Adversarial_GPTInst", "Adversarial_GPTOut", "Adversarial_Manual")


@dataclass(frozen=True)
class JudgeReport:
    """What is known of a judge of benchmarks.

    Attributes:
        people: One row a set of human labels; empty where their files are not there.
        models: One row a model with published win rates.
        files: Data files, each with its sha256 and whether its content is known.
        notes: What a reader of the figures must know.
    """

    key: str
    calibration: Calibration
    people: list[dict[str, Any]]
    models: list[dict[str, Any]]
    files: list[FoundFile]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        files = {one.version.path: {"sha256": one.sha256, "state": one.state} for one in self.files}
        return {
            "schema_version": 1,
            "judge": {"name": self.calibration.judge, "key": self.key},
            "calibration": self.calibration.as_json(),
            "human_labels": self.people,
            "published_models": self.models,
            "data": files,
            "notes": self.notes,
        }


def evaluate_judge(
    settings: JudgeSettings,
    data_dir: Path | None,
    *,
    limit: int | None = None,
    answers: Path | None = None,
    unverified: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> JudgeReport:
    """Ask a judge as AlpacaEval does and compare it with GPT-4's recorded preferences, people and published figures.

    Args:
        data_dir: Folder of data files; None looks among the downloaded ones. Missing files of AlpacaEval are
            downloaded; LLMBar's are used where they are in the folder.
        limit: Rows of each set, evenly spread; None takes all.
        answers: Folder of the judge's answers; what it answered before is not asked again.
        unverified: Files of unknown content are accepted.
        progress: Is called with (answered, all) prompts of a set.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A data file is missing, of unknown content, or damaged.
        ModelError, FetchError: The judge can't be used, or not be fetched.
    """
    if limit is not None and limit < 1:
        raise ConfigError("a sample has at least one row", where="--limit", do="give a positive number")
    found = _files(data_dir, unverified)
    judge, pair_judge = open_benchmark_judge(settings, answers, progress)
    context = _context({one.name: one.path for one in found if one.path}, judge, pair_judge, answers)
    calibration, compared, preferred = calibrate_judge(context, limit)
    people = against_people(_human_pairs(data_dir), context, limit)
    models = beside_published(context, limit, (compared, preferred))
    notes = [one.version.note for one in found if one.version.note]
    notes.append(f"{len(models)} models are too few to tell how win rates of this judge relate to the published ones.")
    if not people:
        notes.append(f"No human labels: LLMBar's files are not in {LLMBAR} of the data folder.")
    chosen = judge or pair_judge
    return JudgeReport(chosen.key if chosen else "", calibration, people, models, found, notes)


def calibration_beside(
    judge: TextJudgeModel | None, pair_judge: Judge | None, data_dir: Path | None, answers: Path
) -> dict[str, Any]:
    """Return a judge's calibration on :data:`CALIBRATED` rows, to be shown beside its figures of other benchmarks.

    Where the recorded preferences are not in the data folder, or the judge can't be asked for them (a server without
    log-probs), its ``line`` alone says so; nothing is downloaded. What was asked before is in the folder ``answers``.
    """
    facts = model_benchmarks().get("alpaca_eval")
    found = find_data(facts, data_dir) if facts else []
    files = {one.name: one.path for one in found if one.path and one.state == "verified"}
    context = _context(files, judge, pair_judge, answers)
    why = "AlpacaEval's recorded preferences are not in the data folder"
    if files.keys() >= {RECORDED, PROMPT}:
        try:
            return calibrate_judge(context, CALIBRATED)[0].as_json()
        except SelfsteerError as error:  # the figures beside it are there, and don't depend on it
            why = error.what
    chosen = judge or pair_judge
    return {"line": f"{chosen.name if chosen else ''} is not calibrated: {why}"}


def _context(
    files: Mapping[str, Path], judge: TextJudgeModel | None, pair_judge: Judge | None, answers: Path | None
) -> EvaluationContext:
    """Return what a judge is asked with; there is no model under test."""
    return EvaluationContext(
        files=files, sample=None, seed=0, answer=lambda questions: [], label_logprobs=None, judge=judge,
        pair_judge=pair_judge, judgements=answers,
    )  # fmt: skip


def _files(data_dir: Path | None, unverified: bool) -> list[FoundFile]:
    """Return AlpacaEval's data files; those that a calibration needs must be there."""
    facts = model_benchmarks()["alpaca_eval"]
    needed = {BASELINE, PROMPT, GAMED, RECORDED}
    files = {
        name: tuple(replace(one, optional=name not in needed) for one in versions)
        for name, versions in facts.files.items()
    }
    facts = replace(facts, files=files)
    found = find_data(facts, data_dir, download=True)
    problems = list(data_problems(facts, found, unverified=unverified))
    if problems:
        what = "the judge can't be calibrated:" + "".join(f"\n  - {one}" for one in problems)
        raise DataError(what, where="--data-dir", do="see `selfsteer evaluate data DIR`")
    return found


def _human_pairs(data_dir: Path | None) -> list[Pair]:
    """Return LLMBar's pairs, with the names of its sets as subsets; none where they are not there."""
    paths = [(data_dir / LLMBAR / f"{name}.json", name) for name in _LLMBAR_SETS] if data_dir else []
    return [pair for path, name in paths if path.is_file() for pair in load_pairs(path, name=name).pairs]
