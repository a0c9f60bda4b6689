"""What a signed-in person may change: the functions that anybody may ask of the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sized
from typing import Any
from uuid import UUID

import psycopg
from starlette.exceptions import HTTPException

from dreamcuts.errors import DatabaseError
from dreamcuts.server.data import Reader

BY = "the dashboard"
LONGEST_NAME = 100
AT_ONCE = 500
"""Jobs that one transaction changes: it locks their manifest, and outcomes of its jobs wait for it."""


async def act(reader: Reader, what: str, target: str) -> str:
    """Do it, and say what was done. Raises HTTPException for what cannot be done."""
    actions = {
        "retry-job": _retry_job,
        "cancel-job": _cancel_job,
        "retry-manifest": _retry_manifest,
        "cancel-manifest": _cancel_manifest,
        "pause": _pause,
        "resume": _resume,
    }
    if what not in actions:
        raise HTTPException(400, f"{what[:40]!r} is none of {', '.join(actions)}.")
    try:
        return await actions[what](reader, target)
    except psycopg.Error as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise HTTPException(409, f"The database refused: {text}") from None


async def _retry_job(reader: Reader, target: str) -> str:
    changed = await _changed(reader, "retry_jobs", jobs=[_uuid(target)])
    return f"{_jobs(changed)} pending again." if changed else "Nothing changed: the job runs, or is done."


async def _cancel_job(reader: Reader, target: str) -> str:
    changed = await _changed(reader, "cancel_jobs", jobs=[_uuid(target)], reason=f"cancelled in {BY}")
    return f"{_jobs(changed)} cancelled." if changed else "Nothing changed: the job has ended."


async def _retry_manifest(reader: Reader, target: str) -> str:
    manifest = _uuid(target)
    jobs = await _of_manifest(reader, manifest, "failed", "cancelled")
    changed: set[UUID] = set()
    for batch in _batches(jobs):
        # Dependents that come with their cause are among what it returns.
        changed |= await _said_how_far(_changed(reader, "retry_jobs", jobs=batch), len(changed), len(jobs))
    return f"{_jobs(changed)} pending again." if changed else "Nothing changed: no job has failed."


async def _cancel_manifest(reader: Reader, target: str) -> str:
    manifest = _uuid(target)
    jobs = await _of_manifest(reader, manifest, "pending", "processing")
    reason = f"cancelled in {BY}"
    tried = 0
    for batch in _batches(jobs):
        await _said_how_far(_changed(reader, "cancel_jobs", jobs=batch, reason=reason), tried, len(jobs))
        tried += len(batch)
    # Asked of the queue: a job may have ended meanwhile, or have been cancelled with its cause.
    changed = set(jobs) & set(await _of_manifest(reader, manifest, "cancelled")) if jobs else set()
    return f"{_jobs(changed)} cancelled." if changed else "Nothing changed: every job has ended."


async def _pause(reader: Reader, target: str) -> str:
    name = _name(target)
    await reader.many("pause_provider", provider=name, until=None, reason=f"paused in {BY}", by=BY)
    return f"{name} is paused until somebody resumes it."


async def _resume(reader: Reader, target: str) -> str:
    name = _name(target)
    await reader.many("resume_provider", provider=name)
    return f"{name} is resumed."


async def _of_manifest(reader: Reader, manifest: UUID, *statuses: str) -> list[UUID]:
    rows = await reader.many("board_jobs_in_status", manifest=manifest, statuses=list(statuses))
    return [row["id"] for row in rows]


async def _changed(reader: Reader, name: str, **values: Any) -> set[UUID]:
    """The jobs that a function of the queue changed: it returns their ids."""
    row = await reader.one(name, **values)
    return set(next(iter(row.values())) or ()) if row else set()


async def _said_how_far(step: Awaitable[set[UUID]], done: int, of: int) -> set[UUID]:
    """One of several steps. Raises DatabaseError that tells how far the ones before came."""
    try:
        return await step
    except DatabaseError as error:
        raise DatabaseError(f"{error} Until then {done:,} of {of:,} jobs were done. Try again.") from None


def _batches(jobs: list[UUID]) -> Iterator[list[UUID]]:
    for start in range(0, len(jobs), AT_ONCE):
        yield jobs[start : start + AT_ONCE]


def _jobs(changed: Sized) -> str:
    return "1 job is" if len(changed) == 1 else f"{len(changed):,} jobs are"


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(400, f"{text[:80]!r} is no id: it must be a uuid.") from None


def _name(text: str) -> str:
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise HTTPException(400, "The provider's name is missing or not valid.")
    return text
