"""Sound effects: a cue is enriched by its keyword, the payload's keywords and its category."""

from __future__ import annotations

from typing import Any

import pytest

from dreamcuts.jobs.sound_effects import SoundEffectsPayload, plan_sound
from dreamcuts.jobs.sound_text import CATEGORIES, KEYWORDS, enriched


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"text": "whoosh"}, "whoosh, air rushing past, fast and clean, sound effect"),
        ({"text": "Doors closing."}, f"Doors closing, {KEYWORDS['door']}, sound effect"),
        ({"text": "zorp"}, "zorp, sound effect"),
        ({"text": "rain", "category": "ambience"}, f"rain, {KEYWORDS['rain']}, {CATEGORIES['ambience']}"),
        ({"text": "zorp", "category": "Sci_Fi"}, "zorp, sci fi sound"),
        (
            {"text": "a heavy wooden door closes slowly", "keywords": ["creaking", "wooden"]},
            "a heavy wooden door closes slowly, creaking",
        ),
        ({"text": "glass breaks", "keywords": "close, sharp"}, "glass breaks, close, sharp, sound effect"),
    ],
)
def test_a_cue_becomes_a_description(given: dict[str, Any], sent: str) -> None:
    arguments, _, notes = plan_sound(SoundEffectsPayload.model_validate(given))
    assert arguments["text"] == sent
    assert notes == [f"The text was made clearer: {sent!r}."]


def test_a_text_that_describes_its_sound_is_left_as_it_is() -> None:
    text = "Waves break on a pebble beach, far gulls."
    arguments, _, notes = plan_sound(SoundEffectsPayload.model_validate({"text": text}))
    assert arguments["text"] == text and notes == []


def test_what_does_not_fit_is_left_out() -> None:
    text = "w " * 490
    assert enriched(text, keywords=["short", "x" * 100]) == f"{text.strip()}, short"


def test_loop_and_influence_are_passed_on() -> None:
    payload = {"text": "rain", "loop": True, "promptInfluence": 0.8, "modelId": "eleven_text_to_sound_v3"}
    arguments, _, notes = plan_sound(SoundEffectsPayload.model_validate(payload))
    assert (arguments["loop"], arguments["prompt_influence"]) == (True, 0.8)
    assert arguments["model_id"] == "eleven_text_to_sound_v2" and "makes no loops" in notes[0]
