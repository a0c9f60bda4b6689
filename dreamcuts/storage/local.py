"""Assets in a folder of this machine, for the demo, for tests and for a single-machine set-up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import anyio.to_thread

from dreamcuts.errors import ErrorClass
from dreamcuts.storage.base import Asset
from dreamcuts.storage.paths import CHUNK, StorageFailed, checked_path


class LocalStorage:
    """Keeps files under `root`, which something else serves at `base_url` (the health server's /files).

    A file appears whole or not at all, also when two attempts write it at once or the machine stops. Nothing
    is written outside of `root`, whatever the path says and wherever symbolic links in it lead.
    """

    def __init__(self, root: Path, base_url: str) -> None:
        self.root = root
        self.base_url = base_url.rstrip("/")

    async def save(self, path: str, source: Path, content_type: str) -> Asset:
        """Copy `source` to `root/path`. Raises StorageError."""
        checked_path(path)
        try:
            size, sha256 = await anyio.to_thread.run_sync(self._copy, path, source)
        except OSError as error:
            raise StorageFailed(
                f"{path} could not be written to STORAGE_DIR {self.root}: {error.strerror or error}."
            ) from error
        return Asset(path, self.url(path), content_type, size, sha256)

    def url(self, path: str) -> str:
        """The URL of a stored file."""
        return f"{self.base_url}/{quote(path)}"

    async def aclose(self) -> None:
        """Nothing to close."""

    def _copy(self, path: str, source: Path) -> tuple[int, str]:
        target = self.root / path
        self.root.mkdir(parents=True, exist_ok=True)
        self._check_inside(path, target.parent)  # before mkdir, which would follow a link out of the folder
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid4().hex}.part")
        size, sha = 0, hashlib.sha256()
        try:
            with source.open("rb") as reader, part.open("xb") as writer:
                while chunk := reader.read(CHUNK):
                    size += len(chunk)
                    sha.update(chunk)
                    writer.write(chunk)
                writer.flush()
                os.fsync(writer.fileno())
            part.replace(target)  # replaces a link in the target's place, never what it points to
        finally:
            part.unlink(missing_ok=True)
        return size, sha.hexdigest()

    def _check_inside(self, path: str, folder: Path) -> None:
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise StorageFailed(
                f"{path} leads out of STORAGE_DIR {self.root} by a symbolic link; remove the link.",
                error_class=ErrorClass.INVALID_REQUEST,
            )
