"""What a signed-in person may change: the functions that anybody may ask of the queue."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from starlette.exceptions import HTTPException

from dreamcuts.server.data import Reader, Row

BY = "the dashboard"
LONGEST_NAME = 100


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
    jobs = await _of_manifest(reader, target, ("failed", "cancelled"))
    changed = await _changed(reader, "retry_jobs", jobs=jobs)
    return f"{_jobs(changed)} pending again." if changed else "Nothing changed: no job has failed."


async def _cancel_manifest(reader: Reader, target: str) -> str:
    jobs = await _of_manifest(reader, target, ("pending", "processing"))
    changed = await _changed(reader, "cancel_jobs", jobs=jobs, reason=f"cancelled in {BY}")
    return "The manifest is cancelled." if changed else "Nothing changed: every job has ended."


async def _pause(reader: Reader, target: str) -> str:
    name = _name(target)
    await reader.many("pause_provider", provider=name, until=None, reason=f"paused in {BY}", by=BY)
    return f"{name} is paused until somebody resumes it."


async def _resume(reader: Reader, target: str) -> str:
    name = _name(target)
    await reader.many("resume_provider", provider=name)
    return f"{name} is resumed."


async def _of_manifest(reader: Reader, target: str, statuses: tuple[str, ...]) -> list[UUID]:
    rows: list[Row] = await reader.many("board_manifest_jobs", manifest=_uuid(target))
    return [row["id"] for row in rows if row["status"] in statuses]


async def _changed(reader: Reader, name: str, **values: Any) -> int:
    """The number of jobs that a function of the queue changed: it returns their ids."""
    row = await reader.one(name, **values)
    return len(next(iter(row.values())) or []) if row else 0


def _jobs(number: int) -> str:
    return "1 job is" if number == 1 else f"{number} jobs are"


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(400, f"{text[:80]!r} is no id: it must be a uuid.") from None


def _name(text: str) -> str:
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise HTTPException(400, "The provider's name is missing or not valid.")
    return text
