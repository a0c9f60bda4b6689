# ruff: noqa: ASYNC240 - small files of the test itself
from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from storage3.exceptions import StorageApiError

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, JobError, StorageError
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage.supabase import SupabaseStorage, _classify, object_key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storage(settings: Settings) -> AsyncIterator[SupabaseStorage]:
    storage = make(settings)
    yield storage
    await storage.aclose()


def make(settings: Settings, bucket: str = "production-assets", key: str | None = None) -> SupabaseStorage:
    key = key or settings.secret("SUPABASE_SERVICE_ROLE_KEY")
    return SupabaseStorage(settings.supabase_url or "", key, bucket, retry_delays=(0, 0))


async def failure(storage: SupabaseStorage, source: Path) -> JobError:
    with pytest.raises(StorageError) as raised:
        await storage.save("m/a.mp3", source, "audio/mpeg")
    assert isinstance(raised.value, JobError)
    return raised.value


def uploads(sandbox: Sandbox) -> int:
    return len(sandbox.requests.entries("supabase", "POST", "/object/production-assets/"))


async def test_passing_trouble_is_tried_again(
    storage: SupabaseStorage, sandbox: Sandbox, source: Path
) -> None:
    sandbox.fail("status", provider="supabase", match="/object/production-assets/", status=503, times=2)
    asset = await storage.save("m/a.mp3", source, "audio/mpeg")
    assert uploads(sandbox) == 3
    async with httpx.AsyncClient() as client:
        assert (await client.get(asset.url)).content == source.read_bytes()


async def test_a_lost_answer_is_tried_again(storage: SupabaseStorage, sandbox: Sandbox, source: Path) -> None:
    sandbox.fail("drop_after", provider="supabase", match="/object/production-assets/", times=1)
    await storage.save("m/a.mp3", source, "audio/mpeg")
    assert uploads(sandbox) == 2


async def test_lasting_trouble_is_transient(storage: SupabaseStorage, sandbox: Sandbox, source: Path) -> None:
    sandbox.fail("status", provider="supabase", match="/object/production-assets/", status=503, times=None)
    assert (await failure(storage, source)).error_class is ErrorClass.TRANSIENT
    assert uploads(sandbox) == 3


async def test_a_missing_bucket_says_how_to_mend_it(
    settings: Settings, sandbox: Sandbox, source: Path
) -> None:
    storage = make(settings, bucket="nowhere")
    error = await failure(storage, source)
    await storage.aclose()
    assert error.error_class is ErrorClass.INVALID_REQUEST
    assert "STORAGE_BUCKET" in str(error)
    assert "'nowhere'" in str(error)


async def test_a_wrong_key_is_an_account_matter_and_never_shown(settings: Settings, source: Path) -> None:
    key = settings.secret("SUPABASE_SERVICE_ROLE_KEY")[:-6] + "WRONG1"
    storage = make(settings, key=key)
    error = await failure(storage, source)
    await storage.aclose()
    assert error.error_class in (ErrorClass.AUTH, ErrorClass.INVALID_REQUEST)
    assert "SUPABASE_SERVICE_ROLE_KEY" in str(error)
    assert key not in f"{error} {error.detail} {error.__cause__}"


async def test_no_connection_is_transient(source: Path) -> None:
    storage = SupabaseStorage("http://127.0.0.1:9", "key", "b", retry_delays=())
    error = await failure(storage, source)
    await storage.aclose()
    assert error.error_class is ErrorClass.TRANSIENT


async def test_files_of_a_private_bucket_get_signed_urls(settings: Settings, source: Path) -> None:
    headers = {"Authorization": f"Bearer {settings.secret('SUPABASE_SERVICE_ROLE_KEY')}"}
    async with httpx.AsyncClient() as client:
        created = await client.post(
            f"{settings.supabase_url}/storage/v1/bucket",
            json={"id": "quiet", "name": "quiet", "public": False},
            headers=headers,
        )
        assert created.status_code == 200, created.text
        storage = make(settings, bucket="quiet")
        asset = await storage.save("m/a b.mp3", source, "audio/mpeg")
        await storage.aclose()
        assert "token=" in asset.url
        assert (await client.get(asset.url)).content == source.read_bytes()
        assert (await client.get(asset.url.split("?")[0])).status_code != 200


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("Duplicate", "409", ErrorClass.TRANSIENT),
        ("Bucket not found", "404", ErrorClass.INVALID_REQUEST),
        ("not_found", "404", ErrorClass.INVALID_REQUEST),
        ("Unauthorized", "403", ErrorClass.AUTH),
        ("InvalidJWT", "400", ErrorClass.AUTH),
        ("InvalidKey", "400", ErrorClass.INVALID_REQUEST),
        ("Payload too large", "413", ErrorClass.INVALID_REQUEST),
        ("InvalidMimeType", "415", ErrorClass.INVALID_REQUEST),
        ("ResourceLocked", "423", ErrorClass.TRANSIENT),
        ("too_many_connections", "429", ErrorClass.RATE_LIMITED),
        ("Internal", "500", ErrorClass.TRANSIENT),
        ("DatabaseTimeout", "544", ErrorClass.TRANSIENT),
        ("Odd", "none", ErrorClass.TRANSIENT),
        ("InternalError", 403, ErrorClass.TRANSIENT),  # a page of a proxy, not Storage's own answer
    ],
)
def test_errors_have_classes(code: str, status: Any, expected: ErrorClass) -> None:
    assert _classify(StorageApiError("text", code, status))[0] is expected


def test_keys_hold_only_what_storage_accepts_and_stay_apart() -> None:
    assert object_key("m1/job_tts_s1/speech.mp3") == "m1/job_tts_s1/speech.mp3"
    names = ["ü", "=C3=BC", "%", "%25", "#", "?", "=", "a b"]
    keys = [object_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert keys[0] == "=C3=BC"
