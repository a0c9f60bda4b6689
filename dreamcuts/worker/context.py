"""What a running job may use (the JobContext protocol): made by the worker, one for each attempt."""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, StorageError
from dreamcuts.jobs.base import CallLog, Job, SiblingJob
from dreamcuts.providers.base import Provider
from dreamcuts.storage.base import Asset, Storage
from dreamcuts.storage.paths import StorageFailed, digest
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.patience import patiently
from dreamcuts.worker.tools import Tools

log = logging.getLogger(__name__)

SAVE_DELAYS_S = (1.0, 4.0, 10.0)
"""Seconds before another try to store a file: what it holds may be paid, and be lost with the attempt."""
DIGEST_CHARS = 16
_PASSING = (ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED, ErrorClass.OVERLOADED)


class Workspace:
    """The folder of one attempt, made when it is first asked for."""

    __slots__ = ("_folder",)

    def __init__(self) -> None:
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder; empty at first."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="dreamcuts-"))
        return self._folder

    @property
    def is_made(self) -> bool:
        """Whether anybody asked for it."""
        return self._folder is not None

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


async def _short_digest(source: Path) -> str:
    try:
        return (await anyio.to_thread.run_sync(digest, source))[1][:DIGEST_CHARS]
    except OSError as error:
        raise StorageFailed(f"{source.name} cannot be read: {error.strerror or error}") from None


class Context:
    """JobContext over Postgres, the worker's storage and its providers.

    What a job may not use is not made: a worker makes tens of thousands of these a second.
    """

    __slots__ = ("_calls", "_log", "_observer", "_read", "_tags", "_tools", "job", "worker", "workspace")

    def __init__(
        self,
        job: Job,
        worker: UUID,
        tools: Tools,
        observer: WorkerObserver = NOBODY,
        tags: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.job = job
        self.worker = worker
        self.workspace = Workspace()
        self._tools = tools
        self._observer = observer
        self._tags = tags
        self._calls: StoredCalls | None = None
        self._log: logging.LoggerAdapter[logging.Logger] | None = None
        self._read: dict[str, Any] = {}

    @property
    def settings(self) -> Settings:
        """Those of the process."""
        return self._tools.settings

    @property
    def storage(self) -> Storage:
        """Where assets go."""
        return self._tools.storage

    @property
    def http(self) -> httpx.AsyncClient:
        """For downloads; shared by all jobs."""
        return self._tools.http

    @property
    def calls(self) -> CallLog:
        """The job's rows in the ledger."""
        if self._calls is None:
            tools = self._tools
            self._calls = StoredCalls(
                tools.store,
                self.worker,
                self.job,
                tools.settings.price_missing,
                self._observer,
                tools.tickets,
                tools.redact,
                tools.lease_left,
            )
        return self._calls

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """Says which job it is."""
        if self._log is None:
            self._log = logging.LoggerAdapter(log, self._tags())
        return self._log

    @property
    def workdir(self) -> Path:
        """An empty folder of this attempt, removed afterwards."""
        return self.workspace.folder

    def provider(self, name: str) -> Provider:
        """The provider registered under `name`. Raises ConfigError if it is unknown or lacks a key."""
        return self._tools.providers.get(name)

    async def manifest(self) -> dict[str, Any]:
        """The manifest's `manifest_json`, read once; empty for a job without a manifest."""
        manifest = self.job.manifest_id
        if manifest is None:
            return {}
        if "manifest" not in self._read:
            self._read["manifest"] = await patiently(lambda: self._tools.store.manifest(manifest))
        found: dict[str, Any] = self._read["manifest"]
        return found

    async def sibling_jobs(self) -> list[SiblingJob]:
        """All jobs of the manifest, this one included; empty for a job without a manifest."""
        manifest = self.job.manifest_id
        if manifest is None:
            return []
        rows = await patiently(lambda: self._tools.store.sibling_jobs(manifest))
        return [SiblingJob(**row) for row in rows]

    async def save(self, source: Path, name: str, content_type: str) -> Asset:
        """Store a file of this job under `MANIFEST/JOB_ID/DIGEST/name`.

        Without a manifest it goes under `jobs/ID/DIGEST/name`. The digest is the file's own: what a job's
        result names is never overwritten with something else, not even by a worker that lost the job and does
        not know it yet. The same file keeps its place and URL.

        An error that may pass is waited out for a while. Raises StorageError.
        """
        job = self.job
        # A job_id is unique in its manifest only: without one, two users' jobs may have the same.
        owner = f"jobs/{job.id}" if job.manifest_id is None else f"{job.manifest_id}/{job.job_id}"
        path = f"{owner}/{await _short_digest(source)}/{name}"
        for delay in SAVE_DELAYS_S:
            try:
                return await self.storage.save(path, source, content_type)
            except StorageError as error:
                if getattr(error, "error_class", ErrorClass.TRANSIENT) not in _PASSING:
                    raise
                self.log.warning("%s could not be stored, trying again: %s", name, error)
            await anyio.sleep(delay * random.uniform(0.5, 1.0))
        return await self.storage.save(path, source, content_type)
