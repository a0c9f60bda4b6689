"""What every storage promises."""

# ruff: noqa: ASYNC240 - small files of the test itself
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import anyio
import pytest

from dreamcuts.errors import ErrorClass, JobError, StorageError

pytestmark = pytest.mark.anyio


async def test_a_file_can_be_fetched_by_its_url(shelf: Any, source: Path) -> None:
    asset = await shelf.storage.save("m1/job_tts_s1/speech.mp3", source, "audio/mpeg")

    content = source.read_bytes()
    assert asset.path == "m1/job_tts_s1/speech.mp3"
    assert asset.content_type == "audio/mpeg"
    assert asset.size == len(content)
    assert asset.sha256 == hashlib.sha256(content).hexdigest()
    response = await shelf.fetch(asset.url)
    assert response.status_code == 200
    assert response.content == content
    assert response.headers["content-type"] == "audio/mpeg"


async def test_saving_again_replaces_the_file(shelf: Any, source: Path) -> None:
    first = await shelf.storage.save("m1/a.mp3", source, "audio/mpeg")
    source.write_bytes(b"ID3 other content")
    second = await shelf.storage.save("m1/a.mp3", source, "audio/mpeg")
    assert first.url == second.url
    assert first.sha256 != second.sha256
    assert (await shelf.fetch(second.url)).content == b"ID3 other content"


@pytest.mark.parametrize(
    "name", ["with space.mp3", "ünï.mp3", "100%.mp3", "a%20b.mp3", "q?x=1.mp3", "a#b.mp3"]
)
async def test_odd_names_survive_the_way_into_a_url(shelf: Any, source: Path, name: str) -> None:
    asset = await shelf.storage.save(f"m1/{name}", source, "audio/mpeg")
    assert (await shelf.fetch(asset.url)).content == source.read_bytes()


@pytest.mark.parametrize(
    "path", ["", "/etc/x", "../x", "a/../../x", "a/./x", "a//x", "a\\..\\x", "a/\0", "a/\n", "x" * 2000, ".."]
)
async def test_paths_that_lead_elsewhere_are_refused(shelf: Any, source: Path, path: str) -> None:
    with pytest.raises(StorageError) as raised:
        await shelf.storage.save(path, source, "audio/mpeg")
    assert isinstance(raised.value, JobError)
    assert raised.value.error_class is ErrorClass.INVALID_REQUEST


async def test_a_source_that_is_gone_is_an_error_of_the_storage(shelf: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        await shelf.storage.save("m1/a.mp3", tmp_path / "nothing", "audio/mpeg")


async def test_an_empty_file_and_a_big_one_can_be_stored(shelf: Any, tmp_path: Path) -> None:
    for size in (0, 5 * 1024 * 1024 + 1):
        path = tmp_path / "file"
        path.write_bytes(b"\x01" * size)
        asset = await shelf.storage.save(f"m1/{size}.bin", path, "application/octet-stream")
        assert asset.size == size
        assert len((await shelf.fetch(asset.url)).content) == size


async def test_many_files_can_be_saved_at_once(shelf: Any, source: Path) -> None:
    urls: set[str] = set()

    async def save(number: int) -> None:
        urls.add((await shelf.storage.save(f"m1/{number}.mp3", source, "audio/mpeg")).url)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(save, number)
    assert len(urls) == 12
