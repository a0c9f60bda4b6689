"""Running an application in a thread of its own, with its own event loop.

Beside a worker that is what makes liveness worth asking for: a worker whose event loop hangs is still told
about, and a large download of an asset does not slow the worker down.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette

from dreamcuts.errors import ConfigError

GRACE_S = 1
START_DEADLINE_S = 30.0
NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process that it runs in has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def serving(
    app: Starlette,
    host: str,
    port: int,
    *,
    option: str = "HEALTH_CHECK_PORT",
    host_option: str = "HEALTH_CHECK_HOST",
) -> Iterator[int]:
    """Serve `app` while the block runs; gives the port (chosen by the OS for 0).

    Raises ConfigError, naming `option` or `host_option`, if it cannot listen there.
    """
    listener = listen(host, port, option, host_option)
    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, timeout_graceful_shutdown=GRACE_S
    )
    server = _Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve([listener])), name="health-server", daemon=True
    )
    thread.start()
    try:
        if not server.answers.wait(START_DEADLINE_S):
            raise ConfigError(f"The server on {host}:{port} did not start within {START_DEADLINE_S:.0f} s.")
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_DEADLINE_S)
        listener.close()


@contextlib.asynccontextmanager
async def health_server(
    app: Starlette, host: str, port: int, *, option: str = "HEALTH_CHECK_PORT"
) -> AsyncIterator[int]:
    """As `serving`, without holding up the event loop while it starts and ends."""
    stack = contextlib.ExitStack()
    bound = await anyio.to_thread.run_sync(
        stack.enter_context, serving(app, host, port, option=option), abandon_on_cancel=False
    )
    try:
        yield bound
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)


def listen(
    host: str, port: int, option: str = "HEALTH_CHECK_PORT", host_option: str = "HEALTH_CHECK_HOST"
) -> socket.socket:
    """A socket that listens. Raises ConfigError, naming `option` or `host_option`, if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # So that a restart does not wait for the connections of the last run to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        way_out = f"Set {option} to a free port"
        if error.errno == errno.EACCES:
            way_out = f"Set {option} to a port from 1024 on: those below are the system's"
        elif isinstance(error, socket.gaierror) or error.errno in NO_SUCH_ADDRESS:
            way_out = f"Set {host_option} to an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all"
        other = ", or ENABLE_HEALTH_CHECK=false" if option == "HEALTH_CHECK_PORT" else ""
        raise ConfigError(
            f"The server cannot listen on {host}:{port} ({error.strerror or error}). {way_out}{other}."
        ) from None
    return listener
