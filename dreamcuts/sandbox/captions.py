"""Captions: read SRT and WebVTT, and draw a cue or a text in the asked style as a small picture.

Sizes are pixels of the output, as in the Edit API. Text is drawn by Pillow in Montserrat, which the demo
extra brings, or in a font that the timeline names; a family that is not there falls back to Montserrat
Regular. A glyph that the font lacks shows as its replacement box.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

DEFAULT_FAMILY = "Montserrat"
_TIMING = re.compile(r"((?:\d+:)?\d+:\d+[.,]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[.,]\d+)")
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|<\d[\d:.]*>|\{\\[^}]*\}")
_WEIGHTS = {
    100: "Thin",
    200: "ExtraLight",
    300: "Light",
    400: "Regular",
    500: "Medium",
    600: "SemiBold",
    700: "Bold",
    800: "ExtraBold",
    900: "Black",
}


@dataclass(frozen=True)
class Cue:
    """A text and the time it is shown, in seconds of its file."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class TextLook:
    """How text is drawn. Lengths are in pixels of the output, opacities 0 to 1."""

    family: str = DEFAULT_FAMILY
    weight: int | str | None = None
    size: float = 24.0
    color: str = "#ffffff"
    opacity: float = 1.0
    line_height: float = 1.2
    stroke: str | None = None
    stroke_width: float = 0.0
    background: str | None = None
    background_opacity: float = 1.0
    padding: float = 0.0
    border_radius: float = 0.0
    align: str = "center"
    transform: str = "none"
    fonts: Mapping[str, Path] = field(default_factory=dict)
    """The timeline's own fonts by family, that is by the file's name without its ending."""


def parse_captions(text: str) -> list[Cue]:
    """Return the cues of an SRT or WebVTT text, by start. Raises ValueError when it holds none.

    A cue that runs into the next one ends where that one starts: captions take turns.
    """
    cues: list[Cue] = []
    for block in re.split(r"\n[ \t]*\n", text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        for index, line in enumerate(lines):
            if (timing := _TIMING.search(line)) is not None:
                words = "\n".join(part.strip() for part in lines[index + 1 :] if part.strip())
                words = html.unescape(_TAG.sub("", words))
                start, end = _seconds(timing[1]), _seconds(timing[2])
                if words and end > start:
                    cues.append(Cue(start, end, words))
                break
    if not cues:
        raise ValueError("no cues: not an SRT or WebVTT file, or an empty one")
    cues.sort(key=lambda cue: cue.start)
    following = [cue.start for cue in cues[1:]] + [float("inf")]
    turns = [
        Cue(cue.start, min(cue.end, after), cue.text) for cue, after in zip(cues, following, strict=True)
    ]
    return [cue for cue in turns if cue.end > cue.start]


def draw_text(text: str, look: TextLook, max_width: int) -> Image.Image:
    """Draw a text, wrapped to `max_width` pixels, on its box; return an RGBA picture of the box's size."""
    font = load_font(look)
    stroke = max(1, round(look.stroke_width)) if look.stroke and look.stroke_width > 0 else 0
    padding = round(look.padding)
    lines = balance(_transformed(text, look.transform), font, max(1, max_width - 2 * (padding + stroke)))
    advance = look.size * look.line_height
    widths = [font.getlength(line) for line in lines]
    width = min(max_width, int(max(widths)) + 1 + 2 * (padding + stroke))
    height = round(advance * len(lines)) + 2 * (padding + stroke)
    # Even, because video keeps colour at half the resolution.
    width, height = width + width % 2, height + height % 2
    picture = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(picture)
    if look.background and look.background != "transparent":
        fill = rgba(look.background, look.background_opacity)
        radius = min(look.border_radius, width / 2, height / 2)
        draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=radius, fill=fill)
    ink = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(ink)
    ascent, descent = font.getmetrics()
    for number, (line, length) in enumerate(zip(lines, widths, strict=True)):
        room = width - 2 * (padding + stroke) - length
        left = padding + stroke + {"left": 0.0, "right": room}.get(look.align, room / 2)
        top = padding + stroke + number * advance + (advance - ascent - descent) / 2
        pen.text(
            (left, top),
            line,
            font=font,
            fill=rgba(look.color, look.opacity),
            stroke_width=stroke,
            stroke_fill=rgba(look.stroke, look.opacity) if look.stroke else None,
        )
    return Image.alpha_composite(picture, ink)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines no wider than `width` pixels, between words; a longer word is broken itself."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}" if line else word
            if font.getlength(candidate) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            line = word
            while font.getlength(line) > width and len(line) > 1:
                fits = max(
                    1, next(n for n in range(len(line), 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
                )
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def balance(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Wrap a text into as few lines as `width` allows, and make these about equally long."""
    lines = wrap(text, font, width)
    low, high = width / 2, width
    while high - low > 8:
        middle = (low + high) / 2
        narrower = wrap(text, font, middle)
        if len(narrower) == len(lines) and max(map(font.getlength, narrower)) <= middle:
            lines, high = narrower, middle
        else:
            low = middle
    return lines


def load_font(look: TextLook) -> ImageFont.FreeTypeFont:
    """The font of a look: the timeline's own of that family, else Montserrat in the named weight."""
    size = max(1.0, look.size)
    own = look.fonts.get(look.family)
    if own is not None:
        font = ImageFont.truetype(str(own), size)
        _set_weight(font, look.weight)
        return font
    font = ImageFont.truetype(_montserrat(), size)
    weight = look.weight
    family, _, style = look.family.partition(" ")
    if weight is None:
        weight = style if family == DEFAULT_FAMILY and style else "Regular"
    _set_weight(font, weight)
    return font


def rgba(colour: str, opacity: float) -> tuple[int, int, int, int]:
    """A hexadecimal colour with an opacity as four bytes."""
    if colour == "transparent":
        return (0, 0, 0, 0)
    red, green, blue, *alpha = ImageColor.getrgb(colour)
    return red, green, blue, round((alpha[0] if alpha else 255) * opacity)


@functools.cache
def _montserrat() -> str:
    import fontpkg

    return str(fontpkg.path(DEFAULT_FAMILY))


def _set_weight(font: ImageFont.FreeTypeFont, weight: int | str | None) -> None:
    """Choose a variable font's weight, by CSS number or by name; a static font stays as it is."""
    try:
        names = [name.decode() for name in font.get_variation_names()]
    except OSError:
        return
    wanted = str(weight or "Regular")
    if wanted.isdigit():
        number = int(wanted)
        wanted = _WEIGHTS[min(_WEIGHTS, key=lambda known: abs(known - number))]
    by_key = {_key(name): name for name in names}
    font.set_variation_by_name(by_key.get(_key(wanted)) or by_key.get("regular") or names[0])


def _key(name: str) -> str:
    return name.replace(" ", "").replace("-", "").lower()


def _transformed(text: str, transform: str) -> str:
    change = {"uppercase": str.upper, "lowercase": str.lower, "capitalize": str.title}.get(transform)
    return change(text) if change else text


def _seconds(stamp: str) -> float:
    total = 0.0
    for part in stamp.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total
