"""A queue under test as a program: `python -m benchmarks.programs.NAME VERB OPTIONS`.

DATABASE_URL, in its environment, says where. The verbs:

    setup              make the schema
    bulk, single       enqueue `jobs` jobs, `batch` in a call or one at a time; says {"seconds": ...}
    pickup             enqueue `jobs` jobs, `pause` seconds apart, each with the time of its sending
    work               run a worker until killed; says {"ready": true} when it is up, then what it has started

What is said is a line of JSON on stdout. Every Python program runs on uvloop where that is installed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

REPORT_EVERY_S = 0.05

Hit = Callable[[float | None], None]
Options = Mapping[str, Any]


class Program(Protocol):
    """What a queue must be able to do to be measured."""

    async def setup(self, dsn: str) -> None: ...
    async def open(self, dsn: str) -> None: ...
    async def close(self) -> None: ...
    async def bulk(self, count: int) -> None: ...
    async def single(self, sent: float | None) -> None: ...

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        """Work for ever. `hit` is to be called at the start of each job, `ready` when the worker is up."""
        ...


class Meter:
    """Counts the starts of jobs, and says now and then how many there were."""

    def __init__(self) -> None:
        self._started = 0
        self._first: float | None = None
        self._last: float | None = None
        self._waits: list[float] = []

    def hit(self, sent: float | None = None) -> None:
        """A job starts; `sent` is when it was about to be enqueued."""
        self._last = now = time.time()
        if self._first is None:
            self._first = now
        self._started += 1
        if sent is not None:
            self._waits.append(now - sent)

    async def report(self, every: float = REPORT_EVERY_S) -> None:
        """Say what is new, for ever."""
        said = 0
        while True:
            await asyncio.sleep(every)
            if self._started != said:
                said = self._started
                say(started=said, first=self._first, last=self._last, waits=self._waits)
                self._waits = []


def say(**values: Any) -> None:
    """A line for the harness."""
    print(json.dumps(values), flush=True)


def main(program: Program) -> None:
    """Carry out the verb of the command line."""
    logging.disable(logging.INFO)
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    run_loop(_carry_out(program, verb, options, os.environ["DATABASE_URL"]), options.get("uvloop", True))


def run_loop(coroutine: Coroutine[Any, Any, None], wants_uvloop: bool) -> None:
    """Run it on uvloop if that is wanted and installed."""
    try:
        if not wants_uvloop:
            raise ImportError
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


async def _carry_out(program: Program, verb: str, options: Options, dsn: str) -> None:
    if verb == "setup":
        await program.setup(dsn)
        return
    if verb == "work":
        meter = Meter()
        reporting = asyncio.create_task(meter.report(options.get("report_s", REPORT_EVERY_S)))
        try:
            await program.work(dsn, options, meter.hit, lambda: say(ready=True))
        finally:
            reporting.cancel()
        return
    await program.open(dsn)
    began = time.perf_counter()
    jobs = int(options["jobs"])
    if verb == "bulk":
        for done in range(0, jobs, options["batch"]):
            await program.bulk(min(options["batch"], jobs - done))
    elif verb == "single":
        for _ in range(jobs):
            await program.single(None)
    else:
        for _ in range(jobs):
            await program.single(time.time())
            await asyncio.sleep(options["pause"])
    say(seconds=time.perf_counter() - began)
    await program.close()
