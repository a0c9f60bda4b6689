"""The sound of a plan: every clip where it belongs, mixed as it is, in one pass.

48 kHz stereo. The mix adds clips at their own volumes; only what would clip is limited.
"""

from __future__ import annotations

from collections.abc import Sequence

from dreamcuts.sandbox.render_plan import Plan, Sound

RATE = 48_000
FADE_SECONDS = 2.0
"""Length of the effects fadeIn and fadeOut, at most half the clip."""


def audio_arguments(plan: Plan, begin: float = 0.0, seconds: float | None = None) -> list[str]:
    """ffmpeg's inputs and filter graph for a plan's sound from `begin`, exactly `seconds` long.

    The graph's output is `[sound]`; the caller adds the encoder and the target.
    """
    seconds = plan.duration if seconds is None else seconds
    inputs: list[str] = []
    chains: list[str] = []
    for number, sound in enumerate(plan.sounds):
        inputs += ["-i", str(sound.source.path)]
        chains.append(f"[{number}:a:0]{_chain(sound)}[a{number}]")
    trim = f"atrim=start={begin:.6f}:end={begin + seconds:.6f},asetpts=PTS-STARTPTS"
    whole = f"apad=whole_len={round(seconds * RATE)},atrim=end_sample={round(seconds * RATE)}"
    if chains:
        labels = "".join(f"[a{number}]" for number in range(len(chains)))
        mix = f"amix=inputs={len(chains)}:normalize=0:dropout_transition=0" if len(chains) > 1 else "anull"
        limit = "alimiter=limit=0.97:level=0:latency=1:attack=5:release=50"
        chains.append(f"{labels}{mix},{limit},{trim},{whole}[sound]")
    else:
        chains.append(f"anullsrc=r={RATE}:cl=stereo,{whole}[sound]")
    return [*inputs, "-filter_complex", ";".join(chains), "-map", "[sound]"]


def sounds_between(sounds: Sequence[Sound], begin: float, end: float) -> list[Sound]:
    """The sounds that can be heard in a range of the timeline."""
    return [sound for sound in sounds if sound.start < end and sound.start + sound.length > begin]


def _chain(sound: Sound) -> str:
    end = sound.trim + sound.length * sound.speed
    steps = [f"aresample={RATE}", f"atrim=start={sound.trim:.6f}:end={end:.6f}", "asetpts=PTS-STARTPTS"]
    steps += [f"atempo={factor:g}" for factor in _tempos(sound.speed)]
    # A mono source plays on both sides at its own level; ffmpeg's own upmix would lower it by 3 dB.
    mono = sound.source.channels == 1
    steps.append("pan=stereo|c0=c0|c1=c0" if mono else "aformat=channel_layouts=stereo")
    steps.append("aformat=sample_fmts=fltp")
    if sound.volume != "1":
        steps.append(f"volume=volume='{sound.volume}':eval={'frame' if 't' in sound.volume else 'once'}")
    fade = min(FADE_SECONDS, sound.length / 2)
    if sound.fade_in:
        steps.append(f"afade=t=in:st=0:d={fade:.6f}")
    if sound.fade_out:
        steps.append(f"afade=t=out:st={sound.length - fade:.6f}:d={fade:.6f}")
    steps.append(f"adelay=delays={round(sound.start * RATE)}S:all=1")
    return ",".join(steps)


def _tempos(speed: float) -> list[float]:
    """A speed as steps of 0.5 to 2, where atempo sounds right."""
    steps: list[float] = []
    while speed > 2:
        steps.append(2.0)
        speed /= 2
    while speed < 0.5:
        steps.append(0.5)
        speed /= 0.5
    return [*steps, speed] if abs(speed - 1) > 1e-6 else steps
