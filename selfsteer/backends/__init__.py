"""How text is generated. Importing this needs no torch; the transformers backend is imported where it is used."""

from selfsteer.backends.base import (
    Backend,
    Completion,
    Failure,
    Outcome,
    Prompt,
    Sampling,
    completed,
    may_think,
    shared_prefix,
)

__all__ = [
    "Backend",
    "Completion",
    "Failure",
    "Outcome",
    "Prompt",
    "Sampling",
    "completed",
    "may_think",
    "shared_prefix",
]
