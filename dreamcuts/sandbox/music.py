"""Music: composition plans in both of ElevenLabs' shapes, and a small band that plays them.

A score is four bars of chords that repeat, played by a pad, a bass, plucked notes and drums. How loud each
one is follows the energy of the plan's sections: an intro is a pad alone, a build brings one player after
the other, a peak has all of them.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dreamcuts.sandbox import band
from dreamcuts.sandbox.audio import output_arguments
from dreamcuts.sandbox.ffmpeg import run_ffmpeg
from dreamcuts.sandbox.synth import RATE

_ENERGIES = (
    ("intro", 0.35), ("outro", 0.3), ("verse", 0.6), ("build", 0.65), ("rise", 0.65), ("bridge", 0.5),
    ("break", 0.4), ("chorus", 0.95), ("peak", 1.0), ("climax", 1.0), ("drop", 1.0), ("finale", 1.0),
)  # fmt: skip
_LOUDER = ("energetic", "driving", "powerful", "layers added", "full", "high energy", "triumphant")
_SOFTER = ("sparse", "low energy", "soft", "quiet", "minimal", "gentle")
_MINOR = (
    "dark",
    "sad",
    "tense",
    "dramatic",
    "mysterious",
    "melanchol",
    "suspense",
    "epic",
    "minor",
    "serious",
)
_TEMPOS = (
    ("very fast", 138), ("moderate to fast", 116), ("fast", 128), ("upbeat", 120), ("energetic", 124),
    ("moderate", 104), ("medium", 104), ("mid-tempo", 104), ("very slow", 66), ("slow", 76), ("calm", 80),
    ("ambient", 74), ("relaxed", 84), ("electronic", 118), ("pop", 112), ("cinematic", 92),
)  # fmt: skip
_NO_DRUMS = ("ambient", "no drums", "without drums", "piano solo", "lullaby", "meditat")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of the piece: when it begins, how long it is (s), and how much is going on (0 to 1)."""

    start: float
    length: float
    energy: float


@dataclass(frozen=True, slots=True)
class Score:
    """What is to be played."""

    passages: tuple[Passage, ...]
    bpm: int
    minor: bool
    drums: bool
    seed: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        last = self.passages[-1]
        return last.start + last.length


def make_plan(prompt: str, length_ms: int, *, chunks: bool) -> dict[str, Any]:
    """A composition plan for a prompt: `sections` for music_v1, `chunks` for the later models."""
    styles = [part.strip() for part in re.split(r"[,.;\n]", prompt) if part.strip()][:6] or ["instrumental"]
    pieces = _pieces(length_ms)
    local = {
        "Intro": ["sparse", "soft pad"],
        "Build": ["rising", "layers added"],
        "Peak": ["full arrangement", "driving"],
        "Main": ["steady groove"],
    }
    if chunks:
        return {
            "chunks": [
                {
                    "text": f"[{name}]",
                    "duration_ms": length,
                    "positive_styles": [*styles, *local[name]],
                    "negative_styles": ["vocals", "distortion"],
                    "context_adherence": "high",
                }
                for name, length in pieces
            ]
        }
    return {
        "positive_global_styles": styles,
        "negative_global_styles": ["vocals", "distortion"],
        "sections": [
            {
                "section_name": name,
                "positive_local_styles": local[name],
                "negative_local_styles": [],
                "duration_ms": length,
                "lines": [],
            }
            for name, length in pieces
        ],
    }


def _pieces(length_ms: int) -> list[tuple[str, int]]:
    """Names and lengths of a plan's parts, none over the two minutes that a part may have."""
    if length_ms < 12_000:
        return [("Main", length_ms)]
    if length_ms <= 240_000:
        intro, build = round(length_ms * 0.25), round(length_ms * 0.45)
        return [("Intro", intro), ("Build", build), ("Peak", length_ms - intro - build)]
    count = math.ceil(length_ms / 110_000)
    share = length_ms // count
    names = ["Intro", *["Build"] * (count - 2), "Peak"]
    lengths = [share] * (count - 1) + [length_ms - share * (count - 1)]
    return list(zip(names, lengths, strict=True))


def read_score(prompt: str | None, plan: dict[str, Any], length_ms: int | None, seed: int) -> Score:
    """The score for a prompt with a length, or for a plan of either shape."""
    pieces: list[tuple[str, float]] = []
    words = prompt or ""
    if "sections" in plan:
        words = " ".join(plan["positive_global_styles"])
        for section in plan["sections"]:
            text = f"{section['section_name']} {' '.join(section['positive_local_styles'])}"
            pieces.append((text, section["duration_ms"] / 1000))
    elif "chunks" in plan:
        words = " ".join(" ".join(chunk["positive_styles"]) for chunk in plan["chunks"])
        for chunk in plan["chunks"]:
            pieces.append(
                (f"{chunk['text']} {' '.join(chunk['positive_styles'])}", chunk["duration_ms"] / 1000)
            )
    else:
        length = (length_ms or 30_000) / 1000
        pieces = [("intro", length * 0.2), ("verse full", length * 0.65), ("outro", length * 0.15)]
    words = words.lower()
    passages, start = [], 0.0
    for text, length in pieces:
        passages.append(Passage(start, length, _energy(text.lower())))
        start += length
    return Score(
        passages=tuple(passages),
        bpm=_tempo(words),
        minor=any(word in words for word in _MINOR),
        drums=not any(word in words for word in _NO_DRUMS),
        seed=seed or sum(map(ord, words)),
    )


def _energy(text: str) -> float:
    energy = next((value for word, value in _ENERGIES if word in text), 0.7)
    energy += 0.12 * any(word in text for word in _LOUDER) - 0.12 * any(word in text for word in _SOFTER)
    return max(0.25, min(1.0, energy))


def _tempo(words: str) -> int:
    beats = re.search(r"(\d{2,3})\s*(?:bpm|beats per minute)", words)
    if beats and 40 <= int(beats[1]) <= 200:
        return int(beats[1])
    return next((bpm for word, bpm in _TEMPOS if word in words), 108)


async def perform(score: Score, output_format: str, folder: Path) -> bytes:
    """The music in one of ElevenLabs' output formats, exactly as long as the score."""
    output = output_arguments(output_format)
    assert output is not None, output_format
    loops = await asyncio.to_thread(band.play, score.bpm, score.minor, score.drums, score.seed)
    paths = [folder / f"{id(loops):x}-{score.seed}-{name}.pcm" for name in loops]
    try:
        for path, loop in zip(paths, loops.values(), strict=True):
            await asyncio.to_thread(path.write_bytes, loop.data)
        inputs: list[str] = []
        graph: list[str] = []
        for number, (name, path) in enumerate(zip(loops, paths, strict=True)):
            inputs += ["-stream_loop", "-1", "-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", str(path)]
            level = f"{loops[name].gain:.4f}*({_level(score, name)})"
            # Gain before the echo, so that a player who stops rings out.
            graph.append(f"[{number}]volume=eval=frame:volume='{level}',{_ROOM[name]}[{name}]")
        names = "".join(f"[{name}]" for name in loops)
        ending = max(0.0, score.duration - 2.0)
        graph.append(
            f"{names}amix=inputs={len(loops)}:normalize=0:duration=first,afade=in:d=0.4,"
            f"afade=out:st={ending:.3f}:d={score.duration - ending:.3f},alimiter=limit=0.89:level=0[out]"
        )
        arguments = [
            *inputs,
            "-filter_complex",
            ";".join(graph),
            "-map",
            "[out]",
            "-t",
            f"{score.duration:.3f}",
        ]
        return await run_ffmpeg(*arguments, *output[0], "pipe:1")
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


_WIDE = "aformat=channel_layouts=stereo"
_ROOM = {
    "pad": f"chorus=0.6:0.8:45|62:0.35|0.3:0.22|0.35:1.8|1.2,{_WIDE},adelay=0|13,aecho=0.8:0.6:97:0.3",
    "pluck": f"{_WIDE},adelay=9|0,aecho=0.85:0.6:241|389:0.32|0.18",
    "bass": f"lowpass=f=900,{_WIDE}",
    "drums": f"{_WIDE},aecho=0.9:0.5:31:0.12",
}
"""ffmpeg filters that put each player into a room."""

_ENTERS = {"pad": 0.0, "pluck": 0.38, "bass": 0.5, "drums": 0.58}
_GAINS = {"pad": 1.1, "pluck": 0.42, "bass": 0.55, "drums": 0.6}


def _level(score: Score, player: str) -> str:
    """A player's loudness over time, as an ffmpeg expression: straight lines between the passages' levels."""
    points: list[tuple[float, float]] = []
    for index, passage in enumerate(score.passages):
        level = _loudness(player, passage.energy)
        end = passage.start + passage.length
        following = score.passages[index + 1].energy if index + 1 < len(score.passages) else passage.energy
        ramp = min(1.0, passage.length / 4)
        points.append((passage.start + (ramp if index else 0.0), level))
        # A passage that leads to a stronger one grows towards it in its last part.
        growth = (_loudness(player, following) - level) * 0.5 if following > passage.energy else 0.0
        points.append((end - min(3.0, passage.length / 3), level))
        points.append((end, level + growth))
    expression = f"{points[-1][1]:.3f}"
    for (t0, v0), (t1, v1) in reversed(list(pairwise(points))):
        slope = (v1 - v0) / max(1e-3, t1 - t0)
        expression = f"if(lt(t,{t1:.3f}),{v0:.3f}+{slope:.5f}*max(0,t-{t0:.3f}),{expression})"
    return expression


def _loudness(player: str, energy: float) -> float:
    enters = _ENTERS[player]
    if energy < enters:
        return 0.0
    return _GAINS[player] * (0.55 + 0.45 * (energy - enters) / max(0.01, 1 - enters))
