"""A model folder with one damaged field ends in a model that works or in one of our errors, and soon."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfsteer.backends.base import Sampling
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.commands.dry_run import dry_run
from selfsteer.config import Recipe
from selfsteer.errors import ModelError, SelfsteerError
from selfsteer.estimate.forecast import costs_of
from selfsteer.estimate.prompt_lengths import sizes_of
from selfsteer.loop import generate
from selfsteer.loop.run import open_stages
from selfsteer.models import load_model, model_fingerprint, resolve
from selfsteer.runs.progress import Display
from tests.chat_templates import user
from tests.models.damage import ADAPTERS, MODELS, Damage
from tests.models.test_models import save_adapter
from tests.run_helpers import small_recipe

_SECONDS = 20
_EVERY = 4  # of so many damages, one is tested in each run; the rest are slow

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def adapter(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "tiny", tiny_chat_model)


def _estimate(recipe: Recipe, folder: Path) -> None:
    stages = open_stages(recipe, Path(os.devnull), Display(quiet=True), runs_code=False)
    costs_of(stages, sizes_of(recipe.queries, None))


def _dry_run(recipe: Recipe, folder: Path) -> None:
    dry_run(recipe, folder, measure=True)


def _sample(recipe: Recipe, folder: Path) -> None:
    """Load and sample as ``generate`` does, without its stages."""
    source = resolve(recipe.model.name)
    model_fingerprint(source, chat=True)
    backend = TransformersBackend(load_model(source), Chat.load(source))
    assert backend.generate([user("Hi")], Sampling(1.0, 0.9, 2), seed=1)


def _generate(recipe: Recipe, folder: Path) -> None:
    generate(recipe, folder, display=Display(quiet=True))


@contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _table(damages: list[tuple[str, Damage]]) -> list[object]:
    return [
        pytest.param(change, id=f"{number} {name}", marks=[pytest.mark.slow] * (number % _EVERY > 0))
        for number, (name, change) in enumerate(damages)
    ]


def _try_all(folder: Path, queries: Path, tmp_path: Path, *ways: Callable[[Recipe, Path], None]) -> None:
    recipe = small_recipe(folder, queries, generation__max_new_tokens=2, queries__heldout=2)
    for way in ways:
        with _in_time():
            try:
                way(recipe, tmp_path / way.__name__)
            except SelfsteerError as error:
                assert error.what
                assert error.do
                assert len(str(error)) < 2_000


@pytest.mark.parametrize("change", _table(MODELS))
def test_a_damaged_model_loads_or_is_an_error(change, tiny_chat_model, queries, tmp_path):
    folder = Path(shutil.copytree(tiny_chat_model, tmp_path / "model"))
    change(folder)
    _try_all(folder, queries, tmp_path, _estimate, _dry_run, _sample)


@pytest.mark.parametrize("change", _table(ADAPTERS))
def test_a_damaged_adapter_loads_or_is_an_error(change, adapter, queries, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    change(folder)
    _try_all(folder, queries, tmp_path, _estimate, _dry_run, _sample)


@pytest.mark.slow
@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in MODELS])
def test_generate_with_a_damaged_model_ends_well_or_is_an_error(change, tiny_chat_model, queries, tmp_path):
    folder = Path(shutil.copytree(tiny_chat_model, tmp_path / "model"))
    change(folder)
    _try_all(folder, queries, tmp_path, _generate)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json: auto_map=true", "can't load .*: TypeError: argument of type 'bool' is not iterable"),
        (
            'config.json: sliding_window="x"',
            "sliding_window in the .* is 'x', which is not a valid value",
        ),
        ("config.json is larger than 10 MB", "config.json of the model has 11 MB; up to 10 MB are read"),
        ("config.json is a pipe", "config.json of the model is not a regular file"),
        ("tokenizer_config.json: chat_template=5", "the chat template can't be used: TypeError: it is not text"),
        ("template {{ 'a' * 10**10 }}", "the chat template is stopped"),
        ("template {{ 1 / 0 }}", "the chat template refuses .*: ZeroDivisionError: division by zero"),
        ("model.safetensors: NaN", "weights of .* are NaN or infinite: in model.layers.1.mlp.up_proj.weight"),
        ("model.safetensors: infinity", "weights of .* are NaN or infinite: in model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_what_the_errors_say(name, what, tiny_chat_model, queries, tmp_path):
    folder = Path(shutil.copytree(tiny_chat_model, tmp_path / "model"))
    dict(MODELS)[name](folder)
    with pytest.raises(ModelError, match=what) as caught:
        _sample(small_recipe(folder, queries), tmp_path)
    assert caught.value.where and caught.value.do
    assert caught.value.exit_code == 2
