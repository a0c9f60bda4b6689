"""The transport under fal's SDK: one request leaves for a call, and it goes to the configured queue.

The SDK retries `httpx.HTTPError` and its own `FalClientHTTPError`, ten times, POSTs included. So no such
error may come up to it: an answer with an error status is raised as Answered, a missing answer as NoAnswer,
and both pass through the SDK untouched. No global of the SDK is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fal_client
import httpx
from fal_client import AsyncClient, AsyncRequestHandle
from fal_client import client as sdk

from dreamcuts.providers.base import Ticket

TIMEOUT_S = 60.0


class Answered(Exception):
    """fal answered with an error status. `body` is its JSON, or its text."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        try:
            self.body: Any = response.json()
        except ValueError:
            self.body = response.text


class NoAnswer(Exception):
    """No answer came. `sent` is false if the request cannot have reached fal."""

    def __init__(self, cause: Exception, *, sent: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.sent = sent


class ForeignUrl(Exception):
    """A URL that is not of the configured queue: the key is not sent there."""


class QueueTransport(httpx.AsyncBaseTransport):
    """Sends to the configured queue what the SDK sends to its fixed address."""

    def __init__(self, queue_url: str) -> None:
        self._queue_url = queue_url.rstrip("/") + "/"
        # A client, not a bare transport: it honours the proxies of the environment, as the SDK's own does.
        self._inner = httpx.AsyncClient(follow_redirects=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request, one answer. Raises Answered, NoAnswer or ForeignUrl; nothing that the SDK retries."""
        request.url = self._target(request.url)
        request.headers["Host"] = request.url.netloc.decode("ascii")
        try:
            response = await self._inner.send(request, stream=True)
            await response.aread()  # here, so that an answer that breaks off is not retried either
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoAnswer(error, sent=False) from error
        except httpx.HTTPError as error:
            raise NoAnswer(error, sent=True) from error
        if response.status_code >= 300:
            await response.aclose()
            raise Answered(response)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    def _target(self, url: httpx.URL) -> httpx.URL:
        text = str(url)
        if text.startswith(self._queue_url):
            return url
        if text.startswith(sdk.QUEUE_URL_FORMAT):
            return httpx.URL(self._queue_url + text[len(sdk.QUEUE_URL_FORMAT) :])
        raise ForeignUrl(f"{url.host} is not the configured queue (FAL_QUEUE_URL)")


class FalClient(AsyncClient):
    """fal's own client on a QueueTransport."""

    def __init__(self, key: str, queue_url: str) -> None:
        super().__init__(key=key, default_timeout=TIMEOUT_S)
        self._http = httpx.AsyncClient(
            transport=QueueTransport(queue_url),
            headers={
                "Authorization": f"Key {key}",
                "User-Agent": f"fal-client/{fal_client.__version__} (python)",
            },
            timeout=TIMEOUT_S,
        )

    @property
    async def _client(self) -> httpx.AsyncClient:
        return self._http

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def handle(self, endpoint: str, ticket: Ticket) -> AsyncRequestHandle:
        """The SDK's handle for a ticket, by fal's own URLs where the ticket has them."""
        handle = await self.get_handle(endpoint, ticket.request_id)
        urls = ticket.detail
        return AsyncRequestHandle(
            request_id=ticket.request_id,
            status_url=urls.get("statusUrl", handle.status_url),
            response_url=urls.get("responseUrl", handle.response_url),
            cancel_url=urls.get("cancelUrl", handle.cancel_url),
            client=self._http,
        )

    async def result(self, handle: AsyncRequestHandle) -> httpx.Response:  # type: ignore[override]
        """The result's whole answer: its headers say what was billed, which the SDK's `get` leaves out."""
        return await self._http.get(handle.response_url, timeout=sdk.QUEUE_POLL_TIMEOUT)
