"""Server-sent events: a page's main part, sent again whenever it has changed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from dreamcuts.errors import DatabaseError

EVERY_S = 2.0
COMMENT_EVERY = 8
"""Turns without a change after which a comment goes out: proxies drop connections that say nothing."""


async def changes(
    request: Request, render: Callable[[], Awaitable[str]], *, every: float = EVERY_S
) -> AsyncIterator[str]:
    """Events: `page` with the new HTML, `trouble` with a sentence while the database does not answer."""
    last, quiet = "", 0
    yield "retry: 3000\n\n"
    while not await request.is_disconnected():
        try:
            html, event = await render(), "page"
        except (DatabaseError, HTTPException) as error:
            html, event = (error.detail if isinstance(error, HTTPException) else str(error)), "trouble"
        digest = hashlib.sha256(f"{event}{html}".encode()).hexdigest()
        if digest != last:
            last, quiet = digest, 0
            data = "".join(f"data: {line}\n" for line in html.splitlines())
            yield f"event: {event}\n{data}\n"
        elif (quiet := quiet + 1) >= COMMENT_EVERY:
            quiet = 0
            yield ": still here\n\n"
        await asyncio.sleep(every)
