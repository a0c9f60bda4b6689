"""The edit: a manifest and what its jobs made, as a Shotstack Edit.

From the top down: captions; pictures on two tracks in turns, so that a scene can fade in over the last moment
of the one before, which is shown that much longer (the film's length stays what the manifest says); then
narrations, music and sound effects. What is missing is left out, and the notes say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamcuts.errors import InvalidRequest
from dreamcuts.manifest.assets import ManifestJob, url_of
from dreamcuts.manifest.decompose import MUSIC, SOUND
from dreamcuts.manifest.model import Manifest, Scene
from dreamcuts.manifest.narration import Narration, place_narrations, seconds_of
from dreamcuts.manifest.options import RenderOptions, transition_name, transition_seconds
from dreamcuts.manifest.sources import Segment, Source, segments

Clip = dict[str, Any]

ZOOMS = ("zoomInSlow", "zoomOutSlow")
SLOWEST = 0.8
"""A video that is a little short is played slower, down to this; a shorter one is repeated."""
MUSIC_UNDER_VOICE = 0.18
MUSIC_VOLUME = 0.35
SOUND_VOLUME = 0.6
VIDEO_VOLUME = 0.8
SHORTEST_S = 0.04
"""One frame at 25 a second: what is shorter is not worth a clip."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A finished edit: the JSON for Shotstack, its length in seconds, and the decisions worth telling."""

    edit: dict[str, Any]
    seconds: float
    notes: list[str] = field(default_factory=list)


def build_edit(
    manifest: Mapping[str, Any] | Manifest,
    options: RenderOptions,
    jobs: Sequence[ManifestJob],
    captions_url: str | None,
) -> Timeline:
    """Arrange what the jobs made. The film is exactly metadata.durationSeconds long.

    `captions_url` is the SRT file's; None leaves the captions out. Raises InvalidRequest if there is nothing
    to show at all, and pydantic.ValidationError for a malformed manifest.
    """
    model = manifest if isinstance(manifest, Manifest) else Manifest.model_validate(manifest)
    total = round(model.metadata.duration_seconds, 3)
    notes: list[str] = []
    narrations = place_narrations(model, jobs, notes)
    parts = segments(model, jobs, notes)
    if not parts:
        raise InvalidRequest(
            "There is nothing to render: none of the scenes' pictures and videos is there. "
            + "; ".join(notes)
        )
    tracks: list[list[Clip]] = []
    if captions_url and options.captions:
        tracks.append([{"asset": options.caption_look.asset(captions_url), "start": 0, "length": total}])
    tracks += _Pictures(model, options, narrations, notes).tracks(parts)
    tracks.append([_speech(narration) for narration in narrations])
    tracks += _packed(_music(model, options, jobs, narrations, notes))
    tracks += _packed(_sounds(model, jobs, notes))
    edit: dict[str, Any] = {
        "timeline": {"background": "#000000", "tracks": [{"clips": clips} for clips in tracks if clips]},
        "output": {
            "format": options.output_format,
            "size": {"width": options.width, "height": options.height},
            "fps": options.fps,
            "quality": options.quality,
        },
    }
    if options.callback:
        edit["callback"] = options.callback
    return Timeline(edit, total, list(dict.fromkeys(notes)))


class _Pictures:
    """Lays the pictures on two tracks: an upper one, whose clips fade in and out, and a lower one beneath."""

    def __init__(
        self, manifest: Manifest, options: RenderOptions, narrations: Sequence[Narration], notes: list[str]
    ) -> None:
        self.manifest = manifest
        self.options = options
        self.narrations = {narration.scene_id: narration for narration in narrations}
        self.scenes = {scene.id: scene for scene in manifest.scenes}
        self.notes = notes
        self.images = 0

    def tracks(self, parts: Sequence[Segment]) -> list[list[Clip]]:
        upper: list[Clip] = []
        lower: list[Clip] = []
        entering = [self._entry(parts, number) for number in range(len(parts))]
        for number, part in enumerate(parts):
            on_top = number % 2 == 1
            name_in = entering[number]
            name_out = entering[number + 1] if number + 1 < len(parts) else None
            clips = self._clips(part, part.end + (transition_seconds(name_out) if name_out else 0.0))
            first, last = number == 0, number + 1 == len(parts)
            if name_in and (on_top or first):
                clips[0].setdefault("transition", {})["in"] = name_in
            if last and self._fits_ends(part):
                name_out = "fade"
            if name_out and (on_top or last):
                clips[-1].setdefault("transition", {})["out"] = name_out
            (upper if on_top else lower).extend(clips)
        return [upper, lower]

    def _entry(self, parts: Sequence[Segment], number: int) -> str | None:
        """How a segment comes in: by a transition where a scene starts and both sides are long enough."""
        part = parts[number]
        if not self.options.transitions or not part.opens_scene:
            return None
        if number == 0:
            return "fade" if self._fits_ends(part) else None
        scene = self.scenes[part.scene_id]
        defaults = (self.options.transition, self.manifest.effects.default_transition)
        name = transition_name((*_asked(scene), *defaults), self.manifest.effects.allowed)
        shortest = min(part.length, parts[number - 1].length)
        if shortest >= 2 * transition_seconds(name):
            return name
        return "fadeFast" if shortest >= 2 * transition_seconds("fadeFast") else None

    def _fits_ends(self, part: Segment) -> bool:
        """Whether the film's first and last moment can fade."""
        return self.options.transitions and part.length >= 2 * transition_seconds("fade")

    def _clips(self, part: Segment, end: float) -> list[Clip]:
        source = part.source
        if source.face is None:
            return self._fill(source, part.start, end, part.scene_id, zoom=True)
        narration = self.narrations.get(part.scene_id)
        speech_from = narration.start if narration else part.start
        speed = narration.speed if narration else 1.0
        # In the middle of the narration the lips go on where the voice is.
        trim = max(0.0, part.start - speech_from) * speed
        spoken = ((source.seconds or (narration.audio_s if narration else part.length)) - trim) / speed
        if narration:
            spoken = min(spoken, narration.end - part.start)
        until = min(part.start + max(spoken, 0.0), end)
        if end - until < SHORTEST_S:
            until = end
        clips = []
        if until - part.start >= SHORTEST_S:
            clips.append(_video(source.url, part.start, until, volume=0.0, trim=trim, speed=speed))
        if end - until >= SHORTEST_S:
            # The picture that the lips were put into: without a zoom, so that the change is not seen.
            clips += self._fill(source.face, until, end, part.scene_id, zoom=False)
        return clips

    def _fill(self, source: Source, start: float, end: float, scene_id: str, *, zoom: bool) -> list[Clip]:
        """Clips that show the source from `start` to `end`."""
        if not source.is_video:
            clip: Clip = {"asset": {"type": "image", "src": source.url}, **_times(start, end), "fit": "crop"}
            if zoom:
                clip["effect"] = ZOOMS[self.images % 2]
                self.images += 1
            return [clip]
        volume = 0.0 if scene_id in self.narrations else VIDEO_VOLUME
        length = end - start
        seconds = source.seconds or length
        if seconds >= length - SHORTEST_S:
            return [_video(source.url, start, end, volume=volume)]
        if seconds >= length * SLOWEST:
            return [_video(source.url, start, end, volume=volume, speed=seconds / length)]
        self.notes.append(
            f"scene {scene_id}: its video of {seconds:.1f} s is repeated to last {length:.1f} s"
        )
        clips = []
        while end - start >= SHORTEST_S:
            until = min(start + seconds, end)
            if end - until < SHORTEST_S:
                until = end
            clips.append(_video(source.url, start, until, volume=volume))
            start = until
        return clips


def _asked(scene: Scene) -> list[str | None]:
    """The transitions that a scene names for itself; producers write names or objects with a type."""
    given = scene.effects.transitions
    entries = given if isinstance(given, list) else [given]
    return [entry.get("type") if isinstance(entry, dict) else entry for entry in entries][:1]


def _times(start: float, end: float) -> dict[str, float]:
    return {"start": round(start, 3), "length": round(round(end, 3) - round(start, 3), 3)}


def _video(
    url: str, start: float, end: float, *, volume: float, trim: float = 0.0, speed: float = 1.0
) -> Clip:
    asset: dict[str, Any] = {"type": "video", "src": url, "volume": volume}
    if trim > 0:
        asset["trim"] = round(trim, 3)
    if abs(speed - 1) > 0.001:
        asset["speed"] = round(speed, 4)
    return {"asset": asset, **_times(start, end), "fit": "crop"}


def _speech(narration: Narration) -> Clip:
    asset: dict[str, Any] = {"type": "audio", "src": narration.url, "volume": 1}
    if narration.speed != 1.0:
        asset["speed"] = narration.speed
    return {"asset": asset, **_times(narration.start, narration.end)}


def _music(
    manifest: Manifest,
    options: RenderOptions,
    jobs: Sequence[ManifestJob],
    narrations: Sequence[Narration],
    notes: list[str],
) -> list[Clip]:
    makers = [job for job in jobs if job.type == MUSIC]
    if not options.music:
        if makers:
            notes.append("backgroundMusic is false: the music is left out")
        return []
    clips = []
    total = manifest.metadata.duration_seconds
    for job in makers:
        cue_id = str(job.payload.get("cueId") or job.job_id)
        url = url_of(job)
        if not url:
            notes.append(f"music {cue_id} is missing, {job.job_id} is {job.status}")
            continue
        start, length = _cue_span(manifest, job, cue_id)
        made = seconds_of(job)
        if made is not None and made < length - 0.5:
            notes.append(f"music {cue_id}: made {made:.1f} s, wanted {length:.1f} s; it ends early")
            length = made
        end = min(start + length, total)
        if end - start >= SHORTEST_S:
            clips.append(_music_clip(url, start, end, _volume(manifest, start, end, narrations)))
    if options.music_url and not clips:
        clips.append(_music_clip(options.music_url, 0.0, total, _volume(manifest, 0.0, total, narrations)))
    return clips


def _cue_span(manifest: Manifest, job: ManifestJob, cue_id: str) -> tuple[float, float]:
    if cue_id in manifest.audio.music.cue_map:
        return manifest.cue_span(cue_id)
    payload, total = job.payload, manifest.metadata.duration_seconds
    start = _number(payload.get("startSec")) or 0.0
    milliseconds = _number(payload.get("musicLengthMs"))
    length = _number(payload.get("durationSec")) or (milliseconds / 1000 if milliseconds else total - start)
    return start, length


def _music_clip(url: str, start: float, end: float, volume: float) -> Clip:
    asset = {"type": "audio", "src": url, "volume": volume, "effect": "fadeInFadeOut"}
    return {"asset": asset, **_times(start, end)}


def _volume(manifest: Manifest, start: float, end: float, narrations: Sequence[Narration]) -> float:
    duck = manifest.audio.music.duck_to_voice
    is_under_voice = any(each.start < end and each.end > start for each in narrations)
    if not duck or not is_under_voice:
        return MUSIC_VOLUME
    return MUSIC_UNDER_VOICE if duck is True else min(1.0, float(duck))


def _sounds(manifest: Manifest, jobs: Sequence[ManifestJob], notes: list[str]) -> list[Clip]:
    placed = {sound.id: manifest.sound_start(sound) for sound in manifest.audio.sfx}
    total = manifest.metadata.duration_seconds
    clips = []
    for job in jobs:
        if job.type != SOUND:
            continue
        effect = str(job.payload.get("effectId") or job.job_id)
        url = url_of(job)
        start = placed.get(effect, _number(job.payload.get("startTime")) or 0.0)
        if not url:
            notes.append(f"sound effect {effect} is missing, {job.job_id} is {job.status}")
            continue
        length = seconds_of(job) or _number(job.payload.get("durationSeconds")) or 2.0
        end = min(start + length, total)
        if end - start < SHORTEST_S:
            notes.append(f"sound effect {effect} starts at {start:.1f} s, after the film's end; left out")
            continue
        asset = {"type": "audio", "src": url, "volume": SOUND_VOLUME}
        clips.append({"asset": asset, **_times(start, end)})
    return clips


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _packed(clips: Iterable[Clip]) -> list[list[Clip]]:
    """The clips on as few tracks as hold them: clips of one track must not overlap."""
    tracks: list[list[Clip]] = []
    for clip in sorted(clips, key=lambda each: each["start"]):
        for track in tracks:
            if track[-1]["start"] + track[-1]["length"] <= clip["start"] + 1e-6:
                track.append(clip)
                break
        else:
            tracks.append([clip])
    return tracks
