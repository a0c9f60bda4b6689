"""Where each narration plays, decided once for the soundtrack, the captions and the lip-synced pictures.

A narration starts with its scene, a moment late so that the picture comes first; with a lip-synced picture
both start at once. One that is longer than its scene runs on into the next, until the next narration starts.
What does not fit even then is spoken up to MAX_SPEED times faster, and cut after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamcuts.manifest.assets import ManifestJob, url_of
from dreamcuts.manifest.decompose import LIPSYNC, TTS
from dreamcuts.manifest.model import Manifest

LEAD_IN_S = 0.15
PAUSE_S = 0.05
"""Least silence before the next narration."""
MAX_SPEED = 1.15
CHARACTERS_PER_SECOND = 15.0
"""Of ordinary speech, for an audio file of unknown length."""


PREFIXES = {TTS: "job_tts_", LIPSYNC: "job_lipsync_"}
"""Names of the jobs that belong to a scene, for payloads without a sceneId."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a narration; its times are seconds in the audio file."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Narration:
    """A narration in its place: plays from `start` for `length` seconds of the film, `speed` times as fast.

    `audio_s` is the length of the file. `words` is empty where the speech job gave no times.
    """

    scene_id: str
    url: str
    text: str
    words: tuple[Word, ...]
    audio_s: float
    start: float
    length: float
    speed: float = 1.0

    @property
    def end(self) -> float:
        return self.start + self.length


def job_of_scene(scene_id: str, job_type: str, jobs: Sequence[ManifestJob]) -> ManifestJob | None:
    """The scene's job of that type; a completed one where there are several."""
    name = f"{PREFIXES[job_type]}{scene_id}"
    found = [
        job
        for job in jobs
        if job.type == job_type
        and job.payload.get("sceneId", scene_id if job.job_id == name else None) == scene_id
    ]
    return next((job for job in found if url_of(job)), found[0] if found else None)


def seconds_of(job: ManifestJob) -> float | None:
    """The length of what a job made, if its result says so."""
    value = (job.result or {}).get("durationSeconds")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def place_narrations(
    manifest: Manifest, jobs: Sequence[ManifestJob], notes: list[str] | None = None
) -> list[Narration]:
    """All narrations that are there, in order, without overlaps. Appends what was decided to `notes`."""
    notes = [] if notes is None else notes
    total = manifest.metadata.duration_seconds
    spoken: list[tuple[str, float, float, ManifestJob, str]] = []
    for scene, start in manifest.in_order():
        job = job_of_scene(scene.id, TTS, jobs)
        if job is None:
            continue
        url = url_of(job)
        if not url:
            notes.append(f"scene {scene.id}: its narration is missing, {job.job_id} is {job.status}")
            continue
        face = job_of_scene(scene.id, LIPSYNC, jobs)
        lead_in = 0.0 if face is not None and url_of(face) else LEAD_IN_S
        spoken.append((scene.id, start + lead_in, start + scene.duration_seconds, job, url))
    placed = []
    for position, (scene_id, start, scene_end, job, url) in enumerate(spoken):
        more = position + 1 < len(spoken)
        room = (spoken[position + 1][1] - PAUSE_S if more else total) - start
        if room <= 0:
            notes.append(f"scene {scene_id}: there is no room for its narration")
            continue
        text = str(job.payload.get("text") or "")
        words = _words(job.result)
        audio = seconds_of(job) or (words[-1].end if words else len(text) / CHARACTERS_PER_SECOND)
        length, speed = _fit(scene_id, audio, room, notes)
        if start + length > scene_end + 0.1 and speed == 1.0:
            notes.append(
                f"scene {scene_id}: its narration runs {start + length - scene_end:.1f} s over its end"
            )
        placed.append(
            Narration(scene_id, url, text, words, audio, round(start, 3), round(length, 3), round(speed, 4))
        )
    return placed


def _fit(scene_id: str, audio: float, room: float, notes: list[str]) -> tuple[float, float]:
    """(length, speed) of a narration of `audio` seconds in a place of `room` seconds."""
    if audio <= room:
        return audio, 1.0
    if audio <= room * MAX_SPEED:
        speed = audio / room
        notes.append(f"scene {scene_id}: its narration is spoken {speed:.2f} times as fast, to fit")
        return room, speed
    cut = audio / MAX_SPEED - room
    notes.append(
        f"scene {scene_id}: its narration of {audio:.1f} s has room for {room:.1f} s; "
        f"it is spoken {MAX_SPEED} times as fast and its last {cut:.1f} s are cut"
    )
    return room, MAX_SPEED


def _words(result: dict[str, Any] | None) -> tuple[Word, ...]:
    """The words of a speech job's result, or none if any of them makes no sense."""
    entries = (result or {}).get("words")
    if not isinstance(entries, list):
        return ()
    words: list[Word] = []
    for entry in entries:
        try:
            word = Word(str(entry["text"]), float(entry["start"]), float(entry["end"]))
        except (TypeError, KeyError, ValueError):
            return ()
        if not 0 <= word.start <= word.end or (words and word.start < words[-1].start):
            return ()
        words.append(word)
    return tuple(words)
