"""A job's context in memory: real providers, storage and downloads; only the call log is a list."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from dreamcuts.config import Settings
from dreamcuts.jobs.base import Job, JobType, OpenCall, Result, SiblingJob
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.providers.base import Provider, Ticket
from dreamcuts.providers.registry import make_provider
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage.base import Asset
from dreamcuts.storage.local import LocalStorage


@dataclass
class Call:
    """A row of the call log."""

    id: UUID
    provider: str
    endpoint: str
    request: dict[str, Any]
    step: int
    estimate_usd: float | None
    ticket: Ticket | None = None
    status: str = "open"
    cost_usd: float | None = None
    error: str | None = None
    detail: dict[str, Any] | None = None


@dataclass
class MemoryCalls:
    """The call log, as a list."""

    rows: list[Call] = field(default_factory=list)

    async def open_calls(self) -> list[OpenCall]:
        return [
            OpenCall(row.id, row.provider, row.endpoint, row.request, row.ticket, row.step)
            for row in self.rows
            if row.status == "open"
        ]

    async def made_calls(self) -> list[OpenCall]:
        return [
            OpenCall(row.id, row.provider, row.endpoint, row.request, row.ticket, row.step)
            for row in reversed(self.rows)
            if row.status == "succeeded" and row.ticket is not None
        ]

    async def begin(
        self,
        provider: str,
        endpoint: str,
        *,
        request: Mapping[str, Any],
        step: int = 0,
        estimate_usd: float | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> UUID:
        row = Call(uuid4(), provider, endpoint, dict(request), step, estimate_usd)
        self.rows.append(row)
        return row.id

    async def may_send(self, call: UUID) -> None:
        """A test has no lease."""

    async def submitted(self, call: UUID, ticket: Ticket) -> None:
        self._row(call).ticket = ticket

    async def finish(
        self,
        call: UUID,
        status: str,
        *,
        cost_usd: float | None = None,
        error: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        row = self._row(call)
        assert row.status == "open", f"the call is {row.status} already"
        assert status in ("succeeded", "failed", "cancelled", "unknown")
        row.status, row.cost_usd, row.error = status, cost_usd, error
        row.detail = dict(detail) if detail else None

    def _row(self, call: UUID) -> Call:
        return next(row for row in self.rows if row.id == call)


class MemoryContext:
    """A JobContext for one attempt."""

    def __init__(
        self, studio: Studio, job: Job, calls: MemoryCalls, workdir: Path, storage_dir: Path
    ) -> None:
        self.job = job
        self.settings = studio.settings
        self.storage = LocalStorage(storage_dir, studio.storage_url)
        self.http = studio.http
        self.calls = calls
        self.log = logging.LoggerAdapter(logging.getLogger("dreamcuts.test"), {})
        self.workdir = workdir
        self._studio = studio

    def provider(self, name: str) -> Provider:
        if name not in self._studio.providers:
            self._studio.providers[name] = make_provider(name, self.settings)
        return self._studio.providers[name]

    async def manifest(self) -> dict[str, Any]:
        return self._studio.manifest

    async def sibling_jobs(self) -> list[SiblingJob]:
        return self._studio.siblings

    async def save(self, source: Path, name: str, content_type: str) -> Asset:
        return await self.storage.save(
            f"{self.job.manifest_id}/{self.job.job_id}/{name}", source, content_type
        )


@dataclass
class Studio:
    """Runs jobs against a sandbox. What is stored can be fetched from the sandbox by URL."""

    sandbox: Sandbox
    settings: Settings
    http: httpx.AsyncClient
    folder: Path
    types: dict[str, JobType]
    manifest: dict[str, Any] = field(default_factory=dict)
    siblings: list[SiblingJob] = field(default_factory=list)
    providers: dict[str, Provider] = field(default_factory=dict)
    calls: MemoryCalls = field(default_factory=MemoryCalls)
    manifest_id: UUID = field(default_factory=uuid4)

    @property
    def storage_url(self) -> str:
        return f"{self.sandbox.url}/files/assets"

    def context(
        self,
        type_: str,
        payload: dict[str, Any],
        *,
        attempt: int = 1,
        max_attempts: int = 3,
        job_id: str = "job",
    ) -> MemoryContext:
        job = Job(
            id=uuid4(),
            manifest_id=self.manifest_id,
            job_id=job_id,
            type=type_,
            payload=payload,
            attempt=attempt,
            max_attempts=max_attempts,
            claim=attempt,
        )
        workdir = self.folder / f"work-{uuid4().hex}"
        workdir.mkdir()
        return MemoryContext(self, job, self.calls, workdir, self.sandbox.state.files / "assets")

    async def run(self, type_: str, payload: dict[str, Any], **options: Any) -> Result:
        job_type = self.types[type_]
        context = self.context(type_, payload, **options)
        return await job_type.run(context, job_type.payload_model.model_validate(payload))

    def file(self, result: Result) -> Path:
        """Where the result's asset is stored."""
        assert result.asset is not None
        return self.sandbox.state.files / "assets" / result.asset.path

    async def aclose(self) -> None:
        await self.http.aclose()
        for provider in self.providers.values():
            await provider.aclose()


@pytest.fixture
async def studio(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Studio]:
    environment = {name.lower(): value for name, value in sandbox.environment().items()}
    settings = Settings.load(**environment, provider_poll_s=0.05)
    sandbox.options.fal_queue_seconds = 0.05
    made = Studio(sandbox, settings, httpx.AsyncClient(timeout=30), tmp_path, load_job_types())
    yield made
    await made.aclose()
