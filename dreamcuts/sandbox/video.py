"""Moving pictures: a camera that travels along a painted scene or a given picture, and faces that talk.

The camera moves by whole pixels at a constant speed, which is smooth without any scaling per frame: a clip of
eight seconds in 720p is encoded in about a second.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from dreamcuts.sandbox import images, lips
from dreamcuts.sandbox.ffmpeg import MediaInfo, run_ffmpeg
from dreamcuts.sandbox.state import Mouth

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "animation", "-crf", "22", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-ac", "2")
FAST_START = ("-movflags", "+faststart")

AMBIENCE = (
    "anoisesrc=color=brown:amplitude=0.22:sample_rate=48000:seed={seed},lowpass=f=650,tremolo=f=0.13:d=0.6[air];"
    "aevalsrc='0.05*sin(2*PI*{root}*t)+0.04*sin(2*PI*{root}*1.5*t)+0.03*sin(2*PI*{root}*2.01*t)':s=48000,"
    "tremolo=f=0.21:d=0.5,lowpass=f=1200[tone];[air][tone]amix=inputs=2:normalize=0,"
    "afade=in:d=0.5,afade=out:st={fade}:d=0.6,aformat=channel_layouts=stereo[sound]"
)
"""The sound of a generated clip: air and a soft chord."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A clip to be made: size in pixels, frames a second, number of frames, and whether it has sound."""

    width: int
    height: int
    fps: int
    frames: int
    sound: bool = False

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.fps


@dataclass(frozen=True, slots=True)
class Talk:
    """A face (picture or video) that speaks an audio for so many seconds."""

    face: Path
    info: MediaInfo
    mouth: Mouth | None
    audio: Path
    seconds: float
    width: int
    height: int
    fps: int


async def film(prompt: str, seed: int, shot: Shot, path: Path, folder: Path) -> Mouth | None:
    """Film the scene of a prompt, the camera travelling along it; returns where it shows a mouth."""
    travel = shot.frames
    layers = await asyncio.to_thread(images.paint_layers, prompt, seed, shot.width, shot.height, travel)
    back, front = folder / f"{path.stem}-back.png", folder / f"{path.stem}-front.png"
    try:
        await asyncio.to_thread(layers.back.save, back, compress_level=1)
        await asyncio.to_thread(layers.front.save, front, compress_level=1)
        moves = f"-{layers.front_travel // travel}*n" if layers.front_travel else "0"
        graph = (
            f"[0]format=yuv420p,{_still(shot)},crop={shot.width}:{shot.height}:x=n:y=0:exact=1[back];"
            f"[1]format=yuva420p,{_still(shot)}[front];"
            f"[back][front]overlay=x='{moves}':y=0:eval=frame[picture]"
        )
        await _encode(["-i", str(back), "-i", str(front)], graph, shot, seed, path)
    finally:
        back.unlink(missing_ok=True)
        front.unlink(missing_ok=True)
    return layers.mouth


async def animate(
    picture: Path, info: MediaInfo, mouth: Mouth | None, shot: Shot, path: Path
) -> Mouth | None:
    """Let the camera travel over a given picture; returns where the clip shows a mouth."""
    wide = max(shot.width + shot.frames, shot.height * info.width / info.height)
    scale = wide / info.width
    size = round(wide / 2) * 2, round(info.height * scale / 2) * 2
    left, top = (size[0] - shot.width - shot.frames) // 2, max(0, size[1] - shot.height) // 2
    graph = (
        f"[0]scale={size[0]}:{max(size[1], shot.height)}:flags=bicubic,format=yuv420p,{_still(shot)},"
        f"crop={shot.width}:{shot.height}:x={left}+n:y={top}:exact=1[picture]"
    )
    await _encode(["-i", str(picture)], graph, shot, 1, path)
    if mouth is None:
        return None
    return replace(
        mouth,
        x=(mouth.x * size[0] - left) / shot.width,
        y=(mouth.y * size[1] - top) / shot.height,
        width=mouth.width * size[0] / shot.width,
        drift=-shot.fps / shot.width,
    )


def _still(shot: Shot) -> str:
    """Filters that turn one decoded picture into a clip of that picture."""
    return f"loop=loop=-1:size=1:start=0,setpts=N/({shot.fps}*TB),fps={shot.fps}"


async def _encode(inputs: list[str], graph: str, shot: Shot, seed: int, path: Path) -> None:
    output = ["-map", "[picture]", "-frames:v", str(shot.frames), "-r", str(shot.fps), *X264]
    if shot.sound:
        root = (98.0, 110.0, 130.81, 146.83)[seed % 4]
        fade = max(0.0, shot.seconds - 0.6)
        graph += ";" + AMBIENCE.format(seed=seed % 100_000, root=root, fade=f"{fade:.3f}")
        output += ["-map", "[sound]", *AAC, "-t", f"{shot.seconds:.6f}"]
    await run_ffmpeg(*inputs, "-filter_complex", graph, *output, *FAST_START, str(path))


async def talk(wish: Talk, path: Path) -> None:
    """Make the face speak: its mouth, or where none is known a small voice meter, follows the audio.

    The clip is as long as `wish.seconds`; a shorter video is repeated.
    """
    levels = await lips.loudness(wish.audio, wish.fps, wish.seconds)
    sprites = await asyncio.to_thread(lips.draw, levels, wish.mouth, wish.width, wish.height)
    size = f"{wish.width}:{wish.height}"
    fits = f"scale={size}:force_original_aspect_ratio=increase:flags=bicubic,crop={size}"
    if wish.info.is_image or wish.info.duration <= 0:
        inputs = ["-i", str(wish.face)]
        picture = (
            f"[0]{fits},format=yuv420p,loop=loop=-1:size=1:start=0,setpts=N/({wish.fps}*TB),fps={wish.fps}"
        )
        period = 0.0
    else:
        inputs = ["-stream_loop", "-1", "-i", str(wish.face)]
        picture = f"[0:v]{fits},fps={wish.fps},format=yuv420p"
        period = wish.info.duration
    x = f"{sprites.x:.2f}"
    if wish.mouth is not None and wish.mouth.drift:
        moment = f"mod(t,{period:.4f})" if period else "t"
        x += f"+{wish.mouth.drift * wish.width:.4f}*{moment}"
    graph = (
        f"{picture}[face];[2]format=yuva420p[lips];"
        f"[face][lips]overlay=x='{x}':y={sprites.y:.2f}:eval=frame[picture]"
    )
    raw = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgba",
        "-s",
        f"{sprites.width}x{sprites.height}",
        "-r",
        str(wish.fps),
    ]
    await run_ffmpeg(
        *inputs,
        *("-i", str(wish.audio), *raw, "-i", "pipe:0", "-filter_complex", graph),
        *("-map", "[picture]", "-map", "1:a", "-t", f"{wish.seconds:.4f}", "-r", str(wish.fps)),
        *(*X264, *AAC, "-af", "apad", *FAST_START, str(path)),
        stdin=sprites.frames,
    )
