"""What is counted before it is planned or computed: more is refused with a message."""

LARGEST = 10**12
"""Of any count in a recipe or on the command line; a larger one overflows where it is computed with."""

MAX_ROUNDS = 1000
"""Rounds of a run: each is planned, stage by stage, before the first begins."""

MAX_VARIANTS = 1000
"""Runs of a sweep, or trainings of `selfsteer reward`: all are planned before the first begins."""
