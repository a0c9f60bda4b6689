"""A person who looks into the camera, in flat shapes; the place of the mouth is known for lip sync."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from PIL import Image, ImageFilter

from dreamcuts.sandbox.layers import Layers
from dreamcuts.sandbox.paint import Colour, Palette, Sketch, blend, choose_palette, disc, glow, gradient
from dreamcuts.sandbox.state import Mouth

WORDS = (
    "portrait", "person", "woman", "presenter", r"hosts?\b", "character", r"faces?\b", "speaker", "founder",
    "teacher", "narrator", "girl", "boy", r"m[ae]n\b", r"guide\b", "talking", "avatar", "headshot",
    "scientist", "chef", "artist", "explorer", "doctor",
)  # fmt: skip

_SKINS: tuple[Colour, ...] = ((245, 208, 178), (226, 176, 141), (198, 141, 104), (150, 98, 68), (110, 72, 52))
_HAIRS: tuple[Colour, ...] = (
    (44, 32, 30),
    (66, 44, 34),
    (92, 58, 40),
    (138, 84, 46),
    (150, 62, 40),
    (196, 148, 84),
)


@dataclass(frozen=True, slots=True)
class _Look:
    skin: Colour
    hair: Colour
    top: Colour
    long_hair: bool
    glasses: bool
    beard: bool

    @property
    def shade(self) -> Colour:
        return blend(self.skin, (90, 40, 40), 0.22)


def person(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """A presenter in front of soft lights; the background travels, the person stays."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    back = _room(palette, width + travel, height, chance)
    front = Image.new("RGBA", (width, height))
    unit = min(height, width * 1.1)
    centre = (width / 2, height - unit * 0.56)
    look = _look(prompt, palette, chance)
    _draw(front, centre, unit, look)
    mouth = Mouth(
        x=centre[0] / width,
        y=(centre[1] + unit * 0.125) / height,
        width=unit * 0.105 / width,
        skin=look.skin,
    )
    return Layers(back, front, travel, mouth)


def _look(prompt: str, palette: Palette, chance: random.Random) -> _Look:
    words = prompt.lower()
    woman = bool(re.search(r"\b(woman|girl|female|she|her|lady)\b", words))
    man = bool(re.search(r"\b(man|boy|male|he|his)\b", words))
    long_hair = woman or (not man and chance.random() < 0.5)
    tone = chance.randrange(len(_SKINS))
    return _Look(
        skin=_SKINS[tone],
        # The lighter hair colours go with the lighter skins.
        hair=chance.choice(_HAIRS[: len(_HAIRS) - tone]),
        top=blend(palette.accent, palette.near, chance.uniform(0.05, 0.45)),
        long_hair=long_hair,
        glasses="glasses" in words or "scientist" in words or chance.random() < 0.2,
        beard="beard" in words or (not long_hair and chance.random() < 0.3),
    )


def _room(palette: Palette, width: int, height: int, chance: random.Random) -> Image.Image:
    """A blurred room with round lights."""
    wall = blend(palette.sky[1], palette.near, 0.35)
    room = gradient(width, height, (blend(wall, palette.near, 0.5), wall, blend(wall, palette.sky[2], 0.4)))
    sketch = Sketch(room)
    for index in range(5):
        x = width * (0.04 + 0.21 * index + chance.uniform(-0.03, 0.03))
        colour = blend(wall, palette.light if index % 2 else palette.near, 0.22)
        sketch.box(x, height * chance.uniform(0.02, 0.2), width * 0.1, height * 0.66, colour, 8)
    sketch.box(0, height * 0.8, width, height * 0.2, blend(palette.near, wall, 0.3))
    sketch.done()
    room = room.filter(ImageFilter.GaussianBlur(height * 0.018))
    glow(room, (width * 0.22, height * 0.28), height * 0.7, palette.light, 0.5)
    for _ in range(16):
        place = (chance.uniform(0, width), chance.uniform(0.05, 0.75) * height)
        colour = chance.choice((palette.light, palette.accent, palette.sky[2]))
        disc(room, place, height * chance.uniform(0.015, 0.05), colour, chance.uniform(0.12, 0.4))
    return room


def _draw(front: Image.Image, centre: tuple[float, float], unit: float, look: _Look) -> None:
    x, y = centre
    sketch = Sketch(front)
    wide, tall = unit * 0.31, unit * 0.4
    if look.long_hair:
        sketch.oval(x, y - unit * 0.02, wide * 1.42, tall * 1.28, look.hair)
        sketch.box(x - wide * 0.71, y, wide * 1.42, unit * 0.33, look.hair, unit * 0.1)
    _body(sketch, centre, unit, look)
    for side in (-1, 1):
        sketch.oval(x + side * wide * 0.5, y + unit * 0.015, unit * 0.05, unit * 0.085, look.shade)
    sketch.oval(x, y, wide, tall, look.skin)
    sketch.oval(x, y + unit * 0.06, wide * 0.9, tall * 0.74, look.skin)
    if look.beard:
        _beard(sketch, centre, unit, look)
    _hair(sketch, centre, unit, look)
    _features(sketch, centre, unit, look)
    sketch.done()


def _body(sketch: Sketch, centre: tuple[float, float], unit: float, look: _Look) -> None:
    x, y = centre
    neck = y + unit * 0.15
    shoulders = y + unit * 0.29
    sketch.box(x - unit * 0.36, shoulders, unit * 0.72, unit * 0.6, look.top, unit * 0.14)
    sketch.shape(
        [
            (x - unit * 0.1, neck + unit * 0.1),
            (x - unit * 0.26, shoulders + unit * 0.03),
            (x + unit * 0.26, shoulders + unit * 0.03),
            (x + unit * 0.1, neck + unit * 0.1),
        ],
        look.top,
    )
    sketch.box(x - unit * 0.07, neck, unit * 0.14, unit * 0.16, look.shade, unit * 0.03)
    sketch.oval(x, shoulders + unit * 0.005, unit * 0.15, unit * 0.1, look.shade)
    collar = blend(look.top, (255, 255, 255), 0.3)
    for side in (-1, 1):
        sketch.shape(
            [
                (x + side * unit * 0.075, neck + unit * 0.1),
                (x + side * unit * 0.15, shoulders + unit * 0.02),
                (x + side * unit * 0.02, shoulders + unit * 0.1),
            ],
            collar,
        )


def _hair(sketch: Sketch, centre: tuple[float, float], unit: float, look: _Look) -> None:
    x, y = centre
    wide = unit * 0.31
    if look.long_hair:
        sketch.shape(
            [
                (x - wide * 0.56, y + unit * 0.02),
                (x - wide * 0.55, y - unit * 0.15),
                (x - wide * 0.2, y - unit * 0.235),
                (x + wide * 0.3, y - unit * 0.23),
                (x + wide * 0.56, y - unit * 0.13),
                (x + wide * 0.56, y + unit * 0.02),
                (x + wide * 0.44, y - unit * 0.1),
                (x + wide * 0.12, y - unit * 0.155),
                (x - wide * 0.2, y - unit * 0.1),
                (x - wide * 0.46, y - unit * 0.055),
            ],
            look.hair,
        )
        return
    sketch.shape(
        [
            (x - wide * 0.53, y - unit * 0.01),
            (x - wide * 0.56, y - unit * 0.14),
            (x - wide * 0.36, y - unit * 0.225),
            (x, y - unit * 0.25),
            (x + wide * 0.38, y - unit * 0.235),
            (x + wide * 0.57, y - unit * 0.13),
            (x + wide * 0.53, y - unit * 0.01),
            (x + wide * 0.39, y - unit * 0.085),
            (x + wide * 0.3, y - unit * 0.135),
            (x - wide * 0.1, y - unit * 0.115),
            (x - wide * 0.39, y - unit * 0.1),
        ],
        look.hair,
    )


def _beard(sketch: Sketch, centre: tuple[float, float], unit: float, look: _Look) -> None:
    x, y = centre
    colour = blend(look.hair, look.skin, 0.25)
    sketch.oval(x, y + unit * 0.115, unit * 0.272, unit * 0.2, colour)
    sketch.oval(x, y + unit * 0.05, unit * 0.262, unit * 0.16, look.skin)
    sketch.oval(x, y + unit * 0.125, unit * 0.15, unit * 0.06, look.skin)


def _features(sketch: Sketch, centre: tuple[float, float], unit: float, look: _Look) -> None:
    x, y = centre
    blush = blend(look.skin, (222, 96, 92), 0.2)
    for side in (-1, 1):
        eye = x + side * unit * 0.067
        sketch.oval(x + side * unit * 0.095, y + unit * 0.068, unit * 0.06, unit * 0.035, blush)
        sketch.oval(eye, y - unit * 0.005, unit * 0.052, unit * 0.032, (252, 250, 248))
        sketch.oval(eye, y - unit * 0.004, unit * 0.027, unit * 0.029, (58, 42, 38))
        sketch.oval(eye + unit * 0.005, y - unit * 0.01, unit * 0.009, unit * 0.009, (255, 255, 255))
        sketch.arc(eye, y - unit * 0.002, unit * 0.06, unit * 0.042, 195, 345, look.hair, unit * 0.006)
        sketch.arc(eye, y - unit * 0.035, unit * 0.08, unit * 0.04, 205, 335, look.hair, unit * 0.011)
        if look.glasses:
            sketch.arc(eye, y - unit * 0.002, unit * 0.1, unit * 0.09, 0, 360, (40, 40, 52), unit * 0.007)
    if look.glasses:
        sketch.box(x - unit * 0.018, y - unit * 0.006, unit * 0.036, unit * 0.006, (40, 40, 52))
    sketch.arc(x, y + unit * 0.045, unit * 0.035, unit * 0.04, 20, 160, look.shade, unit * 0.007)
    lip = blend(look.skin, (150, 40, 50), 0.55)
    sketch.arc(x, y + unit * 0.105, unit * 0.105, unit * 0.052, 25, 155, lip, unit * 0.01)
