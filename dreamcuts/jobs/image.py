"""Images: a prompt becomes a picture, through fal. Job type `gen_image_falai`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, Field, field_validator

from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.catalogue import Catalogue, Choice, FallbackEntry, not_taken
from dreamcuts.jobs.paid import Collected, Request, Skip, Step, run_chain
from dreamcuts.jobs.produced import Produced, fetch, result_data, unusable
from dreamcuts.providers import prices
from dreamcuts.providers.base import Done

SRPO = "fal-ai/flux/srpo"
NANO = "fal-ai/nano-banana"
PHOTO = "fal-ai/image-editing/professional-photo"
SEEDREAM = "fal-ai/bytedance/seedream/v4/text-to-image"

CATALOGUE = Catalogue(
    what="image",
    models={
        "flux-srpo": SRPO,
        "nano-banana": NANO,
        "professional-photo": PHOTO,
        "seedream-4": SEEDREAM,
    },
    default=("flux-srpo", "nano-banana", "professional-photo", "seedream-4"),
)

PIXELS = {  # fal's presets
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
ASPECTS = {
    "square_hd": "1:1",
    "square": "1:1",
    "portrait_4_3": "3:4",
    "portrait_16_9": "9:16",
    "landscape_4_3": "4:3",
    "landscape_16_9": "16:9",
}
SIZE_OF_ASPECT = {
    "16:9": "landscape_16_9",
    "9:16": "portrait_16_9",
    "1:1": "square_hd",
    "4:3": "landscape_4_3",
    "3:4": "portrait_4_3",
}
SEEDREAM_MIN_PIXELS = 960 * 960
"""fal docs, Bytedance Seedream V4: smaller sizes are refused."""

POLL_S = 1.0
LIMIT_S = 180.0

PRODUCER_SIZES = {"portrait_9_16": "portrait_16_9", "portrait_3_4": "portrait_4_3"}
"""The producer names portrait sizes by width and height, fal the other way round."""


class ImageSize(BaseModel):
    """An image size in pixels."""

    width: int = Field(ge=64, le=4096)
    height: int = Field(ge=64, le=4096)


class ImagePayload(Payload):
    """Payload of `gen_image_falai`."""

    prompt: str = Field(min_length=1)
    asset_id: str | None = None
    result_asset_id: str | None = None
    model: Annotated[str | None, AfterValidator(CATALOGUE.known)] = None
    endpoint: Annotated[str | None, AfterValidator(CATALOGUE.known)] = None
    image_size: str | ImageSize | None = None
    aspect_ratio: str | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=50)
    guidance_scale: float | None = Field(None, ge=0, le=20)
    num_images: int = Field(1, ge=1, le=4)
    enable_safety_checker: bool | None = None
    seed: int | None = Field(None, ge=0)
    acceleration: str | None = None
    image_url: str | None = Field(None, description="Reference picture, for the models that edit one")
    fallback_providers: list[Annotated[FallbackEntry, AfterValidator(CATALOGUE.known_entry)]] | None = None

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank: say what the picture shows")
        return value.strip()

    @field_validator("image_size")
    @classmethod
    def _size_is_known(cls, value: str | ImageSize | None) -> str | ImageSize | None:
        if not isinstance(value, str):
            return value
        size = PRODUCER_SIZES.get(value, value)
        if size not in PIXELS:
            known = ", ".join((*PIXELS, *PRODUCER_SIZES))
            raise ValueError(f"{value!r} is no image size; give one of {known} or {{width, height}}")
        return size


class ImageJob:
    """Makes one or several pictures; the first is the job's asset."""

    name: ClassVar[str] = "gen_image_falai"
    short_name: ClassVar[str] = "image"
    payload_model: ClassVar[type[Payload]] = ImagePayload
    default_slots: ClassVar[int] = 2
    retry_delay: ClassVar[timedelta] = timedelta(seconds=10)
    time_limit: ClassVar[timedelta] = timedelta(minutes=13)
    providers: ClassVar[tuple[str, ...]] = ("fal",)
    features: ClassVar[tuple[str, ...]] = (
        "text to image",
        "fallback: flux-srpo, nano-banana, professional-photo, seedream-4",
        "several images",
        "resumes open requests",
    )

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, ImagePayload)
        size = payload.image_size or SIZE_OF_ASPECT.get(await _aspect(ctx, payload), "landscape_16_9")
        choices = CATALOGUE.choices(payload.model, payload.endpoint, payload.fallback_providers)
        steps = CATALOGUE.steps(
            choices, lambda choice: plan(choice, payload, size), cost_limit=payload.cost_limit
        )

        async def collect(step: Step, done: Done) -> Collected[tuple[list[Produced], dict[str, Any]]]:
            images = _accepted(step, done.output)
            made = [
                await fetch(ctx, step, image, f"image-{n}" if n > 1 else "image", kind="image")
                for n, image in enumerate(images, start=1)
            ]
            return Collected((made, done.output), step.cost_usd(done))

        outcome = await run_chain(ctx, steps, poll_s=POLL_S, collect=collect, limit_s=LIMIT_S)
        made, output = outcome.value
        data = result_data(made[0], outcome)
        if isinstance(output.get("seed"), int):
            data["seed"] = output["seed"]
        if len(made) > 1:
            data["images"] = [image.as_result() for image in made]
        return Result(made[0].asset, data)


def plan(choice: Choice, payload: ImagePayload, size: str | ImageSize) -> Request | Skip:
    """What an image model gets for a payload, or why it cannot take it. Only fields that the model knows."""
    if choice.endpoint == PHOTO and not payload.image_url:
        return Skip("needs a source image (imageUrl), and the job has none")
    width, height = PIXELS[size] if isinstance(size, str) else (size.width, size.height)
    if choice.endpoint == SEEDREAM and width * height < SEEDREAM_MIN_PIXELS:
        size = ImageSize(**_grown(width, height))
        width, height = size.width, size.height
    body, dropped = _body(choice.endpoint, payload, size)
    notes = not_taken(
        choice, {name: getattr(payload, _snake(name)) for name in dropped if _is_given(payload, name)}
    )
    if choice.entry and choice.entry.max_duration:
        notes.append(
            f"fallbackProviders: maxDuration {choice.entry.max_duration:g} has no effect on a picture."
        )
    return Request(
        {key: value for key, value in body.items() if value is not None},
        prices.cost("fal", choice.endpoint, images=body.get("num_images", 1), pixels=width * height),
        tuple(notes),
        takes_seed="seed" in body,
    )


def _body(
    endpoint: str, payload: ImagePayload, size: str | ImageSize
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The input of a model, with None for what is not given, and the payload's fields that it cannot take."""
    fal_size = size if isinstance(size, str) else size.model_dump()
    aspect = ASPECTS[size] if isinstance(size, str) else _nearest_aspect(size)
    common: dict[str, Any] = {
        "prompt": payload.prompt,
        "num_images": payload.num_images,
        "seed": payload.seed,
    }
    match endpoint:
        case "fal-ai/flux/srpo":
            return {
                **common,
                "image_size": fal_size,
                "num_inference_steps": payload.num_inference_steps,
                "guidance_scale": 4.5 if payload.guidance_scale is None else payload.guidance_scale,
                "enable_safety_checker": payload.enable_safety_checker,
                "acceleration": payload.acceleration,
            }, ("imageUrl",)
        case "fal-ai/nano-banana":
            dropped = (
                "numInferenceSteps",
                "guidanceScale",
                "enableSafetyChecker",
                "acceleration",
                "imageUrl",
            )
            return common | {"aspect_ratio": aspect}, dropped
        case "fal-ai/bytedance/seedream/v4/text-to-image":
            safety = payload.enable_safety_checker
            sized = {"image_size": fal_size, "enable_safety_checker": safety}
            return common | sized, ("numInferenceSteps", "guidanceScale", "acceleration", "imageUrl")
    return {
        "image_url": payload.image_url,
        "num_inference_steps": payload.num_inference_steps,
        "guidance_scale": payload.guidance_scale,
        "aspect_ratio": aspect,
        "seed": payload.seed,
    }, ("prompt", "numImages", "enableSafetyChecker", "acceleration")


def _is_given(payload: ImagePayload, name: str) -> bool:
    return _snake(name) in payload.model_fields_set


async def _aspect(ctx: JobContext, payload: ImagePayload) -> str:
    if payload.image_size or payload.aspect_ratio:
        return payload.aspect_ratio or ""
    metadata = (await ctx.manifest()).get("metadata") or {}
    return str(metadata.get("aspectRatio") or "16:9")


def _accepted(step: Step, output: dict[str, Any]) -> list[Any]:
    """The images that the model's own safety check let pass: it returns the others black, with status 200."""
    images = output.get("images")
    if not isinstance(images, list) or not images:
        raise unusable(step.provider, f"{step.endpoint} gave no image")
    flags = output.get("has_nsfw_concepts") or []
    passed = [image for n, image in enumerate(images) if not (n < len(flags) and flags[n])]
    if not passed:
        raise ProviderError(
            f"{step.endpoint} flagged the image as not safe for work",
            provider=step.provider,
            error_class=ErrorClass.CONTENT_REJECTED,
            code="has_nsfw_concepts",
            try_next=True,
        )
    return passed


def _nearest_aspect(size: ImageSize) -> str:
    choices = ("21:9", "16:9", "3:2", "4:3", "1:1", "3:4", "2:3", "9:16")
    wanted = size.width / size.height

    def distance(aspect: str) -> float:
        width, height = aspect.split(":")
        ratio = int(width) / int(height)
        return max(ratio, wanted) / min(ratio, wanted)

    return min(choices, key=distance)


def _grown(width: int, height: int) -> dict[str, int]:
    """The size, enlarged in proportion to the smallest that Seedream takes, in even pixels."""
    factor = (SEEDREAM_MIN_PIXELS / (width * height)) ** 0.5
    return {"width": -(-int(width * factor + 2) // 2) * 2, "height": -(-int(height * factor + 2) // 2) * 2}


def _snake(name: str) -> str:
    return "".join("_" + char.lower() if char.isupper() else char for char in name)
