"""One log line when the database goes away and one when it is back, however many statements fail between."""

from __future__ import annotations

import logging
import math
import random
import time

from dreamcuts.db.address import first_line
from dreamcuts.db.pool import CONTENTION_ERRORS

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0


class Outage:
    """The state of the database as the worker's loops see it, shared by all of them."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._over: float | None = None

    def seconds_since(self) -> float:
        """Seconds since the last outage was over: infinity if there was none, 0 during one."""
        if self._since is not None:
            return 0.0
        return math.inf if self._over is None else time.monotonic() - self._over

    def failed(self, error: BaseException) -> None:
        """A statement failed, and is tried again: for want of the database, unless it has answered."""
        if isinstance(error, CONTENTION_ERRORS):
            log.info("A statement is tried again: %s: %s", type(error).__name__, first_line(error))
            return
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "The database does not answer (%s: %s); trying again until it does",
                type(error).__name__,
                first_line(error),
                extra={"tag": "DATABASE"},
            )

    def ended(self) -> None:
        """A statement succeeded."""
        if self._since is not None:
            log.warning(
                "The database is back after %.1f s",
                time.monotonic() - self._since,
                extra={"tag": "DATABASE"},
            )
            self._since = None
            self._over = time.monotonic()


def retry_delay(tries: int) -> float:
    """Seconds before try number `tries` (from 1): exponential, with jitter so that workers spread out."""
    ceiling: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries, 10))
    return random.uniform(ceiling / 2, ceiling)
