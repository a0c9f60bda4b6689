"""The sandbox's renderer: captions, texts and titles are where and when they were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.sandbox.conftest import BLACK, BLUE, HEIGHT, WIDTH, Film, Studio, like, mean

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
