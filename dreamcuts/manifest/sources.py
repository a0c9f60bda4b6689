"""What each scene shows: which of its pictures and videos are there, and for how long each is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamcuts.manifest.assets import ManifestJob, Unresolved, asset_url, producers, url_of
from dreamcuts.manifest.decompose import LIPSYNC, VIDEO
from dreamcuts.manifest.model import Manifest, Scene, Visual
from dreamcuts.manifest.narration import job_of_scene, seconds_of

VIDEO_ENDINGS = (".mp4", ".mov", ".webm", ".m4v", ".mkv")


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or video. `seconds` is a video's length where known.

    `face` is what a lip-synced video was made from; it is shown where nobody speaks.
    """

    url: str
    is_video: bool
    seconds: float | None = None
    face: Source | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A source on the film's time line, from `start` to `end` in seconds."""

    scene_id: str
    start: float
    end: float
    source: Source
    opens_scene: bool

    @property
    def length(self) -> float:
        return self.end - self.start


def segments(manifest: Manifest, jobs: Sequence[ManifestJob], notes: list[str]) -> list[Segment]:
    """The film's pictures without a gap, from 0 to its end; empty if there are none at all.

    A scene without any is filled by its neighbour's. Appends what is missing to `notes`.
    """
    raw = manifest.model_dump(by_alias=True)
    found: list[Segment] = []
    for scene, start in manifest.in_order():
        sources = _sources(manifest, raw, scene, jobs, notes)
        weight = sum(share for _, share in sources)
        at = start
        for number, (source, share) in enumerate(sources):
            end = at + scene.duration_seconds * share / weight
            found.append(Segment(scene.id, at, end, source, number == 0))
            at = end
    return _without_gaps(found, manifest.metadata.duration_seconds)


def _without_gaps(found: list[Segment], total: float) -> list[Segment]:
    closed = [
        replace(
            segment,
            start=round(segment.start, 3) if number else 0.0,
            end=round(found[number + 1].start if number + 1 < len(found) else total, 3),
        )
        for number, segment in enumerate(found)
    ]
    return [segment for segment in closed if segment.length > 0]


def _sources(
    manifest: Manifest, raw: dict[str, object], scene: Scene, jobs: Sequence[ManifestJob], notes: list[str]
) -> list[tuple[Source, float]]:
    """The scene's sources, each with its part of the scene's time.

    A lip-synced video takes the place of the visual that it was made from, or of all where none is named. A
    video made for the scene as such takes the place of the pictures.
    """
    found: list[tuple[Visual, Source]] = []
    for visual in scene.visuals:
        if visual.asset_id:
            try:
                found.append((visual, _asset_source(manifest, raw, visual.asset_id, jobs)))
            except Unresolved as error:
                notes.append(f"scene {scene.id}: {error}; left out")
    own = _scene_videos(manifest, scene, jobs, notes)
    if own:
        moving = [(visual, source) for visual, source in found if source.is_video]
        found = moving + [(Visual(), source) for source in own]
    found = _with_lip_sync(scene, found, jobs, notes)
    if not found:
        notes.append(f"scene {scene.id}: nothing to show; its neighbour's picture is held instead")
    known = [visual.duration_seconds for visual, _ in found if visual.duration_seconds]
    default = sum(known) / len(known) if known else 1.0
    return [(source, visual.duration_seconds or default) for visual, source in found]


def _asset_source(
    manifest: Manifest, raw: dict[str, object], asset_id: str, jobs: Sequence[ManifestJob]
) -> Source:
    url = asset_url(asset_id, raw, jobs)
    asset = manifest.assets.get(asset_id)
    for job in producers(asset_id, jobs):
        if url_of(job) == url:
            return _job_source(job, url)
    is_video = (asset is not None and asset.is_video) or _looks_like_video(url)
    return Source(url, is_video, asset.duration_seconds if asset and is_video else None)


def _job_source(job: ManifestJob, url: str) -> Source:
    content_type = str((job.result or {}).get("contentType") or "")
    is_video = content_type.startswith("video/") or (not content_type and job.type in (VIDEO, LIPSYNC))
    return Source(url, is_video, seconds_of(job) if is_video else None)


def _scene_videos(
    manifest: Manifest, scene: Scene, jobs: Sequence[ManifestJob], notes: list[str]
) -> list[Source]:
    """Videos made for the scene that are no asset which a visual names."""
    named = {visual.asset_id for each in manifest.scenes for visual in each.visuals if visual.asset_id}
    sources = []
    for job in jobs:
        if job.type != VIDEO or job.payload.get("sceneId") != scene.id:
            continue
        if named & {job.payload.get("assetId"), job.payload.get("resultAssetId"), job.payload.get("videoId")}:
            continue
        url = url_of(job)
        if url:
            sources.append(_job_source(job, url))
        else:
            notes.append(f"scene {scene.id}: its video is missing, {job.job_id} is {job.status}")
    return sources


def _with_lip_sync(
    scene: Scene, found: list[tuple[Visual, Source]], jobs: Sequence[ManifestJob], notes: list[str]
) -> list[tuple[Visual, Source]]:
    job = job_of_scene(scene.id, LIPSYNC, jobs)
    if job is None:
        return found
    url = url_of(job)
    if not url:
        notes.append(f"scene {scene.id}: its lip sync is missing, {job.job_id} is {job.status}")
        return found
    lips = Source(url, True, seconds_of(job))
    face_id = job.payload.get("videoAssetId")
    for number, (visual, source) in enumerate(found):
        if visual.lip_sync or (face_id and visual.asset_id == face_id):
            return [*found[:number], (visual, replace(lips, face=source)), *found[number + 1 :]]
    face = found[0][1] if found else lips
    return [(Visual(), replace(lips, face=face))]


def _looks_like_video(url: str) -> bool:
    return url.split("?")[0].split("#")[0].lower().endswith(VIDEO_ENDINGS)
