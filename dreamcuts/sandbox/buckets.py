"""Buckets and objects of the sandbox's Supabase Storage, kept as files on disk."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_KEY = re.compile(r"^[\w/!\-.*'() &$@=;:+,?]+$", re.ASCII)
"""Characters that an object key may hold (storage server, isValidKey)."""


class StorageFault(Exception):
    """An error in the storage server's form. `status` is the inner status code."""

    def __init__(self, status: int, code: str, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.error = error

    @property
    def http_status(self) -> int:
        """The status of the HTTP answer: 400 for nearly all (storage server, error handler)."""
        return self.status if self.status in (429, 500, 544) else 400

    def body(self) -> dict[str, str]:
        """The JSON body."""
        return {"statusCode": str(self.status), "code": self.code, "error": self.error, "message": str(self)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class StoredObject:
    """One object; `name` is its path in the bucket."""

    name: str
    file: Path
    content_type: str
    cache_control: str
    size: int
    etag: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: str = field(default_factory=_now)
    updated_at: str = field(default_factory=_now)

    def metadata(self) -> dict[str, Any]:
        """Size and type as listings give them."""
        return {
            "eTag": f'"{self.etag}"',
            "size": self.size,
            "mimetype": self.content_type,
            "cacheControl": self.cache_control,
            "lastModified": self.updated_at,
            "contentLength": self.size,
            "httpStatusCode": 200,
        }

    def as_info(self, bucket: str) -> dict[str, Any]:
        """The object as `GET /object/info` and the removal answer it."""
        return {
            "id": self.id,
            "name": self.name,
            "bucket_id": bucket,
            "version": self.id,
            "size": self.size,
            "content_type": self.content_type,
            "cache_control": self.cache_control,
            "etag": f'"{self.etag}"',
            "metadata": self.metadata(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "last_modified": self.updated_at,
        }


@dataclass(slots=True)
class Bucket:
    """A named set of objects; a public one can be read without a key."""

    name: str
    folder: Path
    public: bool
    objects: dict[str, StoredObject] = field(default_factory=dict)
    created_at: str = field(default_factory=_now)

    def as_json(self) -> dict[str, Any]:
        """The bucket as `GET /bucket` answers it."""
        return {
            "id": self.name,
            "name": self.name,
            "owner": "",
            "public": self.public,
            "file_size_limit": None,
            "allowed_mime_types": None,
            "created_at": self.created_at,
            "updated_at": self.created_at,
        }


class Buckets:
    """All buckets. Used from the server's event loop only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buckets: dict[str, Bucket] = {}

    def all(self) -> list[Bucket]:
        """Every bucket."""
        return list(self._buckets.values())

    def create(self, name: str, *, public: bool, fresh: bool = False) -> Bucket:
        """Make a bucket; with `fresh` it is an error if it exists."""
        if not name or not _KEY.match(name) or "/" in name:
            raise StorageFault(400, "InvalidBucketName", "Invalid Input", "Bucket name invalid")
        if name in self._buckets:
            if fresh:
                raise StorageFault(409, "ResourceAlreadyExists", "Duplicate", "The resource already exists")
            return self._buckets[name]
        folder = self._folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        bucket = self._buckets[name] = Bucket(name, folder, public)
        return bucket

    def get(self, name: str) -> Bucket:
        """The bucket of that name. Raises StorageFault 404."""
        if name not in self._buckets:
            raise StorageFault(404, "NoSuchBucket", "Bucket not found", "Bucket not found")
        return self._buckets[name]

    def delete(self, name: str) -> None:
        """Remove an empty bucket."""
        bucket = self.get(name)
        if bucket.objects:
            message = "The bucket you tried to delete is not empty"
            raise StorageFault(409, "InvalidRequest", "InvalidRequest", message)
        shutil.rmtree(bucket.folder, ignore_errors=True)
        del self._buckets[name]

    def object(self, bucket: str, path: str) -> StoredObject:
        """An object. Raises StorageFault 404."""
        found = self.get(bucket).objects.get(path)
        if found is None:
            raise StorageFault(404, "NoSuchKey", "not_found", "Object not found")
        return found

    def check_path(self, bucket: str, path: str, *, upsert: bool, must_exist: bool) -> None:
        """Raise StorageFault when `path` cannot be written."""
        objects = self.get(bucket).objects
        if not _KEY.match(path) or any(part in ("", ".", "..") for part in path.split("/")):
            raise StorageFault(400, "InvalidKey", "InvalidKey", f"Invalid key: {path}")
        if must_exist and path not in objects:
            raise StorageFault(404, "NoSuchKey", "not_found", "Object not found")
        if not upsert and path in objects:
            raise StorageFault(409, "ResourceAlreadyExists", "Duplicate", "The resource already exists")

    def put(self, bucket: str, path: str, data: bytes, content_type: str, cache_control: str) -> StoredObject:
        """Write an object, replacing what is there. The file's name is the content's hash, so readers of an
        old version keep reading the old one."""
        owner = self.get(bucket)
        etag = hashlib.sha256(data).hexdigest()[:32]
        file = owner.folder / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}-{etag}"
        file.write_bytes(data)
        old = owner.objects.get(path)
        stored = StoredObject(path, file, content_type, cache_control, len(data), etag)
        if old is not None:
            stored.id, stored.created_at = old.id, old.created_at
            if old.file != file:
                old.file.unlink(missing_ok=True)
        owner.objects[path] = stored
        return stored

    def remove(self, bucket: str, paths: list[str]) -> list[StoredObject]:
        """Remove objects; those that do not exist are passed over."""
        owner = self.get(bucket)
        gone = [owner.objects.pop(path) for path in paths if path in owner.objects]
        for stored in gone:
            stored.file.unlink(missing_ok=True)
        return gone

    def listing(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The objects and folders directly below a folder; folders have no id."""
        start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, stored in self.get(bucket).objects.items():
            if not path.startswith(start):
                continue
            name, slash, _ = path[len(start) :].partition("/")
            if slash:
                entries.setdefault(name, {"name": name, "id": None, "metadata": None})
            else:
                times = {"created_at": stored.created_at, "updated_at": stored.updated_at}
                entries[name] = {"name": name, "id": stored.id, "metadata": stored.metadata(), **times}
        return list(entries.values())
