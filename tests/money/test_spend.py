"""Spend limits are checked and reserved before the call, so that parallel jobs cannot overshoot together."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.errors import InvalidRequest
from dreamcuts.jobs.base import Payload
from dreamcuts.manifest.validate import check_manifest
from dreamcuts.worker.attempt import validated
from tests.money.conftest import LIMIT, SPEND_LIMIT, Ledger, manifest_with, refused
from tests.money.test_limits import at_once
from tests.support import Blocked


@pytest.mark.parametrize("where", ["manifest", "day"])
def test_parallel_jobs_cannot_overshoot_together(ledger: Ledger, database: str, where: str) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 1.00} if where == "manifest" else None)
    if where == "day":
        ledger.limit(dailyLimitUsd=1.00)
    worker, held = ledger.held(12, manifest=manifest)

    begun = at_once(database, worker, held, usd=0.3)

    assert begun == [SPEND_LIMIT] * 9 + ["begun"] * 3


def test_calls_of_one_job_count_each_other(ledger: Ledger, database: str) -> None:
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 1.00}))
    assert at_once(database, worker, [held] * 8, usd=0.3) == [SPEND_LIMIT] * 5 + ["begun"] * 3


def test_the_manifests_row_is_what_makes_it_exact(ledger: Ledger, database: str) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 1})
    worker, (one, two) = ledger.held(2, manifest=manifest)
    with psycopg.connect(database) as open_transaction:
        Ledger(open_transaction).begin(worker, one, usd=0.6)
        with Blocked(database, lambda queue: Ledger(queue.connection).begin(worker, two, usd=0.6)) as second:
            open_transaction.commit()
            with refused(SPEND_LIMIT):
                second.result()


def test_a_refusal_says_the_numbers(ledger: Ledger) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 1.00})
    worker, (held,) = ledger.held(1, manifest=manifest)
    ledger.close(ledger.begin(worker, held, usd=0.7), usd=0.655)
    with refused(SPEND_LIMIT) as info:
        ledger.begin(worker, held, usd=0.4)
    assert info["message"] == (
        "The call would go over the manifest's maxTotalCost of $1.00: $0.655 spent and reserved, "
        "$0.40 more needed"
    )
    assert (info["limit_usd"], info["committed_usd"], info["estimate_usd"]) == (1.00, 0.655, 0.4)


@pytest.mark.parametrize(
    ("status", "usd", "left"),
    [
        ("succeeded", 0.1, 0.9),  # corrected to what was billed
        ("succeeded", None, 0.4),  # nothing reported: the estimate stands
        ("unknown", None, 0.4),  # it may have been billed
        ("failed", None, 1.0),
        ("cancelled", None, 1.0),
        ("failed", 0.2, 0.8),
        (None, None, 0.4),  # under way: reserved
    ],
)
def test_what_a_call_counts_for(ledger: Ledger, status: str | None, usd: float | None, left: float) -> None:
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 1.00}))
    call = ledger.begin(worker, held, usd=0.6)
    if status is not None:
        ledger.close(call, status, usd=usd)
    with refused(SPEND_LIMIT):
        ledger.begin(worker, held, usd=left + 0.000001)
    ledger.begin(worker, held, usd=left)


def test_the_day_is_in_utc_and_yesterday_does_not_count(ledger: Ledger) -> None:
    ledger.limit(dailyLimitUsd=1)
    worker, (held,) = ledger.held(1)
    ledger.close(ledger.begin(worker, held, usd=1), usd=1)
    with refused(SPEND_LIMIT) as info:
        ledger.begin(worker, held, usd=0.01)
    assert "the daily limit of fal of $1.00" in info["message"]
    ledger.begin(worker, held, provider="elevenlabs", usd=5)
    ledger.run("update dreamcut_provider_calls set created_at = created_at - interval '24 hours'")
    ledger.begin(worker, held, usd=1)


def test_the_smallest_of_several_limits_counts(ledger: Ledger) -> None:
    ledger.limit(maxConcurrent=2, dailyLimitUsd=100)
    manifest = manifest_with(ledger, {"maxTotalCost": 5})
    worker, (held,) = ledger.held(1, manifest=manifest, payload=Jsonb({"costLimit": 0.5}))
    with refused(SPEND_LIMIT) as info:
        ledger.begin(worker, held, usd=0.6)
    assert info["reason"] == "the job's costLimit"
    ledger.begin(worker, held, usd=0.2)
    ledger.begin(worker, held, usd=0.2)
    with refused(LIMIT):
        ledger.begin(worker, held, usd=0.01)


@pytest.mark.parametrize("limit", ["ten dollars", -1, True, [5], {"usd": 5}, "1e999999", "NaN"])
def test_a_limit_that_cannot_be_read_is_not_taken_for_none(ledger: Ledger, limit: Any) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": limit})
    worker, (held,) = ledger.held(1, manifest=manifest)
    with refused(SPEND_LIMIT) as info:
        ledger.begin(worker, held, usd=0.01)
    assert info["message"].startswith("featureFlags.maxTotalCost must be US dollars, 0 or more, not ")


@pytest.mark.parametrize("limit", [None, 5, "5.50", 0.1])
def test_a_limit_may_be_a_number_in_words_or_null(ledger: Ledger, limit: Any) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": limit})
    worker, (held,) = ledger.held(1, manifest=manifest)
    ledger.begin(worker, held, usd=0.1)


def test_a_limit_of_zero_lets_free_calls_through(ledger: Ledger) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 0})
    worker, (held,) = ledger.held(1, manifest=manifest)
    ledger.begin(worker, held, usd=0)
    with refused(SPEND_LIMIT):
        ledger.begin(worker, held, usd=0.01)
    with refused(SPEND_LIMIT) as info:
        ledger.begin(worker, held, usd=None)
    assert "an unknown amount more needed" in info["message"]


def test_an_unknown_price_is_marked_until_the_cost_is_known(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held, usd=None)
    assert ledger.call(call)["detail"] == {"unpriced": True}
    ledger.close(call, usd=0.4)
    assert ledger.call(call)["detail"] is None
    other = ledger.begin(worker, held, usd=None)
    ledger.close(other, error="x", status="failed", body="teapot")
    assert ledger.call(other)["detail"] == {"unpriced": True, "body": "teapot"}


def test_amounts_are_kept_to_the_millionth(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held, usd=0.1 + 0.2)
    ledger.close(call, usd=1 / 3)
    row = ledger.call(call)
    assert (row["estimate_usd"], row["cost_usd"]) == (Decimal("0.300000"), Decimal("0.333333"))


def test_the_manifest_is_locked_before_the_job_as_everywhere(ledger: Ledger, database: str) -> None:
    """A cancel holds the manifest, then wants the job; a call that held the job already would deadlock."""
    manifest = manifest_with(ledger, {"maxTotalCost": 5})
    worker, (held,) = ledger.held(1, manifest=manifest)
    with psycopg.connect(database) as open_transaction:
        open_transaction.execute(
            "select 1 from dreamcut_production_manifest where id = %s for no key update", [manifest]
        )
        with Blocked(database, lambda queue: Ledger(queue.connection).begin(worker, held)) as call:
            Ledger(open_transaction).cancel(held.id)
            open_transaction.commit()
            with refused("DC001"):
                call.result()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"maxTotalCost": "ten"}, "maxTotalCost is 'ten'; write US dollars, 0 or more"),
        ({"maxTotalCost": -1}, "maxTotalCost is -1; write US dollars"),
        ({"maxTotalCost": True}, "maxTotalCost is True; write US dollars"),
        ({"reuseAssets": "yes"}, "reuseAssets is 'yes'; write true, false"),
        ({"maxTotalCost": 2.5, "reuseAssets": "always"}, None),
    ],
)
def test_flags_are_checked_before_anything_is_written(flags: dict[str, Any], problem: str | None) -> None:
    scenes = [{"id": "s1", "durationSeconds": 5}]
    manifest = {"metadata": {"durationSeconds": 5, "featureFlags": flags}, "scenes": scenes}
    found = [line for line in check_manifest(manifest) if "featureFlags" in line]
    assert len(found) == (0 if problem is None else 1), found
    assert (problem or "") in "".join(found)


@pytest.mark.parametrize("field", ["costLimit", "reuse"])
def test_a_payload_with_a_negative_limit_is_refused_before_any_call(field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        validated(Payload, {field: -1 if field == "costLimit" else "sometimes"})
