"""The fal endpoints that the sandbox knows: what each takes and what it costs (fal model pages).

Unknown fields are ignored, as fal does. A field that does not validate is reported with the result, in the
list form of pydantic, because fal validates on the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
    "auto": (1024, 1024),
    "auto_2K": (2048, 2048),
    "auto_4K": (4096, 4096),
}
BANANA_SIZES = {
    "21:9": (1536, 672), "16:9": (1344, 768), "3:2": (1248, 832), "4:3": (1184, 864), "5:4": (1152, 896),
    "1:1": (1024, 1024), "4:5": (896, 1152), "3:4": (864, 1184), "2:3": (832, 1248), "9:16": (768, 1344),
    "9:21": (672, 1536),
}  # fmt: skip

Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
Prompt = Annotated[str, Field(min_length=1, max_length=8000)]
Seed = Annotated[int, Field(ge=0)] | None
Url = Annotated[str, Field(pattern=r"^https?://")]


class Size(BaseModel):
    width: int = Field(ge=64, le=4096)
    height: int = Field(ge=64, le=4096)


class FluxSrpo(BaseModel):
    prompt: Prompt
    image_size: Preset | Size = "landscape_4_3"
    num_inference_steps: int = Field(28, ge=1, le=50)
    guidance_scale: float = Field(4.5, ge=1, le=20)
    num_images: int = Field(1, ge=1, le=4)
    seed: Seed = None
    enable_safety_checker: bool = True
    output_format: Literal["jpeg", "png"] = "jpeg"
    acceleration: Literal["none", "regular", "high"] = "none"

    def size(self) -> tuple[int, int]:
        return _size(self.image_size)


class NanoBanana(BaseModel):
    prompt: Prompt
    aspect_ratio: Literal["21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16"] = "1:1"
    num_images: int = Field(1, ge=1, le=4)
    output_format: Literal["jpeg", "png", "webp"] = "png"
    safety_tolerance: Literal["1", "2", "3", "4", "5", "6"] = "4"
    limit_generations: bool = True
    seed: Seed = None

    def size(self) -> tuple[int, int]:
        return BANANA_SIZES[self.aspect_ratio]


class Seedream(BaseModel):
    prompt: Prompt
    image_size: Preset | Literal["auto", "auto_2K", "auto_4K"] | Size = "square_hd"
    num_images: int = Field(1, ge=1, le=6)
    max_images: int = Field(1, ge=1, le=6)
    seed: Seed = None
    enable_safety_checker: bool = True
    enhance_prompt_mode: Literal["standard", "fast"] = "standard"

    def size(self) -> tuple[int, int]:
        return _size(self.image_size)


class ProfessionalPhoto(BaseModel):
    image_url: Url
    guidance_scale: float = Field(3.5, ge=1, le=20)
    num_inference_steps: int = Field(30, ge=1, le=50)
    safety_tolerance: Literal["1", "2", "3", "4", "5", "6"] = "2"
    output_format: Literal["jpeg", "png"] = "jpeg"
    aspect_ratio: Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"] | None = None
    seed: Seed = None


class Veo(BaseModel):
    prompt: Prompt
    aspect_ratio: Literal["16:9", "9:16"] = "16:9"
    duration: Literal["4s", "6s", "8s"] = "8s"
    negative_prompt: str | None = None
    resolution: Literal["720p", "1080p"] = "720p"
    generate_audio: bool = True
    seed: Seed = None
    auto_fix: bool = True
    safety_tolerance: Literal["1", "2", "3", "4", "5", "6"] = "4"


class Veo31(Veo):
    resolution: Literal["720p", "1080p", "4k"] = "720p"  # type: ignore[assignment]


class VeoImage(Veo31):
    image_url: Url
    aspect_ratio: Literal["auto", "16:9", "9:16"] = "auto"  # type: ignore[assignment]


class WanEffects(BaseModel):
    image_url: Url
    subject: Annotated[str, Field(min_length=1)]
    effect_type: str = "cakeify"
    num_frames: int = Field(81, ge=81, le=100)
    frames_per_second: int = Field(16, ge=5, le=24)
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    num_inference_steps: int = Field(30, ge=2, le=40)
    lora_scale: float = Field(1.0, ge=0.1, le=2)
    turbo_mode: bool = False
    seed: Seed = None


class WanImageToVideo(BaseModel):
    prompt: Prompt
    image_url: Url
    negative_prompt: str | None = None
    num_frames: int = Field(81, ge=81, le=100)
    frames_per_second: int = Field(16, ge=5, le=24)
    resolution: Literal["480p", "720p"] = "720p"
    num_inference_steps: int = Field(30, ge=2, le=40)
    guide_scale: float = Field(5, ge=1, le=10)
    shift: float = Field(5, ge=1, le=10)
    aspect_ratio: Literal["auto", "16:9", "9:16", "1:1"] = "auto"
    acceleration: Literal["none", "regular"] = "regular"
    seed: Seed = None


class InfiniTalk(BaseModel):
    image_url: Url
    audio_url: Url
    prompt: Prompt
    num_frames: int = Field(145, ge=41, le=721)
    resolution: Literal["480p", "720p"] = "480p"
    seed: int = Field(42, ge=0)
    acceleration: Literal["none", "regular", "high"] = "regular"


class Fabric(BaseModel):
    image_url: Url
    audio_url: Url
    resolution: Literal["720p", "480p"]


class LipSync(BaseModel):
    video_url: Url
    audio_url: Url


class SyncLipSync(LipSync):
    model: Literal["lipsync-2", "lipsync-2-pro"] = "lipsync-2"
    sync_mode: Literal["cut_off", "loop", "bounce", "silence", "remap"] = "cut_off"


Kind = Literal["image", "retouch", "film", "animate", "talk", "lipsync"]


@dataclass(frozen=True, slots=True)
class Model:
    """An endpoint: its input, what it makes, and the unit that it bills in.

    `usd` is the price of a unit, or a function of the input that gives it.
    """

    endpoint: str
    input: type[BaseModel]
    kind: Kind
    unit: Literal["megapixel", "image", "second", "minute", "video"]
    usd: float | Callable[[Any], float]

    def price(self, given: Any, units: float) -> float:
        """What so many units cost in US dollars."""
        return units * (self.usd if isinstance(self.usd, int | float) else self.usd(given))


def _veo_price(given: Veo) -> float:
    return 0.15 if given.generate_audio else 0.10


def _wan_price(given: WanImageToVideo) -> float:
    return (0.40 if given.resolution == "720p" else 0.20) * (1.25 if given.num_frames > 81 else 1.0)


def _sync_price(given: SyncLipSync) -> float:
    return 3.0 * (1.67 if given.model == "lipsync-2-pro" else 1.0)


def _fabric_price(given: Fabric) -> float:
    return 0.15 if given.resolution == "720p" else 0.08


MODELS = {
    model.endpoint: model
    for model in (
        Model("fal-ai/flux/srpo", FluxSrpo, "image", "megapixel", 0.025),
        Model("fal-ai/nano-banana", NanoBanana, "image", "image", 0.039),
        Model("fal-ai/bytedance/seedream/v4/text-to-image", Seedream, "image", "image", 0.03),
        Model("fal-ai/image-editing/professional-photo", ProfessionalPhoto, "retouch", "image", 0.04),
        Model("fal-ai/veo3/fast", Veo, "film", "second", _veo_price),
        Model("fal-ai/veo3.1/fast", Veo31, "film", "second", _veo_price),
        Model("fal-ai/veo3.1/fast/image-to-video", VeoImage, "animate", "second", _veo_price),
        Model("fal-ai/wan-effects", WanEffects, "animate", "video", 0.35),
        Model("fal-ai/wan-i2v", WanImageToVideo, "animate", "video", _wan_price),
        Model("fal-ai/infinitalk", InfiniTalk, "talk", "second", 0.20),
        Model("veed/fabric-1.0", Fabric, "talk", "second", _fabric_price),
        Model("veed/lipsync", LipSync, "lipsync", "minute", 0.40),
        Model("veed/lipsync/v2", LipSync, "lipsync", "second", 0.07),
        Model("fal-ai/sync-lipsync/v2", SyncLipSync, "lipsync", "minute", _sync_price),
        Model("creatify/lipsync", LipSync, "lipsync", "minute", 1.00),
    )
}
"""By endpoint id. fal no longer lists veo3/fast and creatify/lipsync; the sandbox serves them still."""


def _size(given: str | Size) -> tuple[int, int]:
    return PRESETS[given] if isinstance(given, str) else (given.width, given.height)
