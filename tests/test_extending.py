"""Each registry takes a new entry: a toy of each kind is added under a name and used for real through that name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from selfsteer.backends import BACKENDS, BackendKind, Completion
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.commands.export import ExportArguments, export
from selfsteer.config import Guard, GuardSettings, per_token
from selfsteer.errors import ConfigError
from selfsteer.evaluation.benchmarks import BENCHMARKS, Benchmark, Section
from selfsteer.evaluation.benchmarks.base import right_by_subset
from selfsteer.evaluation.guards import GUARDS, Check, Compared, check_round, rejects
from selfsteer.export import FORMATS, Format
from selfsteer.judges import Answer, Judgement
from selfsteer.judges.registry import JUDGES, JudgeKind
from selfsteer.loop import run
from selfsteer.losses import BASE_LOSSES, PairLogps, base_loss, sso_loss
from selfsteer.losses.base import PairLoss
from selfsteer.quality import FILTERS
from selfsteer.quality.base import Filter
from selfsteer.stages.principle_model import PrincipleModel
from selfsteer.views import SSO_VIEWS
from tests.guard_figures import figures
from tests.printed import printed
from tests.run_helpers import contrasts, scripted_recipe, without_reports


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


# --- a base loss


def toy_loss(policy: PairLogps, *, beta: float) -> PairLoss:
    """How much less likely the chosen response is, in summed nats; it reads no reference."""
    return PairLoss(beta * (policy.rejected - policy.chosen), beta * policy.chosen, beta * policy.rejected)


def pair(chosen: float, rejected: float, tokens: int = 2) -> PairLogps:
    lengths = torch.tensor([tokens])
    return PairLogps(torch.tensor([float(chosen)]), torch.tensor([float(rejected)]), lengths, lengths)


def test_a_base_loss(monkeypatch):
    """The margins of the views are 1, 2 and 4 nats: -0.5 * (1 + 0.1 * (2 + 4))."""
    views = dict(zip(SSO_VIEWS, (pair(-1.0, -2.0), pair(-1.0, -3.0), pair(-2.0, -6.0)), strict=True))
    settings = {"base": "toy", "beta": 0.5, "steering_coef": 0.1, "use_weight": False}
    with pytest.raises(ValueError, match="unknown base loss 'toy'"):
        sso_loss(views, None, **settings)
    monkeypatch.setitem(BASE_LOSSES, "toy", toy_loss)
    assert sso_loss(views, None, **settings).loss.item() == pytest.approx(-0.5 * (1 + 0.1 * (2 + 4)))
    with pytest.raises(ValueError, match="margin=1 has no effect in the base loss 'toy'"):
        sso_loss(views, None, **settings, margin=1)


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_the_losses_that_compare_sums_are_those_that_config_names(name):
    """Twice the nats over twice the tokens are the same mean."""
    short, long = (base_loss(name, pair(-n, -3 * n, n), pair(-2 * n, -2 * n, n), beta=0.1) for n in (2, 4))
    assert per_token("base", name) == torch.allclose(short, long)


# --- a backend and a filter


class ToyBackend(ScriptedBackend):
    """Says "toy" and what the scripted backend says."""

    name = "toy"

    def generate(self, prompts, sampling, **options):
        """Return one completion a prompt."""
        found = super().generate(prompts, sampling, **options)
        return [Completion(f"toy {one.text}", one.finish) for one in found]


def open_toy_backend(source):
    return ToyBackend()


class ToyFilter(Filter):
    """Drops rows whose y+ has at least so many words."""

    name: ClassVar[str] = "toy_words"
    relax: ClassVar[str] = "raise toy_words.most"
    most: int = 6

    def reason(self, row, context):
        """Return why the row is dropped."""
        return "" if len(row.positive_response.split()) <= self.most else "too many toy words"


def test_a_backend_and_a_filter(monkeypatch, queries, tmp_path):
    filters = ["identical", {"toy_words": {"most": 7}}]
    generation = {"backend": "toy", "max_new_tokens": 18}
    with pytest.raises(ValueError, match="unknown backend 'toy'"):
        scripted_recipe(queries, generation=generation)
    monkeypatch.setitem(BACKENDS, "toy", BackendKind("tests.test_extending:open_toy_backend", "script", batch=3))
    recipe = scripted_recipe(queries, generation=generation, quality={"filters": filters})
    assert recipe.generation.batch == 3 and recipe.generation.weightless
    with without_reports(), pytest.raises(ConfigError, match="unknown filter 'toy_words'"):
        run(recipe, tmp_path / "refused")
    monkeypatch.setitem(FILTERS, "toy_words", ToyFilter)
    with without_reports():
        summary = run(recipe, tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    assert rows and all(row.positive_response.startswith("toy ") for row in rows)
    assert {row.provenance["backend"] for row in rows} == {"toy"}
    long = [row for row in rows if len(row.positive_response.split()) > 7]
    assert 0 < len(long) < len(rows) and all("too many toy words" in row.drop_reason for row in long)
    assert summary["rounds"][0]["quality"]["dropped"]["toy_words"] == len(long)


def test_a_backend_writes_principles(monkeypatch):
    recipe = scripted_recipe("none", principles={"set": "brief", "model": {"name": "toy"}})
    assert recipe.principles.model.kind == "local", "the name of a model"
    monkeypatch.setitem(BACKENDS, "toy", BackendKind("tests.test_extending:open_toy_backend", "script"))
    assert type(PrincipleModel(recipe).open(None)) is ToyBackend


# --- a kind of judge


class ToyJudge:
    """Prefers the response that holds a word."""

    batch_size = 4

    def __init__(self, word: str) -> None:
        self.word, self.name, self.key = word, f"{word} (toy)", f"toy-{word}"

    def answer(self, shown):
        """Return one answer a presentation."""
        first = [[self.word in text for text in one.responses] for one in shown]
        return [Answer(own - other) for own, other in first]

    def cost(self, shown):
        """Return 1: all presentations are alike."""
        return 1


def open_toy_judge(settings, name):
    return ToyJudge(name)


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"prompt": f"q{i}", "chosen": chosen, "rejected": rejected, "subset": subset}
        for i, (chosen, rejected, subset) in enumerate(
            [("good dog", "dog", "easy"), ("a dog", "good a dog", "easy"), ("good", "bad bad", "hard")]
        )
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_kind_of_judge(monkeypatch, command_line, pairs, tmp_path):
    arguments = ("judge", pairs, "--judge", "toy:good", "--json", tmp_path / "out.json")
    code, _, said = command_line(*arguments)
    assert code == 2 and "unknown kind of judge 'toy'" in said
    kind = JudgeKind("WORD", "tests.test_extending:open_toy_judge", frozenset({"template"}))
    monkeypatch.setitem(JUDGES, "toy", kind)
    code, shown, _ = command_line(*arguments)
    (found,) = json.loads((tmp_path / "out.json").read_text())["judges"]
    assert code == 0 and "good (toy)" in shown
    assert [one["strict"] == one["label"] for one in found["pairs"]] == [True, False, True]
    code, _, said = command_line(*arguments, "--mode", "text")
    assert code == 2 and "none of the judges uses mode" in said


# --- a benchmark


def toy_sections(judgements: Sequence[Judgement]) -> list[Section]:
    subsets = right_by_subset(judgements)
    return [
        Section(name, (name,), (), own.n, own.n, own.right / own.n, (0.0, 1.0))
        for name in ("easy", "hard")
        if (own := subsets.get(name))
    ]


def test_a_benchmark(monkeypatch, command_line, pairs, tmp_path):
    """The longer response is the better one in one of two easy pairs, and in no hard one."""
    arguments = ("evaluate", "reward", pairs, "--judge", "program:longer", "--json", tmp_path / "out.json")
    assert "ToyBench" not in command_line(*arguments)[1]
    toy = Benchmark(
        "ToyBench", "Every section counts alike.", {"easy", "hard"}.__contains__, toy_sections,
        lambda found: sum(section.share for section in found) / len(found),
    )  # fmt: skip
    monkeypatch.setitem(BENCHMARKS, "toybench", toy)
    code, shown, _ = command_line(*arguments)
    found = json.loads((tmp_path / "out.json").read_text())["judges"][0]["toybench"]
    assert code == 0 and "ToyBench" in shown and "Every section counts alike." in shown and "25.0 %" in shown
    assert found["score"] == 0.25 and [section["share"] for section in found["sections"]] == [0.5, 0.0]


# --- an export format


def test_an_export_format(monkeypatch, scripted_run, tmp_path):
    with pytest.raises(ConfigError, match="unknown format 'toy'"):
        printed(export, ExportArguments(scripted_run, "toy", tmp_path / "pairs.jsonl"))
    toy = Format(
        "toy rows: a question and its answer",
        lambda row, layout: [{"q": row.prompt[-1]["content"], "a": row.positive_response}],
        None,
        (".jsonl",),
        tags=("toy",),
    )
    monkeypatch.setitem(FORMATS, "toy", toy)
    _, shown, _ = printed(export, ExportArguments(scripted_run, "toy", tmp_path / "pairs.jsonl"))
    kept = [row for row in contrasts(scripted_run) if row.kept]
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert f"{len(kept)} rows" in shown and sorted(row["a"] for row in rows) == sorted(
        row.positive_response for row in kept
    )
    printed(export, ExportArguments(scripted_run, "toy", tmp_path / "folder"))
    card = (tmp_path / "folder/README.md").read_text()
    assert "Toy rows: a question and its answer." in card and "- toy\n" in card


# --- a guard


class ToyGuard(Guard):
    """Rounds with an odd number."""

    meaning: ClassVar[str] = "Is the number of the round even?"
    allow: int = 0


class ToyGuards(GuardSettings):
    """As config/guards.py would have it."""

    toy: ToyGuard = ToyGuard()


def toy_guard(guard, case):
    odd = case.now.round % 2 == 1 and case.now.round > guard.allow
    yield Check(odd, f"round {case.now.round} is {'odd' if odd else 'allowed'}")


def test_a_guard(monkeypatch):
    case = Compared(figures(0), figures(0), figures(1), (24, 32))
    assert "toy" not in {one.guard for one in check_round(ToyGuards(), case)}
    monkeypatch.setitem(GUARDS, "toy", toy_guard)
    (found,) = (one for one in check_round(ToyGuards(), case) if one.guard == "toy")
    assert (found.standing, found.action, found.detail) == ("fired", "stop", "round 1 is odd")
    assert rejects([found])
    (found,) = (one for one in check_round(ToyGuards(toy={"allow": 1}), case) if one.guard == "toy")
    assert found.standing == "quiet" and not rejects([found])
