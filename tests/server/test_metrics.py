"""/metrics: what a worker counts, how the queue stands, and that Grafana and alerts ask for what exists."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import promql_parser
import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dreamcuts.client import Client
from dreamcuts.errors import ErrorClass
from dreamcuts.queue.models import Completed, Failed, HandedBack, Job, Settled
from dreamcuts.server import Pulse, health_server, make_app
from dreamcuts.server.data import Reader
from dreamcuts.server.metrics import Exposition, Metrics
from dreamcuts.worker.observer import Observers
from dreamcuts.worker.status import WorkerStatus

REPOSITORY = Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "deploy/prometheus/alerts.yml"
ADDED_BY_PROMETHEUS = {"instance", "job"}
JOB = Job(uuid4(), None, "job_tts_s1", "tts_elevenlabs", {}, 1, 3, 1)


class State:
    def is_running(self) -> bool:
        return True

    def database_silence(self) -> float:
        return 1.5

    def lease_seconds(self) -> float:
        return 45.0

    def worker_statuses(self) -> list[WorkerStatus]:
        return [WorkerStatus("tts", True, 2, 3, "elevenlabs")]


def used() -> Metrics:
    """Metrics of a worker that has done one of everything."""
    metrics = Metrics()
    call = uuid4()
    metrics.claimed(2, 0.004)
    metrics.attempt_began(JOB)
    metrics.call_began(JOB, call, "elevenlabs", "dialogue")
    metrics.call_ended(JOB, call, "succeeded", 0.25)
    metrics.call_ended(JOB, uuid4(), "failed", None)
    metrics.attempt_ended(JOB, Completed(JOB, {}), 3.0)
    metrics.settled(Settled(Completed(JOB, {}), "completed"))
    metrics.settled(Settled(Failed(JOB, ErrorClass.RATE_LIMITED, "slow"), "pending", datetime.now(UTC)))
    metrics.settled(Settled(Failed(JOB, ErrorClass.BUG, "oh"), "failed"))
    metrics.settled(Settled(HandedBack(JOB, "drain"), "pending"))
    metrics.settled(Settled(Completed(JOB, {}), None))
    metrics.lag(0.002)
    return metrics


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(dsn: str, metrics: Metrics) -> str:
    reader, pulse = Reader(dsn), Pulse(on_lag=metrics.lag)
    app = make_app(State(), metrics=Exposition(metrics, State(), reader), lifespan=reader.opened)
    async with (
        pulse.beating(),
        health_server(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(timeout=20) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


@pytest.mark.anyio
async def test_metrics_count_what_the_worker_did_and_how_the_queue_stands(
    database: str, connection: psycopg.Connection
) -> None:
    client = Client(connection)
    client.enqueue("tts_elevenlabs", {})
    client.enqueue("tts_elevenlabs", {}, run_at=datetime(2099, 1, 1, tzinfo=UTC))
    found = samples(await scrape(database, used()))

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    tts = "tts_elevenlabs"
    assert value("dreamcuts_claimed_jobs_total") == 2
    assert value("dreamcuts_claim_seconds_bucket", le="0.005") == 1
    assert value("dreamcuts_run_seconds_bucket", type=tts, le="2.5") == 0
    assert value("dreamcuts_run_seconds_bucket", type=tts, le="5.0") == 1
    outcomes = {
        (labels["outcome"], labels["error_class"]): number
        for (name, pairs), number in found.items()
        if name == "dreamcuts_outcomes_total" and (labels := dict(pairs))
    }
    assert outcomes == {
        ("completed", ""): 1,
        ("retried", "rate_limited"): 1,
        ("failed", "bug"): 1,
        ("released", ""): 1,
        ("refused", ""): 1,
    }
    assert (
        value(
            "dreamcuts_provider_calls_total", provider="elevenlabs", endpoint="dialogue", status="succeeded"
        )
        == 1
    )
    assert value("dreamcuts_provider_calls_total", provider="resumed", endpoint="", status="failed") == 1
    assert value("dreamcuts_provider_cost_usd_total", provider="elevenlabs", endpoint="dialogue") == 0.25
    assert value("dreamcuts_worker_slots", type=tts) == 3
    assert value("dreamcuts_worker_database_silence_seconds") == 1.5
    assert value("dreamcuts_database_up") == 1
    assert value("dreamcuts_queue_jobs", type=tts, state="ready") == 1
    assert value("dreamcuts_queue_jobs", type=tts, state="delayed") == 1
    assert value("dreamcuts_queue_oldest_ready_seconds", type=tts) >= 0


@pytest.mark.anyio
async def test_metrics_without_the_database_say_so_and_nothing_else_about_the_queue() -> None:
    found = samples(await scrape("postgresql://nobody@127.0.0.1:1/none", used()))
    assert found["dreamcuts_database_up", frozenset()] == 0
    assert not any(name.startswith("dreamcuts_queue_") for name, _ in found)
    assert found["dreamcuts_claimed_jobs_total", frozenset()] == 2


def test_an_observer_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Metrics):
        def claimed(self, jobs: int, seconds: float) -> None:
            raise RuntimeError("broken observer")

    metrics = Metrics()
    Observers([Broken(), metrics]).claimed(3, 0.1)
    assert metrics.registry.get_sample_value("dreamcuts_claimed_jobs_total") == 3
    assert "broken observer" in caplog.text


def expressions() -> Iterator[tuple[str, str]]:
    board = json.loads((REPOSITORY / "deploy/grafana/dreamcuts.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"Grafana: {panel['title']}", target["expr"]
    rules: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
            yield f"alert: {rule['alert']}", rule["expr"]


def parts(where: str, expression: str) -> list[promql_parser.Expr]:
    """The nodes of an expression, which is checked as Prometheus does: brackets, functions, arguments."""
    found: list[promql_parser.Expr] = []
    try:
        promql_parser.walk(promql_parser.parse(expression), found.append)
    except ValueError as error:
        pytest.fail(f"{where}: {error}: {expression}")
    return found


@pytest.mark.parametrize(
    "broken",
    [
        "sum(rate(dreamcuts_outcomes_total[5m])",
        "rate(dreamcuts_outcomes_total)",
        "max by (type (dreamcuts_queue_jobs)",
        "histogram_quantile(sum(dreamcuts_run_seconds_bucket))",
        "maximum(dreamcuts_queue_jobs)",
        "dreamcuts_queue_jobs{state=ready}",
    ],
)
def test_a_broken_expression_is_found(broken: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="somewhere: "):
        parts("somewhere", broken)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", ALERTS), ("test", "rules", Path(__file__).with_name("alerts_test.yml"))],
    ids=["rules", "behaviour"],
)
def test_prometheus_accepts_the_alerts_and_they_fire_when_they_should(arguments: tuple[str | Path]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load(Path(__file__).with_name("alerts_test.yml").read_text())["tests"]
    expected = [case for test in cases for case in test["alert_rule_test"]]
    names = {
        rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    }
    assert {case["alertname"] for case in expected if case["exp_alerts"]} == names
    assert {case["alertname"] for case in expected if not case["exp_alerts"]} == names


@pytest.mark.anyio
async def test_every_metric_that_grafana_and_the_alerts_use_exists(
    database: str, connection: psycopg.Connection
) -> None:
    Client(connection).enqueue("tts_elevenlabs", {})
    worker = uuid4()
    connection.execute(
        "select dreamcut_register_worker(%s, 'host', 1, '0.1', '{tts_elevenlabs}', '{1}', '1 minute')",
        [worker],
    )
    connection.execute(
        "insert into dreamcut_provider_calls (job_id, claim, worker_id, provider, endpoint) "
        "values ('job', 1, %s, 'fal', 'x')",
        [worker],
    )
    text = await scrape(database, used())
    found = samples(text)
    labels_of: dict[str, set[str]] = {}
    for name, pairs in found:
        labels_of.setdefault(name, set()).update(label for label, _ in pairs)
    checked = 0
    for where, expression in expressions():
        labels = set(ADDED_BY_PROMETHEUS)
        grouped: set[str] = set()
        for part in parts(where, expression):
            if isinstance(part, promql_parser.VectorSelector):
                assert part.name in labels_of, f"{where}: {part.name} is not in /metrics"
                known = labels_of[part.name]
                for matcher in part.matchers.matchers:
                    assert matcher.name in known, f"{where}: {part.name} has no label {matcher.name}"
                labels |= known
                checked += 1
            elif isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
                grouped |= set(part.modifier.labels)
        assert grouped <= labels, f"{where}: no metric of it has the label {grouped - labels}"
    assert checked > 25
