"""What a check found, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not for long, or not as it should."""
    FAILURE = "failure"
    """Jobs cannot be carried out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `dreamcuts doctor`. `way_out` says what to do about a warning or a failure."""

    check: str
    level: Level
    text: str
    way_out: str = ""


def fine(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, way_out: str) -> Finding:
    """Something to look after."""
    return Finding(check, Level.WARNING, text, way_out)


def failure(check: str, text: str, way_out: str) -> Finding:
    """Something that stops the work."""
    return Finding(check, Level.FAILURE, text, way_out)
