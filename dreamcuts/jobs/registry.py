"""Which job types there are, by full name and by short name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from typing import cast

from dreamcuts.errors import ConfigError
from dreamcuts.jobs.base import JobType
from dreamcuts.providers.registry import built_in_first, load_group

GROUP = "dreamcuts.jobs"

_NEEDED = ("name", "short_name", "payload_model", "default_slots", "retry_delay", "time_limit", "run")


def load_job_types(points: Iterable[EntryPoint] | None = None) -> dict[str, JobType]:
    """All job types by their full name (`tts_elevenlabs`), from the entry points `dreamcuts.jobs`.

    A plugin that cannot be loaded is named in a warning and left out. `points` replaces the installed entry
    points. Loading the installed ones happens once a process.
    """
    if points is not None:
        return _by_name(points)
    return dict(_installed())


def resolve_types(names: Iterable[str], types: Mapping[str, JobType]) -> list[JobType]:
    """The job types of `--types`: full or short names, each once, in the given order.

    Raises ConfigError that names an unknown one and lists what exists.
    """
    by_short = {job_type.short_name: job_type for job_type in types.values()}
    found: dict[str, JobType] = {}
    for name in names:
        job_type = types.get(name) or by_short.get(name)
        if job_type is None:
            known = sorted({*by_short, *types})
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"Job type {name!r} does not exist.{hint} Known: {', '.join(sorted(by_short))}."
            )
        found.setdefault(job_type.name, job_type)
    return list(found.values())


@cache
def _installed() -> Mapping[str, JobType]:
    return _by_name(built_in_first(GROUP))


def _by_name(points: Iterable[EntryPoint]) -> dict[str, JobType]:
    types: dict[str, JobType] = {}
    for job_type in load_group(points, make=_make).plugins.values():
        types.setdefault(job_type.name, job_type)
    return types


def _make(point: EntryPoint) -> JobType:
    made = point.load()()
    missing = [name for name in _NEEDED if not hasattr(made, name)]
    if missing:
        raise TypeError(f"{point.value} is no job type: it has no {', '.join(missing)}")
    return cast(JobType, made)
