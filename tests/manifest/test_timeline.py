from __future__ import annotations

from typing import Any

import pytest
from builders import Made, demo, film, image, lip_sync, music, sound, speech, video
from hypothesis import given
from hypothesis import strategies as st

from dreamcuts.errors import InvalidRequest
from dreamcuts.manifest import Manifest
from dreamcuts.manifest.decompose import IMAGE, VIDEO
from dreamcuts.manifest.narration import LEAD_IN_S, MAX_SPEED, place_narrations
from dreamcuts.manifest.options import CaptionLook, RenderOptions, transition_name
from dreamcuts.manifest.timeline import Timeline, build_edit

SRT = "https://files.example/captions.srt"
SOFT = RenderOptions()
CUTS = RenderOptions(transitions=False)


def build(
    manifest: dict[str, Any], *jobs: Made, options: RenderOptions = CUTS, captions: str | None = None
) -> Timeline:
    return build_edit(manifest, options, jobs, captions)


def clips(timeline: Timeline, *types: str) -> list[dict[str, Any]]:
    """All clips of these asset types, by start."""
    found = [
        clip
        for track in timeline.edit["timeline"]["tracks"]
        for clip in track["clips"]
        if clip["asset"]["type"] in types
    ]
    return sorted(found, key=lambda clip: clip["start"])


def seen(timeline: Timeline) -> list[tuple[str, float, float]]:
    return [
        (clip["asset"]["src"].rsplit("/", 1)[1], clip["start"], round(clip["start"] + clip["length"], 3))
        for clip in clips(timeline, "image", "video")
    ]


def end(timeline: Timeline) -> float:
    return max(
        clip["start"] + clip["length"]
        for track in timeline.edit["timeline"]["tracks"]
        for clip in track["clips"]
    )


def two_scenes(**parts: Any) -> tuple[dict[str, Any], list[Made]]:
    return film({}, {}, **parts), [image("img_s1"), image("img_s2")]


def test_pictures_follow_their_scenes_and_zoom_in_turns() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs)
    assert seen(timeline) == [("job_gen_img_s1", 0, 5), ("job_gen_img_s2", 5, 10)]
    assert [clip["effect"] for clip in clips(timeline, "image")] == ["zoomInSlow", "zoomOutSlow"]
    assert all(clip["fit"] == "crop" for clip in clips(timeline, "image"))
    assert timeline.notes == []


def test_several_pictures_share_their_scenes_time() -> None:
    visuals = [{"assetId": "a"}, {"assetId": "b", "durationSeconds": 3}, {"assetId": "c"}]
    manifest = film({"visuals": visuals, "durationSeconds": 9})
    assert seen(build(manifest, image("a"), image("b"), image("c"))) == [
        ("job_gen_a", 0, 3),
        ("job_gen_b", 3, 6),
        ("job_gen_c", 6, 9),
    ]


def test_captions_are_on_top_and_span_the_film() -> None:
    manifest, jobs = two_scenes()
    look = CaptionLook(position="top", background=None)
    timeline = build(manifest, *jobs, captions=SRT, options=RenderOptions(caption_look=look))
    top = timeline.edit["timeline"]["tracks"][0]["clips"]
    assert [(clip["asset"]["src"], clip["start"], clip["length"]) for clip in top] == [(SRT, 0, 10)]
    assert top[0]["asset"]["margin"] == {"top": 0.05}
    assert "background" not in top[0]["asset"]
    off = build(manifest, *jobs, captions=SRT, options=RenderOptions(captions=False))
    assert clips(off, "caption") == []


def test_scenes_fade_over_each_other_without_shortening_the_film() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs, options=SOFT)
    first, second = clips(timeline, "image")
    # The first picture is shown a second longer, beneath the second that fades in over it.
    assert (first["start"], first["length"]) == (0, 6)
    assert second["transition"] == {"in": "fade", "out": "fade"}
    tracks = timeline.edit["timeline"]["tracks"]
    assert tracks[0]["clips"] == [second]
    assert tracks[1]["clips"] == [first]
    assert end(timeline) == 10


def test_a_scene_that_is_too_short_to_fade_is_cut() -> None:
    manifest = film({"durationSeconds": 0.8}, {"durationSeconds": 0.8})
    timeline = build(manifest, image("img_s1"), image("img_s2"), options=SOFT)
    assert all("transition" not in clip for clip in clips(timeline, "image"))
    assert seen(timeline) == [("job_gen_img_s1", 0, 0.8), ("job_gen_img_s2", 0.8, 1.6)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["wipe"], "wipeLeft"),
        (["Slide-Left"], "slideLeft"),
        (["slideUpFast"], "slideUpFast"),
        (["crossfade"], "fade"),
        (["none", "fade"], None),
        (["hologram", "zoom"], "zoom"),
        (["hologram"], "fade"),
        ([None], "fade"),
    ],
)
def test_transitions_by_any_name(asked: list[str | None], expected: str | None) -> None:
    assert transition_name(asked) == expected


def test_a_scenes_own_transition_wins_if_it_is_allowed() -> None:
    own = {"effects": {"transitions": [{"type": "wipeRight"}]}}
    jobs = [image("img_s1"), image("img_s2")]
    options = RenderOptions(transition="zoom")

    def entry(manifest: dict[str, Any]) -> str:
        return str(clips(build(manifest, *jobs, options=options), "image")[1]["transition"]["in"])

    assert entry(film({}, own)) == "wipeRight"
    assert entry(film({}, own, effects={"allowed": ["fade", "zoom"]})) == "zoom"
    assert entry(film({}, {})) == "zoom"


def test_narrations_start_a_moment_after_their_scenes() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs, speech("s1", 3.2), speech("s2", 2.0))
    assert [(clip["start"], clip["length"]) for clip in clips(timeline, "audio")] == [
        (LEAD_IN_S, 3.2),
        (5 + LEAD_IN_S, 2.0),
    ]


def test_a_long_narration_runs_on_where_nobody_speaks() -> None:
    timeline = build(film({}, {}), image("img_s1"), image("img_s2"), speech("s1", 7.05))
    (clip,) = clips(timeline, "audio")
    assert clip["length"] == 7.05
    assert "scene s1: its narration runs 2.2 s over its end" in timeline.notes


def test_a_narration_a_little_too_long_is_spoken_faster() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs, speech("s1", 5.3), speech("s2", 2.0))
    first, second = clips(timeline, "audio")
    assert first["start"] + first["length"] < second["start"]
    assert first["asset"]["speed"] == pytest.approx(5.3 / first["length"], abs=0.001)
    assert any("times as fast" in note for note in timeline.notes)


def test_a_narration_far_too_long_is_cut_before_the_next() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs, speech("s1", 20.0), speech("s2", 2.0))
    first, second = clips(timeline, "audio")
    assert first["start"] + first["length"] <= second["start"]
    assert first["asset"]["speed"] == MAX_SPEED
    assert any("are cut" in note for note in timeline.notes)


def test_a_lip_synced_video_and_its_voice_start_together_and_its_picture_stays() -> None:
    manifest = film({}, {"visuals": [{"assetId": "face", "lipSync": True}]})
    jobs = [image("img_s1"), image("face"), speech("s2", 3.0), lip_sync("s2", 3.04, "face")]
    timeline = build(manifest, *jobs)
    assert seen(timeline) == [
        ("job_gen_img_s1", 0, 5),
        ("job_lipsync_s2", 5, 8),
        ("job_gen_face", 8, 10),
    ]
    (lips,) = clips(timeline, "video")
    (voice,) = clips(timeline, "audio")
    assert lips["start"] == voice["start"] == 5
    assert lips["asset"]["volume"] == 0
    assert "effect" not in clips(timeline, "image")[1]  # a zoom would show the change


def test_lips_go_on_where_the_voice_is_if_their_picture_comes_later() -> None:
    visuals = [{"assetId": "a"}, {"assetId": "face"}]
    manifest = film({"visuals": visuals, "durationSeconds": 6})
    timeline = build(manifest, image("a"), image("face"), speech("s1", 5.0), lip_sync("s1", 5.0, "face"))
    (lips,) = clips(timeline, "video")
    assert (lips["start"], lips["length"], lips["asset"]["trim"]) == (3, 2, 3)


def test_lips_win_over_the_scenes_video_and_that_over_pictures() -> None:
    manifest = film({})
    scene_video = Made("video_s1", VIDEO, {"sceneId": "s1", "videoId": "v"}, {"durationSeconds": 8.0})
    assert seen(build(manifest, image("img_s1"), scene_video)) == [("video_s1", 0, 5)]
    lips = lip_sync("s1", 5.0)
    assert (
        seen(build(manifest, image("img_s1"), scene_video, lips, speech("s1", 5.0)))[0][0] == "job_lipsync_s1"
    )


def test_a_video_is_silent_under_a_narration_only() -> None:
    manifest = film({"visuals": [{"assetId": "v"}]})
    assert clips(build(manifest, video("v", 8), speech("s1", 2)), "video")[0]["asset"]["volume"] == 0
    assert clips(build(manifest, video("v", 8)), "video")[0]["asset"]["volume"] > 0.5


def test_a_video_that_is_too_short_is_slowed_or_repeated() -> None:
    manifest = film({"visuals": [{"assetId": "v"}]})
    (slow,) = clips(build(manifest, video("v", 4.5)), "video")
    assert slow["asset"]["speed"] == 0.9
    assert slow["length"] == 5
    repeated = build(manifest, video("v", 2.0))
    assert [(clip["start"], clip["length"]) for clip in clips(repeated, "video")] == [(0, 2), (2, 2), (4, 1)]
    assert any("repeated" in note for note in repeated.notes)


def test_music_is_low_under_the_voice() -> None:
    cues = {"cueMap": {"a": {"startSec": 0, "durationSec": 5}, "b": {"startSec": 5, "durationSec": 50}}}
    manifest, jobs = two_scenes(audio={"music": cues})
    timeline = build(manifest, *jobs, speech("s1", 2), music("a", 5.0), music("b", 50.0))
    under, alone = (c for c in clips(timeline, "audio") if "music" in c["asset"]["src"])
    assert (under["start"], under["length"]) == (0, 5)
    assert (alone["start"], alone["length"]) == (5, 5)
    assert under["asset"]["volume"] < alone["asset"]["volume"]
    assert under["asset"]["effect"] == "fadeInFadeOut"
    loud = build(
        film({}, {}, audio={"music": cues | {"duckToVoice": False}}), *jobs, speech("s1", 2), music("a", 5.0)
    )
    assert clips(loud, "audio")[0]["asset"]["volume"] == alone["asset"]["volume"]


def test_music_without_a_cue_in_the_manifest_follows_its_payload() -> None:
    manifest, jobs = two_scenes()
    timeline = build(manifest, *jobs, music("x", startSec=2, durationSec=4))
    assert [(c["start"], c["length"]) for c in clips(timeline, "audio")] == [(2, 4)]


def test_music_can_be_switched_off_or_given_as_a_bed() -> None:
    manifest, jobs = two_scenes()
    off = build(manifest, *jobs, music("x"), options=RenderOptions(music=False))
    assert clips(off, "audio") == []
    assert off.notes == ["backgroundMusic is false: the music is left out"]
    bed = build(manifest, *jobs, options=RenderOptions(music_url="https://e.x/bed.mp3"))
    assert [(c["asset"]["src"], c["length"]) for c in clips(bed, "audio")] == [("https://e.x/bed.mp3", 10)]


def test_sounds_are_where_the_manifest_puts_them_and_end_with_the_film() -> None:
    sfx = [{"id": "a", "cue": "x", "sceneId": "s2", "startAt": 1}, {"id": "b", "cue": "x", "startAt": 9.5}]
    manifest, jobs = two_scenes(audio={"sfx": sfx})
    timeline = build(manifest, *jobs, sound("a", 1.5), sound("b", 3), sound("c", 1, startTime=2))
    assert [(c["start"], c["length"]) for c in clips(timeline, "audio")] == [(2, 1), (6, 1.5), (9.5, 0.5)]


def test_what_is_missing_is_left_out_and_said() -> None:
    manifest, _ = two_scenes()
    jobs = [
        image("img_s1"),
        Made("job_gen_img_s2", IMAGE, {"assetId": "img_s2"}, None, "failed"),
        Made("job_tts_s1", "tts_elevenlabs", {"sceneId": "s1"}, None, "failed"),
        Made("job_music_m", "gen_music_elevenlabs", {"cueId": "m"}, None, "cancelled"),
        Made("fx", "gen_sound_effects_elevenlabs", {"effectId": "f"}, None, "failed"),
        Made("lips", "lip_sync_lypsso", {"sceneId": "s1"}, None, "failed"),
    ]
    timeline = build(manifest, *jobs)
    assert seen(timeline) == [("job_gen_img_s1", 0, 10)]
    assert clips(timeline, "audio") == []
    text = "\n".join(timeline.notes)
    for words in (
        "img_s2",
        "job_tts_s1 is failed",
        "job_music_m is cancelled",
        "fx is failed",
        "lips is failed",
    ):
        assert words in text


def test_a_first_scene_without_pictures_shows_the_next_ones() -> None:
    manifest, jobs = two_scenes()
    assert seen(build(manifest, jobs[1])) == [("job_gen_img_s2", 0, 10)]


def test_a_film_without_any_picture_is_refused() -> None:
    manifest, _ = two_scenes()
    with pytest.raises(InvalidRequest, match="nothing to render"):
        build(manifest, speech("s1", 2))


def test_a_users_video_is_known_by_its_type_or_name() -> None:
    manifest = film({"visuals": [{"type": "user", "assetId": "mine"}]})
    for asset in (
        {"mimeType": "video/mp4", "originUrl": "https://e.x/1"},
        {"originUrl": "https://e.x/1.MOV?t=1"},
    ):
        manifest["assets"] = {"mine": {"source": "user"} | asset}
        assert len(clips(build(manifest), "video")) == 1


def test_the_output_is_what_the_options_say() -> None:
    manifest, jobs = two_scenes()
    options = RenderOptions(width=720, height=1280, quality="low", callback="https://e.x/hook")
    edit = build(manifest, *jobs, options=options).edit
    assert edit["output"] == {
        "format": "mp4",
        "size": {"width": 720, "height": 1280},
        "fps": 25,
        "quality": "low",
    }
    assert edit["callback"] == "https://e.x/hook"


def test_the_demos_narrations_are_in_their_scenes() -> None:
    manifest = Manifest.model_validate(demo())
    jobs = [speech(f"s{n}", 3.5) for n in range(1, 6)] + [lip_sync("s3", 3.5)]
    notes: list[str] = []
    placed = place_narrations(manifest, jobs, notes)
    assert [narration.start for narration in placed] == [0.15, 5.65, 11.5, 17.65, 23.15]
    assert notes == []


seconds = st.floats(0.1, 12).map(lambda value: round(value, 2))
scene_plans = st.lists(
    st.fixed_dictionaries(
        {
            "length": st.floats(0.3, 12).map(lambda value: round(value, 2)),
            "speech": st.none() | seconds,
            "lips": st.booleans(),
            "pictures": st.lists(st.none() | seconds, max_size=3),
            "cut": st.booleans(),
        }
    ),
    min_size=1,
    max_size=7,
).filter(lambda plans: any(plan["pictures"] for plan in plans))


@given(scene_plans, st.booleans(), st.booleans())
def test_any_film_is_gapless_exact_and_never_overlaps_on_a_track(
    plans: list[dict[str, Any]], transitions: bool, has_music: bool
) -> None:
    scenes, jobs = [], []
    for number, plan in enumerate(plans, 1):
        name = f"s{number}"
        assets = [f"{name}_{place}" for place in range(len(plan["pictures"]))]
        for asset, length in zip(assets, plan["pictures"], strict=True):
            jobs.append(image(asset) if length is None else video(asset, length))
        if plan["speech"]:
            jobs.append(speech(name, plan["speech"]))
            if plan["lips"]:
                jobs.append(lip_sync(name, plan["speech"], assets[0] if assets else None))
        effects = {"transitions": ["none" if plan["cut"] else "fade"]}
        scenes.append(
            {
                "durationSeconds": plan["length"],
                "visuals": [{"assetId": a} for a in assets],
                "effects": effects,
            }
        )
    manifest = film(*scenes, audio={"music": {"cueMap": {"m": {}}}})
    total = round(sum(plan["length"] for plan in plans), 3)
    manifest["metadata"]["durationSeconds"] = total
    if has_music:
        jobs.append(music("m", 400.0))

    timeline = build(manifest, *jobs, captions=SRT, options=RenderOptions(transitions=transitions))

    assert end(timeline) == pytest.approx(total, abs=0.002)
    for track in timeline.edit["timeline"]["tracks"]:
        at = 0.0
        for clip in track["clips"]:
            assert clip["start"] >= at - 0.0015, track
            assert clip["length"] > 0, track
            at = clip["start"] + clip["length"]
    covered = 0.0
    for _, start, until in seen(timeline):
        assert start <= covered + 0.041, seen(timeline)
        covered = max(covered, until)
    assert covered == pytest.approx(total, abs=0.04)
