"""What every request passes before it reaches a provider: the request log and the faults."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamcuts.sandbox.faults import Fault
from dreamcuts.sandbox.state import SandboxState

TRANSPORT = "dreamcuts.transport"
"""Name of the ASGI extension through which the gate reaches the connection."""

OUTCOME = "dreamcuts.outcome"
"""Scope key under which a fault of the kind `outcome` is handed to fal's submit."""

HOLD_LOOK_S = 0.01
"""Rules are dropped in any thread, so a request that is held looks this often."""

KEY_HEADERS = {b"xi-api-key", b"authorization", b"x-api-key", b"apikey"}


class SandboxProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also tells the application its transport: a fault may cut it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[TRANSPORT] = self.transport
            await inner(scope, receive, send)

        self.app = app


class Gate:
    """ASGI middleware: logs each request to a provider and carries out the fault that a rule asks for."""

    def __init__(self, app: ASGIApp, state: SandboxState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        provider, path = split_path(scope.get("path", "/"))
        if scope["type"] != "http" or provider in ("", "_sandbox"):
            await self.app(scope, receive, send)
            return
        method: str = scope["method"]
        key = any(name in KEY_HEADERS for name, _ in scope["headers"])
        entry = self.state.requests.open(provider, method, path, key)

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            await send(message)

        if not self.state.faults.watches(provider):
            await self.app(scope, receive, noting_send)
            return
        messages, body = await _read_all(receive)
        cleared = self.state.faults.cleared
        fault = self.state.faults.take(provider, method, path, body)
        replay = _replay(messages, receive)
        if fault is None:
            await self.app(scope, replay, noting_send)
        else:
            await self._fail(fault, cleared, scope, replay, noting_send)

    async def _fail(self, fault: Fault, cleared: int, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.kind == "delay":
            await self._pause(fault.seconds or 0.0)
            await self.app(scope, receive, send)
        elif fault.kind == "hold":
            await self._hold(cleared)
            await self.app(scope, receive, send)
        elif fault.kind == "status":
            await _answer(fault, send)
        elif fault.kind == "outcome":
            scope[OUTCOME] = fault
            await self.app(scope, receive, send)
        elif fault.kind == "drop_before":
            await _cut(scope, receive)
        elif fault.kind == "drop_after":
            await self.app(scope, receive, _swallow)
            await _cut(scope, receive)
        else:
            await self._hang(fault.seconds, scope, receive)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than the sandbox lives. Faults are not sped up: tests name real seconds."""
        try:
            await asyncio.wait_for(self.state.closing.wait(), seconds)
        except TimeoutError:
            return

    async def _hold(self, cleared: int) -> None:
        """Wait until the rules are dropped once more than `cleared` times, or the sandbox stops."""
        while self.state.faults.cleared == cleared and not self.state.closing.is_set():
            await self._pause(HOLD_LOOK_S)

    async def _hang(self, seconds: float | None, scope: Scope, receive: Receive) -> None:
        """Answer nothing until the client leaves, the time is over or the sandbox stops; then cut."""
        waits = [
            asyncio.ensure_future(_until_gone(receive)),
            asyncio.ensure_future(self.state.closing.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await _cut(scope, receive)


def split_path(path: str) -> tuple[str, str]:
    """`/fal/fal-ai/flux` -> ("fal", "/fal-ai/flux")."""
    provider, _, rest = path.lstrip("/").partition("/")
    return provider, "/" + rest


async def _read_all(receive: Receive) -> tuple[list[Message], bytes]:
    messages: list[Message] = []
    parts: list[bytes] = []
    while True:
        message = await receive()
        messages.append(message)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return messages, b"".join(parts)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = list(reversed(messages))

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _swallow(message: Message) -> None:
    """Takes an answer that the client shall never see."""


async def _answer(fault: Fault, send: Send) -> None:
    if isinstance(fault.body, str):
        body, kind = fault.body.encode(), "text/plain; charset=utf-8"
    else:
        body, kind = json.dumps(fault.body if fault.body is not None else {}).encode(), "application/json"
    headers = {"content-type": kind, "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in fault.headers.items()}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cut(scope: Scope, receive: Receive) -> None:
    """Close the connection at once, so that the client sees no answer at all."""
    transport: asyncio.Transport = scope["extensions"][TRANSPORT]
    transport.abort()
    await _until_gone(receive)
