"""Prometheus metrics of a worker process: what it does itself, and how the queue stands as a whole.

`dreamcuts_worker_*`, `dreamcuts_claim_*`, `dreamcuts_run_*`, `dreamcuts_outcomes_*` and
`dreamcuts_provider_call*` are this process's own: add them up over all workers. `dreamcuts_queue_*`,
`dreamcuts_workers` and the providers' gauges come from the database and are the same on every worker: take
the maximum. They are read at a scrape, at most every few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from dreamcuts.errors import DatabaseError
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.queue.models import Completed, Failed, Job, Outcome, Settled
from dreamcuts.server.data import Reader, Row
from dreamcuts.server.state import RunningState

CLAIM_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
RUN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 3600)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
FRESH_S = 5.0
LONGEST_CALL_S = 86_400.0
QUEUE_QUERIES = ("metrics_depth", "metrics_lag", "metrics_workers", "metrics_providers", "metrics_stalled")


class Metrics:
    """A WorkerObserver that counts, and the text of /metrics. Each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._claims = Histogram(
            "dreamcuts_claim_seconds", "Round trips that claim jobs", buckets=CLAIM_BUCKETS, registry=registry
        )
        self._claimed = Counter("dreamcuts_claimed_jobs", "Jobs claimed", registry=registry)
        self._runs = Histogram(
            "dreamcuts_run_seconds",
            "Attempts by job type, whatever their outcome",
            ["type"],
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._outcomes = Counter(
            "dreamcuts_outcomes",
            "Outcomes written, by what became of the job and the class of the error",
            ["type", "outcome", "error_class"],
            registry=registry,
        )
        self._calls = Counter(
            "dreamcuts_provider_calls",
            "Calls to providers that are closed",
            ["provider", "endpoint", "status"],
            registry=registry,
        )
        self._call_time = Histogram(
            "dreamcuts_provider_call_seconds",
            "Calls to providers from their begin to their end",
            ["provider", "endpoint"],
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._cost = Counter(
            "dreamcuts_provider_cost_usd",
            "US dollars that closed calls cost",
            ["provider", "endpoint"],
            registry=registry,
        )
        self._lag = Histogram(
            "dreamcuts_loop_lag_seconds",
            "How late the event loop wakes a sleeper",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._open: dict[UUID, tuple[float, str, str]] = {}

    # WorkerObserver

    def claimed(self, jobs: int, seconds: float) -> None:
        """Count a claim."""
        self._claims.observe(seconds)
        self._claimed.inc(jobs)

    def attempt_began(self, job: Job) -> None:
        """Nothing to count yet."""

    def attempt_ended(self, job: Job, outcome: Outcome | None, seconds: float) -> None:
        """Count an attempt's duration."""
        self._runs.labels(job.type).observe(seconds)

    def settled(self, settled: Settled) -> None:
        """Count an outcome: completed, retried, failed, cancelled, released, or refused."""
        outcome = settled.outcome
        word = settled.status or "refused"
        if word == "pending":
            word = "retried" if isinstance(outcome, Failed) else "released"
        error_class = outcome.error_class.value if isinstance(outcome, Failed) else ""
        if isinstance(outcome, Completed) and settled.status is not None:
            word = "completed"
        self._outcomes.labels(outcome.job.type, word, error_class).inc()

    def call_began(self, job: Job, call: UUID, provider: str, endpoint: str) -> None:
        """Remember when it began."""
        now = time.monotonic()
        self._open = {key: entry for key, entry in self._open.items() if now - entry[0] < LONGEST_CALL_S}
        self._open[call] = (now, provider, endpoint)

    def call_ended(self, job: Job, call: UUID, status: str, cost_usd: float | None) -> None:
        """Count a call; one that an earlier attempt began has no provider here, but the ledger has it."""
        began, provider, endpoint = self._open.pop(call, (None, "resumed", ""))
        self._calls.labels(provider, endpoint, status).inc()
        if began is not None:
            self._call_time.labels(provider, endpoint).observe(time.monotonic() - began)
        if cost_usd:
            self._cost.labels(provider, endpoint).inc(cost_usd)

    # The rest

    def lag(self, seconds: float) -> None:
        """Count how late the event loop was."""
        self._lag.observe(seconds)


class Exposition:
    """The text of /metrics: `await exposition()`."""

    def __init__(self, metrics: Metrics, state: RunningState, reader: Reader) -> None:
        self._registry = metrics.registry
        self._reader = reader
        self._queue = QueueCollector()
        self._registry.register(WorkerCollector(state))
        self._registry.register(self._queue)

    async def __call__(self) -> tuple[bytes, str]:
        """The text and its content type; without the database, what this process knows."""
        try:
            asked = [self._reader.shared(name, max_age=FRESH_S) for name in QUEUE_QUERIES]
            self._queue.rows = dict(zip(QUEUE_QUERIES, await asyncio.gather(*asked), strict=True))
        except DatabaseError:
            self._queue.rows = None
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class WorkerCollector(Collector):
    """How this process stands at the moment of the scrape."""

    def __init__(self, state: RunningState) -> None:
        self._state = state
        self._full_names = {job_type.short_name: name for name, job_type in load_job_types().items()}

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        slots = GaugeMetricFamily("dreamcuts_worker_slots", "Slots of this worker", labels=["type"])
        active = GaugeMetricFamily("dreamcuts_worker_active_jobs", "Jobs running in it", labels=["type"])
        for status in self._state.worker_statuses():
            name = self._full_names.get(status.name, status.name)
            slots.add_metric([name], status.max_concurrent_jobs)
            active.add_metric([name], status.active_jobs)
        yield slots
        yield active
        yield GaugeMetricFamily(
            "dreamcuts_worker_draining",
            "1 once it claims no more jobs",
            value=0 if self._state.is_running() else 1,
        )
        yield GaugeMetricFamily(
            "dreamcuts_worker_database_silence_seconds",
            "Seconds since its last heartbeat got through",
            value=self._state.database_silence(),
        )


class QueueCollector(Collector):
    """How the queue stands, from the rows of the last scrape."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] | None = None

    def collect(self) -> Iterator[Metric]:
        """The gauges; without the database only that it is away."""
        up = self.rows is not None
        yield GaugeMetricFamily(
            "dreamcuts_database_up", "1 if the database answered this scrape", value=int(up)
        )
        rows = self.rows or {}
        depth = GaugeMetricFamily("dreamcuts_queue_jobs", "Open jobs", labels=["type", "state"])
        slots = GaugeMetricFamily("dreamcuts_queue_slots", "Slots of all live workers", labels=["type"])
        for row in rows.get("metrics_depth", []):
            for state in ("ready", "delayed", "blocked", "processing"):
                depth.add_metric([row["type"], state], row[state])
            slots.add_metric([row["type"]], row["slots"])
        yield depth
        yield slots
        oldest = GaugeMetricFamily(
            "dreamcuts_queue_oldest_ready_seconds", "How long the next job has been ready", labels=["type"]
        )
        for row in rows.get("metrics_lag", []):
            oldest.add_metric([row["type"]], row["lag_s"])
        yield oldest
        if up:
            stalled = sum(row["jobs"] for row in rows["metrics_stalled"])
            yield GaugeMetricFamily(
                "dreamcuts_queue_stalled_jobs", "Jobs whose worker is silent", value=stalled
            )
        workers = GaugeMetricFamily("dreamcuts_workers", "Workers by state", labels=["state"])
        for row in rows.get("metrics_workers", []):
            workers.add_metric([row["state"]], row["workers"])
        yield workers
        yield from self._providers(rows.get("metrics_providers", []))

    def _providers(self, rows: list[Row]) -> Iterator[Metric]:
        open_calls = GaugeMetricFamily(
            "dreamcuts_provider_open_calls", "Calls under way", labels=["provider"]
        )
        paused = GaugeMetricFamily("dreamcuts_provider_paused", "1 while it is paused", labels=["provider"])
        spent = GaugeMetricFamily(
            "dreamcuts_provider_spent_today_usd", "US dollars since midnight UTC", labels=["provider"]
        )
        for row in rows:
            open_calls.add_metric([row["provider"]], row["open_calls"])
            paused.add_metric([row["provider"]], int(row["state"] in ("paused", "probing")))
            spent.add_metric([row["provider"]], float(row["spent_today_usd"]))
        yield open_calls
        yield paused
        yield spent
