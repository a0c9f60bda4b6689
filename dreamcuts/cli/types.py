"""Job types as people name them, and the slots of a worker."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.jobs.base import JobType
from dreamcuts.jobs.registry import load_job_types, resolve_types

if TYPE_CHECKING:  # `work` needs none of it
    from dreamcuts.admin import Admin


def full_type_name(name: str) -> str:
    """`tts` as `tts_elevenlabs`. An unknown name is kept: a plugin elsewhere may serve it."""
    by_short = {job_type.short_name: job_type.name for job_type in load_job_types().values()}
    return by_short.get(name, name)


def short_type_name(name: str) -> str:
    """`tts_elevenlabs` as `tts`; the name itself for a type that is not installed here."""
    job_type = load_job_types().get(name)
    return name if job_type is None else job_type.short_name


def check_type(admin: Admin, given: str) -> None:
    """Raises UsageError for a type that is neither installed here nor known to the database.

    It is far more often misspelt than missing everywhere.
    """
    full = full_type_name(given)
    if full in load_job_types():
        return
    known = {*load_job_types(), *admin.known_types()}
    if full in known:
        return
    close = difflib.get_close_matches(given, sorted({short_type_name(name) for name in known}), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    names = ", ".join(sorted(short_type_name(name) for name in known))
    raise click.UsageError(
        f"No worker serves a type {given!r}, and none is installed here.{hint} Known: {names}."
    )


def chosen_slots(
    types: str | None, concurrency: int | None, settings: Settings, known: Mapping[str, JobType]
) -> dict[str, int]:
    """Jobs at a time by full type name, for `--types tts:5,video` and `--concurrency 3`.

    For each type the first of these that is given counts: its own number in `types`, `concurrency`,
    `TTS_MAX_CONCURRENT_JOBS`, `MAX_CONCURRENT_JOBS`, the type's default. Without `types` all types are
    chosen. Raises ConfigError for an unknown type or a number below 1.
    """
    numbers: dict[str, int | None] = {}
    for word in (types or ",".join(known)).split(","):
        name, colon, number = word.strip().partition(":")
        if not name:
            continue
        numbers[name] = _number(name, number) if colon else None
    if not numbers:
        raise ConfigError("--types names no job type. Leave it out to serve them all.")
    slots: dict[str, int] = {}
    for name, own in numbers.items():
        (job_type,) = resolve_types([name], known)
        if own is None:
            own = concurrency or settings.for_type(job_type.short_name, "MAX_CONCURRENT_JOBS")
        settings.for_type(job_type.short_name, "RETRY_DELAY_MS")  # a wrong one is told now, not at a failure
        slots[job_type.name] = own or job_type.default_slots
    return slots


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--types: {name}:{text}: the number of jobs at a time must be 1 or more.")
    return int(text)
