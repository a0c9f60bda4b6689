"""Each job type, end to end against the sandbox, with the payloads of the founding document."""

from __future__ import annotations

from typing import Any

import pytest

from dreamcuts.errors import ErrorClass, JobError
from dreamcuts.jobs.base import SiblingJob
from dreamcuts.media import probe

pytestmark = pytest.mark.anyio

TTS: dict[str, Any] = {
    "sceneId": "s1",
    "text": "[excited] Welcome to the bakery! Fresh bread, every single morning.",
    "voiceId": "21m00Tcm4TlvDq8ikWAM",
    "modelId": "eleven_multilingual_v2",
    "voiceSettings": {"stability": 0.4, "similarity_boost": 0.8, "style": 0.2, "use_speaker_boost": True},
    "dialogueSettings": {"stability": "creative", "use_audio_tags": True, "enhance_emotion": True},
    "outputFormat": "mp3_44100_128",
    "languageCode": "es",
    "estimatedCost": 0.01,
}
IMAGE: dict[str, Any] = {
    "assetId": "gen_char_001",
    "prompt": "A baker in a sunlit kitchen",
    "model": "flux-srpo",
    "endpoint": "fal-ai/flux/srpo",
    "imageSize": "landscape_16_9",
    "numInferenceSteps": 28,
    "guidanceScale": 4.5,
    "numImages": 1,
    "enableSafetyChecker": True,
    "acceleration": "regular",
}
VIDEO: dict[str, Any] = {
    "videoId": "gen_video_001",
    "sceneId": "s2",
    "prompt": "A loaf of bread rising in the oven",
    "model": "veo3-fast",
    "endpoint": "fal-ai/veo3/fast",
    "duration": "4s",
    "resolution": "720p",
    "aspectRatio": "16:9",
    "generateAudio": True,
}
FALLBACKS = [
    {"provider": "sync-lipsync-v2", "endpoint": "fal-ai/sync-lipsync/v2", "cost": 0.3, "maxDuration": 60},
    {"provider": "creatify", "endpoint": "creatify/lipsync", "cost": 0.1, "quality": "medium", "fps": 25},
]
MUSIC: dict[str, Any] = {
    "cueId": "cue_1",
    "mood": "uplifting",
    "structure": "build",
    "genre": "electronic pop",
    "tempo": "moderate to fast",
    "startSec": 0,
    "durationSec": 9,
    "instructions": "Fade in gradually",
}
EFFECT: dict[str, Any] = {
    "effectId": "fx1",
    "text": "whoosh",
    "durationSeconds": 1.5,
    "loop": False,
    "promptInfluence": 0.3,
    "startTime": 2.5,
}


async def test_tts_speaks_tags_with_v3_and_times_every_word(studio: Any) -> None:
    result = await studio.run("tts_elevenlabs", TTS)

    data = result.data
    assert data["contentType"] == "audio/mpeg"
    assert (data["model"], data["requestedModel"]) == ("eleven_v3", "eleven_multilingual_v2")
    words = [word["text"] for word in data["words"]]
    assert words == ["Welcome", "to", "the", "bakery!", "Fresh", "bread,", "every", "single", "morning."]
    ends = [word["end"] for word in data["words"]]
    assert ends == sorted(ends) and 0 < ends[-1] <= data["durationSeconds"] + 0.1
    assert probe(studio.file(result)).duration == pytest.approx(data["durationSeconds"], abs=0.001)
    [call] = studio.calls.rows
    assert call.request["settings"] == {"stability": 0.0, "similarity": 0.8}
    assert (call.status, call.cost_usd) == ("succeeded", data["costUsd"])
    assert [bill.endpoint for bill in studio.sandbox.bills()] == ["/v1/text-to-dialogue/with-timestamps"]


async def test_tts_without_tags_keeps_its_model(studio: Any) -> None:
    payload = {
        **TTS,
        "text": "Plain words.",
        "dialogueSettings": {},
        "previousText": "Before.",
        "nextText": "After.",
    }

    result = await studio.run("tts_elevenlabs", payload)

    assert result.data["model"] == "eleven_multilingual_v2"
    [call] = studio.calls.rows
    assert call.request["previous_text"] == "Before." and call.request["next_text"] == "After."
    assert call.request["voice_settings"]["use_speaker_boost"] is True
    assert [word["text"] for word in result.data["words"]] == ["Plain", "words."]


async def test_tts_strips_tags_that_are_not_wanted(studio: Any) -> None:
    payload = {
        **TTS,
        "text": "[excited] Hello [laughs] there.",
        "dialogueSettings": {"use_audio_tags": False},
    }

    await studio.run("tts_elevenlabs", payload)

    [call] = studio.calls.rows
    assert call.request["text"] == "Hello there."


async def test_tts_joins_a_long_text(studio: Any) -> None:
    sentence = "This sentence is one of very many in a long text. "
    payload = {"text": (sentence * 45).strip(), "voiceId": "v", "modelId": "eleven_v3"}

    result = await studio.run("tts_elevenlabs", payload)

    assert len(studio.calls.rows) == 2
    assert [call.step for call in studio.calls.rows] == [0, 1]
    assert len(result.data["words"]) == 45 * 11
    ends = [word["end"] for word in result.data["words"]]
    assert ends == sorted(ends)
    # The last word ends near the end of the joined file: the second piece's times are shifted rightly.
    assert result.data["durationSeconds"] - 1.0 < ends[-1] <= result.data["durationSeconds"] + 0.1


async def test_image_by_srpo(studio: Any) -> None:
    result = await studio.run("gen_image_falai", IMAGE)

    data = result.data
    assert (data["provider"], data["endpoint"], data["model"]) == ("fal", "fal-ai/flux/srpo", "flux-srpo")
    assert (data["width"], data["height"]) == (1024, 576)
    assert data["contentType"] == "image/jpeg" and data["fallbacks"] == []
    [call] = studio.calls.rows
    assert call.request == {
        "prompt": "A baker in a sunlit kitchen",
        "image_size": "landscape_16_9",
        "num_inference_steps": 28,
        "guidance_scale": 4.5,
        "num_images": 1,
        "enable_safety_checker": True,
        "acceleration": "regular",
    }
    assert call.ticket is not None and call.ticket.request_id == data["requestId"]
    assert call.cost_usd == pytest.approx(data["costUsd"]) and data["costUsd"] > 0


async def test_several_images_are_all_stored(studio: Any) -> None:
    result = await studio.run("gen_image_falai", {**IMAGE, "numImages": 2})

    images = result.data["images"]
    assert len(images) == 2 and len({image["url"] for image in images}) == 2
    assert images[0]["url"] == result.data["url"] == result.asset.url


async def test_nano_banana_gets_an_aspect_ratio_and_says_what_it_left_out(studio: Any) -> None:
    payload = {
        "prompt": "A lighthouse",
        "model": "nano-banana",
        "imageSize": "portrait_16_9",
        "guidanceScale": 3,
    }

    result = await studio.run("gen_image_falai", payload)

    assert studio.calls.rows[0].request == {"prompt": "A lighthouse", "aspect_ratio": "9:16", "num_images": 1}
    assert result.data["contentType"] == "image/png"
    assert result.data["notes"] == ["nano-banana takes no guidanceScale; it was left out."]


async def test_seedream_gets_a_size_that_it_takes(studio: Any) -> None:
    result = await studio.run("gen_image_falai", {**IMAGE, "endpoint": None, "model": "seedream-4"})

    size = studio.calls.rows[0].request["image_size"]
    assert size["width"] * size["height"] >= 960 * 960
    assert size["width"] / size["height"] == pytest.approx(16 / 9, rel=0.01)
    assert result.data["width"] == size["width"]


async def test_the_retired_veo_is_mapped_to_its_successor(studio: Any) -> None:
    result = await studio.run("gen_video_falai", VIDEO)

    data = result.data
    assert data["endpoint"] == "fal-ai/veo3.1/fast"
    assert "fal-ai/veo3/fast is retired; fal-ai/veo3.1/fast was asked instead." in data["notes"]
    assert data["durationSeconds"] == pytest.approx(4, abs=0.1)
    assert (data["width"], data["height"]) == (1280, 720)
    assert data["costUsd"] == pytest.approx(0.6)


async def test_lip_sync_of_a_video(studio: Any) -> None:
    audio = await studio.run("tts_elevenlabs", TTS, job_id="job_tts_s1")
    video = await studio.run("gen_video_falai", VIDEO, job_id="video_s1")
    _remember(studio, "job_tts_s1", "tts_elevenlabs", audio)
    _remember(studio, "video_s1", "gen_video_falai", video)
    payload = {
        "audioJobId": "job_tts_s1",
        "videoAssetId": "gen_video_001",
        "audioUrl": audio.asset.url,
        "videoUrl": video.asset.url,
        "provider": "veed",
        "endpoint": "veed/lipsync",
        "quality": "high",
        "fallbackProviders": FALLBACKS,
    }

    result = await studio.run("lip_sync_lypsso", payload, job_id="job_lipsync_s1")

    data = result.data
    assert (data["endpoint"], data["fallbacks"]) == ("veed/lipsync", [])
    assert data["durationSeconds"] == pytest.approx(audio.data["durationSeconds"], abs=0.3)
    assert "veed takes no quality; it was left out." in data["notes"]


async def test_a_still_face_goes_to_a_model_for_stills(studio: Any) -> None:
    audio = await studio.run("tts_elevenlabs", TTS, job_id="job_tts_s1")
    image = await studio.run("gen_image_falai", IMAGE, job_id="job_gen_char_001")
    _remember(studio, "job_tts_s1", "tts_elevenlabs", audio)
    _remember(studio, "job_gen_char_001", "gen_image_falai", image)
    payload = {
        "audioUrl": audio.asset.url,
        "videoUrl": image.asset.url,
        "endpoint": "veed/lipsync",
        "fallbackProviders": FALLBACKS,
    }

    result = await studio.run("lip_sync_lypsso", payload)

    assert result.data["endpoint"] == "veed/fabric-1.0"
    reasons = {entry["reason"] for entry in result.data["fallbacks"]}
    assert reasons == {"skipped: needs a video, and the face is a still picture"}
    assert result.data["durationSeconds"] == pytest.approx(audio.data["durationSeconds"], abs=0.3)


async def test_music_by_plan_lasts_exactly_as_long_as_the_cue(studio: Any) -> None:
    result = await studio.run("gen_music_elevenlabs", MUSIC)

    [call] = studio.calls.rows
    plan = call.request["composition_plan"]
    assert sum(section["duration_ms"] for section in plan["sections"]) == 9_000
    assert all(section["lines"] == [] for section in plan["sections"])
    assert "vocals" in plan["negative_global_styles"]
    assert result.data["durationSeconds"] == pytest.approx(9, abs=0.2)
    assert [bill.endpoint for bill in studio.sandbox.bills()] == ["/v1/music"]


async def test_music_by_prompt(studio: Any) -> None:
    payload = {"cueId": "c", "prompt": "soft piano", "musicLengthMs": 4000}

    result = await studio.run("gen_music_elevenlabs", payload)

    assert studio.calls.rows[0].request == {
        "prompt": "soft piano; instrumental, no vocals.",
        "music_length_ms": 4000,
        "force_instrumental": True,
        "model_id": "music_v1",
    }
    assert result.data["durationSeconds"] == pytest.approx(4, abs=0.2)


async def test_music_v2_gets_chunks(studio: Any) -> None:
    await studio.run("gen_music_elevenlabs", {**MUSIC, "modelId": "music_v2"})

    plan = studio.calls.rows[0].request["composition_plan"]
    assert sum(chunk["duration_ms"] for chunk in plan["chunks"]) == 9_000


async def test_music_makes_its_own_plan_when_the_provider_makes_none(studio: Any) -> None:
    studio.sandbox.fail("status", provider="elevenlabs", match="/v1/music/plan", status=500)

    result = await studio.run("gen_music_elevenlabs", MUSIC)

    plan = studio.calls.rows[0].request["composition_plan"]
    assert [section["section_name"] for section in plan["sections"]] == ["Intro", "Build", "Peak"]
    assert sum(section["duration_ms"] for section in plan["sections"]) == 9_000
    assert "Fade in gradually" in plan["sections"][0]["positive_local_styles"]
    assert result.data["notes"][0].startswith("The plan was made here")


async def test_music_takes_the_offered_wording_once(studio: Any) -> None:
    payload = {"prompt": "like a famous song sandbox:bad_prompt", "musicLengthMs": 3000}

    result = await studio.run("gen_music_elevenlabs", payload)

    refused, accepted = studio.calls.rows
    assert (refused.status, accepted.status) == ("failed", "succeeded")
    assert accepted.request["prompt"] == "a warm, original instrumental piece"
    assert "offered another" in result.data["notes"][0]
    assert len(studio.sandbox.bills()) == 1


async def test_sound_effect_of_one_and_a_half_seconds(studio: Any) -> None:
    result = await studio.run("gen_sound_effects_elevenlabs", EFFECT)

    assert result.data["durationSeconds"] == pytest.approx(1.5, abs=0.1)
    [call] = studio.calls.rows
    assert call.request == {
        "text": "whoosh, air rushing past, fast and clean, sound effect",
        "model_id": "eleven_text_to_sound_v2",
        "loop": False,
        "prompt_influence": 0.3,
        "duration_seconds": 1.5,
    }


def _remember(studio: Any, job_id: str, type_: str, result: Any) -> None:
    studio.siblings.append(
        SiblingJob(job_id, type_, "completed", {"sceneId": "s1"}, result.data, result.asset.url)
    )


async def test_a_silent_clip_costs_less(studio: Any) -> None:
    result = await studio.run("gen_video_falai", {**VIDEO, "generateAudio": False})

    assert result.data["costUsd"] == pytest.approx(0.4)


async def test_a_video_falls_back_to_the_picture_of_its_scene(studio: Any) -> None:
    image = await studio.run("gen_image_falai", IMAGE, job_id="job_gen_1")
    studio.siblings.append(
        SiblingJob(
            "job_gen_1", "gen_image_falai", "completed", {"sceneId": "s2"}, image.data, image.asset.url
        )
    )
    refusal = {"detail": [{"msg": "no", "type": "content_policy_violation"}]}
    studio.sandbox.fail("outcome", provider="fal", match="veo3", status=422, body=refusal)
    studio.sandbox.fail("outcome", provider="fal", match="wan-effects", status=422, body=refusal)

    result = await studio.run("gen_video_falai", VIDEO)

    assert result.data["endpoint"] == "fal-ai/wan-i2v"
    assert studio.calls.rows[-1].request["image_url"] == image.asset.url
    assert [entry["endpoint"] for entry in result.data["fallbacks"]] == [
        "fal-ai/veo3.1/fast",
        "fal-ai/wan-effects",
    ]
    assert result.data["durationSeconds"] == pytest.approx(81 / 16, abs=0.2)


async def test_a_video_without_any_picture_says_so(studio: Any) -> None:
    studio.sandbox.fail("status", provider="fal", match="veo3", status=404, body={"detail": "not found"})

    with pytest.raises(JobError, match="wan-i2v: skipped: needs a source image") as caught:
        await studio.run("gen_video_falai", VIDEO)

    assert caught.value.error_class is ErrorClass.INVALID_REQUEST
    assert "fal-ai/veo3.1/fast: fal fal-ai/veo3.1/fast answered HTTP 404" in str(caught.value)


async def test_tts_leaves_out_the_context_that_a_model_refuses(studio: Any) -> None:
    body = {
        "detail": {"code": "invalid_parameters", "message": "previous_text is not supported by eleven_v3"}
    }
    studio.sandbox.fail("status", provider="elevenlabs", match="previous_text", status=400, body=body)

    result = await studio.run("tts_elevenlabs", {**TTS, "previousText": "Good morning.", "nextText": "Bye."})

    assert [call.status for call in studio.calls.rows] == ["failed", "succeeded"]
    assert not {"previous_text", "future_text"} & set(studio.calls.rows[1].request)
    assert "takes no text before and after" in result.data["notes"][-1]


async def test_lip_sync_uses_the_next_of_its_own_list(studio: Any) -> None:
    audio = await studio.run("tts_elevenlabs", TTS)
    video = await studio.run("gen_video_falai", VIDEO)
    error = {"detail": [{"msg": "no face", "type": "face_detection_error"}]}
    studio.sandbox.fail("outcome", provider="fal", match="/veed/lipsync", status=422, body=error)
    payload = {
        "audioUrl": audio.asset.url,
        "videoUrl": video.asset.url,
        "provider": "veed",
        "fallbackProviders": FALLBACKS,
    }

    result = await studio.run("lip_sync_lypsso", payload)

    assert result.data["endpoint"] == "fal-ai/sync-lipsync/v2"
    assert "face_detection_error" in result.data["fallbacks"][0]["reason"]


async def test_infinitalk_ends_the_chain_where_a_picture_and_a_speech_are_given(studio: Any) -> None:
    """None of the models before it speaks; all of them refuse."""
    speech = await studio.run("tts_elevenlabs", {"text": "Hello there.", "voiceId": "v"}, job_id="job_tts")
    image = await studio.run("gen_image_falai", IMAGE, job_id="job_gen")
    refusal = {"detail": [{"msg": "no", "type": "content_policy_violation"}]}
    for model in ("veo3", "wan-effects", "wan-i2v"):
        studio.sandbox.fail("outcome", provider="fal", match=model, status=422, body=refusal)
    payload = {**VIDEO, "imageUrl": image.asset.url, "audioUrl": speech.asset.url}

    result = await studio.run("gen_video_falai", payload)

    assert result.data["endpoint"] == "fal-ai/infinitalk"
    assert len(result.data["fallbacks"]) == 3
