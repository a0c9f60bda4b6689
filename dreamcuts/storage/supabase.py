"""Assets in a bucket of Supabase Storage, through the supabase client.

The client retries nothing by itself; an upload is tried again here, a few times and shortly, because what
it stores is already paid for. Uploads replace what is there (`upsert`), so a repetition leaves one file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from dreamcuts.errors import ErrorClass
from dreamcuts.storage.base import Asset
from dreamcuts.storage.paths import StorageFailed, checked_path, digest

TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # the client's own default, 20 s, is too short for videos
RETRY_DELAYS_S = (0.5, 2.0)
SIGNED_FOR_S = 7 * 24 * 3600  # a render, its retries and a look at it by people all come within a week
CACHE_S = "3600"

ERROR_CLASSES: dict[int, tuple[ErrorClass, str]] = {
    # Status in the body (the HTTP status is 400 for nearly all of them): class, and the way out.
    400: (ErrorClass.INVALID_REQUEST, ""),
    401: (ErrorClass.AUTH, "Check SUPABASE_SERVICE_ROLE_KEY."),
    403: (ErrorClass.AUTH, "Check SUPABASE_SERVICE_ROLE_KEY: it must be the service role's."),
    404: (ErrorClass.INVALID_REQUEST, "Create the bucket, or name another with STORAGE_BUCKET."),
    409: (ErrorClass.TRANSIENT, ""),  # two writers at once; an upsert succeeds the next time
    413: (ErrorClass.INVALID_REQUEST, "Raise the bucket's file size limit."),
    415: (ErrorClass.INVALID_REQUEST, "Let the bucket accept this media type."),
    423: (ErrorClass.TRANSIENT, ""),
    429: (ErrorClass.RATE_LIMITED, ""),
}
"""Storage's own error codes by class (Supabase Storage server, error codes); all others are transient."""

T = TypeVar("T")


class SupabaseStorage:
    """Keeps files in a bucket of Supabase Storage; connects on first use.

    An asset's `path` is its key in the bucket; see `object_key`. URLs are the bucket's public ones, or signed
    for a week if the bucket is private.
    """

    def __init__(
        self, url: str, key: str, bucket: str, *, retry_delays: Sequence[float] = RETRY_DELAYS_S
    ) -> None:
        self.bucket = bucket
        self._url, self._key = url, key
        self._retry_delays = retry_delays
        self._http: httpx.AsyncClient | None = None
        self._client: AsyncClient | None = None
        self._public: bool | None = None
        self._opening = anyio.Lock()

    async def save(self, path: str, source: Path, content_type: str) -> Asset:
        """Upload `source` to `path` in the bucket. Raises StorageError."""
        checked_path(path)
        try:
            size, sha256 = await anyio.to_thread.run_sync(digest, source)
        except OSError as error:
            raise StorageFailed(f"{source.name} cannot be read: {error.strerror or error}.") from error
        key = object_key(path)
        files = await self._files()
        options: Any = {"content-type": content_type, "upsert": "true", "cache-control": CACHE_S}
        await self._tried(key, lambda: files.upload(key, source, options))
        return Asset(key, await self._url_of(key), content_type, size, sha256)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
        self._http = self._client = None

    async def _url_of(self, key: str) -> str:
        files = await self._files()
        if self._public is None:
            client = await self._connected()
            self._public = (await self._tried(key, lambda: client.storage.get_bucket(self.bucket))).public
        if self._public:
            return str(await files.get_public_url(key))
        signed = await self._tried(key, lambda: files.create_signed_url(key, SIGNED_FOR_S))
        return str(signed["signedUrl"])

    async def _files(self) -> Any:
        client = await self._connected()
        return client.storage.from_(self.bucket)

    async def _connected(self) -> AsyncClient:
        async with self._opening:
            if self._client is None:
                self._http = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=True)
                options = AsyncClientOptions(
                    httpx_client=self._http, auto_refresh_token=False, persist_session=False
                )
                self._client = await acreate_client(self._url, self._key, options)
            return self._client

    async def _tried(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        for delay in self._retry_delays:
            try:
                return await self._once(key, call)
            except StorageFailed as error:
                if error.error_class not in (ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED):
                    raise
            await anyio.sleep(delay)
        return await self._once(key, call)

    async def _once(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        where = f"{key} in bucket {self.bucket!r} of Supabase Storage"
        try:
            return await call()
        except StorageApiError as error:
            error_class, way_out = _classify(error)
            text = " ".join(str(error.message).replace(self._key, "[key]").split())[:300]
            raise StorageFailed(
                f"{where} failed: {text} (status {error.status}, {error.code}). {way_out}".rstrip(),
                error_class=error_class,
            ) from None  # the cause's text is the unredacted answer
        except httpx.HTTPError as error:
            raise StorageFailed(f"{where} failed: {str(error) or type(error).__name__}.") from error


def object_key(path: str) -> str:
    """`path` as a key that Storage accepts: other characters, and `=` itself, become `=` and two hex digits.

    Job ids and asset ids come from the producer and may hold any character; Storage refuses most of them.
    """
    return "".join(
        char if char in _KEY_CHARACTERS else "".join(f"={byte:02X}" for byte in char.encode())
        for char in path
    )


_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/!-.*'() &$@;:+,")
"""What Storage allows in a key (Supabase Storage server, key validation), less `=` and `?`."""


def _classify(error: StorageApiError) -> tuple[ErrorClass, str]:
    status = int(error.status) if str(error.status).isdigit() else 500
    if error.code == "InternalError" and isinstance(error.status, int):
        # The answer was no JSON: a proxy in front of Storage spoke, not Storage itself.
        return ErrorClass.TRANSIENT, ""
    if "jwt" in str(error.code).lower():
        status = 401  # Storage answers a key that it cannot read with 400
    return ERROR_CLASSES.get(status, (ErrorClass.TRANSIENT, ""))
