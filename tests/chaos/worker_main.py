"""A worker process for the chaos tests: `dreamcuts work` with the tests' own job types too.

    python worker_main.py chaos_step:8,gen_image_falai:4

CHAOS_CLOCK_OFFSET_S puts the clock that Python sees that many seconds off, however it is asked. SIGUSR1
writes where every task of the process waits. CHAOS_MEMORY_MB is how much address space it may take beyond
what it has at the start.
"""

# ruff: noqa: E402  (the clock is put off before anything is imported that may keep a hold of it)

from __future__ import annotations

import os

from tests.chaos.clock import put_off

put_off(float(os.environ.get("CHAOS_CLOCK_OFFSET_S", "0")))

import asyncio
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from dreamcuts.config import Settings
from dreamcuts.errors import DreamCutsError
from dreamcuts.log import known_secrets, setup_logging
from dreamcuts.service import run_service
from tests.chaos.jobtypes import all_types


def tell_where(number: int, frame: FrameType | None) -> None:
    """Write the stack of every task, innermost last."""
    for task in asyncio.all_tasks():
        print(f"--- {task.get_name()}", file=sys.stderr)
        step: object = task.get_coro()
        while step is not None:
            inner = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
            print(f"    {inner or step}", file=sys.stderr)
            step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)


def main() -> int:
    signal.signal(signal.SIGUSR1, tell_where)
    slots = {
        name: int(number) for name, _, number in (part.partition(":") for part in sys.argv[1].split(","))
    }
    if more := int(os.environ.get("CHAOS_MEMORY_MB", "0")):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more * 1_000_000,) * 2)
    settings = Settings.load()
    setup_logging(settings.log_level, settings.log_format, known_secrets(settings))
    try:
        run_service(
            settings,
            all_types(),
            slots,
            shutdown_timeout=float(os.environ.get("CHAOS_SHUTDOWN_S", "1")),
            pooled=False,
        )
    except DreamCutsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
