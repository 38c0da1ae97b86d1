"""The recipe: one typed tree, read from YAML with dotted overrides. Unknown keys are errors with a suggestion."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from selfsteer.errors import ConfigError, did_you_mean

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(_Section):
    """The chat model to align. ``model: NAME`` is short for ``model: {name: NAME}``."""

    name: str = "smollm2-135m"
    """A catalogue name, a local folder or a hub name."""
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = "auto"


class QuerySettings(_Section):
    """The queries. ``queries: FILE`` is short for ``queries: {source: FILE}``."""

    source: str = "builtin:quickstart"
    """JSONL, JSON, Parquet, CSV or text file, hub data set, or a built-in set."""
    field: str | None = None
    dataset_split: str = "train"
    limit: Positive | None = None
    heldout: str | Annotated[int, Field(ge=0)] = 16
    """Queries to measure on, never trained on: a source of its own, or how many to split off."""
    heldout_limit: Positive | None = None
    """Take the first so many of a held-out source."""

    @model_validator(mode="after")
    def _limited_source(self) -> QuerySettings:
        if self.heldout_limit is not None and isinstance(self.heldout, int):
            raise ValueError(f"heldout_limit is for a held-out source; heldout: {self.heldout} is a number already")
        return self


class PrincipleSettings(_Section):
    """How each query gets its principle pair."""

    set: str = "quality"
    """A shipped set or the path of a YAML file."""
    aspects_per_query: Positive | None = None
    """How many aspects the model picks for a query (default: what the set says)."""
    extra_rate: Share = 0.2
    """Share of the queries that get the set's extra aspect (Concision in ``quality``) as well."""


class GenerationSettings(_Section):
    """How responses are sampled (paper defaults)."""

    backend: Literal["transformers", "scripted"] = "transformers"
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    max_new_tokens: Positive = 2048
    batch_size: Positive = 16
    precision: Literal["auto", "bfloat16", "float32"] = "auto"


class QualitySettings(_Section):
    """What happens to the sampled responses before they are trained on."""

    clean: bool = True
    """Strip leaked labels and end cut-off sentences."""
    filters: list[str | dict[str, Any]] = ["identical", "leak", "preference_order", "near_onpolicy", "steering_gap"]


class LoraSettings(_Section):
    """LoRA in place of full fine-tuning."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class TrainSettings(_Section):
    """The loss (paper v1 defaults) and the optimiser."""

    base_loss: str = "ipo"
    beta: Annotated[float, Field(gt=0.0)] = 0.2
    steering_coef: Annotated[float, Field(ge=0.0)] = 0.1
    onpolicy_alpha: Share = 0.66
    use_weight: bool = True
    use_steering: bool = True
    weight_scope: Literal["all", "steering"] = "all"
    detach_weight: bool = False
    sft_coef: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    margin: float = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-7
    epochs: Positive = 1
    batch_size: Positive = 32
    """Examples per optimiser step."""
    micro_batch_size: Positive = 2
    """Examples in memory at once; gradients accumulate to ``batch_size``."""
    max_length: Positive = 2048
    """Prompt + response tokens; a longer response is cut, without an end label."""
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """bfloat16: autocast over float32 weights. Pure bfloat16 weights would swallow steps this small."""
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    save_steps: Positive = 50
    """Optimiser steps between checkpoints that an interrupted training goes on from."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainSettings:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        return self


class EvaluationSettings(_Section):
    """What is measured on the held-out queries, before and after."""

    direction: str | None = None
    """Program that says which way y+ must differ from y- (default: what the principle set names)."""
    samples: Annotated[int, Field(ge=0)] = 3
    """How many queries the report shows side by side."""


class Recipe(_Section):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    mode: Literal["online", "data-only"] = "online"
    rounds: Positive = 1
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelSettings = ModelSettings()
    queries: QuerySettings = QuerySettings()
    principles: PrincipleSettings = PrincipleSettings()
    generation: GenerationSettings = GenerationSettings()
    quality: QualitySettings = QualitySettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _trainable(self) -> Recipe:
        if self.generation.backend == "scripted" and self.mode != "data-only":
            raise ValueError("the scripted backend has no weights to train: set mode: data-only")
        if self.mode == "data-only" and self.rounds > 1:
            raise ValueError("data-only never changes the policy, so more than one round repeats itself: set rounds: 1")
        return self


SHORTHAND = {"model": "name", "queries": "source"}
"""Sections that may be given as one string: it sets this key, and the section's other keys take their defaults."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (or the name of a shipped recipe) and apply ``key=value`` overrides.

    Raises:
        ConfigError: The file is missing or is no YAML mapping; a key is unknown or given twice; a value is wrong.
    """
    file = find_recipe(path)
    values, lines = _parse_yaml(file)
    for override in overrides:
        _apply_override(values, lines, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0], len(error.errors()), file, lines) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that :func:`load_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def find_recipe(path: str | Path) -> Path:
    """Return the file itself, else the shipped recipe of that name; raises :class:`ConfigError` where neither is."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = shipped_recipes()
    name = file.name.removesuffix(".yaml")
    if name in shipped and file.parent in (Path(), Path("recipes")):
        return shipped[name]
    raise ConfigError("no such recipe", where=str(path), do=did_you_mean(name, shipped))


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with the package."""
    package = Path(str(files("selfsteer")))
    folder = next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), package)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


Lines = dict[tuple[str, ...], str]


def _parse_yaml(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe is not UTF-8: {error.reason}", where=str(file)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"the recipe is no valid YAML: {error.problem}", where=f"{file}:{line}") from error
    lines: Lines = {}
    value = _plain(node, (), file, lines) if node is not None else {}
    if not isinstance(value, dict):
        raise ConfigError(
            "a recipe is a mapping of keys to values", where=f"{file}:1", do="see recipes/quickstart.yaml"
        )
    return value, lines


def _plain(node: yaml.Node, path: tuple[str, ...], file: Path, lines: Lines) -> Any:
    """Turn a YAML node into plain values, noting each key's line; a key given twice is an error."""
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, where = str(key_node.value), f"{file}:{key_node.start_mark.line + 1}"
            if key in result:
                raise ConfigError(f"key {'.'.join((*path, key))!r} is given twice", where=where, do="keep one of them")
            lines[(*path, key)] = where
            value = _plain(value_node, (*path, key), file, lines)
            result[key] = _expand(path, key, value)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, str(i)), file, lines) for i, child in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    return _number(loader.construct_object(node))


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-5`` as text; people who write it mean the number."""
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _expand(path: tuple[str, ...], key: str, value: Any) -> Any:
    return {SHORTHAND[key]: value} if not path and key in SHORTHAND and isinstance(value, str) else value


def _apply_override(values: dict[str, Any], lines: Lines, override: str) -> None:
    key, separator, text = override.partition("=")
    path = tuple(key.strip().split("."))
    where = f"command line: {override}"
    if not separator or not all(path):
        raise ConfigError("an override has the form key=value", where=where, do="for example train.beta=0.1")
    try:
        value = _number(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError("the override's value can't be read", where=where, do="quote it") from error
    target = values
    for part in path[:-1]:
        if not isinstance(target.get(part), dict):
            target[part] = {}
        target = target[part]
    target[path[-1]] = _expand(path[:-1], path[-1], value)
    lines[path] = where


def _explain(error: ErrorDetails, count: int, file: Path, lines: Lines) -> ConfigError:
    path = tuple(str(part) for part in error["loc"] if not _is_branch(str(part)))
    where = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), str(file))
    key = ".".join(path) or "recipe"
    more = f" ({count - 1} more)" if count > 1 else ""
    if error["type"] == "extra_forbidden":
        return ConfigError(f"unknown key {key!r}{more}", where=where, do=did_you_mean(path[-1], _keys_at(path[:-1])))
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return ConfigError(f"wrong value for {key!r}: {message}{given}{more}", where=where, do="mend that value")


def _is_branch(part: str) -> bool:
    """Pydantic names the member of a union it tried ("str", "constrained-int") in an error's location."""
    return part in ("str", "int", "float") or part.startswith(("constrained-", "list[", "dict["))


def _keys_at(path: tuple[str, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in path:
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(section.model_fields)
