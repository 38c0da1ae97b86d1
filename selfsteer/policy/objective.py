"""The objective of a training: one of the pure losses with its settings, and the views that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from selfsteer.config import DISTILLATION
from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.logprobs import PairLogps
from selfsteer.losses import SSOLoss, base_view_loss, generator_loss, sso_loss, supervised_loss
from selfsteer.losses.base import reads
from selfsteer.losses.generator import generator_views
from selfsteer.views import SSO_VIEWS, View

OBJECTIVES: dict[str, Callable[..., SSOLoss]] = {
    "sso": sso_loss,
    "base": base_view_loss,
    "generator": generator_loss,
    "sft": supervised_loss,
}
"""Objectives by name; a loss's keyword-only parameters are the settings that act in it."""

_WHERE = "the settings of the loss (sections train and generator of a recipe)"


@dataclass(frozen=True)
class Objective:
    """A loss ready to be called; ``views`` are those that it reads, ``compares`` is whether it reads the reference.

    There is no ``loss`` where a trainer of its own has it: ``views`` then stand for its costs.
    """

    views: tuple[View, ...]
    loss: Callable[..., SSOLoss] | None
    compares: bool


def objective_of(settings: Any) -> Objective:
    """Return the objective that an SSOConfig, or a section of a recipe, describes.

    Raises :class:`ConfigError` for an unknown one, settings that its loss refuses, or one that does not act in it.
    """
    name = settings.objective
    if name not in (*OBJECTIVES, DISTILLATION):
        known = [*OBJECTIVES, DISTILLATION]
        raise ConfigError(f"unknown objective {name!r}", where=_WHERE, do=did_you_mean(str(name), known))
    _check_idle(settings)
    if name == DISTILLATION:
        return Objective((View.BASE,), None, compares=False)  # student and teacher: two sequences, as in that view
    loss = partial(OBJECTIVES[name], **{key: _value(settings, key) for key in _keywords(OBJECTIVES[name])})
    try:
        if name == "generator":
            views = tuple(generator_views(_value(settings, "negative"), _value(settings, "terms")))
        else:
            views = SSO_VIEWS if name == "sso" and settings.use_steering else (View.BASE,)
        pairs = dict.fromkeys(views, _PAIR)
        loss(pairs, pairs)
        compares = name != "sft" and reads(settings.base_loss, "reference")
    except ValueError as error:
        raise ConfigError(str(error), where=_WHERE) from error
    return Objective(views, loss, compares)


_PAIR = PairLogps(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([1]), torch.tensor([1]))
"""Made-up log-probs: a loss refuses wrong settings here, before the first batch."""


def loss_fields(settings: Any) -> dict[str, Any]:
    """Return the objective and the settings of the losses that a section of a recipe has, as SSOConfig names them."""
    names = ["objective", *map(_field, _DEFAULTS)]
    return {name: getattr(settings, name) for name in names if hasattr(settings, name)}


def _check_idle(settings: Any) -> None:
    """Raise where a setting of another objective's loss is not at its default: it would not act.

    A keyword of a loss acts in it, any other one has to be at its default: so a new loss brings its own check.
    """
    acting = _keywords(OBJECTIVES[settings.objective]) if settings.objective in OBJECTIVES else {}
    for key, default in _DEFAULTS.items():
        if key not in acting and _value(settings, key) != default:
            users = [name for name, loss in OBJECTIVES.items() if key in _keywords(loss)]
            raise ConfigError(
                f"{_field(key)}={_value(settings, key)!r} has no effect with objective {settings.objective!r}: it acts "
                f"in {', '.join(users)} only",
                where=_WHERE,
                do="leave it out, or choose another objective",
            )
    for key, switches in _SWITCHED.items():
        off = [switch for switch in switches if key in acting and not _value(settings, switch)]
        if off and _value(settings, key) != _DEFAULTS[key]:
            do = f"leave {key} out, or set {off[0]}"
            raise ConfigError(f"{key}={_value(settings, key)!r} has no effect with {off[0]}=False", where=_WHERE, do=do)


_SWITCHED = {
    "onpolicy_alpha": ["use_weight"],
    "steering_coef": ["use_steering"],
    "weight_scope": ["use_weight", "use_steering"],
}
"""Settings that act only where all of these are on. (The loss itself says so of ``detach_weight``.)"""


def _keywords(loss: Callable[..., SSOLoss]) -> dict[str, Any]:
    """Return a loss's keyword-only parameters with their defaults."""
    parameters = inspect.signature(loss).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _field(key: str) -> str:
    return "base_loss" if key == "base" else key


def _value(settings: Any, key: str) -> Any:
    """Return a setting, its default where the section has no such key."""
    value = getattr(settings, _field(key), _DEFAULTS[key])
    return tuple(value) if key == "terms" else value


_DEFAULTS = _keywords(generator_loss) | _keywords(sso_loss)
