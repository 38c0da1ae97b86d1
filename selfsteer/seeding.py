"""Seeds and random draws that every process repeats."""

from __future__ import annotations

import hashlib


def batch_seed(seed: int, *parts: object) -> int:
    """Return the seed of one batch: it depends on the run's seed and the batch's place, not on what ran before."""
    return int(draw(seed, *parts)[:15], 16) % 2**31


def draw(*parts: object) -> str:
    """Return 64 hex digits that depend on the parts alone: a seed, and what else tells one draw from another."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
