"""Telling systemd how the service stands: ready, stopping, alive, and a line for `systemctl status`.

The protocol is a datagram of `NAME=value` lines to the socket in NOTIFY_SOCKET (sd_notify(3)); the watchdog's
period is in WATCHDOG_USEC, for the process in WATCHDOG_PID (sd_watchdog_enabled(3)). Without these variables
everything here does nothing, so a worker need not know who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from typing import Protocol

import anyio

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 0.5
"""How long a message that somebody waits for may take, should systemd not read its socket."""
STATUS_EVERY_S = 10.0


class Watched(Protocol):
    """What is told about. All of it must answer at once, without the database."""

    async def wait_registered(self) -> None:
        """Return when the service does its work."""
        ...

    async def wait_draining(self) -> None:
        """Return when the service has begun to end."""
        ...

    def is_beating(self) -> bool:
        """False if the service hangs though its event loop turns."""
        ...


class Notifier:
    """Sends to systemd. `Notifier()` without an address sends nothing."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s if address else None
        """Seconds without a ping after which systemd ends the service; None if it does not watch."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Notifier:
        """The notifier that systemd's variables ask for; they are taken out, lest a child speaks for us."""
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        if address and address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is not a Unix socket (%s); systemd is told nothing", address)
            address = ""
        watched = period.isdigit() and int(period) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(period) / 1_000_000 if watched else None)

    @property
    def is_active(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def send(self, fields: Mapping[str, str], *, urgent: bool = False) -> bool:
        """Send `fields` as `NAME=value` lines in one message; False if it could not be sent. Never raises.

        An `urgent` message waits for a moment if systemd is busy; others are dropped, so that the event loop
        is never held up.
        """
        if not self._address:
            return False
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        # A name that begins with @ is in the abstract namespace, where the kernel wants a NUL instead.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(SEND_TIMEOUT_S if urgent else 0)
                channel.connect(address)
                channel.sendall(text.encode())
        except OSError as error:
            log.debug("systemd could not be told %s: %s", ", ".join(fields), error)
            return False
        return True


@contextlib.asynccontextmanager
async def telling_systemd(
    notifier: Notifier, service: Watched, summary: Callable[[], str]
) -> AsyncIterator[None]:
    """While the block runs, tell how `service` stands: READY, pings with `summary()` as the status, STOPPING.

    The pings come from the event loop, so they end when it hangs; they are also withheld while the service
    says that it hangs. They go on while it drains: a service may drain for longer than the watchdog's period.
    """
    if not notifier.is_active:
        yield
        return
    # Tasks of asyncio, not of a task group: what the block raises must come out as it is.
    tasks = [
        asyncio.create_task(work(notifier, service, summary)) for work in (_tell_of_start_and_end, _ping)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell_of_start_and_end(notifier: Notifier, service: Watched, summary: Callable[[], str]) -> None:
    await service.wait_registered()
    notifier.send({"READY": "1", "STATUS": summary()}, urgent=True)
    await service.wait_draining()
    notifier.send({"STOPPING": "1", "STATUS": summary()}, urgent=True)


async def _ping(notifier: Notifier, service: Watched, summary: Callable[[], str]) -> None:
    await service.wait_registered()  # systemd starts to watch at READY
    # Three pings a period: one that is late or lost does no harm.
    watched = notifier.watchdog_s is not None
    pause = min((notifier.watchdog_s or STATUS_EVERY_S * 3) / 3, STATUS_EVERY_S)
    hung = False
    while True:
        await anyio.sleep(pause)
        hangs = watched and not service.is_beating()
        if hangs and not hung:
            log.error("The heartbeat loop hangs; systemd will restart this process unless it goes on")
        hung = hangs
        ping = {"WATCHDOG": "1"} if watched and not hangs else {}
        notifier.send({**ping, "STATUS": summary()})
