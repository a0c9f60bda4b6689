"""Text on its way to speech, and its timing on the way back: tags, pieces, words."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PIECE_CHARS = 2_000
"""ElevenLabs SDK, text_to_dialogue: longer requests may end early."""

TAG = re.compile(r"\[[^\[\]\n]{1,80}\]")
"""An audio tag of the v3 models, such as [excited]."""

_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[」』”]*|\n+|$)\s*", re.DOTALL)
_SPACE_OUTSIDE_TAGS = re.compile(r"(?<=\s)(?![^\[]*\])")


def has_tags(text: str) -> bool:
    """Whether the text holds audio tags."""
    return TAG.search(text) is not None


def without_tags(text: str) -> str:
    """The text as it is spoken, without audio tags and the gaps that they leave."""
    return re.sub(r"[ \t]{2,}", " ", TAG.sub(" ", text)).replace(" \n", "\n").strip()


def split_text(text: str, limit: int = MAX_PIECE_CHARS) -> list[str]:
    """Cut a text into pieces of at most `limit` characters, at the ends of sentences where there are any.

    A sentence that is too long alone is cut between words, a word without end at the limit. Joining the
    pieces gives the text back but for the space at the cuts.
    """
    pieces: list[str] = []
    current = ""
    for sentence in _SENTENCE.findall(text):
        for part in _short_enough(sentence, limit):
            if len((current + part).rstrip()) > limit and current:
                pieces.append(current.strip())
                current = ""
            current += part
    pieces.append(current.strip())
    return [piece for piece in pieces if piece]


def words_of(
    characters: Sequence[str], starts: Sequence[float], ends: Sequence[float], *, offset: float = 0.0
) -> list[dict[str, object]]:
    """Words with their times, `{"text", "start", "end"}` in seconds, from the times of the characters.

    Audio tags are not spoken and make no word. `offset` is where the piece starts in the whole audio.
    """
    count = min(len(characters), len(starts), len(ends))
    text = "".join(character[:1] or " " for character in characters[:count])
    silent = {at for tag in TAG.finditer(text) for at in range(tag.start(), tag.end())}
    words: list[dict[str, object]] = []
    word: list[int] = []
    for at in range(count + 1):
        if at < count and at not in silent and not text[at].isspace():
            word.append(at)
        elif word:
            spoken = "".join(characters[index] for index in word)
            start, end = starts[word[0]] + offset, ends[word[-1]] + offset
            words.append({"text": spoken, "start": round(start, 3), "end": round(max(start, end), 3)})
            word = []
    return words


def _short_enough(sentence: str, limit: int) -> list[str]:
    if len(sentence.rstrip()) <= limit:
        return [sentence]
    parts: list[str] = []
    current = ""
    for word in _SPACE_OUTSIDE_TAGS.split(sentence):
        while len(word) > limit:
            if current:
                parts.append(current)
                current = ""
            parts.append(word[:limit])
            word = word[limit:]
        if len((current + word).rstrip()) > limit and current:
            parts.append(current)
            current = ""
        current += word
    return [*parts, current] if current else parts
