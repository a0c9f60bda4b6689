"""Job types of the chaos tests: a light step that sleeps and may fail, and jobs that misbehave on purpose."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from datetime import timedelta
from typing import Any, ClassVar

from pydantic import Field

from dreamcuts.errors import InvalidRequest, JobError
from dreamcuts.jobs.base import JobContext, JobType, Payload, Result
from dreamcuts.jobs.registry import load_job_types

STEP = "chaos_step"
IMAGE = "gen_image_falai"
RENDER = "render_shotstack"
SOUND = "gen_sound_effects_elevenlabs"
POISON = "chaos_poison"


class StepPayload(Payload):
    """`ms`: how long it takes. `fails`: share of attempts that fail in passing. `fatal`: never succeeds."""

    ms: float = Field(5, ge=0)
    fails: float = Field(0, ge=0, le=1)
    fatal: bool = False
    block_ms: float = Field(0, ge=0)


class StepJob:
    """Takes a moment and returns who did it."""

    name: ClassVar[str] = STEP
    short_name: ClassVar[str] = "step"
    payload_model: ClassVar[type[Payload]] = StepPayload
    default_slots: ClassVar[int] = 8
    retry_delay: ClassVar[timedelta] = timedelta(milliseconds=100)
    time_limit: ClassVar[timedelta] = timedelta(seconds=60)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        assert isinstance(payload, StepPayload)
        await asyncio.sleep(payload.ms / 1000)
        if payload.block_ms:
            time.sleep(payload.block_ms / 1000)  # noqa: ASYNC251  (it blocks the loop on purpose)
        if payload.fatal:
            raise InvalidRequest("this step never succeeds")
        if random.Random(f"{ctx.job.job_id}/{ctx.job.claim}").random() < payload.fails:
            raise JobError("this attempt fails in passing")
        return Result(data={"claim": ctx.job.claim, "pid": os.getpid()})


class PoisonPayload(Payload):
    """`how` names the way in which the job misbehaves."""

    how: str


class PoisonJob:
    """Misbehaves in every way that a job can."""

    name: ClassVar[str] = POISON
    short_name: ClassVar[str] = "poison"
    payload_model: ClassVar[type[Payload]] = PoisonPayload
    default_slots: ClassVar[int] = 20
    retry_delay: ClassVar[timedelta] = timedelta(milliseconds=10)
    time_limit: ClassVar[timedelta] = timedelta(seconds=1)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        assert isinstance(payload, PoisonPayload)
        made: Result = await getattr(self, "_" + payload.how)(ctx, payload)
        return made

    async def _base_exception(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        class Rude(BaseException):
            pass

        raise Rude("not even an Exception")

    async def _system_exit(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        raise SystemExit(3)

    async def _keyboard_interrupt(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        raise KeyboardInterrupt

    async def _cancelled(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        raise asyncio.CancelledError

    async def _kill(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    async def _eat_memory(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        eaten, size = [], 64_000_000
        while True:
            try:
                eaten.append(bytearray(size))
            except MemoryError:
                size //= 2  # to the last crumb
                if size < 1000:
                    raise

    async def _never_returns(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _recursion(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        def deeper() -> int:
            return deeper() + 1

        return Result(data={"depth": deeper()})

    async def _not_json(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"value": object()})

    async def _not_a_number(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"value": float("nan")})

    async def _no_result(self, ctx: JobContext, payload: PoisonPayload) -> Any:
        return {"not": "a Result"}

    async def _nul(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"text": "before\x00after", "k\x00ey": ["\ud800 half a pair"]})

    async def _nul_error(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        raise JobError("an error with \x00 and \udfff in it", detail={"body": "\x00"})

    async def _scripts(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"text": getattr(payload, "text", "")})

    async def _large(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"text": "x" * 10_000_000})

    async def _too_large(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        return Result(data={"text": "x" * 20_000_000})

    async def _endless_error(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        raise JobError("e" * 5_000_000, detail={"body": "b" * 20_000_000})

    async def _leaks(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        """Errors of careless code: with settings, a key in a URL, one cut in two by the traceback."""
        key, address = ctx.settings.secret("FAL_KEY"), ctx.settings.secret("DATABASE_URL")
        what = getattr(payload, "what", "")
        if what == "bug":
            raise RuntimeError(
                f"cannot connect to {address} with {ctx.settings.model_dump()}, {key!r}" + " " * 7990
            )
        ctx.log.warning("calling https://example.com/?key=%s", key, extra={"header": {"Authorization": key}})
        raise JobError(f"GET /?key={key} failed", detail={"headers": {f"Key {key}": [key, {"dsn": address}]}})

    async def _nested(self, ctx: JobContext, payload: PoisonPayload) -> Result:
        value: Any = "core"
        for _ in range(100_000):
            value = [value]
        return Result(data={"value": value})


def all_types() -> dict[str, JobType]:
    """The built-in job types, and those above."""
    return {**load_job_types(), STEP: StepJob(), POISON: PoisonJob()}
