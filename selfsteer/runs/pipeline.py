"""The stages of a run."""

from __future__ import annotations

_TRAINING = (
    "queries preferences principles generator-responses generator-scores generator-rewards generator-contrasts "
    "generator responses scores rewards contrasts reference policy"
).split()
_STORY = (
    *((name, False) for name in _TRAINING),
    *((name, True) for name in ("principles", "responses", "scores", "implicit", "judgements")),
    ("average", False),
)
"""The stages of a round in their order, with whether they are held-out; the start's held-out ones are of round 0."""


STAGE_VERSIONS = {
    "queries": 4,
    "sample": 3,
    "proposals": 2,
    "probe": 2,
    "principles": 5,
    "responses": 5,
    "scores": 6,
    "rewards": 1,
    "contrasts": 5,
    "preferences": 3,
    "generator": 2,
    "average": 1,
    "reference": 2,
    "policy": 3,
    "implicit": 3,
    "judgements": 2,
    "guards": 1,
    "reward-data": 2,
    "reward": 2,
    "reward-scores": 2,
}
"""Raise a stage's number when its code would write something else from the same inputs: old results are then redone."""
