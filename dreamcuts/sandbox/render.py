"""Compose an Edit for real: fetch its sources, plan its frames, encode segments side by side, add sound.

`Renderer.render` does one edit from start to end and reports each stage as it begins. All intermediate files
lie in one folder that is gone afterwards, however it ends; cancelling it ends its ffmpeg processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio.to_thread

from dreamcuts.sandbox import shotstack_schema as schema
from dreamcuts.sandbox.ffmpeg import FfmpegError, run_ffmpeg
from dreamcuts.sandbox.render_audio import audio_arguments, sounds_between
from dreamcuts.sandbox.render_canvas import Canvas, canvas_of
from dreamcuts.sandbox.render_plan import (
    Layer,
    Placed,
    Plan,
    PlanError,
    Sound,
    Source,
    layer_of,
    settle_times,
    sound_of,
)
from dreamcuts.sandbox.render_sources import fetch_all, font_family, inspect, kinds_of, source_url
from dreamcuts.sandbox.render_text import caption_layers, text_layer
from dreamcuts.sandbox.render_video import TO_JPEG, join_list, segment_arguments, segments_of, still_arguments

MOVING_FORMATS = ("mp4", "gif")


class RenderFailed(Exception):
    """The edit cannot be rendered; the text is what the API shows as the render's error."""


@dataclass(frozen=True)
class Rendered:
    """The files of a finished render. `duration` is in seconds, 0.0 for a still."""

    path: Path
    duration: float
    poster: Path | None = None
    thumbnail: Path | None = None


@dataclass
class Renderer:
    """Renders edits. `new_file` names a result by its ending; `slots` are shared by all that encode."""

    temp: Path
    new_file: Callable[[str], Path]
    slots: asyncio.Semaphore

    async def render(self, edit: schema.Edit, on_stage: Callable[[str], Awaitable[None]]) -> Rendered:
        """Render an edit and return its files. Raises `RenderFailed` with a text for the caller."""
        with self._folder() as folder:
            try:
                await on_stage("fetching")
                kinds = kinds_of(edit)
                files = await fetch_all(list(kinds), folder)
                await on_stage("preprocessing")
                found = await asyncio.gather(*(inspect(url, kinds[url], path) for url, path in files.items()))
                sources = dict(zip(files, found, strict=True))
                plan = await anyio.to_thread.run_sync(make_plan, edit, sources, folder)
                await on_stage("rendering")
                path = await self._encode(edit, plan, folder)
                await on_stage("saving")
                return await self._save(edit, plan, path)
            except (PlanError, FfmpegError) as error:
                raise RenderFailed(str(error)) from error

    async def _encode(self, edit: schema.Edit, plan: Plan, folder: Path) -> Path:
        first, last = _range(edit, plan)
        begin, seconds = plan.canvas.seconds(first), plan.canvas.seconds(last - first)
        plan = replace(plan, sounds=tuple(sounds_between(plan.sounds, begin, begin + seconds)))
        target = folder / f"result.{edit.output.format}"
        if edit.output.format not in (*MOVING_FORMATS, "mp3"):
            await self._run(*still_arguments(plan, segments_of(plan, first, first + 1)[0], target))
            return target
        sound = audio_arguments(plan, begin, seconds)
        if edit.output.format == "mp3":
            await self._run(*sound, "-c:a", "libmp3lame", "-b:a", "192k", str(target))
            return target
        video, audio = folder / "video.mp4", folder / "sound.m4a"
        runs = [[*sound, "-c:a", "aac", "-aac_coder", "fast", "-b:a", "192k", str(audio)]]
        pieces: list[tuple[Path, float]] = []
        for number, segment in enumerate(segments_of(plan, first, last)):
            piece = folder / f"segment-{number:04}.mp4"
            pieces.append((piece, plan.canvas.seconds(segment.frames)))
            runs.append(segment_arguments(plan, segment, piece))
        await self._run_together(runs)
        await self._join(pieces, audio, video, folder)
        if edit.output.format == "gif":
            graph = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
            loop = "0" if edit.output.repeat else "-1"
            await self._run("-i", str(video), "-filter_complex", graph, "-loop", loop, str(target))
            return target
        return video

    async def _join(
        self, pieces: Sequence[tuple[Path, float]], audio: Path, target: Path, folder: Path
    ) -> None:
        listing = folder / "segments.ffconcat"
        listing.write_text(join_list(pieces), encoding="utf-8")
        arguments = ["-f", "concat", "-safe", "0", "-i", str(listing), "-i", str(audio)]
        arguments += ["-map", "0:v", "-map", "1:a", "-c", "copy", "-movflags", "+faststart", str(target)]
        await self._run(*arguments)

    async def _save(self, edit: schema.Edit, plan: Plan, path: Path) -> Rendered:
        first, last = _range(edit, plan)
        output = edit.output
        poster = thumbnail = None
        if output.format in MOVING_FORMATS:
            if output.poster is not None:
                poster = await self._capture(path, output.poster.capture, 1.0)
            if output.thumbnail is not None:
                thumbnail = await self._capture(path, output.thumbnail.capture, output.thumbnail.scale)
        final = self.new_file(f".{output.format}")
        await anyio.to_thread.run_sync(shutil.move, path, final)
        moving = output.format in (*MOVING_FORMATS, "mp3")
        return Rendered(final, plan.canvas.seconds(last - first) if moving else 0.0, poster, thumbnail)

    async def _capture(self, video: Path, seconds: float, scale: float) -> Path:
        target = self.new_file(".jpg")
        size = f"scale=trunc(iw*{scale:g}/2)*2:-2,{TO_JPEG}"
        await self._run("-ss", f"{seconds:.3f}", "-i", str(video), "-vf", size, "-frames:v", "1", str(target))
        return target

    async def _run(self, *arguments: str) -> None:
        async with self.slots:
            await run_ffmpeg(*arguments)

    async def _run_together(self, runs: Sequence[Sequence[str]]) -> None:
        """Run all; when one fails, end the others and raise its error alone."""
        tasks = [asyncio.ensure_future(self._run(*arguments)) for arguments in runs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="render-", dir=self.temp))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_plan(edit: schema.Edit, sources: Mapping[str, Source], folder: Path) -> Plan:
    """Settle an edit's times and draw its texts into `folder`. Raises `PlanError` where it cannot."""
    canvas = canvas_of(edit)
    placed, total = settle_times(edit, {url: source.duration for url, source in sources.items()})
    fonts = {font_family(font.src): sources[font.src].path for font in edit.timeline.fonts}
    layers: list[Layer] = []
    sounds: list[Sound] = []
    # From the bottom up: the last track first and, within a track, what starts later on top.
    for item in sorted(placed, key=lambda item: (-item.track, item.start, item.index)):
        source = sources.get(source_url(item.clip))
        layers += _layers(item, source, canvas, fonts, folder)
        sound = sound_of(item, source) if source is not None else None
        if sound is not None:
            sounds.append(sound)
    soundtrack = edit.timeline.soundtrack
    if soundtrack is not None:
        source, effect = sources[soundtrack.src], soundtrack.effect or ""
        sounds.append(
            Sound(
                source=source,
                start=0.0,
                length=min(total, source.duration or total),
                volume=f"{soundtrack.volume:g}",
                fade_in="fadeIn" in effect,
                fade_out="Out" in effect,
            )
        )
    return Plan(canvas, max(1, canvas.frame(total)), tuple(layers), () if edit.output.mute else tuple(sounds))


def _layers(
    item: Placed, source: Source | None, canvas: Canvas, fonts: Mapping[str, Path], folder: Path
) -> list[Layer]:
    asset: Any = item.clip.asset
    if isinstance(asset, schema.AudioAsset):
        return []
    if isinstance(asset, schema.CaptionAsset | schema.RichCaptionAsset):
        assert source is not None
        text = source.path.read_text(encoding="utf-8-sig")
        return caption_layers(item, text, canvas, fonts, folder)
    layer = text_layer(item, canvas, fonts, folder) if source is None else layer_of(item, source, canvas)
    return [layer] if layer.last > layer.first else []


def _range(edit: schema.Edit, plan: Plan) -> tuple[int, int]:
    """The frames that the output asks for. Raises `PlanError` for a range outside of the timeline."""
    wanted = edit.output.range
    if wanted is None:
        return 0, plan.frames
    first = plan.canvas.frame(wanted.start)
    last = (
        plan.frames
        if wanted.length is None
        else min(plan.frames, plan.canvas.frame(wanted.start + wanted.length))
    )
    if last <= first:
        raise PlanError(
            f"output.range starts at {wanted.start:g} s, behind the timeline's end ({plan.duration:g} s)"
        )
    return first, last
