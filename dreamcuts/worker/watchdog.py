"""Says where a worker's event loop hangs.

A job type that blocks the loop (a long computation, a call without await) stops everything else in the
process: other jobs, the heartbeat, and so the lease. Nothing inside the loop can say so. This thread can: it
watches a mark that the loop makes, and when the mark is late it logs what the loop's thread is doing.
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

PATIENCE_S = 5.0
"""How long the loop may be silent before it is said to hang."""
DEEPEST_STACK = 30


class LoopWatchdog:
    """`with LoopWatchdog():` in a coroutine watches the running loop for the time of the block.

    Logs one warning with the stack for each time that the loop hangs for longer than `patience` seconds, and
    one line with the whole duration when it goes on. When it has hung for `hopeless` seconds it calls `end`,
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
        self._every = patience / 4
        self._marked = time.monotonic()
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    @property
    def lag(self) -> float:
        """Seconds for which the loop has been silent beyond its next mark; 0 while it turns."""
        return max(0.0, time.monotonic() - self._marked - self._every)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._mark()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def _mark(self) -> None:
        """Runs in the loop."""
        assert self._loop is not None
        self._marked = time.monotonic()
        self._timer = self._loop.call_later(self._every, self._mark)

    def _watch(self) -> None:
        """Runs in the thread."""
        while not self._ended.wait(self._every):
            if time.monotonic() - self._marked < self._patience:
                continue
            # A second look: after SIGCONT we may be awake before the loop is.
            if self._ended.wait(self._every / 2):
                return
            marked = self._marked
            if time.monotonic() - marked >= self._patience:
                self._report(marked)

    def _report(self, since: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame, limit=DEEPEST_STACK)) if frame is not None else ""
        del frame  # it holds every local variable of the loop's thread
        log.warning(
            "The event loop has hung for %.1f s: nothing else runs, no heartbeat goes out. It is here:\n%s",
            time.monotonic() - since,
            stack.rstrip(),
        )
        # Counted, not read off the clock: a process that was stopped for an hour has not hung for one.
        watched = min(time.monotonic() - since, self._patience + 2 * self._every)
        while self._marked == since:
            if self._ended.wait(self._every / 4):
                return
            watched += self._every / 4
            if watched >= self._hopeless and self._end is not None:
                log.error(
                    "The event loop has hung for %.0f s, longer than the lease: this process ends. Its jobs "
                    "are others' by now.",
                    watched,
                )
                self._end()
                return
        log.warning("The event loop goes on after %.1f s", self._marked - since)
