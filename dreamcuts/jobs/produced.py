"""What a job made: downloaded, checked, stored, and described for its result."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio

from dreamcuts.errors import ErrorClass, InvalidRequest, JobError, ProviderError
from dreamcuts.jobs.base import Job, JobContext
from dreamcuts.jobs.paid import Outcome, Step
from dreamcuts.media import MediaInfo, extension, probe
from dreamcuts.storage.base import Asset
from dreamcuts.storage.download import download
from dreamcuts.wording import dollars

SHORTEST_S = 0.2


@dataclass(frozen=True, slots=True)
class Produced:
    """A stored asset and what its file is."""

    asset: Asset
    info: MediaInfo

    def as_result(self) -> dict[str, Any]:
        """The asset as it stands in a job's result, in the producer's camelCase."""
        data: dict[str, Any] = {
            "url": self.asset.url,
            "contentType": self.asset.content_type,
            "size": self.asset.size,
            "sha256": self.asset.sha256,
        }
        if self.info.duration is not None:
            data["durationSeconds"] = round(self.info.duration, 3)
        if self.info.width and self.info.height:
            data["width"], data["height"] = self.info.width, self.info.height
        return data


async def store(
    ctx: JobContext, source: Path, stem: str, *, kind: str, provider: str, at_least_s: float = SHORTEST_S
) -> Produced:
    """Check a finished file and store it as `stem` plus its extension.

    Raises ProviderError (transient, next step allowed) if it is no readable `kind`, or shorter than
    `at_least_s` seconds: an answer that ended early shows only as a short file.
    """
    info = await anyio.to_thread.run_sync(probe, source)
    problem = _problem(info, kind, at_least_s)
    if problem:
        raise unusable(provider, f"{source.name} {problem}")
    assert info.content_type is not None
    asset = await ctx.save(source, stem + extension(info.content_type), info.content_type)
    return Produced(asset, info)


async def fetch(
    ctx: JobContext, step: Step, file: Any, stem: str, *, kind: str, at_least_s: float = SHORTEST_S
) -> Produced:
    """Download a file object of a provider's output (`{"url": ...}`), check it and store it.

    A download that fails in passing is raised as it is: the call stays open, and the next attempt fetches
    again what is already paid. A file that cannot be used raises ProviderError with `try_next`.
    """
    url = file.get("url") if isinstance(file, dict) else None
    if not isinstance(url, str) or not url:
        raise unusable(step.provider, f"{step.endpoint} gave no {kind}")
    target = ctx.workdir / f"{stem}.download"
    try:
        await download(ctx.http, url, target, settings=ctx.settings, expect=kind)
    except InvalidRequest as error:
        raise unusable(step.provider, f"the {kind} of {step.endpoint} cannot be used: {error}") from error
    return await store(ctx, target, stem, kind=kind, provider=step.provider, at_least_s=at_least_s)


def unusable(provider: str, why: str) -> ProviderError:
    """The error for an output that is no good although the provider called it done."""
    return ProviderError(
        f"{why[:1].upper()}{why[1:]}", provider=provider, error_class=ErrorClass.TRANSIENT, try_next=True
    )


def result_data(produced: Produced, outcome: Outcome[Any]) -> dict[str, Any]:
    """The result of a job whose asset a chain made."""
    return {**produced.as_result(), **outcome.as_result()}


def seed_of(job: Job) -> int:
    """A seed of 32 bits that every attempt of a job shares, so that a repeated attempt sounds the same."""
    return int.from_bytes(sha256(f"{job.manifest_id}/{job.job_id}".encode()).digest()[:4], "big")


def check_cost(limit: float | None, estimate: float | None, what: str) -> None:
    """Raises JobError (`spend_limit`) if an estimate is over the job's costLimit, both in US dollars."""
    if limit is not None and estimate is not None and estimate > limit:
        raise JobError(
            f"{what} would cost about {dollars(estimate)}, over the job's costLimit of {dollars(limit)}.",
            error_class=ErrorClass.SPEND_LIMIT,
        )


def _problem(info: MediaInfo, kind: str, at_least_s: float) -> str | None:
    if info.kind != kind:
        return f"is {info.content_type or 'of an unknown type'}, not {kind}"
    if kind == "image" and info.content_type != "image/webp" and not info.width:
        return "is an image that cannot be read"
    readable = {"audio/mpeg", "audio/wav", "video/mp4", "video/quicktime"}
    if kind != "image" and info.content_type in readable:
        if info.duration is None:  # a fragmented MP4 does not say how long it is
            return None if info.width else f"is a broken {kind}"
        if info.duration < at_least_s:
            return f"plays {info.duration:.2f} s, less than the {at_least_s:.2f} s that it should"
    return None
