"""Bringing a film to a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import DreamCutsError, JobError, StorageError
from dreamcuts.film import fetch_film
from dreamcuts.sandbox import Sandbox


def test_film_in_the_storage_folder_is_copied_from_there(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    (assets / "m1").mkdir(parents=True)
    (assets / "m1" / "the film.mp4").write_bytes(b"film")
    settings = Settings(storage_dir=assets, storage_base_url="https://files.example.com/a/")
    target = tmp_path / "deep" / "film.mp4"
    assert fetch_film("https://files.example.com/a/m1/the%20film.mp4", target, settings) == 4
    assert target.read_bytes() == b"film"
    assert [path.name for path in target.parent.iterdir()] == ["film.mp4"]


def test_url_cannot_lead_out_of_the_storage_folder(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    settings = Settings(storage_dir=tmp_path / "assets", storage_base_url="http://127.0.0.1:1/files")
    with pytest.raises(DreamCutsError):
        fetch_film("http://127.0.0.1:1/files/../secret.mp4", tmp_path / "film.mp4", settings)
    assert not (tmp_path / "film.mp4").exists()


def test_what_is_no_film_leaves_the_old_one(tmp_path: Path, sandbox: Sandbox) -> None:
    target = tmp_path / "film.mp4"
    target.write_bytes(b"old")
    settings = Settings(allow_private_urls=True)
    with pytest.raises(JobError):
        fetch_film(f"{sandbox.url}/_sandbox/billing", target, settings)
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob(".film*"))


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "film.mp4").write_bytes(b"film")
    settings = Settings(storage_dir=tmp_path, storage_base_url="http://127.0.0.1:1/files")
    with pytest.raises(StorageError, match=r"file/film\.mp4"):
        fetch_film("http://127.0.0.1:1/files/film.mp4", tmp_path / "file" / "film.mp4", settings)
