"""A small run on the tiny model, and what to compare between runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from selfsteer.backends import Completion
from selfsteer.config import Recipe
from selfsteer.files import read_json_lines, sha256_file
from selfsteer.records import Contrast, Query, read_rows
from selfsteer.runs.ledger import VERDICT
from tests.chat_templates import user

QUERIES = [f"Tell me something about number {i} and the river." for i in range(10)]


def write_queries(folder: Path) -> Path:
    path = folder / "queries.txt"
    path.write_text("\n".join(QUERIES) + "\n", encoding="utf-8")
    return path


def small_recipe(model: Path, queries: Path, **changes) -> Recipe:
    """A recipe that takes seconds; ``changes`` are dotted keys with "__" for the dot."""
    values: dict = {
        "name": "small",
        "seed": 1,
        "model": {"name": str(model), "device": "cpu"},
        "queries": {"source": str(queries), "heldout": 3},
        "principles": {"set": "brief"},
        "generation": {"max_new_tokens": 6, "batch_size": 4, "precision": "float32"},
        "quality": {"filters": ["identical"]},
        "train": {
            "learning_rate": 1e-3,
            "batch_size": 4,
            "max_length": 480,
            "precision": "float32",
            "save_steps": 1,
            "epochs": 2,
            "processes": 0,  # a process of its own would take longer than the training
        },
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return Recipe.model_validate(values)


def scripted_recipe(queries: Path, heldout: int = 3, **sections) -> Recipe:
    """A recipe that makes data without a model, in a moment; ``sections`` replace whole sections."""
    values: dict = {
        "name": "scripted",
        "mode": "data-only",
        "queries": {"source": str(queries), "heldout": heldout},
        "principles": {"set": "brief"},
        "generation": {"backend": "scripted", "max_new_tokens": 18},
        "quality": {"filters": ["identical", "direction"]},
    }
    return Recipe.model_validate(values | sections)


@contextmanager
def without_reports() -> Iterator[None]:
    """Let runs write no page: drawing it takes longer than all else of a scripted run."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("loop.run", "workflows.evaluate_signal"):
            patch.setattr(import_module(f"selfsteer.{module}"), "write_report", lambda run_dir: run_dir)
        yield


def stages(run_dir: Path) -> list[tuple[str, int]]:
    """The stages in a run's ledger with their rounds, line by line; the verdicts of guards are left out."""
    lines = read_json_lines(run_dir / "ledger.jsonl")
    return [(row["stage"], row["round"]) for row in lines if row["stage"] != VERDICT]


def contrasts(run_dir: Path, round_number: int = 1) -> list[Contrast]:
    """The rows of a round, whatever key they were written under; weights' names (paths differ) left out."""
    rows = read_rows(sorted((run_dir / f"round-{round_number:02d}/contrasts").glob("*.parquet")), Contrast)
    return sorted(rows, key=lambda row: row.id)


def policy_hash(run_dir: Path) -> str:
    return sha256_file(run_dir / "policy" / "model.safetensors")


class Answering:
    """A backend that gives prepared outcomes, a list for each time it is asked, and remembers what it was asked."""

    name, context = "answering", None

    def __init__(self, chat, *outcomes):
        self.chat, self.outcomes = chat, list(outcomes)
        self.samplings, self.prompts, self.prefixes, self.seeds = [], [], [], []

    def generate(self, prompts, sampling, *, seed, shared_prefix=()):
        self.samplings.append(sampling)
        self.prompts.append(prompts)
        self.prefixes.append(shared_prefix)
        self.seeds.append(seed)
        return self.outcomes.pop(0)

    def length(self, prompt):
        return len(prompt)


def asked_queries(count: int) -> list[Query]:
    return [Query(f"q{number}", user("Why is the sky blue?")) for number in range(count)]


def said(chat, text: str, family_prompt=None) -> Completion:
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return Completion(text, "stop", [*ids, chat.end_ids[0]], chat.encode(family_prompt or user("Hi")))
