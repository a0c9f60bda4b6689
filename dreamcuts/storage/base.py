"""The storage protocol: where finished assets live.

Imports nothing of the job types, so that a plugin can bring its own storage.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Asset:
    """A stored file. `url` can be fetched by the providers; `size` is in bytes, `sha256` in hex."""

    path: str
    url: str
    content_type: str
    size: int
    sha256: str

    def as_result(self) -> dict[str, Any]:
        """The asset as it stands in a job's result, in the producer's camelCase."""
        fields = asdict(self)
        fields["contentType"] = fields.pop("content_type")
        return fields


class Storage(Protocol):
    """Keeps asset files and gives out URLs for them. Implementations: SupabaseStorage, LocalStorage."""

    async def save(self, path: str, source: Path, content_type: str) -> Asset:
        """Store the file `source` under `path`, streaming it from disk.

        `path` is relative, with `/` between its parts, e.g. `MANIFEST/job_tts_s1/DIGEST/speech.mp3`. Saving
        to a path again replaces what is there, so a repeated attempt leaves one file. Raises StorageError.
        """
        ...

    async def aclose(self) -> None:
        """Close connections. The storage cannot be used afterwards."""
        ...
