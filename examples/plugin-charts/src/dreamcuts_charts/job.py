"""The job type `generate_chart_gptimage`: a chart from the payload's data, as a PNG."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.paid import Collected, Request, Step, run_chain
from dreamcuts.jobs.produced import Produced, result_data, store
from dreamcuts.providers.base import Done
from dreamcuts_charts.payload import ChartPayload

SIZE_OF_ASPECT = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (1080, 1080)}

Drawn = tuple[Produced, list[str]]


class ChartJob:
    """Draws a bar, line or pie chart."""

    name: ClassVar[str] = "generate_chart_gptimage"
    short_name: ClassVar[str] = "chart"
    payload_model: ClassVar[type[Payload]] = ChartPayload
    default_slots: ClassVar[int] = 2
    retry_delay: ClassVar[timedelta] = timedelta(seconds=5)
    time_limit: ClassVar[timedelta] = timedelta(minutes=2)
    providers: ClassVar[tuple[str, ...]] = ("charts",)
    features: ClassVar[tuple[str, ...]] = ("bar, line and pie charts", "resumes open requests")

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, ChartPayload)
        width, height = await _size(ctx, payload)
        kind = payload.chart_type
        step = Step("charts", kind, f"{kind} chart", Request(payload.request(width, height), 0.0))

        async def collect(step: Step, done: Done) -> Collected[Drawn]:
            file = Path(done.output["file"])
            made = await store(ctx, file, "chart", kind="image", provider="charts")
            return Collected((made, done.output["notes"]), 0.0)

        outcome = await run_chain(ctx, [step], poll_s=0.2, collect=collect)
        made, notes = outcome.value
        data = result_data(made, outcome)
        return Result(made.asset, {**data, "notes": [*data["notes"], *notes]})


async def _size(ctx: JobContext, payload: ChartPayload) -> tuple[int, int]:
    """The payload's size in pixels; what it leaves open follows the film's aspect ratio."""
    if payload.width and payload.height:
        return payload.width, payload.height
    aspect = ((await ctx.manifest()).get("metadata") or {}).get("aspectRatio")
    width, height = SIZE_OF_ASPECT.get(str(aspect), SIZE_OF_ASPECT["16:9"])
    if payload.width:
        return payload.width, max(64, min(4096, round(payload.width * height / width)))
    if payload.height:
        return max(64, min(4096, round(payload.height * width / height))), payload.height
    return width, height
