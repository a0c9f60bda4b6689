"""The pictures of a plan: the timeline is cut into segments, each one short encode of its own.

A segment composes only the layers that can be seen in it, and segments are encoded side by side and joined
without another encode. Inside a segment's filter graph every stream carries the timeline's own time, so the
expressions of a layer are the same in all of them.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamcuts.sandbox.render_canvas import Canvas
from dreamcuts.sandbox.render_motion import wipe_expression, zoompan_options
from dreamcuts.sandbox.render_plan import Layer, Plan

SEGMENT_SECONDS = 4.0
"""Longer stretches are divided, so that all cores have work until the end."""

_TO_BT709 = "out_color_matrix=bt709:out_range=tv"
_TAGS = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
TO_JPEG = "scale=out_color_matrix=bt601:out_range=pc,format=yuvj420p"
"""JPEG knows one kind of colour only (JFIF)."""
_FILTERS = {
    "blur": "gblur=sigma=8",
    "boost": "eq=contrast=1.2:saturation=1.6",
    "contrast": "eq=contrast=1.4",
    "darken": "eq=brightness=-0.15",
    "greyscale": "hue=s=0",
    "lighten": "eq=brightness=0.15",
    "muted": "eq=contrast=0.8:saturation=0.6",
    "negative": "negate",
}
_OVERSCALE = 2
"""zoompan moves its window by whole pixels of its input, and by two where colour has half the resolution: a
picture twice as big with full colour moves by half a pixel, which looks smooth. Four times as big with half
the colour looks the same and takes twice as long (0.9 s against 0.5 s for 110 frames of 1280x720)."""
_MAX_ZOOM_SIDE = 4096


@dataclass(frozen=True)
class Segment:
    """A stretch of frames in which the same layers can be seen, ordered from bottom to top."""

    first: int
    last: int
    layers: tuple[Layer, ...]

    @property
    def frames(self) -> int:
        return self.last - self.first


def segments_of(plan: Plan, first: int = 0, last: int | None = None) -> list[Segment]:
    """Cut the frames of a plan (or a range of them) at its clips' edges, and long stretches once more."""
    last = plan.frames if last is None else last
    edges = {first, last}
    for layer in plan.layers:
        if not layer.cue:
            edges |= {edge for edge in (layer.first, layer.last) if first < edge < last}
    longest = max(1, plan.canvas.frame(SEGMENT_SECONDS))
    segments: list[Segment] = []
    ordered = sorted(edges)
    for begin, end in itertools.pairwise(ordered):
        pieces = max(1, round((end - begin) / longest))
        bounds = [begin + (end - begin) * piece // pieces for piece in range(pieces + 1)]
        for low, high in itertools.pairwise(bounds):
            if high > low:
                segments.append(Segment(low, high, _visible(plan, low, high)))
    return segments


def segment_arguments(plan: Plan, segment: Segment, target: Path, *, threads: int = 1) -> list[str]:
    """The ffmpeg arguments that encode one segment into `target` (H.264, closed GOP, no sound)."""
    canvas = plan.canvas
    inputs, graph, label = _compose(canvas, segment)
    rate = f"{canvas.fps.numerator}/{canvas.fps.denominator}"
    gop = str(max(1, canvas.frame(2.0)))
    arguments = [*inputs, "-filter_complex_threads", str(threads), "-filter_complex", graph]
    arguments += ["-map", f"[{label}]", "-an", "-frames:v", str(segment.frames)]
    arguments += [
        "-c:v",
        "libx264",
        "-preset",
        "superfast",
        "-crf",
        str(canvas.crf),
        "-threads",
        str(threads),
    ]
    arguments += ["-g", gop, "-pix_fmt", "yuv420p", "-r", rate]
    arguments += [
        "-video_track_timescale",
        str(canvas.fps.numerator * (1 if canvas.fps.numerator > 1000 else 512)),
    ]
    return [*arguments, str(target)]


def still_arguments(plan: Plan, segment: Segment, target: Path, quality: int = 2) -> list[str]:
    """The ffmpeg arguments that write a segment's first frame as a picture, by `target`'s ending."""
    inputs, graph, label = _compose(plan.canvas, Segment(segment.first, segment.first + 1, segment.layers))
    if target.suffix == ".jpg":
        graph, label = f"{graph};[{label}]{TO_JPEG}[jpeg]", "jpeg"
    return [
        *inputs,
        *(
            "-filter_complex",
            graph,
            "-map",
            f"[{label}]",
            "-frames:v",
            "1",
            "-q:v",
            str(quality),
            "-update",
            "1",
        ),
        str(target),
    ]


def join_list(segments: Sequence[tuple[Path, float]]) -> str:
    """The list by which ffmpeg's concat demuxer joins files of the given lengths in seconds."""
    lines = ["ffconcat version 1.0"]
    for path, seconds in segments:
        lines += [f"file {shlex.quote(str(path))}", f"duration {seconds:.6f}"]
    return "\n".join(lines) + "\n"


def _visible(plan: Plan, first: int, last: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for layer in plan.layers:
        if layer.first >= last or layer.last <= first:
            continue
        whole = layer.first <= first and layer.last >= last
        if whole and layer.covers(plan.canvas) and not _fades_within(plan.canvas, layer, first, last):
            layers.clear()
        layers.append(layer)
    return tuple(layers)


def _fades_within(canvas: Canvas, layer: Layer, first: int, last: int) -> bool:
    for motion in layer.motions:
        begin = motion.begin(layer.start, layer.length)
        if begin < canvas.seconds(last) and begin + motion.seconds > canvas.seconds(first):
            return True
    return False


def _compose(canvas: Canvas, segment: Segment) -> tuple[list[str], str, str]:
    """Inputs, filter graph and the label of its output for one segment."""
    rate = f"{canvas.fps.numerator}/{canvas.fps.denominator}"
    timebase = f"{canvas.fps.denominator}/{canvas.fps.numerator}"
    clock = f"settb={timebase},setpts=N+{segment.first}"
    inputs: list[str] = []
    chains: list[str] = []
    layers = list(segment.layers)
    base = "base"
    bottom = layers[0] if layers else None
    if (
        bottom is not None
        and bottom.covers(canvas)
        and bottom.first <= segment.first < segment.last <= bottom.last
    ):
        # The bottom layer fills the frame: it is the base, and fades to the background's colour.
        inputs += _input(canvas, segment, bottom)
        chain = _layer_chain(canvas, segment, bottom, alpha=False)
        chains.append(f"[0:v]{chain},{clock}{_fade(bottom, canvas.background)}[base]")
        layers = layers[1:]
    else:
        colour = canvas.background.replace("#", "0x")
        chains.append(
            f"color=c={colour}:s={canvas.width}x{canvas.height}:r={rate},trim=end_frame={segment.frames},"
            f"scale={_TO_BT709},format=yuv420p,{_TAGS},{clock}[base]"
        )
    for number, layer in enumerate(layers):
        index = inputs.count("-i")
        inputs += _input(canvas, segment, layer)
        chain = f"[{index}:v]{_layer_chain(canvas, segment, layer, alpha=True)},{clock}"
        chain += _wipe(layer, segment, number, clock, chains) + _fade(layer, None)
        chains.append(f"{chain}[layer{number}]")
        x, y = layer.x, layer.y
        if layer.angle:
            x, y = f"{x}-(w-{layer.width})/2", f"{y}-(h-{layer.height})/2"
        when = (
            f"between(t,{canvas.seconds(layer.first) - 0.001:.6f},{canvas.seconds(layer.last) - 0.002:.6f})"
        )
        whole = layer.first <= segment.first and layer.last >= segment.last
        enable = "" if whole else f":enable='{when}'"
        still = "init" if "t" not in x + y else "frame"
        chains.append(
            f"[{base}][layer{number}]overlay=x='{x}':y='{y}':eval={still}:format=yuv420"
            f":eof_action=repeat{enable}[over{number}]"
        )
        base = f"over{number}"
    chains.append(f"[{base}]setpts=N,{_TAGS}[out]")
    return inputs, ";".join(chains), "out"


def _input(canvas: Canvas, segment: Segment, layer: Layer) -> list[str]:
    path = str(layer.source.path)
    if not layer.moving:
        return ["-framerate", f"{canvas.fps.numerator}/{canvas.fps.denominator}", "-i", path]
    begin = layer.trim + max(0.0, canvas.seconds(max(segment.first, layer.first)) - layer.start) * layer.speed
    # Half a source frame earlier: a decoder that seeks drops frames whose time has just passed.
    step = 1 / (layer.source.fps or 25.0)
    begin = max(0.0, min(begin, layer.source.duration - step) - step / 2)
    return ["-threads", "1", "-ss", f"{begin:.6f}", "-i", path]


def _layer_chain(canvas: Canvas, segment: Segment, layer: Layer, *, alpha: bool) -> str:
    """From a decoded source to a stream of the segment's length, in the layer's size."""
    steps: list[str] = []
    left, top, right, bottom = layer.crop
    if any(layer.crop):
        steps.append(f"crop=iw*{1 - left - right:g}:ih*{1 - top - bottom:g}:iw*{left:g}:ih*{top:g}")
    if layer.moving:
        steps += _playback(canvas, segment, layer)
    over = 1
    if layer.effect:
        over = max(1, min(_OVERSCALE, _MAX_ZOOM_SIDE // max(layer.width, layer.height)))
    steps.append(_scale(layer, over))
    if layer.chroma_key is not None:
        key = layer.chroma_key
        colour = key.color.replace("#", "0x")
        steps.append(
            f"format=yuva444p,chromakey={colour}:{max(0.01, key.threshold / 500):.3f}:{key.halo / 500:.3f}"
        )
    wants_alpha = alpha and (layer.source.has_alpha or layer.chroma_key is not None or _needs_alpha(layer))
    steps.append(f"format={'yuva' if wants_alpha else 'yuv'}{'444p' if layer.effect else '420p'}")
    if layer.filter:
        steps.append(_FILTERS[layer.filter])
    steps += [name for name, flipped in zip(("hflip", "vflip"), layer.flip, strict=True) if flipped]
    if layer.effect:
        steps += [_zoompan(canvas, segment, layer), f"format={'yuva420p' if wants_alpha else 'yuv420p'}"]
    elif not layer.moving:
        steps.append("loop=loop=-1:size=1:start=0")
    if layer.angle:
        radians = f"{layer.angle:g}*PI/180"
        steps.append(f"rotate={radians}:ow='rotw({radians})':oh='roth({radians})':c=none")
    if layer.opacity < 1:
        steps.append(f"lutyuv=a=val*{layer.opacity:g}")
    steps += [f"trim=end_frame={segment.frames}", "setsar=1", _TAGS]
    return ",".join(steps)


def _playback(canvas: Canvas, segment: Segment, layer: Layer) -> list[str]:
    """A video at its speed and the output's frame rate; its last frame stands when it ends early."""
    rate = f"{canvas.fps.numerator}/{canvas.fps.denominator}"
    if layer.speed <= 0:
        return ["trim=end_frame=1", f"fps={rate}", "tpad=stop=-1:stop_mode=clone"]
    steps = [] if layer.speed == 1 else [f"setpts=PTS/{layer.speed:g}"]
    steps += [f"fps={rate}:start_time=0", "tpad=stop=-1:stop_mode=clone"]
    late = layer.first - segment.first
    if late > 0:
        steps.append(f"tpad=start={late}:start_mode=clone")
    return steps


def _scale(layer: Layer, over: int) -> str:
    width, height = layer.width * over, layer.height * over
    if not layer.fill:
        return f"scale={width}:{height}:flags=bicubic:{_TO_BT709}"
    fitted = "force_original_aspect_ratio=increase"
    return f"scale={width}:{height}:{fitted}:flags=bicubic:{_TO_BT709},crop={width}:{height}"


def _zoompan(canvas: Canvas, segment: Segment, layer: Layer) -> str:
    options = zoompan_options(layer.effect or "", segment.first - layer.first, layer.last - layer.first)
    listed = ":".join(f"{name}='{value}'" for name, value in options.items())
    repeat = 1 if layer.moving else segment.frames
    rate = f"{canvas.fps.numerator}/{canvas.fps.denominator}"
    return f"zoompan={listed}:d={repeat}:s={layer.width}x{layer.height}:fps={rate}"


def _needs_alpha(layer: Layer) -> bool:
    return (
        layer.opacity < 1 or bool(layer.angle) or any(motion.fades or motion.wipe for motion in layer.motions)
    )


def _fade(layer: Layer, background: str | None) -> str:
    """Fades of a layer, in its alpha or, for the base, to the background's colour."""
    text = ""
    for motion in layer.motions:
        if motion.fades:
            kind = "in" if motion.incoming else "out"
            begin = motion.begin(layer.start, layer.length)
            into = f"color={background.replace('#', '0x')}" if background else "alpha=1"
            text += f",fade=t={kind}:st={begin:.6f}:d={motion.seconds:.6f}:{into}"
    return text


def _wipe(layer: Layer, segment: Segment, number: int, clock: str, chains: list[str]) -> str:
    """Give a wiping layer its alpha from a moving window over a mask of hidden, shown, hidden."""
    window = wipe_expression(layer.motions, layer.start, layer.length, layer.width)
    if not window or layer.source.has_alpha:
        return ""
    width, height = layer.width, layer.height
    chains.append(
        f"color=c=white:s={width}x{height},trim=end_frame=1,format=gray,"
        f"pad={width * 3}:{height}:{width}:0:black,loop=loop=-1:size=1:start=0,"
        f"trim=end_frame={segment.frames},{clock},crop={width}:{height}:x='{window}':y=0[mask{number}]"
    )
    return f"[bare{number}];[bare{number}][mask{number}]alphamerge"
