"""A job type whose payload says what is to happen, for the tests of the worker around it.

Run as a program it is a worker process with that type: `python -m tests.worker.play DSN FOLDER LEASE_S`.
There a job of `do: "wait"` waits until the file `FOLDER/go` exists.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, JobError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.log import setup_logging
from dreamcuts.providers.base import Ticket
from dreamcuts.service import end_process
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import MakeTools, tools_from
from dreamcuts.worker.worker import Worker

SECRET = "fal-s3cr3t-0123456789"


class PlayPayload(Payload):
    do: str = "make"
    number: int = 0


class Play:
    """`runs` are the job_ids in the order of their start; `most` is the largest number at a time."""

    short_name: ClassVar[str] = "play"
    payload_model: ClassVar[type[Payload]] = PlayPayload
    default_slots: ClassVar[int] = 3
    retry_delay: ClassVar[timedelta] = timedelta(milliseconds=1)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()
    time_limit: timedelta = timedelta(seconds=60)

    def __init__(self, name: str = "work", go_file: Path | None = None) -> None:
        self.name = name
        self.go = anyio.Event()
        self.runs: list[str] = []
        self.ended: list[str] = []
        self.active = 0
        self.most = 0
        self._go_file = go_file

    async def run(self, ctx: JobContext, payload: PlayPayload) -> Result:
        self.runs.append(ctx.job.job_id)
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            return await getattr(self, f"_{payload.do}")(ctx, payload)
        finally:
            self.active -= 1
            self.ended.append(ctx.job.job_id)

    async def _make(self, ctx: JobContext, payload: PlayPayload) -> Result:
        file = ctx.workdir / "made.txt"
        file.write_text(f"made by attempt {ctx.job.attempt}")
        return Result(await ctx.save(file, "made.txt", "text/plain"), {"attempt": ctx.job.attempt})

    async def _quick(self, ctx: JobContext, payload: PlayPayload) -> Result:
        await anyio.lowlevel.checkpoint()
        return Result(data={"attempt": ctx.job.attempt})

    async def _wait(self, ctx: JobContext, payload: PlayPayload) -> Result:
        if self._go_file is None:
            await self.go.wait()
        else:
            (self._go_file.parent / f"{ctx.job.job_id}.{ctx.job.claim}").touch()
            while not self._go_file.exists():  # noqa: ASYNC110
                await anyio.sleep(0.01)
        return Result(data={"attempt": ctx.job.attempt, "claim": ctx.job.claim})

    async def _hang_once(self, ctx: JobContext, payload: PlayPayload) -> Result:
        while ctx.job.claim == 1:
            time.sleep(0.1)  # noqa: ASYNC251  (it blocks the loop on purpose)
        return Result(data={"claim": ctx.job.claim})

    async def _nap(self, ctx: JobContext, payload: PlayPayload) -> Result:
        await anyio.sleep(payload.number / 1000)
        return Result()

    async def _paid(self, ctx: JobContext, payload: PlayPayload) -> Result:
        call = await ctx.calls.begin("no_such_provider", "x", request={})
        await ctx.calls.submitted(call, Ticket("req-1", {}))
        await self.go.wait()
        await ctx.calls.finish(call, "succeeded")
        return Result()

    async def _crash(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise RuntimeError(f"refused with key {SECRET}")

    async def _cancel_itself(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise asyncio.CancelledError

    async def _exit(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise SystemExit(3)

    async def _interrupt(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise KeyboardInterrupt

    async def _refuse(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise JobError("no such voice", error_class=ErrorClass.INVALID_REQUEST, detail={"voice": "x"})

    async def _slow_down(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise JobError("429", error_class=ErrorClass.RATE_LIMITED, retry_after=900)

    async def _nothing(self, ctx: JobContext, payload: PlayPayload) -> Result:
        return {"not": "a Result"}

    async def _twice(self, ctx: JobContext, payload: PlayPayload) -> Result:
        if ctx.job.attempt == 1:
            raise JobError("busy")
        return await self._make(ctx, payload)

    async def _ignore_cancel(self, ctx: JobContext, payload: PlayPayload) -> Result:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            return Result(data={"late": True})
        return Result()


def tools(folder: Path) -> MakeTools:
    return tools_from(
        Settings.load(storage_dir=folder, storage_base_url="http://127.0.0.1:1/a", fal_key=SECRET)
    )


def options(slots: Mapping[str, int], **changes: Any) -> WorkerOptions:
    """Short times, so that tests need not wait; the database's clock decides in any case."""
    return WorkerOptions(
        **{
            "slots": slots,
            "poll_interval": 0.05,
            "heartbeat": 0.1,
            "lease": 30,
            "shutdown_timeout": 20,
            **changes,
        }
    )


def main() -> None:
    dsn, folder, lease_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    setup_logging("INFO", "text")
    play = Play(go_file=folder / "go")
    chosen = options({"work": 2}, lease=lease_s, end_process=end_process)
    worker = Worker(dsn, {"work": play}, chosen, tools(folder / "assets"))
    anyio.run(lambda: worker.run(handle_signals=True))


if __name__ == "__main__":
    main()
