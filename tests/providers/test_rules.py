"""What all providers share: Retry-After, redaction, prices."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from dreamcuts.providers.prices import PRICES, billed, cost
from dreamcuts.providers.redaction import MAX_BODY_CHARS, kept_body, redact
from dreamcuts.providers.rules import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (" 30 ", 30.0),
        ("-3", 0.0),
        ("99999999", 3600.0),
        ("Wed, 21 Oct 2027 07:28:10 GMT", 3600.0),
        ("inf", 3600.0),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    sent = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert retry_after({"Retry-After": value, "Date": sent}) == seconds
    assert retry_after({"retry-after": value, "date": sent}) == seconds
    assert retry_after({"Date": sent}) is None


@pytest.mark.parametrize("skew_s", [-86_400, -30, 0, 30, 86_400])
def test_a_date_to_retry_after_does_not_depend_on_our_clock(
    skew_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    answer = {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 40, usegmt=True)}
    monkeypatch.setattr(time, "time", lambda: now + skew_s)
    assert retry_after(answer) == 40
    assert retry_after({"Retry-After": answer["Retry-After"]}) is None  # nothing says when it was sent


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Key abcdef12-3456:0123456789abcdef",
        "authorization: Bearer abcdefghijklmnopqrstuvwxyz",
        '{"xi-api-key": "0123456789SECRET"}',
        "xi-api-key=0123456789SECRET&x=1",
        "https://host/file?token=0123456789SECRET",
        "the key sk_0123456789SECRET is wrong",
        "postgresql://me:0123456789SECRET@host/db",
        "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZSJ9.0123456789SECRET",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    shown = redact(text)
    for secret in ("0123456789", "abcdef", "SECRET", "eyJ"):
        assert secret not in shown
    assert "[hidden]" in shown


def test_known_secrets_are_hidden_wherever_they_stand() -> None:
    assert redact("a my-odd-key b, my-odd c", ["my-odd-key:other-half"]) == "a [hidden] b, my-odd c"
    assert redact("tokens: 5, the key is missing", []) == "tokens: 5, the key is missing"


def test_a_kept_body_is_short() -> None:
    assert len(kept_body({"message": "x" * 5000})) == MAX_BODY_CHARS
    assert kept_body({"a": "ü"}) == '{"a": "ü"}'


def test_prices() -> None:
    assert cost("fal", "fal-ai/sync-lipsync/v2", seconds=6) == pytest.approx(0.3)
    assert cost("fal", "fal-ai/flux/srpo", pixels=1024 * 576) == pytest.approx(0.025)
    assert cost("fal", "fal-ai/flux/srpo", pixels=2048 * 2048, images=2) == pytest.approx(0.25)
    assert cost("fal", "fal-ai/nano-banana", images=3) == pytest.approx(0.117)
    assert cost("elevenlabs", "text-to-dialogue", characters=500) == pytest.approx(0.05)
    assert cost("elevenlabs", "music", seconds=90) == pytest.approx(0.45)
    assert cost("fal", "veed/lipsync") is None, "the length is not known"
    assert cost("fal", "acme/unknown", seconds=1) is None
    assert billed("fal", "fal-ai/flux/srpo", 2) == pytest.approx(0.05)
    assert billed("fal", "fal-ai/flux/srpo", None) is billed("fal", "acme/unknown", 2) is None
    assert all(price.usd >= 0 and price.source for price in PRICES.values())


def test_an_error_code_that_names_a_key_is_no_secret() -> None:
    text = "401 invalid_api_key: Invalid API key; api_key=abcdef123456"
    assert redact(text) == "401 invalid_api_key: Invalid API key; api_key=[hidden]"
