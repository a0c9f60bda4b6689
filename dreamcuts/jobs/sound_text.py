"""Words for a sound effect: a short cue becomes a description that a model can do something with.

Producers write cues ("whoosh", "door"); the model wants to be told what is heard and how (ElevenLabs docs,
"Sound effects": be clear and descriptive). A text that already describes its sound is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DESCRIBED_WORDS = 5
"""A text of so many words describes its sound by itself."""
LONGEST_TEXT = 1_000

KEYWORDS: dict[str, str] = {
    "whoosh": "air rushing past, fast and clean",
    "swoosh": "air rushing past, light and quick",
    "riser": "tension that rises to a peak",
    "impact": "deep and punchy, with a short decay",
    "boom": "deep and wide, with a long decay",
    "hit": "punchy, with a short decay",
    "thud": "dull and heavy, with no ring",
    "click": "short, dry and close",
    "pop": "short, bright and close",
    "chime": "a clear bright ring with a soft decay",
    "ding": "one clear small bell",
    "bell": "a clear ring with a natural decay",
    "glitch": "short digital stutter",
    "door": "a wooden door in a quiet room, close microphone",
    "footsteps": "steady steps, close microphone",
    "typing": "fingers on a keyboard, close microphone",
    "keyboard": "keys being pressed, close microphone",
    "camera": "one shutter release, close and crisp",
    "rain": "steady rain outdoors",
    "thunder": "a distant roll of thunder",
    "wind": "wind outdoors, slow gusts",
    "waves": "waves on a shore, calm",
    "birds": "birdsong outdoors, calm",
    "fire": "a crackling fire, close",
    "traffic": "street traffic passing, wide",
    "crowd": "a crowd murmuring in a large room",
    "applause": "an audience clapping in a hall",
    "laughter": "a small group laughing",
}
"""What is heard, by a word of the cue."""

CATEGORIES: dict[str, str] = {
    "transition": "a clean transition between two scenes, no music",
    "ambience": "continuous background sound, even, no music",
    "ambient": "continuous background sound, even, no music",
    "ui": "a short, clean interface sound",
    "interface": "a short, clean interface sound",
    "impact": "a cinematic impact",
    "foley": "realistic, recorded close",
    "nature": "natural, recorded outdoors",
    "weather": "natural, recorded outdoors",
    "urban": "realistic, recorded in a city",
    "mechanical": "mechanical, realistic",
    "human": "realistic, no words",
    "animal": "realistic, no other sounds",
    "cartoon": "exaggerated and playful",
    "horror": "dark and unsettling",
    "magic": "shimmering and bright",
}
"""What kind of sound it is to be, by the payload's category."""


def enriched(text: str, *, category: str | None = None, keywords: Sequence[str] = ()) -> str:
    """The text for the model: the cue, what its keyword stands for, the given keywords, and the category.

    `enriched("whoosh", category="ui")` is "whoosh, air rushing past, fast and clean, a short, clean interface
    sound". Whatever does not fit into 1,000 characters is left out.
    """
    words = re.findall(r"[\w'-]+", text.lower())
    parts = [text.strip().rstrip(".,;")]
    if len(words) < DESCRIBED_WORDS:
        found = next((KEYWORDS[key] for word in words if (key := _keyword(word)) in KEYWORDS), None)
        parts += [found] if found else []
    parts += [word.strip() for word in keywords if word.strip() and word.strip().lower() not in text.lower()]
    if category and category.strip():
        kind = category.strip().lower().replace("_", " ")
        parts.append(CATEGORIES.get(kind, f"{kind} sound"))
    elif len(words) < 3:
        parts.append("sound effect")  # one or two words could also name a song or a voice
    if len(parts) == 1:
        return text
    kept: list[str] = []
    for part in parts:
        if kept and len(", ".join([*kept, part])) > LONGEST_TEXT:
            break
        kept.append(part)
    return ", ".join(kept)


def _keyword(word: str) -> str:
    """A word as the table has it: "Doors" and "clicking" as "door" and "click"."""
    for key in (word, word.removesuffix("s"), word.removesuffix("ing"), word.removesuffix("es")):
        if key in KEYWORDS:
            return key
    return word
