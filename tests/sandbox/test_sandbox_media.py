"""What the sandbox's fal models make: pictures, clips, talking faces."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.images import paint_layers
from dreamcuts.sandbox.portrait import person
from dreamcuts.sandbox.speech import Line, speak

pytestmark = pytest.mark.anyio
PORTRAIT = {"prompt": "portrait of a woman, studio", "image_size": "landscape_16_9", "seed": 4}


@pytest.fixture
def spoken(sandbox: Sandbox) -> Any:
    """Makes a WAV file of a text and gives its URL and length in seconds."""

    async def speak_into_file(text: str) -> tuple[str, float]:
        import wave

        speech = await speak(Line(text, "anna"))
        path = sandbox.state.files / "voice.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(speech.sample_rate)
            file.writeframes(speech.pcm)
        return f"{sandbox.url}/files/voice.wav", speech.duration

    return speak_into_file


@pytest.mark.parametrize(
    ("endpoint", "arguments", "size", "codec"),
    [
        ("fal-ai/flux/srpo", {"image_size": "portrait_16_9"}, (576, 1024), "mjpeg"),
        (
            "fal-ai/flux/srpo",
            {"image_size": {"width": 320, "height": 200}, "output_format": "png"},
            (320, 200),
            "png",
        ),
        ("fal-ai/nano-banana", {"aspect_ratio": "16:9"}, (1344, 768), "png"),
    ],
)
async def test_pictures_have_the_size_and_type_asked_for(
    fal: Any, look: Any, endpoint: str, arguments: dict[str, Any], size: tuple[int, int], codec: str
) -> None:
    output = await fal.run(endpoint, {"prompt": "a quiet lake", **arguments})
    [picture] = output["images"]
    _, info = await look(picture["url"])
    assert (info.width, info.height) == size == (picture["width"], picture["height"])
    assert info.video_codec == codec


async def test_pictures_follow_prompt_and_seed(fal: Any, look: Any) -> None:
    async def paint(prompt: str, seed: int) -> bytes:
        arguments = {"prompt": prompt, "seed": seed, "image_size": "square"}
        output = await fal.run("fal-ai/flux/srpo", arguments)
        path, _ = await look(output["images"][0]["url"])
        return bytes(path.read_bytes())

    assert await paint("mountains", 1) == await paint("mountains", 1)
    assert await paint("mountains", 1) != await paint("mountains", 2)
    assert await paint("mountains", 1) != await paint("a city at night", 1)


@pytest.mark.parametrize(
    "prompt",
    ["mountains", "city at night", "sea at sunset", "office desk", "galaxy", "data growth", "desert dunes"],
)
def test_every_scene_is_a_full_picture(prompt: str) -> None:
    picture = paint_layers(prompt, 3, 320, 180, travel=20).flat()
    assert picture.size == (340, 180)
    assert sum(ImageStat.Stat(picture).stddev) > 45, "more than an even colour"


async def test_professional_photo_uses_its_source(fal: Any, look: Any) -> None:
    source = (await fal.run("fal-ai/flux/srpo", PORTRAIT))["images"][0]["url"]
    output = await fal.run("fal-ai/image-editing/professional-photo", {"image_url": source})
    before, _ = await look(source)
    after, info = await look(output["images"][0]["url"], "after")
    assert (info.width, info.height) == (1024, 576)
    with Image.open(before) as one, Image.open(after) as two:
        difference = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), two.convert("RGB"))).mean
    assert 1 < sum(difference) / 3 < 60, "changed, but the same picture"


async def test_veo_makes_a_moving_clip_with_sound(fal: Any, look: Any, frame: Any, sandbox: Sandbox) -> None:
    output = await fal.run("fal-ai/veo3/fast", {"prompt": "city at night", "duration": "4s"})
    path, info = await look(output["video"]["url"])
    assert (info.width, info.height, info.fps, info.video_codec, info.audio_codec) == (
        1280,
        720,
        24,
        "h264",
        "aac",
    )
    assert info.duration == pytest.approx(4.0, abs=0.05)
    first, second = await frame(path, 0.2), await frame(path, 3.2)
    assert sum(ImageStat.Stat(ImageChops.difference(first, second)).mean) > 3
    # The camera travels 24 pixels a second: shifted by that, the sky is the same again.
    moved = ImageChops.difference(first.crop((172, 20, 672, 220)), second.crop((100, 20, 600, 220)))
    still = ImageChops.difference(first.crop((172, 20, 672, 220)), second.crop((172, 20, 672, 220)))
    assert sum(ImageStat.Stat(moved).mean) < sum(ImageStat.Stat(still).mean)
    [bill] = sandbox.bills()
    assert (bill.units, bill.usd) == (4.0, pytest.approx(0.6))


async def test_silent_portrait_clip(fal: Any, look: Any) -> None:
    arguments = {"prompt": "forest", "duration": "4s", "aspect_ratio": "9:16", "generate_audio": False}
    _, info = await look((await fal.run("fal-ai/veo3.1/fast", arguments))["video"]["url"])
    assert (info.width, info.height, info.has_audio) == (720, 1280, False)


async def test_wan_films_the_given_picture(fal: Any, look: Any, frame: Any, sandbox: Sandbox) -> None:
    Image.new("RGB", (640, 360), (200, 30, 30)).save(sandbox.state.files / "red.png")
    arguments = {
        "prompt": "p",
        "image_url": f"{sandbox.url}/files/red.png",
        "num_frames": 90,
        "resolution": "480p",
    }
    path, info = await look((await fal.run("fal-ai/wan-i2v", arguments))["video"]["url"])
    assert (info.height, info.fps) == (480, 16)
    assert info.duration == pytest.approx(90 / 16, abs=0.07)
    red, green, blue = ImageStat.Stat(await frame(path, 2)).mean
    assert red > 170 and green < 60 and blue < 60


@pytest.mark.parametrize("endpoint", ["veed/fabric-1.0", "fal-ai/infinitalk"])
async def test_a_painted_face_speaks(fal: Any, look: Any, frame: Any, spoken: Any, endpoint: str) -> None:
    face = (await fal.run("fal-ai/flux/srpo", PORTRAIT))["images"][0]["url"]
    audio, seconds = await spoken("Hello, I am the voice of this small film.")
    arguments = {"image_url": face, "audio_url": audio, "resolution": "480p", "prompt": "p"}
    path, info = await look((await fal.run(endpoint, arguments))["video"]["url"])
    assert info.duration == pytest.approx(seconds, abs=0.1)
    assert info.audio_codec == "aac" and info.video_codec == "h264"
    await _mouth_moves(path, frame, seconds)


async def _mouth_moves(path: Any, frame: Any, seconds: float) -> None:
    mouth = person(str(PORTRAIT["prompt"]), 4, 1024, 576, 0).mouth
    assert mouth is not None
    frames = [await frame(path, round(seconds * share, 2)) for share in (0.15, 0.3, 0.45, 0.6, 0.75)]
    width, height = frames[0].size
    half = mouth.width * width / 2
    box = (mouth.x * width - half, mouth.y * height - half, mouth.x * width + half, mouth.y * height + half)
    mouths = [picture.crop(tuple(map(round, box))) for picture in frames]
    elsewhere = [picture.crop((0, 0, width // 4, height)) for picture in frames]
    assert _change(mouths) > 4
    assert _change(elsewhere) < 1.5, "only the mouth moves"


def _change(pictures: list[Image.Image]) -> float:
    first, *others = pictures
    return max(sum(ImageStat.Stat(ImageChops.difference(first, other)).mean) / 3 for other in others)


@pytest.mark.parametrize("endpoint", ["veed/lipsync", "fal-ai/sync-lipsync/v2", "creatify/lipsync"])
async def test_lipsync_is_as_long_as_the_audio(
    fal: Any, look: Any, spoken: Any, sandbox: Sandbox, endpoint: str
) -> None:
    """The video is shorter than the speech: it repeats. Its size is kept."""
    clip = (await fal.run("fal-ai/veo3/fast", {"prompt": "sea", "duration": "4s"}))["video"]["url"]
    audio, seconds = await spoken(
        "This sentence goes on for longer than the four seconds of the clip behind it, I say."
    )
    assert seconds > 4.2
    sandbox.billing.clear()
    output = await fal.run(endpoint, {"video_url": clip, "audio_url": audio})
    _, info = await look(output["video"]["url"])
    assert (info.width, info.height) == (1280, 720)
    assert info.duration == pytest.approx(seconds, abs=0.1)
    [bill] = sandbox.bills("fal")
    assert bill.unit == "minute" and bill.units == pytest.approx(seconds / 60, abs=0.01)


async def test_the_mouth_is_found_again_in_a_clip_of_the_picture(
    fal: Any, look: Any, frame: Any, spoken: Any
) -> None:
    """Picture, film of it, lip sync of that: the place of the mouth travels along with the camera."""
    face = (await fal.run("fal-ai/flux/srpo", PORTRAIT))["images"][0]["url"]
    clip = (await fal.run("fal-ai/wan-i2v", {"prompt": "p", "image_url": face, "resolution": "480p"}))[
        "video"
    ]["url"]
    audio, _ = await spoken("Hello, I am the voice of this small film.")
    output = await fal.run("veed/lipsync", {"video_url": clip, "audio_url": audio})
    talking, _ = await look(output["video"]["url"], "talking")
    silent, _ = await look(clip, "silent")
    places = []
    for moment in (0.5, 0.9, 1.3, 1.7, 2.1):
        changed = ImageChops.difference(await frame(talking, moment), await frame(silent, moment)).convert(
            "L"
        )
        box = changed.point([0] * 60 + [255] * 196).getbbox()
        if box:
            left, top, right, bottom = box
            assert right - left < 140 and bottom - top < 140, "nothing but the mouth differs"
            places.append((left + right) / 2 + 16 * moment)
    assert len(places) >= 3, "the mouth is open at most of these moments"
    assert max(places) - min(places) < 12, "it moves with the face, 16 pixels a second to the left"
