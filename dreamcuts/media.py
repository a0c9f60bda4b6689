"""What a media file is: kind, length and size, read from its own bytes.

Knows what the providers make: MP3, WAV, MP4 and QuickTime, PNG, JPEG, WebP, GIF. Needs no decoder and no
dependency: production workers have no ffmpeg.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from dreamcuts import mp3

HEAD_BYTES = 64
"""How many leading bytes `sniff` needs."""

_MAX_BOX = 64 * 1024 * 1024

EXTENSIONS = {
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/mp4": ".m4a",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
}


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """A media file. `content_type` is None if the bytes are not known; `duration` is in seconds."""

    content_type: str | None
    duration: float | None = None
    width: int | None = None
    height: int | None = None

    @property
    def kind(self) -> str | None:
        """`image`, `video` or `audio`; None if the bytes are not known."""
        return self.content_type.split("/")[0] if self.content_type else None


def sniff(head: bytes) -> str | None:
    """The content type that the first bytes of a file show (64 are enough); None if they are not known."""
    for signature, content_type in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"ID3", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"\x1aE\xdf\xa3", "video/webm"),
    ):
        if head.startswith(signature):
            return content_type
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return {
            b"qt  ": "video/quicktime",
            b"M4A ": "audio/mp4",
            b"avif": "image/avif",
            b"heic": "image/heic",
            b"mif1": "image/heif",
        }.get(head[8:12], "video/mp4")
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    return None


def probe(path: Path) -> MediaInfo:
    """Read what a file is. Never raises for odd or broken content: what cannot be read is None."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    content_type = sniff(head)
    try:
        match content_type:
            case "audio/mpeg":
                return MediaInfo(content_type, duration=mp3.duration(path.read_bytes()))
            case "audio/wav":
                return MediaInfo(content_type, duration=_wav_duration(path))
            case "image/png":
                return MediaInfo(content_type, None, *struct.unpack(">II", head[16:24]))
            case "image/jpeg":
                return MediaInfo(content_type, None, *_jpeg_size(path.read_bytes()))
            case "image/gif":
                return MediaInfo(content_type, None, *struct.unpack("<HH", head[6:10]))
            case "image/webp":
                return MediaInfo(content_type, None, *_webp_size(head))
            case "video/mp4" | "video/quicktime" | "audio/mp4":
                return _mp4(path, content_type)
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return MediaInfo(content_type)
    return MediaInfo(content_type)


def extension(content_type: str | None) -> str:
    """The usual file extension of a content type, with its dot; `.bin` for an unknown one."""
    return EXTENSIONS.get(content_type or "", ".bin")


def _wav_duration(path: Path) -> float | None:
    """From the chunks' heads, without reading the samples: they may be hundreds of megabytes."""
    end = path.stat().st_size
    with path.open("rb") as file:
        at, byte_rate = 12, 0
        while at + 8 <= end:
            file.seek(at)
            head = file.read(20)
            name, size = head[:4], int.from_bytes(head[4:8], "little")
            if name == b"fmt ":
                byte_rate = int.from_bytes(head[16:20], "little")
            if name == b"data":
                # Streamed WAVs leave the size open (0 or all ones): then the data goes to the file's end.
                return min(size or end, end - at - 8) / byte_rate
            at += 8 + size + size % 2
    return None


def _jpeg_size(data: bytes) -> tuple[int | None, int | None]:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker in (0x01, *range(0xD0, 0xD9)):
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None, None


def _webp_size(head: bytes) -> tuple[int | None, int | None]:
    chunk = head[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None, None


def _mp4(path: Path, content_type: str) -> MediaInfo:
    """Duration from `moov/mvhd`, size from the first `trak/tkhd` that has one (ISO 14496-12)."""
    moov = _moov(path)
    if moov is None:
        return MediaInfo(content_type)
    duration: float | None = None
    width = height = None
    for name, body in _boxes(moov):
        if name == b"mvhd":
            timescale, units = (
                struct.unpack(">IQ", body[20:32]) if body[0] else struct.unpack(">II", body[12:20])
            )
            duration = units / timescale or None
        if name == b"trak" and not width:
            for inner, header in _boxes(body):
                if inner == b"tkhd":
                    w, h = struct.unpack(">II", header[-8:])
                    width, height = (w >> 16) or None, (h >> 16) or None
    return MediaInfo(content_type, duration, width, height)


def _moov(path: Path) -> bytes | None:
    """The `moov` box's content, found without reading the media data."""
    end = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= end:
            file.seek(at)
            header = file.read(16)
            size, used = int.from_bytes(header[:4], "big"), 8
            if size == 1:
                size, used = int.from_bytes(header[8:16], "big"), 16
            size = size or end - at
            if size < used:
                return None
            if header[4:8] == b"moov":
                if size > _MAX_BOX:
                    return None
                file.seek(at + used)
                return file.read(size - used)
            at += size
    return None


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            break
        found.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return found
