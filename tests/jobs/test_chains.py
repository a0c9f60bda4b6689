"""Which models a payload may name, and what its own chain of them says: refused, skipped or noted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dreamcuts.errors import ErrorClass, InvalidRequest, JobError
from dreamcuts.jobs import catalogue, image, lipsync, video
from dreamcuts.jobs.image import ImagePayload
from dreamcuts.jobs.lipsync import Inputs, LipSyncPayload
from dreamcuts.jobs.paid import Request, Skip, Step
from dreamcuts.jobs.produced import check_cost
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.jobs.tts import TtsPayload, plan_speech
from dreamcuts.jobs.video import Source, VideoPayload
from dreamcuts.providers import prices
from dreamcuts.wording import dollars
from dreamcuts.worker.attempt import validated

LEAST: dict[str, dict[str, Any]] = {
    "gen_image_falai": {"prompt": "a boat"},
    "gen_video_falai": {"prompt": "a boat"},
    "lip_sync_lypsso": {"audioUrl": "https://x/a.mp3", "videoUrl": "https://x/v.mp4"},
}
KNOWN = {"gen_image_falai": "flux-srpo", "gen_video_falai": "veo3-fast", "lip_sync_lypsso": "veed"}


def checked(type_: str, **more: Any) -> Any:
    return validated(load_job_types()[type_].payload_model, {**LEAST[type_], **more})


@pytest.mark.parametrize("type_", LEAST)
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"endpoint": "nope/nope"}, "endpoint"),
        ({"model": "nope/nope", "provider": "nope/nope"}, "(model|provider)"),
        ({"fallbackProviders": [{"endpoint": "nope/nope"}]}, r"fallbackProviders\.0"),
        ({"fallbackProviders": [{"provider": "nope/nope"}]}, r"fallbackProviders\.0"),
        ({"fallbackProviders": [{"provider": "fal", "endpoint": "nope/nope"}]}, r"fallbackProviders\.0"),
        ({"fallbackProviders": [{"provider": "acme", "endpoint": "nope/nope"}]}, r"fallbackProviders\.0"),
    ],
)
def test_an_unknown_model_is_refused_by_the_payload(type_: str, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{field}: 'nope/nope' is no .* model\. Known: {KNOWN[type_]}"):
        checked(type_, **given)


@pytest.mark.parametrize("type_", LEAST)
def test_an_unknown_endpoint_is_refused_although_a_known_name_stands_beside_it(type_: str) -> None:
    name = KNOWN[type_]
    with pytest.raises(InvalidRequest, match="'nope/nope' is no"):
        checked(type_, endpoint="nope/nope", model=name, provider=name)
    with pytest.raises(InvalidRequest, match="'nope/nope' is no"):
        checked(type_, fallbackProviders=[{"provider": name, "endpoint": "nope/nope"}])


@pytest.mark.parametrize("type_", LEAST)
def test_an_entry_that_names_nothing_is_refused(type_: str) -> None:
    with pytest.raises(InvalidRequest, match=r"fallbackProviders\.0: '' is no"):
        checked(type_, fallbackProviders=[{"cost": 1}])


def test_known_names_retired_ones_and_addresses_are_taken() -> None:
    checked("gen_image_falai", model="flux-srpo", endpoint="https://queue.fal.run/fal-ai/nano-banana")
    checked("gen_video_falai", model="Veo3-Fast", endpoint="fal-ai/veo3/fast")
    checked("lip_sync_lypsso", endpoint="veed/lipsync", provider="lypsso")
    checked("gen_image_falai", endpoint=None, model="", fallbackProviders=[])


@pytest.mark.parametrize("type_", LEAST)
def test_an_endpoint_of_another_registered_provider_is_let_through_and_skipped(
    type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "load_providers", lambda: {"fal": object, "acme": object})
    payload = checked(type_, fallbackProviders=[{"provider": "acme", "endpoint": "acme/one"}])
    module = {"gen_image_falai": image, "gen_video_falai": video, "lip_sync_lypsso": lipsync}[type_]

    choices = module.CATALOGUE.choices(None, None, payload.fallback_providers)
    [_, step] = module.CATALOGUE.steps(choices, lambda choice: Request({}), cost_limit=None)

    assert (step.provider, step.endpoint) == ("acme", "acme/one")
    assert isinstance(step.plan, Skip) and "is an endpoint of acme" in step.plan.reason


def steps(module: Any, payload: Any, *rest: Any) -> list[Step]:
    name = "veed" if module is lipsync else None
    choices = module.CATALOGUE.choices(name, None, payload.fallback_providers)
    made: list[Step] = module.CATALOGUE.steps(
        choices, lambda choice: module.plan(choice, payload, *rest), cost_limit=payload.cost_limit
    )
    return made


ENTRY = {"cost": 0.7, "quality": "high", "fps": 24}


def chain(type_: str, **payload: Any) -> list[Step]:
    if type_ == "gen_image_falai":
        return steps(image, ImagePayload.model_validate({"prompt": "p", **payload}), "square_hd")
    if type_ == "gen_video_falai":
        source = Source("https://x/i.png", "16:9")
        return steps(video, VideoPayload.model_validate({"prompt": "p", **payload}), source)
    inputs = Inputs("v", "a", is_still=False, audio_s=8.0)
    return steps(lipsync, LipSyncPayload.model_validate({**LEAST[type_], **payload}), inputs)


SECOND = {
    "gen_image_falai": "fal-ai/nano-banana",
    "gen_video_falai": "fal-ai/wan-i2v",
    "lip_sync_lypsso": "creatify/lipsync",
}


@pytest.mark.parametrize("type_", LEAST)
def test_what_an_entry_says_in_vain_is_noted(type_: str) -> None:
    plan = chain(type_, fallbackProviders=[{"endpoint": SECOND[type_], **ENTRY}])[1].plan
    assert isinstance(plan, Request)
    assert "fallbackProviders: quality high has no effect; it was left out." in plan.notes
    assert "fallbackProviders: fps 24 has no effect; it was left out." in plan.notes


@pytest.mark.parametrize("type_", LEAST)
def test_an_entrys_cost_counts_where_no_price_is_known(type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"fallbackProviders": [{"endpoint": SECOND[type_], **ENTRY}], "costLimit": 0.6}
    assert isinstance(chain(type_, **entry)[1].plan, Request)
    monkeypatch.setattr(prices, "PRICES", {})
    if type_ == "gen_video_falai":
        monkeypatch.setattr(video.prices, "WAN_480P_USD", 0.0)
        entry["fallbackProviders"][0]["endpoint"] = "fal-ai/wan-effects"
    assert chain(type_, **entry)[1].plan == Skip(
        "would cost about $0.70, over the job's costLimit of $0.60", ErrorClass.SPEND_LIMIT
    )


def test_a_clip_longer_than_an_entrys_maximum_skips_it() -> None:
    entries = [{"endpoint": "fal-ai/wan-i2v", "maxDuration": 5}]
    plan = chain("gen_video_falai", duration="6s", fallbackProviders=entries)[1].plan
    assert plan == Skip("the clip is 6.0 s, over its maxDuration of 5 s")
    assert isinstance(chain("gen_video_falai", duration="5s", fallbackProviders=entries)[1].plan, Request)


def test_a_picture_has_no_length_and_the_result_says_so() -> None:
    entries = [{"endpoint": "fal-ai/nano-banana", "maxDuration": 5}]
    plan = chain("gen_image_falai", fallbackProviders=entries)[1].plan
    assert isinstance(plan, Request)
    assert "fallbackProviders: maxDuration 5 has no effect on a picture." in plan.notes


@pytest.mark.parametrize("name", ["veed", "sync-lipsync-v2", "creatify"])
def test_lip_sync_models_say_what_they_do_not_take(name: str) -> None:
    payload = LipSyncPayload.model_validate(
        {**LEAST["lip_sync_lypsso"], "prompt": "smile", "seed": 3, "resolution": "1080p"}
    )
    plan = lipsync.plan(lipsync.CATALOGUE.choose(None, name), payload, Inputs("v", "a", False, 4.0))
    assert isinstance(plan, Request)
    assert not {"prompt", "seed", "resolution"} & set(plan.body)
    assert plan.notes == tuple(
        f"{name} takes no {field}; it was left out." for field in ("prompt", "seed", "resolution")
    )


@pytest.mark.parametrize("name", ["fabric", "infinitalk"])
def test_a_resolution_that_a_model_does_not_have_is_noted(name: str) -> None:
    def plan(resolution: str | None) -> Request:
        payload = LipSyncPayload.model_validate({**LEAST["lip_sync_lypsso"], "resolution": resolution})
        made = lipsync.plan(lipsync.CATALOGUE.choose(None, name), payload, Inputs("i", "a", True, 4.0))
        assert isinstance(made, Request)
        return made

    assert plan("1080p").body["resolution"] == "720p"
    assert plan("1080p").notes == (f"{name} takes no resolution 1080p; 720p was used.",)
    assert plan("480p").notes == plan(None).notes == ()


def speech(**payload: Any) -> Any:
    return plan_speech(TtsPayload.model_validate({"voiceId": "v", **payload}), seed=7)


def test_a_language_that_a_model_does_not_take_is_noted() -> None:
    plan = speech(text="Hola.", modelId="eleven_multilingual_v2", languageCode="es")
    assert "language_code" not in plan.arguments
    assert plan.notes == ["eleven_multilingual_v2 takes no languageCode; it was left out."]
    assert speech(text="Hola.", modelId="eleven_flash_v2_5", languageCode="es").notes == []


@pytest.mark.parametrize("model", ["eleven_v3", "eleven_multilingual_v2"])
def test_use_audio_tags_false_wins_over_enhance_emotion(model: str) -> None:
    settings = {"use_audio_tags": False, "enhance_emotion": True}
    plan = speech(text="We won!", modelId=model, dialogueSettings=settings)
    assert (plan.model, plan.pieces) == (model, ["We won!"])
    assert plan.notes == ["use_audio_tags is false: enhance_emotion, which adds one, was left out."]


def test_use_audio_tags_false_keeps_the_model_and_leaves_out_the_tags() -> None:
    def tagged(use: bool | None) -> Any:
        settings = {"use_audio_tags": use}
        text = "[sighs] Oh no."
        return speech(text=text, modelId="eleven_multilingual_v2", dialogueSettings=settings)

    plan = tagged(False)
    assert (plan.model, plan.pieces) == ("eleven_multilingual_v2", ["Oh no."])
    assert plan.notes == ["use_audio_tags is false: the audio tags in the text were left out."]
    for use in (None, True):
        plan = tagged(use)
        assert (plan.model, plan.pieces) == ("eleven_v3", ["[sighs] Oh no."])
        assert "eleven_v3 was asked instead" in plan.notes[0]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (0.5, "$0.50"),
        (0.025, "$0.0250"),
        (0.006554, "$0.006554"),
        (20, "$20.00"),
        (1.2345, "$1.2345"),
    ],
)
def test_an_amount_shows_what_matters(amount: float, text: str) -> None:
    assert dollars(amount) == text


def test_a_refusal_of_a_small_amount_says_by_how_much() -> None:
    with pytest.raises(JobError, match=r"about \$0\.0012, over the job's costLimit of \$0\.0010\."):
        check_cost(0.001, 0.0012, "The speech")


def test_what_is_wrong_with_a_payload_is_said_without_pydantics_prefix() -> None:
    with pytest.raises(ValidationError, match="Value error"):
        ImagePayload.model_validate({"prompt": " "})
    with pytest.raises(InvalidRequest) as caught:
        validated(ImagePayload, {"prompt": " "})
    assert (
        str(caught.value)
        == "The payload is not valid: prompt: is blank: say what the picture shows (given: ' ')"
    )
