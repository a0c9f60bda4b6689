"""Times as people write them on the command line: `7d` ago, or a date. Types for click options."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def span(text: str) -> timedelta:
    """A length of time: 90s, 30m, 12h, 7d, 2w. Raises BadParameter."""
    match = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is no length of time. Write e.g. 30m, 12h, 7d or 2w.")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def since(text: str) -> datetime:
    """A moment in the past: so long ago (7d), or a date (2026-11-01, in UTC). Raises BadParameter."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return datetime.now(UTC) - span(text)
        except (click.BadParameter, OverflowError):
            raise click.BadParameter(f"{text!r} is no time. Write e.g. 12h, 7d or 2026-11-01.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
