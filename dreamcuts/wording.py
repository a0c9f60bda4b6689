"""Words for people that several places share: money, durations, and what pydantic complains about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIXES = ("Value error, ", "Assertion failed, ")


def dollars(amount: Any, digits: int = 6) -> str:
    """An amount of US dollars: two decimals where they say it all, else four, else up to `digits`.

    Two amounts that differ by a hundredth of a cent read differently: a limit and what is over it.
    """
    shown = next((n for n in (2, 4) if round(amount, n) == round(amount, digits)), digits)
    return f"${amount:.{shown}f}"


def duration(milliseconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min` or `3 d 4 h`."""
    seconds = float(milliseconds) / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def many(number: int, what: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def reason(issue: Mapping[str, Any]) -> str:
    """What one of pydantic's issues says, without its prefix for errors of our own and a full stop."""
    text = str(issue["msg"])
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text.rstrip(".")
