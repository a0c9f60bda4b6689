"""Puts the parts together: settings, job types, worker, health server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import anyio.to_thread

from dreamcuts.config import Settings
from dreamcuts.db.migrate import status
from dreamcuts.errors import ConfigError
from dreamcuts.jobs.base import JobType
from dreamcuts.jobs.registry import load_job_types, resolve_types
from dreamcuts.providers.registry import load_providers
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker, WorkerOptions


def choose_slots(
    settings: Settings, types: str | None = None, concurrency: int | None = None
) -> dict[str, int]:
    """Slots by full type name, from `--types` ("tts,music" or "tts:5,video:1") and `--concurrency`.

    Without types all known ones. A number beside a type wins over `concurrency`, that over the settings
    (`TTS_MAX_CONCURRENT_JOBS`, `MAX_CONCURRENT_JOBS`), those over the type's default. Raises ConfigError.
    """
    known = load_job_types()
    numbers: dict[str, int] = {}
    names = []
    for entry in (types or ",".join(known)).split(","):
        name, _, number = entry.strip().partition(":")
        if not name:
            raise ConfigError(f"--types has an empty entry: {types!r}. Write it like tts,music or tts:5.")
        names.append(name)
        if number:
            numbers[name] = _slots(f"--types {entry.strip()}", number)
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"--concurrency must be at least 1, not {concurrency}.")
    slots = {}
    for name in names:
        (job_type,) = resolve_types([name], known)
        slots[job_type.name] = (
            numbers.get(name)
            or concurrency
            or settings.for_type(job_type.short_name, "MAX_CONCURRENT_JOBS")
            or job_type.default_slots
        )
    return slots


def require_settings(settings: Settings, job_types: Iterable[JobType]) -> None:
    """Check that everything these types need is set. Raises ConfigError that lists all that is missing."""
    needs = []
    for job_type in job_types:
        for name in job_type.providers[:1]:
            provider = load_providers().get(name)
            if provider is not None:
                needs += [(setting, f"{job_type.short_name} jobs") for setting in provider.settings_needed]
    if settings.storage_dir is None:
        needs += [
            (name, "storing assets (or set STORAGE_DIR)")
            for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
        ]
    settings.require([("DATABASE_URL", "the queue"), *needs])


async def run_worker(
    settings: Settings,
    slots: Mapping[str, int],
    *,
    until_idle: bool = False,
    shutdown_timeout: float = 30.0,
    pooled: bool = False,
    handle_signals: bool = True,
) -> Mapping[str, int]:
    """Run a worker until it is told to stop, or is idle; returns its outcomes by what became of the jobs.

    Raises ConfigError for missing settings and DatabaseError for a database that cannot be used.
    """
    job_types = load_job_types()
    require_settings(settings, [job_types[name] for name in slots])
    dsn = settings.secret("DATABASE_URL")
    (await anyio.to_thread.run_sync(status, dsn)).check()
    options = WorkerOptions(
        slots=slots,
        poll_interval=settings.poll_interval_s,
        heartbeat=settings.heartbeat_s,
        lease=settings.lease_s,
        shutdown_timeout=shutdown_timeout,
        until_idle=until_idle,
        claim=settings.enable_workers,
        pooled=pooled,
    )
    worker = Worker(dsn, job_types, options, tools_from(settings))
    async with contextlib.AsyncExitStack() as stack:
        if settings.enable_health_check:
            from dreamcuts.server.app import make_app  # only when asked for: it brings a web server
            from dreamcuts.server.serve import health_server

            app = make_app(worker, settings.storage_dir)
            await stack.enter_async_context(health_server(app, "0.0.0.0", settings.health_check_port))  # noqa: S104
        await worker.run(handle_signals=handle_signals)
    return worker.counts


def _slots(what: str, number: str) -> int:
    try:
        slots = int(number)
    except ValueError:
        slots = 0
    if slots < 1:
        raise ConfigError(f"{what}: the number of slots must be a whole number from 1 on, not {number!r}.")
    return slots
