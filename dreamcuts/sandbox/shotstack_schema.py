"""The Edit of Shotstack's Edit API as strict models.

Field names, limits and enumerations follow Shotstack's published OpenAPI definition of the Edit API;
`rich-caption` and `rich-text`, which came later, follow its documentation. An unknown property or value
is refused with a message that names the field, as the service does. Asset types that the sandbox cannot
draw (html, luma, svg, generated assets) are refused here too: a sandbox must not pretend.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from dreamcuts.sandbox.shotstack_types import (
    EFFECTS,
    FILTERS,
    FRAME_RATES,
    TITLE_STYLES,
    TRANSITIONS,
    Angle,
    AudioEffect,
    Colour,
    Fraction,
    Model,
    Opacity,
    Position,
    Shift,
    Speed,
    Url,
    Volume,
    even,
    one_of,
    seconds_or,
)


class Offset(Model):
    x: Shift = 0.0
    y: Shift = 0.0


class Crop(Model):
    top: Fraction = 0.0
    bottom: Fraction = 0.0
    left: Fraction = 0.0
    right: Fraction = 0.0


class ChromaKey(Model):
    color: Colour = "#00ff00"
    threshold: Annotated[int, Field(ge=0, le=250)] = 150
    halo: Annotated[int, Field(ge=0, le=250)] = 100


class VideoAsset(Model):
    type: Literal["video"]
    src: Url
    trim: Annotated[float, Field(ge=0)] = 0.0
    volume: Volume = 1.0
    volumeEffect: AudioEffect | None = None
    speed: Speed = 1.0
    crop: Crop | None = None
    chromaKey: ChromaKey | None = None


class AudioAsset(Model):
    type: Literal["audio"]
    src: Url
    trim: Annotated[float, Field(ge=0)] = 0.0
    volume: Volume = 1.0
    speed: Speed = 1.0
    effect: AudioEffect | None = None


class ImageAsset(Model):
    type: Literal["image"]
    src: Url
    crop: Crop | None = None


class Font(Model):
    family: str | None = None
    color: Colour = "#ffffff"
    opacity: Fraction = 1.0
    size: Annotated[float, Field(ge=1, le=500)] | None = None
    weight: Annotated[int, Field(ge=1, le=1000)] | str | None = None
    lineHeight: Annotated[float, Field(gt=0, le=10)] | None = None
    stroke: Colour | None = None
    strokeWidth: Annotated[float, Field(ge=0)] | None = None


class Background(Model):
    color: Colour | None = None
    opacity: Fraction = 1.0
    padding: Annotated[float, Field(ge=0)] = 0.0
    borderRadius: Annotated[float, Field(ge=0)] = 0.0


class Margin(Model):
    top: Fraction | None = None
    left: Fraction | None = None
    right: Fraction | None = None


class CaptionAsset(Model):
    type: Literal["caption"]
    src: Url
    font: Font = Font()
    background: Background = Background()
    margin: Margin = Margin()
    trim: Annotated[float, Field(ge=0)] = 0.0
    speed: Annotated[float, Field(gt=0, le=10)] = 1.0


class Stroke(Model):
    width: Annotated[float, Field(ge=0)] = 0.0
    color: Colour = "#000000"
    opacity: Fraction = 1.0


class Align(Model):
    horizontal: Annotated[str, AfterValidator(one_of(("left", "center", "right")))] = "center"
    vertical: Annotated[str, AfterValidator(one_of(("top", "middle", "center", "bottom")))] = "center"


class TextStyle(Model):
    letterSpacing: float | None = None
    lineHeight: Annotated[float, Field(gt=0, le=10)] | None = None
    textTransform: Annotated[
        str, AfterValidator(one_of(("none", "uppercase", "lowercase", "capitalize")))
    ] = "none"
    textDecoration: str | None = None
    gradient: dict[str, Any] | None = None
    wordSpacing: float | None = None


class RichText(Model):
    """What rich-caption and rich-text share. Of shadow, border, active and animation nothing is drawn."""

    font: Font = Font()
    background: Background = Background()
    stroke: Stroke | None = None
    shadow: dict[str, Any] | None = None
    border: dict[str, Any] | None = None
    padding: float | dict[str, float] | None = None
    align: Align = Align()
    animation: dict[str, Any] | None = None
    style: TextStyle = TextStyle()


class RichCaptionAsset(RichText):
    type: Literal["rich-caption"]
    src: Url
    active: dict[str, Any] | None = None


class RichTextAsset(RichText):
    type: Literal["rich-text"]
    text: str


class TextAsset(Model):
    type: Literal["text"]
    text: str
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    font: Font = Font()
    background: Background = Background()
    stroke: Stroke | None = None
    alignment: Align = Align()


class TitleAsset(Model):
    type: Literal["title"]
    text: str
    style: Annotated[str, AfterValidator(one_of(TITLE_STYLES))] = "minimal"
    color: Colour = "#ffffff"
    size: Annotated[
        str,
        AfterValidator(one_of(("xx-small", "x-small", "small", "medium", "large", "x-large", "xx-large"))),
    ] = "medium"
    background: Colour | None = None
    position: Position = "center"
    offset: Offset = Offset()


Asset = Annotated[
    VideoAsset
    | AudioAsset
    | ImageAsset
    | CaptionAsset
    | RichCaptionAsset
    | TextAsset
    | TitleAsset
    | RichTextAsset,
    Field(discriminator="type"),
]


class Transition(Model):
    in_: Annotated[str, AfterValidator(one_of(TRANSITIONS))] | None = Field(None, alias="in")
    out: Annotated[str, AfterValidator(one_of(TRANSITIONS))] | None = None


class Rotate(Model):
    angle: Angle = 0.0


class Flip(Model):
    horizontal: bool = False
    vertical: bool = False


class Transform(Model):
    rotate: Rotate | None = None
    skew: dict[str, Any] | None = None
    flip: Flip | None = None


class Clip(Model):
    asset: Asset
    start: Annotated[Any, AfterValidator(seconds_or("auto"))]
    length: Annotated[Any, AfterValidator(seconds_or("auto", "end"))]
    alias: str | None = None
    fit: Annotated[str, AfterValidator(one_of(("crop", "cover", "contain", "none")))] = "crop"
    scale: Annotated[float, Field(gt=0, le=20)] = 1.0
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    height: Annotated[int, Field(ge=1, le=4096)] | None = None
    position: Position = "center"
    offset: Offset = Offset()
    opacity: Opacity = 1.0
    transition: Transition = Field(default_factory=lambda: Transition.model_validate({}))
    effect: Annotated[str, AfterValidator(one_of(EFFECTS))] | None = None
    filter: Annotated[str, AfterValidator(one_of(FILTERS))] | None = None
    transform: Transform = Transform()


class Track(Model):
    clips: Annotated[list[Clip], Field(min_length=1)]


class Soundtrack(Model):
    src: Url
    effect: AudioEffect | None = None
    volume: Fraction = 1.0


class CustomFont(Model):
    src: Url


class Timeline(Model):
    tracks: Annotated[list[Track], Field(min_length=1)]
    background: Colour = "#000000"
    soundtrack: Soundtrack | None = None
    fonts: list[CustomFont] = Field(default_factory=list)
    cache: bool = True


class Size(Model):
    width: Annotated[int, Field(ge=2, le=4096), AfterValidator(even)]
    height: Annotated[int, Field(ge=2, le=4096), AfterValidator(even)]


class Range(Model):
    start: Annotated[float, Field(ge=0)] = 0.0
    length: Annotated[float, Field(gt=0)] | None = None


class Poster(Model):
    capture: Annotated[float, Field(ge=0)]


class Thumbnail(Model):
    capture: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(gt=0, le=1)]


class Output(Model):
    format: Annotated[str, AfterValidator(one_of(("mp4", "gif", "mp3", "jpg", "png", "bmp")))]
    resolution: (
        Annotated[str, AfterValidator(one_of(("preview", "mobile", "sd", "hd", "1080", "4k")))] | None
    ) = None
    aspectRatio: Annotated[str, AfterValidator(one_of(("16:9", "9:16", "1:1", "4:5", "4:3")))] = "16:9"
    size: Size | None = None
    fps: Annotated[float, AfterValidator(one_of(FRAME_RATES))] | None = None
    scaleTo: Annotated[str, AfterValidator(one_of(("preview", "mobile", "sd", "hd", "1080")))] | None = None
    quality: Annotated[str, AfterValidator(one_of(("verylow", "low", "medium", "high", "veryhigh")))] = (
        "medium"
    )
    repeat: bool = True
    mute: bool = False
    range: Range | None = None
    poster: Poster | None = None
    thumbnail: Thumbnail | None = None
    destinations: list[dict[str, Any]] = Field(default_factory=list)


class MergeField(Model):
    find: str
    replace: Any


class Edit(Model):
    timeline: Timeline
    output: Output
    merge: list[MergeField] = Field(default_factory=list)
    callback: Url | None = None
    disk: Annotated[str, AfterValidator(one_of(("local", "mount")))] | None = None
