"""Running the health server inside a worker's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette

from dreamcuts.errors import ConfigError


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the worker that it runs in has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def health_server(app: Starlette, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while the block runs; gives the port (chosen by the OS for 0).

    Raises ConfigError if the port cannot be had.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    # A task of asyncio, not of a task group: what the block raises must come out as it is.
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await server.answers.wait()
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.shield(serving)
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
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
        raise ConfigError(
            f"The health server cannot listen on {host}:{port} ({error.strerror or error}). "
            "Set HEALTH_CHECK_PORT to a free port, or ENABLE_HEALTH_CHECK=false."
        ) from None
    return listener
