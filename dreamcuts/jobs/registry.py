"""Which job types there are, by full name and by short name."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, cast

from dreamcuts.errors import ConfigError
from dreamcuts.jobs.base import JobType, Payload
from dreamcuts.providers.registry import built_in_first, load_group

GROUP = "dreamcuts.jobs"

_NEEDED = (
    "name",
    "short_name",
    "payload_model",
    "default_slots",
    "retry_delay",
    "time_limit",
    "providers",
    "features",
    "run",
)


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
    taken: dict[str, str] = {}

    def make(point: EntryPoint) -> JobType:
        made = _make(point)
        for name in (made.name, made.short_name):
            if name in taken:
                raise ValueError(f"the name {name!r} belongs to the job type {taken[name]}, found first")
        taken.update(dict.fromkeys((made.name, made.short_name), made.name))
        return made

    for job_type in load_group(points, make=make).plugins.values():
        types[job_type.name] = job_type
    return types


def shape_problems(candidate: Any) -> list[str]:
    """What keeps an object from being a job type, in words; empty if it is one."""
    if missing := [name for name in _NEEDED if not hasattr(candidate, name)]:
        return [f"it has no {', '.join(missing)}"]
    wrong: list[str] = []

    def expect(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            wrong.append(f"{name} must be {wanted}, not {getattr(candidate, name)!r}")

    expect(_is_name(candidate.name), "name", "words of a-z, 0-9 and _")
    expect(_is_name(candidate.short_name), "short_name", "words of a-z, 0-9 and _")
    model = candidate.payload_model
    expect(inspect.isclass(model) and issubclass(model, Payload), "payload_model", "a subclass of Payload")
    slots = candidate.default_slots
    expect(isinstance(slots, int) and slots >= 1, "default_slots", "a whole number from 1")
    for name, least in (("retry_delay", timedelta(0)), ("time_limit", timedelta(milliseconds=1))):
        value = getattr(candidate, name)
        expect(
            isinstance(value, timedelta) and value >= least,
            name,
            "a timedelta, and not negative" if not least else "a timedelta above zero",
        )
    for name in ("providers", "features"):
        value = getattr(candidate, name)
        expect(
            isinstance(value, tuple) and all(isinstance(word, str) for word in value), name, "a tuple of str"
        )
    expect(inspect.iscoroutinefunction(candidate.run), "run", "an async method")
    return wrong


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]*", value) is not None


def _make(point: EntryPoint) -> JobType:
    made = point.load()()
    if problems := shape_problems(made):
        raise TypeError(f"{point.value} is no job type: {'; '.join(problems)}")
    return cast(JobType, made)
