from __future__ import annotations

import json
from typing import Any

from builders import EXAMPLES, demo, film
from hypothesis import given
from hypothesis import strategies as st

from dreamcuts.jobs.registry import load_job_types
from dreamcuts.manifest import JobSpec, check_manifest, decompose

NAMES = st.text("abcdefghij_0123456789", min_size=1, max_size=6)


def by_id(manifest: dict[str, Any]) -> dict[str, JobSpec]:
    return {spec.job_id: spec for spec in decompose(manifest)}


def test_the_demo_becomes_all_seven_types_under_the_contracts_names() -> None:
    jobs = by_id(demo())
    assert list(jobs) == [
        *(f"job_tts_s{n}" for n in range(1, 6)),
        *("job_gen_img_dawn", "job_gen_vid_waves", "job_gen_char_mara"),
        *("job_gen_img_harbour", "job_gen_img_bread", "job_gen_img_dusk"),
        "job_lipsync_s3",
        "job_music_theme",
        "sound_effect_s1_1",
        "sound_effect_s4_1",
        "job_render_shotstack",
    ]
    assert {spec.type for spec in jobs.values()} == set(load_job_types())
    assert jobs["job_lipsync_s3"].depends_on == ("job_tts_s3", "job_gen_char_mara")
    assert jobs["job_render_shotstack"].depends_on == tuple(jobs)[:-1]


def test_payloads_have_the_contracts_keys() -> None:
    jobs = by_id(demo())
    assert jobs["job_tts_s3"].payload == {
        "sceneId": "s3",
        "text": "[excited] Good morning! The first loaf is always for the fishing boats.",
        "originalText": "Good morning! The first loaf is always for the fishing boats.",
        "voiceId": "21m00Tcm4TlvDq8ikWAM",
        "modelId": "eleven_v3",
        "dialogueSettings": {"stability": "natural", "use_audio_tags": True, "enhance_emotion": False},
        "previousText": "Mara lights her oven from the same flame as the old lamp upstairs.",
        "nextText": "By seven, the whole harbour smells of warm bread and salt.",
        "languageCode": "en",
        "outputFormat": "mp3_44100_128",
    }
    assert jobs["job_lipsync_s3"].payload["audioUrl"] == "{{job_result:job_tts_s3}}"
    assert jobs["job_lipsync_s3"].payload["videoUrl"] == "{{asset_url:char_mara}}"
    assert jobs["job_gen_vid_waves"].payload["duration"] == "8s"
    assert jobs["job_gen_vid_waves"].payload["videoId"] == "vid_waves"
    assert jobs["sound_effect_s4_1"].payload["startTime"] == 17.6
    assert jobs["sound_effect_s4_1"].payload["endTime"] == 19.1
    assert jobs["job_render_shotstack"].payload["manifestId"] == "MANIFEST_PLACEHOLDER"
    assert jobs["job_render_shotstack"].payload["captionStyle"]["fontFamily"] == "Montserrat ExtraBold"


def test_the_founding_payloads_are_valid_for_their_types() -> None:
    founding = json.loads((EXAMPLES / "founding_payloads.json").read_text(encoding="utf-8"))
    types = load_job_types()
    assert set(founding) == set(types)
    for name, entry in founding.items():
        types[name].payload_model.model_validate(entry["payload"])


def test_given_jobs_are_taken_as_they_are() -> None:
    given_jobs = [
        {"id": "a", "type": "x", "payload": {"k": 1}, "dependsOn": ["b"], "priority": 12},
        {"id": "b", "type": "y", "retryPolicy": {"maxRetries": 5, "backoffSeconds": 7}},
    ]
    assert decompose(film({}, jobs=given_jobs)) == [
        JobSpec("a", "x", 12, {"k": 1}, ("b",)),
        JobSpec("b", "y", 5, {}, (), {"maxRetries": 5, "backoffSeconds": 7}, max_attempts=6),
    ]


def test_a_users_own_files_need_no_job() -> None:
    manifest = film({"visuals": [{"type": "user", "assetId": "mine"}], "narration": ""})
    manifest["assets"] = {
        "mine": {"source": "user", "originUrl": "https://e.x/a.mp4", "mimeType": "video/mp4"}
    }
    assert list(by_id(manifest)) == ["job_render_shotstack"]


def test_a_generated_visual_without_an_asset_becomes_the_scenes_video() -> None:
    manifest = film({"visuals": [{"type": "generated"}], "visualAnchor": "a quiet street", "narration": ""})
    spec = by_id(manifest)["video_s1"]
    assert spec.type == "gen_video_falai"
    assert spec.payload["prompt"] == "a quiet street"
    assert spec.payload["duration"] == "6s"


def test_a_silent_scene_has_no_speech_and_tags_alone_are_silence() -> None:
    assert "job_tts_s1" not in by_id(film({"narration": "  "}))
    assert "job_tts_s1" not in by_id(film({"narration": "[sighs]"}))


def test_a_scenes_voice_wins_over_the_default() -> None:
    manifest = film({"tts": {"voiceId": "own", "stability": 0.4, "similarityBoost": 0.8}}, {})
    jobs = by_id(manifest)
    assert jobs["job_tts_s1"].payload["voiceId"] == "own"
    assert jobs["job_tts_s1"].payload["voiceSettings"] == {"stability": 0.4, "similarity_boost": 0.8}
    assert jobs["job_tts_s2"].payload["voiceId"] != "own"


def test_priority_and_failure_policy_follow_the_metadata() -> None:
    plain = by_id(film({}))["job_render_shotstack"]
    metadata = {"priority": "high", "featureFlags": {"onDependencyFailure": "run", "enableCaptions": False}}
    urgent = by_id(film({}, metadata=metadata))["job_render_shotstack"]
    assert urgent.priority == plain.priority + 5
    assert plain.metadata == {}
    assert urgent.metadata == {"onDependencyFailure": "run"}
    assert urgent.payload["enableCaptions"] is False


def test_a_sound_may_count_from_its_scene_or_from_the_film() -> None:
    sfx = [
        {"id": "a", "cue": "x", "sceneId": "s2", "startAt": 1},
        {"id": "b", "cue": "x", "sceneId": "s2", "startAt": 7},
        {"id": "c", "cue": "x", "startAt": 3},
        {"id": "d", "cue": "x", "sceneId": "s2"},
    ]
    jobs = by_id(film({}, {}, audio={"sfx": sfx}))
    starts = {name: spec.payload["startTime"] for name, spec in jobs.items() if name.startswith("sound")}
    assert starts == {
        "sound_effect_s2_1": 6,
        "sound_effect_s2_2": 7,
        "sound_effect_film_1": 3,
        "sound_effect_s2_3": 5,
    }


def test_music_takes_its_place_from_the_scenes_that_name_it() -> None:
    music = {"music": {"cueMap": {"calm": {"mood": "calm"}, "all": {"prompt": "a waltz"}}}}
    jobs = by_id(film({}, {"musicCue": "calm"}, {"musicCue": "calm"}, audio=music))
    assert jobs["job_music_calm"].payload["startSec"] == 5
    assert jobs["job_music_calm"].payload["durationSec"] == 10
    assert jobs["job_music_all"].payload == {"cueId": "all", "prompt": "a waltz", "musicLengthMs": 15000}


scenes = st.lists(
    st.fixed_dictionaries(
        {
            "durationSeconds": st.floats(0.5, 30).map(lambda value: round(value, 2)),
            "narration": st.sampled_from(
                ["", "[softly]", "Hello.", "[excited] A longer narration, over all."]
            ),
            "musicCue": st.sampled_from([None, "one", "two"]),
            "lips": st.booleans(),
            "video": st.booleans(),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(scenes, NAMES)
def test_any_sound_manifest_gives_an_acyclic_graph_without_loose_ends(
    entries: list[dict[str, Any]], prefix: str
) -> None:
    built, assets = [], {}
    for number, entry in enumerate(entries):
        asset = f"{prefix}_{number}"
        lips = entry.pop("lips") and entry["narration"] not in ("", "[softly]")
        mime = "video/mp4" if entry.pop("video") else "image/png"
        assets[asset] = {"source": "generated", "mimeType": mime}
        built.append(entry | {"id": f"{prefix}{number}", "visuals": [{"assetId": asset, "lipSync": lips}]})
    audio = {"sfx": [{"id": "x", "cue": "boom", "sceneId": built[0]["id"]}]}
    audio["music"] = {"cueMap": {"one": {"mood": "calm"}, "two": {"mood": "loud"}}}
    manifest = film(*built, assets=assets, audio=audio)
    manifest["metadata"]["durationSeconds"] = sum(entry["durationSeconds"] for entry in built)

    specs = decompose(manifest)

    assert check_manifest(manifest) == []
    seen: set[str] = set()
    for spec in specs:  # listed in an order in which they could run
        assert set(spec.depends_on) <= seen, spec
        assert spec.job_id not in seen
        assert 0 <= spec.priority <= 20
        seen.add(spec.job_id)
        json.dumps(spec.as_row())
    assert set(specs[-1].depends_on) == seen - {"job_render_shotstack"}
