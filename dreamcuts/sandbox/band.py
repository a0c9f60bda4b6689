"""The four players of the sandbox's music: each plays the same four bars as a loop."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from operator import add

from dreamcuts.sandbox.synth import (
    RATE,
    Samples,
    envelope,
    louder,
    mix_into,
    noise,
    note,
    peak,
    shaped,
    to_floats,
)

_MAJOR = ((0, 4, 7), (7, 11, 14), (9, 12, 16), (5, 9, 12))
_MAJOR_CALM = ((0, 4, 7), (5, 9, 12), (9, 12, 16), (7, 11, 14))
_MINOR = ((0, 3, 7), (8, 12, 15), (3, 7, 10), (10, 14, 17))
_MINOR_DARK = ((0, 3, 7), (5, 8, 12), (8, 12, 15), (7, 11, 14))
"""Four chords each, as semitones above the key's root: I V vi IV, I IV vi V, i VI III VII, i iv VI V."""

_WARM = (1.0, 0.42, 0.22, 0.11, 0.06, 0.03)
_ROUND = (1.0, 0.5, 0.14, 0.05)
_BRIGHT = (1.0, 0.3, 0.34, 0.08, 0.12, 0.02, 0.05)
_PATTERN = (0, 2, 1, 3, 2, 1, 3, 2)
"""Which note of the chord each eighth plays."""

Chord = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A player's four bars as 32-bit little-endian floats; times `gain` the loudest sample is 0.8."""

    data: bytes
    gain: float


def play(bpm: int, minor: bool, drums: bool, seed: int) -> dict[str, Loop]:
    """Four bars by each player: `pad`, `pluck`, `bass` and, if wanted, `drums`; all of the same length."""
    chance = random.Random(seed)
    root = chance.choice((0, 2, 3, 5, 7, -2))
    chords: tuple[Chord, ...] = chance.choice((_MINOR, _MINOR_DARK) if minor else (_MAJOR, _MAJOR_CALM))
    chords = tuple(tuple(root + step for step in chord) for chord in chords)
    bar = 4 * 60 / bpm
    players = {
        "pad": _pad(chords, bar),
        "pluck": _pluck(chords, bar, chance),
        "bass": _bass(chords, bar),
    }
    if drums:
        players["drums"] = _drums(bar, seed)
    return {name: Loop(to_floats(track), 0.8 / peak(track)) for name, track in players.items()}


def _hertz(semitones: int, octave: int) -> float:
    """Semitones above C of an octave; octave 4 holds the A of 440 Hz."""
    return float(440.0 * 2 ** ((semitones - 9) / 12 + octave - 4))


def _track(bar: float) -> Samples:
    return [0.0] * int(4 * bar * RATE)


def _pad(chords: tuple[Chord, ...], bar: float) -> Samples:
    track = _track(bar)
    length = bar + 0.6
    shape = envelope(int(length * RATE), 0.5, 0.9)
    for index, chord in enumerate(chords):
        sound: Samples | None = None
        for step in (chord[0] - 12, *chord):
            # Folded into one octave, so that the chords follow each other without leaps.
            folded = step if step < chord[0] else (step - 3) % 12 + 3
            tone = note(_hertz(folded, 4 if step >= chord[0] else 3), length, _WARM)
            sound = tone if sound is None else list(map(add, sound, tone))
        assert sound is not None
        mix_into(track, shaped(sound, shape), index * bar)
    return track


def _pluck(chords: tuple[Chord, ...], bar: float, chance: random.Random) -> Samples:
    track = _track(bar)
    eighth = bar / 8
    shape = envelope(int(0.9 * RATE), 0.004, 0.2, decay=5.5)
    made: dict[int, Samples] = {}
    for index, chord in enumerate(chords):
        notes = (*chord, chord[0] + 12)
        for beat, place in enumerate(_PATTERN):
            if beat in (3, 7) and chance.random() < 0.35:
                continue
            step = (notes[place] - 3) % 12 + 3
            if step not in made:
                made[step] = shaped(note(_hertz(step, 5), 0.9, _BRIGHT), shape)
            accent = 1.0 if beat % 4 == 0 else 0.62
            mix_into(track, louder(made[step], accent), index * bar + beat * eighth)
    return track


def _bass(chords: tuple[Chord, ...], bar: float) -> Samples:
    track = _track(bar)
    for index, chord in enumerate(chords):
        step = chord[0] % 12
        for beat, beats in ((0.0, 1.4), (1.5, 0.45), (2.0, 1.4), (3.5, 0.45)):
            seconds = beats * bar / 4
            shape = envelope(int(seconds * RATE), 0.012, 0.08, decay=1.2)
            sound = shaped(note(_hertz(step, 2), seconds, _ROUND), shape)
            mix_into(track, sound, index * bar + beat * bar / 4)
    return track


def _drums(bar: float, seed: int) -> Samples:
    track = _track(bar)
    kick, clap = _kick(), _clap(seed)
    hat = louder(_hat(seed), 0.22)
    soft_hat = louder(hat, 0.55)
    for index in range(4):
        for eighth in range(8):
            at = (index * 8 + eighth) * bar / 8
            mix_into(track, hat if eighth % 2 else soft_hat, at)
            if eighth in (0, 4) or (index == 3 and eighth == 7):
                mix_into(track, kick, at)
            if eighth in (2, 6):
                mix_into(track, louder(clap, 0.4), at)
    return track


def _kick() -> Samples:
    phase = 0.0
    sound: Samples = []
    for at in range(int(0.26 * RATE)):
        seconds = at / RATE
        phase += 2 * math.pi * (46 + 95 * math.exp(-seconds * 32)) / RATE
        sound.append(math.sin(phase) * math.exp(-seconds * 13))
    return shaped(sound, envelope(len(sound), 0.002, 0.03))


def _clap(seed: int) -> Samples:
    hiss = noise(int(0.18 * RATE), seed + 1)
    # The difference of neighbours takes out the low end.
    bright = [(a - b) * 0.7 for a, b in zip(hiss, hiss[2:], strict=False)]
    return shaped(bright, envelope(len(bright), 0.003, 0.05, decay=22))


def _hat(seed: int) -> Samples:
    hiss = noise(int(0.07 * RATE), seed + 2)
    bright = [a - b for a, b in pairwise(hiss)]
    return shaped(bright, envelope(len(bright), 0.001, 0.02, decay=60))
