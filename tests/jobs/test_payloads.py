"""What payloads say, what they must not say, and what the models get of them. No provider is called."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dreamcuts.errors import ConfigError, InvalidRequest
from dreamcuts.jobs import composition, lipsync, video
from dreamcuts.jobs.catalogue import FallbackEntry
from dreamcuts.jobs.image import CATALOGUE as IMAGES
from dreamcuts.jobs.image import ImagePayload
from dreamcuts.jobs.lipsync import Inputs, LipSyncPayload
from dreamcuts.jobs.paid import Request, Skip
from dreamcuts.jobs.registry import load_job_types, resolve_types
from dreamcuts.jobs.speech_text import split_text, without_tags, words_of
from dreamcuts.jobs.tts import TtsPayload, plan_speech
from dreamcuts.jobs.video import CATALOGUE as VIDEOS
from dreamcuts.jobs.video import Source, VideoPayload

TYPES = load_job_types()

CONTRACT = {
    "tts_elevenlabs": ("tts", 3, 5),
    "gen_image_falai": ("image", 2, 10),
    "gen_video_falai": ("video", 1, 15),
    "lip_sync_lypsso": ("lipsync", 2, 12),
    "gen_music_elevenlabs": ("music", 2, 10),
    "gen_sound_effects_elevenlabs": ("sound_effects", 2, 5),
    "render_shotstack": ("render", 1, 30),
}


def test_the_types_of_the_contract() -> None:
    found = {
        name: (made.short_name, made.default_slots, made.retry_delay.total_seconds())
        for name, made in TYPES.items()
    }
    assert found == CONTRACT


def test_types_are_named_short_or_in_full() -> None:
    names = [made.name for made in resolve_types(["tts", "gen_music_elevenlabs", "music"], TYPES)]
    assert names == ["tts_elevenlabs", "gen_music_elevenlabs"]
    with pytest.raises(ConfigError, match=r"'musik' does not exist\. Did you mean 'music'\? Known: image, "):
        resolve_types(["musik"], TYPES)


@pytest.mark.parametrize(
    ("type_", "payload", "field", "message"),
    [
        ("tts_elevenlabs", {"text": "Hi"}, "voiceId", "Field required"),
        ("tts_elevenlabs", {"text": "[sighs] ", "voiceId": "v"}, "text", "holds nothing to speak"),
        (
            "tts_elevenlabs",
            {"text": "Hi", "voiceId": "v", "dialogueSettings": {"stability": "wild"}},
            "stability",
            "creative, natural, robust",
        ),
        ("gen_image_falai", {"prompt": "  "}, "prompt", "is blank"),
        ("gen_image_falai", {"prompt": "p", "imageSize": "huge"}, "imageSize", "'huge' is no image size"),
        (
            "gen_image_falai",
            {"prompt": "p", "numInferenceSteps": 99},
            "numInferenceSteps",
            "less than or equal",
        ),
        ("gen_video_falai", {"prompt": "p", "duration": "soon"}, "duration", "'soon' is no length"),
        ("gen_video_falai", {"prompt": "p", "effectType": "nope"}, "effectType", "is no effect"),
        ("lip_sync_lypsso", {"videoUrl": "https://x/y.mp4"}, "", "the speech is missing"),
        ("lip_sync_lypsso", {"audioJobId": "job_tts_s1"}, "", "the face is missing"),
        (
            "lip_sync_lypsso",
            {"audioJobId": "a", "videoAssetId": "b", "startTime": 4, "endTime": 2},
            "",
            r"endTime \(2\) must be after startTime \(4\)",
        ),
        ("gen_music_elevenlabs", {"mood": "calm"}, "", "the length is missing"),
        ("gen_music_elevenlabs", {"durationSec": 5}, "", "nothing says what the music is like"),
        (
            "gen_music_elevenlabs",
            {"mood": "calm", "durationSec": 900},
            "durationSec",
            "less than or equal to 600",
        ),
        ("gen_sound_effects_elevenlabs", {"text": "x", "durationSeconds": 0.2}, "durationSeconds", "0.5"),
        ("gen_sound_effects_elevenlabs", {"text": "x", "durationSeconds": 30}, "durationSeconds", "22"),
        ("gen_sound_effects_elevenlabs", {"text": "x", "promptInfluence": 2}, "promptInfluence", "1"),
    ],
)
def test_a_wrong_payload_names_the_field(
    type_: str, payload: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        TYPES[type_].payload_model.model_validate(payload)

    [issue] = caught.value.errors()
    assert field in [*map(str, issue["loc"]), ""]


@pytest.mark.parametrize("type_", [name for name in CONTRACT if name != "render_shotstack"])
def test_unknown_keys_are_kept_and_no_error(type_: str) -> None:
    least: dict[str, Any] = {
        "text": "a door closes",
        "voiceId": "v",
        "prompt": "p",
        "audioJobId": "a",
        "videoAssetId": "b",
        "durationSec": 5,
        "somethingNew": {"a": 1},
    }
    payload = TYPES[type_].payload_model.model_validate(least)
    assert payload.model_extra is not None and payload.model_extra["somethingNew"] == {"a": 1}


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"endpoint: 'fal-ai/nope' is no image model\. Known: flux-srpo"):
        IMAGES.choices(None, "fal-ai/nope", None)


def test_a_payload_brings_its_own_chain() -> None:
    entries = [
        FallbackEntry(provider="sync-lipsync-v2", endpoint="fal-ai/sync-lipsync/v2"),
        FallbackEntry(provider="nobody", endpoint="x/y"),
    ]
    choices = lipsync.CATALOGUE.choices("veed", "veed/lipsync", entries)

    assert [choice.endpoint for choice in choices] == ["veed/lipsync", "fal-ai/sync-lipsync/v2", "x/y"]
    assert choices[2].problem is not None and "is no lip sync model" in choices[2].problem


def test_the_default_chains() -> None:
    def chain(catalogue: Any, model: str | None = None) -> list[str]:
        return [choice.model for choice in catalogue.choices(model, None, None)]

    assert chain(IMAGES) == ["flux-srpo", "nano-banana", "professional-photo", "seedream-4"]
    assert chain(IMAGES, "nano-banana")[:2] == ["nano-banana", "flux-srpo"]
    assert chain(VIDEOS) == ["veo3-fast", "wan-effects", "wan-i2v"]
    assert chain(lipsync.CATALOGUE) == ["veed", "sync-lipsync-v2", "creatify"]


def plan_video(
    endpoint: str, payload: dict[str, Any], image: str | None = "https://x/i.png"
) -> Request | Skip:
    model = VideoPayload.model_validate({"prompt": "A red fox running in snow", **payload})
    choice = VIDEOS.choose(endpoint, None)
    return video.plan(choice, model, Source(image, model.aspect_ratio or "16:9"))


@pytest.mark.parametrize(
    ("given", "sent"), [("3s", "4s"), ("5s", "6s"), (8, "8s"), ("12s", "8s"), (None, "8s")]
)
def test_veo_makes_the_next_longer_clip(given: Any, sent: str) -> None:
    plan = plan_video("fal-ai/veo3.1/fast", {"duration": given, "generateAudio": False})
    assert isinstance(plan, Request)
    assert plan.body["duration"] == sent
    assert plan.estimate_usd == pytest.approx(0.1 * int(sent[0]))
    assert bool(plan.notes) == (f"{given}".removesuffix("s") not in (sent[0], "None"))


@pytest.mark.parametrize(("seconds", "frames", "fps"), [(5, 81, 16), (6, 96, 16), (8, 96, 12), (20, 100, 5)])
def test_wan_reaches_the_length_by_its_frame_rate(seconds: float, frames: int, fps: int) -> None:
    plan = plan_video("fal-ai/wan-i2v", {"duration": seconds})
    assert isinstance(plan, Request)
    assert (plan.body["num_frames"], plan.body["frames_per_second"]) == (frames, fps)
    assert plan.estimate_usd == pytest.approx(0.4 if frames == 81 else 0.5)


def test_wan_effects_gets_a_subject_instead_of_a_prompt() -> None:
    plan = plan_video("fal-ai/wan-effects", {"effectType": "inflate"})
    assert isinstance(plan, Request)
    assert "prompt" not in plan.body
    assert (plan.body["subject"], plan.body["effect_type"]) == ("A red fox", "inflate")


@pytest.mark.parametrize("endpoint", ["fal-ai/wan-effects", "fal-ai/wan-i2v", "fal-ai/infinitalk"])
def test_models_that_need_a_picture_say_so(endpoint: str) -> None:
    plan = plan_video(endpoint, {}, image=None)
    assert isinstance(plan, Skip) and "needs a source image (imageUrl)" in plan.reason


def test_infinitalk_counts_its_frames_by_the_speech() -> None:
    for seconds, frames in ((1, 41), (10, 250), (60, 721)):
        request = video.infinitalk_request("i", "a", seconds, "talks", None, None)
        assert request.body["num_frames"] == frames
        assert bool(request.notes) == (seconds == 60)


def test_a_fallback_over_its_longest_duration_is_skipped() -> None:
    payload = LipSyncPayload.model_validate(
        {"audioUrl": "a", "videoUrl": "v", "fallbackProviders": [{"provider": "creatify", "maxDuration": 10}]}
    )
    [_, entry] = lipsync.CATALOGUE.choices("veed", None, payload.fallback_providers)

    long = lipsync.plan(entry, payload, Inputs("v", "a", is_still=False, audio_s=12.5))
    short = lipsync.plan(entry, payload, Inputs("v", "a", is_still=False, audio_s=9))

    assert long == Skip("the speech is 12.5 s, over its maxDuration of 10 s")
    assert isinstance(short, Request) and short.body == {"video_url": "v", "audio_url": "a"}


def plan_text(**payload: Any) -> Any:
    return plan_speech(TtsPayload.model_validate({"voiceId": "v", **payload}), seed=7)


@pytest.mark.parametrize(
    ("payload", "model", "endpoint"),
    [
        ({"text": "Plain."}, "eleven_v3", "text-to-dialogue"),
        ({"text": "Plain.", "modelId": "eleven_multilingual_v2"}, "eleven_multilingual_v2", "text-to-speech"),
        ({"text": "[sighs] Oh.", "modelId": "eleven_multilingual_v2"}, "eleven_v3", "text-to-dialogue"),
        ({"text": "Plain.", "modelId": "eleven_multilingual_v1"}, "eleven_multilingual_v2", "text-to-speech"),
        ({"text": "Plain.", "modelId": "eleven_flash_v2_5"}, "eleven_flash_v2_5", "text-to-speech"),
    ],
)
def test_the_model_follows_from_tags_and_wishes(payload: dict[str, Any], model: str, endpoint: str) -> None:
    plan = plan_text(**payload)
    assert (plan.model, plan.endpoint) == (model, endpoint)
    assert plan.arguments["seed"] == 7 and plan.arguments["model_id"] == model
    assert bool(plan.notes) == (payload.get("modelId", model) != model)


@pytest.mark.parametrize(
    ("given", "sent"),
    [("creative", 0.0), ("natural", 0.5), ("robust", 1.0), (0.3, 0.5), (0.9, 1.0), (0, 0.0)],
)
def test_stability_has_three_values_in_v3(given: Any, sent: float) -> None:
    plan = plan_text(text="Hi.", dialogueSettings={"stability": given})
    assert plan.arguments["settings"] == {"stability": sent}


def test_emotion_is_a_leading_tag() -> None:
    settings = {"enhance_emotion": True}
    assert plan_text(text="We won!", dialogueSettings=settings).pieces == ["[excited] We won!"]
    assert plan_text(text="We won.", dialogueSettings=settings).pieces == ["We won."]


def test_other_formats_become_mp3_with_a_note() -> None:
    plan = plan_text(text="Hi.", outputFormat="pcm_16000")
    assert plan.output_format == "mp3_44100_128"
    assert "pcm_16000" in plan.notes[0]


def test_text_is_cut_at_sentence_ends() -> None:
    text = "One two three. Four five! [curious] Six seven? Eight."
    assert split_text(text, 30) == ["One two three. Four five!", "[curious] Six seven? Eight."]
    assert split_text("这是第一句。这是第二句。", 7) == ["这是第一句。", "这是第二句。"]
    assert split_text("word " * 10, 12) == ["word word"] * 5
    assert split_text("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert all(len(piece) <= 2000 for piece in split_text("Hello [whispers softly] you " * 400))


def test_tags_are_not_spoken() -> None:
    assert without_tags("[excited] Hi [laughs] there.") == "Hi there."
    text = "[hm] Oh no"
    times = [index / 10 for index in range(len(text))]
    words = words_of(list(text), times, [time + 0.1 for time in times], offset=2.0)
    assert words == [
        {"text": "Oh", "start": 2.5, "end": 2.7},
        {"text": "no", "start": 2.8, "end": 3.0},
    ]


@pytest.mark.parametrize("length", [3_000, 4_500, 9_000, 45_000, 90_001, 300_000, 600_000])
@pytest.mark.parametrize("structure", ["build", "intro->build->outro", "steady", None])
def test_sections_last_exactly_as_long_as_asked(length: int, structure: str | None) -> None:
    plan = composition.local_plan(styles=["pop"], structure=structure, instructions=None, length_ms=length)
    lengths = [section["duration_ms"] for section in plan["sections"]]
    assert sum(lengths) == length
    assert all(3_000 <= one <= 120_000 for one in lengths)


def test_a_short_section_takes_its_three_seconds_from_the_others() -> None:
    sections = [{"section_name": name, "duration_ms": ms} for name, ms in (("A", 100), ("B", 9_900))]
    plan = composition.fitted({"sections": sections}, 20_000)
    assert [section["duration_ms"] for section in plan["sections"]] == [3_000, 17_000]


@pytest.mark.parametrize(
    ("written", "sent"),
    [("portrait_9_16", "portrait_16_9"), ("portrait_3_4", "portrait_4_3"), ("square_hd", "square_hd")],
)
def test_an_image_size_is_taken_by_the_producers_name_too(written: str, sent: str) -> None:
    assert ImagePayload.model_validate({"prompt": "a boat", "imageSize": written}).image_size == sent
