"""Painting with Pillow: palettes from words, gradients, glows, ridges, and layers of different depth."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

SMOOTH = 2
"""Shapes are drawn this many times larger and scaled down, which smooths their edges."""


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours that go together: sky from top to horizon, shapes from far to near, light, and an accent."""

    sky: tuple[Colour, Colour, Colour]
    far: Colour
    near: Colour
    light: Colour
    accent: Colour
    night: bool = False


def _hex(text: str) -> Colour:
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


def _palette(sky: str, far: str, near: str, light: str, accent: str, night: bool = False) -> Palette:
    top, middle, low = (_hex(part) for part in sky.split())
    return Palette((top, middle, low), _hex(far), _hex(near), _hex(light), _hex(accent), night)


SUNSET = _palette("2b2d5b a8487a ffb26b", "8d4a78", "231a3a", "ffe3ab", "ff7a5c")
DAWN = _palette("4a6fa5 c9a7c7 ffd9b8", "8f8bb5", "2c3556", "fff1d0", "ff9e7a")
DAY = _palette("2f7fc1 7fbfe6 e4f4f7", "7fa9c4", "234a5e", "fffdf0", "ffc857")
NIGHT = _palette("080b22 1a1f52 4b3a82", "2c2a66", "0b0c22", "cfd9ff", "ff5fa2", night=True)
NEON = _palette("0a0520 2d0b55 8c1d7c", "3f1670", "0c0620", "ff9de2", "27e6ff", night=True)
FOREST = _palette("5d8a82 a9cbb0 eff0cf", "6f9b80", "16332c", "fff8d6", "f2b84b")
OCEAN = _palette("1d5b8f 5fb0c9 d6f1ea", "4f93ac", "0f3550", "fffbe2", "ff8a5b")
DESERT = _palette("c4643a f0a860 ffe2b0", "c9794a", "5a2a26", "fff3cf", "3f8f8b")
SNOW = _palette("5b7fa6 a9c6dd f3f8fb", "a5bdd2", "41597a", "ffffff", "e2725b")
STUDIO = _palette("4d6a94 a3b8cf f6e7d2", "8ea3c2", "28324f", "fff3dc", "ff9a56")

_BY_WORD: tuple[tuple[tuple[str, ...], Palette], ...] = (
    (("desert", "sandy?\\b", "canyon", "dune"), DESERT),
    (("neon", "cyber", "futuristic", "synthwave"), NEON),
    (("night", "stars?\\b", "starr", "space", "galaxy", "moon", "midnight", "dark"), NIGHT),
    (("sunset", "dusk", "golden", "evening", "warm"), SUNSET),
    (("sunrise", "dawn", "morning", "pastel"), DAWN),
    (("forest", "green", "garden", "jungle", "nature", "tree", "farm", "plants?\\b"), FOREST),
    (("ocean", "sea\\b", "beach", "water", "lake", "coast", "river", "island", "boat"), OCEAN),
    (("snow", "winter", "ice\\b", "arctic", "glacier"), SNOW),
    (("studio", "office", "product", "minimal", "desk", "workspace", "laptop"), STUDIO),
    (("sky", "blue", "bright", "summer", "sunny", "daylight", "clean"), DAY),
)


def mentions(text: str, keys: Sequence[str]) -> bool:
    """Whether a word of the text begins with one of the keys (regular expressions)."""
    return re.search(rf"\b(?:{'|'.join(keys)})", text, re.IGNORECASE) is not None


def choose_palette(prompt: str, seed: int) -> Palette:
    """The palette that the prompt's words name, else one by the seed."""
    for keys, palette in _BY_WORD:
        if mentions(prompt, keys):
            return palette
    return random.Random(seed).choice((SUNSET, DAWN, DAY, FOREST, OCEAN, NIGHT))


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """A colour between two; `share` is that of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def gradient(width: int, height: int, stops: Sequence[Colour], horizon: float = 1.0) -> Image.Image:
    """A vertical gradient; the last colour is reached at `horizon`, a fraction of the height."""
    column = Image.new("RGB", (1, 64))
    for row in range(64):
        place = min(1.0, row / 63 / horizon) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        column.putpixel((0, row), blend(stops[index], stops[index + 1], place - index))
    return column.resize((width, height), Image.Resampling.BICUBIC)


def glow(image: Image.Image, centre: Point, radius: float, colour: Colour, strength: float) -> None:
    """Light around a point, fading out to nothing at `radius` pixels."""
    size = max(2, round(radius * 2))
    fall = ImageChops.invert(Image.radial_gradient("L")).point(
        [round(255 * strength * max(0.0, (value / 255 - 0.29) / 0.71) ** 1.7) for value in range(256)]
    )
    mask = fall.resize((size, size), Image.Resampling.BICUBIC)
    image.paste(colour, (round(centre[0] - radius), round(centre[1] - radius)), mask)


def disc(image: Image.Image, centre: Point, radius: float, colour: Colour, opacity: float = 1.0) -> None:
    """A filled circle with a smooth edge."""
    size = max(2, round(radius * 2)) * SMOOTH
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).ellipse((0, 0, size - 1, size - 1), fill=round(255 * opacity))
    mask = mask.resize((size // SMOOTH, size // SMOOTH), Image.Resampling.LANCZOS)
    image.paste(colour, (round(centre[0] - radius), round(centre[1] - radius)), mask)


def ridge(width: int, base: float, height: float, rough: float, chance: random.Random) -> list[Point]:
    """The line of a mountain range: mean y `base`, swing `height`, `rough` from 0 (dunes) to 1 (peaks)."""
    waves = [
        (
            chance.uniform(0.7, 1.3) * 2**octave,
            chance.uniform(0, 2 * math.pi),
            (0.38 + 0.22 * rough) ** octave,
        )
        for octave in range(2 + round(4 * rough))
    ]
    step = max(2, width // 400)
    points: list[Point] = []
    for x in range(-step, width + 2 * step, step):
        turn = x / max(1, width) * 2 * math.pi * 1.3
        swing = sum(size * _peaked(math.sin(turn * speed + phase), rough) for speed, phase, size in waves)
        points.append((x, base - height * swing / 1.5))
    return points


def _peaked(value: float, rough: float) -> float:
    """A sine that gets sharper tops as it gets rougher."""
    return value * (1 - rough * 0.6) + (1 - 2 * abs(value)) * rough * 0.6


def fill_below(image: Image.Image, line: Sequence[Point], top: Colour, bottom: Colour) -> None:
    """Fill everything under a line with a gradient; works on RGB and, as a layer, on RGBA images."""
    width, height = image.size
    mask = Image.new("L", (width * SMOOTH, height * SMOOTH))
    corners = [(x * SMOOTH, y * SMOOTH) for x, y in line]
    corners += [(corners[-1][0], height * SMOOTH), (corners[0][0], height * SMOOTH)]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    mask = mask.resize((width, height), Image.Resampling.BOX)
    highest = max(0, min(height - 2, round(min(y for _, y in line))))
    colours = Image.new("RGB", (width, height), bottom)
    colours.paste(gradient(width, height - highest, (top, bottom)), (0, highest))
    image.paste(colours.convert(image.mode), (0, 0), mask)


class Sketch:
    """Draws flat shapes with smooth edges onto an image; coordinates are pixels of the image."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._over = Image.new("RGBA", (image.width * SMOOTH, image.height * SMOOTH))
        self._draw = ImageDraw.Draw(self._over)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: Colour,
        radius: float = 0,
        alpha: int = 255,
    ) -> None:
        """A rectangle, with round corners if asked."""
        area = tuple(round(value * SMOOTH) for value in (x, y, x + width, y + height))
        self._draw.rounded_rectangle(area, radius * SMOOTH, fill=(*colour, alpha))

    def oval(self, x: float, y: float, width: float, height: float, colour: Colour, alpha: int = 255) -> None:
        """An ellipse around the centre (x, y)."""
        half = (width / 2, height / 2)
        area = (x - half[0], y - half[1], x + half[0], y + half[1])
        self._draw.ellipse(tuple(value * SMOOTH for value in area), fill=(*colour, alpha))

    def shape(self, points: Sequence[Point], colour: Colour, alpha: int = 255) -> None:
        """A polygon."""
        self._draw.polygon([(x * SMOOTH, y * SMOOTH) for x, y in points], fill=(*colour, alpha))

    def line(self, points: Sequence[Point], colour: Colour, width: float, alpha: int = 255) -> None:
        """A line through points, round at its joints."""
        placed = [(x * SMOOTH, y * SMOOTH) for x, y in points]
        self._draw.line(placed, fill=(*colour, alpha), width=max(1, round(width * SMOOTH)), joint="curve")

    def arc(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        start: float,
        end: float,
        colour: Colour,
        thick: float,
    ) -> None:
        """A part of an ellipse's edge around (x, y); angles in degrees, clockwise from three o'clock."""
        area = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        place = tuple(value * SMOOTH for value in area)
        self._draw.arc(place, start, end, fill=(*colour, 255), width=max(1, round(thick * SMOOTH)))

    def done(self) -> None:
        """Put what was drawn onto the image."""
        over = self._over.resize(self.image.size, Image.Resampling.BOX)
        if self.image.mode == "RGBA":
            self.image.alpha_composite(over)
        else:
            self.image.paste(over, (0, 0), over)


def finish(image: Image.Image, seed: int) -> Image.Image:
    """The last touch on a still: darker corners, and a little grain against banding."""
    width, height = image.size
    corners = Image.radial_gradient("L").point([round(max(0, value - 150) * 0.75) for value in range(256)])
    image.paste((8, 8, 20), (0, 0), corners.resize((width, height), Image.Resampling.BICUBIC))
    size = (width // 2 + 1, height // 2 + 1)
    noise = Image.frombytes("L", size, random.Random(seed).randbytes(size[0] * size[1]))
    # Faint noise around middle grey, where overlaying changes nothing.
    noise = noise.point([round(128 + (value - 128) * 0.13) for value in range(256)])
    grain = noise.resize((width, height)).filter(ImageFilter.SMOOTH)
    return Image.blend(image, ImageChops.overlay(image, grain.convert("RGB")), 0.2)
