from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from dreamcuts.sandbox import ffmpeg
from dreamcuts.sandbox.ffmpeg import FfmpegError, probe, run_ffmpeg


def test_probe_reads_a_video_with_sound(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"

    async def work() -> ffmpeg.MediaInfo:
        await run_ffmpeg(
            *("-f", "lavfi", "-i", "testsrc2=s=128x72:r=24:d=1.5"),
            *("-f", "lavfi", "-i", "sine=d=1.5:r=44100", "-ac", "2", "-c:a", "aac", str(path)),
        )
        return await probe(path)

    info = asyncio.run(work())
    assert (info.width, info.height, info.fps) == (128, 72, 24.0)
    assert (info.video_codec, info.audio_codec, info.channels) == ("h264", "aac", 2)
    assert info.has_video and info.has_audio and not info.is_image
    assert info.duration == pytest.approx(1.5, abs=0.06)


@pytest.mark.parametrize(("name", "codec"), [("still.png", "png"), ("still.jpg", "mjpeg")])
def test_probe_knows_a_still(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name

    async def work() -> ffmpeg.MediaInfo:
        await run_ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48", "-frames:v", "1", str(path))
        return await probe(path)

    info = asyncio.run(work())
    assert info.is_image and info.video_codec == codec and not info.has_audio
    assert (info.width, info.height, info.duration) == (64, 48, 0.0)


def test_probe_reads_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"

    async def work() -> ffmpeg.MediaInfo:
        await run_ffmpeg("-f", "lavfi", "-i", "sine=d=2:r=44100", str(path))
        return await probe(path)

    info = asyncio.run(work())
    assert not info.has_video and info.audio_codec == "mp3" and info.channels == 1
    assert info.duration == pytest.approx(2.0, abs=0.1)


def test_probe_refuses_what_is_no_media(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a film")
    with pytest.raises(FfmpegError, match=r"notes\.txt is not readable as media"):
        asyncio.run(probe(path))


def test_bytes_go_in_and_come_out() -> None:
    raw = bytes(range(256)) * 10
    form = ("-f", "u8", "-ar", "8000", "-ac", "1")
    out = asyncio.run(run_ffmpeg(*form, "-i", "pipe:0", *form, "pipe:1", stdin=raw))
    assert out == raw


def test_a_failure_carries_ffmpegs_own_words() -> None:
    with pytest.raises(FfmpegError, match="No such filter: 'nonsense'"):
        asyncio.run(run_ffmpeg("-f", "lavfi", "-i", "nonsense", "-f", "null", "-"))


def test_a_missing_ffmpeg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    def none() -> str:
        raise RuntimeError("no binary")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    monkeypatch.setattr("shutil.which", lambda name: None)
    ffmpeg.ffmpeg_exe.cache_clear()
    try:
        with pytest.raises(FfmpegError, match=r"dreamcuts\[demo\]"):
            ffmpeg.ffmpeg_exe()
    finally:
        ffmpeg.ffmpeg_exe.cache_clear()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here to look for the child in")
def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    target = tmp_path / "endless.wav"

    async def work() -> None:
        task = asyncio.create_task(run_ffmpeg("-re", "-f", "lavfi", "-i", "sine=d=600", str(target)))
        await until(lambda: target.exists() and ffmpeg_writing(target))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not ffmpeg_writing(target)

    asyncio.run(work())


async def until(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def ffmpeg_writing(target: Path) -> bool:
    """Whether a child of this process still has the target on its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid() and str(target).encode() in command:
                return True
    return False
