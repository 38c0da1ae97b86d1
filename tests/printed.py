"""Call a command as the command line does, with its options as an object, and keep what it prints."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest

from selfsteer.commands import console


def printed(command, arguments, width: int = 500) -> tuple[Any, str, str]:
    """Return a command's result, its output and its messages; lines longer than ``width`` are broken in tables."""
    files = {console.out: StringIO(), console.errors: StringIO()}
    with pytest.MonkeyPatch.context() as patch:
        for own, file in files.items():
            patch.setattr(own, "_file", file)
            patch.setattr(own, "_width", width)
        result = command(arguments)
    return result, *(file.getvalue() for file in files.values())
