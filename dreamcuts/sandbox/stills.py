"""Indoor and imagined scenes that the sandbox can paint: a desk, space, waves of light."""

from __future__ import annotations

import math
import random

from PIL import Image

from dreamcuts.sandbox.layers import FORE, Layers, blank, stars
from dreamcuts.sandbox.paint import (
    Colour,
    Palette,
    Sketch,
    blend,
    choose_palette,
    fill_below,
    glow,
    gradient,
    ridge,
)


def desk(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """A desk at a window: screen, lamp, plant, mug."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    wall = blend(palette.sky[1], palette.near, 0.45)
    back = gradient(
        width + travel, height, (blend(wall, (0, 0, 0), 0.25), wall, blend(wall, palette.light, 0.16))
    )
    pane = (back.width * 0.08, height * 0.1, height * 0.62, height * 0.5)
    view = gradient(round(pane[2]), round(pane[3]), palette.sky)
    glow(view, (view.width * 0.6, view.height * 0.7), view.width * 0.6, palette.light, 0.9)
    for depth in range(2):
        line = ridge(view.width, view.height * (0.75 + 0.13 * depth), view.height * 0.12, 0.5, chance)
        fill_below(view, line, blend(palette.far, palette.near, depth * 0.5), palette.far)
    back.paste(view, (round(pane[0]), round(pane[1])))
    sketch = Sketch(back)
    frame = blend(palette.light, wall, 0.35)
    for x in (pane[0] - 6, pane[0] + pane[2] / 2 - 3, pane[0] + pane[2]):
        sketch.box(x, pane[1] - 6, 7, pane[3] + 12, frame)
    for y in (pane[1] - 6, pane[1] + pane[3]):
        sketch.box(pane[0] - 6, y, pane[2] + 13, 7, frame)
    _shelf(sketch, (back.width * 0.66, height * 0.24), height, palette, chance)
    sketch.done()
    glow(back, (pane[0] + pane[2] * 0.6, pane[1] + pane[3]), height * 0.8, palette.light, 0.28)
    front = blank(width + FORE * travel, height)
    _desktop(front, travel, width, palette, chance)
    return Layers(back, front, travel)


def _shelf(
    sketch: Sketch, place: tuple[float, float], height: int, palette: Palette, chance: random.Random
) -> None:
    x, y = place
    sketch.box(x, y, height * 0.5, height * 0.014, blend(palette.near, palette.light, 0.2))
    at = x + height * 0.02
    for _ in range(9):
        wide, tall = height * chance.uniform(0.018, 0.035), height * chance.uniform(0.07, 0.13)
        colour = blend(
            chance.choice((palette.accent, palette.far, palette.light, palette.sky[0])), palette.near, 0.25
        )
        sketch.box(at, y - tall, wide, tall, colour, 2)
        at += wide + height * chance.choice((0.003, 0.003, 0.03))


def _desktop(front: Image.Image, travel: int, width: int, palette: Palette, chance: random.Random) -> None:
    height = front.height
    sketch, middle, top = Sketch(front), width * 0.52 + travel, height * 0.78
    wood = blend(palette.accent, palette.near, 0.62)
    sketch.box(-5, top, front.width + 10, height, wood)
    sketch.box(-5, top, front.width + 10, height * 0.012, blend(wood, palette.light, 0.35))
    wide = height * 0.62
    screen = (middle - wide / 2, top - height * 0.42, wide, height * 0.36)
    sketch.box(middle - height * 0.03, top - height * 0.1, height * 0.06, height * 0.1, palette.near)
    sketch.box(middle - height * 0.11, top - height * 0.012, height * 0.22, height * 0.016, palette.near, 4)
    sketch.box(*screen, palette.near, height * 0.016)
    inner = (screen[0] + height * 0.014, screen[1] + height * 0.014, wide - height * 0.028, height * 0.332)
    sketch.box(*inner, blend(palette.sky[0], palette.near, 0.35), 4)
    for index in range(9):
        bar = inner[3] * (0.12 + 0.065 * index + chance.uniform(0, 0.12))
        x = inner[0] + inner[2] * (0.09 + 0.093 * index)
        colour = blend(palette.accent, palette.light, index / 9)
        sketch.box(x, inner[1] + inner[3] * 0.9 - bar, inner[2] * 0.06, bar, colour, 3)
    mug = middle + wide * 0.72
    sketch.oval(mug + height * 0.035, top - height * 0.045, height * 0.05, height * 0.05, palette.light)
    sketch.oval(mug + height * 0.035, top - height * 0.045, height * 0.028, height * 0.028, wood)
    sketch.box(mug - height * 0.035, top - height * 0.085, height * 0.07, height * 0.09, palette.light, 6)
    pot = middle - wide * 0.82
    for angle in range(-60, 61, 20):
        tip = (
            pot + math.sin(math.radians(angle)) * height * 0.2,
            top - height * 0.12 - math.cos(math.radians(angle)) * height * 0.2,
        )
        leaf = blend((74, 132, 92), palette.near, 0.3 * chance.random())
        base = (pot, top - height * 0.08)
        sketch.shape(
            [
                base,
                (tip[0] - height * 0.03, tip[1] + height * 0.07),
                tip,
                (tip[0] + height * 0.03, tip[1] + height * 0.05),
            ],
            leaf,
        )
    sketch.box(
        pot - height * 0.05,
        top - height * 0.1,
        height * 0.1,
        height * 0.105,
        blend(palette.accent, palette.light, 0.3),
        6,
    )
    sketch.done()


def space(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """Stars and nebulae behind a lit planet with a ring."""
    chance, palette = random.Random(seed), choose_palette(f"{prompt} night", seed)
    back = gradient(
        width + travel, height, ((5, 6, 20), blend(palette.sky[0], (6, 8, 30), 0.3), palette.sky[1])
    )
    for _ in range(7):
        colour = chance.choice((palette.accent, palette.sky[2], palette.far, palette.light))
        place = (chance.uniform(0, back.width), chance.uniform(0.1, 0.9) * height)
        glow(back, place, height * chance.uniform(0.3, 0.75), colour, chance.uniform(0.25, 0.5))
    stars(back, 420, height, chance)
    front = blank(width + FORE * travel, height)
    radius = height * chance.uniform(0.22, 0.3)
    centre = (width * chance.uniform(0.5, 0.72) + travel, height * 0.52)
    _ring(front, centre, radius, palette.light, 0, 360)
    planet = gradient(
        round(radius * 2),
        round(radius * 2),
        (palette.light, palette.accent, blend(palette.accent, (10, 8, 40), 0.75)),
    )
    for _ in range(5):
        y = chance.uniform(0.15, 0.85) * planet.height
        band = Image.new(
            "RGB", (planet.width, round(planet.height * chance.uniform(0.02, 0.07))), palette.sky[2]
        )
        planet.paste(band, (0, round(y)), Image.new("L", band.size, 60))
    ball = blank(*planet.size)
    sketch = Sketch(ball)
    sketch.oval(radius, radius, radius * 2 - 2, radius * 2 - 2, (255, 255, 255))
    sketch.done()
    front.paste(planet, (round(centre[0] - radius), round(centre[1] - radius)), ball.getchannel("A"))
    _ring(front, centre, radius, palette.light, 0, 180)
    return Layers(back, front.rotate(-12, Image.Resampling.BICUBIC, center=centre), travel)


def _ring(
    front: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, start: int, end: int
) -> None:
    sketch = Sketch(front)
    for step in range(6):
        wide, tall = radius * (2.9 + 0.13 * step), radius * (0.5 + 0.05 * step)
        shade = blend(colour, (60, 50, 110), 0.12 * step)
        sketch.arc(*centre, wide, tall, start, end, shade, radius * 0.034)
    sketch.done()


def waves(prompt: str, seed: int, width: int, height: int, travel: int) -> Layers:
    """Flowing bands of light with a rising line of points: data, growth, ideas."""
    chance, palette = random.Random(seed), choose_palette(prompt, seed)
    dark = blend(palette.near, (0, 0, 0), 0.35)
    back = gradient(width + travel, height, (dark, blend(palette.sky[0], dark, 0.3), palette.sky[1]))
    glow(back, (back.width * 0.75, height * 0.3), height * 0.9, palette.light, 0.5)
    for depth in range(6):
        colour = blend(palette.sky[2], palette.accent, depth / 6)
        line = ridge(back.width, height * (0.52 + 0.085 * depth), height * 0.13, 0.05, chance)
        band = back.copy()
        fill_below(band, line, blend(colour, palette.light, 0.2), blend(colour, dark, 0.75))
        back = Image.blend(back, band, 0.42)
    front = blank(width + FORE * travel, height)
    points = []
    for index in range(9):
        share = index / 8
        y = height * (0.76 - 0.5 * share**1.4 + chance.uniform(-0.04, 0.04))
        points.append((travel * 1.0 + width * (0.1 + 0.8 * share), y))
    sketch = Sketch(front)
    sketch.line(points, palette.light, height * 0.008, 230)
    for x, y in points:
        sketch.oval(x, y, height * 0.06, height * 0.06, palette.accent, 90)
        sketch.oval(x, y, height * 0.03, height * 0.03, palette.light)
    sketch.done()
    return Layers(back, front, travel)
