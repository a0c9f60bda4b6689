# ruff: noqa: ASYNC240 - small files of the test itself
from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError, StorageError
from dreamcuts.storage import LocalStorage, open_storage

pytestmark = pytest.mark.anyio

BASE = "http://127.0.0.1:1/files"


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, source: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        await LocalStorage(root, BASE).save("link/deep/a.mp3", source, "audio/mpeg")
    assert list(outside.iterdir()) == []


async def test_a_link_in_the_files_place_is_replaced(tmp_path: Path, source: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.write_text("untouched")
    (root / "a.mp3").symlink_to(secret)
    await LocalStorage(root, BASE).save("a.mp3", source, "audio/mpeg")
    assert secret.read_text() == "untouched"
    assert (root / "a.mp3").read_bytes() == source.read_bytes()


async def test_the_folder_itself_may_be_a_link(tmp_path: Path, source: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    await LocalStorage(tmp_path / "root", BASE).save("m/a.mp3", source, "audio/mpeg")
    assert (tmp_path / "real" / "m" / "a.mp3").exists()


async def test_a_failed_write_leaves_the_old_file_and_no_scrap(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    storage = LocalStorage(root, BASE)
    await storage.save("m/a.mp3", source, "audio/mpeg")
    before = source.read_bytes()
    source.write_bytes(b"new")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            await storage.save("m/a.mp3", source, "audio/mpeg")
    assert [path.name for path in (root / "m").iterdir()] == ["a.mp3"]
    assert (root / "m" / "a.mp3").read_bytes() == before


async def test_writers_of_one_path_never_mix(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "root", BASE)
    contents = [bytes([65 + n]) * 300_000 for n in range(6)]

    async def save(content: bytes, number: int) -> None:
        path = tmp_path / f"source{number}"
        path.write_bytes(content)
        await storage.save("a.bin", path, "application/octet-stream")

    async with anyio.create_task_group() as group:
        for number, content in enumerate(contents):
            group.start_soon(save, content, number)
    assert (tmp_path / "root" / "a.bin").read_bytes() in contents
    assert len(list((tmp_path / "root").iterdir())) == 1


def test_open_storage_takes_the_folder_first(tmp_path: Path) -> None:
    settings = Settings.load(
        storage_dir=tmp_path,
        storage_base_url="https://cdn.example/assets/",
        supabase_url="https://x.supabase.co",
    )
    storage = open_storage(settings)
    assert isinstance(storage, LocalStorage)
    assert storage.url("m/a b.mp3") == "https://cdn.example/assets/m/a%20b.mp3"


def test_open_storage_knows_where_the_health_server_serves_files(tmp_path: Path) -> None:
    settings = Settings.load(storage_dir=tmp_path, enable_health_check=True, health_check_port=8123)
    storage = open_storage(settings)
    assert isinstance(storage, LocalStorage)
    assert storage.url("a") == "http://127.0.0.1:8123/files/a"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, "SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY"),
        ({"supabase_url": "https://x.supabase.co"}, "SUPABASE_SERVICE_ROLE_KEY is not set"),
        ({"storage_dir": Path("x")}, "STORAGE_BASE_URL"),
    ],
)
def test_open_storage_says_what_is_missing(values: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        open_storage(Settings.load(**values))
