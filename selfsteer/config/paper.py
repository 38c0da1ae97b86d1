"""The paper's tables as files: which runs each is made of, and the published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from selfsteer.config.base import NAME, Positive, Section, conflict
from selfsteer.config.loading import find, shipped
from selfsteer.config.messages import explain
from selfsteer.config.yaml_lines import read_file
from selfsteer.errors import ConfigError, did_you_mean

Name = Annotated[str, Field(pattern=NAME)]
Scale = Literal["full", "small", "tiny"]
Kind = TypeVar("Kind", bound=Section)


class PaperModel(Section):
    """A model that a table's runs start from."""

    name: str | None = None
    """A hub name; None where the authors published no checkpoint, so that the user names one."""
    like: str | None = None
    """Of an unnamed model: a known one of the same size, for estimates."""
    about: str = ""


class PaperRun(Section):
    """What is done with each model of a table, in terms of the table's recipe."""

    label: str
    settings: dict[str, Any] = {}
    """Differences from the recipe, by dotted key or nested."""
    unchanged: bool = False
    """The model as it is; nothing is trained."""
    principles: list[str] = []
    """Of an unchanged model: it is asked with the positive principles of these aspects as its system message."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.unchanged and self.settings:
            raise conflict("an unchanged model has no settings of a training", "settings", "unchanged")
        if self.principles and not self.unchanged:
            raise conflict("principles are the system message of an unchanged model", "principles", "unchanged")
        return self


class PaperReward(Section):
    """Reward models that are trained on annotated pairs and on the rows of the table's runs."""

    model: str
    """A name of the table's ``models``."""
    recipe: dict[str, Any]
    """As of `selfsteer reward`; a source "run:NAME" is the directory of the run of that name."""
    evaluate: list[str]
    """Labelled pairs that every reward model is scored on."""


class PaperTable(Section):
    """A table of the paper: models x runs, and the published figure in each cell."""

    title: str
    recipe: str
    """The shipped recipe that every run differs from."""
    settings: dict[str, Any] = {}
    """What all runs of the table differ in."""
    models: Annotated[dict[Name, PaperModel], Field(min_length=1)]
    runs: Annotated[dict[Name, PaperRun], Field(min_length=1)]
    columns: Annotated[dict[str, str], Field(min_length=1)]
    """By the paper's name: "BENCHMARK.METRIC", "BENCHMARK.length" (mean characters of the answers), "signal.accuracy",
    "signal.onpolicyness" or "reward.accuracy"."""
    paper: dict[str, dict[str, dict[str, float]]] = {}
    """Published figures by model, run (or variant of reward models) and column."""
    notes: list[str] = []
    """How far figures may differ, and why."""
    reward: PaperReward | None = None

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks of the columns, each once."""
        names = (source.partition(".")[0] for source in self.columns.values())
        return [name for name in dict.fromkeys(names) if name not in ("signal", "reward")]

    @property
    def takes_annotated_pairs(self) -> bool:
        """Whether a run or a reward model is trained on pairs that this table's runs did not make."""
        sets = self.reward.recipe.get("sets", {}).values() if self.reward else ()
        return any(key.split(".")[0] == "preferences" for run in self.runs.values() for key in run.settings) or any(
            not one["source"].startswith("run:") for one in sets
        )

    @model_validator(mode="after")
    def _named(self) -> Self:
        rows = self.reward.recipe.get("variants", {}) if self.reward else self.runs
        for model, runs in self.paper.items():
            known: list[tuple[str, dict[str, Any], str]] = [(model, self.models, "models")]
            known += [(run, rows, "runs") for run in runs]
            known += [(column, self.columns, "columns") for figures in runs.values() for column in figures]
            for name, names, where in known:
                if name not in names:
                    raise conflict(f"the paper's figures name {name!r}, which is not among {where}", "paper", where)
        if self.reward and self.reward.model not in self.models:
            raise conflict(f"no model is called {self.reward.model!r}", "reward", "models")
        return self


class PaperScale(Section):
    """What a smaller scale replaces in every table."""

    about: str
    stand_in: str | None = None
    """The model in place of all models of a table."""
    settings: dict[str, Any] = {}
    """Of every run; a run's own settings act after these."""
    generator: dict[str, Any] = {}
    """Of runs in mode generator."""
    annotated: dict[str, Any] = {}
    """Of runs on annotated preferences."""
    ignored: list[str] = []
    """Keys of runs that have no effect at this scale, with all keys below them."""
    only: list[str] | None = None
    """The benchmarks of a table that are evaluated (default: all)."""
    extra: list[str] = []
    """Benchmarks that are evaluated whether the table has them or not."""
    limit: Positive | None = None
    """Size of a random sample of each benchmark."""
    reward: dict[str, Any] = {}
    """Of reward recipes."""


class Paper(NamedTuple):
    """A table at a scale.

    Attributes:
        name: Of the table, with "-lora" where adapters are trained.
        lora: The settings of adapters, {} where whole weights are trained.
    """

    name: str
    table: PaperTable
    scale: PaperScale
    scale_name: Scale
    lora: dict[str, Any]


LORA = "-lora"


def load_paper(name: str, scale: Scale = "full") -> Paper:
    """Read a table by its name, or a file; "-lora" after it trains adapters. Raises :class:`ConfigError`."""
    tables = shipped_tables()
    adapters = name.endswith(LORA) and name.removesuffix(LORA) in tables
    plain = name.removesuffix(LORA) if adapters else name
    if plain not in tables and not Path(plain).is_file():
        do = f"{did_you_mean(name, tables)}; `selfsteer reproduce list` shows all tables"
        raise ConfigError(f"no table of the paper is named {name!r}", do=do)
    file = find(plain, tables, Path("recipes/paper"), "table")
    table = _read(PaperTable, file)
    folder = shipped() / "paper" / "scales"
    lora = _read(PaperScale, folder / "lora.yaml").settings if adapters else {}
    own = PaperScale(about="as published") if scale == "full" else _read(PaperScale, folder / f"{scale}.yaml")
    return Paper(file.stem + LORA * adapters, table, own, scale, lora)


def shipped_tables() -> dict[str, Path]:
    """Names and files of the paper's tables that come with the package."""
    return {file.stem: file for file in sorted(shipped().glob("paper/*.yaml"))}


def _read(kind: type[Kind], file: Path) -> Kind:
    values, lines = read_file(file)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error.errors(), file, lines, kind) from error
