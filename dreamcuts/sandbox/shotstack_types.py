"""Enumerations, limits and small types of Shotstack's Edit API (its published OpenAPI definition)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

_SPEEDS = ("", "Slow", "Fast")
_SIDES = ("Left", "Right", "Up", "Down")
_CORNERS = (
    "TopRight",
    "RightTop",
    "RightBottom",
    "BottomRight",
    "BottomLeft",
    "LeftBottom",
    "LeftTop",
    "TopLeft",
)
_MOVES = (
    *("fade", "reveal", "wipeLeft", "wipeRight"),
    *("slide" + side for side in _SIDES),
    *("carousel" + side for side in _SIDES),
    *("shuffle" + corner for corner in _CORNERS),
)
_EFFECTS = ("zoomIn", "zoomOut", *("slide" + side for side in _SIDES))

EFFECTS = tuple(name + speed for name in _EFFECTS for speed in _SPEEDS)
TRANSITIONS = (*(name + speed for name in _MOVES for speed in _SPEEDS), "zoom")
POSITIONS = (
    *("top", "topRight", "right", "bottomRight", "bottom"),
    *("bottomLeft", "left", "topLeft", "center"),
)
FILTERS = ("blur", "boost", "contrast", "darken", "greyscale", "lighten", "muted", "negative")
TITLE_STYLES = (
    *("minimal", "blockbuster", "vogue", "sketchy", "skinny"),
    *("chunk", "chunkLight", "marker", "future", "subtitle"),
)
FRAME_RATES = (12, 15, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60)
ASSET_TYPES = ("video", "audio", "image", "caption", "rich-caption", "text", "title", "rich-text")


def one_of(values: Sequence[object]) -> Callable[[Any], Any]:
    """A validator that lets only these values through."""
    listed = ", ".join(str(value) for value in values)

    def check(value: Any) -> Any:
        if value not in values:
            raise PydanticCustomError("any.only", "must be one of [{listed}]", {"listed": listed})
        return value

    return check


def _http_url(value: str) -> str:
    if not re.match(r"https?://[^\s/]+", value):
        raise PydanticCustomError(
            "string.uriCustomScheme", "must be a valid uri with a scheme matching the http|https pattern"
        )
    return value


def even(value: int) -> int:
    """Let only even numbers through: video keeps colour at half the resolution."""
    if value % 2:
        raise PydanticCustomError("number.multiple", "must be a multiple of 2")
    return value


def _colour(value: str) -> str:
    if not re.fullmatch(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})|transparent", value):
        raise PydanticCustomError("string.pattern.base", "must be a hexadecimal colour such as #ffffff")
    return value


def seconds_or(*words: str) -> Callable[[Any], Any]:
    """A validator for a time: a number of seconds, one of these words, or an alias."""
    listed = ", ".join(f"'{word}'" for word in words)

    def check(value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value < 0:
                raise PydanticCustomError("number.min", "must be greater than or equal to 0")
            return float(value)
        if isinstance(value, str) and (value in words or re.fullmatch(r"alias://\S+", value)):
            return value
        raise PydanticCustomError(
            "alternatives.match",
            "must be a number of seconds, {listed} or 'alias://name'",
            {"listed": listed},
        )

    return check


Url = Annotated[str, AfterValidator(_http_url)]
Colour = Annotated[str, AfterValidator(_colour)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Speed = Annotated[float, Field(ge=0, le=10)]
Position = Annotated[str, AfterValidator(one_of(POSITIONS))]
AudioEffect = Annotated[str, AfterValidator(one_of(("fadeIn", "fadeOut", "fadeInFadeOut")))]


class Model(BaseModel):
    """Strict: no unknown property, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Tween(Model):
    """A change of a value over `length` seconds from `start`, counted from the clip's own start."""

    from_: float = Field(0.0, alias="from")
    to: float = 0.0
    start: float = 0.0
    length: float = 0.0
    interpolation: Annotated[str, AfterValidator(one_of(("linear", "bezier", "constant")))] = "linear"
    easing: str | None = None


_BY_LIST = Discriminator(lambda value: "#tweens" if isinstance(value, list) else "#number")
Tweens = Annotated[list[Tween], Tag("#tweens")]
Volume = Annotated[Annotated[Fraction, Tag("#number")] | Tweens, _BY_LIST]
Opacity = Volume
Shift = Annotated[Annotated[Annotated[float, Field(ge=-10, le=10)], Tag("#number")] | Tweens, _BY_LIST]
Angle = Annotated[Annotated[Annotated[float, Field(ge=-360, le=360)], Tag("#number")] | Tweens, _BY_LIST]
