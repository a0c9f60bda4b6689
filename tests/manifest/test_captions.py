from __future__ import annotations

import re
from typing import Any

import pytest
from builders import film, speech
from hypothesis import given
from hypothesis import strategies as st

from dreamcuts.manifest import Manifest
from dreamcuts.manifest.captions import COLUMNS, LEAST_S, LINES, Caption, build_captions, to_srt, width
from dreamcuts.manifest.narration import Narration, Word, place_narrations


def narration(text: str, seconds: float = 4.0, words: list[Word] | None = None, **more: Any) -> Narration:
    values: dict[str, Any] = {"start": 0.0, "length": seconds, "speed": 1.0} | more
    return Narration("s1", "https://e.x/a.mp3", text, tuple(words or ()), seconds, **values)


def evenly(text: str, step: float = 0.3) -> list[Word]:
    return [Word(word, n * step, (n + 1) * step) for n, word in enumerate(text.split())]


def shown(captions: list[Caption]) -> str:
    return " ".join(caption.text.replace("\n", " ") for caption in captions)


def test_words_are_shown_when_they_are_spoken() -> None:
    words = [
        Word("First", 0.2, 0.6),
        Word("sentence.", 0.6, 1.4),
        Word("Second", 2.5, 2.9),
        Word("one.", 2.9, 3.5),
    ]
    captions = build_captions([narration("", words=words, start=10.0)], 60)
    assert captions == [Caption(10.2, 11.4, "First sentence."), Caption(12.5, 13.5, "Second one.")]


def test_a_faster_narration_has_faster_captions() -> None:
    words = [Word("Hello", 1.0, 2.0)]
    captions = build_captions([narration("", 4.0, words, start=10.0, length=3.2, speed=1.25)], 60)
    assert captions == [Caption(10.8, 11.6, "Hello")]


def test_what_is_cut_from_a_narration_is_not_shown() -> None:
    captions = build_captions([narration("", 9.0, evenly("one two three four five", 1.0), length=2.5)], 60)
    assert shown(captions) == "one two three"
    assert captions[-1].end <= 2.5


@pytest.mark.parametrize(
    "words",
    [
        ["[excited]", "Hello", "there."],
        ["[very", "happy]", "Hello", "there."],
        ["[excited]Hello", "there.[laughs]"],
        ["Hello[a][b]", "there."],
    ],
)
def test_audio_tags_are_never_shown(words: list[str]) -> None:
    timed = [Word(word, n * 0.5, n * 0.5 + 0.4) for n, word in enumerate(words)]
    assert shown(build_captions([narration("", words=timed)], 60)) == "Hello there."
    assert shown(build_captions([narration(" ".join(words))], 60)).replace(" .", ".") == "Hello there."


def test_a_bracket_that_is_no_tag_stays() -> None:
    words = [Word("a[0", 0, 0.4), Word("is", 0.5, 0.8), Word("odd.", 0.8, 1.2)]
    assert shown(build_captions([narration("", words=words)], 60)) == "a[0 is odd."


def test_long_text_is_wrapped_in_two_balanced_lines() -> None:
    text = "The quick brown fox jumps over the lazy dog near the old mill"
    (caption,) = build_captions([narration(text)], 60)
    first, second = caption.text.split("\n")
    assert abs(len(first) - len(second)) <= 10
    assert caption.text.replace("\n", " ") == text


def test_text_without_times_is_spread_over_the_audio() -> None:
    captions = build_captions([narration("A first sentence is here. And a second one follows.", 6.0)], 60)
    assert [caption.text for caption in captions] == [
        "A first sentence is here.",
        "And a second one follows.",
    ]
    assert captions[0].start == 0
    assert captions[0].end == captions[1].start
    assert captions[1].end == pytest.approx(6.0)


def test_a_short_word_stays_long_enough_to_be_read() -> None:
    (caption,) = build_captions([narration("", words=[Word("Yes.", 1.0, 1.2)])], 60)
    assert caption.end - caption.start == pytest.approx(LEAST_S)


@pytest.mark.parametrize(
    "text",
    [
        "在太阳升起之前海边的一扇窗户已经亮了起来面包师正在为渔船准备第一批面包而整个港口都还在沉睡之中。",
        "ก่อนพระอาทิตย์ขึ้นหน้าต่างบานหนึ่งริมทะเลก็ส่องสว่างแล้วและคนทำขนมปังกำลังเตรียมขนมปังก้อนแรกสำหรับเรือประมง",
        "Прежде чем взойдёт солнце, одно окно у моря уже светится, и пахнет хлебом.",
        "قبل شروق الشمس، نافذة واحدة بجانب البحر مضيئة بالفعل، ورائحة الخبز في كل مكان.",
        "👩‍🍳" * 30,
    ],
)
def test_any_script_is_broken_to_fit_and_stays_whole(text: str) -> None:
    captions = build_captions([narration(text, 12.0)], 60)
    for caption in captions:
        assert len(caption.text.split("\n")) <= LINES
        assert all(width(line) <= COLUMNS for line in caption.text.split("\n"))
    assert re.sub(r"\s", "", "".join(caption.text for caption in captions)) == re.sub(r"\s", "", text)


def test_srt_is_numbered_and_timed_in_milliseconds() -> None:
    srt = to_srt([Caption(0.15, 1.5, "One\ntwo"), Caption(3661.0004, 3662.9999, "a --> b")])
    assert srt == ("1\n00:00:00,150 --> 00:00:01,500\nOne\ntwo\n\n2\n01:01:01,000 --> 01:01:03,000\na → b\n")


def test_words_that_make_no_sense_fall_back_to_the_text() -> None:
    manifest = Manifest.model_validate(film({}))
    for words in (
        "x",
        [{"text": "a"}],
        [{"text": "a", "start": 2, "end": 1}],
        [{"text": "a", "start": 2, "end": 3}, {"text": "b", "start": 1, "end": 3}],
    ):
        (placed,) = place_narrations(manifest, [speech("s1", 3.0, "Read me.", words=words)])
        assert placed.words == ()
        assert shown(build_captions([placed], 5.0)) == "Read me."


word_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z", "Mn", "Me", "Mc", "Cf")),
    min_size=1,
    max_size=60,
)


@given(
    st.lists(
        st.lists(st.tuples(word_texts, st.floats(0.02, 1.5), st.floats(0, 1.2)), min_size=1, max_size=25),
        min_size=1,
        max_size=4,
    )
)
def test_captions_never_overlap_and_show_every_word_once_in_order(
    spoken: list[list[tuple[str, float, float]]],
) -> None:
    narrations, said, at = [], "", 0.0
    for entries in spoken:
        words, clock = [], 0.0
        for text, length, pause in entries:
            text = re.sub(r"[\[\]\s]", "", text) or "x"
            words.append(Word(text, clock, clock + length))
            said += text
            clock += length + pause
        narrations.append(narration("", clock, words, start=at, length=clock))
        at += clock + 0.5

    captions = build_captions(narrations, at)

    for caption, following in zip(captions, [*captions[1:], None], strict=True):
        assert caption.start < caption.end
        lines = caption.text.split("\n")
        assert len(lines) <= LINES
        assert all(width(line) <= COLUMNS for line in lines)
        if following is not None:
            assert caption.end <= following.start
    assert captions[-1].end <= at + 0.001
    assert re.sub(r"\s", "", "".join(caption.text for caption in captions)) == re.sub(r"\s", "", said)


@given(
    st.lists(
        st.sampled_from(["Hello", "a", "sentence.", "Well,", "extraordinary", "why?"]),
        min_size=1,
        max_size=60,
    )
)
def test_captions_of_ordinary_speech_can_be_read(words: list[str]) -> None:
    text = " ".join(words)
    seconds = len(text) / 15 + 1
    captions = build_captions([narration(text, seconds)], seconds + 2)
    assert all(caption.end - caption.start >= LEAST_S - 0.002 for caption in captions)
    assert shown(captions) == text
