"""Says where a worker's event loop hangs.

A job type that blocks the loop (a long computation, a call without await) stops everything else in the
process: other jobs, the heartbeat, and so the lease. Nothing inside the loop can say so. This thread can: it
asks the loop for a sign now and then, and when none has come by the next time it logs what the loop's thread
is doing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""How long the loop may be silent before it is said to hang."""
DEEPEST_STACK = 30


class LoopWatchdog:
    """`with LoopWatchdog():` in a coroutine watches the running loop for the time of the block.

    Logs one warning with the stack for each hang, after `patience` seconds to twice as many,
    and one line with the duration when it goes on. When it has hung for `hopeless` seconds it calls `end`,
    from the thread: by then the lease is over and others have the jobs, but the process would stay for ever.
    """

    def __init__(
        self,
        patience: float = PATIENCE_S,
        *,
        hopeless: float = math.inf,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._patience = patience
        self._hopeless = hopeless
        self._end = end
        self._answered = time.monotonic()
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> float:
        """Ask the loop for a sign; returns when (monotonic seconds)."""
        assert self._loop is not None
        asked = time.monotonic()
        self._loop.call_soon_threadsafe(self._answer)
        return asked

    def _answer(self) -> None:
        """Runs in the loop."""
        self._answered = time.monotonic()

    def _watch(self) -> None:
        """Runs in the thread. One question in `patience` seconds: an idle worker is to sleep."""
        asked = self._ask()
        while not self._ended.wait(self._patience):
            # A second look: after SIGCONT we may be awake before the loop is.
            if self._answered < asked and self._ended.wait(self._patience / 8):
                return
            if self._answered < asked and not self._report(asked):
                return
            asked = self._ask()

    def _report(self, asked: float) -> bool:
        """Tell of a loop that hangs, until it goes on; False if it does not."""
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame, limit=DEEPEST_STACK)) if frame is not None else ""
        del frame  # it holds every local variable of the loop's thread
        log.warning(
            "The event loop has hung for %.1f s: nothing else runs, no heartbeat goes out. It is here:\n%s",
            time.monotonic() - asked,
            stack.rstrip(),
        )
        # Counted, not read off the clock: a process that was stopped for an hour has not hung for one.
        pause = self._patience / 16
        watched = min(time.monotonic() - asked, self._patience * 1.5)
        while self._answered < asked:
            if self._ended.wait(pause):
                return False
            watched += pause
            if watched >= self._hopeless and self._end is not None:
                log.error(
                    "The event loop has hung for %.0f s, longer than the lease: this process ends. Its jobs "
                    "are others' by now.",
                    watched,
                )
                self._end()
                return False
        log.warning("The event loop goes on after %.1f s", self._answered - asked)
        return True
