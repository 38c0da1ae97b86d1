"""The loop: run directory, stages, rounds."""

from selfsteer.loop.run import generate, run
