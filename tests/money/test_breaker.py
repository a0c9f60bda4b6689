"""The circuit breaker: what pauses a provider, for how long, and what lets it go on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.money.conftest import PAUSED, Ledger, refused
from tests.support import Held

pytestmark = pytest.mark.usefixtures("ledger")


def fail(ledger: Ledger, worker: Any, held: Held, error_class: str, times: int = 1, **detail: Any) -> None:
    for _ in range(times):
        call = ledger.begin(worker, held)
        ledger.close(call, "failed", error_class=error_class, error=f"fal answered {error_class}", **detail)


def seconds_left(ledger: Ledger) -> float:
    until: datetime = ledger.provider()["paused_until"]
    return (until - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("error_class", ["auth", "quota"])
def test_a_refusal_of_the_account_pauses_the_provider_for_all(ledger: Ledger, error_class: str) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, error_class)

    assert ledger.provider()["state"] == "paused"
    assert 290 < seconds_left(ledger) <= 300
    with refused(PAUSED) as info:
        ledger.begin(worker, held)
    assert (info["provider"], info["class"], info["by"]) == ("fal", error_class, "breaker")
    assert info["reason"] == f"fal answered {error_class}" and 290 < info["wait_s"] <= 300
    assert info["message"].startswith("fal is paused until ") and info["message"].endswith(info["reason"])
    ledger.begin(worker, held, provider="elevenlabs")


def test_five_failures_in_a_row_pause_it_and_four_do_not(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "transient", 4)
    assert (ledger.provider()["state"], ledger.provider()["failures_in_a_row"]) == ("ok", 4)
    fail(ledger, worker, held, "overloaded")
    assert ledger.provider()["state"] == "paused" and 20 < seconds_left(ledger) <= 30


@pytest.mark.parametrize(
    ("status", "error_class"),
    [("succeeded", None), ("failed", "content_rejected"), ("failed", "invalid_request")],
)
def test_an_answer_ends_the_run(ledger: Ledger, status: str, error_class: str | None) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "transient", 4)
    ledger.close(ledger.begin(worker, held), status, error_class=error_class)
    fail(ledger, worker, held, "transient", 4)
    assert ledger.provider()["state"] == "ok"


def test_what_is_no_word_about_the_provider_counts_for_nothing(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "transient", 4)
    ledger.close(ledger.begin(worker, held), "cancelled", error="the job was cancelled")
    ledger.close(ledger.begin(worker, held), "unknown", error="the worker stopped")
    fail(ledger, worker, held, "transient", 3, tryNext=True)  # one model's own trouble
    assert (ledger.provider()["state"], ledger.provider()["failures_in_a_row"]) == ("ok", 4)


def test_after_the_pause_one_call_probes_and_the_others_wait(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "auth")
    ledger.later(301)
    assert ledger.provider()["state"] == "probing"

    probe = ledger.begin(worker, held)
    with refused(PAUSED) as info:
        ledger.begin(worker, held)
    assert info["wait_s"] == 10 and "until a call has shown that it is well again" in info["message"]

    ledger.close(probe)
    assert (ledger.provider()["state"], ledger.provider()["pauses_in_a_row"]) == ("ok", 0)
    ledger.begin(worker, held)
    ledger.begin(worker, held)


def test_a_probe_that_fails_pauses_twice_as_long_up_to_an_hour(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    for minutes in (5, 10, 20, 40, 60, 60):
        fail(ledger, worker, held, "quota")
        assert minutes * 60 - 10 < seconds_left(ledger) <= minutes * 60
        ledger.later(3601)


def test_a_run_of_failures_pauses_twice_as_long_each_time(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "transient", 5)
    for seconds in (60, 120):
        ledger.later(seconds)
        fail(ledger, worker, held, "transient")
        assert seconds - 10 < seconds_left(ledger) <= seconds


def test_a_probe_that_says_nothing_lets_the_next_one_probe(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "auth")
    ledger.later(301)
    ledger.close(ledger.begin(worker, held), "cancelled")
    assert ledger.provider()["state"] == "probing"
    ledger.close(ledger.begin(worker, held))
    assert ledger.provider()["state"] == "ok"


def test_a_probe_that_nobody_heard_of_again_is_given_up(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "auth")
    ledger.later(301)
    ledger.begin(worker, held)
    ledger.later(14 * 60)
    with refused(PAUSED):
        ledger.begin(worker, held)
    ledger.later(61)
    ledger.begin(worker, held)


def test_an_accepted_submission_is_enough_for_the_others_to_go_on(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    fail(ledger, worker, held, "transient", 5)
    ledger.later(31)
    probe = ledger.begin(worker, held)
    ledger.submitted(probe)
    assert ledger.provider()["state"] == "ok"
    other = ledger.begin(worker, held)

    ledger.close(probe, "failed", error_class="transient")  # accepted, and failed all the same

    assert ledger.provider()["state"] == "paused" and 50 < seconds_left(ledger) <= 60
    ledger.close(other)
    assert ledger.provider()["state"] == "paused", "the other call began before the pause"


def test_calls_under_way_neither_end_a_pause_nor_make_it_longer(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    calls = [ledger.begin(worker, held) for _ in range(3)]
    fail(ledger, worker, held, "auth")
    ledger.later(100)
    ledger.close(calls[0])
    ledger.close(calls[1], "failed", error_class="auth")
    assert ledger.provider()["state"] == "paused" and 190 < seconds_left(ledger) <= 200


def test_a_person_pauses_it_until_it_is_resumed(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    ledger.run("select dreamcut_pause_provider('fal', p_reason => 'invoice', p_by => 'ada')")
    ledger.later(86_400)
    with refused(PAUSED) as info:
        ledger.begin(worker, held)
    assert (info["until"], info["by"], info["class"], info["wait_s"]) == (None, "ada", None, 60)
    assert info["message"] == "fal is paused until it is resumed: invoice"
    ledger.run("select dreamcut_resume_provider('fal')")
    ledger.begin(worker, held)


def test_a_pause_with_an_end_is_over_after_a_probe(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    ledger.run("select dreamcut_pause_provider('fal', now() + interval '1 hour')")
    ledger.later(3601)
    ledger.close(ledger.begin(worker, held))
    assert ledger.provider()["state"] == "ok"


def test_resuming_lets_the_jobs_go_that_wait_because_of_it(ledger: Ledger) -> None:
    worker, held = ledger.held(4)
    for job, error_class, provider in zip(
        held, ("paused", "auth", "paused", "transient"), ("fal", "fal", "elevenlabs", "fal"), strict=True
    ):
        ledger.fail(worker, job, error_class=error_class, retry_after=3000, detail={"provider": provider})
    ledger.run("select dreamcut_pause_provider('fal')")

    assert ledger.value("select dreamcut_resume_provider('fal')") == 2

    assert [ledger.job(job.id)["next_retry_at"] is None for job in held] == [True, True, False, False]
    assert all(
        ledger.job(job.id)["attempts"] == attempts for job, attempts in zip(held, (0, 0, 0, 1), strict=True)
    )


def test_what_nobody_limited_or_broke_has_no_row(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    ledger.close(ledger.begin(worker, held), usd=0.1)
    ledger.close(ledger.begin(worker, held), "failed", error_class="content_rejected")
    assert ledger.rows("select * from dreamcut_providers") == []
