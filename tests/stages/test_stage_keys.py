"""Stage keys name all that acts: every recipe key is changed in turn, and the stages' keys are held against reads.

Each case of :data:`CASES` is a small run under an :class:`AccessLog`. Then each of its recipe keys gets another value,
and the stages are asked for their keys as a dry run does. A stage that reads a recipe key has to get another key with
it, and one that gets another key has to read it; what is otherwise stands, with its reason, in one of the tables below.
A recipe key that is new fails until some stage depends on it or :data:`ACTS_NOWHERE` says why none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
from pydantic import ValidationError

from selfsteer.backends import vllm
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.config import Growth, Recipe, Section, ServerSettings
from selfsteer.config.launch import LaunchSettings
from selfsteer.errors import InputError
from selfsteer.experimental import augment
from selfsteer.judges import make_judge
from selfsteer.loop import guards
from selfsteer.loop.run import run
from selfsteer.models import load_model
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.runs.ledger import VERDICT, Slot
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages import preferences, training
from selfsteer.stages.context import RunContext, load_set
from selfsteer.stages.contrasts import contrasts_stage
from selfsteer.stages.implicit import implicit_stage
from selfsteer.stages.judgements import judged_stage
from selfsteer.stages.model_pool import Policy
from selfsteer.stages.principles import principles_stage
from selfsteer.stages.queries import queries_stage
from selfsteer.stages.reference import References, training_rows
from selfsteer.stages.responses import responses_stage
from selfsteer.stages.rewards import rewards_stage
from selfsteer.stages.scores import scored_preferences, scores_stage
from selfsteer.workflows import reward
from selfsteer.workflows.reward_stages import RewardStages
from tests.backends.chat_server import ChatServer, metered, scripted
from tests.conftest import build_model, build_tokenizer
from tests.reward_runs import reward_recipe, write_pairs
from tests.run_helpers import QUERIES, scripted_recipe, small_recipe, without_reports
from tests.stages.access_log import AccessLog, Keyed, keys, stage_keys

AnyRecipe = Recipe | RewardRecipe | Growth
Files = Mapping[str, str]

ALTERNATES: dict[str, Sequence[Any]] = {
    "name": ["another"],
    "model.name": ["{other}"],
    "model.revision": ["next"],
    "model.device": ["cpu:0"],
    "*.chat_template_kwargs": [{"terse": True}, {"terse": False}],
    "queries.source": ["{others}"],
    "queries.field": ["text"],
    "queries.dataset_split": ["test"],
    "queries.decontaminate": [[{"source": "{bench}"}]],
    "queries.decontaminate.*.source": ["{others}"],
    "queries.decontaminate.*.field": ["text"],
    "queries.decontaminate.*.dataset_split": ["test"],
    "queries.decontaminate_ngram": [5],
    "queries.languages": [["en"]],
    "queries.heldout": ["{bench}"],
    "preferences.source": ["{pairs}"],
    "preferences.dataset_split": ["test"],
    "principles.set": ["quality"],
    "principles.model.name": ["{other}", "endpoint:another"],
    "principles.model.base_url": ["http://127.0.0.1:9/v1"],
    "principles.model.api_key_env": ["ANOTHER_KEY"],
    "principles.model.device": ["cpu:0"],
    "principles.model.revision": ["next"],
    "generation.backend": ["vllm", "scripted"],
    "generation.model": ["{thinking}"],
    "generation.vllm": [{"max_model_len": 400}],
    "generation.endpoint.base_url": ["http://127.0.0.1:9/v1"],
    "generation.endpoint.api_key_env": ["ANOTHER_KEY"],
    "generation.endpoint.model": ["another"],
    "quality.filters": [["identical", "duplicates"], [{"reward_margin": {"min": -98}}]],
    "quality.harm": [{"classifier": "{harm}", "label": "LABEL_1"}],
    "quality.harm.classifier": ["{rewarding}"],
    "quality.harm.label": ["LABEL_1"],
    "quality.harm.revision": ["next"],
    "quality.reward": [{"model": "{rewarding too}"}],
    "quality.reward.model": ["{rewarding too}"],
    "quality.reward.revision": ["next"],
    "generator.terms": [["positive"]],
    "generator.base_loss": ["ipo"],
    "train.base_loss": ["dpo", "hinge"],
    "train.optimizer": ["adafactor"],
    "train.adam_betas": [[0.8, 0.9]],
    "train.lora": [{"r": 4}],
    "train.lora.target_modules": ["q_proj"],
    "evaluation.direction": ["longer"],
    "evaluation.per_token": [True],
    "evaluation.suites": [["gsm8k"]],
    "evaluation.data_dir": ["{bench}"],
    "judge.name": ["{thinking}"],
    "judge.per_token": [True, False],
    "judge.template": ["{template}"],
    "judge.base_url": ["http://127.0.0.1:9/v1"],
    "judge.api_key_env": ["ANOTHER_KEY"],
    "judge.device": ["cpu:0"],
    "judge.revision": ["next"],
    "sets": [{"a": {"source": "{pairs}"}}],
    "sets.*.source": ["{other pairs}"],
    "sets.*.dataset_split": ["test"],
    "sets.*.rounds": [[1]],
    "sets.*.licence": ["CC0"],
    "variants": [{"one": ["a", "hub", "run"]}],
    "seeds": [[1]],
    "options.lora.target_modules": ["q_proj"],
    "evaluate": [["{pairs}"]],
    "augment.operations": [["deepen"]],
}
"""Other values of recipe keys, the first that a case takes; ``{name}`` is a path of the fixture ``files``.

``*.KEY`` is that key of any section. A key that isn't here gets one by its type: the other bool, a number beside it,
another member of a Literal.
"""

_SERVER = "asks the same model: where it is, what it costs, how long it may take and what to do without an answer"
_PLACE = "says where something is computed, not what; another machine resumes the run as it is"
_COMMIT = "the commit of a hub model is in its name; a folder has no revisions"

ACTS_NOWHERE: dict[str, str] = {
    "name": "is what reports and cards call it",
    "model.device": _PLACE,
    "model.revision": _COMMIT,
    "queries.max_left_out": "is held against what stages have counted, by results that are there",
    "principles.below_chance": "decides whether a run goes on, by results that are there",
    "principles.model.device": _PLACE,
    "principles.model.revision": _COMMIT,
    **{
        f"{server}.{key}": _SERVER
        for server in ("principles.model", "generation.endpoint")
        for key in ServerSettings.model_fields
    },
    "quality.harm.revision": _COMMIT,
    "quality.reward.revision": _COMMIT,
    "generation.engines": "says how many processes share the batches, each of which has its own seed",
    "executor": "says where batches are done, each of which has its own seed",
    "ray.address": "is where they are done",
    "generator.keep": "decides whether the weights stay, which can be trained again",
    "train.save_steps": "a training resumed from any checkpoint ends with the same weights",
    "train.show_examples": "prints",
    **{
        f"{own}.{key}": "changes speed and memory"
        for own in ("train", "options")
        for key in LaunchSettings.model_fields
    },
    "evaluation.per_token": "is the unit of implicit rewards in figures, which are computed from rows that are there",
    "evaluation.samples": "is how many rows the report shows",
    **{
        f"evaluation.{key}": "is about benchmarks, which are no stage and keep each answer by what it depends on"
        for key in ("suites", "data_dir", "limit")
    },
    "judge.api_key_env": _SERVER,
    "judge.device": _PLACE,
    "judge.revision": _COMMIT,
    "guards.best": "chooses among policies that are there",
    "sets.*.rounds": "chooses stages of a run, whose keys are in the key; the run of the case has one round",
    "sets.*.licence": "is written on the model card",
    "options.lora.bits": "is refused, whatever the value",
    "options.save_steps": "a training resumed from any checkpoint ends with the same weights",
}
"""Recipe keys that are in no stage's key, and why no result depends on them."""

_WRITER = "only the template's system role acts beside a writer of principles, and is in the key"
_BITS = "only the bits of the weights act before training, and are in the model's name"
_CARD = "is written on the model card"

ACTS_ELSEWHERE: dict[str, tuple[str, str]] = {
    "mode": ("*", "decides which stages there are"),
    "rounds": ("principles", "acts where rounds share the queries, whose places are in the key"),
    "model.name": ("principles reward-data", f"{_WRITER}; a reward model's pairs depend on the tokenizer alone"),
    "model.trust_remote_code": ("principles reward-data", "as model.name"),
    "model.chat_template_kwargs": ("principles reward", f"{_WRITER}; a reward model depends on the pairs; {_CARD}"),
    "preferences.source": ("queries generator policy", f"beside it the queries' checks have no effect; {_CARD}"),
    "principles.strategy": ("contrasts", "acts through a direction filter, whose program is in the key"),
    "generation.model": ("principles", _WRITER),
    "generation.backend": ("scores policy", "only whether there are weights acts"),
    "generation.endpoint.model": ("principles", "is whose answers have another price"),
    "quality.filters": ("rewards", "only whether one of them goes by a reward model acts"),
    "train.label_smoothing": ("reference", "only which views the loss compares acts, and is in the key"),
    "train.margin": ("reference", "only which views the loss compares acts, and is in the key"),
    "train.lora": ("principles responses scores reference", _BITS),
    "evaluation.direction": (
        "contrasts rewards",
        "acts through the program of a direction filter, which is in the key",
    ),
    "options.length_balance": ("reward", f"acts through the pairs; {_CARD}"),
    "options.m*": ("reward", f"acts through the pairs; {_CARD}"),
    "options.precision": ("reward-data", "is a setting of the model whose tokenizer is read"),
    "sets*": ("reward", f"acts through the pairs; {_CARD}"),
}
"""By pattern of recipe keys: stages that read them and may keep their keys when the value changes, and why."""

_OPENED = "is read before the stage works"
_PASSED_ON = "decides which queries are passed on"

IN_KEY_ONLY: dict[str, tuple[str, str]] = {
    "rounds": ("principles", _PASSED_ON),
    "queries.per_round": ("principles", _PASSED_ON),
    "principles.per_round": ("principles", "makes the seed that is drawn with"),
    "queries.round_size": ("principles", _PASSED_ON),
    "principles.model.name": ("principles", "a writer in place of the policy"),
    "principles.extra_rate": ("principles", "a query for which no guideline could be written falls back on aspects"),
    "generator.queries": ("responses", _PASSED_ON),
    "quality.harm*": ("contrasts", _OPENED),
    "quality.reward*": ("rewards", _OPENED),
    "train.older_rounds": ("reference", "decides whose rows are scored"),
    "judge.name": ("judgements guards", f"{_OPENED}; guards go by what a judge says"),
    "judge.*": ("judgements", _OPENED),
    "guards.*": ("guards", "a threshold is read where the guard has figures"),
}
"""By pattern of recipe keys: stages whose keys have values that they do not read while they work, and why."""


class _Engine(TransformersBackend):
    """In place of the engine: another backend of the same name and arguments."""

    name = "vllm"

    def __init__(self, path: str, chat: Any, *, dtype: str, options: Any, seed: int, **loading: Any) -> None:
        super().__init__(load_model(path, dtype=dtype, **loading), chat)


@pytest.fixture(scope="module", autouse=True)
def fast_bfloat16() -> Iterator[None]:
    """Let auto be bfloat16 on every machine: float32 is another precision then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Texts, models and a run by name, and a server; what is elsewhere (the hub, an engine) is stood in for."""
    import datasets
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("keys")
    texts = {"queries": QUERIES[:5], "others": QUERIES[5:], "bench": ["Nothing."]}
    texts["template"] = ["{{ first }} or {{ second }}?"]
    for name, lines in texts.items():
        (folder / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    found = {name: str(folder / f"{name}.txt") for name in texts}
    for seed, name in enumerate(("model", "other", "thinking", "harm", "rewarding", "rewarding too")):
        tokenizer = build_tokenizer()
        tokenizer.chat_template += "{% if terse %}{{ ' ' }}{% endif %}" + "{# </think> #}" * (name == "thinking")
        model = build_model(tokenizer, seed, num_labels=1 if "rewarding" in name else 2)
        if name in ("harm", "rewarding", "rewarding too"):
            model = AutoModelForSequenceClassification.from_config(model.config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        found[name] = str(folder / name)
    pairs = {name: write_pairs(folder / f"{name}.jsonl", 6, start=start, steering_margin=0.5)
             for name, start in (("pairs", 0), ("other pairs", 3))}  # fmt: skip
    found |= {name: str(path) for name, path in pairs.items()}
    hub = {"org/pairs": datasets.Dataset.from_json(found["pairs"])}
    hub["org/queries"] = datasets.Dataset.from_dict({"prompt": QUERIES[:4]})
    server = ChatServer(lambda request, count: metered(scripted(request, count), 10, 5))
    with pytest.MonkeyPatch.context() as patch, without_reports():
        patch.setattr(datasets, "load_dataset", lambda name, config, split: hub[name])
        patch.setattr(vllm, "VllmBackend", _Engine)
        patch.setattr(vllm, "check_installed", lambda: None)
        patch.setattr("selfsteer.models.single_slot.give_back", lambda: None)  # takes half of the time
        for variable in ("OPENAI_API_KEY", "ANOTHER_KEY"):
            patch.setenv(variable, "sk-test")
        run(scripted_recipe(Path(found["queries"]), quality={"filters": ["identical"]}), folder / "run")
        yield found | {"run": str(folder / "run"), "server": server.url}
    server.close()


def small(files: Files, **changes: Any) -> Recipe:
    """A recipe of the tiny model on few queries; of these, one is held out unless ``changes`` say otherwise."""
    values: dict[str, Any] = {"queries__limit": 3, "queries__heldout": 1, "guards": {"action": "warn"}}
    values |= {"generation__max_new_tokens": 3, "train__epochs": 1}
    return small_recipe(Path(files["model"]), Path(files["queries"]), **(values | changes))


def without_weights(files: Files, **sections: Any) -> Recipe:
    """A recipe of a backend without weights."""
    queries = {"queries": {"source": files["queries"], "heldout": 1, "decontaminate": [files["bench"], "org/queries"]}}
    values = scripted_recipe(Path(files["queries"])).model_dump() | {"model": {"name": files["model"]}}
    return Recipe.model_validate(values | queries | sections)


def _online(files: Files) -> Recipe:
    reward_filter = {"filters": [{"reward_margin": {"min": -99}}], "reward": {"model": files["rewarding"]}}
    harm = {"harm": {"classifier": files["harm"], "label": "LABEL_0"}}
    return small(
        files, rounds=2, train__reference="ema", train__older_rounds=1, queries__per_round="split",
        principles={"set": "brief", "choice_temperature": 0.7, "per_round": "redrawn"},
        quality=reward_filter | harm,
        judge={"name": files["other"], "device": "cpu", "precision": "float32"},
    )  # fmt: skip


def _generator(files: Files) -> Recipe:
    return small(
        files, mode="generator", train__objective="base", train__base_loss="dpo", train__lora={"r": 2},
        principles={"set": "brief", "strategy": "per_aspect", "aspects_per_query": 3},
        generation__roles={"original": {"temperature": 0.0}, "negative": {"temperature": 0.9, "top_p": 0.9}},
        generator={"queries": 2, "batch_size": 2, "negative": "negative"},
        judge={"name": f"reward:{files['rewarding']}", "device": "cpu"},
    )  # fmt: skip


def _offline(files: Files) -> Recipe:
    return small(
        files, mode="offline", generation__model=files["other"], principles__strategy="per_aspect",
        principles__model={"name": files["thinking"], "device": "cpu", "precision": "float32"},
        judge={"name": f"implicit:{files['model']}@{files['other']}", "device": "cpu"},
    )  # fmt: skip


def _preferences(files: Files) -> Recipe:
    return small(
        files, mode="offline", preferences={"source": "org/pairs"}, queries__heldout=files["bench"],
        queries__decontaminate=[files["others"], "org/queries"], train__objective="base", train__base_loss="simpo",
        train__margin=0.5,
    )  # fmt: skip


def _thinking(files: Files) -> Recipe:
    judge = {"name": files["other"], "device": "cpu", "mode": "text", "precision": "float32"}
    return small(
        files, mode="data-only", model__name=files["thinking"], principles__strategy="guideline", judge=judge,
        queries__source="org/queries", queries__heldout=0, queries__per_round="stream", queries__round_size=1,
    )  # fmt: skip


def _scripted(files: Files) -> Recipe:
    return without_weights(files, judge={"name": "program:shorter"})


def _endpoint(files: Files) -> Recipe:
    server = {"base_url": files["server"], "price_prompt": 1.0, "price_completion": 1.0, "max_cost": 99.0}
    return without_weights(
        files, generation={"backend": "endpoint", "max_new_tokens": 5, "endpoint": {"model": "m", **server}},
        principles={"set": "brief", "strategy": "guideline", "model": {"name": "endpoint:writer", **server}},
        judge={"name": "endpoint:judge", "mode": "text", "base_url": files["server"]},
        quality={"filters": ["identical"]},
    )  # fmt: skip


def _vllm(files: Files) -> Recipe:
    writer = {"name": files["other"], "precision": "float32"}
    engine = {"generation__backend": "vllm", "generation__vllm": {"max_model_len": 500}}
    return small(files, mode="data-only", queries__heldout=0, principles__model=writer, **engine)


def _reward(files: Files) -> RewardRecipe:
    sets = {"a": {"source": files["pairs"]}, "hub": {"source": "org/pairs"}, "run": {"source": files["run"]}}
    options = {"lora": {"r": 2}, "max_length": 100, "margin": "steering"}
    model, pairs = Path(files["model"]), Path(files["pairs"])
    return reward_recipe(model, pairs, Path(files["other pairs"]), sets=sets, options=options)


CASES: Sequence[Callable[[Files], AnyRecipe]] = (
    _scripted, _online, _generator, _offline, _preferences, _thinking, _endpoint, _vllm, _reward
)  # fmt: skip

STAGES = (
    queries_stage,
    principles_stage,
    responses_stage,
    scores_stage,
    scored_preferences,
    rewards_stage,
    contrasts_stage,
    preferences.preferences_stage,
    References.of,
    training_rows,
    training.train_stage,
    implicit_stage,
    judged_stage,
    guards.Guards.record,
    RewardStages.data_stage,
    RewardStages.train_stage,
    RewardStages.score_stage,
    RewardStages.length_stage,
)
"""The functions that ask the store for a stage."""


_SOURCE = ("source", "dataset_split", "rounds", "finished")


def _of_start(policy: Policy) -> Sequence[str]:
    if policy.weightless:
        return []
    source = ["generation.model"] if policy.foreign else ["model.name", "model.revision", "model.trust_remote_code"]
    return [*source, "model.chat_template_kwargs"]


CARRIED = {
    (RunContext, "principle_set"): lambda _: ["principles.set", "principles.steering"],
    (Policy, "path"): _of_start,
    (Policy, "backend"): lambda _: ["generation.backend"],
    (RewardStages, "files"): lambda _: ["evaluate"],
    (RewardStages, "sources"): lambda _: [f"sets.*.{one}" for one in _SOURCE],
}
"""Objects that carry settings which were read before any stage."""


class Seen(NamedTuple):
    """What a case tells of a stage and a recipe key.

    Attributes:
        stage, key: Of which.
        read: Whether the stage's function reads it.
        worked: Whether the stage reads it while it works.
        changed: Whether another value gives another key; None where no other value was taken.
        itself: Whether it does so by more than the keys of the stages before.
    """

    stage: str
    key: str
    read: bool
    worked: bool
    changed: bool | None
    itself: bool


def recorded(recipe: AnyRecipe, folder: Path) -> AccessLog:
    """Do a run, and return what its stages read."""
    log = AccessLog(STAGES, CARRIED)
    with log.recording():
        log.register(recipe)
        if isinstance(recipe, RewardRecipe):
            reward.reward(recipe, folder)
        else:
            run(recipe, folder)
    return log


def changed(recipe: AnyRecipe, key: str, files: Files) -> Iterator[AnyRecipe]:
    """Yield the recipe with other values of one key, as far as they are valid."""
    *path, last = key.split(".")
    for place in _places(recipe, path):
        section: Any = recipe
        for part in place:
            section = getattr(section, part) if isinstance(section, Section) else section[part]
        for value in _others(section, key, last):
            # What a growth was not given stays away: it refuses keys of the other method.
            values = at = recipe.model_dump(exclude_unset=isinstance(recipe, Growth))
            for part in place:
                at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
            value = _filled(value, files)
            if at.get(last, getattr(section, last)) == value:
                continue
            at[last] = value
            try:
                yield type(recipe).model_validate(values)
            except ValidationError:
                continue


def _places(value: Any, path: Sequence[str]) -> Iterator[list[Any]]:
    """Yield where a path leads, each item of a list or a mapping for a ``*``."""
    if not path:
        yield []
    elif value is not None:
        items = value if isinstance(value, dict) else range(len(value)) if path[0] == "*" else [path[0]]
        for item in items:
            inner = getattr(value, item) if isinstance(value, Section) else value[item]
            yield from ([item, *rest] for rest in _places(inner, path[1:]) if inner is not None)


def _others(section: Section, key: str, name: str) -> Iterator[Any]:
    yield from ALTERNATES.get(key) or ALTERNATES.get(f"*.{name}", ())
    value = getattr(section, name)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2, value / 2, value + 0.25)
    yield from _options(type(section).model_fields[name].annotation)


def _options(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for one in get_args(annotation):
        yield from {type(None): [None], int: [1], float: [0.5]}.get(one) or _options(one)


def _filled(value: Any, files: Files) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, files) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, files) for one in value]
    return value.format_map(files) if isinstance(value, str) else value


def seen_in(recipe: AnyRecipe, log: AccessLog, files: Files, folder: Path) -> Iterator[Seen]:
    """Yield what a recorded run and plans of changed recipes tell of each of its stages and each recipe key."""
    before = stage_keys(recipe, folder)
    own = {slot: keyed.key for slot, keyed in before.items()}
    assert own == log.keys or isinstance(recipe, RewardRecipe), "a plan has the stages of the run, under the same keys"
    for key in keys(type(recipe)):
        after = _first(stage_keys, changed(recipe, key, files), folder)
        gone = [slot for slot in before if after and after.get(slot) != before[slot]]
        for slot, keyed in before.items():
            worked = key in log.worked[slot] or (slot[0] == VERDICT and key in log.asked[slot])
            upstream = any(before[one].key in keyed.depends for one in gone)
            yield Seen(
                slot[0].partition(":")[0].removeprefix("generator-"), key, key in log.asked[slot], worked,
                None if after is None else slot not in after or after[slot].key != keyed.key,
                after is not None and slot in after and not upstream,
            )  # fmt: skip


def _first(look: Callable[..., dict[Slot, Keyed]], recipes: Iterator[AnyRecipe], folder: Path) -> Any:
    for recipe in recipes:
        try:
            return look(recipe, folder)
        except InputError:  # refused by more than the recipe's own checks
            continue
    return None


@pytest.fixture(scope="module")
def seen(files, tmp_path_factory) -> list[Seen]:
    """What all cases tell."""
    found: list[Seen] = []
    judges = cache(lambda kind, text, real=make_judge: real(kind.model_validate_json(text)))
    for case in CASES:
        folder, recipe = tmp_path_factory.mktemp("case"), case(files)
        log = recorded(recipe, folder / "run")
        with pytest.MonkeyPatch.context() as patch:  # these two take longer than all else of a plan
            patch.setattr("selfsteer.stages.context.load_set", cache(load_set))
            patch.setattr(
                "selfsteer.stages.judgements.make_judge", lambda one: judges(type(one), one.model_dump_json())
            )
            found += seen_in(recipe, log, files, folder / "none")
    return found


def listed(found: Iterable[tuple[str, str]], table: Mapping[str, tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return which pairs of stage and recipe key a table has, each with the pattern that it is found under."""
    return {
        (stage, key): pattern
        for stage, key in found
        for pattern, (stages, _) in table.items()
        if fnmatch(key, pattern) and (stages == "*" or stage in stages.split())
    }


def missing(seen: Sequence[Seen]) -> set[tuple[str, str]]:
    """Return the stages and the recipe keys that they read and that give them no other key."""
    return {(one.stage, one.key) for one in seen if one.read and one.changed is False and one.key not in ACTS_NOWHERE}


def idle(seen: Sequence[Seen]) -> set[tuple[str, str]]:
    """Return the stages and the recipe keys that give them another key and that they don't read at work."""
    return {(one.stage, one.key) for one in seen if one.changed and one.itself and not one.worked}


def untried(seen: Sequence[Seen]) -> set[tuple[str, str]]:
    """Return the stages and the recipe keys that they read and that no case where they do has another value for."""
    read = [one for one in seen if one.read and one.key not in ACTS_NOWHERE]
    return {(one.stage, one.key) for one in read} - {(one.stage, one.key) for one in read if one.changed is not None}


def explained(found: set[tuple[str, str]], table: Mapping[str, tuple[str, str]], do: str) -> None:
    """Fail where a table lacks a pair of stage and recipe key, or has one that is not found."""
    known = listed(found, table)
    left = sorted(found - known.keys())
    assert not left, "\n".join([do, *(f"  {stage}: {key}" for stage, key in left)])
    needless = sorted(table.keys() - set(known.values()))
    assert not needless, f"nothing is found that these lines explain: {needless}"


def test_a_stage_gets_another_key_with_every_setting_that_it_reads(seen):
    do = "add these to `depends` of the stage (or to ALTERNATES; else to ACTS_ELSEWHERE, with the reason):"
    explained(missing(seen) | untried(seen), ACTS_ELSEWHERE, do)


def test_a_stage_reads_every_setting_that_gives_it_another_key(seen):
    explained(idle(seen), IN_KEY_ONLY, "take these out of `depends` of the stage (else add the reason to IN_KEY_ONLY):")


def test_every_recipe_key_acts_on_a_stage_or_is_said_to_act_on_none(seen):
    acting = {one.key for one in seen if one.changed}
    silent = {*keys(Recipe), *keys(RewardRecipe)} - acting
    left, needless = sorted(silent - ACTS_NOWHERE.keys()), sorted(ACTS_NOWHERE.keys() - silent)
    assert not left, f"add them to `depends` of a stage (or to ACTS_NOWHERE, with the reason): {left}"
    assert not needless, f"they act on stages: {needless}"


def test_every_key_of_a_growth_names_its_result_or_is_said_to_act_nowhere(files, tmp_path):
    """`selfsteer augment` names all of it at once, so it is enough that the name changes."""
    start = {"generation": {"backend": "scripted"}, "queries": {"decontaminate": [files["bench"], "org/queries"]}}
    evolve = {"augment": {"method": "evolve"}}
    server = {"backend": "endpoint", "endpoint": {"model": "m", "base_url": files["server"]}}
    local = {"model": {"name": files["model"]}, "generation": {"precision": "float32"}}
    vllm = {"model": {"name": files["model"]}, "generation": {"backend": "vllm", "vllm": {"max_model_len": 9}}}
    acting = set()
    for values in (start, start | evolve, start | {"generation": server}, start | local, start | vllm):
        growth = Growth.model_validate(values)
        for key in {*keys(Growth)} - acting:
            if any(_growth(other, tmp_path) != _growth(growth, tmp_path) for other in changed(growth, key, files)):
                acting.add(key)
    # Seeds are counted while they are read, and a growth that is there does not read them.
    idle = ACTS_NOWHERE.keys() - {"queries.max_left_out"}
    expected = {key for key in keys(Growth) if key in idle or any(fnmatch(key, one) for one in _REFUSED)}
    assert {*keys(Growth)} - acting == expected


_REFUSED = ("generation.model", "generation.thinking", "generation.roles.*")
"""What a recipe has and a growth refuses."""


def _growth(growth: Growth, folder: Path) -> str:
    growing = augment._Growing(growth, folder / "out.jsonl", 1, Store(folder / "run", Display(quiet=True)))
    return repr(growing._depends(growing.models.initial_policy(print)))


def test_a_dependency_that_is_left_out_is_found(files, tmp_path, monkeypatch):
    monkeypatch.setattr(RunContext, "sampling", lambda stages, policy: {})
    recipe = _scripted(files)
    found = missing([*seen_in(recipe, recorded(recipe, tmp_path / "run"), files, tmp_path / "none")])
    assert ("responses", "generation.batch_size") in found
