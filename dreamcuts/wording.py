"""Words for people that several places share: amounts of money, and what pydantic complains about."""

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


def reason(issue: Mapping[str, Any]) -> str:
    """What one of pydantic's issues says, without its prefix for errors of our own and a full stop."""
    text = str(issue["msg"])
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text.rstrip(".")
