"""Making any text safe to show, on a page or in a terminal."""

from __future__ import annotations

# Control characters become visible pictures; what HTML or UTF-8 can't carry becomes U+FFFD.
_VISIBLE: dict[int, int] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF], 0xFFFD),
}


def escape_controls(text: str) -> str:
    """Return ``text`` with its control characters visible, so that none acts on a terminal; line ends become \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_VISIBLE)
