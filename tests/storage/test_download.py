# ruff: noqa: ASYNC240 - small files of the test itself
from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, InvalidRequest, JobError
from dreamcuts.storage import download as module
from dreamcuts.storage.download import Download, display_url, download, is_public, shared_http_client

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 500
MP3 = b"ID3" + b"\0" * 500
MP4 = b"\0\0\0\x18ftypisom" + b"\0" * 500
TRUSTING = Settings.load(allow_private_urls=True, max_download_mb=1)
STRICT = Settings.load(max_download_mb=1)

Handler = Callable[[str], Awaitable[bytes]]


class Server:
    """A raw HTTP server: a handler per path gives the whole answer, so that it can be wrong in any way."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.answers: dict[str, list[bytes]] = {}
        self.drip: dict[str, float] = {}

    def answer(self, path: str, body: bytes = b"", status: str = "200 OK", **headers: str) -> str:
        """Give this answer at `path`; several come in turn, the last again and again. Returns the URL."""
        fields = {"Content-Length": str(len(body)), "Connection": "close"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.answers.setdefault(path, []).append(head.encode() + b"\r\n" + body)
        return self.url + path

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                path = head.split()[1].decode().split("?")[0]
                self.paths.append(path)
                self.heads.append(head.decode())
                queue = self.answers[path]
                answer = queue.pop(0) if len(queue) > 1 else queue[0]
                if path not in self.drip:
                    await stream.send(answer)
                    return
                for at in range(0, len(answer), 50):
                    await stream.send(answer[at : at + 50])
                    await anyio.sleep(self.drip[path])
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        made = Server(listener.extra(anyio.abc.SocketAttribute.local_port))
        group.start_soon(listener.serve, made.handle)
        yield made
        group.cancel_scope.cancel()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with shared_http_client(TRUSTING) as made:
        yield made


@pytest.fixture
def fetch(client: httpx.AsyncClient, tmp_path: Path) -> Callable[..., Awaitable[Download]]:
    def run(
        url: str, expect: str = "any", settings: Settings = TRUSTING, **options: Any
    ) -> Awaitable[Download]:
        options.setdefault("retry_delays", ())
        return download(client, url, tmp_path / "file", settings=settings, expect=expect, **options)

    return run


async def refused(call: Awaitable[Download]) -> JobError:
    with pytest.raises(JobError) as raised:
        await call
    return raised.value


async def test_a_file_is_fetched_and_its_type_comes_from_its_bytes(
    server: Server, fetch: Any, tmp_path: Path
) -> None:
    url = server.answer("/a.bin", PNG, Content_Type="application/octet-stream")
    assert await fetch(url, "image") == Download(tmp_path / "file", "image/png", len(PNG))
    assert (tmp_path / "file").read_bytes() == PNG
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_type_that_bytes_do_not_show_comes_from_the_header(server: Server, fetch: Any) -> None:
    url = server.answer("/a", b"\x01\x02" * 50, Content_Type="Audio/L16; rate=44100")
    assert (await fetch(url, "audio")).content_type == "audio/l16"


@pytest.mark.parametrize(
    ("body", "declared", "expect"),
    [
        (MP3, "image/png", "image"),
        (PNG, "video/mp4", "video"),
        (MP4, "audio/mpeg", "audio"),
        (b"<!DOCTYPE html><title>Not here</title>", "image/png", "image"),
        (b"\n  <html>", "video/mp4", "video"),
        (b'{"error": "expired"}', "audio/mpeg", "audio"),
        (b"<svg xmlns='x'/>", "image/svg+xml", "image"),
        (b"plain", "text/plain", "image"),
        (bytes(range(1, 90)), "image/png", "image"),
        (b"\x00" * 200, "image/jpeg; charset=binary", "image"),
    ],
)
async def test_a_wrong_kind_is_refused_and_leaves_nothing(
    server: Server, fetch: Any, tmp_path: Path, body: bytes, declared: str, expect: str
) -> None:
    error = await refused(fetch(server.answer("/x", body, Content_Type=declared), expect))
    assert error.error_class is ErrorClass.INVALID_REQUEST
    assert f"{expect} is needed here" in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [{}, {"Content_Length": "9000000"}])
async def test_a_file_that_is_too_large_is_refused(
    server: Server, fetch: Any, tmp_path: Path, length: dict[str, str]
) -> None:
    body = PNG + b"\0" * (1024 * 1024)
    error = await refused(fetch(server.answer("/big", body, **length), "image"))
    assert error.error_class is ErrorClass.INVALID_REQUEST
    assert "larger than 1 MiB" in str(error)
    assert "MAX_DOWNLOAD_MB" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_a_large_file_without_a_length_is_stopped_on_the_way(server: Server, fetch: Any) -> None:
    body = b"".join(b"10000\r\n" + b"\x01" * 65536 + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    server.answers["/endless"] = [head + body]
    assert "larger than 1 MiB" in str(await refused(fetch(server.url + "/endless")))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("404 Not Found", ErrorClass.TRANSIENT),
        ("408 Request Timeout", ErrorClass.TRANSIENT),
        ("429 Too Many Requests", ErrorClass.TRANSIENT),
        ("500 Oops", ErrorClass.TRANSIENT),
        ("503 Busy", ErrorClass.TRANSIENT),
        ("400 Bad Request", ErrorClass.INVALID_REQUEST),
        ("403 Forbidden", ErrorClass.INVALID_REQUEST),
        ("410 Gone", ErrorClass.INVALID_REQUEST),
        ("206 Partial Content", ErrorClass.INVALID_REQUEST),
    ],
)
async def test_statuses_have_classes(server: Server, fetch: Any, status: str, expected: ErrorClass) -> None:
    error = await refused(fetch(server.answer("/s", b"x", status)))
    assert error.error_class is expected
    assert status[:3] in str(error)


async def test_passing_trouble_is_tried_again(server: Server, fetch: Any) -> None:
    server.answer("/late", b"", "404 Not Found")
    server.answer("/late", b"", "503 Busy")
    url = server.answer("/late", PNG)
    assert (await fetch(url, "image", retry_delays=(0, 0))).size == len(PNG)
    assert server.paths == ["/late"] * 3


async def test_what_will_not_pass_is_not_tried_again(server: Server, fetch: Any) -> None:
    await refused(fetch(server.answer("/no", b"", "403 Forbidden"), retry_delays=(0, 0)))
    assert server.paths == ["/no"]


async def test_a_long_retry_after_is_left_to_the_queue(server: Server, fetch: Any) -> None:
    url = server.answer("/busy", b"", "429 Too Many Requests", Retry_After="120")
    assert (await refused(fetch(url, retry_delays=(0, 0)))).retry_after == 120
    assert server.paths == ["/busy"]


async def test_a_retry_after_counts_from_the_answer_s_date_and_has_an_end(server: Server, fetch: Any) -> None:
    sent, until = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:30:00 GMT"
    url = server.answer("/busy", b"", "503 Busy", Retry_After=until, Date=sent)
    assert (await refused(fetch(url))).retry_after == 120
    url = server.answer("/for-ever", b"", "503 Busy", Retry_After="99999999")
    assert (await refused(fetch(url))).retry_after == 3600


@pytest.mark.parametrize("body", [b"", PNG[:100]])
async def test_an_empty_or_broken_body_is_transient(
    server: Server, fetch: Any, tmp_path: Path, body: bytes
) -> None:
    length = {"Content_Length": "600"} if body else {}
    error = await refused(fetch(server.answer("/part", body, **length), "image"))
    assert error.error_class is ErrorClass.TRANSIENT
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_drips_runs_into_the_time_limit(
    server: Server, fetch: Any, tmp_path: Path
) -> None:
    server.drip["/slow"] = 0.2
    error = await refused(fetch(server.answer("/slow", PNG * 50), time_limit=0.5))
    assert error.error_class is ErrorClass.TRANSIENT
    assert "within 0.5 s" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_a_failed_download_keeps_the_file_that_was_there(
    server: Server, fetch: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"before")
    await refused(fetch(server.answer("/x", MP3), "image"))
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a",
        "data:image/png;base64,AAAA",
        "gopher://example.com",
        "/just/a/path",
        "http://",
        "",
        "http://user:hunter2@example.com/a.png",
        "http://[bad/",
    ],
)
async def test_only_plain_http_urls_are_fetched(fetch: Any, url: str) -> None:
    for settings in (STRICT, TRUSTING):
        error = await refused(fetch(url, settings=settings))
        assert error.error_class is ErrorClass.INVALID_REQUEST
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fc00::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[ff02::1]",
    ],
)
async def test_private_addresses_are_refused(fetch: Any, host: str) -> None:
    error = await refused(fetch(f"http://{host}/x", settings=STRICT))
    assert isinstance(error, InvalidRequest)
    assert "not a public address" in str(error)
    assert "ALLOW_PRIVATE_URLS" in str(error)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names and their addresses for the test; the resolver knows no others."""
    known: dict[str, list[str]] = {}

    async def lookup(host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(module.anyio, "getaddrinfo", lookup)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return known


async def test_a_name_with_any_private_address_is_refused(fetch: Any, names: dict[str, list[str]]) -> None:
    names["mixed.example"] = ["8.8.8.8", "127.0.0.1"]
    error = await refused(fetch("http://mixed.example/x", settings=STRICT))
    assert "127.0.0.1, which is not a public address" in str(error)


async def test_an_unknown_name_is_transient(fetch: Any, names: dict[str, list[str]]) -> None:
    error = await refused(fetch("http://nowhere.example/x", settings=STRICT))
    assert error.error_class is ErrorClass.TRANSIENT
    assert "nowhere.example" in str(error)


async def test_the_checked_address_is_the_one_connected_to(
    server: Server, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The name resolves nowhere but in the check: connecting by name would fail.
    names["files.example"] = ["127.0.0.1"]
    monkeypatch.setattr(module, "is_public", lambda address: True)
    url = server.answer("/a.png", PNG).replace("127.0.0.1", "files.example")
    async with shared_http_client(STRICT) as client:
        await download(client, url, tmp_path / "f", settings=STRICT, expect="image", retry_delays=())
    port = server.url.rsplit(":", 1)[1]
    assert f"Host: files.example:{port}\r\n" in server.heads[0]


async def test_a_redirect_is_followed(server: Server, fetch: Any) -> None:
    server.answer("/real", PNG)
    url = server.answer("/moved", b"", "302 Found", Location="/real")
    assert (await fetch(url, "image")).size == len(PNG)
    assert server.paths == ["/moved", "/real"]


async def test_a_redirect_to_a_private_address_is_refused(
    server: Server, fetch: Any, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["front.example"] = [
        "127.0.0.1"
    ]  # stands for a public server; the next hop is the real one's neighbour
    names["inner.example"] = ["127.0.0.2"]
    monkeypatch.setattr(module, "is_public", lambda address: str(address) == "127.0.0.1")
    port = server.url.rsplit(":", 1)[1]
    server.answer("/out", b"", "302 Found", Location=f"http://inner.example:{port}/secret")
    server.answer("/secret", PNG)
    error = await refused(fetch(f"http://front.example:{port}/out", settings=STRICT))
    assert "127.0.0.2, which is not a public address" in str(error)
    assert server.paths == ["/out"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/y"])
async def test_a_redirect_to_another_scheme_is_refused(server: Server, fetch: Any, location: str) -> None:
    error = await refused(fetch(server.answer("/out", b"", "302 Found", Location=location)))
    assert error.error_class is ErrorClass.INVALID_REQUEST


async def test_redirects_in_a_circle_end(server: Server, fetch: Any) -> None:
    error = await refused(fetch(server.answer("/round", b"", "302 Found", Location="/round")))
    assert error.error_class is ErrorClass.INVALID_REQUEST
    assert "redirects more than 5 times" in str(error)
    assert len(server.paths) == 6


async def test_no_connection_is_transient(fetch: Any) -> None:
    with socket.socket() as probe:  # bound, but not listening: nobody else takes the port meanwhile
        probe.bind(("127.0.0.1", 0))
        error = await refused(fetch(f"http://127.0.0.1:{probe.getsockname()[1]}/x"))
    assert error.error_class is ErrorClass.TRANSIENT


def test_a_shown_url_has_no_secrets() -> None:
    assert display_url("https://u:p@e.x/a.png?token=s3cret#f") == "https://e.x/a.png"
    assert "s3cret" not in display_url("http://[bad?token=s3cret"[:20])
