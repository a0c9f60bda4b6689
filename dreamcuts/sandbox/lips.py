"""Lips that follow a voice: its loudness frame by frame, and the small pictures drawn from it."""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreamcuts.sandbox.ffmpeg import run_ffmpeg
from dreamcuts.sandbox.paint import Sketch, blend
from dreamcuts.sandbox.state import Mouth

RATE = 8000
SHAPES = 8
"""How many openings of the mouth there are."""


@dataclass(frozen=True, slots=True)
class Sprites:
    """One small RGBA picture per video frame, one after the other, and where in the frame they belong."""

    frames: bytes
    width: int
    height: int
    x: float
    y: float


async def loudness(audio: Path, fps: int, seconds: float) -> list[float]:
    """How loud the audio is in each frame of a video, 0 to 1."""
    raw = await run_ffmpeg("-i", str(audio), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "pipe:1")
    samples = array.array("h", raw[: len(raw) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    count = max(1, round(seconds * fps))
    step = RATE / fps
    levels: list[float] = []
    for index in range(count):
        part = samples[round(index * step) : round((index + 1) * step)]
        levels.append(sum(map(abs, part)) / len(part) if part else 0.0)
    loudest = max(max(levels), 200.0)
    return [min(1.0, (level / loudest) ** 0.7) for level in levels]


def draw(levels: list[float], mouth: Mouth | None, width: int, height: int) -> Sprites:
    """Pictures for the loudness of each frame: a mouth if its place is known, else a voice meter."""
    if mouth is None:
        return _meter(levels, width, height)
    wide = max(8, round(mouth.width * width * 1.5 / 2) * 2)
    tall = max(8, round(mouth.width * width * 1.2 / 2) * 2)
    shapes = [_mouth(index, mouth, wide, tall, mouth.width * width).tobytes() for index in range(SHAPES)]
    frames = b"".join(shapes[min(SHAPES - 1, int(level * SHAPES))] for level in levels)
    return Sprites(frames, wide, tall, mouth.x * width - wide / 2, mouth.y * height - tall / 2)


def _mouth(opening: int, mouth: Mouth, wide: int, tall: int, across: float) -> Image.Image:
    """A mouth that is open by so much; closed is nothing, so that the painted smile shows."""
    picture = Image.new("RGBA", (wide, tall), (*mouth.skin, 0))
    if opening == 0:
        return picture
    share = opening / (SHAPES - 1)
    sketch = Sketch(picture)
    x, y = wide / 2, tall / 2
    lip = blend(mouth.skin, (150, 40, 50), 0.55)
    sketch.oval(x, y, across * 1.18, across * 0.62, mouth.skin)
    span, gap = across * (0.92 - 0.2 * share), across * (0.14 + 0.46 * share)
    sketch.oval(x, y, span + across * 0.1, gap + across * 0.1, lip)
    sketch.oval(x, y, span, gap, (74, 22, 30))
    if share > 0.25:
        sketch.box(x - span * 0.3, y - gap * 0.46, span * 0.6, gap * 0.2, (250, 246, 240), gap * 0.08)
        sketch.oval(x, y + gap * 0.3, span * 0.5, gap * 0.26, (206, 92, 96))
    sketch.done()
    return picture


def _meter(levels: list[float], width: int, height: int) -> Sprites:
    """Five bars on a dark pill at the bottom edge, dancing with the voice."""
    tall = max(16, round(height * 0.07 / 2) * 2)
    wide = tall * 3
    made: dict[tuple[int, ...], bytes] = {}
    frames: list[bytes] = []
    for index in range(len(levels)):
        recent = tuple(round(levels[max(0, index - back)] * 12) for back in (2, 1, 0, 1, 2))
        if recent not in made:
            made[recent] = _bars(recent, wide, tall).tobytes()
        frames.append(made[recent])
    return Sprites(b"".join(frames), wide, tall, (width - wide) / 2, height * 0.06)


def _bars(heights: tuple[int, ...], wide: int, tall: int) -> Image.Image:
    picture = Image.new("RGBA", (wide, tall))
    sketch = Sketch(picture)
    sketch.box(0, 0, wide - 1, tall - 1, (14, 16, 30), tall / 2, 190)
    bar = wide * 0.06
    for index, value in enumerate(heights):
        long = tall * (0.12 + 0.6 * value / 12)
        x = wide * (0.24 + 0.13 * index) - bar / 2
        sketch.box(x, (tall - long) / 2, bar, long, (255, 214, 140), bar / 2)
    sketch.done()
    return picture
