"""The sandbox's renderer, over HTTP and with real media: what was asked for is seen and heard in the file."""

from __future__ import annotations

import array
import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.ffmpeg import MediaInfo, probe, run_ffmpeg

WIDTH, HEIGHT, FPS = 320, 180, 25
RED, GREEN, BLUE, WHITE, BLACK = (200, 30, 30), (30, 160, 60), (40, 60, 200), (255, 255, 255), (0, 0, 0)
RATE = 8000


class Studio:
    """A sandbox with media to compose, and means to look at what comes out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.files = sandbox.state.files
        for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            Image.new("RGB", (400, 300), colour).save(self.files / f"{name}.png")
        halves = Image.new("RGB", (400, 225), RED)
        halves.paste(BLUE, (200, 0, 400, 225))
        halves.save(self.files / "halves.jpg", quality=95)
        Image.new("RGBA", (64, 64), (*GREEN, 128)).save(self.files / "glass.png")
        asyncio.run(self._record())

    async def _record(self) -> None:
        # Red for a second, then blue for a second, with a tone of 500 Hz.
        await run_ffmpeg(
            *("-f", "lavfi", "-i", "color=0xc81e1e:s=320x180:r=24:d=1"),
            *("-f", "lavfi", "-i", "color=0x283cc8:s=320x180:r=24:d=1"),
            *("-f", "lavfi", "-i", "sine=f=500:d=2:r=44100"),
            *("-filter_complex", "[0][1]concat=n=2:v=1[v]", "-map", "[v]", "-map", "2:a"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", str(self.files / "clip.mp4")),
        )
        for hertz in (400, 1000):
            await run_ffmpeg(
                "-f", "lavfi", "-i", f"sine=f={hertz}:d=3:r=44100", str(self.files / f"{hertz}.wav")
            )

    def url(self, name: str) -> str:
        return f"{self.sandbox.url}/files/{name}"

    def image(self, name: str, start: float = 0.0, length: Any = 2.0, **clip: Any) -> dict[str, Any]:
        return {"asset": {"type": "image", "src": self.url(name)}, "start": start, "length": length, **clip}

    def video(self, start: float = 0.0, length: Any = 2.0, asset: Any = None, **clip: Any) -> dict[str, Any]:
        source = {"type": "video", "src": self.url("clip.mp4"), **(asset or {})}
        return {"asset": source, "start": start, "length": length, **clip}

    def tone(self, hertz: int, start: float, length: Any, **asset: Any) -> dict[str, Any]:
        source = {"type": "audio", "src": self.url(f"{hertz}.wav"), **asset}
        return {"asset": source, "start": start, "length": length}

    def edit(self, *tracks: list[dict[str, Any]], timeline: Any = None, **output: Any) -> dict[str, Any]:
        size = {"size": {"width": WIDTH, "height": HEIGHT}, "fps": FPS}
        return {
            "timeline": {"tracks": [{"clips": clips} for clips in tracks], **(timeline or {})},
            "output": {"format": "mp4", **({} if "resolution" in output else size), **output},
        }

    def submit(self, edit: dict[str, Any]) -> httpx.Response:
        key = {"x-api-key": self.sandbox.state.keys.shotstack}
        return httpx.post(f"{self.sandbox.url}/shotstack/edit/v1/render", json=edit, headers=key)

    def finish(self, edit: dict[str, Any]) -> dict[str, Any]:
        """Submit an edit and wait for its end; returns the status answer."""
        created = self.submit(edit)
        assert created.status_code == 201, created.text
        url = f"{self.sandbox.url}/shotstack/edit/v1/render/{created.json()['response']['id']}?data=false"
        key = {"x-api-key": self.sandbox.state.keys.shotstack}
        deadline = time.monotonic() + 60
        while True:
            answer: dict[str, Any] = httpx.get(url, headers=key).json()["response"]
            if answer["status"] in ("done", "failed"):
                return answer
            assert time.monotonic() < deadline, f"the render is still {answer['status']}"
            time.sleep(0.3)  # polls count in the rate window

    def render(self, edit: dict[str, Any]) -> Film:
        answer = self.finish(edit)
        assert answer["status"] == "done", answer["error"]
        return Film(self.files / answer["url"].rpartition("/")[2], answer)


class Film:
    """A rendered file and what can be seen and heard in it."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self.path, self.answer = path, answer

    def info(self) -> MediaInfo:
        return asyncio.run(probe(self.path))

    def frame(self, seconds: float) -> Image.Image:
        """The frame shown at a time."""
        number = math.floor(seconds * FPS + 1e-6)
        pick = f"select=eq(n\\,{number})"
        raw = asyncio.run(
            run_ffmpeg(
                *("-i", str(self.path), "-vf", pick, "-frames:v", "1"),
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
            )
        )
        assert len(raw) == WIDTH * HEIGHT * 3, f"no frame at {seconds} s"
        return Image.frombytes("RGB", (WIDTH, HEIGHT), raw)

    def frames(self) -> int:
        raw = asyncio.run(
            run_ffmpeg("-i", str(self.path), "-vf", "scale=2:2", "-f", "rawvideo", "-pix_fmt", "gray", "-")
        )
        return len(raw) // 4

    def sound(self) -> array.array[int]:
        raw = asyncio.run(run_ffmpeg("-i", str(self.path), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-"))
        return array.array("h", raw)


def mean(picture: Image.Image, box: tuple[int, int, int, int] | None = None) -> tuple[float, float, float]:
    part = picture.crop(box) if box else picture
    pixels = part.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(pixels, tuple)
    return pixels[0], pixels[1], pixels[2]


def like(colour: tuple[float, ...], tolerance: float = 9) -> Any:
    return pytest.approx(colour, abs=tolerance)


def level(sound: array.array[int], hertz: float, begin: float, end: float) -> float:
    """The amplitude, 0 to 1, of a tone in a stretch of sound (Goertzel's algorithm)."""
    part = sound[round(begin * RATE) : round(end * RATE)]
    turn = 2 * math.cos(2 * math.pi * hertz / RATE)
    before = last = 0.0
    for sample in part:
        before, last = last, sample + turn * last - before
    power = last * last + before * before - turn * last * before
    return 2 * math.sqrt(max(0.0, power)) / len(part) / 32768


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with Sandbox.running(folder=tmp_path_factory.mktemp("studio")) as sandbox:
        yield Studio(sandbox)


SINE = 1 / 8
"""The amplitude of ffmpeg's sine source."""


def test_clips_follow_each_other_frame_by_frame(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.image("red.png", 0, 1.2), studio.image("blue.png", 1.2, 0.8)]))
    info = film.info()
    assert (info.video_codec, info.audio_codec, info.channels) == ("h264", "aac", 2)
    assert (info.width, info.height, info.fps) == (WIDTH, HEIGHT, FPS)
    assert info.duration == pytest.approx(2.0, abs=0.04) and film.frames() == 50
    assert film.answer["duration"] == 2.0
    assert mean(film.frame(1.16)) == like(RED)
    assert mean(film.frame(1.2)) == like(BLUE)
    assert film.path.read_bytes().index(b"moov") < film.path.read_bytes().index(b"mdat"), "no fast start"


def test_gaps_show_the_background(studio: Studio) -> None:
    edit = studio.edit(
        [studio.image("red.png", 0.4, 0.4), studio.image("blue.png", 1.2, 0.4)],
        timeline={"background": "#1ea03c"},
    )
    film = studio.render(edit)
    seen = [mean(film.frame(t)) for t in (0.0, 0.4, 0.8, 1.2)]
    assert seen == [like((30, 160, 60)), like(RED), like((30, 160, 60)), like(BLUE)]


def test_auto_end_and_alias_settle_the_times(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("green.png", "alias://talk", "alias://talk", scale=0.2, position="topLeft")],
            [studio.image("red.png", 0, 0.6), studio.video("auto", "auto", alias="talk")],
            [studio.image("blue.png", 0, "end")],
        )
    )
    assert film.info().duration == pytest.approx(2.6, abs=0.1)
    assert mean(film.frame(0.56), (0, 0, 60, 30)) == like(RED)
    assert mean(film.frame(0.64), (0, 0, 60, 30)) == like(GREEN)


def test_a_video_is_trimmed_and_sped_up(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.video(0, 1, {"trim": 0.5}), studio.video(1, 1, {"speed": 2.0}), studio.video(2, 2)]
        )
    )
    # Trimmed, the change from red to blue comes after 0.5 s; at double speed as well; else after 1 s.
    for change in (0.5, 1.5, 3.0):
        assert mean(film.frame(change - 0.08)) == like(RED)
        assert mean(film.frame(change + 0.08)) == like(BLUE)


def test_the_last_frame_of_a_short_video_stands(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.video(0, 7)]))
    assert film.frames() == 7 * FPS
    assert [mean(film.frame(t)) for t in (0.5, 1.5, 3.0, 5.0, 6.9)] == [like(RED), *[like(BLUE)] * 4]


def test_the_first_track_is_on_top_and_the_later_clip_of_a_track(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("green.png", 0, 1, scale=0.5)],
            [studio.image("red.png", 0, 2), studio.image("blue.png", 0.5, 1)],
        )
    )
    middle, corner = (140, 80, 180, 100), (0, 0, 40, 20)
    assert (mean(film.frame(0.2), middle), mean(film.frame(0.2), corner)) == (like(GREEN), like(RED))
    assert (mean(film.frame(0.7), middle), mean(film.frame(0.7), corner)) == (like(GREEN), like(BLUE))
    assert mean(film.frame(1.2)) == like(BLUE)
    assert mean(film.frame(1.8)) == like(RED)


@pytest.mark.parametrize(
    ("fit", "side", "above"),
    [("crop", RED, RED), ("cover", RED, RED), ("contain", BLACK, RED), ("none", RED, RED)],
)
def test_fits(studio: Studio, fit: str, side: Any, above: Any) -> None:
    # 400x300 into 320x180: contain leaves 40 pixels free on either side.
    film = studio.render(studio.edit([studio.image("red.png", 0, 0.2, fit=fit)]))
    frame = film.frame(0.04)
    assert mean(frame, (0, 0, 36, HEIGHT)) == like(side)
    assert mean(frame, (100, 0, 200, 20)) == like(above)


def test_position_offset_scale_and_opacity(studio: Studio) -> None:
    clips = [
        [studio.image("green.png", 0, 0.2, scale=0.25, position="bottomRight")],
        [studio.image("red.png", 0, 0.2, scale=0.25, position="center", offset={"x": -0.25, "y": 0.25})],
        [studio.image("blue.png", 0, 0.2, opacity=0.5)],
    ]
    frame = studio.render(studio.edit(*clips)).frame(0.04)
    assert mean(frame, (244, 139, 318, 178)) == like(GREEN)
    assert mean(frame, (44, 26, 116, 64)) == like(RED)
    assert mean(frame, (150, 100, 200, 130)) == like(tuple(part / 2 for part in BLUE))


def test_transparency_of_a_picture_is_kept(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.image("glass.png", 0, 0.2)], [studio.image("red.png", 0, 0.2)]))
    expected = tuple((over + under) / 2 for over, under in zip(GREEN, RED, strict=True))
    assert mean(film.frame(0.04)) == like(expected)


def test_fades_in_and_out(studio: Studio) -> None:
    film = studio.render(
        studio.edit([studio.image("red.png", 0, 3, transition={"in": "fade", "out": "fadeFast"})])
    )
    reds = [mean(film.frame(t))[0] for t in (0.0, 0.5, 1.2, 2.4, 2.76, 2.96)]
    assert reds == [like(0), like(100, 12), like(200), like(200), like(100, 16), like(24, 14)]


def test_a_fade_over_another_clip_blends_the_two(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("red.png", 0, 2, transition={"in": "fade"})], [studio.image("blue.png", 0, 2)]
        )
    )
    half = tuple((one + other) / 2 for one, other in zip(RED, BLUE, strict=True))
    assert [mean(film.frame(t)) for t in (0.0, 0.5, 1.1)] == [like(BLUE), like(half, 12), like(RED)]


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("wipeLeft", (240, 40, 316, 140), (4, 40, 80, 140)),
        ("wipeRight", (4, 40, 80, 140), (240, 40, 316, 140)),
        ("carouselLeftSlow", (240, 40, 316, 140), (4, 40, 80, 140)),
        ("carouselDownSlow", (40, 4, 280, 50), (40, 130, 280, 176)),
    ],
)
def test_wipes_and_carousels_come_from_their_side(studio: Studio, name: str, shown: Any, hidden: Any) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("red.png", 0, 3, transition={"in": name})], [studio.image("blue.png", 0, 3)]
        )
    )
    half = film.frame(1.0 if name.endswith("Slow") else 0.5)
    assert (mean(half, shown), mean(half, hidden)) == (like(RED), like(BLUE))
    assert mean(film.frame(2.2)) == like(RED)


def test_a_wipe_out_uncovers_what_is_beneath(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("red.png", 0, 2, transition={"out": "wipeLeft"})], [studio.image("blue.png", 0, 2)]
        )
    )
    half = film.frame(1.5)
    assert (mean(half, (4, 0, 100, 180)), mean(half, (220, 0, 316, 180))) == (like(RED), like(BLUE))


def test_zoom_in_grows_from_the_middle(studio: Studio) -> None:
    quarter = Image.new("RGB", (640, 360), RED)
    quarter.paste(BLUE, (240, 135, 400, 225))
    quarter.save(studio.files / "target.png")
    film = studio.render(studio.edit([studio.image("target.png", 0, 6, effect="zoomInFast")]))
    widths = [blue_width(film.frame(t)) for t in (0.0, 3.0, 5.96)]
    assert widths[0] == pytest.approx(80, abs=2)
    assert widths[1] == pytest.approx(80 * 1.35, abs=3)
    assert widths[2] == pytest.approx(80 * 1.7, abs=3)
    steps = [blue_width(film.frame(t)) for t in (3.92, 3.96, 4.0, 4.04, 4.08)]
    assert steps == sorted(steps) and steps[-1] - steps[0] <= 4, "the zoom jumps where segments meet"


def test_a_pan_moves_the_picture_to_its_side(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.image("halves.jpg", 0, 2, effect="slideLeft")]))
    edges = [WIDTH - blue_width(film.frame(t)) for t in (0.0, 1.0, 1.96)]
    # The window is 1/1.24 of the picture and passes from its left edge to its right.
    assert edges == [like(198, 3), like(160, 3), like(122, 3)]


def blue_width(frame: Image.Image) -> int:
    row = frame.crop((0, 90, WIDTH, 91))
    return sum(1 for x in range(WIDTH) if (pixel := row.getpixel((x, 0))) and pixel[2] > pixel[0])


def test_sounds_are_where_they_belong_at_their_volumes(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("red.png", 0, 4)],
            [studio.tone(400, 0.5, 1.0)],
            [studio.tone(1000, 2.0, "auto", volume=0.5, trim=1.5)],
        )
    )
    sound = film.sound()
    assert len(sound) / RATE == pytest.approx(4.0, abs=0.03)
    assert level(sound, 400, 0.0, 0.45) < 0.002
    assert level(sound, 400, 0.55, 1.45) == pytest.approx(SINE, rel=0.05)
    assert level(sound, 400, 1.55, 4.0) < 0.002
    assert level(sound, 1000, 0.55, 1.95) < 0.002
    assert level(sound, 1000, 2.05, 3.45) == pytest.approx(SINE / 2, rel=0.05)
    assert level(sound, 1000, 3.55, 4.0) < 0.002


def test_a_mix_keeps_every_level(studio: Studio) -> None:
    tracks = [[studio.tone(400, 0, 1, volume=volume)] for volume in (0.5, 0.25, 0.25)]
    film = studio.render(studio.edit(*tracks, [studio.tone(1000, 0, 1)], [studio.video(0, 1)]))
    sound = film.sound()
    for hertz in (400, 1000, 500):
        assert level(sound, hertz, 0.1, 0.9) == pytest.approx(SINE, rel=0.05)


def test_audio_effects_fade(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.tone(400, 0, 3, effect="fadeInFadeOut")]))
    levels = [level(film.sound(), 400, t - 0.05, t + 0.05) for t in (0.1, 0.75, 1.5, 2.25, 2.9)]
    assert levels == [pytest.approx(SINE * part, abs=0.012) for part in (0.067, 0.5, 1.0, 0.5, 0.067)]


def test_volume_tweens_and_a_videos_muted_sound(studio: Studio) -> None:
    ramp = [{"from": 0, "to": 1, "start": 1, "length": 1}]
    film = studio.render(
        studio.edit([studio.video(0, 2, {"volume": 0})], [studio.tone(400, 0, 3, volume=ramp)])
    )
    sound = film.sound()
    assert level(sound, 500, 0.1, 1.9) < 0.002
    assert level(sound, 400, 1.45, 1.55) == pytest.approx(SINE / 2, rel=0.1)
    assert level(sound, 400, 2.1, 2.9) == pytest.approx(SINE, rel=0.05)


def test_the_soundtrack_plays_under_all_and_mute_silences(studio: Studio) -> None:
    timeline = {"soundtrack": {"src": studio.url("400.wav"), "volume": 0.5}}
    film = studio.render(studio.edit([studio.image("red.png", 0, 2)], timeline=timeline))
    assert level(film.sound(), 400, 0.1, 1.9) == pytest.approx(SINE / 2, rel=0.05)
    muted = studio.render(studio.edit([studio.image("red.png", 0, 1)], timeline=timeline, mute=True))
    assert max(map(abs, muted.sound()), default=0) <= 2


SRT = "1\n00:00:00,400 --> 00:00:01,000\nHello\n\n2\n00:00:01,200 --> 00:00:01,600\nWorld again\n"


def captioned(studio: Studio, asset: dict[str, Any], **clip: Any) -> Film:
    (studio.files / "words.srt").write_text(SRT)
    source = {"type": "caption", "src": studio.url("words.srt"), **asset}
    return studio.render(
        studio.edit(
            [{"asset": source, "start": 0, "length": "end", **clip}], [studio.image("blue.png", 0, 2)]
        )
    )


def ink(frame: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Where a frame has about this colour."""
    found = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            pixel = frame.getpixel((x, y))
            assert isinstance(pixel, tuple)
            if max(abs(one - other) for one, other in zip(pixel, colour, strict=True)) < 40:
                found.append((x, y))
    return found


def test_captions_show_in_their_time_and_style(studio: Studio) -> None:
    film = captioned(
        studio,
        {
            "font": {"family": "Montserrat ExtraBold", "size": 24, "color": "#ffff00"},
            "background": {"color": "#000000", "opacity": 1, "padding": 8, "borderRadius": 4},
            "margin": {"top": 0.7},
        },
    )
    counts = {t: len(ink(film.frame(t), (255, 255, 0))) for t in (0.36, 0.4, 0.96, 1.0, 1.16, 1.2, 1.56, 1.6)}
    assert all(
        (counts[t] > 100) == shown for t, shown in zip(counts, [0, 1, 1, 0, 0, 1, 1, 0], strict=True)
    ), counts
    box = ink(film.frame(0.6), BLACK)
    left, right = min(x for x, _ in box), max(x for x, _ in box)
    top, bottom = min(y for _, y in box), max(y for _, y in box)
    assert top == pytest.approx(0.7 * HEIGHT, abs=2)
    assert bottom - top == pytest.approx(24 * 1.2 + 16, abs=3)
    assert (left + right) / 2 == pytest.approx(WIDTH / 2, abs=2)
    assert right - left < WIDTH / 2


def test_a_half_opaque_caption_box_lets_the_picture_through(studio: Studio) -> None:
    film = captioned(
        studio, {"background": {"color": "#000000", "opacity": 0.5, "padding": 20}, "font": {"size": 10}}
    )
    y = round(HEIGHT * 0.92)
    assert mean(film.frame(0.6), (150, y - 12, 170, y - 4)) == like(tuple(part / 2 for part in BLUE))


def test_captions_never_leave_the_frame(studio: Studio) -> None:
    film = captioned(studio, {"font": {"size": 40, "color": "#ffff00"}, "margin": {"top": 1.0}})
    assert max(y for _, y in ink(film.frame(1.4), (255, 255, 0))) < HEIGHT - 2


def test_rich_captions_stand_in_their_box(studio: Studio) -> None:
    film = captioned(
        studio,
        {
            "type": "rich-caption",
            "font": {"family": "Montserrat", "weight": 800, "size": 20, "color": "#ffff00"},
            "animation": {"style": "highlight"},
        },
        width=200,
        height=40,
        fit="none",
        offset={"x": 0, "y": 0.3},
    )
    rows = [y for _, y in ink(film.frame(0.6), (255, 255, 0))]
    assert min(rows) > 0.2 * HEIGHT - 15 and max(rows) < 0.2 * HEIGHT + 15


def test_texts_and_titles_are_drawn(studio: Studio) -> None:
    text = {
        "type": "text",
        "text": "Top",
        "font": {"size": 30, "color": "#ffff00"},
        "background": {"color": "#000000"},
    }
    title = {"type": "title", "text": "Low", "color": "#ffff00", "size": "large", "position": "bottom"}
    film = studio.render(
        studio.edit(
            [{"asset": text, "start": 0, "length": 0.4, "position": "top"}],
            [{"asset": title, "start": 0, "length": 0.4}],
            [studio.image("blue.png", 0, 0.4)],
        )
    )
    rows = {y for _, y in ink(film.frame(0.2), (255, 255, 0))}
    assert min(rows) < 30 and max(rows) > HEIGHT - 30


@pytest.mark.parametrize(
    ("output", "codec"), [("jpg", "mjpeg"), ("png", "png"), ("bmp", "bmp"), ("gif", "gif")]
)
def test_picture_formats(studio: Studio, output: str, codec: str) -> None:
    film = studio.render(studio.edit([studio.image("red.png", 0, 0.4)], format=output))
    assert film.path.suffix == f".{output}"
    info = film.info()
    assert (info.video_codec, info.width, info.height) == (codec, WIDTH, HEIGHT)
    with Image.open(film.path) as picture:
        assert mean(picture.convert("RGB")) == like(RED, 14)


def test_mp3(studio: Studio) -> None:
    film = studio.render(studio.edit([studio.tone(400, 0, 2)], format="mp3"))
    info = film.info()
    assert info.audio_codec == "mp3" and not info.has_video and info.duration == pytest.approx(2, abs=0.1)


def test_range_poster_and_thumbnail(studio: Studio) -> None:
    edit = studio.edit(
        [studio.image("red.png", 0, 1), studio.image("blue.png", 1, 2)],
        [studio.tone(400, 1.0, 1.0)],
        range={"start": 0.8, "length": 1.0},
        poster={"capture": 0.5},
        thumbnail={"capture": 0, "scale": 0.5},
    )
    film = studio.render(edit)
    assert film.frames() == 25
    assert (mean(film.frame(0.16)), mean(film.frame(0.2))) == (like(RED), like(BLUE))
    assert level(film.sound(), 400, 0.0, 0.15) < 0.01
    assert level(film.sound(), 400, 0.25, 0.95) == pytest.approx(SINE, rel=0.05)
    with Image.open(studio.files / film.answer["poster"].rpartition("/")[2]) as poster:
        assert mean(poster.convert("RGB")) == like(BLUE, 14)
    with Image.open(studio.files / film.answer["thumbnail"].rpartition("/")[2]) as thumbnail:
        assert thumbnail.size == (WIDTH // 2, HEIGHT // 2)


@pytest.mark.parametrize(
    ("output", "size"),
    [
        ({"resolution": "preview"}, (512, 288)),
        ({"resolution": "mobile", "aspectRatio": "9:16"}, (360, 640)),
        ({"resolution": "mobile", "aspectRatio": "1:1"}, (360, 360)),
        ({"resolution": "mobile", "aspectRatio": "4:5"}, (288, 360)),
        ({"resolution": "mobile", "aspectRatio": "4:3"}, (480, 360)),
    ],
)
def test_resolutions_and_aspects(studio: Studio, output: dict[str, Any], size: tuple[int, int]) -> None:
    info = studio.render(studio.edit([studio.image("red.png", 0, 0.2)], **output)).info()
    assert (info.width, info.height) == size


def test_a_film_of_29_97_frames_keeps_time(studio: Studio) -> None:
    film = studio.render(
        studio.edit(
            [studio.image("red.png", 0, 5), studio.video(5, 2), studio.image("blue.png", 7, 3)], fps=29.97
        )
    )
    info = film.info()
    assert info.fps == pytest.approx(29.97, abs=0.01) and info.duration == pytest.approx(10, abs=0.05)
    assert film.frames() == 300
