"""How long each stage of a run is expected to take, so that the display can tell how long is left."""

from __future__ import annotations

from collections.abc import Iterator

from selfsteer.config import Recipe
from selfsteer.runs.progress import PlannedStage
from selfsteer.stages.queries import of_round

# Expected seconds for one unit of each kind of stage with the embedded model on two cores; only their ratios matter.
_CHOOSE, _WRITE, _SAMPLE, _SCORE, _TRAIN, _IMPLICIT, _KEPT = 0.3, 1.5, 1.3, 1.5, 3.5, 0.4, 0.6
_SCRIPTED = 3e-4
"""What the scripted backend takes of that."""


def planned(recipe: Recipe, train: int, held: int, *, trains: bool) -> list[PlannedStage]:
    """Return the stages behind the first in their order, with their expected cost.

    Args:
        recipe: The run's.
        train, held: Training queries, and held-out ones that are measured on.
        trains: Whether a policy is trained; else the first round's data are all there is.

    Raises:
        DataError: There are too few queries for the rounds.
    """
    factor = _SCRIPTED if recipe.generation.backend == "scripted" and not recipe.trains else 1.0
    return [PlannedStage("", factor * cost) for cost in _costs(recipe, train, held, trains)]


def _costs(recipe: Recipe, train: int, held: int, trains: bool) -> Iterator[float]:
    if held:
        yield _principles(recipe) * held
        yield from _measuring(recipe, held)
    for number in range(1, recipe.rounds + 1 if trains else 2):
        asked = train if recipe.preferences.source else len(of_round(recipe.queries, train, number, recipe.rounds))
        yield from _data(recipe, asked)
        if trains:
            yield from _training(recipe, number, asked)
            yield from [*_measuring(recipe, held), _IMPLICIT * held] if held else []


def _principles(recipe: Recipe) -> float:
    return _CHOOSE if recipe.principles.strategy == "fixed" else _WRITE


def _data(recipe: Recipe, asked: int) -> Iterator[float]:
    sampled = _SAMPLE * recipe.generation.max_new_tokens / 160
    if recipe.preferences.source:
        yield from (1.0, _SCORE * asked / 3, 1.0)
        return
    yield _principles(recipe) * asked
    if recipe.mode == "generator":
        count = min(asked, recipe.generator.queries)
        yield from (3 * sampled * count, _SCORE * count, 1.0, _TRAIN * _KEPT * count * recipe.generator.epochs)
    yield from ((2 if recipe.mode == "generator" else 3) * sampled * asked, _SCORE * asked, 1.0)


def _training(recipe: Recipe, number: int, asked: int) -> Iterator[float]:
    settings, older = recipe.train, number - 1
    if settings.older_rounds != "all":
        older = min(older, settings.older_rounds)
    if settings.reference == "ema" and number > 1:
        yield 2.0
    if older or (settings.reference != "round-start" and number > 1):
        yield _SCORE * _KEPT * (older + 1) * asked
    yield _TRAIN * _KEPT * (older + 1) * asked * settings.epochs


def _measuring(recipe: Recipe, held: int) -> Iterator[float]:
    if held:
        yield 3 * _SAMPLE * recipe.generation.max_new_tokens / 160 * held
        yield _SCORE * held
