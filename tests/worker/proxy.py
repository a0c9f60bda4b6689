"""A TCP proxy before Postgres whose network can go silent: sockets stay open, and nothing comes through."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import anyio.abc

GONE = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)


class SilentProxy:
    """`dsn` leads to the database through the proxy."""

    def __init__(self, dsn: str, port: int) -> None:
        self._target = urlsplit(dsn).port or 5432
        self.dsn = dsn.replace(f":{self._target}/", f":{port}/")
        self._accepted = 0
        self._silent = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, dsn: str) -> AsyncIterator[SilentProxy]:
        """Run a proxy for the block, on a port that the OS chooses."""
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            proxy = cls(dsn, listener.extra(anyio.abc.SocketAttribute.local_port))
            tasks.start_soon(listener.serve, proxy._serve)
            yield proxy
            tasks.cancel_scope.cancel()

    def silence(self, *, everything: bool = False) -> None:
        """Forward nothing any more: on the connections that exist, or on those to come, too."""
        self._silent = 1_000_000 if everything else self._accepted

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        self._accepted += 1
        number = self._accepted
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self._target) as server,
            anyio.create_task_group() as both,
        ):
            both.start_soon(self._forward, client, server, number, both)
            both.start_soon(self._forward, server, client, number, both)

    async def _forward(
        self,
        source: anyio.abc.SocketStream,
        target: anyio.abc.SocketStream,
        number: int,
        both: anyio.abc.TaskGroup,
    ) -> None:
        with contextlib.suppress(*GONE):
            async for chunk in source:
                if number <= self._silent:
                    await anyio.sleep_forever()
                await target.send(chunk)
        both.cancel_scope.cancel()
