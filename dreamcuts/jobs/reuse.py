"""Reuse: a request that was carried out before is not paid again, where a job or its manifest asks for it.

Opt-in: `reuse: true` in the payload or in the job's metadata, or `metadata.featureFlags.reuseAssets` in the
manifest; the nearest one counts, so `reuse: false` takes a job out. A model that takes no seed makes
something else each time and is left out, unless the value is "always".

Two requests are the same if provider, endpoint and canonical input are; see `request_hash`. Only jobs of the
same user count, or, in a manifest without a user, those of the same manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import anyio
import httpx

from dreamcuts.errors import JobError
from dreamcuts.jobs.base import JobContext, MadeBefore, Result
from dreamcuts.storage.base import Asset
from dreamcuts.storage.download import is_served

Mode = Literal["off", "seeded", "always"]

CHECK_S = 20.0
"""How long to look whether an asset is still there."""


class Reused(Exception):
    """The job's result was made before: the attempt ends here, with that result.

    Raised by the engine for paid calls and caught by the worker; a job type need not know of it.
    """

    def __init__(self, result: Result) -> None:
        super().__init__("the same request was carried out before")
        self.result = result


async def reuse_if_made(
    ctx: JobContext,
    provider: str,
    endpoint: str,
    *,
    request: Mapping[str, Any],
    identity: Mapping[str, Any] | None = None,
    takes_seed: bool,
    step: int = 0,
    estimate_usd: float | None = None,
) -> None:
    """Raise Reused if the job wants to reuse assets and this request was carried out before.

    `takes_seed` says whether the model can repeat itself. `identity` is what makes two requests the same,
    where that is not `request`. An asset that is no longer there is not used. `estimate_usd` is what the call
    would have cost.
    """
    mode = await reuse_mode(ctx)
    if mode == "off" or (mode == "seeded" and not takes_seed):
        return
    what = identity_of(request, identity, ctx.job.payload)
    made = await ctx.calls.made_before(provider, endpoint, what)
    if made is None:
        return
    asset = _asset(made)
    if not await _is_there(ctx, made.output_url):
        ctx.log.info("What job %s made of the same request is gone; it is made anew", made.job_id)
        return
    saved = made.cost_usd if estimate_usd is None else estimate_usd
    await ctx.calls.reused(
        provider, endpoint, made, request=request, identity=what, step=step, saved_usd=saved
    )
    ctx.log.info("Reused what job %s made of the same request", made.job_id)
    data = dict(made.result)
    data["reusedFrom"] = {"manifestId": made.manifest_id and str(made.manifest_id), "jobId": made.job_id}
    data["costUsd"] = 0.0
    if saved is not None:
        data["savedUsd"] = round(float(saved), 6)
    raise Reused(Result(asset, data))


async def reuse_mode(ctx: JobContext) -> Mode:
    """What the job, or else its manifest, says about reuse."""
    said = ctx.job.payload.get("reuse")
    if said is None:
        said = ctx.job.metadata.get("reuse")
    if said is None:
        flags = ((await ctx.manifest()).get("metadata") or {}).get("featureFlags")
        said = flags.get("reuseAssets") if isinstance(flags, dict) else None
    if said == "always":
        return "always"
    return "seeded" if said is True else "off"


def identity_of(
    request: Mapping[str, Any], identity: Mapping[str, Any] | None, payload: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What makes a request the same as another. A seed that the worker chose itself is no part of it."""
    if identity is not None:
        return identity
    if payload.get("seed") is not None:
        return request
    return {name: value for name, value in request.items() if name != "seed"}


def request_hash(provider: str, endpoint: str, identity: Mapping[str, Any]) -> str:
    """The sha256, in hex, of provider, endpoint and the input as canonical JSON (sorted keys, 1.0 as 1)."""
    body = [provider, endpoint, _canonical(identity)]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _asset(made: MadeBefore) -> Asset:
    result = made.result
    return Asset(
        path=str(result.get("path", "")),
        url=made.output_url,
        content_type=str(result.get("contentType", "")),
        size=int(result.get("size") or 0),
        sha256=str(result.get("sha256", "")),
    )


async def _is_there(ctx: JobContext, url: str) -> bool:
    try:
        with anyio.fail_after(CHECK_S):
            return await is_served(ctx.http, url, settings=ctx.settings)
    except (TimeoutError, JobError, httpx.HTTPError):
        return False
