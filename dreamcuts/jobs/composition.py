"""Composition plans for music: made from a cue's words, and fitted to its length.

Two shapes exist (ElevenLabs SDK, MusicPrompt and CompositionPlan): `music_v1` has sections, later models have
chunks. Sections and chunks last 3 to 120 seconds each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

SHORTEST_MS, LONGEST_MS = 3_000, 120_000
NO_VOICES = ("vocals", "singing", "spoken word")

_STRUCTURES: dict[str, tuple[tuple[str, float], ...]] = {
    "build": (("Intro", 0.25), ("Build", 0.45), ("Peak", 0.30)),
    "intro": (("Intro", 1.0),),
    "loop": (("Loop", 1.0),),
    "steady": (("Steady", 1.0),),
    "drop": (("Build", 0.5), ("Drop", 0.5)),
    "outro": (("Outro", 1.0),),
}
_STYLES: dict[str, list[str]] = {
    "intro": ["sparse", "low energy", "soft start"],
    "build": ["rising energy", "layers added"],
    "peak": ["full arrangement", "high energy"],
    "drop": ["high energy", "strong beat"],
    "climax": ["full arrangement", "high energy"],
    "bridge": ["contrast", "medium energy"],
    "outro": ["fading energy", "resolving end"],
}
_STEADY = ["steady energy"]


def local_plan(
    *, styles: Sequence[str], structure: str | None, instructions: str | None, length_ms: int
) -> dict[str, Any]:
    """A composition plan of music_v1's shape, made without a provider, of `length_ms` in all."""
    parts = _parts(structure)
    count = len(parts)
    sections = []
    for index, (name, share) in enumerate(parts):
        local = list(_STYLES.get(name.lower(), _STEADY))
        if instructions and _concerns(instructions, index, count):
            local.append(instructions[:200])
        sections.append(
            {
                "section_name": name[:100],
                "positive_local_styles": local,
                "negative_local_styles": [],
                "duration_ms": round(length_ms * share),
                "lines": [],
            }
        )
    plan = {
        "positive_global_styles": [*styles, "instrumental"],
        "negative_global_styles": list(NO_VOICES),
        "sections": sections,
    }
    return fitted(plan, length_ms)


def fitted(plan: dict[str, Any], length_ms: int) -> dict[str, Any]:
    """The plan with its parts scaled to `length_ms` in all, each within 3 to 120 s, and nothing to sing.

    Parts that cannot last three seconds are dropped from the end; a part over two minutes is repeated.
    """
    key = "chunks" if "chunks" in plan else "sections"
    parts = [dict(part) for part in plan.get(key) or []] or [_plain_part(key)]
    parts = parts[: max(1, length_ms // SHORTEST_MS)]
    while len(parts) * LONGEST_MS < length_ms:
        longest = max(range(len(parts)), key=lambda at: parts[at].get("duration_ms") or 0)
        half = (parts[longest].get("duration_ms") or LONGEST_MS) // 2
        parts[longest]["duration_ms"] = half
        parts.insert(longest + 1, dict(parts[longest]))
    lengths = _scaled([max(1, int(part.get("duration_ms") or 1)) for part in parts], length_ms)
    for part, length in zip(parts, lengths, strict=True):
        part["duration_ms"] = length
        if key == "sections":
            part["lines"] = []
            part.setdefault("positive_local_styles", [])
            part.setdefault("negative_local_styles", [])
    fitted_plan = {**plan, key: parts}
    if key == "sections":
        unwanted = list(plan.get("negative_global_styles") or [])
        fitted_plan["negative_global_styles"] = unwanted + [
            word for word in NO_VOICES if word not in unwanted
        ]
        fitted_plan.setdefault("positive_global_styles", [])
    return fitted_plan


def as_chunks(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of sections in the shape that the models after music_v1 take."""
    if "chunks" in plan:
        return plan
    chunks = [
        {
            "text": f"[{section['section_name']}]\n",
            "duration_ms": section["duration_ms"],
            "positive_styles": [*plan["positive_global_styles"], *section["positive_local_styles"]][:7],
            "negative_styles": [*plan["negative_global_styles"], *section["negative_local_styles"]],
        }
        for section in plan["sections"]
    ]
    return {"chunks": chunks}


def _parts(structure: str | None) -> list[tuple[str, float]]:
    """Named parts and their shares of the whole, from "build" or "intro->build->outro"."""
    names = [
        name.strip() for name in re.split(r"\s*(?:->|→|>|,|/|\+)\s*", structure or "steady") if name.strip()
    ]
    if len(names) <= 1:
        name = names[0] if names else "steady"
        return list(_STRUCTURES.get(name.lower(), ((name.title(), 1.0),)))
    weights = {"intro": 0.8, "outro": 0.8, "build": 1.4}
    given = [weights.get(name.lower(), 1.0) for name in names]
    return [(name.title(), weight / sum(given)) for name, weight in zip(names, given, strict=True)]


def _concerns(instructions: str, index: int, count: int) -> bool:
    """Whether instructions are about this part: fading in the first, fading out the last, others all."""
    words = instructions.lower()
    starts = any(word in words for word in ("fade in", "fades in", "start", "begin", "open"))
    ends = any(word in words for word in ("fade out", "fades out", "end", "resolve", "finish"))
    if not starts and not ends:
        return True
    return (starts and index == 0) or (ends and index == count - 1)


def _scaled(lengths: list[int], total: int) -> list[int]:
    """The lengths scaled to `total` together, each within the limits. What a limit takes, the others give."""
    fixed: dict[int, int] = {}
    while True:
        free = [at for at in range(len(lengths)) if at not in fixed]
        rest = total - sum(fixed.values())
        weight = sum(lengths[at] for at in free)
        scaled = {at: lengths[at] * rest / weight for at in free}
        outside = {at: length for at, length in scaled.items() if not SHORTEST_MS <= length <= LONGEST_MS}
        if not outside or len(free) == 1:
            break
        worst = max(outside, key=lambda at: max(SHORTEST_MS - outside[at], outside[at] - LONGEST_MS))
        fixed[worst] = SHORTEST_MS if outside[worst] < SHORTEST_MS else LONGEST_MS
    whole = {**fixed, **{at: int(length) for at, length in scaled.items()}}
    result = [whole[at] for at in range(len(lengths))]
    result[max(free)] += total - sum(result)
    return result


def _plain_part(key: str) -> dict[str, Any]:
    if key == "chunks":
        return {"text": "[Music]\n", "positive_styles": [], "negative_styles": list(NO_VOICES)}
    return {"section_name": "Music", "positive_local_styles": [], "negative_local_styles": []}
