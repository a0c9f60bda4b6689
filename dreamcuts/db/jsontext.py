"""JSON between Postgres and Python: what one of them takes and the other does not, must stop nothing."""

from __future__ import annotations

import json
from typing import Any


class Unreadable(dict[str, Any]):
    """Stands for JSON that Postgres stores and Python does not read; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(unreadable=reason)
        self.reason = reason


def decode_json(text: str | bytes) -> Any:
    """The value of a JSON text from Postgres. Never raises: one job's payload must not fail a whole claim.

    Postgres holds numbers of 131,072 digits and any depth that its stack allows; Python reads neither.
    """
    if text == "{}":  # as most of a queue's columns are
        return {}
    try:
        return json.loads(text)
    except RecursionError:
        return Unreadable("it is nested too deeply")
    except ValueError as error:
        return Unreadable(str(error))


def encode_json(value: Any) -> str:
    """Compact JSON that Postgres accepts. Raises ValueError or TypeError for what is no JSON (NaN too)."""
    return "{}" if value == {} else _encode(value)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
