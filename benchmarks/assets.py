"""A large asset: what passes through a worker's hands must not pass through its memory."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from benchmarks.harness import Arena, BenchError, Server
from benchmarks.means import DEADLINE_S, SQL, ready_workers
from benchmarks.results import Table
from benchmarks.systems import DREAMCUTS, Entry

LARGE_MB = 200
SMALL_MB = 1
CHUNK = bytes(256 * 1024)
WORKER = Entry("asset", "DreamCuts", DREAMCUTS, 0, "", program="asset_worker")


def large_assets(_server: Server, arena: Arena, _scale: float) -> Table:
    """A worker's memory before, while and after it passes a large file into storage."""
    rows = []
    with file_server() as url:
        for kind, name in (("video", "MP4"), ("audio", "WAV")):
            arena.reset()
            with ready_workers(arena, WORKER, 1) as (worker,):
                pass_on(arena, f"{url}/{kind}/{SMALL_MB}", kind)  # what a first job loads is loaded
                worker.forget_peak()
                before = worker.resident_mb()
                began = time.monotonic()
                pass_on(arena, f"{url}/{kind}/{LARGE_MB}", kind)
                took = time.monotonic() - began
                sizes = (before, worker.peak_mb(), worker.resident_mb())
            rows.append([f"{name}, {LARGE_MB} MB", *(f"{size:.0f}" for size in sizes), f"{took:.1f}"])
    return Table(
        "A large asset",
        "A worker's resident size in MB around one job that downloads a file over HTTP, checks what it is "
        "and stores it in a folder, with the code of the built-in types. A file of "
        f"{SMALL_MB} MB went before.",
        ["file", "before", "peak", "after", "seconds"],
        rows,
    )


def pass_on(arena: Arena, url: str, kind: str) -> None:
    """One job that passes a file on. Raises BenchError if it did not succeed."""
    row = arena.connection.execute(
        SQL["insert_asset_job"].psycopg_text, {"url": url, "kind": kind}
    ).fetchone()
    assert row is not None
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = arena.connection.execute(SQL["job_outcome"].psycopg_text, {"job": row[0]}).fetchone()
        assert found is not None
        status, error = found
        if status == "completed":
            return
        if error is not None:
            raise BenchError(f"an asset was not stored: {error}")
        time.sleep(0.01)
    raise BenchError("an asset was not stored in time")


@contextlib.contextmanager
def file_server() -> Iterator[str]:
    """Serves /video/MB and /audio/MB on the loopback, made while they are sent; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wav_head(size: int) -> bytes:
    """The head of a WAV of `size` bytes in all: 48 kHz, stereo, 16 bits."""
    form = struct.pack("<HHIIHH", 1, 2, 48_000, 48_000 * 4, 4, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size - 8)
        + b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", size - 44)
    )


def mp4_head(size: int) -> bytes:
    """The boxes before the media data of an MP4 of `size` bytes in all: one minute, 1920 x 1080."""
    seconds = 60
    movie = _box(b"mvhd", struct.pack(">4xIIII80x", 0, 0, 1000, seconds * 1000))
    track = _box(b"trak", _box(b"tkhd", struct.pack(">76xII", 1920 << 16, 1080 << 16)))
    head = _box(b"ftyp", b"isom\0\0\2\0isom") + _box(b"moov", movie + track)
    return head + struct.pack(">I", size - len(head)) + b"mdat"


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, kind, megabytes = urlsplit(self.path).path.split("/")
        size = int(megabytes) * 2**20
        head = mp4_head(size) if kind == "video" else wav_head(size)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(head)
        left = size - len(head)
        while left:
            left -= self.wfile.write(CHUNK[:left])

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what is served is of no interest."""
