"""How a film is rendered: what the render job's payload asks for, in the renderer's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

CAPTION_TOP = {"bottom": 0.8, "middle": 0.45, "center": 0.45, "top": 0.05}
"""Shotstack places captions by the margin above them, a fraction of the frame's height."""

_SPEEDS = ("", "Slow", "Fast")
_DIRECTED = ("Left", "Right", "Up", "Down")
TRANSITIONS = frozenset(
    name + speed
    for name in (
        "fade",
        "reveal",
        "wipeLeft",
        "wipeRight",
        *(f"slide{side}" for side in _DIRECTED),
        *(f"carousel{side}" for side in _DIRECTED),
    )
    for speed in _SPEEDS
) | {"zoom"}
"""Transitions of Shotstack's Edit API that are used here (its OpenAPI definition, Transition)."""

_ALIASES = {
    "crossfade": "fade",
    "dissolve": "fade",
    "fadein": "fade",
    "fadeout": "fade",
    "wipe": "wipeLeft",
    "slide": "slideLeft",
    "push": "carouselLeft",
    "carousel": "carouselLeft",
}
_CUTS = frozenset({"none", "cut", "hardcut", "jumpcut"})
_BY_LOWER = {name.lower(): name for name in TRANSITIONS}

TRANSITION_S = {"Slow": 2.0, "Fast": 0.5}
DEFAULT_TRANSITION_S = 1.0


@dataclass(frozen=True, slots=True)
class CaptionLook:
    """The look of the captions; sizes in pixels of the finished film, colours as #rrggbb."""

    family: str = "Montserrat ExtraBold"
    size: int = 32
    color: str = "#ffffff"
    background: str | None = "#000000"
    background_opacity: float = 0.6
    padding: int = 12
    border_radius: int = 8
    position: str = "bottom"

    def asset(self, url: str) -> dict[str, object]:
        """The Shotstack caption asset that shows the SRT file at `url`."""
        asset: dict[str, object] = {
            "type": "caption",
            "src": url,
            "font": {"family": self.family, "size": self.size, "color": self.color},
            "margin": {"top": CAPTION_TOP.get(self.position, CAPTION_TOP["bottom"])},
        }
        if self.background and self.background_opacity > 0:
            asset["background"] = {
                "color": self.background,
                "opacity": self.background_opacity,
                "padding": self.padding,
                "borderRadius": self.border_radius,
            }
        return asset


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Everything about the output. `music_url` is a bed for a film whose manifest names no music."""

    width: int = 1280
    height: int = 720
    fps: float = 25
    output_format: str = "mp4"
    quality: str = "high"
    captions: bool = True
    caption_look: CaptionLook = field(default_factory=CaptionLook)
    transitions: bool = True
    transition: str | None = None
    music: bool = True
    music_url: str | None = None
    callback: str | None = None


def transition_name(wanted: Sequence[str | None], allowed: Sequence[str] | None = None) -> str | None:
    """The first of `wanted` that Shotstack knows, by its name there; None for a plain cut.

    Names not in `allowed` are passed over. "fade" where none is usable.
    """
    permitted = {_canonical(name) for name in allowed} if allowed else None
    for name in wanted:
        if not name:
            continue
        if name.lower().replace("-", "").replace("_", "").replace(" ", "") in _CUTS:
            return None
        known = _canonical(name)
        if known is not None and (permitted is None or known in permitted):
            return known
    return "fade"


def transition_seconds(name: str | None) -> float:
    """How long a transition takes, by the ending of its name; 0 for a cut."""
    if name is None:
        return 0.0
    return next(
        (time for ending, time in TRANSITION_S.items() if name.endswith(ending)), DEFAULT_TRANSITION_S
    )


def _canonical(name: str) -> str | None:
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return _BY_LOWER.get(_ALIASES.get(plain, plain).lower())
