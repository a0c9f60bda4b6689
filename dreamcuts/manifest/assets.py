"""Where a manifest's assets are: which URL stands behind an asset id or a job id.

Used for templates in payloads and for the render's timeline. Knows jobs only by the few fields it reads, so
that it needs nothing of the job types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

PRODUCES = ("resultAssetId", "assetId", "videoId", "cueId", "effectId")
"""Payload keys that name what a job makes, in the order in which they are believed."""


class ManifestJob(Protocol):
    """A job of the manifest, as much as is needed here; dreamcuts.jobs.base.SiblingJob is one."""

    @property
    def job_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def payload(self) -> dict[str, Any]: ...
    @property
    def result(self) -> dict[str, Any] | None: ...
    @property
    def output_url(self) -> str | None: ...


class Unresolved(LookupError):
    """No URL can be given; the text says why, and what there is instead."""


def url_of(job: ManifestJob) -> str | None:
    """The URL of what a completed job made, or None."""
    if job.status != "completed":
        return None
    return job.output_url or (job.result or {}).get("url") or None


def producers(asset_id: str, jobs: Iterable[ManifestJob]) -> list[ManifestJob]:
    """The jobs that make an asset, the most reliable first: `resultAssetId` says it best."""
    ranked = [
        (rank, number, job)
        for number, job in enumerate(jobs)
        for rank in [_rank(asset_id, job.payload)]
        if rank is not None
    ]
    return [job for _, _, job in sorted(ranked, key=lambda item: item[:2])]


def job_url(job_id: str, jobs: Sequence[ManifestJob]) -> str:
    """The URL of what the job `job_id` made. Raises Unresolved, naming the jobs that exist."""
    for job in jobs:
        if job.job_id == job_id:
            url = url_of(job)
            if url:
                return url
            if job.status == "completed":
                raise Unresolved(f"{job_id} is completed, but made no file")
            raise Unresolved(f"{job_id} is not completed ({job.status}); does depends_on name it?")
    if not jobs:
        raise Unresolved(f"{job_id} does not exist: this job belongs to no manifest")
    raise Unresolved(
        f"{job_id} does not exist in this manifest; jobs are: {_some(job.job_id for job in jobs)}"
    )


def asset_url(asset_id: str, manifest: Mapping[str, Any], jobs: Sequence[ManifestJob]) -> str:
    """The URL of an asset: what a job made for it, or the file that the user brought.

    A user's own file wins for assets with `source: "user"`, a job's result for all others. Raises Unresolved,
    naming the job that should have made it, or the assets that exist.
    """
    assets = manifest.get("assets")
    asset = assets.get(asset_id) if isinstance(assets, Mapping) else None
    entry: Mapping[str, Any] = asset if isinstance(asset, Mapping) else {}
    origin = entry.get("originUrl") or None
    makers = producers(asset_id, jobs)
    made = next((url for url in map(url_of, makers) if url), None)
    url = (origin or made) if entry.get("source") == "user" else (made or origin)
    if url:
        return str(url)
    if makers:
        states = ", ".join(f"{job.job_id} ({job.status})" for job in makers)
        raise Unresolved(f"asset {asset_id} is not there yet; it is made by {states}")
    if entry:
        raise Unresolved(f"asset {asset_id} has no originUrl, and no job makes it")
    known = list(assets) if isinstance(assets, Mapping) else []
    known += [job.payload[key] for job in jobs for key in PRODUCES if isinstance(job.payload.get(key), str)]
    raise Unresolved(f"asset {asset_id} does not exist in this manifest; assets are: {_some(known)}")


def _rank(asset_id: str, payload: Mapping[str, Any]) -> int | None:
    return next((rank for rank, key in enumerate(PRODUCES) if payload.get(key) == asset_id), None)


def _some(names: Iterable[str], limit: int = 20) -> str:
    unique = list(dict.fromkeys(names))
    shown = ", ".join(unique[:limit]) or "none"
    return shown + (f" and {len(unique) - limit} more" if len(unique) > limit else "")
