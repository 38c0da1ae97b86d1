"""Numbers as text on the page. A number that was not measured says so; it never turns into 0."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

NOT_MEASURED = "not measured"
NOT_RECORDED = "not recorded"
MINUS = "\N{MINUS SIGN}"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"

Form = Callable[[float], str]


def number(value: float, digits: int = 0) -> str:
    """Return ``value`` with ``digits`` decimals, thousands marked, a true minus sign and no "minus zero"."""
    text = f"{value:,.{digits}f}"
    return f"{MINUS}{text[1:]}" if text.startswith("-") and re.search("[1-9]", text) else text.lstrip("-")


def nats(value: float) -> str:
    """Return a log-prob or a margin in nats, or a chance, with three decimals."""
    return number(value, 3)


def percent(value: float) -> str:
    """Return a share as a percentage: 0.625 -> "62 %" (one decimal near the ends, where it matters)."""
    return f"{_hundredths(value)}{NARROW_SPACE}%"


def signed(text: str) -> str:
    """Return ``text`` with a plus sign unless it is negative or zero."""
    return text if text.startswith(MINUS) or not re.search("[1-9]", text) else f"+{text}"


def points(value: float) -> str:
    """Return a difference of two shares in percentage points."""
    return f"{_hundredths(value)}{NARROW_SPACE}points"


def _hundredths(value: float) -> str:
    near_an_end = 0 < abs(value) < 0.0995 or 0.99 < abs(value) < 1  # where 0 % and 100 % would mislead
    return number(100 * value, 1 if near_an_end else 0)


def interval(ends: Sequence[float | None], form: Form) -> str:
    """Return "low to high", with a percent sign once ("38 to 81 %"), or "" unless both ends were measured."""
    low_high = [form(end) for end in ends if end is not None]
    return " to ".join(low_high).replace(f"{NARROW_SPACE}% to", " to") if len(low_high) == 2 else ""


def with_interval(value: float | None, ends: Sequence[float | None], form: Form) -> str:
    """Return "0.72 (0.50 to 0.87)", the number alone where an end is unknown, or "" where it was not measured."""
    text = interval(ends, form)
    return "" if value is None else form(value) + (f" ({text})" if text else "")


def maybe(value: float | None, form: Form) -> str:
    """Return the number in its form, or "not measured"."""
    return NOT_MEASURED if value is None else form(value)


def duration(seconds: float) -> str:
    """Return 3725.4 -> "1 h 2 min", 210 -> "3 min 30 s", 4.21 -> "4.2 s" (its spaces don't break)."""
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 59.95:
        text = f"{number(seconds, 1)} s"
    elif minutes < 60:
        text = f"{minutes} min {rest} s"
    else:
        text = f"{number(minutes // 60)} h {minutes % 60} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def rate(value: float) -> str:
    """Return a learning rate: 1e-05 -> "1e-5", 0.002 -> "0.002"."""
    return re.sub(r"e([+-])0*", r"e\1", f"{value:g}").replace("e+", "e")


def plain(value: float) -> str:
    """Return any other number with four significant digits, a whole one without decimals."""
    return number(value) if float(value).is_integer() else f"{value:.4g}".replace("-", MINUS)


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals, "<0.001" or "-"."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float | None, one: str, many: str = "") -> str:
    """Return "1 query", "3 queries", or "an unknown number of queries"."""
    many = many or f"{one}s"
    return f"an unknown number of {many}" if value is None else f"{number(value)} {one if value == 1 else many}"


def label(value: Any, limit: int = 60) -> str:
    """Return a name on one line, cut to ``limit`` characters; "not recorded" where there is none."""
    text = " ".join(str(value).split()) if value is not None else ""
    return (text if len(text) <= limit else f"{text[: limit - 1]}…") or NOT_RECORDED


def moment(value: Any) -> str:
    """Return an ISO time as "2026-11-22, 10:00 UTC"; unchanged where it can't be parsed."""
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        return label(value)
    return f"{when:%Y-%m-%d, %H:%M} {when.tzname() or ''}".rstrip()
