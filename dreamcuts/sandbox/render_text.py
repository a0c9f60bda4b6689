"""Captions, titles and texts of an Edit as layers: drawn once, laid over the picture while they are shown.

Captions without a margin stand at the bottom. A caption that would leave the frame is moved up into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dreamcuts.sandbox import shotstack_schema as schema
from dreamcuts.sandbox.captions import TextLook, draw_text, parse_captions, rgba
from dreamcuts.sandbox.render_canvas import Canvas
from dreamcuts.sandbox.render_motion import Motion
from dreamcuts.sandbox.render_plan import Layer, Placed, Source, layer_of

BOTTOM = 0.92
"""Where a caption without a margin ends, as a fraction of the height."""
_EDGE = 0.02
_SIDE = 0.1
_TITLE_SIZES = {
    "xx-small": 20,
    "x-small": 28,
    "small": 36,
    "medium": 48,
    "large": 64,
    "x-large": 84,
    "xx-large": 110,
}
_ANCHORS = {"left": 0.0, "top": 0.0, "center": 0.5, "middle": 0.5, "right": 1.0, "bottom": 1.0}


def caption_layers(
    placed: Placed, text: str, canvas: Canvas, fonts: Mapping[str, Path], folder: Path
) -> list[Layer]:
    """One layer a cue of an SRT or WebVTT text, within the clip's time. Raises ValueError without cues."""
    asset = placed.clip.asset
    assert isinstance(asset, schema.CaptionAsset | schema.RichCaptionAsset)
    look = look_of(asset, fonts)
    trim, speed = (asset.trim, asset.speed) if isinstance(asset, schema.CaptionAsset) else (0.0, 1.0)
    transition = placed.clip.transition
    parsed = (Motion.parse(transition.in_, incoming=True), Motion.parse(transition.out, incoming=False))
    motions = tuple(motion for motion in parsed if motion is not None and motion.fades)
    layers: list[Layer] = []
    for number, cue in enumerate(parse_captions(text)):
        begin = placed.start + (cue.start - trim) / speed
        end = placed.start + (cue.end - trim) / speed
        first, last = canvas.frame(max(begin, placed.start)), canvas.frame(min(end, placed.end))
        if last <= first:
            continue
        picture, x, y = _place(asset, placed.clip, cue.text, look, canvas)
        path = folder / f"cue-{placed.track}-{placed.index}-{number:04}.png"
        picture.save(path, compress_level=1)
        layers.append(
            Layer(
                source=Source(path, picture.width, picture.height, has_alpha=True),
                moving=False,
                first=first,
                last=last,
                start=placed.start,
                length=placed.length,
                width=picture.width,
                height=picture.height,
                x=f"{x}",
                y=f"{y}",
                opacity=placed.clip.opacity if isinstance(placed.clip.opacity, float) else 1.0,
                motions=motions,
                cue=True,
            )
        )
    return layers


def text_layer(placed: Placed, canvas: Canvas, fonts: Mapping[str, Path], folder: Path) -> Layer:
    """The layer of a text, title or rich-text clip."""
    asset, clip = placed.clip.asset, placed.clip
    if isinstance(asset, schema.TitleAsset):
        look = TextLook(
            family="Montserrat ExtraBold",
            size=_TITLE_SIZES[asset.size] * canvas.height / 720,
            color=asset.color,
            background=asset.background,
            padding=12 if asset.background else 0,
        )
        picture = draw_text(asset.text, look, round(canvas.width * 0.9))
        clip = clip.model_copy(update={"position": asset.position, "offset": asset.offset})
    else:
        assert isinstance(asset, schema.TextAsset | schema.RichTextAsset)
        picture = _text_box(asset, clip, look_of(asset, fonts), canvas)
    path = folder / f"text-{placed.track}-{placed.index}.png"
    picture.save(path, compress_level=1)
    source = Source(path, picture.width, picture.height, has_alpha=True)
    return layer_of(replace(placed, clip=clip), source, canvas, picture.size)


def look_of(
    asset: schema.CaptionAsset | schema.TextAsset | schema.RichText, fonts: Mapping[str, Path]
) -> TextLook:
    """How the text of an asset is drawn."""
    font, background = asset.font, asset.background
    look = TextLook(
        family=font.family or "Montserrat",
        weight=font.weight,
        size=font.size or 24.0,
        color=font.color,
        opacity=font.opacity,
        line_height=font.lineHeight or 1.2,
        stroke=font.stroke,
        stroke_width=font.strokeWidth or 0.0,
        background=background.color,
        background_opacity=background.opacity,
        padding=background.padding,
        border_radius=background.borderRadius,
        fonts=dict(fonts),
    )
    if not isinstance(asset, schema.CaptionAsset) and asset.stroke is not None and asset.stroke.width > 0:
        look = replace(look, stroke=asset.stroke.color, stroke_width=asset.stroke.width)
    if isinstance(asset, schema.RichText):
        padding = asset.padding
        if isinstance(padding, dict):
            padding = max(padding.values(), default=0.0)
        look = replace(
            look,
            padding=background.padding if padding is None else padding,
            line_height=asset.style.lineHeight or look.line_height,
            transform=asset.style.textTransform,
            align=asset.align.horizontal,
        )
    elif isinstance(asset, schema.TextAsset):
        look = replace(look, align=asset.alignment.horizontal)
    return look


def _place(
    asset: schema.CaptionAsset | schema.RichCaptionAsset,
    clip: schema.Clip,
    text: str,
    look: TextLook,
    canvas: Canvas,
) -> tuple[Image.Image, int, int]:
    """Draw a cue and find its top left corner on the canvas."""
    if isinstance(asset, schema.CaptionAsset):
        margin = asset.margin
        left = (_SIDE if margin.left is None else margin.left) * canvas.width
        right = (_SIDE if margin.right is None else margin.right) * canvas.width
        room = max(2.0, canvas.width - left - right)
        picture = draw_text(text, look, int(room))
        x = left + (room - picture.width) / 2
        y = canvas.height * BOTTOM - picture.height if margin.top is None else margin.top * canvas.height
    else:
        width, height = clip.width or canvas.width, clip.height or canvas.height
        picture = draw_text(text, look, width)
        across, down = _anchor(clip.position)
        x = (canvas.width - width) * across + (width - picture.width) * _ANCHORS[asset.align.horizontal]
        y = (canvas.height - height) * down + (height - picture.height) * _ANCHORS[asset.align.vertical]
    x += (clip.offset.x if isinstance(clip.offset.x, float) else 0.0) * canvas.width
    y -= (clip.offset.y if isinstance(clip.offset.y, float) else 0.0) * canvas.height
    lowest = canvas.height * (1 - _EDGE) - picture.height
    return picture, _even(x), _even(max(0.0, min(y, lowest)))


def _text_box(
    asset: schema.TextAsset | schema.RichTextAsset, clip: schema.Clip, look: TextLook, canvas: Canvas
) -> Image.Image:
    """A text in its bounding box; without one the picture is as big as the text."""
    if isinstance(asset, schema.TextAsset):
        width, height, align = asset.width, asset.height, asset.alignment
    else:
        width, height, align = clip.width, clip.height, asset.align
    if not width and not height:
        return draw_text(asset.text, look, round(canvas.width * 0.9))
    ink = draw_text(asset.text, replace(look, background=None), width or canvas.width)
    width, height = _even(width or ink.width), _even(height or ink.height)
    box = Image.new("RGBA", (width, height))
    if look.background:
        box.paste(rgba(look.background, look.background_opacity), (0, 0, width, height))
    layer = Image.new("RGBA", box.size)
    x = round((width - ink.width) * _ANCHORS[align.horizontal])
    layer.paste(ink, (x, round((height - ink.height) * _ANCHORS[align.vertical])))
    return Image.alpha_composite(box, layer)


def _anchor(position: str) -> tuple[float, float]:
    name = position.lower()
    across = 0.0 if "left" in name else 1.0 if "right" in name else 0.5
    return across, 0.0 if "top" in name else 1.0 if "bottom" in name else 0.5


def _even(value: float) -> int:
    return round(value / 2) * 2
