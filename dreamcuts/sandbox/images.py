"""Pictures from prompts: which scene to paint, and the file that comes out."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dreamcuts.sandbox import paint, portrait, scenes, stills
from dreamcuts.sandbox.layers import Layers, Scene
from dreamcuts.sandbox.state import Mouth

_SCENES: tuple[tuple[tuple[str, ...], Scene], ...] = (
    (portrait.WORDS, portrait.person),
    ((r"space\b", "galax", "planet", "cosmos", "astronaut", "rocket", "nebula"), stills.space),
    (
        ("desk", "office", "workspace", "laptop", "computer", "studio", "kitchen", r"rooms?\b", "notebook"),
        stills.desk,
    ),
    (
        ("city", "cities", "skyline", "urban", "street", "building", "downtown", "rooftop", "tower"),
        scenes.city,
    ),
    (("ocean", r"sea\b", "beach", "lake", "coast", "river", "harbo", "island", "sail", "boat"), scenes.sea),
    (("data", "network", "abstract", "digital", "graph", "chart", "algorithm", "growth"), stills.waves),
)
"""Which words of a prompt ask for which scene; the first that fits is painted, else hills."""


def paint_layers(prompt: str, seed: int, width: int, height: int, travel: int = 0) -> Layers:
    """The picture of a prompt as layers. `travel` widens them, in pixels, for a camera that moves along."""
    scene = next((scene for keys, scene in _SCENES if paint.mentions(prompt, keys)), scenes.hills)
    return scene(prompt, seed, width, height, travel)


def save(prompt: str, seed: int, width: int, height: int, path: Path) -> Mouth | None:
    """Paint a prompt into a JPEG, PNG or WebP file; returns where it shows a mouth."""
    layers = paint_layers(prompt, seed, width, height)
    picture = layers.flat()
    _write(paint.finish(picture, seed), path)
    return layers.mouth


def save_black(width: int, height: int, path: Path) -> None:
    """The black picture that fal returns in place of one that its safety checker flags."""
    _write(Image.new("RGB", (width, height)), path)


def retouch(source: Path, size: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    """The source picture with studio light: clearer, warmer, cropped to `size` if given. Returns its size."""
    with Image.open(source) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    picture.thumbnail((2048, 2048), Image.Resampling.LANCZOS)
    if size is not None:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    picture = ImageEnhance.Color(ImageEnhance.Contrast(picture).enhance(1.08)).enhance(1.1)
    paint.glow(
        picture, (picture.width * 0.3, picture.height * 0.2), picture.width * 0.6, (255, 236, 205), 0.22
    )
    _write(picture.filter(ImageFilter.UnsharpMask(2, 60, 2)), path)
    return picture.size


def _write(picture: Image.Image, path: Path) -> None:
    if path.suffix == ".png":
        picture.save(path, compress_level=3)
    else:
        picture.save(path, quality=90)
