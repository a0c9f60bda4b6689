"""Putting a worker process together: settings checked, health server beside it, the worker in the middle."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from dreamcuts.config import Settings
from dreamcuts.db.migrate import status
from dreamcuts.db.pooler import is_transaction_pooled
from dreamcuts.jobs.base import JobType
from dreamcuts.processes import calm_the_collector, has_uvloop, is_supervised, start_anew
from dreamcuts.providers.registry import load_providers
from dreamcuts.server.beside import beside_worker, health_port, make_tracing
from dreamcuts.server.metrics import Metrics
from dreamcuts.systemd import Notifier, telling_systemd
from dreamcuts.worker.observer import Observers
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker

if TYPE_CHECKING:  # OpenTelemetry is an extra, and slow to import
    from dreamcuts.server.tracing import Tracing

log = logging.getLogger(__name__)


def run_service(
    settings: Settings,
    job_types: Mapping[str, JobType],
    slots: Mapping[str, int],
    *,
    until_idle: bool = False,
    shutdown_timeout: float = 30.0,
    pooled: bool | None = None,
) -> Mapping[str, int]:
    """Run a worker until it is told to end, or is idle; returns how many outcomes of each kind it wrote.

    `slots` are jobs at a time by full type name. `pooled` says whether the database is behind a pooler in
    transaction mode; None finds out. Raises ConfigError for a missing setting, DatabaseError if
    Postgres cannot be reached or its schema does not fit: before any job is claimed. Does not return if an
    operator asked for a restart: see `processes.start_anew`.
    """
    dsn = settings.secret("DATABASE_URL")
    settings.require([*needs(job_types[name] for name in slots), *storage_needs(settings)])
    status(dsn).check()
    if pooled is None and (pooled := anyio.run(is_transaction_pooled, dsn)):
        log.info(
            "A pooler in transaction mode: no prepared statements, no LISTEN, a poll every %g s",
            settings.poll_interval_s,
            extra={"tag": "DATABASE"},
        )
    if not settings.enable_workers:
        slots = dict.fromkeys(slots, 0)  # whoever looks for a worker of these types must not find us
    options = WorkerOptions(
        slots=slots,
        poll_interval=settings.poll_interval_s,
        heartbeat=settings.heartbeat_s,
        lease=settings.lease_s,
        shutdown_timeout=shutdown_timeout,
        until_idle=until_idle,
        claim=settings.enable_workers,
        pooled=bool(pooled),
        archive_after=days(settings.archive_after_days),
        archive_failed_after=days(settings.archive_failed_after_days),
        end_process=end_process,
    )
    supervised = is_supervised()  # asked now: the notifier takes systemd's variables away
    port = health_port(settings, [job_types[name].short_name for name in slots])
    settings = settings.model_copy(update={"health_check_port": port})  # where STORAGE_DIR is served
    metrics = Metrics() if settings.enable_health_check else None
    tracing = make_tracing(settings)
    observers = [observer for observer in (metrics, tracing) if observer is not None]
    worker = Worker(dsn, job_types, options, tools_from(settings), Observers(observers))
    calm_the_collector()
    anyio.run(_run, worker, settings, metrics, tracing, port, backend_options={"use_uvloop": has_uvloop()})
    if worker.wants_restart():
        start_anew(supervised=supervised)
    return worker.counts


def days(number: int) -> timedelta | None:
    """A number of days as settings give it; 0 means never."""
    return timedelta(days=number) if number else None


def needs(job_types: Iterable[JobType]) -> list[tuple[str, str]]:
    """The settings without which these types cannot work, each with the type's short name.

    Only the first provider of a type counts: those it falls back to are asked for when they are used.
    """
    providers = load_providers()
    return [
        (setting, job_type.short_name)
        for job_type in job_types
        for name in job_type.providers[:1]
        if name in providers
        for setting in providers[name].settings_needed
    ]


def storage_needs(settings: Settings) -> list[tuple[str, str]]:
    """The settings without which finished assets have no place to go."""
    if settings.storage_dir is not None:
        return []
    purpose = "storing assets, or else STORAGE_DIR"
    return [("SUPABASE_URL", purpose), ("SUPABASE_SERVICE_ROLE_KEY", purpose)]


def end_process() -> None:
    """End without waiting for threads: a job that does not stop must not hold up a restart."""
    logging.shutdown()
    os._exit(1)


async def _run(
    worker: Worker, settings: Settings, metrics: Metrics | None, tracing: Tracing | None, port: int
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if tracing is not None:
            await stack.enter_async_context(tracing.opened())
        if metrics is not None:
            bound = await stack.enter_async_context(beside_worker(settings, worker, metrics, port))
            log.info("Health server on http://%s:%d/health", settings.health_check_host, bound)
        if not settings.enable_workers:
            log.warning("ENABLE_WORKERS is false: nothing is claimed")
        await stack.enter_async_context(
            telling_systemd(Notifier.from_environment(), worker, lambda: summary(worker))
        )
        await worker.run(handle_signals=True)


def summary(worker: Worker) -> str:
    """One line for `systemctl status`: what runs now, and what became of the jobs so far."""
    running = ", ".join(
        f"{status.name} {status.active_jobs}/{status.max_concurrent_jobs}"
        for status in worker.worker_statuses()
    )
    ended = ", ".join(f"{number} {outcome}" for outcome, number in sorted(worker.counts.items()))
    return f"{'Running' if worker.is_running() else 'Draining'}: {running}. So far: {ended or 'nothing'}."
