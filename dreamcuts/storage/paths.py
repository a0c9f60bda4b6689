"""Names of stored files, and the errors of storing them; the same for every storage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamcuts.errors import ErrorClass, JobError, StorageError

CHUNK = 1024 * 1024
MAX_PATH = 900  # object stores end at 1024 bytes, the bucket's name included


class StorageFailed(StorageError, JobError):
    """A file could not be stored; a StorageError with the ErrorClass that says whether to try again."""


def checked_path(path: str) -> str:
    """`path`, if it is a plain relative path with `/` between its parts. Raises StorageFailed otherwise."""
    parts = path.split("/")
    odd = "\\" in path or any(not char.isprintable() for char in path)
    if odd or len(path.encode()) > MAX_PATH or any(part in ("", ".", "..") for part in parts):
        raise StorageFailed(
            f"{path[:200]!r} is not a path that a file can be stored under: give a relative path of at most "
            f"{MAX_PATH} bytes, with / between its parts and without '.', '..' or control characters.",
            error_class=ErrorClass.INVALID_REQUEST,
        )
    return path


def unsigned(value: Any) -> Any:
    """JSON with its signed URLs less their signatures: what a file is stored under again has a new one.

    The form of the URLs: Supabase Storage API, signed URLs.
    """
    if isinstance(value, str):
        return _SIGNATURE.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {name: unsigned(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [unsigned(item) for item in value]
    return value


_SIGNATURE = re.compile(r"(/object/sign/[^?\s]+)\?token=[^&\s]+")


def digest(source: Path) -> tuple[int, str]:
    """Size in bytes and sha256 in hex of a file. Blocks: call it in a thread."""
    total, sha = 0, hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(CHUNK):
            total += len(chunk)
            sha.update(chunk)
    return total, sha.hexdigest()
