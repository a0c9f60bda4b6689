"""What a job type is, and what it may use while it runs.

A job type names its payload model, its policies and how it runs. The worker claims a job, validates its
payload with the model, resolves its templates, and calls `run` with a JobContext. What `run` returns is the
job's result; what it raises decides, by its ErrorClass, what happens next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dreamcuts.config import Settings
from dreamcuts.providers.base import Provider, Ticket
from dreamcuts.queue.models import Job
from dreamcuts.storage.base import Asset, Storage

__all__ = [
    "CallLog",
    "Job",
    "JobContext",
    "JobType",
    "JobTypes",
    "MadeBefore",
    "OpenCall",
    "Payload",
    "ProviderFactory",
    "Result",
    "SiblingJob",
]


class Payload(BaseModel):
    """Base of the payload models: camelCase in Postgres, snake_case in Python, unknown keys kept."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    scene_id: str | None = None
    language_code: str | None = None
    estimated_cost: float | None = None
    cost_limit: float | None = Field(None, ge=0, allow_inf_nan=False)
    reuse: bool | Literal["always"] | None = None


@dataclass(frozen=True, slots=True)
class SiblingJob:
    """Another job of the same manifest, as the render sees it."""

    job_id: str
    type: str
    status: str
    payload: dict[str, Any]
    result: dict[str, Any] | None
    output_url: str | None


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A provider call of this job that an earlier attempt left open.

    `claim` is the claim that began it. `answer_due_s` is for how long its worker, which is alive, may still
    be waiting for the provider's answer. `wanted`: the job is to go on, and its next claim needs the call.
    """

    id: UUID
    provider: str
    endpoint: str
    request: dict[str, Any]
    ticket: Ticket | None
    step: int
    claim: int = 0
    answer_due_s: float = 0.0
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class MadeBefore:
    """What another job made of the same request. `result` is the whole result of that job."""

    job: UUID
    manifest_id: UUID | None
    job_id: str
    result: dict[str, Any]
    output_url: str
    cost_usd: float | None


class CallLog(Protocol):
    """The job's rows in `dreamcut_provider_calls`: written before the money is spent, closed after.

    Every method is one round trip and raises LeaseLost if the job is no longer ours: a worker that was
    presumed dead must not start a paid call.
    """

    async def open_calls(self) -> list[OpenCall]:
        """Calls of earlier attempts that still have no outcome, oldest first."""
        ...

    async def made_calls(self) -> list[OpenCall]:
        """Calls of earlier attempts that succeeded, and whose ticket is known; latest first."""
        ...

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
        """Record the intent, before the request goes out. Returns the call's id.

        Waits while a limit of the provider is reached. `identity` is what makes two requests the same one,
        where that is not `request` itself. Raises JobError: `rate_limited` if the wait takes too long,
        `spend_limit`, or `paused` (a ProviderError) while the provider is.
        """
        ...

    async def may_send(self, call: UUID) -> None:
        """Return when the request of `call` may leave: at once, unless this process slept past its lease.

        Called right before the request. Whoever is cancelled while it waits has sent nothing.
        """
        ...

    async def made_before(
        self, provider: str, endpoint: str, identity: Mapping[str, Any]
    ) -> MadeBefore | None:
        """A finished job of the same user (or manifest) that made the same request; None if there is none."""
        ...

    async def reused(
        self,
        provider: str,
        endpoint: str,
        made: MadeBefore,
        *,
        request: Mapping[str, Any],
        identity: Mapping[str, Any],
        step: int = 0,
        saved_usd: float | None = None,
    ) -> None:
        """Enter a call that was not made because `made` is there: cost 0, with what it saved."""
        ...

    async def submitted(self, call: UUID, ticket: Ticket) -> None:
        """Record the provider's request id, right after submission and before waiting for it."""
        ...

    async def finish(
        self,
        call: UUID,
        status: str,
        *,
        cost_usd: float | None = None,
        error: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the call: `succeeded`, `failed`, `cancelled` or `unknown` (may have been billed).

        `detail["class"]` is the ErrorClass of a failure; it slows down or pauses the provider.
        """
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """What a job made: stands in `result` and `output_url`. `data` must be JSON-serialisable."""

    asset: Asset | None = None
    data: dict[str, Any] = field(default_factory=dict)


class JobContext(Protocol):
    """What a running job may use. Made by the worker, one for each attempt."""

    @property
    def job(self) -> Job: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def http(self) -> httpx.AsyncClient:
        """For downloads; see dreamcuts.storage.download."""
        ...

    @property
    def calls(self) -> CallLog: ...
    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]: ...
    @property
    def workdir(self) -> Path:
        """An empty folder of this attempt, removed afterwards."""
        ...

    def provider(self, name: str) -> Provider:
        """The provider registered under `name`, made on first use. Raises ConfigError if a key is missing."""
        ...

    async def manifest(self) -> dict[str, Any]:
        """The manifest's `manifest_json`; empty for a job without a manifest."""
        ...

    async def sibling_jobs(self) -> list[SiblingJob]:
        """All jobs of the manifest, this one included; empty for a job without a manifest."""
        ...

    async def save(self, source: Path, name: str, content_type: str) -> Asset:
        """Store a file of this job under a name that depends on what is in it, and not on the attempt."""
        ...


class JobType(Protocol):
    """A type of job; found through the entry-point group `dreamcuts.jobs` and made without arguments."""

    name: ClassVar[str]
    """As it stands in `dreamcut_jobs.type`."""
    short_name: ClassVar[str]
    """For `--types`, log lines and settings (`TTS_MAX_CONCURRENT_JOBS`)."""
    payload_model: ClassVar[type[Payload]]
    default_slots: ClassVar[int]
    retry_delay: ClassVar[timedelta]
    time_limit: ClassVar[timedelta]
    """An attempt that runs longer is stopped as `timed_out`."""
    providers: ClassVar[tuple[str, ...]]
    """Providers that the type's default chain uses; the first is the one it cannot do without."""
    features: ClassVar[tuple[str, ...]]
    """What the type can do, in words, for the status page."""

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt. `payload` is an instance of `payload_model`, templates resolved."""
        ...


JobTypes = Mapping[str, JobType]
ProviderFactory = Callable[[Settings], Provider]
