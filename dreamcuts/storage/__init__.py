"""Where finished assets go: Supabase Storage, or a folder."""

from __future__ import annotations

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.storage.base import Asset, Storage
from dreamcuts.storage.local import LocalStorage

__all__ = ["Asset", "LocalStorage", "Storage", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name: STORAGE_DIR wins, else Supabase. Connects to nothing yet.

    Without STORAGE_BASE_URL a folder's files are taken to be served by the health server of this machine.
    Raises ConfigError that names what is missing.
    """
    if settings.storage_dir is not None:
        base_url = settings.storage_base_url
        if not base_url:
            if not settings.enable_health_check or not settings.health_check_port:
                raise ConfigError(
                    "STORAGE_DIR is set, but nothing says where its files are served: set STORAGE_BASE_URL, "
                    "or ENABLE_HEALTH_CHECK=true with a HEALTH_CHECK_PORT: it serves them at /files."
                )
            base_url = f"http://127.0.0.1:{settings.health_check_port}/files"
        return LocalStorage(settings.storage_dir, base_url)
    if not settings.supabase_url:
        raise ConfigError(
            "There is no place for finished assets: set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY for "
            "Supabase Storage, or STORAGE_DIR for a folder."
        )
    from dreamcuts.storage.supabase import SupabaseStorage  # slow to import, and not always needed

    key = settings.secret("SUPABASE_SERVICE_ROLE_KEY")
    return SupabaseStorage(settings.supabase_url, key, settings.storage_bucket)
