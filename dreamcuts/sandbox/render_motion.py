"""Transitions, effects and tweens of the Edit API as ffmpeg expressions.

Lengths, distances and zoom factors are those of Shotstack's own studio SDK (effect and transition presets).
Simplified: all run linearly; `zoom` is a fade; `shuffle*` comes in diagonally without turning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dreamcuts.sandbox.shotstack_types import Tween

_DIRECTIONS = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}
_ZOOM = {"Slow": 1.1, "": 1.3, "Fast": 1.7}
_PAN = {"Slow": 0.03, "": 0.12, "Fast": 0.2}
_SLIDE = 0.025


@dataclass(frozen=True)
class Motion:
    """How a clip comes in or goes out, in `seconds` from `at` (None: at the clip's own edge).

    `dx` and `dy` are where it comes from or goes to, as fractions of the frame, y downwards. `wipe` is 1
    for a wipe to the left, -1 for one to the right, 0 for none.
    """

    incoming: bool
    seconds: float
    fades: bool = False
    dx: float = 0.0
    dy: float = 0.0
    wipe: int = 0
    at: float | None = None

    @property
    def moves(self) -> bool:
        """Whether what lies beneath shows other than through a fade."""
        return bool(self.dx or self.dy or self.wipe)

    @classmethod
    def parse(cls, name: str | None, *, incoming: bool) -> Self | None:
        """The motion of a transition's name, e.g. `slideLeftFast`."""
        if not name:
            return None
        base, speed = _split(name)
        short = base.startswith(("slide", "carousel"))
        seconds = {"Slow": 2.0, "": 0.5 if short else 1.0, "Fast": 0.25 if short else 0.5}[speed]
        if base == "zoom":
            return cls(incoming, 0.4, fades=True)
        if base == "fade":
            return cls(incoming, seconds, fades=True)
        if base in ("wipeLeft", "wipeRight", "reveal"):
            left = base == "wipeLeft" or (base == "reveal" and not incoming)
            return cls(incoming, seconds, wipe=1 if left else -1)
        if base.startswith("shuffle"):
            return cls(
                incoming,
                seconds,
                dx=1.0 if "Right" in base else -1.0,
                dy=-1.0 if "Top" in base else 1.0,
            )
        across, down = next(way for side, way in _DIRECTIONS.items() if base.endswith(side))
        sign = -1 if incoming else 1
        if base.startswith("carousel"):
            return cls(incoming, seconds, dx=float(sign * across), dy=float(sign * down))
        return cls(incoming, seconds, fades=True, dx=sign * across * _SLIDE, dy=sign * down * _SLIDE)

    def begin(self, start: float, length: float) -> float:
        """When the motion begins on the timeline, for a clip of that start and length."""
        if self.at is not None:
            return start + self.at
        return start if self.incoming else start + max(0.0, length - self.seconds)

    def progress(self, start: float, length: float) -> str:
        """0 to 1 through the motion, as an expression of the timeline's time `t`."""
        return f"clip((t-{self.begin(start, length):.6f})/{self.seconds:.6f},0,1)"


def shift_expression(
    motions: Sequence[Motion], start: float, length: float, extent: int, *, horizontal: bool
) -> str:
    """How far a layer is moved by its motions, in pixels of an `extent`; empty when it is not."""
    parts: list[str] = []
    for motion in motions:
        distance = (motion.dx if horizontal else motion.dy) * extent
        if distance:
            progress = motion.progress(start, length)
            parts.append(f"{distance:g}*({f'1-{progress}' if motion.incoming else progress})")
    return "+".join(parts).replace("+-", "-")


def wipe_expression(motions: Sequence[Motion], start: float, length: float, width: int) -> str:
    """Where a window of `width` starts on a mask of hidden, shown, hidden; empty without a wipe."""
    parts: list[str] = []
    for motion in motions:
        if motion.wipe:
            progress = motion.progress(start, length)
            change = f"({progress}-1)" if motion.incoming else progress
            parts.append(f"{motion.wipe}*{change}")
    return f"{width}*(1+{'+'.join(parts)})".replace("+-", "-") if parts else ""


def zoompan_options(effect: str, first: int, total: int) -> dict[str, str]:
    """Options z, x, y of zoompan for an effect; its output starts at the clip's frame `first`."""
    base, speed = _split(effect)
    progress = f"((on+{first})/{max(1, total - 1)})"
    if base.startswith("zoom"):
        reach = _ZOOM[speed] - 1
        part = progress if base == "zoomIn" else f"(1-{progress})"
        # The window's width is kept even, so that its middle never moves: a middle that is rounded to and fro
        # by half a pixel is what makes a slow zoom tremble.
        zoom = f"iw/(2*round(iw/(2*(1+{reach:g}*{part})))+0.01)"
        return {"z": zoom, "x": "(iw-iw/zoom)/2+0.01", "y": "(ih-ih/zoom)/2+0.01"}
    across, down = next(way for side, way in _DIRECTIONS.items() if base.endswith(side))
    # The picture moves the named way, so the window over it moves the other way.
    travelled = progress if across + down < 0 else f"(1-{progress})"
    return {
        "z": f"{1 + 2 * _PAN[speed]:g}",
        "x": f"(iw-iw/zoom)*{travelled}" if across else "(iw-iw/zoom)/2",
        "y": f"(ih-ih/zoom)*{travelled}" if down else "(ih-ih/zoom)/2",
    }


def value_expression(value: float | Sequence[Tween], start: float | None) -> str:
    """A number, or tweens of a clip that starts at `start`, as an expression of `t`.

    Between tweens the last value holds. Without a start the expression holds `{start}` in its place.
    """
    if isinstance(value, int | float):
        return f"{value:g}"
    offset = "{start}" if start is None else f"{start:.6f}"
    tweens = sorted(value, key=lambda tween: tween.start)
    text = f"{tweens[-1].to:g}" if tweens else "0"
    for tween in reversed(tweens):
        time = f"(t-{offset}-{tween.start:g})"
        part = f"clip({time}/{max(tween.length, 1e-6):g},0,1)"
        ramp = f"{tween.from_:g}+({tween.to - tween.from_:g})*{part}"
        text = f"if(lt({time},{tween.length:g}),{ramp},{text})"
    return text


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?)(Slow|Fast)?", name)
    assert found is not None
    return found[1], found[2] or ""
