"""What can still be read of a manifest that is malformed in places, so that the rest can be checked too."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from dreamcuts.manifest.model import Manifest

Place = tuple[int | str, ...]

_ROUNDS = 6
_STAND_IN_S = 5.0
_URL = "https://example.com/asset"


def salvage(manifest: Any, error: ValidationError) -> tuple[Manifest | None, list[Place]]:
    """The manifest with its malformed parts left out or filled in, and where they were.

    `error` is what validation said. Problems that mention one of those places may be a consequence of the
    filling in: see `mentions`. None if nothing of the manifest can be read.
    """
    if not isinstance(manifest, Mapping):
        return None, []
    data = copy.deepcopy(dict(manifest))
    broken: list[Place] = []
    for _ in range(_ROUNDS):
        places = {
            _place(data, issue["loc"], is_missing=issue["type"] == "missing")
            for issue in error.errors(include_url=False)
        }
        # What was filled in before and is no good either is left out together with what it is in.
        places = {place[:-1] if place in broken else place for place in places}
        mended: list[Place] = []
        for place in sorted(places, key=len):
            if place and not any(place[: len(outer)] == outer for outer in mended):
                mended.append(place)
                _mend(data, place)
        broken += mended
        try:
            return Manifest.model_validate(data), broken
        except ValidationError as again:
            error = again
    return None, broken


def path(place: Sequence[int | str]) -> str:
    """A place as people write it: `scenes[0].tts.voiceId`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.lstrip(".")


def mentions(problem: str, places: Iterable[Place]) -> bool:
    """Whether a problem is about one of these places, or about something inside it."""
    return any(
        re.search(rf"(?<![\w.\]]){re.escape(path(place))}(?!\w)", problem) is not None for place in places
    )


def lengths_are_known(places: Iterable[Place]) -> tuple[bool, bool]:
    """Whether the film's length and the lengths of all scenes are the manifest's own, not filled in."""
    film = scenes = True
    for place in places:
        match place:
            case ("metadata",) | ("metadata", "durationSeconds"):
                film = False
            case ("scenes",) | ("scenes", int()) | ("scenes", int(), "durationSeconds"):
                scenes = False
    return film, scenes


def _place(data: Any, location: Sequence[int | str], *, is_missing: bool) -> Place:
    """The part of an issue's location that is in the data; the rest names members of a union."""
    place: list[int | str] = []
    for part in location:
        in_dict = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not in_dict and not in_list:
            return (*place, part) if is_missing else tuple(place)
        place.append(part)
        data = data[part]
    return tuple(place)


def _mend(data: dict[str, Any], place: Place) -> None:
    parent: Any = data
    for part in place[:-1]:
        parent = parent[part]
    last, stand_in = place[-1], _stand_in(data, place, parent)
    if isinstance(parent, dict) and stand_in is None:
        parent.pop(last, None)
    else:
        parent[last] = {} if stand_in is None else stand_in


def _stand_in(data: dict[str, Any], place: Place, parent: Any) -> Any:
    """What is put in place of a part that cannot be left out; None if it can."""
    match place:
        case ("metadata",):
            return {"durationSeconds": _length(data)}
        case ("metadata", "durationSeconds"):
            return _length(data)
        case ("scenes",):
            return [_scene(0)]
        case ("scenes", int(number)):
            return _scene(number)
        case ("scenes", int(), "durationSeconds"):
            return _STAND_IN_S
        case ("scenes", int(), "id") | ("audio", "sfx", int(), "id" | "cue"):
            given = parent.get(place[-1])
            # By this name `mentions` knows what follows from it, such as references to the id.
            return str(given) if isinstance(given, int | float) else path(place)
        case ("audio", "sfx", int()):
            return {"id": path(place), "cue": "?"}
        case ("assets", _):
            return {"source": "user", "originUrl": _URL}
        case ("assets", _, "originUrl"):
            return _URL
        case ("audio", "music", "cueMap", _):
            return {"prompt": "?"}
    return None


def _scene(number: int) -> dict[str, Any]:
    return {"id": f"scenes[{number}]", "durationSeconds": _STAND_IN_S}


def _length(data: Mapping[str, Any]) -> float:
    """The film's length by its scenes, as far as they say how long they are."""
    scenes = data["scenes"] if isinstance(data.get("scenes"), list) else []
    given = [scene.get("durationSeconds") for scene in scenes if isinstance(scene, dict)]
    return sum(length for length in given if isinstance(length, int | float) and length > 0) or _STAND_IN_S
