"""Validation errors in the form of Shotstack's Edit API: every message names its field."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from dreamcuts.sandbox.shotstack_types import ASSET_TYPES

_MESSAGES = {
    "missing": ("any.required", "is required"),
    "extra_forbidden": ("object.unknown", "is not allowed"),
    "string_type": ("string.base", "must be a string"),
    "float_type": ("number.base", "must be a number"),
    "int_type": ("number.integer", "must be an integer"),
    "int_from_float": ("number.integer", "must be an integer"),
    "bool_type": ("boolean.base", "must be a boolean"),
    "list_type": ("array.base", "must be an array"),
    "dict_type": ("object.base", "must be of type object"),
    "model_type": ("object.base", "must be of type object"),
    "model_attributes_type": ("object.base", "must be of type object"),
    "union_tag_not_found": ("any.required", "is required"),
    "union_tag_invalid": ("any.only", f"must be one of [{', '.join(ASSET_TYPES)}]"),
    "greater_than_equal": ("number.min", "must be greater than or equal to {ge}"),
    "greater_than": ("number.greater", "must be greater than {gt}"),
    "less_than_equal": ("number.max", "must be less than or equal to {le}"),
    "too_short": ("array.min", "must contain at least {min_length} items"),
}
_UNION_BRANCHES = frozenset({"int", "float", "str", "dict[str,float]"})


def error_details(error: ValidationError) -> list[dict[str, Any]]:
    """A validation error as the API's `details`: a message that names the field, its path and a type."""
    details: list[dict[str, Any]] = []
    for item in error.errors(include_url=False):
        kind = str(item["type"])
        path = _path(item["loc"])
        if kind.startswith("union_tag"):
            path.append("type")
        kind, text = _MESSAGES.get(kind, (kind, item["msg"]))
        details_entry = {
            "message": f'"{_label(path)}" {text.format(**item.get("ctx", {}))}',
            "path": path,
            "type": kind,
        }
        if details_entry not in details:
            details.append(details_entry)
    return details


def detail(path: list[int | str], text: str, kind: str) -> dict[str, Any]:
    """One entry of `details`, for what a model alone cannot check."""
    return {"message": f'"{_label(path)}" {text}', "path": path, "type": kind}


def bad_request(details: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of a 400."""
    return {
        "success": False,
        "message": "Bad Request",
        "response": {"error": "ValidationError", "details": details},
    }


def _label(path: list[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "value"


def _path(location: tuple[int | str, ...]) -> list[int | str]:
    """The place in the document, without the tags that pydantic adds for the branch of a union."""
    path: list[int | str] = []
    for index, part in enumerate(location):
        asset_branch = index > 0 and location[index - 1] == "asset"
        other_branch = isinstance(part, str) and (
            part.startswith(("#", "constrained-", "function-")) or part in _UNION_BRANCHES
        )
        if not asset_branch and not other_branch:
            path.append(part)
    return path
