"""ElevenLabs through its real SDK: the error table row by row, no retries, files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass as E
from dreamcuts.errors import ProviderError
from dreamcuts.media import probe
from dreamcuts.providers.elevenlabs import RULES, ElevenLabsProvider, parse_error
from dreamcuts.providers.rules import decide
from dreamcuts.sandbox import Sandbox

pytestmark = pytest.mark.anyio


def new_form(code: str) -> dict[str, Any]:
    return {"detail": {"type": "error", "code": code, "status": code, "message": "why", "request_id": "r"}}


def old_form(code: str) -> dict[str, Any]:
    return {"detail": {"status": code, "message": "why"}}


LIST_FORM = {"detail": [{"loc": ["body", "duration_seconds"], "msg": "too long", "type": "less_than_equal"}]}

ROWS = [
    (429, new_form("concurrent_limit_exceeded"), E.RATE_LIMITED),
    (429, old_form("too_many_concurrent_requests"), E.RATE_LIMITED),
    (429, new_form("rate_limit_exceeded"), E.RATE_LIMITED),
    (429, old_form("system_busy"), E.OVERLOADED),
    (503, old_form("system_busy"), E.OVERLOADED),
    (429, "slow down", E.RATE_LIMITED),
    (401, old_form("quota_exceeded"), E.QUOTA),
    (402, "pay", E.QUOTA),
    (401, new_form("invalid_api_key"), E.AUTH),
    (404, new_form("voice_not_found"), E.INVALID_REQUEST),
    (400, old_form("voice_not_found"), E.INVALID_REQUEST),
    (400, new_form("max_character_limit_exceeded"), E.INVALID_REQUEST),
    (400, new_form("text_too_long"), E.INVALID_REQUEST),
    (400, new_form("invalid_parameters"), E.INVALID_REQUEST),
    (422, LIST_FORM, E.INVALID_REQUEST),
    (400, new_form("bad_prompt"), E.CONTENT_REJECTED),
    (400, new_form("bad_composition_plan"), E.CONTENT_REJECTED),
    (403, new_form("only_for_creator+"), E.AUTH),
    (401, "no", E.AUTH),
    (408, "", E.TRANSIENT),
    (409, "", E.TRANSIENT),
    (425, "", E.TRANSIENT),
    (500, new_form("internal"), E.TRANSIENT),
    (502, "<html>bad gateway</html>", E.TRANSIENT),
    (503, "", E.TRANSIENT),
    (504, "", E.TRANSIENT),
    (418, new_form("never_heard_of"), E.TRANSIENT),
]


@pytest.mark.parametrize(("status", "body", "expected"), ROWS)
async def test_error_table(
    box: Sandbox, elevenlabs: ElevenLabsProvider, tmp_path: Path, status: int, body: Any, expected: E
) -> None:
    box.fail("status", provider="elevenlabs", status=status, body=body, times=None)

    with pytest.raises(ProviderError) as caught:
        await elevenlabs.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")

    assert caught.value.error_class is expected
    assert caught.value.status == status
    assert not caught.value.outcome_unknown
    assert len(box.requests.entries("elevenlabs")) == 1, "the SDK must not retry"


def test_every_row_of_the_table_is_tested() -> None:
    hit = set()
    for status, body, _ in ROWS:
        code, message, _ = parse_error(body)
        hit.add(
            RULES.index(decide(RULES, status=status, code=code, message=message)) if status != 418 else -1
        )
    assert hit >= set(range(len(RULES))), [RULES[row] for row in set(range(len(RULES))) - hit]


@pytest.mark.parametrize("call", ["plan", "dialogue", "speech"])
async def test_plain_requests_are_not_retried_either(
    box: Sandbox, elevenlabs: ElevenLabsProvider, call: str
) -> None:
    box.fail("status", provider="elevenlabs", status=500, times=None)

    with pytest.raises(ProviderError):
        if call == "plan":
            await elevenlabs.music_plan(prompt="p", music_length_ms=5000, model_id="music_v1")
        elif call == "dialogue":
            await elevenlabs.dialogue(inputs=[{"text": "Hi", "voice_id": "v"}], output_format="mp3_44100_128")
        else:
            await elevenlabs.speech("v", text="Hi", output_format="mp3_44100_128")

    assert len(box.requests.entries("elevenlabs")) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after(box: Sandbox, elevenlabs: ElevenLabsProvider, tmp_path: Path, form: str) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    headers = {"Retry-After": "7" if form == "seconds" else later}
    box.fail("status", provider="elevenlabs", status=429, headers=headers)

    with pytest.raises(ProviderError) as caught:
        await elevenlabs.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")

    if form == "seconds":
        assert caught.value.retry_after == 7
    else:
        # From the answer's Date, which its server renews once a second: it may be a second old.
        assert caught.value.retry_after is not None and 30 < caught.value.retry_after <= 92


@pytest.mark.parametrize(("kind", "bills"), [("drop_after", 1), ("drop_before", 0)])
async def test_a_lost_answer_is_of_unknown_outcome_and_not_asked_again(
    box: Sandbox, elevenlabs: ElevenLabsProvider, tmp_path: Path, kind: str, bills: int
) -> None:
    box.fail(kind, provider="elevenlabs", times=1)

    with pytest.raises(ProviderError) as caught:
        await elevenlabs.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")

    assert caught.value.outcome_unknown and caught.value.error_class is E.TRANSIENT
    assert len(box.bills()) == bills
    assert len(box.requests.entries("elevenlabs")) == 1


async def test_nobody_there_is_no_unknown_outcome(settings: Settings, tmp_path: Path) -> None:
    provider = ElevenLabsProvider.from_settings(
        settings.model_copy(update={"elevenlabs_base_url": "http://127.0.0.1:9"})
    )
    with pytest.raises(ProviderError) as caught:
        await provider.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")
    await provider.aclose()

    assert not caught.value.outcome_unknown and caught.value.error_class is E.TRANSIENT
    assert "could not be reached" in str(caught.value)


async def test_the_key_never_shows(box: Sandbox, elevenlabs: ElevenLabsProvider, tmp_path: Path) -> None:
    key = box.environment()["ELEVENLABS_API_KEY"]
    body = {"detail": {"status": "odd", "message": f"key {key} is odd", "echo": f"xi-api-key: {key}"}}
    box.fail("status", provider="elevenlabs", status=500, body=body)

    with pytest.raises(ProviderError) as caught:
        await elevenlabs.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")

    assert key not in str(caught.value) and key not in str(caught.value.detail)
    assert "is odd" in str(caught.value)


async def test_a_wrong_key_is_auth(settings: Settings, tmp_path: Path) -> None:
    from pydantic import SecretStr

    wrong = settings.model_copy(update={"elevenlabs_api_key": SecretStr("sk_wrong_key_for_tests")})
    provider = ElevenLabsProvider.from_settings(wrong)
    with pytest.raises(ProviderError) as caught:
        await provider.sound_effect(tmp_path / "s.mp3", output_format="mp3_44100_128", text="a bell rings")
    await provider.aclose()

    assert caught.value.error_class is E.AUTH
    assert "sk_wrong_key_for_tests" not in str(caught.value)


async def test_sound_is_streamed_to_the_file(
    box: Sandbox, elevenlabs: ElevenLabsProvider, tmp_path: Path
) -> None:
    target = tmp_path / "s.mp3"
    request_id = await elevenlabs.sound_effect(
        target, output_format="mp3_44100_128", text="a bell rings", duration_seconds=2.0
    )

    assert request_id
    assert probe(target).duration == pytest.approx(2.0, abs=0.1)
