"""Run ffmpeg as a child process and read what it says about a media file.

There is no ffprobe in the wheel that brings ffmpeg, so `probe` parses the stream lines that
`ffmpeg -i` prints. Their form has been the same for many releases; the tests make the files they read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import shutil
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

_STDERR_TAIL = 2000
_DURATION = re.compile(r"^\s*Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", re.MULTILINE)
_STREAM = re.compile(r"^\s*Stream #\d+:\d+[^:]*: (Video|Audio): ([^\s,]+)(.*)$", re.MULTILINE)
_SIZE = re.compile(r"[ ,](\d{1,5})x(\d{1,5})[ ,\[]")
_FPS = re.compile(r"([\d.]+)(k?) (?:fps|tbr)\b")
_STILL_CODECS = frozenset({"png", "mjpeg", "bmp", "webp", "gif", "tiff"})
_STILL_INPUTS = re.compile(r"^Input #0, (?:image2|png_pipe|jpeg_pipe|bmp_pipe|webp_pipe|gif|tiff_pipe)", re.M)


class FfmpegError(Exception):
    """ffmpeg failed, or could not be found; the text ends with the last lines it printed."""


@dataclass(frozen=True)
class MediaInfo:
    """What a media file holds. `duration` is in seconds, 0.0 where the format has none (a still image)."""

    duration: float
    width: int
    height: int
    fps: float
    video_codec: str | None
    audio_codec: str | None
    has_audio: bool
    has_video: bool
    is_image: bool = False
    channels: int = 0


@functools.cache
def ffmpeg_exe() -> str:
    """Return the path of ffmpeg: the one of imageio-ffmpeg, else the system's.

    Raises `FfmpegError` when there is neither.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError):
        system = shutil.which("ffmpeg")
    if system is None:
        raise FfmpegError(
            "ffmpeg is needed to make media and none was found. Install the extra that brings it:"
            " pip install 'dreamcuts[demo]' (or put an ffmpeg on the PATH)."
        )
    return system


async def run_ffmpeg(*args: str, stdin: bytes | None = None) -> bytes:
    """Run ffmpeg quietly with `args` and return what it wrote to stdout.

    `stdin` is fed to the child (use `pipe:0` as its input). Raises `FfmpegError` with the end of its
    messages when it fails. The child is killed when the caller is cancelled.
    """
    quiet = ["-hide_banner", "-y", "-loglevel", "error"]
    if stdin is None:
        quiet.append("-nostdin")
    code, out, err = await _communicate([*quiet, *args], stdin)
    if code != 0:
        raise FfmpegError(_tail(err) or f"ffmpeg ended with status {code} and no message")
    return out


async def probe(path_or_url: str | Path) -> MediaInfo:
    """Return what a media file or URL holds. Raises `FfmpegError` when it cannot be read as media."""
    _, _, err = await _communicate(["-hide_banner", "-nostdin", "-i", str(path_or_url)], None)
    text = err.decode("utf-8", "replace")
    if "\nInput #0" not in "\n" + text:
        raise FfmpegError(f"{path_or_url} is not readable as media: {_tail(err)}")
    return _parse(text)


async def _communicate(args: Sequence[str], stdin: bytes | None) -> tuple[int, bytes, bytes]:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            ffmpeg_exe(),
            *args,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A session of its own: Ctrl-C in a terminal reaches us only, and we end the child ourselves.
            start_new_session=True,
        )
    )
    try:
        # Shielded, because a cancellation in the middle of the start would lose the child.
        process = await asyncio.shield(starting)
        out, err = await process.communicate(stdin)
    except BaseException:
        await _to_the_end(_kill(starting))
        raise
    return process.returncode or 0, out, err


async def _kill(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """Kill a child, reap it and read its pipes to their end, so that nothing of it is left in the loop."""
    try:
        process = await starting
    except OSError:
        return
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.communicate()


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Await something short to its end, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def _parse(text: str) -> MediaInfo:
    found = _DURATION.search(text)
    duration = 0.0
    if found is not None:
        duration = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    width = height = 0
    fps = 0.0
    video_codec: str | None = None
    audio_codec: str | None = None
    channels = 0
    for kind, codec, rest in _STREAM.findall(text):
        if kind == "Audio":
            if audio_codec is None:
                audio_codec, channels = codec, _channels(rest)
        elif video_codec is None and "attached pic" not in rest:
            video_codec = codec
            if (size := _SIZE.search(rest)) is not None:
                width, height = int(size[1]), int(size[2])
            if (rate := _FPS.search(rest)) is not None:
                fps = float(rate[1]) * (1000 if rate[2] else 1)
    is_image = video_codec in _STILL_CODECS and audio_codec is None and bool(_STILL_INPUTS.search(text))
    return MediaInfo(
        duration=0.0 if is_image and video_codec != "gif" else duration,
        width=width,
        height=height,
        fps=fps,
        video_codec=video_codec,
        audio_codec=audio_codec,
        has_audio=audio_codec is not None,
        has_video=video_codec is not None,
        is_image=is_image,
        channels=channels,
    )


def _channels(layout: str) -> int:
    named = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}
    found = re.search(r"Hz, (mono|stereo|5\.1|7\.1|(\d+) channels)", layout)
    return 0 if found is None else int(found[2]) if found[2] else named[found[1]]


def _tail(err: bytes) -> str:
    return err.decode("utf-8", "replace").strip()[-_STDERR_TAIL:]
