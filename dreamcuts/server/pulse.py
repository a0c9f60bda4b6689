"""Whether the worker's event loop turns, as another thread can see it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

BEAT_S = 0.25
HUNG_AFTER_S = 15.0
"""A loop that has not turned for so long counts as hung: nothing in a worker may block it for seconds."""


class Pulse:
    """Beats in the event loop in which it was started; `silence()` may be asked from any thread."""

    def __init__(
        self, *, hung_after: float = HUNG_AFTER_S, on_lag: Callable[[float], None] | None = None
    ) -> None:
        self.hung_after = hung_after
        self._on_lag = on_lag
        self._last = time.monotonic()

    def silence(self) -> float:
        """Seconds since the loop last turned."""
        return time.monotonic() - self._last

    def is_hung(self) -> bool:
        """Whether the loop has not turned for `hung_after` seconds."""
        return self.silence() > self.hung_after

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat while the block runs."""
        self._last = time.monotonic()
        task = asyncio.create_task(self._beat(), name="pulse")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            now = time.monotonic()
            if self._on_lag is not None:
                self._on_lag(max(0.0, now - self._last - BEAT_S))
            self._last = now
