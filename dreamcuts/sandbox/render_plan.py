"""Turn an Edit and what its sources hold into a plan of frames: which picture, where, from when to when.

Pure: no file is read and no process started here. Times are seconds on the timeline, frames count from 0
and ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreamcuts.sandbox import shotstack_schema as schema
from dreamcuts.sandbox.render_canvas import Canvas, even
from dreamcuts.sandbox.render_motion import Motion, shift_expression, value_expression
from dreamcuts.sandbox.shotstack_types import Tween

STILL_SECONDS = 3.0
"""Length of an image or text whose length is "auto"."""


class PlanError(Exception):
    """The edit cannot be composed; the text names the clip and the reason."""


@dataclass(frozen=True)
class Source:
    """A fetched file: where it lies and what it holds. `duration` is 0.0 for a still."""

    path: Path
    width: int = 0
    height: int = 0
    duration: float = 0.0
    fps: float = 0.0
    channels: int = 0
    has_alpha: bool = False

    @property
    def has_audio(self) -> bool:
        return self.channels > 0


@dataclass(frozen=True)
class Placed:
    """A clip with its times settled."""

    clip: schema.Clip
    track: int
    index: int
    start: float
    length: float

    @property
    def end(self) -> float:
        return self.start + self.length


@dataclass(frozen=True)
class Layer:
    """One picture in motion or at rest on the canvas. Layers of a plan are ordered from bottom to top.

    `x` and `y` are ffmpeg expressions of the timeline's time `t` for the top left corner. `crop` is what is
    cut off the source first (left, top, right, bottom as fractions). `fill` crops the scaled picture to the
    size where it is larger instead of stretching it. `cue` marks captions: they cause no cut of their own.
    """

    source: Source
    moving: bool
    first: int
    last: int
    start: float
    length: float
    width: int
    height: int
    x: str
    y: str
    fill: bool = False
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    trim: float = 0.0
    speed: float = 1.0
    opacity: float = 1.0
    effect: str | None = None
    filter: str | None = None
    angle: float = 0.0
    flip: tuple[bool, bool] = (False, False)
    chroma_key: schema.ChromaKey | None = None
    motions: tuple[Motion, ...] = ()
    cue: bool = False

    def covers(self, canvas: Canvas) -> bool:
        """Whether nothing beneath this layer can be seen while it is at rest or fades."""
        still_frame = self.x == "0" and self.y == "0"
        full = self.width == canvas.width and self.height == canvas.height
        plain = self.opacity >= 1 and not self.angle and self.chroma_key is None and not self.source.has_alpha
        return still_frame and full and plain and all(not motion.moves for motion in self.motions)


@dataclass(frozen=True)
class Sound:
    """One stretch of sound. `volume` is an ffmpeg expression of the clip's own time `t`."""

    source: Source
    start: float
    length: float
    trim: float = 0.0
    speed: float = 1.0
    volume: str = "1"
    fade_in: bool = False
    fade_out: bool = False


@dataclass(frozen=True)
class Plan:
    """All there is to compose: the canvas, the frames in all, layers bottom to top, and sounds."""

    canvas: Canvas
    frames: int
    layers: Sequence[Layer] = field(default_factory=tuple)
    sounds: Sequence[Sound] = field(default_factory=tuple)

    @property
    def duration(self) -> float:
        """Seconds of the output."""
        return self.canvas.seconds(self.frames)


def settle_times(edit: schema.Edit, durations: Mapping[str, float]) -> tuple[list[Placed], float]:
    """Settle "auto", "end" and "alias://" of all clips; return them and the timeline's length in seconds.

    `durations` holds the seconds of a source by its URL (of a caption file, its last cue's end). Clips come
    back from the top track's first to the bottom track's last.
    """
    rows = [
        (t, i, clip) for t, track in enumerate(edit.timeline.tracks) for i, clip in enumerate(track.clips)
    ]
    done: dict[tuple[int, int], Placed] = {}
    aliases = {clip.alias: (t, i) for t, i, clip in rows if clip.alias}
    total: float | None = None
    while len(done) < len(rows):
        before = len(done)
        for track, index, clip in rows:
            if (track, index) in done:
                continue
            start = _start(clip, done.get((track, index - 1)), index, aliases, done)
            length = _length(clip, start, total, aliases, done, durations)
            if start is not None and length is not None:
                if length <= 0:
                    raise PlanError(f"tracks[{track}].clips[{index}] has no length: it starts at {start:g} s")
                done[track, index] = Placed(clip, track, index, start, length)
        if len(done) == before:
            if total is not None:
                missing = [f"tracks[{t}].clips[{i}]" for t, i, _ in rows if (t, i) not in done]
                raise PlanError(f"The times of {', '.join(missing)} refer to no clip, or to each other")
            total = max((placed.end for placed in done.values()), default=0.0)
    ordered = [done[track, index] for track, index, _ in rows]
    return ordered, max(placed.end for placed in ordered)


def layer_of(placed: Placed, source: Source, canvas: Canvas, size: tuple[int, int] | None = None) -> Layer:
    """Place an image, video or drawn text on the canvas. `size` fixes the size of a drawn text in pixels."""
    clip, asset = placed.clip, placed.clip.asset
    video = asset if isinstance(asset, schema.VideoAsset) else None
    crop = asset.crop if isinstance(asset, schema.VideoAsset | schema.ImageAsset) else None
    cut = (crop.left, crop.top, crop.right, crop.bottom) if crop else (0.0, 0.0, 0.0, 0.0)
    if cut[0] + cut[2] >= 1 or cut[1] + cut[3] >= 1:
        raise PlanError(
            f"tracks[{placed.track}].clips[{placed.index}].asset.crop leaves nothing of the picture"
        )
    natural = source.width * (1 - cut[0] - cut[2]), source.height * (1 - cut[1] - cut[3])
    width, height = size or _fitted(clip, natural, canvas)
    x, y = _corner(clip, width, height, canvas)
    transition, transform = clip.transition, clip.transform
    motions = [Motion.parse(transition.in_, incoming=True), Motion.parse(transition.out, incoming=False)]
    opacity, fades = _opacity(clip.opacity)
    found = tuple(motion for motion in motions if motion is not None) + fades
    shift_x = shift_expression(found, placed.start, placed.length, canvas.width, horizontal=True)
    shift_y = shift_expression(found, placed.start, placed.length, canvas.height, horizontal=False)
    angle = transform.rotate.angle if transform.rotate else 0.0
    return Layer(
        source=source,
        moving=video is not None,
        first=canvas.frame(placed.start),
        last=canvas.frame(placed.end),
        start=placed.start,
        length=placed.length,
        width=width,
        height=height,
        x=_sum(x, shift_x, placed.start),
        y=_sum(y, shift_y, placed.start),
        fill=clip.fit == "crop" and size is None,
        crop=cut,
        trim=video.trim if video else 0.0,
        speed=video.speed if video else 1.0,
        opacity=opacity,
        effect=clip.effect,
        filter=clip.filter,
        angle=angle if isinstance(angle, float) else (angle[-1].to if angle else 0.0),
        flip=(
            bool(transform.flip and transform.flip.horizontal),
            bool(transform.flip and transform.flip.vertical),
        ),
        chroma_key=video.chromaKey if video else None,
        motions=found,
    )


def sound_of(placed: Placed, source: Source) -> Sound | None:
    """The sound of a video or audio clip; None where it has none or is muted."""
    asset = placed.clip.asset
    if (
        not isinstance(asset, schema.VideoAsset | schema.AudioAsset)
        or not source.has_audio
        or asset.speed <= 0
    ):
        return None
    effect = asset.effect if isinstance(asset, schema.AudioAsset) else asset.volumeEffect
    if asset.volume == 0:
        return None
    length = (
        min(placed.length, (source.duration - asset.trim) / asset.speed) if source.duration else placed.length
    )
    if length <= 0:
        return None
    return Sound(
        source=source,
        start=placed.start,
        length=length,
        trim=asset.trim,
        speed=asset.speed,
        volume=value_expression(asset.volume, 0.0),
        fade_in=effect in ("fadeIn", "fadeInFadeOut"),
        fade_out=effect in ("fadeOut", "fadeInFadeOut"),
    )


def _start(
    clip: schema.Clip,
    previous: Placed | None,
    index: int,
    aliases: Mapping[str, tuple[int, int]],
    done: Mapping[tuple[int, int], Placed],
) -> float | None:
    if isinstance(clip.start, float):
        return clip.start
    if clip.start == "auto":
        return 0.0 if index == 0 else (previous.end if previous else None)
    target = done.get(aliases.get(clip.start.removeprefix("alias://"), (-1, -1)))
    return target.start if target else None


def _length(
    clip: schema.Clip,
    start: float | None,
    total: float | None,
    aliases: Mapping[str, tuple[int, int]],
    done: Mapping[tuple[int, int], Placed],
    durations: Mapping[str, float],
) -> float | None:
    if isinstance(clip.length, float):
        return clip.length
    if clip.length == "end":
        return None if total is None or start is None else total - start
    if clip.length != "auto":
        target = done.get(aliases.get(clip.length.removeprefix("alias://"), (-1, -1)))
        return target.length if target else None
    duration = durations.get(getattr(clip.asset, "src", ""), 0.0)
    if not duration:
        return STILL_SECONDS
    trim, speed = getattr(clip.asset, "trim", 0.0), getattr(clip.asset, "speed", 1.0)
    return float((duration - trim) / (speed or 1.0))


def _fitted(clip: schema.Clip, natural: tuple[float, float], canvas: Canvas) -> tuple[int, int]:
    box = clip.width or canvas.width, clip.height or canvas.height
    width, height = natural
    if clip.fit == "contain":
        factor = min(box[0] / width, box[1] / height)
        width, height = width * factor, height * factor
    elif clip.fit != "none":
        width, height = box
    return even(width * clip.scale), even(height * clip.scale)


def _corner(clip: schema.Clip, width: int, height: int, canvas: Canvas) -> tuple[str, str]:
    """The top left corner by anchor and offset; an offset's y counts upwards (Edit API, Offset)."""
    name = clip.position.lower()
    x: float = (
        0 if "left" in name else canvas.width - width if "right" in name else (canvas.width - width) / 2
    )
    y: float = (
        0 if "top" in name else canvas.height - height if "bottom" in name else (canvas.height - height) / 2
    )
    across, down = clip.offset.x, clip.offset.y
    x_text, y_text = f"{x:g}", f"{y:g}"
    if isinstance(across, float):
        x_text = f"{x + across * canvas.width:g}"
    else:
        x_text = f"{x:g}+{canvas.width}*({value_expression(across, None)})"
    if isinstance(down, float):
        y_text = f"{y - down * canvas.height:g}"
    else:
        y_text = f"{y:g}-{canvas.height}*({value_expression(down, None)})"
    return x_text, y_text


def _opacity(opacity: float | list[Tween]) -> tuple[float, tuple[Motion, ...]]:
    """A number as it is; a tween as a fade, in or out, at the higher of its two values."""
    if isinstance(opacity, float):
        return opacity, ()
    level = max((max(tween.from_, tween.to) for tween in opacity), default=1.0)
    fades = tuple(
        Motion(tween.from_ < tween.to, tween.length, fades=True, at=tween.start)
        for tween in opacity
        if tween.from_ != tween.to and tween.length > 0
    )
    return min(1.0, level), fades


def _sum(base: str, shift: str, start: float) -> str:
    base = base.replace("{start}", f"{start:.6f}")
    return f"{base}+{shift}" if shift else base
