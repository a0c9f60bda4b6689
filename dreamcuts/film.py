"""Bringing a finished film from its URL to a file."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import unquote

import anyio

from dreamcuts.config import Settings
from dreamcuts.errors import StorageError
from dreamcuts.storage.download import download, shared_http_client


def fetch_film(url: str, target: Path, settings: Settings) -> int:
    """Write the film behind `url` to `target`, whole or not at all; returns its size in bytes.

    A film kept in STORAGE_DIR is copied from there, for the server of its files may not be running. Raises
    JobError if it cannot be fetched, StorageError if it cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if (local := _local(url, settings)) is not None:
            shutil.copyfile(local, part)
        else:
            anyio.run(_download, url, part, settings)
        size = part.stat().st_size
        part.replace(target)
        return size
    except OSError as error:
        raise StorageError(
            f"The film could not be written to {target}: {error.strerror or error}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


async def _download(url: str, part: Path, settings: Settings) -> None:
    async with shared_http_client(settings) as client:
        await download(client, url, part, settings=settings, expect="video")


def _local(url: str, settings: Settings) -> Path | None:
    if settings.storage_dir is None:
        return None
    base = settings.storage_base_url or f"http://127.0.0.1:{settings.health_check_port}/files"
    prefix = base.rstrip("/") + "/"
    if not url.startswith(prefix):
        return None
    path = (settings.storage_dir / unquote(url.removeprefix(prefix))).resolve()
    return path if path.is_relative_to(settings.storage_dir.resolve()) and path.is_file() else None
