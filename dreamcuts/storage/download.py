"""Fetching files from URLs that others chose: a provider's result, a user's asset.

A URL in a payload is input from outside. `download` speaks http(s) only, looks at every address behind the
host name before it connects (and connects to the address that it looked at, so that a second DNS answer
cannot differ), does so again for every redirect, and limits size and time. What a file is, its first bytes
decide: a server's Content-Type is often missing, generic or wrong.

How failures are classed:

    5xx, 408, 425, 429, no connection, a broken or empty body, the time limit   transient
    404   transient: object stores can lag behind the answer that named the URL
    any other 4xx, a wrong type, too large, a forbidden address                 invalid_request

A transient failure is tried again here, a few times and shortly, before it costs the job an attempt: the
file may be the result of a call that is already paid.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, InvalidRequest, JobError
from dreamcuts.media import HEAD_BYTES, sniff
from dreamcuts.providers.rules import retry_after

CHUNK = 256 * 1024
MAX_REDIRECTS = 5
TIME_LIMIT_S = 600.0
RETRY_DELAYS_S = (0.5, 2.0)
RETRIED_STATUSES = frozenset({404, 408, 425, 429})

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Download:
    """A fetched file: where it is, its media type (from its bytes, else the header), its size in bytes."""

    path: Path
    content_type: str
    size: int


def shared_http_client(settings: Settings) -> httpx.AsyncClient:
    """The HTTP client for downloads: one for a whole worker, so that its limits hold for all of them."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(30.0, connect=10.0, pool=None),
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
        headers={"User-Agent": f"dreamcuts/{version('dreamcuts')}"},
        follow_redirects=False,
    )


async def download(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    settings: Settings,
    expect: str,
    time_limit: float = TIME_LIMIT_S,
    retry_delays: Sequence[float] = RETRY_DELAYS_S,
) -> Download:
    """Fetch `url` into the file `target` and check that it is an `expect` ("image", "video", "audio", "any").

    Streams to disk; `target` appears whole or not at all. `time_limit` is in seconds and covers all tries.
    Raises JobError with the class given in the module's table; the URL in its text has no query string.
    """
    shown = display_url(url)
    try:
        with anyio.fail_after(time_limit):
            for delay in retry_delays:
                try:
                    return await _fetch(client, url, target, settings, expect)
                except JobError as error:
                    if error.error_class is not ErrorClass.TRANSIENT or (error.retry_after or 0) > 5:
                        raise
                await anyio.sleep(delay)
            return await _fetch(client, url, target, settings, expect)
    except TimeoutError:
        raise JobError(f"{shown} was not fetched within {time_limit:g} s.") from None


async def is_served(client: httpx.AsyncClient, url: str, *, settings: Settings) -> bool:
    """Whether `url` can be fetched; its body is not read. Raises what httpx raises without an answer."""
    try:
        response = await _open(client, url, settings)
    except JobError:
        return False
    await response.aclose()
    return True


def display_url(url: str) -> str:
    """`url` without user, query and fragment, fit for logs: a signed URL's token is a secret."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        return repr(str(url)[:80])
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))[:300]


async def _fetch(
    client: httpx.AsyncClient, url: str, target: Path, settings: Settings, expect: str
) -> Download:
    part = target.with_name(target.name + ".part")
    try:
        response = await _open(client, url, settings)
        try:
            result = await _write(response, part, display_url(url), settings, expect)
        finally:
            await response.aclose()
        await anyio.Path(part).replace(target)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise JobError(f"{display_url(url)} could not be fetched: {reason}.") from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(part).unlink(missing_ok=True)
    return Download(target, result.content_type, result.size)


async def _open(client: httpx.AsyncClient, url: str, settings: Settings) -> httpx.Response:
    """The answer's headers, after redirects; every hop's address is checked before it is contacted."""
    current = url
    for _ in range(MAX_REDIRECTS + 1):
        response = await _send(client, _parse(current), settings)
        if not response.is_redirect:
            break
        await response.aclose()
        location = response.headers.get("location", "")
        current = str(_parse(current).join(location))
    else:
        raise InvalidRequest(f"{display_url(url)} redirects more than {MAX_REDIRECTS} times.")
    if response.status_code == 200:
        return response
    await response.aclose()
    message = (
        f"{display_url(current)} answered {response.status_code} {response.reason_phrase}".rstrip() + "."
    )
    if response.status_code >= 500 or response.status_code in RETRIED_STATUSES:
        raise JobError(message, retry_after=retry_after(response.headers))
    raise InvalidRequest(message)


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidRequest(f"{display_url(url)} is not a URL: {error}.") from None
    # A host with an escape in it held a character that no host name has.
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host:
        raise InvalidRequest(f"{display_url(url)} cannot be fetched: give an http:// or https:// URL.")
    if parsed.userinfo:
        raise InvalidRequest(f"{display_url(url)} holds a user name or password; give a URL without.")
    return parsed


async def _send(client: httpx.AsyncClient, url: httpx.URL, settings: Settings) -> httpx.Response:
    headers = {"Accept-Encoding": "identity"}
    plain = client.build_request("GET", url, headers=headers)
    if settings.allow_private_urls:
        return await client.send(plain, stream=True)
    if client.trust_env and _proxy_is_set(url):
        # A proxy connects for us, so its own rules say where it may go; what can be checked here, is.
        if _literal(url.host) is not None or proxy_bypass(url.host):
            await checked_addresses(url)
        return await client.send(plain, stream=True)
    addresses = await checked_addresses(url)
    # Pooled connections are told apart by address alone, so a pinned one must not be left for the next host
    # behind the same address: its certificate was checked for this one.
    headers |= {"Host": url.netloc.decode("ascii"), "Connection": "close"}
    failure: httpx.HTTPError | None = None
    for address in addresses[:4]:
        request = client.build_request(
            "GET", url.copy_with(host=str(address)), headers=headers, extensions={"sni_hostname": url.host}
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
    assert failure is not None  # there is at least one address
    raise failure


async def checked_addresses(url: httpx.URL) -> list[IPAddress]:
    """All addresses behind the URL's host. Raises InvalidRequest if any of them is not public."""
    literal = _literal(url.host)
    if literal is not None:
        addresses = [literal]
    else:
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await anyio.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise JobError(f"The host name {url.host!r} cannot be resolved: {error}.") from None
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(info[4][0])) for info in found))
    for address in addresses:
        if not is_public(address):
            raise InvalidRequest(
                f"{display_url(str(url))} points to {address}, which is not a public address. Give a URL "
                "that the internet can reach; for a sandbox on this machine set ALLOW_PRIVATE_URLS=true."
            )
    return addresses


def is_public(address: IPAddress) -> bool:
    """Whether the address belongs to the public internet, also when it hides an IPv4 address in IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _proxy_is_set(url: httpx.URL) -> bool:
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all"))


async def _write(
    response: httpx.Response, part: Path, shown: str, settings: Settings, expect: str
) -> Download:
    limit = settings.max_download_mb * 1024 * 1024
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(shown, settings)
    size, head = 0, b""
    content_type: str | None = None
    async with await anyio.open_file(part, "wb") as file:
        async for chunk in response.aiter_bytes(CHUNK):
            size += len(chunk)
            if size > limit:
                raise _too_large(shown, settings)
            if content_type is None:
                head += chunk
                if len(head) >= HEAD_BYTES:  # a wrong type is refused before the rest is fetched
                    content_type = _checked_type(head, response, shown, expect)
            await file.write(chunk)
    if not size:
        raise JobError(f"{shown} is empty.")
    return Download(part, content_type or _checked_type(head, response, shown, expect), size)


def _checked_type(head: bytes, response: httpx.Response, shown: str, expect: str) -> str:
    declared = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared in _KNOWN_BY_BYTES:
        declared = ""  # asked only if the bytes are not those of such a file
    found = sniff(head) or _document(head) or declared or "application/octet-stream"
    if expect not in ("any", found.split("/")[0]):
        article = "an" if expect[0] in "ai" else "a"
        raise InvalidRequest(f"{shown} is {found}; {article} {expect} is needed here.")
    return found


def _document(head: bytes) -> str | None:
    """The type of a text sent instead of media, e.g. an error page; its header may claim otherwise."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((media_type for sign, media_type in _DOCUMENTS if start.startswith(sign)), None)


_KNOWN_BY_BYTES = ("image/png", "image/jpeg", "image/jpg", "image/gif", "image/webp")
"""Types whose files all begin alike; not so MP3 and MP4, which may begin with other parts."""

_DOCUMENTS = (
    (b"<!doctype html", "text/html"),
    (b"<html", "text/html"),
    (b"<svg", "application/svg+xml"),  # a program to draw, not a picture: nobody here renders it
    (b"<?xml", "application/xml"),
    (b"{", "application/json"),
)


def _too_large(shown: str, settings: Settings) -> InvalidRequest:
    return InvalidRequest(
        f"{shown} is larger than {settings.max_download_mb} MiB. Raise MAX_DOWNLOAD_MB if that is intended."
    )
