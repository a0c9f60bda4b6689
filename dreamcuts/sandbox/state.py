"""All that one running sandbox knows: keys, folders, bills, faults, the request log and background work."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request

from dreamcuts.sandbox.billing import Billing
from dreamcuts.sandbox.faults import Faults


def make_token(claims: dict[str, Any], secret: str) -> str:
    """A JSON Web Token (HS256), as Supabase uses for its keys and signed URLs."""

    def encode(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    head = encode(b'{"alg":"HS256","typ":"JWT"}')
    body = encode(json.dumps(claims, separators=(",", ":"), sort_keys=True).encode())
    sign = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{encode(sign)}"


def read_token(token: str, secret: str) -> dict[str, Any] | None:
    """The claims of a token that `make_token` made with the same secret; None if it is not one."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if hmac.compare_digest(make_token(claims, secret), token) else None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that the sandbox accepts. They open nothing else, so they are the same in every sandbox."""

    elevenlabs: str = "sk_sandbox_elevenlabs"
    fal: str = "sandbox-fal-id:sandbox-fal-secret"
    shotstack: str = "sandbox-shotstack-key"
    supabase_secret: str = "sandbox-jwt-secret"  # noqa: S105  (signs the sandbox's own tokens only)

    @property
    def supabase(self) -> str:
        """The service-role key: a token, because older supabase clients check that it looks like one."""
        return make_token({"iss": "supabase", "ref": "sandbox", "role": "service_role"}, self.supabase_secret)


@dataclass(slots=True)
class RequestEntry:
    """One request to a provider. `status` is None while it runs and when the connection was dropped."""

    at: float
    provider: str
    method: str
    path: str
    key: bool
    status: int | None = None


class RequestLog:
    """Every request by provider: method, path, status, and whether a key came with it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[RequestEntry] = []

    def open(self, provider: str, method: str, path: str, key: bool) -> RequestEntry:
        """Note a request that has just come in."""
        entry = RequestEntry(time.time(), provider, method, path, key)
        with self._lock:
            self._entries.append(entry)
        return entry

    def entries(
        self, provider: str | None = None, method: str | None = None, path: str = ""
    ) -> list[RequestEntry]:
        """The requests so far, oldest first, filtered by provider, method and a substring of the path."""
        with self._lock:
            return [
                entry
                for entry in self._entries
                if provider in (None, entry.provider)
                and method in (None, entry.method)
                and path in entry.path
            ]

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._entries.clear()


@dataclass(slots=True)
class Options:
    """What can be changed while the sandbox runs (`POST /_sandbox/options`)."""

    speed: float = 1.0
    """All simulated waiting is divided by this; the making of media takes what it takes."""
    fal_queue_seconds: float = 0.3
    """How long a fal request stays IN_QUEUE."""
    elevenlabs_concurrency: int = 10
    """Speech and sound requests that may run at once before ElevenLabs answers 429."""
    music_concurrency: int = 2
    """The same for music."""


@dataclass(frozen=True, slots=True)
class Mouth:
    """Where a picture or video made here shows a mouth, as fractions of its width and height.

    `drift` is how far it moves, in widths per second. Lip sync draws the moving mouth there, on `skin`.
    """

    x: float
    y: float
    width: float
    drift: float = 0.0
    skin: tuple[int, int, int] = (224, 172, 140)


@dataclass
class SandboxState:
    """One sandbox. `folder` holds `files/` (public results), `storage/` (Supabase objects) and `tmp/`."""

    folder: Path
    options: Options = field(default_factory=Options)
    keys: Keys = field(default_factory=Keys)
    billing: Billing = field(default_factory=Billing)
    faults: Faults = field(default_factory=Faults)
    requests: RequestLog = field(default_factory=RequestLog)
    mouths: dict[str, Mouth] = field(default_factory=dict)
    """By sha256 of a file made here, so that it is known again when it comes back under another URL."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    media_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Hold one while pictures, video or music are made, so that the machine is not swamped. Speech and sounds
    take a moment only, and other requests wait for them: they hold none."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for path in (self.files, self.storage, self.temp):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> Path:
        """The folder served as `/files/`."""
        return self.folder / "files"

    @property
    def storage(self) -> Path:
        """The folder of the Supabase buckets."""
        return self.folder / "storage"

    @property
    def temp(self) -> Path:
        """The folder for intermediate files; on the same disk, so that a finished file can be moved."""
        return self.folder / "tmp"

    def new_file(self, suffix: str) -> Path:
        """A path for a new public file, e.g. `new_file(".mp4")`. Nobody else gets the same."""
        return self.files / f"{uuid.uuid4().hex}{suffix}"

    def temp_file(self, suffix: str = "") -> Path:
        """A path for an intermediate file; whoever asks for it removes it."""
        return self.temp / f"{uuid.uuid4().hex}{suffix}"

    def file_url(self, base: str, path: Path) -> str:
        """The URL of a public file, for a client that reached the sandbox at `base`."""
        return f"{base}/files/{path.relative_to(self.files).as_posix()}"

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """Fetches inputs. Ignores proxy settings: inputs lie in this sandbox or beside it."""
        return httpx.AsyncClient(trust_env=False, follow_redirects=True, timeout=60)

    async def wait(self, seconds: float) -> None:
        """Simulated waiting, shortened by the speed."""
        await asyncio.sleep(seconds / self.options.speed)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work in the background until it ends or the sandbox does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Stop all background work and wait for its end."""
        self.closing.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if "http" in self.__dict__:
            await self.http.aclose()


def base_url(request: Request) -> str:
    """Scheme, host and port by which the client reached the sandbox, e.g. `http://127.0.0.1:4711`."""
    host = request.headers.get("host") or "{}:{}".format(*request.scope["server"])
    return f"{request.url.scheme}://{host}"
