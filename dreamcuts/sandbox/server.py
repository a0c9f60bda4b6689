"""The sandbox's HTTP server: all providers on one port, each under its own prefix."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from dreamcuts.sandbox import control, elevenlabs, fal, shotstack, supabase
from dreamcuts.sandbox.billing import Bill, Billing
from dreamcuts.sandbox.faults import Fault, Faults, Rule
from dreamcuts.sandbox.gate import Gate, SandboxProtocol
from dreamcuts.sandbox.state import Options, RequestLog, SandboxState

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0


def make_app(state: SandboxState) -> Starlette:
    """The ASGI application of one sandbox."""
    routes: list[BaseRoute] = [
        Mount("/elevenlabs", routes=elevenlabs.routes(state)),
        Mount("/fal", routes=fal.routes(state)),
        Mount("/shotstack", routes=shotstack.routes(state)),
        Mount("/supabase/storage/v1", routes=supabase.routes(state)),
        Mount("/files", app=StaticFiles(directory=state.files)),
        Mount("/_sandbox", routes=control.routes(state)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Gate, state=state)])


class Sandbox:
    """A running sandbox. Make one with `Sandbox.running()`, or run one in the foreground with `serve`."""

    def __init__(self, state: SandboxState, url: str, stop: Callable[[], None]) -> None:
        self.state = state
        self.url = url
        self.stop = stop
        """Asks it to end before its `with` block does. Returns at once."""

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, port: int = 0, folder: Path | None = None, *, speed: float = 1.0, host: str = "127.0.0.1"
    ) -> Iterator[Self]:
        """Run a sandbox in a background thread for the time of a `with` block.

        `port` 0 lets the system choose one. `folder` keeps what was made; without it a temporary folder is
        used and removed. `speed` shortens simulated waiting. Raises OSError when the port is taken.
        """
        with _folder(folder) as path, _listener(host, port) as listener:
            state = SandboxState(path, options=Options(speed=speed))
            server = _Server(state)
            sandbox = cls(state, _url(host, listener), server.stop)
            thread = threading.Thread(
                target=lambda: asyncio.run(server.run_on(listener)), name="dreamcuts-sandbox", daemon=True
            )
            thread.start()
            try:
                if not server.ready.wait(START_TIMEOUT):
                    raise RuntimeError("The sandbox did not start; its log says why.")
                yield sandbox
            finally:
                server.stop()
                thread.join(STOP_TIMEOUT)

    def environment(self) -> dict[str, str]:
        """The settings by which a worker reaches this sandbox, under their environment names."""
        keys = self.state.keys
        return {
            "ELEVENLABS_BASE_URL": f"{self.url}/elevenlabs",
            "ELEVENLABS_API_KEY": keys.elevenlabs,
            "FAL_QUEUE_URL": f"{self.url}/fal",
            "FAL_KEY": keys.fal,
            "SHOTSTACK_BASE_URL": f"{self.url}/shotstack",
            "SHOTSTACK_API_KEY": keys.shotstack,
            "SUPABASE_URL": f"{self.url}/supabase",
            "SUPABASE_SERVICE_ROLE_KEY": keys.supabase,
            "ALLOW_PRIVATE_URLS": "true",
        }

    @property
    def billing(self) -> Billing:
        """What was billed so far."""
        return self.state.billing

    @property
    def faults(self) -> Faults:
        """The fault rules in force."""
        return self.state.faults

    @property
    def requests(self) -> RequestLog:
        """The requests so far."""
        return self.state.requests

    @property
    def options(self) -> Options:
        """Settings that can be changed while it runs: speed, concurrency limits."""
        return self.state.options

    def bills(self, provider: str | None = None, endpoint: str | None = None) -> list[Bill]:
        """The bills so far, of one provider and endpoint or of all."""
        return self.billing.bills(provider, endpoint)

    def fail(
        self,
        kind: str,
        *,
        provider: str | None = None,
        match: str | None = None,
        pattern: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        **fault: Any,
    ) -> Rule:
        """Put a fault rule in force: `sandbox.fail("status", provider="fal", status=503, times=2)`."""
        return self.faults.add(
            Rule(
                provider=provider,
                match=match,
                pattern=pattern,
                method=method,
                times=times,
                fault=Fault.model_validate({"kind": kind, **fault}),
            )
        )

    def reset(self) -> None:
        """Forget faults, bills and the request log; files and running requests stay."""
        for part in (self.faults, self.billing, self.requests):
            part.clear()


async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    folder: Path | None = None,
    *,
    speed: float = 1.0,
    on_ready: Callable[[Sandbox], None] | None = None,
) -> None:
    """Run a sandbox in the foreground until SIGINT or SIGTERM (or until the task is cancelled).

    `on_ready` is called once it answers, e.g. to print `sandbox.environment()`. Must be called in the main
    thread. Raises OSError when the port is taken.
    """
    with _folder(folder) as path, _listener(host, port) as listener:
        state = SandboxState(path, options=Options(speed=speed))
        server = _Server(state)
        sandbox = Sandbox(state, _url(host, listener), server.stop)
        if on_ready is not None:
            server.on_ready = lambda: on_ready(sandbox)
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, server.stop)
        try:
            await server.run_on(listener)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn without signal handling of its own, which says when it is ready and ends the sandbox's work."""

    def __init__(self, state: SandboxState) -> None:
        config = uvicorn.Config(
            make_app(state),
            http=SandboxProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.state = state
        self.ready = threading.Event()
        self.on_ready: Callable[[], None] = lambda: None
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Ask the server to end; it does within a moment. May be called from any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def main_loop(self) -> None:
        """uvicorn's loop, which looks ten times a second whether to stop; `stop` wakes it earlier."""
        tick = 0
        while not await self.on_tick(tick):
            tick = (tick + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), 0.1)

    async def run_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until `stop`, then end all background work."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._serve([listener])
        finally:
            await self.state.aclose()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.state.closing.set()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dreamcuts-sandbox-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary).resolve()


@contextlib.contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    shown = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104  (shown, not bound)
    return f"http://{shown}:{listener.getsockname()[1]}"
