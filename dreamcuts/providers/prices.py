"""What calls cost, in US dollars: for estimates before a call, and for the ledger after it.

Prices move; these were read in 2026. `certain` is false where no page of the provider says so. Where a
provider reports what it billed (fal's X-Fal-Billable-Units), that counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one `unit`: image, megapixel, video, second, minute, generation, 1000 characters, call."""

    usd: float
    unit: str
    source: str
    certain: bool = True


PRICES: dict[tuple[str, str], Price] = {
    ("elevenlabs", "text-to-dialogue"): Price(0.10, "1000 characters", "price guides, 2026", certain=False),
    ("elevenlabs", "text-to-speech"): Price(0.10, "1000 characters", "price guides, 2026", certain=False),
    ("elevenlabs", "music"): Price(0.30, "minute", "price guides, 2026", certain=False),
    ("elevenlabs", "music/plan"): Price(0.0, "call", "ElevenLabs SDK, composition_plan.create"),
    ("elevenlabs", "sound-generation"): Price(0.12, "generation", "price guides, 2026", certain=False),
    ("fal", "fal-ai/flux/srpo"): Price(0.025, "megapixel", "fal, FLUX.1 SRPO"),
    ("fal", "fal-ai/nano-banana"): Price(0.039, "image", "fal", certain=False),
    ("fal", "fal-ai/bytedance/seedream/v4/text-to-image"): Price(0.03, "image", "fal", certain=False),
    ("fal", "fal-ai/image-editing/professional-photo"): Price(0.04, "image", "fal", certain=False),
    ("fal", "fal-ai/veo3/fast"): Price(0.15, "second", "fal, Veo 3 Fast; with audio"),
    ("fal", "fal-ai/veo3.1/fast"): Price(0.15, "second", "fal, Veo 3 Fast; with audio"),
    ("fal", "fal-ai/wan-effects"): Price(0.35, "video", "model notes", certain=False),
    ("fal", "fal-ai/wan-i2v"): Price(0.40, "video", "fal, Wan-2.1 Image-to-Video; 720p"),
    ("fal", "fal-ai/infinitalk"): Price(0.20, "second", "fal, AI Avatar (its sibling)", certain=False),
    ("fal", "veed/fabric-1.0"): Price(0.15, "second", "fal; 720p", certain=False),
    ("fal", "veed/lipsync"): Price(0.40, "minute", "model notes", certain=False),
    ("fal", "veed/lipsync/v2"): Price(0.07, "second", "fal, VEED Lipsync v2"),
    ("fal", "fal-ai/sync-lipsync/v2"): Price(3.00, "minute", "fal, Sync Lipsync 2.0"),
    ("fal", "creatify/lipsync"): Price(1.00, "minute", "fal", certain=False),
    ("shotstack", "v1"): Price(
        0.30, "minute", "Shotstack FAQ: one credit a minute; a credit is 0.20 to 0.40"
    ),
    ("shotstack", "stage"): Price(0.0, "minute", "Shotstack FAQ: the sandbox uses no credits"),
}

VEO_SILENT_USD = 0.10
"""Veo 3 Fast per second without audio (fal, Veo 3 Fast)."""
WAN_480P_USD = 0.20
"""Wan 2.1 image to video at 480p (fal, Wan-2.1 Image-to-Video)."""
WAN_LONG_FACTOR = 1.25
"""The same above 81 frames."""


def price_of(provider: str, endpoint: str) -> Price | None:
    """The price of an endpoint; None for one that is not in the table."""
    return PRICES.get((provider, endpoint))


def priced_endpoints(provider: str) -> list[str]:
    """The endpoints of a provider that are in the table; none for a provider of a plugin."""
    return sorted(endpoint for name, endpoint in PRICES if name == provider)


def cost(
    provider: str,
    endpoint: str,
    *,
    seconds: float | None = None,
    images: int = 1,
    pixels: int | None = None,
    characters: int | None = None,
) -> float | None:
    """The cost of a call in US dollars from what it makes; None if the price or a quantity is not known.

    Megapixels are counted up to whole ones, which errs on the dear side.
    """
    price = price_of(provider, endpoint)
    if price is None:
        return None
    quantity: float | None
    match price.unit:
        case "second":
            quantity = seconds
        case "minute":
            quantity = None if seconds is None else seconds / 60
        case "1000 characters":
            quantity = None if characters is None else characters / 1000
        case "megapixel":
            quantity = None if pixels is None else images * math.ceil(pixels / 1_000_000)
        case "image":
            quantity = images
        case _:
            quantity = 1
    return None if quantity is None else round(quantity * price.usd, 6)


def billed(
    provider: str, endpoint: str, units: float | None, *, unit_usd: float | None = None
) -> float | None:
    """The cost of a call from the units that the provider says it billed; None if either is not known.

    `unit_usd` replaces the table's price, where the request's input changes it.
    """
    if unit_usd is None:
        price = price_of(provider, endpoint)
        unit_usd = price.usd if price else None
    return None if unit_usd is None or units is None else round(units * unit_usd, 6)
