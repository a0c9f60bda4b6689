"""A clock that is wrong, for a whole process: time.time, datetime.now and what else tells the time of day.

To be called before anything is imported that says `from time import time` or `from datetime import datetime`.
Monotonic clocks stay right, as they do on a machine whose time of day is wrong.
"""

from __future__ import annotations

import datetime
import time
from typing import Any, Self


def put_off(seconds: float) -> None:
    """Let every clock of this process be `seconds` ahead (or behind, if negative)."""
    if not seconds:
        return
    import asyncpg  # noqa: F401  (its C code keeps the real kind of datetime, whose size it knows)

    real_time, real_time_ns = time.time, time.time_ns
    real_gmtime, real_localtime = time.gmtime, time.localtime
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + round(seconds * 1_000_000_000)
    time.gmtime = lambda at=None: real_gmtime(time.time() if at is None else at)
    time.localtime = lambda at=None: real_localtime(time.time() if at is None else at)
    datetime.datetime = _off(datetime.datetime, datetime.timedelta(seconds=seconds))


def _off(real: type[datetime.datetime], by: datetime.timedelta) -> type[datetime.datetime]:
    class Meta(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)  # drivers written in C make the real kind

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, real)

    class OffDatetime(real, metaclass=Meta):
        __slots__ = ()

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.now(tz) + by

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(datetime.UTC).replace(tzinfo=None) + by

        @classmethod
        def today(cls) -> Any:
            return real.now() + by

        def __new__(cls, *args: Any, **kwargs: Any) -> Self:
            return real.__new__(real, *args, **kwargs)

    OffDatetime.__name__ = OffDatetime.__qualname__ = "datetime"
    return OffDatetime
