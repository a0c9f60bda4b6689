"""The sandbox's renderer, over HTTP and with real media: what was asked for is seen in the file."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.sandbox.conftest import (
    BLACK,
    BLUE,
    FPS,
    GREEN,
    HEIGHT,
    RED,
    SINE,
    WIDTH,
    Studio,
    level,
    like,
    mean,
)


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
