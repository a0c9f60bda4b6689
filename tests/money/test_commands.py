"""`dreamcuts providers`, `dreamcuts costs` and `dreamcuts manifests cost` on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import click.testing
import pytest

from dreamcuts.cli import cli
from dreamcuts.cli.moments import since, span
from dreamcuts.sandbox import Sandbox
from tests.money.conftest import Ledger, manifest_with

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(database: str) -> Run:
    def invoke(*arguments: str, **environment: str) -> click.testing.Result:
        runner = click.testing.CliRunner(env={"DATABASE_URL": database, **environment})
        return runner.invoke(cli, list(arguments), prog_name="dreamcuts")

    return invoke


def listed(run: Run, **environment: str) -> dict[str, Any]:
    result = run("providers", "list", "--json", **environment)
    assert result.exit_code == 0, result.stderr
    return {row["name"]: row for row in json.loads(result.stdout)}


def test_limits_are_set_changed_and_lifted(run: Run, ledger: Ledger) -> None:
    result = run("providers", "limit", "elevenlabs", "--concurrent", "5", "--per-minute", "60")
    assert (result.exit_code, result.stdout) == (0, "elevenlabs: 5 calls at a time, 60 calls a minute\n")
    result = run("providers", "limit", "elevenlabs", "--per-minute", "none", "--daily-usd", "12.5")
    assert result.stdout == "elevenlabs: 5 calls at a time, $12.50 a day\n"
    result = run("providers", "limit", "fal", "--endpoint", "fal-ai/veo3.1/fast", "--concurrent", "2")
    assert result.stdout == "fal fal-ai/veo3.1/fast: 2 calls at a time\n"

    rows = listed(run)
    assert (rows["elevenlabs"]["max_concurrent"], rows["elevenlabs"]["daily_limit_usd"]) == (5, 12.5)
    assert rows["fal"]["endpoints"][0]["max_concurrent"] == 2
    assert rows["shotstack"]["state"] == "ok"
    table = run("providers", "list").stdout
    assert "0 of 5" in table and "$0.00 of $12.50" in table and "fal-ai/veo3.1/fast" in table

    result = run("providers", "limit", "fal", "--endpoint", "fal-ai/veo3.1/fast", "--concurrent", "none")
    assert result.stdout == "fal fal-ai/veo3.1/fast: no limit\n"
    assert listed(run)["fal"]["endpoints"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fal", "--concurrent", "-1"], "Invalid value for '--concurrent': -1 cannot be a limit"),
        (["fal", "--per-minute", "-60"], "Invalid value for '--per-minute': -60 cannot be a limit"),
        (["fal", "--daily-usd", "-0.5"], "Invalid value for '--daily-usd': -0.5 cannot be a limit"),
        (["fal", "--daily-usd", "nan"], "nan cannot be a limit"),
        (["fal", "--concurrent", "0"], "0 would stop it. `dreamcuts providers pause` does that"),
        (["fal", "--concurrent", "2.5"], "'2.5' is no whole number"),
        (["fal", "--concurrent", "many"], "'many' is no whole number"),
        (["fal"], "Say what to limit: --concurrent, --per-minute or --daily-usd"),
        (["fall", "--concurrent", "1"], "There is no provider 'fall'. Did you mean 'fal'?"),
        (["fal", "--endpoint", "x", "--daily-usd", "1"], "--daily-usd is for a whole provider"),
        (["fal", "--endpoint", "nope/nope", "--concurrent", "1"], "There is no endpoint of fal 'nope/nope'."),
        (["fal", "--endpoint", "veed/lipsink", "--concurrent", "1"], "Did you mean 'veed/lipsync'? Known: "),
        (["elevenlabs", "--endpoint", "tts", "--per-minute", "1"], "text-to-dialogue, text-to-speech"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(
    run: Run, ledger: Ledger, arguments: list[str], message: str
) -> None:
    result = run("providers", "limit", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert ledger.rows("select 1 from dreamcut_providers") == []


def test_an_endpoint_that_was_called_or_is_limited_can_be_limited(run: Run, ledger: Ledger) -> None:
    """A plugin's job type may call what no catalogue of ours knows, and a plugin's provider has its own."""
    worker, (held,) = ledger.held(1)
    ledger.begin(worker, held, endpoint="acme/model")
    result = run("providers", "limit", "fal", "--endpoint", "acme/model", "--concurrent", "2")
    assert (result.exit_code, result.stdout) == (0, "fal acme/model: 2 calls at a time\n")
    ledger.run("delete from dreamcut_provider_calls")
    assert run("providers", "limit", "fal", "--endpoint", "acme/model", "--concurrent", "none").exit_code == 0
    for endpoint in ("veed/fabric-1.0", "veed/lipsync/v2"):
        assert run("providers", "limit", "fal", "--endpoint", endpoint, "--concurrent", "1").exit_code == 0
    ledger.run("select dreamcut_limit_provider('acme', '{\"maxConcurrent\": 3}')")
    result = run("providers", "limit", "acme", "--endpoint", "anything", "--concurrent", "1")
    assert (result.exit_code, result.stdout) == (0, "acme anything: 1 calls at a time\n")


def test_pause_and_resume(run: Run, ledger: Ledger) -> None:
    result = run("providers", "pause", "fal", "--reason", "invoice")
    assert (result.exit_code, result.stdout) == (0, "fal is paused until it is resumed\n")
    row = listed(run)["fal"]
    assert (row["state"], row["pause_reason"], row["paused_until"]) == ("paused", "invoice", None)
    assert "until it is resumed, by " in run("providers", "list").stdout

    worker, (held,) = ledger.held(1)
    ledger.fail(worker, held, error_class="paused", retry_after=3000, detail={"provider": "fal"})
    result = run("providers", "resume", "fal")
    assert result.stdout == "fal is resumed; waiting jobs that go on at once: 1\n"
    assert ledger.job(held.id)["next_retry_at"] is None
    assert listed(run)["fal"]["state"] == "ok"


def test_a_pause_can_have_an_end(run: Run, ledger: Ledger) -> None:
    result = run("providers", "pause", "fal", "--for", "2h")
    assert result.stdout.startswith("fal is paused until 2")
    left = ledger.value("select extract(epoch from paused_until - now()) from dreamcut_providers")
    assert 7190 < left <= 7200
    assert run("providers", "pause", "fal", "--for", "soon").exit_code == 2
    assert run("providers", "pause", "nobody").exit_code == 2


def test_test_tries_the_keys_without_paying(run: Run, sandbox: Sandbox) -> None:
    environment = sandbox.environment() | {"DATABASE_URL": ""}
    result = run("providers", "test", **environment)
    assert result.exit_code == 0, result.stdout
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines["elevenlabs"].startswith(
        "ok: the key is accepted; plan pro, 500,000 of 500,000 credits left"
    )
    assert lines["fal"].startswith("ok: the key is accepted")
    assert lines["shotstack"].startswith("ok: the key is accepted for stage and v1")
    assert sandbox.bills() == []


def test_test_says_which_key_is_wrong_and_shows_none(run: Run, sandbox: Sandbox) -> None:
    wrong = {
        "ELEVENLABS_API_KEY": "sk_wrong0123456789",
        "FAL_KEY": "wrong-id:wrong-secret-0123",
        "SHOTSTACK_API_KEY": "wrong-shotstack-key",
    }
    result = run("providers", "test", "--json", **(sandbox.environment() | wrong))
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [(row["name"], row["ok"], row["class"]) for row in rows] == [
        (name, False, "auth") for name in ("elevenlabs", "fal", "shotstack")
    ]
    assert not any(part in result.output for key in wrong.values() for part in key.split(":"))


def test_test_names_a_missing_key(run: Run) -> None:
    result = run("providers", "test", "fal")
    assert result.exit_code == 1
    assert "FAILED: Missing settings: FAL_KEY" in result.stdout
    assert run("providers", "test", "nobody").exit_code == 2


def spend(ledger: Ledger) -> Any:
    """Two providers, a call of each outcome."""
    manifest = manifest_with(ledger, {"maxTotalCost": 20})
    worker, (held,) = ledger.held(1, manifest=manifest, job_id="job_gen_1")
    ledger.close(ledger.begin(worker, held, endpoint="flux", usd=0.5), usd=0.4)
    ledger.close(ledger.begin(worker, held, endpoint="veo", usd=1.2), usd=None)
    ledger.close(ledger.begin(worker, held, endpoint="veo", usd=1.2), "failed", error="no")
    ledger.close(ledger.begin(worker, held, provider="elevenlabs", endpoint="music", usd=0.3), "unknown")
    ledger.begin(worker, held, provider="elevenlabs", endpoint="music", usd=None)
    other, (free,) = ledger.held(1, type="other")
    ledger.close(ledger.begin(other, free, endpoint="flux", usd=0.1), usd=0.1)
    ledger.run(
        "update dreamcut_provider_calls set created_at = now() - interval '10 days' where type = 'other'"
    )
    ledger.run(
        "select dreamcut_reuse_call(%s, %s, %s, 'fal', 'flux', 0, '{}', 'hash', %s, 0.5)",
        worker, held.id, held.claims, free.id,
    )  # fmt: skip
    return manifest


def costs(run: Run, *arguments: str) -> dict[str, Any]:
    result = run("costs", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return {row["key"]: row for row in json.loads(result.stdout)["rows"]}


def test_costs_by_all_that_there_is(run: Run, ledger: Ledger) -> None:
    manifest = spend(ledger)

    rows = costs(run)
    assert list(rows) == ["fal", "elevenlabs"], "the dearest first"
    assert (rows["fal"]["calls"], rows["fal"]["spent_usd"], rows["fal"]["saved_usd"]) == (5, 1.7, 0.5)
    music = rows["elevenlabs"]
    assert (music["spent_usd"], music["uncertain_usd"], music["unpriced_calls"]) == (0, 0.3, 1)
    assert {key: row["spent_usd"] for key, row in costs(run, "--by", "endpoint").items()} == {
        "fal veo": 1.2,
        "fal flux": 0.5,
        "elevenlabs music": 0,
    }
    assert {key: row["spent_usd"] for key, row in costs(run, "--by", "type").items()} == {
        "work": 1.6,
        "other": 0.1,
    }
    days = costs(run, "--by", "day")
    assert list(days) == sorted(days) and len(days) == 2
    manifests = costs(run, "--by", "manifest")
    assert (manifests[str(manifest)]["spent_usd"], manifests["no manifest"]["spent_usd"]) == (1.6, 0.1)
    assert costs(run, "--since", "7d")["fal"]["spent_usd"] == 1.6
    assert costs(run, "--since", "2999-01-01") == {}

    table = run("costs", "--since", "7d").stdout
    assert "SPENT" in table and "$1.60" in table and "UNCERTAIN" in table and "total" in table
    assert run("costs", "--since", "2999-01-01").stderr == "No calls.\n"
    assert run("costs", "--by", "colour").exit_code == 2
    assert "'last week' is no time" in run("costs", "--since", "last week").stderr


def test_the_views_say_the_same(ledger: Ledger) -> None:
    spend(ledger)
    for view in ("manifest", "provider", "endpoint", "type", "day"):
        row = ledger.row(
            "select sum(calls) as calls, sum(spent_usd) as spent, sum(saved_usd) as saved"
            f" from dreamcut_spend_by_{view}"
        )
        assert (row["calls"], float(row["spent"]), float(row["saved"])) == (7, 1.7, 0.5), view
    [unknown] = ledger.rows("select provider, at_most_usd from dreamcut_unknown_calls")
    assert (unknown["provider"], float(unknown["at_most_usd"])) == ("elevenlabs", 0.3)


def test_the_ledger_outlives_its_jobs(run: Run, ledger: Ledger) -> None:
    spend(ledger)
    ledger.run("delete from dreamcut_jobs")
    assert costs(run, "--by", "type")["work"]["spent_usd"] == 1.6


def test_what_a_manifest_cost(run: Run, ledger: Ledger) -> None:
    manifest = spend(ledger)
    result = run("manifests", "cost", str(manifest)[:8], "--json")
    found = json.loads(result.stdout)
    assert (found["limit_usd"], found["total"]["spent_usd"], found["total"]["calls"]) == ("20", 1.6, 6)
    assert {(row["job_id"], row["endpoint"]) for row in found["jobs"]} == {
        ("job_gen_1", "flux"),
        ("job_gen_1", "veo"),
        ("job_gen_1", "music"),
    }
    assert len(found["unknown"]) == 1
    table = run("manifests", "cost", str(manifest)).stdout
    assert "$1.60" in table and "maxTotalCost: $20" in table and "unknown outcome" in table
    assert run("manifests", "cost", str(manifest_with(ledger))).stderr == "No calls.\n"


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("7 d", timedelta(days=7)),
        ("2W", timedelta(14)),
    ],
)
def test_lengths_of_time(text: str, length: timedelta) -> None:
    assert span(text) == length
    assert abs(datetime.now(UTC) - length - since(text)) < timedelta(minutes=1)


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "0d", "7y", "99999999999d"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"7d"):
        span(text)
    with pytest.raises(click.BadParameter, match=r"2026-11-01"):
        since(text)
