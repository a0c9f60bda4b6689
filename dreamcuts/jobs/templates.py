"""Templates in payloads: `{{job_result:JOB_ID}}` and `{{asset_url:ASSET_ID}}` become URLs.

They are resolved just before a job runs, within its own manifest. `audioJobId` and `videoAssetId` stand for
the URLs of the same name where those are not given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dreamcuts.errors import InvalidRequest
from dreamcuts.jobs.base import SiblingJob
from dreamcuts.manifest.assets import Unresolved, asset_url, job_url

TEMPLATE = re.compile(r"\{\{\s*(job_result|asset_url)\s*:\s*([^{}]+?)\s*\}\}")

STAND_INS = {"audioUrl": ("audioJobId", "job_result"), "videoUrl": ("videoAssetId", "asset_url")}
"""URL key of a payload -> the key that stands in for it, and how that is resolved."""

Resolve = Callable[[str, str], str]


def needs_templates(payload: Mapping[str, Any]) -> bool:
    """Whether `resolve_templates` would change the payload, so that the manifest must be read for it."""
    return _has_template(payload) or any(
        payload.get(key) and not payload.get(url_key) for url_key, (key, _) in STAND_INS.items()
    )


def resolve_templates(
    payload: dict[str, Any], *, manifest: Mapping[str, Any], siblings: Sequence[SiblingJob]
) -> dict[str, Any]:
    """A copy of `payload` with all templates resolved. Changes nothing that it is given.

    `manifest` is the `manifest_json` (empty for a job without one), `siblings` the manifest's jobs. Raises
    InvalidRequest naming the template, the field and what exists instead.
    """

    def resolve(kind: str, name: str) -> str:
        return job_url(name, siblings) if kind == "job_result" else asset_url(name, manifest, siblings)

    stand_ins: dict[str, str] = {}
    for url_key, (id_key, kind) in STAND_INS.items():
        identifier = payload.get(id_key)
        if not identifier or _is_resolvable(payload.get(url_key), resolve):
            continue
        try:
            stand_ins[url_key] = resolve(kind, str(identifier))
        except Unresolved as error:
            raise InvalidRequest(f"{id_key}: {error}.") from None
    return {
        key: stand_ins[key] if key in stand_ins else _resolved(value, key, resolve)
        for key, value in (payload | stand_ins).items()
    }


def _resolved(value: Any, field: str, resolve: Resolve) -> Any:
    if isinstance(value, str):

        def replace(match: re.Match[str]) -> str:
            try:
                return resolve(match[1], match[2])
            except Unresolved as error:
                raise InvalidRequest(f"{field}: {match[0]} cannot be resolved: {error}.") from None

        return TEMPLATE.sub(replace, value)
    if isinstance(value, dict):
        return {key: _resolved(item, f"{field}.{key}", resolve) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, f"{field}[{number}]", resolve) for number, item in enumerate(value)]
    return value


def _is_resolvable(value: Any, resolve: Resolve) -> bool:
    """Whether a URL is given, if need be by way of templates."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        for kind, name in TEMPLATE.findall(value):
            resolve(kind, name)
    except Unresolved:
        return False
    return True


def _has_template(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" in value and TEMPLATE.search(value) is not None
    if type(value) is dict or isinstance(value, Mapping):  # the first is far quicker, and nearly always true
        return any(_has_template(item) for item in value.values()) if value else False
    return isinstance(value, list) and any(_has_template(item) for item in value)
