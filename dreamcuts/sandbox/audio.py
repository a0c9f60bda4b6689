"""Encoding of audio in the output formats that ElevenLabs names, e.g. `mp3_44100_128` or `pcm_16000`."""

from __future__ import annotations

import re

from dreamcuts.sandbox.ffmpeg import run_ffmpeg

_FORMAT = re.compile(r"^(mp3|pcm|wav|opus|ulaw|alaw)_(\d+)(?:_(\d+))?$")
_RATES = {8000, 16000, 22050, 24000, 32000, 44100, 48000}
_MP3 = {
    *("22050_32", "24000_48", "44100_32", "44100_64", "44100_96", "44100_128", "44100_192"),
    *("48000_128", "48000_192", "48000_240", "48000_320"),
}
_OPUS = {"48000_32", "48000_64", "48000_96", "48000_128", "48000_192"}
_CONTENT_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/ogg", "pcm": "audio/pcm"}


def output_arguments(output_format: str) -> tuple[list[str], str] | None:
    """ffmpeg's output options for a format, and its content type; None if ElevenLabs has no such format."""
    if output_format == "auto":
        output_format = "mp3_44100_128"
    found = _FORMAT.match(output_format)
    if found is None:
        return None
    kind, rate, bits = found[1], found[2], found[3]
    valid = {"mp3": f"{rate}_{bits}" in _MP3, "opus": f"{rate}_{bits}" in _OPUS}.get(
        kind, bits is None and int(rate) in _RATES and (kind in ("pcm", "wav") or rate == "8000")
    )
    if not valid:
        return None
    arguments = ["-ar", rate]
    if kind == "mp3":
        # Plain frames of one size: parts can be joined, and the length follows from the size.
        plain = ["-write_xing", "0", "-id3v2_version", "0"]
        arguments += ["-c:a", "libmp3lame", "-b:a", f"{bits}k", *plain, "-f", "mp3"]
    elif kind == "opus":
        arguments += ["-c:a", "libopus", "-b:a", f"{bits}k", "-f", "ogg"]
    elif kind == "wav":
        arguments += ["-c:a", "pcm_s16le", "-f", "wav"]
    elif kind == "pcm":
        arguments += ["-f", "s16le"]
    else:
        arguments += ["-f", "mulaw" if kind == "ulaw" else "alaw"]
    return arguments, _CONTENT_TYPES.get(kind, "audio/basic")


async def encode(pcm: bytes, sample_rate: int, output_format: str, *, filters: str = "anull") -> bytes:
    """16-bit mono PCM in another format, through ffmpeg's `filters`. ValueError: no such format."""
    output = output_arguments(output_format)
    if output is None:
        raise ValueError(f"unknown output format {output_format!r}")
    source = ["-f", "s16le", "-ar", str(sample_rate), "-ac", "1", "-i", "pipe:0"]
    return await run_ffmpeg(*source, "-af", filters, *output[0], "pipe:1", stdin=pcm)
