"""Reuse: what the same user has had made before is not paid again, where a job asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from dreamcuts.jobs.reuse import identity_of, request_hash
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger, manifest_with
from tests.money.test_engine import run

pytestmark = pytest.mark.anyio

Work = Callable[..., Worker]
ADA, BOB = uuid4(), uuid4()
IMAGE = ("gen_image_falai", {"prompt": "A small lighthouse", "model": "flux-srpo", "imageSize": "square"})
SPEECH = ("tts_elevenlabs", {"text": "Hello there.", "voiceId": "v"})
MUSIC = ("gen_music_elevenlabs", {"mood": "calm", "durationSec": 3})
SOUND = ("gen_sound_effects_elevenlabs", {"text": "whoosh", "durationSeconds": 1.0})
SLOTS = {"image": 1, "tts": 1, "music": 1, "sound_effects": 1}


def add(
    ledger: Ledger,
    job: tuple[str, dict[str, Any]],
    *,
    reuse: Any = None,
    user: UUID | None = ADA,
    manifest: UUID | None = None,
    flags: dict[str, Any] | None = None,
    **columns: Any,
) -> UUID:
    manifest = manifest or manifest_with(ledger, flags, user=user)
    payload = job[1] if reuse is None else {**job[1], "reuse": reuse}
    return ledger.add(manifest, type=job[0], payload=Jsonb(payload), **columns)


async def made_then(ledger: Ledger, work: Work, first: UUID, *then: UUID) -> list[dict[str, Any]]:
    """Run everything; returns the rows of the later jobs."""
    await run(work(**SLOTS))
    rows = [ledger.job(job) for job in (first, *then)]
    assert [row["status"] for row in rows] == ["completed"] * len(rows), [r["error_message"] for r in rows]
    return rows


@pytest.mark.parametrize(("job", "reuse"), [(IMAGE, True), (SPEECH, True), (MUSIC, True), (SOUND, "always")])
async def test_the_same_request_is_carried_out_once(
    ledger: Ledger, sandbox: Sandbox, work: Work, job: tuple[str, dict[str, Any]], reuse: Any
) -> None:
    [first] = await made_then(ledger, work, add(ledger, job))
    paid = len(sandbox.bills())

    [second] = await made_then(ledger, work, add(ledger, job, reuse=reuse))

    assert len(sandbox.bills()) == paid
    assert second["output_url"] == first["output_url"]
    result = second["result"]
    assert result["reusedFrom"] == {"manifestId": str(first["manifest_id"]), "jobId": first["job_id"]}
    assert result["sha256"] == first["result"]["sha256"]
    assert result["costUsd"] == 0 and result["savedUsd"] > 0
    [call] = ledger.rows("select * from dreamcut_provider_calls where job = %s", second["id"])
    assert (call["status"], call["cost_usd"], call["reused_from"]) == ("reused", 0, first["id"])
    assert float(call["saved_usd"]) == pytest.approx(result["savedUsd"])
    [spend] = ledger.rows(
        "select * from dreamcut_spend_by_manifest where manifest_id = %s", second["manifest_id"]
    )
    assert (spend["spent_usd"], spend["saved_usd"]) == (0, call["saved_usd"])


async def test_a_reused_speech_keeps_its_word_times(ledger: Ledger, sandbox: Sandbox, work: Work) -> None:
    [first] = await made_then(ledger, work, add(ledger, SPEECH))
    [second] = await made_then(ledger, work, add(ledger, SPEECH, reuse=True))
    assert second["result"]["words"] == first["result"]["words"] != []


@pytest.mark.parametrize(
    ("change", "reuse"),
    [
        ({}, None),  # nobody asked for it
        ({}, False),
        ({"user": BOB}, True),  # another user
        ({"user": None}, True),  # nobody's, and another manifest
        ({"flags": {"reuseAssets": True}}, False),  # the job has the last word
        ({"flags": {"reuseAssets": "yes"}}, None),
    ],
)
async def test_what_is_not_asked_for_or_not_ones_own_is_made_anew(
    ledger: Ledger, sandbox: Sandbox, work: Work, change: dict[str, Any], reuse: Any
) -> None:
    await made_then(ledger, work, add(ledger, IMAGE))
    [second] = await made_then(ledger, work, add(ledger, IMAGE, reuse=reuse, **change))
    assert "reusedFrom" not in second["result"]
    assert len(sandbox.bills("fal")) == 2


@pytest.mark.parametrize(
    "change", [{"prompt": "A tall lighthouse"}, {"seed": 7}, {"model": "nano-banana"}, {"numImages": 2}]
)
async def test_another_request_is_made_anew(
    ledger: Ledger, sandbox: Sandbox, work: Work, change: dict[str, Any]
) -> None:
    await made_then(ledger, work, add(ledger, IMAGE))
    [second] = await made_then(ledger, work, add(ledger, (IMAGE[0], IMAGE[1] | change), reuse=True))
    assert "reusedFrom" not in second["result"]


@pytest.mark.parametrize("asked", [{"flags": {"reuseAssets": True}}, {"metadata": Jsonb({"reuse": True})}])
async def test_the_manifest_or_the_jobs_metadata_can_ask_too(
    ledger: Ledger, sandbox: Sandbox, work: Work, asked: dict[str, Any]
) -> None:
    await made_then(ledger, work, add(ledger, IMAGE))
    [second] = await made_then(ledger, work, add(ledger, IMAGE, **asked))
    assert second["result"]["reusedFrom"]


async def test_a_model_without_a_seed_is_left_out_unless_always(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    await made_then(ledger, work, add(ledger, SOUND))
    second, third = await made_then(
        ledger, work, add(ledger, SOUND, reuse=True), add(ledger, SOUND, reuse="always")
    )
    assert "reusedFrom" not in second["result"] and third["result"]["reusedFrom"]


async def test_without_a_user_only_the_same_manifest_counts(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    manifest = manifest_with(ledger)
    await made_then(ledger, work, add(ledger, IMAGE, manifest=manifest))
    [second] = await made_then(ledger, work, add(ledger, IMAGE, manifest=manifest, reuse=True))
    assert second["result"]["reusedFrom"]["manifestId"] == str(manifest)


async def test_an_asset_that_is_gone_is_made_anew(ledger: Ledger, sandbox: Sandbox, work: Work) -> None:
    [first] = await made_then(ledger, work, add(ledger, IMAGE))
    for stored in sandbox.state.storage.rglob("*"):
        if stored.is_file():
            stored.unlink()
    [second] = await made_then(ledger, work, add(ledger, IMAGE, reuse=True))
    assert "reusedFrom" not in second["result"]
    assert first["output_url"] != second["output_url"]


async def test_a_reused_speech_leads_to_the_same_request_for_what_uses_it(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    """The asset keeps its URL, so that what is made of it can be reused as well."""
    [first] = await made_then(ledger, work, add(ledger, SPEECH))
    [second] = await made_then(ledger, work, add(ledger, SPEECH, reuse=True))
    [third] = await made_then(ledger, work, add(ledger, SPEECH, reuse=True))
    assert first["output_url"] == second["output_url"] == third["output_url"]
    assert third["result"]["reusedFrom"]["jobId"] == first["job_id"], "a reused call made nothing"


def test_the_hash_is_that_of_the_meaning_not_of_the_writing() -> None:
    one = request_hash("fal", "x", {"prompt": "a", "size": {"w": 1.0, "h": 2}, "list": [1, 2]})
    assert one == request_hash("fal", "x", {"list": [1.0, 2], "size": {"h": 2.0, "w": 1}, "prompt": "a"})
    assert len(one) == 64
    for provider, endpoint, body in (
        ("fal", "y", {"prompt": "a"}),
        ("acme", "x", {"prompt": "a"}),
        ("fal", "x", {"prompt": "b"}),
        ("fal", "x", {"prompt": ["a"]}),
    ):
        assert request_hash(provider, endpoint, body) != request_hash("fal", "x", {"prompt": "a"})


def test_a_seed_counts_only_if_the_job_asked_for_it() -> None:
    request = {"prompt": "a", "seed": 7}
    assert identity_of(request, None, {}) == {"prompt": "a"}
    assert identity_of(request, None, {"seed": 7}) == request
    assert identity_of(request, {"cue": 1}, {}) == {"cue": 1}
