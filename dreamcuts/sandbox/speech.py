"""Speech: eSpeak NG in a child process, or a speech-like tone where it is not installed.

Voices differ by their id, so that two characters of a story are told apart. Audio tags such as `[excited]`
are not spoken.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import math
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

TAG = re.compile(r"\[[^\[\]]*\]")
CHARACTERS_PER_SECOND = 15.0
GAP = 0.25
"""Seconds between the lines of a dialogue."""

_VARIANTS = ("f2", "m3", "f4", "m7", "f5", "m1", "f1", "m4")
_CHILD = Path(__file__).with_name("espeak_child.py")


@dataclass(frozen=True, slots=True)
class Line:
    """A text in one voice. `language` is a code such as "es"; None means English."""

    text: str
    voice_id: str
    language: str | None = None
    seed: int = 0
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Speech:
    """16-bit mono PCM, and for every character of the text when it begins and ends, in seconds."""

    pcm: bytes
    sample_rate: int
    starts: list[float]
    ends: list[float]

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / 2 / self.sample_rate


async def speak(line: Line) -> Speech:
    """Speak one line. Never fails: without eSpeak NG, or if it fails, the speech is a tone."""
    spoken, origins = _without_tags(line.text)
    if not spoken.strip():
        return _silence(line, 0.3)
    result = await _espeak(spoken, line)
    pcm, rate, words = result if result is not None else _tone(spoken, line)
    duration = len(pcm) / 2 / rate
    times = _character_times(spoken, words, duration)
    starts, ends = _spread(len(line.text), origins, times)
    return Speech(pcm, rate, starts, ends)


def join(parts: list[Speech]) -> Speech:
    """One speech of several, with a short pause between two."""
    rate = parts[0].sample_rate
    pause = bytes(2 * int(GAP * rate))
    pcm, starts, ends = bytearray(), list[float](), list[float]()
    for part in parts:
        if pcm:
            pcm += pause
        begin = len(pcm) / 2 / rate
        starts += [round(begin + at, 3) for at in part.starts]
        ends += [round(begin + at, 3) for at in part.ends]
        pcm += part.pcm
    return Speech(bytes(pcm), rate, starts, ends)


def voice_segments(lines: list[Line], parts: list[Speech]) -> list[dict[str, Any]]:
    """Who speaks when, as ElevenLabs lists it beside the alignment of a dialogue."""
    segments: list[dict[str, Any]] = []
    begin, character = 0.0, 0
    for index, (line, part) in enumerate(zip(lines, parts, strict=True)):
        segments.append(
            {
                "voice_id": line.voice_id,
                "start_time_seconds": round(begin, 3),
                "end_time_seconds": round(begin + part.duration, 3),
                "character_start_index": character,
                "character_end_index": character + len(line.text),
                "dialogue_input_index": index,
            }
        )
        begin += part.duration + GAP
        character += len(line.text)
    return segments


async def _espeak(text: str, line: Line) -> tuple[bytes, int, list[tuple[int, float]]] | None:
    paths = espeak_paths()
    if paths is None:
        return None
    taste = hashlib.sha256(line.voice_id.encode()).digest()
    language = (line.language or "en-us").lower()
    wish = {
        "text": text,
        "voice": f"{'en-us' if language == 'en' else language}+{_VARIANTS[taste[0] % len(_VARIANTS)]}",
        "rate": round((160 + taste[1] % 18) * line.speed),
        "pitch": 38 + taste[2] % 24 + line.seed % 3,
        "range": 55 + taste[3] % 20,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", str(_CHILD), *paths),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        out, _ = await process.communicate(json.dumps(wish).encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    head, newline, pcm = out.partition(b"\n")
    if process.returncode != 0 or not newline or not pcm:
        return None
    facts = json.loads(head)
    return pcm, int(facts["sample_rate"]), [(at, ms / 1000) for at, _, ms in facts["words"]]


@cache
def espeak_paths() -> tuple[str, str] | None:
    """eSpeak NG's library and data folder; None where the package espeakng-loader is not installed."""
    if importlib.util.find_spec("espeakng_loader") is None:
        return None
    import espeakng_loader

    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def _without_tags(text: str) -> tuple[str, list[int]]:
    """The text without audio tags, and for each of its characters the place in the original."""
    hidden = {at for tag in TAG.finditer(text) for at in range(*tag.span())}
    origins = [at for at in range(len(text)) if at not in hidden]
    return "".join(text[at] for at in origins), origins


def _tone(text: str, line: Line) -> tuple[bytes, int, list[tuple[int, float]]]:
    """A hum whose loudness follows the words: 15 characters a second, as speech."""
    rate = 22050
    taste = hashlib.sha256(line.voice_id.encode()).digest()
    pitch = 100.0 + taste[0] % 110
    per_character = 1 / (CHARACTERS_PER_SECOND * line.speed)
    samples = array.array("h")
    words: list[tuple[int, float]] = []
    phase = 0.0
    for at, character in enumerate(text):
        if character.isalnum() and (at == 0 or not text[at - 1].isalnum()):
            words.append((at, at * per_character))
        count = int((at + 1) * per_character * rate) - len(samples)
        loud = 9000 if character.isalnum() else 0
        step = 2 * math.pi * pitch * (1 + (ord(character) % 12) / 40) / rate
        for index in range(count):
            phase += step
            swell = math.sin(math.pi * index / count)
            samples.append(int(loud * swell * (0.6 * math.sin(phase) + 0.4 * math.sin(2 * phase))))
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes(), rate, words


def _silence(line: Line, seconds: float) -> Speech:
    count = len(line.text)
    return Speech(bytes(2 * int(22050 * seconds)), 22050, [0.0] * count, [0.0] * count)


def _character_times(text: str, words: list[tuple[int, float]], duration: float) -> list[float]:
    """When each character begins, and at the end the duration: even steps between the starts of words."""
    anchors = [(0, 0.0)]
    for at, start in [*words, (len(text), duration)]:
        at, start = min(at, len(text)), min(start, duration)
        if at > anchors[-1][0] and start >= anchors[-1][1]:
            anchors.append((at, start))
    if anchors[-1][0] < len(text):
        anchors.append((len(text), duration))
    times: list[float] = []
    for (at, start), (following, end) in pairwise(anchors):
        times += [start + (end - start) * index / (following - at) for index in range(following - at)]
    return [*times, duration]


def _spread(length: int, origins: list[int], times: list[float]) -> tuple[list[float], list[float]]:
    """Times for the characters of the original text; an unspoken character takes no time."""
    starts, ends = [0.0] * length, [0.0] * length
    place = 0
    for at in range(length):
        begins = times[place]
        if place < len(origins) and origins[place] == at:
            place += 1
        starts[at], ends[at] = round(begins, 3), round(times[place], 3)
    return starts, ends
