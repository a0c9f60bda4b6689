"""ElevenLabs' API through its own SDK."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import httpx
import pytest
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.core.api_error import ApiError

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.speech import espeak_paths

pytestmark = pytest.mark.anyio
ONCE: Any = {"max_retries": 0}


async def collect(stream: Any) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def error_of(stream: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await collect(stream)
    return caught.value


async def test_dialogue_speaks_at_a_natural_pace(voice: AsyncElevenLabs, look: Any, sandbox: Sandbox) -> None:
    text = "The harbour wakes before the sun does, and so do the people who feed the city."
    audio = await collect(
        voice.text_to_dialogue.convert(inputs=[{"text": f"[excited] {text}", "voice_id": "anna"}])
    )
    _, info = await look(audio, "speech.mp3")
    assert info.audio_codec == "mp3"
    assert 11 < len(text) / info.duration < 19
    [bill] = sandbox.bills("elevenlabs")
    assert (bill.units, bill.unit) == (len(f"[excited] {text}"), "character")


async def test_speech_differs_by_voice_and_repeats_by_seed(voice: AsyncElevenLabs) -> None:
    async def say(voice_id: str, seed: int) -> bytes:
        inputs: Any = [{"text": "Good morning.", "voice_id": voice_id}]
        return await collect(voice.text_to_dialogue.convert(inputs=inputs, seed=seed))

    assert await say("anna", 1) == await say("anna", 1)
    assert await say("anna", 1) != await say("boris", 1)


async def test_alignment_fits_the_audio(voice: AsyncElevenLabs, look: Any) -> None:
    texts = ["[whispers] First line.", "And the second one."]
    answer = await voice.text_to_dialogue.convert_with_timestamps(
        inputs=[{"text": text, "voice_id": name} for text, name in zip(texts, "ab", strict=True)],
        request_options=ONCE,
    )
    _, info = await look(base64.b64decode(answer.audio_base_64), "speech.mp3")
    alignment = answer.alignment
    assert alignment is not None
    assert "".join(alignment.characters) == "".join(texts)
    starts, ends = alignment.character_start_times_seconds, alignment.character_end_times_seconds
    assert starts == sorted(starts)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))
    assert ends[-1] == pytest.approx(info.duration, abs=0.12)
    assert ends[len("[whispers]") - 1] == 0.0, "a tag is not spoken, so it takes no time"
    second = answer.voice_segments[1]
    assert (second.character_start_index, second.dialogue_input_index) == (len(texts[0]), 1)
    assert starts[len(texts[0])] == pytest.approx(second.start_time_seconds, abs=0.01)


@pytest.mark.skipif(espeak_paths() is None, reason="espeakng-loader is not installed")
async def test_alignment_follows_the_spoken_words(voice: AsyncElevenLabs) -> None:
    """A long pause at the full stop shows that times come from the voice and not from a ruler."""
    answer = await voice.text_to_speech.convert_with_timestamps(
        "anna", text="One. Two.", request_options=ONCE
    )
    assert answer.alignment is not None
    starts = answer.alignment.character_start_times_seconds
    assert starts[5] - starts[0] > 0.55


@pytest.mark.parametrize(
    ("output_format", "codec"),
    [("mp3_22050_32", "mp3"), ("wav_16000", "pcm_s16le"), ("opus_48000_64", "opus")],
)
async def test_output_formats(voice: AsyncElevenLabs, look: Any, output_format: Any, codec: str) -> None:
    audio = await collect(voice.text_to_speech.convert("anna", text="Hello.", output_format=output_format))
    _, info = await look(audio, "speech")
    assert info.audio_codec == codec


async def test_music_by_plan_is_as_long_as_its_sections(voice: AsyncElevenLabs, look: Any) -> None:
    plan = await voice.music.composition_plan.create(
        prompt="electronic pop, uplifting", music_length_ms=15000, request_options=ONCE
    )
    sections = plan.sections
    assert sum(section.duration_ms for section in sections) == 15000
    audio = await collect(voice.music.compose(composition_plan=plan))
    _, info = await look(audio, "music.mp3")
    assert info.duration == pytest.approx(15.0, abs=0.1)


async def test_music_by_prompt_and_chunk_plan(voice: AsyncElevenLabs, look: Any, sandbox: Sandbox) -> None:
    audio = await collect(voice.music.compose(prompt="slow ambient, calm", music_length_ms=6000))
    assert (await look(audio, "a.mp3"))[1].duration == pytest.approx(6.0, abs=0.1)
    plan = await voice.music.composition_plan.create(
        prompt="cinematic", music_length_ms=6000, model_id="music_v2", request_options=ONCE
    )
    audio = await collect(voice.music.compose(composition_plan=plan, model_id="music_v2"))
    assert (await look(audio, "b.mp3"))[1].duration == pytest.approx(6.0, abs=0.1)
    assert [bill.endpoint for bill in sandbox.bills()] == ["/v1/music", "/v1/music"], "plans are free"


async def test_plan_of_another_model_is_refused(voice: AsyncElevenLabs) -> None:
    plan = await voice.music.composition_plan.create(prompt="pop", music_length_ms=6000, request_options=ONCE)
    error = await error_of(voice.music.compose(composition_plan=plan, model_id="music_v2"))
    assert error.status_code == 400


async def test_sound_effect_has_the_length_asked_for(voice: AsyncElevenLabs, look: Any) -> None:
    for text, seconds in (("whoosh transition", 1.5), ("soft chime", 0.5), ("rain on a roof", 4.0)):
        audio = await collect(voice.text_to_sound_effects.convert(text=text, duration_seconds=seconds))
        assert (await look(audio, "sound.mp3"))[1].duration == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"inputs": []}, 422, None),
        ({}, 422, None),
        ({"inputs": [{"text": "a", "voice_id": "v"}], "settings": {"stability": 1.5}}, 422, None),
        ({"inputs": [{"text": "a", "voice_id": f"v{i}"} for i in range(11)]}, 422, "invalid_parameters"),
        ({"inputs": [{"text": "a" * 2001, "voice_id": "v"}]}, 400, "text_too_long"),
        ({"inputs": [{"text": "a", "voice_id": "missing1"}]}, 404, "voice_not_found"),
        (
            {"inputs": [{"text": "a", "voice_id": "v"}], "model_id": "eleven_multilingual_v2"},
            400,
            "invalid_parameters",
        ),
        ({"inputs": [{"text": "a sandbox:busy", "voice_id": "v"}]}, 429, "system_busy"),
        ({"inputs": [{"text": "a sandbox:quota", "voice_id": "v"}]}, 401, "quota_exceeded"),
    ],
)
async def test_refusals(
    sandbox: Sandbox, http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str | None
) -> None:
    environment = sandbox.environment()
    response = await http.post(
        f"{environment['ELEVENLABS_BASE_URL']}/v1/text-to-dialogue",
        json=body,
        headers={"xi-api-key": environment["ELEVENLABS_API_KEY"]},
    )
    detail = response.json()["detail"]
    assert response.status_code == status
    assert response.headers["request-id"]
    if code is None:
        assert detail[0]["loc"][0] == "body" and detail[0]["msg"] and detail[0]["type"]
    else:
        assert detail["code"] == detail["status"] == code
    assert sandbox.bills() == []


async def test_music_rules(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    environment = sandbox.environment()
    url, headers = (
        f"{environment['ELEVENLABS_BASE_URL']}/v1/music",
        {"xi-api-key": environment["ELEVENLABS_API_KEY"]},
    )
    for body in (
        {},
        {
            "prompt": "p",
            "composition_plan": {"chunks": [{"text": "", "duration_ms": 3000, "positive_styles": []}]},
        },
        {"prompt": "p", "seed": 3},
        {"prompt": "p", "music_length_ms": 2999},
    ):
        assert (await http.post(url, json=body, headers=headers)).status_code == 422, body
    refused = await http.post(url, json={"prompt": "like that song sandbox:bad_prompt"}, headers=headers)
    assert refused.json()["detail"]["status"] == "bad_prompt"
    assert refused.json()["detail"]["data"]["prompt_suggestion"]


async def test_wrong_and_missing_key(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    url = f"{sandbox.url}/elevenlabs/v1/models"
    for headers in ({}, {"xi-api-key": "wrong"}):
        response = await http.get(url, headers=headers)
        assert response.status_code == 401
        assert response.json()["detail"]["status"] == "invalid_api_key"


async def test_too_many_at_once(voice: AsyncElevenLabs, sandbox: Sandbox) -> None:
    sandbox.options.elevenlabs_concurrency = 1
    errors: list[ApiError] = []
    spoken: list[bytes] = []

    async def speak() -> None:
        try:
            spoken.append(await collect(voice.text_to_speech.convert("anna", text="Some words. " * 60)))
        except ApiError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(speak)
    assert spoken and errors and len(spoken) + len(errors) == 6
    assert len(sandbox.bills()) == len(spoken), "what was refused is not billed"
    error = errors[0]
    assert (error.status_code, error.body["detail"]["code"]) == (429, "concurrent_limit_exceeded")
    assert error.headers is not None and error.headers["maximum-concurrent-requests"] == "1"
    spoken.append(await collect(voice.text_to_speech.convert("anna", text="The place is free again.")))


async def test_models_and_subscription(voice: AsyncElevenLabs) -> None:
    assert "eleven_v3" in {model.model_id for model in await voice.models.list()}
    await collect(voice.text_to_speech.convert("anna", text="12345"))
    assert (await voice.user.subscription.get()).character_count == 5
