"""Captions of the narrations, as SRT.

They follow the words' own times where the speech job gave them, else the text is spread over the audio.
A caption is at most two lines of 42 columns, stays long enough to be read, and never overlaps the next.
Audio tags are not shown. Scripts without spaces are broken between their characters; wide characters count
as two columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dreamcuts.manifest.model import spoken
from dreamcuts.manifest.narration import Narration, Word

COLUMNS = 42
LINES = 2
LEAST_S = 0.8
MOST_S = 6.0
PAUSE_S = 0.6
"""A silence after which a new caption starts."""
FLICKER_S = 0.3
"""A gap between two captions that is shorter is closed."""

_SENTENCE_END = re.compile(r"[.!?…。！？؟।]['\"”’»)]*$")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption; its times are seconds of the film, its text has at most LINES lines."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A word, or a piece of one (`glued` to the piece before), in seconds of the film."""

    text: str
    start: float
    end: float
    glued: bool = False


def build_captions(narrations: Sequence[Narration], total: float) -> list[Caption]:
    """The captions of a film of `total` seconds, in order."""
    captions: list[Caption] = []
    for narration in narrations:
        for group in _groups(_tokens(narration)):
            captions.append(Caption(group[0].start, group[-1].end, _wrap(group)))
    return _timed(captions, total)


def to_srt(captions: Iterable[Caption]) -> str:
    """The captions as a SubRip file."""
    return "\n".join(
        f"{number}\n{_clock(caption.start)} --> {_clock(caption.end)}\n{caption.text.replace('-->', '→')}\n"
        for number, caption in enumerate(captions, 1)
    )


def width(text: str) -> int:
    """Columns that a text takes: wide characters count as two, combining marks as none."""
    return sum(0 if _joins(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _tokens(narration: Narration) -> list[_Token]:
    words = list(_without_tags(narration.words)) or _spread(spoken(narration.text), narration.audio_s)
    tokens = []
    for word in words:
        start, end = (narration.start + time / narration.speed for time in (word.start, word.end))
        if start >= narration.end - 0.01:
            break  # cut off, so not heard
        tokens += _pieces(_Token(word.text, start, min(end, narration.end)))
    return tokens


def _without_tags(words: Sequence[Word]) -> Iterable[Word]:
    """The words without audio tags, also those of several words: `[very` `happy]`."""
    if "".join(word.text for word in words).count("[") == 0:
        yield from (word for word in words if word.text.strip())
        return
    inside = False
    for position, word in enumerate(words):
        kept = ""
        for place, char in enumerate(word.text):
            if char == "[" and not inside and _closes(words, position, place):
                inside = True
            elif char == "]" and inside:
                inside = False
            elif not inside:
                kept += char
        if kept.strip():
            yield replace(word, text=kept.strip())


def _closes(words: Sequence[Word], position: int, place: int) -> bool:
    """Whether the bracket opened here is closed, so that it begins a tag and is no stray character."""
    rest = words[position].text[place + 1 :] + " " + " ".join(word.text for word in words[position + 1 :])
    return "]" in rest and "[" not in rest[: rest.index("]")]


def _spread(text: str, seconds: float) -> list[Word]:
    """The text's words over the audio's length, each by its number of characters."""
    texts = text.split()
    weight = sum(width(word) + 1 for word in texts) or 1
    words, at = [], 0.0
    for word in texts:
        end = at + seconds * (width(word) + 1) / weight
        words.append(Word(word, at, end))
        at = end
    return words


def _pieces(token: _Token) -> list[_Token]:
    """The token, or its characters where it is a text without spaces that is too long for half a line."""
    if width(token.text) <= COLUMNS // 2 or (token.text.isascii() and width(token.text) <= COLUMNS):
        return [token]
    clusters: list[str] = []
    for char in token.text:
        # A line must not begin with a closing mark, so that goes with the character before.
        if clusters and (_joins(char) or unicodedata.category(char) in ("Po", "Pe", "Pf")):
            clusters[-1] += char
        else:
            clusters.append(char)
    step = (token.end - token.start) / len(clusters)
    return [
        _Token(text, token.start + number * step, token.start + (number + 1) * step, glued=number > 0)
        for number, text in enumerate(clusters)
    ]


def _joins(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me", "Mc", "Cf") or "\ufe00" <= char <= "\ufe0f"


def _groups(tokens: Sequence[_Token]) -> list[list[_Token]]:
    """The tokens by caption. A caption ends where a sentence, a breath or its room ends."""
    groups: list[list[_Token]] = []
    for token in tokens:
        if groups and not _starts_caption(groups[-1], token):
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups


def _starts_caption(group: Sequence[_Token], token: _Token) -> bool:
    if _lines([*group, token]) is None:
        return True
    if token.start - group[0].start < LEAST_S:
        return False
    last = group[-1]
    return (
        token.start - last.end > PAUSE_S
        or token.end - group[0].start > MOST_S
        or (_SENTENCE_END.search(last.text) is not None and not token.glued)
    )


def _lines(tokens: Sequence[_Token], columns: int = COLUMNS) -> list[str] | None:
    """The tokens in at most LINES lines of that many columns, or None if they do not fit."""
    lines = [tokens[0].text]
    for token in tokens[1:]:
        longer = lines[-1] + ("" if token.glued else " ") + token.text
        if width(longer) <= columns:
            lines[-1] = longer
        else:
            lines.append(token.text)
    return lines if len(lines) <= LINES and all(width(line) <= columns for line in lines) else None


def _wrap(tokens: Sequence[_Token]) -> str:
    """The caption's text; two lines are made about equally long, which reads better than a full first one."""
    lines = _lines(tokens)
    if lines is None:
        return "".join(
            ("" if not number or token.glued else " ") + token.text for number, token in enumerate(tokens)
        )
    if len(lines) == 1:
        return lines[0]
    for columns in range(COLUMNS // 2, COLUMNS):
        balanced = _lines(tokens, columns)
        if balanced is not None:
            return "\n".join(balanced)
    return "\n".join(lines)


def _timed(captions: list[Caption], total: float) -> list[Caption]:
    """The captions with readable times: LEAST_S at least where there is room, no overlap, no flicker."""
    timed = []
    for number, caption in enumerate(captions):
        limit = captions[number + 1].start if number + 1 < len(captions) else total
        end = max(caption.end, caption.start + LEAST_S)
        if limit - end < FLICKER_S and number + 1 < len(captions):
            end = limit
        timed.append(replace(caption, start=round(caption.start, 3), end=round(min(end, limit), 3)))
    return [caption for caption in timed if caption.end > caption.start]


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
