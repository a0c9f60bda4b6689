"""The sandbox's renderer: what was asked for is heard in the file."""

from __future__ import annotations

import pytest

from tests.sandbox.conftest import RATE, SINE, Studio, level


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
