"""OpenTelemetry: one trace for each manifest, a span for each attempt and each call to a provider.

Ids are made from the queue's own, so that workers on many machines write into one trace without telling each
other: the trace's id is the manifest's uuid (a job's own, if it has no manifest), an attempt's span id comes
from the job and the number of its claim. An attempt links to the attempts that completed its dependencies.

Imported only when OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from dreamcuts import __version__
from dreamcuts.errors import DatabaseError
from dreamcuts.queue.models import Completed, Failed, Job, Outcome, Settled
from dreamcuts.server.data import Reader

log = logging.getLogger(__name__)

LINK_PATIENCE_S = 10.0


class QueueIds(IdGenerator):
    """Gives the ids that were asked for next, else random ones. For one thread."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.next_trace: int | None = None
        self.next_span: int | None = None

    def generate_trace_id(self) -> int:
        """The trace's id."""
        given, self.next_trace = self.next_trace, None
        return given or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        """The span's id."""
        given, self.next_span = self.next_span, None
        return given or self._random.generate_span_id()


class Tracing:
    """A WorkerObserver that writes spans. Use it inside `async with tracing.opened():`."""

    def __init__(self, reader: Reader, exporter: SpanExporter) -> None:
        self._reader = reader
        self._ids = QueueIds()
        resource = Resource.create({"service.name": "dreamcuts-worker", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dreamcuts", __version__)
        self._attempts: dict[tuple[UUID, int], tuple[Span, asyncio.Task[None]]] = {}
        self._calls: dict[UUID, Span] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Trace while the block runs; at its end what is left is sent."""
        async with self._reader.opened():
            try:
                yield
            finally:
                await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.to_thread(self._provider.shutdown)

    def claimed(self, jobs: int, seconds: float) -> None:
        """Claims are counted, not traced."""

    def attempt_began(self, job: Job) -> None:
        """Begin the attempt's span, and look up what it links to."""
        self._ids.next_trace = trace_id(job.manifest_id or job.id)
        self._ids.next_span = span_id(job.id, job.claim)
        attributes: dict[str, Any] = {
            "dreamcuts.job.id": str(job.id),
            "dreamcuts.job.job_id": job.job_id,
            "dreamcuts.job.type": job.type,
            "dreamcuts.job.attempt": job.attempt,
            "dreamcuts.manifest.id": str(job.manifest_id or ""),
        }
        span = self._tracer.start_span(
            f"{job.type} {job.job_id}", context=Context(), kind=SpanKind.CONSUMER, attributes=attributes
        )
        assert isinstance(span, Span)
        linking = asyncio.get_running_loop().create_task(self._link(span, job))
        self._attempts[job.id, job.claim] = (span, linking)

    def attempt_ended(self, job: Job, outcome: Outcome | None, seconds: float) -> None:
        """End its span, with the outcome and the class of its error."""
        span, linking = self._attempts.pop((job.id, job.claim), (None, None))
        if span is None or linking is None:
            return
        word = "taken" if outcome is None else type(outcome).__name__.lower()
        span.set_attribute("dreamcuts.outcome", word)
        if isinstance(outcome, Failed):
            span.set_attribute("dreamcuts.error_class", outcome.error_class.value)
            span.set_status(Status(StatusCode.ERROR, outcome.message))
        elif isinstance(outcome, Completed):
            span.set_status(Status(StatusCode.OK))
        ending = asyncio.get_running_loop().create_task(_end(span, linking, time.time_ns()))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def settled(self, settled: Settled) -> None:
        """Told by the attempt's own span."""

    def call_began(self, job: Job, call: UUID, provider: str, endpoint: str) -> None:
        """Begin the call's span below the attempt's."""
        attempt, _ = self._attempts.get((job.id, job.claim), (None, None))
        if attempt is None:
            return
        span = self._tracer.start_span(
            f"{provider} {endpoint}",
            context=set_span_in_context(attempt, Context()),
            kind=SpanKind.CLIENT,
            attributes={"dreamcuts.provider": provider, "dreamcuts.endpoint": endpoint},
        )
        assert isinstance(span, Span)
        self._calls[call] = span

    def call_ended(self, job: Job, call: UUID, status: str, cost_usd: float | None) -> None:
        """End the call's span; a call that an earlier attempt began is an event of this attempt."""
        span = self._calls.pop(call, None)
        if span is None:
            attempt, _ = self._attempts.get((job.id, job.claim), (None, None))
            if attempt is not None:
                attempt.add_event("provider call resumed", {"dreamcuts.call.status": status})
            return
        span.set_attribute("dreamcuts.call.status", status)
        if cost_usd is not None:
            span.set_attribute("dreamcuts.cost_usd", cost_usd)
        span.set_status(Status(StatusCode.OK if status == "succeeded" else StatusCode.ERROR))
        span.end()

    async def _link(self, span: Span, job: Job) -> None:
        """Link to the attempts that completed the job's dependencies."""
        if job.manifest_id is None:
            return
        try:
            rows = await self._reader.many("dependencies_of_job", id=job.id)
        except DatabaseError as error:
            log.debug("Job %s is traced without links: %s", job.job_id, error)
            return
        for row in rows:
            context = SpanContext(
                trace_id(job.manifest_id), span_id(row["id"], row["claims"]), True, TraceFlags(1)
            )
            span.add_link(context, {"dreamcuts.job.job_id": row["job_id"]})


async def _end(span: Span, linking: asyncio.Task[None], end_ns: int) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(linking), LINK_PATIENCE_S)
    span.end(end_ns)


def trace_id(manifest: UUID) -> int:
    """The id of a manifest's trace: the manifest's own."""
    return manifest.int


def span_id(job: UUID, claim: int) -> int:
    """The id of an attempt's span."""
    return int.from_bytes(hashlib.sha256(f"{job}/{claim}".encode()).digest()[:8], "big") or 1
