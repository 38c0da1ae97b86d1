"""The loop: run directory, stages, rounds."""

# ruff: noqa: F401 - the names that other packages import from here

from selfsteer.loop.run import generate, run
