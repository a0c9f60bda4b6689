"""Landscapes that the sandbox can paint: hills, a city, the sea.

Each is painted as two layers: a background, and a transparent foreground that moves faster with the camera.
"""

from __future__ import annotations

import random

from PIL import Image

from dreamcuts.sandbox.layers import FORE, Layers, blank, sky
from dreamcuts.sandbox.paint import (
    Colour,
    Palette,
    Sketch,
    blend,
    choose_palette,
    fill_below,
    glow,
    gradient,
    mentions,
    ridge,
)


def hills(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """Mountain ranges in the haze under a low sun, fir trees in front."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    back = sky(palette, width + travel, height, chance, sun=(chance.uniform(0.25, 0.75), 0.44))
    dunes = mentions(prompt, ("desert", "dune", "sand"))
    for depth in range(4):
        share = depth / 4
        colour = blend(palette.far, palette.near, share)
        haze = blend(colour, palette.sky[2], 0.55 - 0.35 * share)
        rough = 0.1 if dunes else chance.uniform(0.45, 0.8) * (1 - share * 0.5)
        line = ridge(
            width + travel, height * (0.5 + 0.12 * depth), height * (0.15 - 0.02 * depth), rough, chance
        )
        fill_below(back, line, colour, haze)
    front = blank(width + FORE * travel, height)
    base = ridge(front.width, height * 0.93, height * 0.05, 0.15, chance)
    if not dunes:
        _firs(front, base, palette, chance)
    fill_below(front, base, palette.near, blend(palette.near, (0, 0, 0), 0.45))
    return Layers(back, front, travel)


def _firs(
    front: Image.Image, ground: list[tuple[float, float]], palette: Palette, chance: random.Random
) -> None:
    sketch = Sketch(front)
    colour = blend(palette.near, (0, 0, 0), 0.25)
    for x, y in ground[:: max(1, len(ground) // 70)]:
        if chance.random() < 0.45:
            continue
        tall = front.height * chance.uniform(0.07, 0.2)
        for tier in range(4):
            top = y - tall * (1 - tier * 0.2)
            half = tall * (0.09 + 0.055 * tier)
            sketch.shape([(x, top), (x - half, top + tall * 0.38), (x + half, top + tall * 0.38)], colour)
        sketch.box(x - tall * 0.02, y - tall * 0.1, tall * 0.04, tall * 0.2, colour)
    sketch.done()


def city(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """A skyline in three depths with lit windows."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    back = sky(palette, width + travel, height, chance, sun=(chance.uniform(0.3, 0.7), 0.5))
    for depth, (low, high) in enumerate(((0.3, 0.5), (0.2, 0.42))):
        colour = blend(
            blend(palette.far, palette.near, 0.2 + 0.4 * depth), palette.sky[2], 0.3 - 0.22 * depth
        )
        _blocks(back, palette, colour, (height * low, height * high), 0.35 + 0.3 * depth, chance)
        glow(back, (back.width * 0.5, height * 1.02), width * 0.6, palette.sky[2], 0.35)
    front = blank(width + FORE * travel, height)
    _blocks(front, palette, palette.near, (height * 0.08, height * 0.24), 0.9, chance, gaps=0.3)
    return Layers(back, front, travel)


def _blocks(
    image: Image.Image,
    palette: Palette,
    colour: Colour,
    heights: tuple[float, float],
    lit: float,
    chance: random.Random,
    gaps: float = 0.05,
) -> None:
    sketch, floor, x = Sketch(image), image.height, -10.0
    while x < image.width:
        wide = image.height * chance.uniform(0.07, 0.14)
        tall = chance.uniform(*heights)
        if chance.random() < gaps:
            x += wide * 0.8
            continue
        shade = blend(colour, palette.near, chance.uniform(0, 0.25))
        sketch.box(x, floor - tall, wide, tall + 4, shade)
        if chance.random() < 0.3:
            sketch.box(x + wide * 0.25, floor - tall * 1.1, wide * 0.5, tall * 0.12, shade)
        if chance.random() < 0.22:
            sketch.box(x + wide * 0.48, floor - tall * 1.28, wide * 0.04, tall * 0.3, shade)
        _windows(sketch, (x, floor - tall, wide, tall), shade, palette, lit, chance)
        x += wide * chance.uniform(0.92, 1.12)
    sketch.done()


def _windows(
    sketch: Sketch,
    block: tuple[float, float, float, float],
    shade: Colour,
    palette: Palette,
    lit: float,
    chance: random.Random,
) -> None:
    x, y, wide, tall = block
    pane = max(2.0, sketch.image.height * 0.009)
    columns = max(1, int((wide - pane) / (pane * 2.1)))
    margin = (wide - columns * pane * 2.1 + pane * 1.1) / 2
    for row in range(int((tall - pane * 2) / (pane * 2.6))):
        for column in range(columns):
            if chance.random() > (0.5 if palette.night else 0.3) * lit + 0.06:
                continue
            warm = palette.accent if chance.random() < 0.12 else palette.light
            place = (x + margin + column * pane * 2.1, y + pane * 1.6 + row * pane * 2.6)
            sketch.box(*place, pane, pane * 1.5, blend(shade, warm, 0.4 + 0.6 * chance.random() * lit))


def sea(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """Open water with the sun's path on it, an island, a sailing boat."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    sun = chance.uniform(0.35, 0.65)
    back = sky(palette, width + travel, height, chance, sun=(sun, 0.46))
    horizon = height * 0.56
    island = ridge(back.width, horizon - height * 0.01, height * 0.07, 0.5, chance)
    fill_below(back, island, blend(palette.far, palette.sky[2], 0.25), palette.far)
    water = gradient(back.width, height - round(horizon), _depths(palette))
    back.paste(water, (0, round(horizon)))
    sketch = Sketch(back)
    for _ in range(260):
        y = horizon + (height - horizon) * chance.random() ** 1.6
        near = (y - horizon) / (height - horizon)
        spread = width * (0.04 + 0.2 * near)
        x = (
            back.width * sun + chance.gauss(0, 1) * spread
            if chance.random() < 0.6
            else chance.uniform(0, back.width)
        )
        long = width * (0.012 + 0.06 * near) * chance.uniform(0.5, 1.3)
        alpha = round((150 if abs(x - back.width * sun) < spread * 1.6 else 45) * chance.uniform(0.4, 1))
        sketch.box(x - long / 2, y, long, max(1.0, height * 0.004 * (0.4 + near)), palette.light, 2, alpha)
    sketch.done()
    front = blank(width + FORE * travel, height)
    _boat(front, (width * chance.uniform(0.25, 0.75) + travel, height * 0.78), height * 0.24, palette)
    return Layers(back, front, travel)


def _depths(palette: Palette) -> list[Colour]:
    """The water's colours from the horizon to the shore, in steps that get smaller."""
    shore, horizon = blend(palette.near, palette.sky[0], 0.25), blend(palette.sky[2], palette.far, 0.3)
    return [blend(shore, horizon, (1 - step / 7) ** 2) for step in range(8)]


def _boat(front: Image.Image, place: tuple[float, float], tall: float, palette: Palette) -> None:
    x, y = place
    sketch = Sketch(front)
    for row in range(5):
        half = tall * (0.42 - 0.06 * row)
        sketch.box(x - half, y + tall * (0.03 + 0.035 * row), half * 2, tall * 0.014, palette.near, 2, 110)
    hull = [
        (x - tall * 0.34, y - tall * 0.08),
        (x + tall * 0.38, y - tall * 0.1),
        (x + tall * 0.26, y + tall * 0.02),
        (x - tall * 0.24, y + tall * 0.02),
    ]
    sketch.shape(hull, blend(palette.near, (0, 0, 0), 0.2))
    sketch.box(x - tall * 0.01, y - tall, tall * 0.02, tall * 0.95, blend(palette.near, (0, 0, 0), 0.2))
    sketch.shape(
        [
            (x + tall * 0.03, y - tall * 0.96),
            (x + tall * 0.03, y - tall * 0.16),
            (x + tall * 0.36, y - tall * 0.18),
        ],
        palette.light,
    )
    sketch.shape(
        [
            (x - tall * 0.03, y - tall * 0.85),
            (x - tall * 0.03, y - tall * 0.16),
            (x - tall * 0.28, y - tall * 0.18),
        ],
        blend(palette.accent, palette.light, 0.25),
    )
    sketch.done()
