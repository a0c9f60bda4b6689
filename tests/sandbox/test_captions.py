from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFont

from dreamcuts.sandbox.captions import Cue, TextLook, balance, draw_text, load_font, parse_captions, wrap


def test_srt_with_windows_line_ends_and_markup() -> None:
    text = (
        "\ufeff1\r\n00:00:01,500 --> 00:00:03,000\r\n<i>Hello</i> {\\an8}world\r\nagain\r\n\r\n"
        "2\r\n01:00:00,000 --> 01:00:01,000\r\nLate\r\n"
    )
    assert parse_captions(text) == [Cue(1.5, 3.0, "Hello world\nagain"), Cue(3600.0, 3601.0, "Late")]


def test_webvtt_with_notes_settings_and_voices() -> None:
    text = (
        "WEBVTT - title\n\nNOTE nothing\n\nSTYLE\n::cue {}\n\n"
        "intro\n00:01.000 --> 00:02.000 align:start line:0\n<v Ann>Tea &amp; cake</v>\n"
    )
    assert parse_captions(text) == [Cue(1.0, 2.0, "Tea & cake")]


def test_a_cue_ends_where_the_next_starts() -> None:
    text = "1\n00:00:00,000 --> 00:00:05,000\nOne\n\n2\n00:00:02,000 --> 00:00:03,000\nTwo\n"
    assert parse_captions(text) == [Cue(0.0, 2.0, "One"), Cue(2.0, 3.0, "Two")]


@pytest.mark.parametrize(
    "text", ["", "WEBVTT\n", "<html>404</html>", "1\n00:00:01,000 --> 00:00:01,000\nNo time\n"]
)
def test_a_file_without_cues_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no cues"):
        parse_captions(text)


def test_lines_fit_the_width_and_lose_no_word() -> None:
    font = load_font(TextLook(family="Montserrat ExtraBold", size=30))
    text = "Every great film starts with a question that nobody dared to ask before"
    for lines in (wrap(text, font, 300), balance(text, font, 300)):
        assert " ".join(lines) == text
        assert max(font.getlength(line) for line in lines) <= 300


def test_balanced_lines_leave_no_word_alone() -> None:
    font = load_font(TextLook(family="Montserrat ExtraBold", size=30))
    text = "Every film starts with a question too"
    width = font.getlength(text) - 1
    assert wrap(text, font, width)[-1] == "too"
    lines = balance(text, font, width)
    assert len(lines) == 2 and len(lines[1]) > len(lines[0]) * 0.6


def test_a_word_wider_than_the_room_is_broken() -> None:
    font = load_font(TextLook(size=30))
    lines = wrap("Donaudampfschifffahrtsgesellschaft", font, 120)
    assert len(lines) > 1 and "".join(lines) == "Donaudampfschifffahrtsgesellschaft"
    assert max(font.getlength(line) for line in lines) <= 120


def test_the_box_has_its_colour_opacity_and_round_corners() -> None:
    look = TextLook(
        size=40, color="#ffff00", background="#102030", background_opacity=0.5, padding=20, border_radius=16
    )
    picture = draw_text("Hi", look, 600)
    assert picture.getpixel((picture.width // 2, 5)) == (16, 32, 48, 128)
    assert picture.getpixel((0, 0)) == (0, 0, 0, 0)
    assert (255, 255, 0, 255) in colours(picture)


def test_without_background_only_ink_is_there() -> None:
    picture = draw_text("Hi", TextLook(size=40), 600)
    assert picture.getpixel((0, 0)) == (0, 0, 0, 0)
    assert (255, 255, 255, 255) in colours(picture)


def test_a_stroke_surrounds_the_ink() -> None:
    picture = draw_text("O", TextLook(size=60, stroke="#ff0000", stroke_width=3), 600)
    assert {(255, 255, 255, 255), (255, 0, 0, 255)} <= colours(picture)


def test_size_scales_the_text() -> None:
    small, large = (draw_text("Size", TextLook(size=size), 900) for size in (20, 80))
    assert large.height == pytest.approx(4 * small.height, rel=0.1)
    assert large.width == pytest.approx(4 * small.width, rel=0.15)


def test_weights_differ_and_unknown_families_fall_back() -> None:
    def width(family: str, weight: int | str | None = None) -> float:
        return load_font(TextLook(family=family, weight=weight, size=40)).getlength("DreamCuts")

    assert width("Montserrat ExtraBold") > width("Montserrat Light")
    assert width("Montserrat", 800) == width("Montserrat ExtraBold") == width("Montserrat", "extra bold")
    assert width("Papyrus Bold") == width("Montserrat") == width("Montserrat Regular")


def test_a_timelines_own_font_is_found_by_its_file_name(tmp_path: Path) -> None:
    import fontpkg

    own = tmp_path / "House.ttf"
    own.write_bytes(Path(fontpkg.path("Montserrat")).read_bytes())
    font = load_font(TextLook(family="House", weight=900, size=40, fonts={"House": own}))
    assert isinstance(font, ImageFont.FreeTypeFont) and font.path == str(own)
    assert font.getlength("Dream") > load_font(TextLook(family="House", size=40)).getlength("Dream")


def test_texts_are_transformed() -> None:
    upper = draw_text("dream", TextLook(size=40, transform="uppercase"), 900)
    assert upper.tobytes() == draw_text("DREAM", TextLook(size=40), 900).tobytes()


def colours(picture: Image.Image) -> set[object]:
    found = picture.getcolors(picture.width * picture.height)
    assert found is not None
    return {colour for _, colour in found}
