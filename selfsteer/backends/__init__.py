"""How text is generated. Importing this needs no torch; the transformers backend is imported where it is used."""

from selfsteer.backends.base import (
    Backend,
    Completion,
    Failure,
    Outcome,
    Prompt,
    Sampling,
    cut_at_stop,
    may_think,
    shared_prefix,
    stop_place,
)
from selfsteer.backends.registry import BACKENDS, BackendKind
