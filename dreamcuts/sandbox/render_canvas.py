"""The canvas of a render: the output's size, frame rate, background and quality."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from dreamcuts.sandbox import shotstack_schema as schema

_PRESETS = {
    "preview": (512, 288, 15.0),
    "mobile": (640, 360, 25.0),
    "sd": (1024, 576, 25.0),
    "hd": (1280, 720, 25.0),
    "1080": (1920, 1080, 25.0),
    "4k": (3840, 2160, 25.0),
}
_ASPECTS = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1), "4:5": (4, 5), "4:3": (4, 3)}
_CRF = {"verylow": 36, "low": 31, "medium": 26, "high": 22, "veryhigh": 18}
_NTSC = {23.976: Fraction(24000, 1001), 29.97: Fraction(30000, 1001), 59.94: Fraction(60000, 1001)}


@dataclass(frozen=True)
class Canvas:
    """The output: size in pixels, frame rate, background (#rrggbb), x264's constant rate factor."""

    width: int
    height: int
    fps: Fraction
    background: str
    crf: int

    def frame(self, seconds: float) -> int:
        """The frame nearest to a time."""
        return round(seconds * self.fps)

    def seconds(self, frame: int) -> float:
        """The time at which a frame starts."""
        return float(frame / self.fps)


def canvas_of(edit: schema.Edit) -> Canvas:
    """The canvas that the output asks for; without size or resolution it is "hd"."""
    output = edit.output
    width, height, fps = _PRESETS[output.scaleTo or output.resolution or "hd"]
    if output.aspectRatio != "16:9":
        across, down = _ASPECTS[output.aspectRatio]
        short = height
        width = even(short if across <= down and across * 16 == down * 9 else short * across / down)
        height = even(width * down / across) if across * 16 == down * 9 else short
    if output.size is not None:
        width, height = output.size.width, output.size.height
    fps = output.fps or fps
    rate = _NTSC.get(fps) or Fraction(fps).limit_denominator(1001)
    background = edit.timeline.background
    if len(background) == 4:
        background = "#" + "".join(digit * 2 for digit in background[1:])
    if background == "transparent":
        background = "#000000"
    return Canvas(width, height, rate, background[:7], _CRF[output.quality])


def even(value: float) -> int:
    """The nearest even number, at least 2: video keeps colour at half the resolution."""
    return max(2, round(value / 2) * 2)
