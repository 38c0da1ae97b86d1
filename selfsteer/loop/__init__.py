"""The loop: run directory, stages, rounds."""

from selfsteer.loop.run import run

__all__ = ["run"]
