"""Align a chat model with no human labels, by Self-Steering Optimization (arXiv 2410.17131)."""

from typing import TYPE_CHECKING, Any

from selfsteer.version import __version__

if TYPE_CHECKING:
    from selfsteer.api import RunResult, run

__all__ = ["RunResult", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """Import what runs recipes when it is first asked for: ``import selfsteer`` stays light."""
    if name in ("run", "RunResult"):
        from selfsteer import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
