"""A job type that does nothing, for measuring what the queue itself costs, and a worker for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

import anyio

from dreamcuts.config import Settings
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker

DEFAULT_SLOTS = {
    "bench_1": 3,
    "bench_2": 2,
    "bench_3": 1,
    "bench_4": 2,
    "bench_5": 2,
    "bench_6": 2,
    "bench_7": 1,
}
"""Seven types with the slots that the seven built-in ones have by default."""


class NoOpPayload(Payload):
    """`sentAt` is when the job was about to be inserted, in seconds since 1970 on this machine's clock.

    `sleepMs` stands for a provider that takes that long. With `timed` the result says when it began and
    ended.
    """

    sent_at: float | None = None
    sleep_ms: float | None = None
    timed: bool = False


def _nothing(_sent_at: float | None) -> None:
    pass


class NoOp:
    """Returns at once. Its result says how long the job waited, if the payload says when it was sent."""

    short_name: ClassVar[str] = "noop"
    payload_model: ClassVar[type[Payload]] = NoOpPayload
    default_slots: ClassVar[int] = 3
    retry_delay: ClassVar[timedelta] = timedelta(seconds=1)
    time_limit: ClassVar[timedelta] = timedelta(minutes=1)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, on_start: Callable[[float | None], None] = _nothing) -> None:
        self.name = name
        self._on_start = on_start

    async def run(self, ctx: JobContext, payload: NoOpPayload) -> Result:
        """Note the start, and be done."""
        began = time.time() if payload.timed or payload.sent_at is not None else 0.0
        self._on_start(payload.sent_at)
        if payload.sleep_ms is not None:
            await anyio.sleep(payload.sleep_ms / 1000)
        if payload.timed:
            return Result(data={"beganAt": began, "endedAt": time.time()})
        if payload.sent_at is None:
            return Result()
        return Result(data={"waitedMs": (began - payload.sent_at) * 1000})


def noop_worker(
    dsn: str,
    slots: Mapping[str, int],
    *,
    folder: str,
    until_idle: bool = False,
    on_start: Callable[[float | None], None] = _nothing,
) -> Worker:
    """The real worker with types that do nothing. `on_start` hears of each job, with its `sentAt`."""
    # A job type's name is a class variable for the registry; here many types share a class.
    types: Any = {name: NoOp(name, on_start) for name in slots}
    settings = Settings.load(
        _env_file=None, storage_dir=folder, storage_base_url="http://127.0.0.1:1/", database_url=dsn
    )
    return Worker(dsn, types, WorkerOptions(slots=slots, until_idle=until_idle), tools_from(settings))
