"""A provider without a service behind it: charts are drawn in a thread of this process.

It has the shape of a queued provider all the same. A request is a file in a folder; its ticket is the file's
name. Whoever holds the ticket can ask for the chart: a worker that takes a job over after a crash finds the
finished picture, or the request, which it draws. On another machine the folder is another one, and the
answer is that the request is gone; DreamCuts then submits it anew.

    CHARTS_DIR/
      ID.json     a request
      ID.png      its chart, with ID.notes beside it
      ID.error    why it could not be drawn
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import uuid4

import anyio.to_thread

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.rules import REQUEST_GONE
from dreamcuts_charts.drawing import KINDS, draw

KEPT_S = 24 * 3600.0
"""How long a request and its chart are kept, in seconds."""


class ChartsProvider:
    """Draws charts. Endpoints are the kinds of chart: bar, line, pie."""

    name: ClassVar[str] = "charts"
    settings_needed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="charts")
        self._drawing: dict[str, Future[None]] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the provider. CHARTS_DIR names its folder; by default one of the user below the system's."""
        usual = Path(tempfile.gettempdir()) / f"dreamcuts-charts-{os.getuid()}"
        return cls(Path(settings.value("CHARTS_DIR", str(usual))))

    async def aclose(self) -> None:
        """Wait for the chart that is being drawn; leave the others to whoever asks for them."""
        await anyio.to_thread.run_sync(functools.partial(self._thread.shutdown, cancel_futures=True))

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        """Write the request down and begin to draw it."""
        if endpoint not in KINDS:
            raise self._error(
                f"There is no chart {endpoint!r}; there are {', '.join(KINDS)}.", ErrorClass.INVALID_REQUEST
            )
        for key in ("labels", "series", "width", "height"):
            if not request.get(key):
                raise self._error(f"The request has no {key}.", ErrorClass.INVALID_REQUEST)
        number = uuid4().hex
        try:
            await anyio.to_thread.run_sync(self._write, number, {"kind": endpoint, "request": request})
        except OSError as error:
            raise self._error(
                f"CHARTS_DIR {self._folder} cannot be written to: {error.strerror}.", ErrorClass.TRANSIENT
            ) from error
        self._begin(number)
        return Ticket(number)

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        """The chart's file, `{"file": ..., "notes": [...]}`, if it is drawn."""
        number = ticket.request_id
        if re.fullmatch(r"[0-9a-f]{32}", number) is None:
            raise self._error(f"{number!r} is no request of this provider.", code=REQUEST_GONE)
        found = await anyio.to_thread.run_sync(self._find, number)
        if found is None:
            raise self._error(f"The request {number} is not in {self._folder}.", code=REQUEST_GONE)
        if isinstance(found, str):
            raise self._error(f"The chart could not be drawn: {found}", ErrorClass.INVALID_REQUEST)
        if isinstance(found, Done):
            self._drawing.pop(number, None)
            return found
        if number not in self._drawing:
            self._begin(number)  # submitted by a worker that is gone
        return Pending("being drawn")

    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        """Forget the request, unless it is being drawn just now."""
        if future := self._drawing.pop(ticket.request_id, None):
            future.cancel()
        if re.fullmatch(r"[0-9a-f]{32}", ticket.request_id):
            await anyio.to_thread.run_sync(self._remove, ticket.request_id)

    def _begin(self, number: str) -> None:
        self._drawing[number] = self._thread.submit(self._draw, number)

    def _path(self, number: str, kind: str) -> Path:
        return self._folder / f"{number}.{kind}"

    # Called in threads

    def _write(self, number: str, body: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                if path.stat().st_mtime < time.time() - KEPT_S:
                    path.unlink()
        part = self._path(number, "new")
        part.write_text(json.dumps(body), "utf-8")
        part.replace(self._path(number, "json"))

    def _find(self, number: str) -> Done | Pending | str | None:
        chart = self._path(number, "png")
        if chart.exists():
            notes = json.loads(self._path(number, "notes").read_text("utf-8"))
            return Done({"file": str(chart.absolute()), "notes": notes})
        if self._path(number, "error").exists():
            return self._path(number, "error").read_text("utf-8")
        return Pending() if self._path(number, "json").exists() else None

    def _draw(self, number: str) -> None:
        try:
            body = json.loads(self._path(number, "json").read_text("utf-8"))
            drawn = self._path(number, "drawn")
            notes = draw(body["kind"], body["request"], drawn)
            self._path(number, "notes").write_text(json.dumps(notes), "utf-8")
            drawn.replace(self._path(number, "png"))
        except FileNotFoundError:
            return  # cancelled meanwhile
        except Exception as error:
            self._path(number, "error").write_text(f"{type(error).__name__}: {error}", "utf-8")

    def _remove(self, number: str) -> None:
        for kind in ("json", "png", "notes", "error"):
            self._path(number, kind).unlink(missing_ok=True)

    def _error(
        self, text: str, error_class: ErrorClass = ErrorClass.TRANSIENT, *, code: str | None = None
    ) -> ProviderError:
        return ProviderError(text, provider=self.name, error_class=error_class, code=code)
