"""Speech without eSpeak NG, and music that does what its plan says."""

from __future__ import annotations

import array
import os
from itertools import pairwise
from pathlib import Path

import pytest

from dreamcuts.sandbox import music, sounds, speech, synth
from dreamcuts.sandbox.ffmpeg import run_ffmpeg

pytestmark = pytest.mark.anyio


async def loudness(audio: bytes, start: float, seconds: float) -> float:
    """Mean level of a part, 0 to 1."""
    window = ["-ss", str(start), "-t", str(seconds), "-ac", "1", "-f", "s16le", "pipe:1"]
    samples = array.array("h", await run_ffmpeg("-f", "mp3", "-i", "pipe:0", *window, stdin=audio))
    return sum(map(abs, samples)) / len(samples) / 32768


@pytest.fixture
def no_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "espeak_paths", lambda: None)


async def test_speech_without_espeak_is_a_tone_at_speaking_pace(no_espeak: None) -> None:
    text = "[sighs] Words without a voice."
    spoken = await speech.speak(speech.Line(text, "anna"))
    assert spoken.duration == pytest.approx((len(text) - len("[sighs]")) / 15, abs=0.05)
    assert max(array.array("h", spoken.pcm)) > 3000
    assert spoken.ends[-1] == pytest.approx(spoken.duration, abs=0.01)
    assert spoken.ends[len("[sighs]") - 1] == 0


@pytest.mark.parametrize("text", ["", "[laughs]", "  ", "…"])
async def test_text_with_nothing_to_say(text: str) -> None:
    spoken = await speech.speak(speech.Line(text, "anna"))
    assert spoken.duration > 0
    assert len(spoken.starts) == len(spoken.ends) == len(text)


async def test_a_build_gets_louder(tmp_path: Path) -> None:
    plan = music.make_plan("electronic pop, uplifting", 20_000, chunks=False)
    score = music.read_score(None, plan, None, seed=3)
    assert [passage.energy for passage in score.passages] == sorted(p.energy for p in score.passages)
    audio = await music.perform(score, "mp3_44100_128", tmp_path)
    intro, build, peak = [await loudness(audio, start, 2) for start in (1, 9, 15)]
    assert 0.005 < intro < build * 0.7 and build < peak
    assert await loudness(audio, 19.7, 0.25) < peak / 3, "it fades out"
    assert os.listdir(tmp_path) == [], "the loops are removed"  # noqa: PTH208


@pytest.mark.parametrize(
    ("words", "bpm"),
    [("techno at 132 BPM", 132), ("moderate to fast tempo", 116), ("slow and calm", 76), ("something", 108)],
)
def test_tempo(words: str, bpm: int) -> None:
    assert music.read_score(words, {}, 10_000, 0).bpm == bpm


def test_mood_and_drums() -> None:
    dark = music.read_score("dark, tense", {}, 10_000, 0)
    calm = music.read_score("ambient pad, warm", {}, 10_000, 0)
    assert (dark.minor, dark.drums, calm.minor, calm.drums) == (True, True, False, False)


@pytest.mark.parametrize("length_ms", [3000, 11_999, 45_000, 240_000, 600_000])
@pytest.mark.parametrize("chunks", [True, False])
def test_plans_have_the_length_asked_for(length_ms: int, chunks: bool) -> None:
    plan = music.make_plan("pop", length_ms, chunks=chunks)
    lengths = [part["duration_ms"] for part in plan["chunks" if chunks else "sections"]]
    assert sum(lengths) == length_ms
    assert all(3000 <= length <= 120_000 for length in lengths)


def test_notes_are_in_tune() -> None:
    tone = synth.note(440.0, 1.0)
    rises = sum(1 for low, high in pairwise(tone) if low < 0 <= high)
    assert abs(rises - 440) <= 1


@pytest.mark.parametrize("text", ["whoosh", "riser", "impact", "chime", "typing", "wind", "applause", "zzz"])
def test_every_sound_has_its_length_and_is_heard(text: str) -> None:
    maker, usual = sounds.choose(text)
    assert usual > 0
    for seconds in (0.5, 1.5):
        samples = maker(seconds, 1)
        assert len(samples) == int(seconds * synth.RATE)
        assert synth.peak(samples) > 0.02
