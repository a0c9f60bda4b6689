"""Supabase Storage through its own Python client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.multipart import parse_multipart
from dreamcuts.sandbox.state import make_token, read_token

pytestmark = pytest.mark.anyio
MP3 = {"content-type": "audio/mpeg"}


@pytest.fixture
async def client(sandbox: Sandbox, http: httpx.AsyncClient) -> AsyncIterator[AsyncClient]:
    environment = sandbox.environment()
    options = AsyncClientOptions(httpx_client=http)
    yield await acreate_client(
        environment["SUPABASE_URL"], environment["SUPABASE_SERVICE_ROLE_KEY"], options=options
    )


@pytest.fixture
async def bucket(client: AsyncClient) -> Any:
    return client.storage.from_("production-assets")


async def code_of(call: Any) -> tuple[str, str]:
    with pytest.raises(StorageApiError) as caught:
        await call
    return str(caught.value.status), str(caught.value.code)


async def test_upload_and_read_back(bucket: Any, http: httpx.AsyncClient, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40 + b"\r\n--looks like a boundary\r\n"
    source = tmp_path / "speech.mp3"
    source.write_bytes(data)
    answer = await bucket.upload("m1/job tts/speech.mp3", source, MP3)
    assert answer.full_path == "production-assets/m1/job tts/speech.mp3"
    assert await bucket.download("m1/job tts/speech.mp3") == data
    response = await http.get(await bucket.get_public_url("m1/job tts/speech.mp3"))
    assert (response.content, response.headers["content-type"]) == (data, "audio/mpeg")


async def test_part_of_a_file(bucket: Any, http: httpx.AsyncClient) -> None:
    await bucket.upload("a.mp3", b"0123456789", MP3)
    url = await bucket.get_public_url("a.mp3")
    part = await http.get(url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert (await http.head(url)).headers["content-length"] == "10"


async def test_overwrite_only_with_upsert(bucket: Any) -> None:
    await bucket.upload("a.mp3", b"one", MP3)
    assert await code_of(bucket.upload("a.mp3", b"two", MP3)) == ("409", "Duplicate")
    assert await bucket.download("a.mp3") == b"one"
    await bucket.upload("a.mp3", b"two", {**MP3, "upsert": "true"})
    assert await bucket.download("a.mp3") == b"two"
    await bucket.update("a.mp3", b"three", MP3)
    assert await bucket.download("a.mp3") == b"three"
    assert await code_of(bucket.update("none.mp3", b"x", MP3)) == ("404", "not_found")


async def test_raw_upload(sandbox: Sandbox, bucket: Any, http: httpx.AsyncClient) -> None:
    environment = sandbox.environment()
    key = environment["SUPABASE_SERVICE_ROLE_KEY"]
    url = f"{environment['SUPABASE_URL']}/storage/v1/object/production-assets/raw/film.mp4"
    headers = {"authorization": f"Bearer {key}", "content-type": "video/mp4", "x-upsert": "true"}
    for _ in range(2):
        response = await http.post(url, content=b"film", headers=headers)
        assert response.status_code == 200 and response.json()["Key"] == "production-assets/raw/film.mp4"
    assert (await bucket.info("raw/film.mp4"))["content_type"] == "video/mp4"


async def test_signed_urls(bucket: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await bucket.upload("a/b.mp3", b"sound", MP3)
    url = (await bucket.create_signed_url("a/b.mp3", 60))["signedUrl"]
    assert url.startswith(sandbox.url)
    assert (await http.get(url)).content == b"sound"
    assert (await http.get(url[:-3] + "abc")).status_code == 400
    past = make_token(
        {"url": "production-assets/a/b.mp3", "use": "read", "exp": 1}, sandbox.state.keys.supabase_secret
    )
    expired = await http.get(url.split("?")[0], params={"token": past})
    assert "exp" in expired.json()["message"]
    many = await bucket.create_signed_urls(["a/b.mp3", "none"], 60)
    assert (await http.get(many[0]["signedURL"])).content == b"sound"
    assert many[1]["error"]
    assert await code_of(bucket.create_signed_url("none", 60)) == ("404", "not_found")


async def test_signed_upload(bucket: Any) -> None:
    ticket = await bucket.create_signed_upload_url("up/x.mp3")
    await bucket.upload_to_signed_url("up/x.mp3", ticket["token"], b"up", MP3)
    assert await bucket.download("up/x.mp3") == b"up"


async def test_list_info_exists_remove(bucket: Any) -> None:
    for path in ("m/b.mp3", "m/a.mp3", "m/deep/c.mp3"):
        await bucket.upload(path, b"12345", MP3)
    listed = await bucket.list("m")
    assert [(entry["name"], entry["id"] is None) for entry in listed] == [
        ("a.mp3", False),
        ("b.mp3", False),
        ("deep", True),
    ]
    assert listed[0]["metadata"]["size"] == 5
    assert await bucket.exists("m/a.mp3")
    gone = await bucket.remove(["m/a.mp3", "m/none.mp3"])
    assert [entry["name"] for entry in gone] == ["m/a.mp3"]
    assert not await bucket.exists("m/a.mp3")


async def test_copy_and_move(bucket: Any) -> None:
    await bucket.upload("a.mp3", b"x", MP3)
    await bucket.copy("a.mp3", "b.mp3")
    await bucket.move("a.mp3", "c.mp3")
    assert [entry["name"] for entry in await bucket.list()] == ["b.mp3", "c.mp3"]


async def test_buckets(client: AsyncClient, http: httpx.AsyncClient) -> None:
    assert [bucket.id for bucket in await client.storage.list_buckets()] == ["production-assets"]
    await client.storage.create_bucket("private")
    assert await code_of(client.storage.create_bucket("private")) == ("409", "Duplicate")
    private = client.storage.from_("private")
    await private.upload("a.mp3", b"x", MP3)
    refused = await http.get(await private.get_public_url("a.mp3"))
    assert (refused.status_code, refused.json()["statusCode"]) == (400, "404"), "not public"
    await client.storage.empty_bucket("private")
    await client.storage.delete_bucket("private")
    assert await code_of(private.upload("a.mp3", b"x", MP3)) == ("404", "Bucket not found")


async def test_errors_have_the_real_form(bucket: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    assert await code_of(bucket.download("none.mp3")) == ("404", "not_found")
    assert await code_of(bucket.upload("smile☺.mp3", b"x", MP3)) == ("400", "InvalidKey")
    url = f"{sandbox.url}/supabase/storage/v1/object/production-assets/a.mp3"
    wrong = await http.post(url, content=b"x", headers={"authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()["statusCode"], wrong.json()["code"]) == (400, "403", "InvalidJWT")


async def test_upload_over_the_limit(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcuts.sandbox.supabase.MAX_UPLOAD", 1000)
    assert await code_of(bucket.upload("big.mp3", bytes(2000), MP3)) == ("413", "Payload too large")
    assert not await bucket.exists("big.mp3")


def test_form_that_ends_too_early() -> None:
    whole = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\ndata\r\n--b--\r\n'
    [part] = parse_multipart(whole, "multipart/form-data; boundary=b")
    assert (part.filename, part.data) == ("f", b"data")
    for broken in (whole[:-8], b"", b"no form"):
        with pytest.raises(ValueError, match="too early"):
            parse_multipart(broken, "multipart/form-data; boundary=b")


def test_tokens() -> None:
    token = make_token({"a": 1}, "secret")
    assert read_token(token, "secret") == {"a": 1}
    assert read_token(token, "other") is None
    assert read_token("no.token", "secret") is None
