"""Small building blocks of sound in plain Python: notes, envelopes, noise.

Samples are lists of floats between -1 and 1 at RATE. A note repeats a few exact periods of its wave, and
lists are combined with `map`, which keeps a minute of music within a second of work.
"""

from __future__ import annotations

import array
import math
import random
import sys
from collections.abc import Iterable, Sequence
from operator import add, mul

RATE = 44100

Samples = list[float]


def note(frequency: float, seconds: float, harmonics: Sequence[float] = (1.0,)) -> Samples:
    """A steady tone; `harmonics` are the strengths of the first, second, ... harmonic."""
    period = RATE / frequency
    # So many periods that they fill a whole number of samples best: then the tone is in tune.
    periods = min(range(4, 48), key=lambda count: abs(count * period - round(count * period)) / count)
    length = round(periods * period)
    step = 2 * math.pi * periods / length
    strengths = [(number, strength) for number, strength in enumerate(harmonics, 1) if strength]
    wave = [sum(s * math.sin(step * n * at) for n, s in strengths) for at in range(length)]
    count = int(seconds * RATE)
    return (wave * (count // length + 1))[:count]


def envelope(count: int, attack: float, release: float, *, decay: float = 0.0) -> Samples:
    """Loudness over time: rises for `attack` s, falls over the last `release` s; `decay` per second (e)."""
    rise, fall = max(1, int(attack * RATE)), max(1, int(release * RATE))
    shape = [math.exp(-decay * at / RATE) for at in range(count)] if decay else [1.0] * count
    for at in range(min(rise, count)):
        shape[at] *= at / rise
    for at in range(min(fall, count)):
        shape[-1 - at] *= at / fall
    return shape


def shaped(samples: Samples, shape: Samples) -> Samples:
    """Samples times an envelope."""
    return list(map(mul, samples, shape))


def louder(samples: Samples, gain: float) -> Samples:
    """Samples times a factor."""
    return [gain * sample for sample in samples]


def mix_into(track: Samples, samples: Samples, at: float) -> None:
    """Add samples to a track `at` seconds after its begin; what hangs over the end wraps round (a loop)."""
    start = int(at * RATE) % len(track)
    end = start + len(samples)
    track[start:end] = map(add, track[start:end], samples)
    if end > len(track):
        rest = samples[len(track) - start :][: len(track)]
        track[: len(rest)] = map(add, track[: len(rest)], rest)


def noise(count: int, seed: int) -> Samples:
    """White noise, the same for the same seed."""
    source = random.Random(seed)
    return [source.uniform(-1, 1) for _ in range(count)]


def sweep_filter(
    samples: Samples, cutoffs: Iterable[float], resonance: float, *, band: bool = True
) -> Samples:
    """A state-variable filter whose cut-off (Hz) moves with time: band-pass, or low-pass with `band` off."""
    low = mid = 0.0
    damping = 1 / resonance
    result: Samples = []
    for sample, cutoff in zip(samples, cutoffs, strict=False):
        strength = 2 * math.sin(math.pi * min(cutoff, RATE / 7) / RATE)
        low += strength * mid
        mid += strength * (sample - low - damping * mid)
        result.append(mid if band else low)
    return result


def peak(samples: Samples) -> float:
    """How far the loudest sample is from zero; never quite 0."""
    return max(1e-9, max(samples, default=0.0), -min(samples, default=0.0))


def to_floats(samples: Samples) -> bytes:
    """32-bit little-endian floats: much faster to write than PCM."""
    raw = array.array("f", samples)
    if sys.byteorder == "big":
        raw.byteswap()
    return raw.tobytes()


def to_pcm(samples: Samples, loudest: float) -> bytes:
    """16-bit little-endian PCM, the loudest sample brought to `loudest` (0 to 1)."""
    gain = 32767 * loudest / peak(samples)
    scaled = array.array("h", [int(gain * sample) for sample in samples])
    if sys.byteorder == "big":
        scaled.byteswap()
    return scaled.tobytes()
