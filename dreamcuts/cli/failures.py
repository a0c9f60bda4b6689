"""From an exception to one line for a person, and an exit code."""

from __future__ import annotations

import sys

from dreamcuts.errors import ConfigError, DreamCutsError

FAILED = 1
USAGE = 2


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print and the exit code. A library that is not loaded raised nothing: none is imported."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, ConfigError):
        return str(error), USAGE
    if isinstance(error, DreamCutsError):
        return str(error), FAILED
    psycopg, asyncpg = sys.modules.get("psycopg"), sys.modules.get("asyncpg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        hint = error.diag.message_hint
        return f"Postgres: {_first_line(error)}{f' {hint}' if hint else ''}", FAILED
    if asyncpg is not None and isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
        return f"Postgres: {_first_line(error)}", FAILED
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", FAILED
    return f"{type(error).__name__}: {_first_line(error)} (`dreamcuts --debug ...` shows where)", FAILED


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
