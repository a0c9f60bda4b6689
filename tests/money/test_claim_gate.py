"""The claim leaves jobs that would only wait for their provider, and shares a provider between its types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from uuid import UUID, uuid4

import pytest

from tests.money.conftest import Ledger
from tests.support import Held

SPEECH = {"tts": "elevenlabs", "music": "elevenlabs", "sound": "elevenlabs", "image": "fal", "local": ""}


def serving(ledger: Ledger, slots: Mapping[str, int]) -> UUID:
    """A live worker that serves these types of SPEECH."""
    worker = uuid4()
    ledger.run(
        "select dreamcut_register_worker(%s, 'host', 1, '0', %s, %s, interval '60 s', %s)",
        worker, list(slots), list(slots.values()), [SPEECH[name] for name in slots],
    )  # fmt: skip
    return worker


def queued(ledger: Ledger, **jobs: int) -> None:
    for name, count in jobs.items():
        for _ in range(count):
            ledger.add(None, type=name)


def by_type(ledger: Ledger, held: list[Held]) -> Counter[str]:
    return Counter(ledger.job(job.id)["type"] for job in held)


def test_without_limits_all_slots_are_filled(ledger: Ledger) -> None:
    queued(ledger, tts=9, music=9)
    slots = {"tts": 3, "music": 2}
    assert by_type(ledger, ledger.claim_types(serving(ledger, slots), slots)) == slots


def test_types_that_share_a_provider_share_its_room_fairly(ledger: Ledger) -> None:
    queued(ledger, tts=50, music=50, sound=50, image=9, local=9)
    ledger.limit("elevenlabs", maxConcurrent=6)
    slots = {"tts": 10, "music": 10, "sound": 10, "image": 3, "local": 2}
    held = ledger.claim_types(serving(ledger, slots), slots)
    assert by_type(ledger, held) == {"tts": 2, "music": 2, "sound": 2, "image": 3, "local": 2}


def test_room_goes_to_the_type_with_the_fewest_calls_under_way(ledger: Ledger) -> None:
    queued(ledger, tts=50)
    ledger.limit("elevenlabs", maxConcurrent=6)
    slots = {"tts": 10, "music": 10}
    worker = serving(ledger, slots)
    for job in ledger.claim_types(worker, {"tts": 4}):
        ledger.begin(worker, job, provider="elevenlabs")
    queued(ledger, music=50)
    assert by_type(ledger, ledger.claim_types(worker, slots)) == {"music": 2}


def test_a_lone_type_gets_all_the_room_and_no_more(ledger: Ledger) -> None:
    queued(ledger, tts=50)
    ledger.limit("elevenlabs", maxConcurrent=6)
    slots = {"tts": 10, "music": 10}
    worker = serving(ledger, slots)
    held = ledger.claim_types(worker, slots)
    assert by_type(ledger, held) == {"tts": 6}
    for job in held:
        ledger.begin(worker, job, provider="elevenlabs")
    assert ledger.claim_types(worker, slots) == []


def test_fairness_holds_between_workers_of_different_types(ledger: Ledger) -> None:
    queued(ledger, tts=50, music=50)
    ledger.limit("elevenlabs", maxConcurrent=6)
    speaker, _musician = serving(ledger, {"tts": 10}), serving(ledger, {"music": 10})
    assert len(ledger.claim_types(speaker, {"tts": 10})) == 3


def test_no_room_is_kept_for_a_type_that_no_worker_can_run(ledger: Ledger) -> None:
    queued(ledger, tts=50, music=50)
    ledger.limit("elevenlabs", maxConcurrent=6)
    worker, gone = serving(ledger, {"tts": 10}), serving(ledger, {"music": 10})
    ledger.expire(gone)
    assert len(ledger.claim_types(worker, {"tts": 10})) == 6


def test_calls_of_the_last_minute_leave_less_room(ledger: Ledger) -> None:
    queued(ledger, tts=50)
    ledger.limit("elevenlabs", maxPerMinute=5)
    worker = serving(ledger, {"tts": 10})
    for job in ledger.claim_types(worker, {"tts": 3}):
        ledger.close(ledger.begin(worker, job, provider="elevenlabs"))
    assert len(ledger.claim_types(worker, {"tts": 10})) == 2
    ledger.later(61)
    assert len(ledger.claim_types(worker, {"tts": 10})) == 5


@pytest.mark.parametrize("until", ["infinity", "2100-01-01"])
def test_jobs_of_a_paused_provider_stay_pending_unharmed(ledger: Ledger, until: str) -> None:
    queued(ledger, tts=5, image=5)
    ledger.run("select dreamcut_pause_provider('elevenlabs', %s::timestamptz)", until)
    slots = {"tts": 3, "image": 3}
    assert by_type(ledger, ledger.claim_types(serving(ledger, slots), slots)) == {"image": 3}
    reasons = ledger.rows("select distinct reason from dreamcut_job_states where type = 'tts'")
    assert [row["reason"] for row in reasons] == [
        "waits for elevenlabs, which is paused: paused by an operator"
    ]
    rows = ledger.rows("select status, attempts, next_retry_at from dreamcut_jobs where type = 'tts'")
    assert all((row["status"], row["attempts"], row["next_retry_at"]) == ("pending", 0, None) for row in rows)


def test_after_the_pause_one_job_is_claimed_to_probe(ledger: Ledger) -> None:
    queued(ledger, tts=5, music=5)
    ledger.run("select dreamcut_pause_provider('elevenlabs', now() + interval '60 s')")
    ledger.later(61)
    slots = {"tts": 3, "music": 3}
    worker = serving(ledger, slots)
    (probe,) = ledger.claim_types(worker, slots)
    call = ledger.begin(worker, probe, provider="elevenlabs")
    assert ledger.claim_types(worker, slots) == []
    ledger.close(call)
    assert len(ledger.claim_types(worker, slots)) == 6


def test_a_worker_that_named_no_providers_claims_as_before(ledger: Ledger) -> None:
    queued(ledger, work=5)
    ledger.limit("elevenlabs", maxConcurrent=1)
    assert len(ledger.claim(ledger.worker(["work"]), 5, "work")) == 5
