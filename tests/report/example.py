"""What a run leaves behind, made up: the summary, the training log and the recipe that the report is made from."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_SAMPLES = (
    ("How do I keep basil alive on a windowsill?", "Answer in as few words as carry the point.", "basil"),
    (
        "What is the difference between a virus and a bacterium?",
        "Answer in as few words as carry the point.",
        "biology",
    ),
    ("Write a two-line thank-you note to a neighbour.", "Say the useful thing first and stop there.", "note"),
)
_BEFORE = (
    "Keeping basil alive on a windowsill can be a rewarding experience! There are several things to keep in mind. "
    "First, basil loves sunlight, so make sure that it gets at least six hours a day.\n\nSecond, water it regularly, "
    "but not too much. Third, pinch off the flowers as they appear, since flowering slows down the leaves. Finally, "
    "remember that every windowsill is different, and that it may take some time"
)
_AFTER = "Give it six hours of sun, water when the top of the soil is dry, and pinch off the flowers."


def full_summary(rounds: int = 1, queries: int = 16) -> Json:
    """Return the summary of an online run whose answers become shorter."""
    numbers = range(1, rounds + 1)
    return {
        "schema_version": 1,
        "name": "quickstart",
        "mode": "online",
        "model": "smollm2-135m",
        "principle_set": "brief",
        "version": "0.1.0",
        "seed": 0,
        "created": "2026-11-22T10:00:00+00:00",
        "command": "selfsteer run recipes/quickstart.yaml --run-dir runs/quickstart",
        "rounds": [_round(number) for number in numbers],
        "policies": [_policy(number, rounds, queries) for number in range(rounds + 1)],
        "verdict": _verdict(queries),
        "samples": [_sample(*texts) for texts in _SAMPLES],
        "stages": [stage for number in numbers for stage in _stages(number)],
    }


def data_only_summary() -> Json:
    """Return the summary of a run that made preference data and trained nothing."""
    summary = full_summary()
    summary.update(name="pairs-for-later", mode="data-only", verdict=_verdict(16)[2:], policies=summary["policies"][:1])
    summary["rounds"][0]["training"] = None
    summary["stages"] = [stage for stage in summary["stages"] if stage["stage"] != "train"]
    for sample in summary["samples"]:
        sample["after"] = None
    return summary


def metrics_lines(rounds: int = 1, steps: int = 12) -> list[Json]:
    """Return a training log."""
    chance = random.Random(1)
    return [_step(round_, step, steps, chance) for round_ in range(1, rounds + 1) for step in range(1, steps + 1)]


def recipe_text() -> str:
    """Return a resolved recipe."""
    return "name: quickstart\nmodel: smollm2-135m\nprinciples:\n  set: brief\nloss:\n  base: ipo\n  beta: 0.2\n"


def write_run(run_dir: Path, summary: Json | None, metrics: list[Json] | None, recipe: str | None) -> Path:
    """Write a run directory; a part that is None is not written."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if summary is not None:
        (run_dir / "summary.json").write_text(json.dumps(summary))
    if metrics is not None:
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if recipe is not None:
        (run_dir / "recipe.yaml").write_text(recipe)
    return run_dir


def write_full_run(run_dir: Path, rounds: int = 1) -> Path:
    """Write a complete run directory."""
    return write_run(run_dir, full_summary(rounds), metrics_lines(rounds), recipe_text())


def _round(number: int) -> Json:
    return {
        "round": number,
        "queries": {"read": 40, "used": 39, "dropped": [{"where": "queries.jsonl:3", "reason": "empty query"}]},
        "aspects": {"Brevity": 20 + number, "Directness": 12},
        "choices": {"model": 30, "fallback": 9},
        "writings": {"ok": 31, "repaired": 5, "fallback": 3},
        "data": {
            "length": {"positive": 61.5, "negative": 101.25, "original": 80.0},
            "onpolicyness": {"positive_response": 0.291, "negative_response": 0.382, "mean": 0.3365},
            "steering_margin": 0.15 + number / 100,
        },
        "quality": {
            "total": 39,
            "kept": 24,
            "dropped": {"empty": 0, "identical": 1, "leak": 2, "direction": 12},
            "thresholds": {"onpolicy_mean": -1.2345},
        },
        "training": {
            "examples": 24,
            "steps": 12,
            "epochs": 2,
            "base_loss": "ipo",
            "learning_rate": 1e-05,
            "precision": "bfloat16 autocast",
            "seconds": 210.0,
            "peak_memory_gb": 3.1,
        },
    }


def _policy(number: int, rounds: int, queries: int) -> Json:
    chance = random.Random(number)
    shift = number / rounds
    trained = number > 0
    return {
        "round": number,
        "label": f"after round {number}" if trained else "before",
        "n": queries,
        "direction": _direction(shift, queries),
        "steering_margin": {
            "mean": 0.21 + 0.1 * shift,
            "interval": [0.1 + 0.1 * shift, 0.3 + 0.1 * shift],
            "values": [chance.gauss(0.21 + 0.1 * shift, 0.15) for _ in range(queries)],
        },
        "mean_logps": _mean_logps(chance, shift, queries),
        "onpolicyness": {
            "positive_response": 0.41 + 0.05 * shift,
            "negative_response": 0.44 - 0.02 * shift,
            "mean": 0.425 + 0.015 * shift,
            "interval": [0.39, 0.46],
        },
        "implicit": _implicit(queries) if trained else None,
        "length": _lengths(shift, queries),
        "distinct": {"repetition": 0.021, "empty": 0},
        "answered": {"share": 0.94, "n": queries, "interval": [0.71, 0.99]},
    }


def _direction(shift: float, queries: int) -> Json:
    right = round(queries * (0.62 + 0.2 * shift))
    tied = (queries - right) // 2
    low, high = 0.38 + 0.2 * shift, 0.81 + 0.1 * shift
    counts = {"right": right, "tied": tied, "wrong": queries - right - tied}
    return {"program": "shorter", **counts, "share": right / queries, "interval": [low, high]}


def _implicit(queries: int) -> Json:
    return {
        "accuracy": 0.7,
        "accuracy_interval": [0.5, 0.85],
        "margin": 0.12,
        "margin_interval": [0.03, 0.21],
        "ties": 1,
        "n": queries,
        "scale": "per token",
    }


def _mean_logps(chance: random.Random, shift: float, queries: int) -> Json:
    centres = {"positive_response": (-1.05, -0.86, -1.27), "negative_response": (-0.92, -1.14, -0.78)}
    centres["original_response"] = (-0.8, -0.93, -0.96)
    names = ("prompt", "positive_prompt", "negative_prompt")
    cells = {}
    for response, means in centres.items():
        tilt = 0.12 * shift * (1 if response == "positive_response" else -1)
        cells[response] = {name: _cell(chance, mean + tilt, queries) for name, mean in zip(names, means, strict=True)}
    return cells


def _cell(chance: random.Random, centre: float, queries: int) -> Json:
    values = [chance.gauss(centre, 0.22) for _ in range(queries)]
    return {"mean": sum(values) / queries, "values": values}


def _lengths(shift: float, queries: int) -> Json:
    centres = {"original": 126 - 30 * shift, "positive": 74 - 22 * shift, "negative": 139 - 8 * shift}
    return {role: _length(random.Random(f"{role} {shift > 0}"), centre, queries) for role, centre in centres.items()}


def _length(chance: random.Random, centre: float, queries: int) -> Json:
    values = [max(8, min(160, round(chance.gauss(centre, 30)))) for _ in range(queries)]
    return {
        "mean_tokens": sum(values) / queries,
        "median_tokens": sorted(values)[queries // 2],
        "capped_share": sum(value == 160 for value in values) / queries,
        "values": values,
    }


def _verdict(queries: int) -> list[Json]:
    before, after = (_lengths(shift, queries)["original"]["mean_tokens"] for shift in (0, 1))
    shorter = f"{before:.0f} -> {after:.0f} tokens on average, 95 % interval of the difference -41 to -19"
    return [
        {"question": "Did held-out answers become shorter?", "answer": "yes", "detail": shorter},
        {
            "question": "Does the trained policy prefer y+ to y- more than it did?",
            "answer": "unclear",
            "detail": f"70 % of {queries} held-out pairs, 95 % interval 50 % to 85 %",
        },
        {
            "question": "Do the two principles pull the answers apart?",
            "answer": "yes",
            "detail": "y+ is the shorter one in 10 of 16 pairs, 4 tied",
        },
        {
            "question": "Did answers degenerate?",
            "answer": "no",
            "detail": "repetition 2 %, 0 empty answers, 94 % still share content words with the question",
        },
    ]


def _sample(query: str, principle: str, name: str) -> Json:
    before = {
        "original": _BEFORE,
        "positive": "Sun, little water, pinch the flowers.",
        "negative": f"{_BEFORE} and more.",
    }
    after = {"original": _AFTER, "positive": "Sun; water when dry; pinch flowers.", "negative": _BEFORE}
    return {"id": name, "query": query, "positive_principle": principle, "before": before, "after": after}


def _stages(number: int) -> list[Json]:
    times = {
        "queries": 0.1,
        "principles": 64.0,
        "responses": 101.2,
        "contrasts": 12.5,
        "train": 210.0,
        "evaluate": 75.0,
    }
    return [
        {"round": number, "stage": stage, "seconds": seconds, "reused": stage == "queries"}
        for stage, seconds in times.items()
    ]


def _step(round_: int, step: int, steps: int, chance: random.Random) -> Json:
    part = step / steps
    base = 6.25 * math.exp(-0.8 * part) + chance.gauss(0, 0.12)
    rewards = {"base": 0.3, "positive": 0.4, "negative": 0.15}
    line: Json = {"round": round_, "stage": "train", "step": step, "epoch": 2 * part}
    line |= {"grad_norm": 3.2 - part + chance.gauss(0, 0.1), "learning_rate": 1e-5 * (1 - part)}
    line |= {"loss/base": base, "loss/steering": 2 * base, "loss/sft": 0.0, "weight": 0.8 - 0.05 * part}
    line["loss"] = line["weight"] * (0.1 * line["loss/steering"] + base)
    for view, reward in rewards.items():
        margin = reward * part + chance.gauss(0, 0.02)
        line[f"rewards/{view}/chosen"], line[f"rewards/{view}/rejected"] = 0.4 * margin, -0.6 * margin
        line[f"rewards/{view}/accuracy"], line[f"rewards/{view}/margin"] = 0.5 + 0.2 * part, margin
        line[f"mean_logps/{view}/chosen"], line[f"mean_logps/{view}/rejected"] = -1.0, -1.1
    return line
