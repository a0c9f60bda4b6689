"""Lengths and sizes read without a decoder agree with what ffmpeg says of files that it made."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from dreamcuts import mp3
from dreamcuts.media import extension, probe, sniff
from dreamcuts.sandbox.ffmpeg import probe as ffmpeg_probe
from dreamcuts.sandbox.ffmpeg import run_ffmpeg

pytestmark = pytest.mark.anyio


async def tone(target: Path, seconds: float, *options: str) -> Path:
    await run_ffmpeg("-f", "lavfi", "-i", f"sine=440:duration={seconds}", *options, str(target))
    return target


@pytest.mark.parametrize(
    "options",
    [
        ("-b:a", "128k", "-ar", "44100"),
        ("-q:a", "4"),
        ("-b:a", "64k", "-ar", "22050", "-ac", "1"),
        ("-b:a", "192k", "-ar", "48000", "-ac", "2", "-write_xing", "0"),
        ("-b:a", "32k", "-ar", "11025", "-ac", "1"),
    ],
)
async def test_mp3_length(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = await tone(tmp_path / "a.mp3", 3.3, *options)
    info = probe(file)
    assert info.content_type == "audio/mpeg"
    assert info.duration == pytest.approx(3.3, abs=0.11 if "-write_xing" in options else 0.06)


async def test_joined_mp3_is_as_long_as_its_parts(tmp_path: Path) -> None:
    parts = [(await tone(tmp_path / f"{n}.mp3", n, "-b:a", "128k")).read_bytes() for n in (1, 2)]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(mp3.join(parts))

    assert probe(joined).duration == pytest.approx(3.0, abs=0.15)
    assert (await ffmpeg_probe(str(joined))).duration == pytest.approx(3.0, abs=0.15)
    # Every frame is decoded, none reported as damaged.
    await run_ffmpeg("-xerror", "-i", str(joined), "-f", "null", "-")


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.m4a", "aac")])
async def test_other_audio_length(tmp_path: Path, name: str, codec: str) -> None:
    info = probe(await tone(tmp_path / name, 2.5, "-c:a", codec))
    assert info.kind == "audio" and info.duration == pytest.approx(2.5, abs=0.06)


def test_a_large_wav_is_not_read_into_memory(tmp_path: Path) -> None:
    rate, seconds = 48_000 * 4, 1000
    form = struct.pack("<HHIIHH", 1, 2, 48_000, rate, 4, 16)
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    file = tmp_path / "a.wav"
    with file.open("wb") as writer:
        writer.write(head + b"data" + struct.pack("<I", rate * seconds))
        writer.truncate(writer.tell() + rate * seconds)
    tracemalloc.start()
    try:
        assert probe(file).duration == seconds
        assert tracemalloc.get_traced_memory()[1] < 1_000_000, "of 192 MB"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flags", ["+faststart", "+empty_moov"])
async def test_mp4_length_and_size(tmp_path: Path, flags: str) -> None:
    file = tmp_path / "a.mp4"
    source = "testsrc=size=320x180:rate=25:duration=2"
    await run_ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-movflags", flags, str(file))
    info = probe(file)
    assert (info.content_type, info.width, info.height) == ("video/mp4", 320, 180)
    assert info.duration == (pytest.approx(2.0, abs=0.05) if flags == "+faststart" else None)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp"), ("a.gif", "image/gif")],
)
def test_image_size(tmp_path: Path, name: str, content_type: str) -> None:
    from PIL import Image

    for lossless in (False, True):
        file = tmp_path / name
        options = {"lossless": lossless} if name == "a.webp" else {}
        Image.new("RGB", (321, 123), "teal").save(file, **options)
        info = probe(file)
        assert (info.content_type, info.width, info.height) == (content_type, 321, 123)
        assert extension(info.content_type) == Path(name).suffix


async def test_broken_files_are_no_error(tmp_path: Path) -> None:
    whole = [
        (await tone(tmp_path / "a.mp3", 1, "-b:a", "64k")).read_bytes(),
        (await tone(tmp_path / "a.wav", 1)).read_bytes(),
        (await tone(tmp_path / "a.m4a", 1, "-c:a", "aac")).read_bytes(),
    ]
    dice = random.Random(1)
    file = tmp_path / "broken"
    for data in whole:
        for _ in range(150):
            cut = bytearray(data[: dice.randrange(len(data))])
            for _ in range(dice.randrange(8)):
                if cut:
                    cut[dice.randrange(min(len(cut), 400))] = dice.randrange(256)
            file.write_bytes(cut)
            probe(file)  # does not raise, and ends


def test_unknown_bytes_have_no_type() -> None:
    for head in (b"", b"\xff", b"<html>", b"\x00" * 64, b"RIFF1234AVI "):
        assert sniff(head) is None
    assert sniff(b"\xff\xfb\x90\x00") == sniff(b"ID3\x04") == "audio/mpeg"
    assert mp3.duration(b"\xff" * 5000) is None
