"""Sound effects by the words of their description: whoosh, riser, impact, chime, clicks, wind, applause."""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from collections.abc import Callable

from dreamcuts.sandbox.audio import encode
from dreamcuts.sandbox.synth import (
    RATE,
    Samples,
    envelope,
    louder,
    mix_into,
    noise,
    note,
    shaped,
    sweep_filter,
    to_pcm,
)

Maker = Callable[[float, int], Samples]


async def make(text: str, seconds: float | None, output_format: str, *, loop: bool = False) -> bytes:
    """A sound effect of exactly that length (by default as long as fits the kind), encoded."""
    maker, usual = choose(text)
    length = usual if seconds is None else seconds
    samples = await asyncio.to_thread(maker, length, zlib.crc32(text.encode()))
    if loop:
        samples = await asyncio.to_thread(_seamless, samples)
    pcm = await asyncio.to_thread(to_pcm, samples, 0.8)
    return await encode(pcm, RATE, output_format)


def choose(text: str) -> tuple[Maker, float]:
    """The maker for a description, and the kind's usual length in seconds."""
    words = text.lower()
    for keys, maker, usual in _KINDS:
        if any(key in words for key in keys):
            return maker, usual
    return whoosh, 1.5


def whoosh(seconds: float, seed: int) -> Samples:
    """Air that comes and goes: noise through a band that sweeps up and down."""
    count = int(seconds * RATE)
    cutoffs = (250 + 3800 * math.sin(math.pi * at / count) ** 2 for at in range(count))
    air = sweep_filter(noise(count, seed), cutoffs, 1.6)
    return shaped(air, [math.sin(math.pi * at / count) ** 2 for at in range(count)])


def riser(seconds: float, seed: int) -> Samples:
    """Tension that grows to the end."""
    count = int(seconds * RATE)
    air = sweep_filter(noise(count, seed), (200 + 5200 * (at / count) ** 2 for at in range(count)), 3.0)
    phase = 0.0
    for at in range(count):
        part = at / count
        phase += 2 * math.pi * (110 * 2 ** (2 * part)) / RATE
        air[at] = part**2 * (0.8 * air[at] + 0.25 * math.sin(phase) + 0.12 * math.sin(2.01 * phase))
    return shaped(air, envelope(count, 0.01, 0.03))


def impact(seconds: float, seed: int) -> Samples:
    """A deep hit that rings out."""
    count = int(seconds * RATE)
    hiss = noise(count, seed)
    phase = 0.0
    sound: Samples = []
    for at in range(count):
        time = at / RATE
        phase += 2 * math.pi * (38 + 90 * math.exp(-time * 18)) / RATE
        body = math.sin(phase) * math.exp(-time * 2.6)
        sound.append(body + 0.35 * hiss[at] * math.exp(-time * 26))
    return shaped(sound, envelope(count, 0.001, min(0.3, seconds / 3)))


def chime(seconds: float, seed: int) -> Samples:
    """Three bell notes, one after the other."""
    track = [0.0] * int(seconds * RATE)
    root = random.Random(seed).choice((523.25, 587.33, 659.26))
    for index, ratio in enumerate((1.0, 1.25, 1.5)):
        begin = index * min(0.16, seconds / 6)
        length = seconds - begin
        shape = envelope(int(length * RATE), 0.003, min(0.2, length / 3), decay=4.0)
        for partial, strength in ((1.0, 0.6), (2.76, 0.2), (5.4, 0.07)):
            _add(track, louder(shaped(note(root * ratio * partial, length), shape), strength), begin)
    return track


def clicks(seconds: float, seed: int) -> Samples:
    """Keys or steps: short dull hits in an uneven rhythm."""
    track = [0.0] * int(seconds * RATE)
    chance = random.Random(seed)
    hit = shaped(noise(int(0.05 * RATE), seed), envelope(int(0.05 * RATE), 0.001, 0.02, decay=90))
    at = 0.02
    while at < seconds - 0.06:
        _add(track, louder(hit, chance.uniform(0.5, 1.0)), at)
        at += chance.uniform(0.07, 0.2)
    return track


def wind(seconds: float, seed: int) -> Samples:
    """Moving air, rain or water: noise whose colour wanders."""
    count = int(seconds * RATE)
    cutoffs = (700 + 420 * math.sin(at / RATE * 0.9) + 160 * math.sin(at / RATE * 2.3) for at in range(count))
    air = sweep_filter(noise(count, seed), cutoffs, 0.9)
    return shaped(air, envelope(count, min(0.4, seconds / 4), min(0.4, seconds / 4)))


def applause(seconds: float, seed: int) -> Samples:
    """Many hands."""
    track = [0.0] * int(seconds * RATE)
    chance = random.Random(seed)
    hands = []
    for index in range(6):
        count = int(0.03 * RATE)
        hiss = sweep_filter(noise(count, seed + index), [900.0 + 300 * index] * count, 2.0)
        hands.append(shaped(hiss, envelope(count, 0.001, 0.01, decay=110)))
    for _ in range(int(seconds * 90)):
        at = chance.uniform(0, max(0.01, seconds - 0.04))
        _add(track, louder(chance.choice(hands), chance.uniform(0.3, 1.0)), at)
    return shaped(track, envelope(len(track), min(0.3, seconds / 4), min(0.6, seconds / 3)))


def _add(track: Samples, samples: Samples, at: float) -> None:
    room = len(track) - int(at * RATE)
    mix_into(track, samples[: max(0, room)], at)


def _seamless(samples: Samples) -> Samples:
    """The end blended into the begin, so that the sound can repeat."""
    overlap = min(len(samples) // 4, RATE // 5)
    blended = list(samples)
    for at in range(overlap):
        part = at / overlap
        blended[-overlap + at] = (1 - part) * samples[-overlap + at] + part * samples[at] * 0.5
    return blended


_KINDS: tuple[tuple[tuple[str, ...], Maker, float], ...] = (
    (("whoosh", "swoosh", "swish", "swipe", "transition"), whoosh, 1.5),
    (("riser", "rise", "build", "tension", "reverse"), riser, 3.0),
    (("impact", "boom", "hit", "thud", "explosion", "slam", "drum", "thunder"), impact, 2.0),
    (("chime", "bell", "ding", "ping", "notification", "sparkle", "success", "magic", "pop"), chime, 1.5),
    (("click", "typing", "keyboard", "footstep", "tap", "tick", "clock"), clicks, 2.0),
    (("applause", "clap", "cheer", "crowd"), applause, 3.0),
    (
        ("wind", "rain", "water", "ocean", "wave", "air", "ambien", "forest", "city", "traffic", "room"),
        wind,
        5.0,
    ),
)
