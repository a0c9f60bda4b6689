"""Pictures in two depths, and what many of them share: sky, stars, clouds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageFilter

from dreamcuts.sandbox.paint import Palette, Sketch, blend, disc, glow, gradient
from dreamcuts.sandbox.state import Mouth

FORE = 2
"""The foreground travels this many times as far as the background."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A picture in two depths. `back` is `travel` wider than the frame, `front` FORE times `travel`.

    `mouth` says where in the frame a mouth is shown; a front with a mouth does not travel at all.
    """

    back: Image.Image
    front: Image.Image
    travel: int
    mouth: Mouth | None = None

    @property
    def front_travel(self) -> int:
        """How far the foreground moves, in pixels."""
        return 0 if self.mouth is not None else FORE * self.travel

    def flat(self) -> Image.Image:
        """Both layers as one picture, the camera at its first place."""
        picture = self.back.convert("RGB")
        picture.paste(self.front, (0, 0), self.front)
        return picture


Scene = Callable[[str, int, int, int, int], Layers]


def blank(width: int, height: int) -> Image.Image:
    """An empty foreground."""
    return Image.new("RGBA", (width, height))


def sky(
    palette: Palette, width: int, height: int, chance: random.Random, sun: tuple[float, float]
) -> Image.Image:
    """Sky with sun or moon, stars at night, clouds by day."""
    image = gradient(width, height, palette.sky, horizon=0.66)
    centre = (sun[0] * width, sun[1] * height)
    if palette.night:
        stars(image, 160, round(height * 0.55), chance)
        centre = (centre[0], height * 0.22)
    glow(image, centre, height * 0.85, palette.light, 0.55)
    glow(image, centre, height * 0.28, palette.light, 0.7)
    disc(
        image, centre, height * (0.045 if palette.night else 0.06), blend(palette.light, (255, 255, 255), 0.4)
    )
    _clouds(image, palette, chance)
    return image


def stars(image: Image.Image, count: int, height: int, chance: random.Random) -> None:
    """Stars of many sizes in the upper part of an image, down to `height`."""
    for _ in range(count):
        x, y, bright = chance.randrange(image.width), chance.randrange(max(1, height)), chance.random()
        colour = blend((150, 160, 210), (255, 255, 255), bright)
        disc(image, (x, y), 0.7 + 1.3 * bright**6, colour, 0.35 + 0.65 * bright)


def _clouds(sky: Image.Image, palette: Palette, chance: random.Random) -> None:
    colour = blend(palette.light, palette.sky[1], 0.25)
    # The colour is everywhere and only its opacity varies: blurred edges stay light.
    cover = Image.new("RGBA", (sky.width // 2, sky.height // 2), (*colour, 0))
    sketch = Sketch(cover)
    for _ in range(5):
        x, y = chance.uniform(0, cover.width), chance.uniform(0.08, 0.42) * cover.height
        long = cover.height * chance.uniform(0.3, 0.7)
        for _ in range(6):
            wide = long * chance.uniform(0.3, 0.8)
            place = (x + chance.uniform(-0.5, 0.5) * long, y + chance.uniform(-0.02, 0.02) * cover.height)
            sketch.oval(*place, wide, cover.height * chance.uniform(0.012, 0.04), colour, 80)
    sketch.done()
    mask = cover.getchannel("A").filter(ImageFilter.GaussianBlur(cover.height * 0.008))
    sky.paste(colour, (0, 0), mask.resize(sky.size, Image.Resampling.BICUBIC))
