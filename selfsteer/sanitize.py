"""Making any text safe to show, on a page or in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

# Control characters become visible pictures; what HTML or UTF-8 can't carry becomes U+FFFD.
_VISIBLE: dict[int, int] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF], 0xFFFD),
}


_SECRET = re.compile(r"(^|[._])(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"(bos|eos|pad|unk|sep|cls|mask)_token$")


def names_secret(key: str) -> bool:
    """Return whether the value of a key, which may be dotted, should not be shown, by its name: ``hf_token``."""
    return _SECRET.search(key) is not None and _SPECIAL_TOKEN.search(key) is None


def escape_controls(text: str) -> str:
    """Return ``text`` with its control characters visible, so that none acts on a terminal; line ends become \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_VISIBLE)


# Direction overrides and isolates let a text show other words than it has, also of the line it stands in.
_TERMINAL = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


class SafeConsole(Console):
    """A console that prints text of models, servers and files as it is: no markup, no emoji, no control characters.

    Every console of this package is one, so no text has to be escaped where it is printed. Styles are given by
    :class:`rich.text.Text` and ``style=``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        """Yield segments whose text is escaped; rich's own control codes are segments without text."""
        for segment in super().render(*args, **options):
            shown = segment.text if segment.control else escape_controls(segment.text).translate(_TERMINAL)
            yield segment._replace(text=shown)
