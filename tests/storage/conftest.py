"""Storages to test, each with a way to fetch what was stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from dreamcuts.config import Settings
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage import LocalStorage, Storage, open_storage


@dataclass(frozen=True)
class Shelf:
    """A storage, and `fetch`: what its URL gives."""

    storage: Storage
    fetch: Callable[[str], Awaitable[httpx.Response]]


@pytest.fixture
def settings(sandbox: Sandbox) -> Settings:
    return Settings.load(**{name.lower(): value for name, value in sandbox.environment().items()})


@pytest.fixture(params=["local", "supabase"])
async def shelf(request: pytest.FixtureRequest, sandbox: Sandbox, settings: Settings) -> AsyncIterator[Shelf]:
    storage: Storage
    if request.param == "local":
        # The sandbox serves its files folder, as the health server serves STORAGE_DIR.
        storage = LocalStorage(sandbox.state.files / "assets", f"{sandbox.url}/files/assets")
    else:
        storage = open_storage(settings)
    async with httpx.AsyncClient() as client:
        yield Shelf(storage, client.get)
    await storage.aclose()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.mp3"
    path.write_bytes(b"ID3" + bytes(range(256)) * 20)
    return path
