"""Speaks a text with eSpeak NG's library, as a child process: `python espeak_child.py LIBRARY DATA`.

Stdin is one JSON object: {"text", "voice", "rate" (words a minute), "pitch" (0-100), "range" (0-100)}. Stdout
is one line of JSON, {"sample_rate", "words": [[character, length, milliseconds], ...]}, then 16-bit mono PCM.
The library is kept in a process of its own because its state is global and its licence is the GPL. Uses the
standard library only, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

RETRIEVAL_ANSWERS_SYNCHRONOUSLY = 2
CHARACTERS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4
EVENT_END, EVENT_WORD = 0, 1


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


def main() -> int:
    """Read the wish from stdin, write the speech to stdout."""
    wish: dict[str, Any] = json.load(sys.stdin)
    library = ctypes.CDLL(sys.argv[1])
    sample_rate = library.espeak_Initialize(RETRIEVAL_ANSWERS_SYNCHRONOUSLY, 200, sys.argv[2].encode(), 0)
    if sample_rate <= 0:
        sys.stderr.write("eSpeak NG could not be initialised\n")
        return 1
    pcm = bytearray()
    words: list[tuple[int, int, int]] = []

    def take(samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            pcm.extend(ctypes.string_at(samples, count * 2))
        index = 0
        while events[index].type != EVENT_END:
            event = events[index]
            if event.type == EVENT_WORD:
                words.append((event.text_position - 1, event.length, event.audio_position))
            index += 1
        return 0

    callback = CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(wish["voice"].encode()) != 0:
        library.espeak_SetVoiceByName(b"en-us")
    for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
        library.espeak_SetParameter(parameter, int(wish[name]), 0)
    text = wish["text"].encode() + b"\0"
    library.espeak_Synth(text, len(text), 0, 1, 0, CHARACTERS_UTF8, None, None)
    library.espeak_Synchronize()
    sys.stdout.buffer.write(json.dumps({"sample_rate": sample_rate, "words": words}).encode() + b"\n")
    sys.stdout.buffer.write(bytes(pcm))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
