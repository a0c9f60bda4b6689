"""Run one job for a test: a real Postgres, the real worker, the asset in a folder."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import anyio
import anyio.to_thread

from dreamcuts.admin import OVER, Admin
from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError, DatabaseError, DreamCutsError
from dreamcuts.jobs.base import JobType
from dreamcuts.jobs.registry import load_job_types, resolve_types, shape_problems
from dreamcuts.providers.base import Provider
from dreamcuts.providers.registry import provider_problems
from dreamcuts.testing.bounded import BoundedWorker
from dreamcuts.testing.database import scratch_database
from dreamcuts.testing.settings import IsolatedSettings

TIMEOUT_S = 60.0
JOB_ID = "job"

AnyJob = JobType | type[JobType] | str


class JobUnfinished(DreamCutsError):
    """The job of a test did not come to an end in time, or could not be interrupted as was asked."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """What became of a job. `status`, `error_class` and the like are those of its row.

    `file` is the job's asset on disk, if it made one. `failures` are the attempts that did not succeed,
    oldest first, and `calls` its calls to providers, each as `dreamcuts jobs show --json` prints it.
    """

    id: UUID
    type: str
    status: str
    result: dict[str, Any]
    output_url: str | None
    file: Path | None
    attempts: int
    error_class: str | None
    error_message: str | None
    failures: list[dict[str, Any]]
    calls: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be run, all defaults filled in."""

    job_type: JobType
    payload: dict[str, Any]
    settings: Settings
    providers: dict[str, type[Provider]]
    manifest: dict[str, Any] | None
    max_attempts: int
    interrupt: bool
    timeout_s: float
    dsn: str
    folder: Path

    def worker(self, *, claims: int, stop_when_submitted: bool = False) -> BoundedWorker:
        return BoundedWorker(
            self.job_type,
            self.settings,
            self.providers,
            claims=claims,
            timeout_s=self.timeout_s,
            stop_when_submitted=stop_when_submitted,
        )


async def run_job_async(
    job: AnyJob,
    payload: Mapping[str, Any] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    providers: Iterable[type[Provider]] = (),
    manifest: Mapping[str, Any] | None = None,
    max_attempts: int = 1,
    interrupt: bool = False,
    folder: Path | None = None,
    database: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> JobRun:
    """Enqueue one job, let the real worker carry it out, and return what became of it.

    `job` is a job type (an instance, or its class), or the name of an installed one. `settings` go by their
    environment names; `providers` are provider classes that are not installed. `manifest` is the
    `manifest_json` that the job belongs to. The worker makes at most `max_attempts` attempts, without pauses.
    `interrupt` stops the worker as soon as the job's first request is submitted to a queued provider, and
    lets another worker take over: what comes out must have been paid once.

    Assets go to `folder` (default: a temporary one, removed when the process ends). `database` is the URL of
    a migrated database to use in place of a scratch one; it must hold no open job.

    A job that fails is an ordinary JobRun. Raises ConfigError for a job type or provider of the wrong shape,
    JobUnfinished if there is no end after `timeout_s` seconds.
    """
    job_type = _job_type(job)
    classes = _by_name(providers)
    if folder is None:
        folder = _temporary_folder()
    keeper = scratch_database() if database is None else _given(database)
    async with _in_thread(keeper) as dsn:
        plan = _Plan(
            job_type=job_type,
            payload=dict(payload or {}),
            settings=_settings(dsn, folder, settings or {}),
            providers=classes,
            manifest=None if manifest is None else dict(manifest),
            max_attempts=max_attempts,
            interrupt=interrupt,
            timeout_s=timeout_s,
            dsn=dsn,
            folder=folder,
        )
        return await _carry_out(plan)


def run_job(job: AnyJob, payload: Mapping[str, Any] | None = None, **options: Any) -> JobRun:
    """As run_job_async, with the same options, for a test that is no coroutine."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise TypeError("run_job cannot be called inside an event loop: use `await run_job_async(...)`.")
    return anyio.run(functools.partial(run_job_async, job, payload, **options))


async def _carry_out(plan: _Plan) -> JobRun:
    job = await anyio.to_thread.run_sync(_enqueue, plan)
    if plan.interrupt:
        first = plan.worker(claims=1, stop_when_submitted=True)
        await first.run_to_end()
        if not first.interrupted:
            found = await anyio.to_thread.run_sync(_read, plan, job)
            raise JobUnfinished(
                "The job was to be interrupted after its first request, but submitted none to a queued "
                f"provider: {_told(found)}."
            )
    worker = plan.worker(claims=plan.max_attempts)
    await worker.run_to_end()
    found = await anyio.to_thread.run_sync(_read, plan, job)
    if worker.timed_out and found.status not in OVER:
        raise JobUnfinished(f"The job had not ended after {plan.timeout_s:g} s: {_told(found)}.")
    return found


def _job_type(job: AnyJob) -> JobType:
    if isinstance(job, str):
        (found,) = resolve_types([job], load_job_types())
        return found
    made = job() if isinstance(job, type) else job
    if problems := shape_problems(made):
        raise ConfigError(f"{type(made).__name__} is no job type: {'; '.join(problems)}.")
    return made


def _by_name(providers: Iterable[type[Provider]]) -> dict[str, type[Provider]]:
    classes: dict[str, type[Provider]] = {}
    for cls in providers:
        if problems := provider_problems(cls):
            raise ConfigError(f"{getattr(cls, '__name__', cls)} is no provider: {'; '.join(problems)}.")
        classes[cls.name] = cls
    return classes


def _settings(dsn: str, folder: Path, given: Mapping[str, Any]) -> Settings:
    usual = {
        "DATABASE_URL": dsn,
        "STORAGE_DIR": folder,
        "STORAGE_BASE_URL": folder.absolute().as_uri(),
        "ALLOW_PRIVATE_URLS": True,
        "POLL_INTERVAL_S": 0.2,
        "PROVIDER_POLL_S": 0.05,
        "RETRY_DELAY_MS": 0,
    }
    return IsolatedSettings.of(usual | {name.upper(): value for name, value in given.items()})


@contextmanager
def _given(dsn: str) -> Iterator[str]:
    """A database that the caller brought. Raises DatabaseError if it holds open jobs."""
    with Admin.connect(dsn) as admin:
        if found := admin.list_jobs(states=("pending", "processing"), limit=1):
            raise DatabaseError(
                f"The database holds an open job ({found[0]['job_id']}), which would be run too. "
                "Give an empty database, or none: run_job makes a scratch database."
            )
    yield dsn


@contextlib.asynccontextmanager
async def _in_thread(keeper: AbstractContextManager[str]) -> AsyncIterator[str]:
    """A blocking context manager, entered and left in a thread."""
    value = await anyio.to_thread.run_sync(keeper.__enter__)
    try:
        yield value
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(keeper.__exit__, None, None, None)


def _enqueue(plan: _Plan) -> UUID:
    name = plan.job_type.name
    with Admin.connect(plan.dsn) as admin:
        if plan.manifest is None:
            return admin.client.enqueue(name, plan.payload, job_id=JOB_ID, max_attempts=plan.max_attempts)
        job = {"job_id": JOB_ID, "type": name, "payload": plan.payload, "max_attempts": plan.max_attempts}
        manifest = admin.client.submit_manifest(plan.manifest, [job])
        return admin.find_job(f"{manifest}/{JOB_ID}")


def _read(plan: _Plan, job: UUID) -> JobRun:
    with Admin.connect(plan.dsn) as admin:
        row = admin.job(job)
    url = row["output_url"]
    return JobRun(
        id=job,
        type=row["type"],
        status=row["status"],
        result=row["result"] or {},
        output_url=url,
        file=_file_of(url, plan.folder),
        attempts=row["attempts"],
        error_class=row["error_class"],
        error_message=row["error_message"],
        failures=row["attempts_made"],
        calls=row["provider_calls"],
    )


def _file_of(url: str | None, folder: Path) -> Path | None:
    base = folder.absolute().as_uri() + "/"
    if url is None or not url.startswith(base):
        return None
    return folder / unquote(url.removeprefix(base))


def _told(found: JobRun) -> str:
    last = f"{found.error_class}: {found.error_message}" if found.error_class else "no attempt has failed"
    return f"it is {found.status} after {found.attempts} attempts; {last}"


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="run-", dir=_folder_of_process()))


@functools.cache
def _folder_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dreamcuts-assets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
