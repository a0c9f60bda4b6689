"""`dreamcuts jobs` and `dreamcuts manifests`: filters, changes by filter, following."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click.testing
import psycopg
import pytest

from dreamcuts.admin import Admin
from dreamcuts.db.sql import query
from tests.support import Held, Queue, names, wait_until

Run = Callable[..., click.testing.Result]


def listed(here: Run, *options: str) -> set[str]:
    result = here("jobs", "list", "--json", *options)
    assert result.exit_code == 0, result.stderr
    return {row["job_id"] for row in json.loads(result.stdout)}


def failed_jobs(
    queue: Queue, number: int, error_class: str = "content_rejected", **columns: Any
) -> list[UUID]:
    """Jobs without a manifest that have failed."""
    jobs = [queue.add(None, f"{error_class}_{n}", **columns) for n in range(number)]
    worker = queue.worker()
    held = queue.claim(worker, 1000, columns.get("type", "work"))
    queue.fail(worker, *(job for job in held if job.id in jobs), error_class=error_class)
    queue.hand_back(worker, *(job for job in held if job.id not in jobs))
    queue.value("select dreamcut_leave_worker(%s, true)", worker)
    return jobs


def test_filters(here: Run, queue: Queue) -> None:
    failed_jobs(queue, 1, "content_rejected")
    failed_jobs(queue, 1, "invalid_request")
    old = queue.add(None, "old", type="other")
    queue.run("update dreamcut_jobs set created_at = now() - interval '3 days' where id = %s", old)
    manifest, _ = queue.graph({"a": [], "b": ["a"]})
    assert listed(here, "--state", "failed") == {"content_rejected_0", "invalid_request_0"}
    assert listed(here, "--class", "content_rejected") == {"content_rejected_0"}
    assert listed(here, "--older-than", "2d") == {"old"}
    assert "old" not in listed(here, "--newer-than", "2d")
    assert listed(here, "--type", "other") == {"old"}
    assert listed(here, "-m", str(manifest), "--state", "blocked") == {"b"}
    assert listed(here, "--state", "ready", "--state", "blocked") == {"a", "b", "old"}
    assert len(listed(here, "-n", "2")) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--class", "quotas"), "'quotas' is none of"),
        (("--newer-than", "soon"), "no time"),
        (("--state", "lost"), "lost"),
        (("-n", "0"), "0"),
        (("--type", "nope"), "No worker serves a type 'nope', and none is installed here."),
        (("--type", "imgae"), "Did you mean 'image'?"),
    ],
)
def test_wrong_filters_are_named(here: Run, options: tuple[str, ...], says: str) -> None:
    result = here("jobs", "list", *options)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "dreamcut_jobs_newest_idx"),
        ({"states": ["completed"]}, "dreamcut_jobs_newest_idx"),
        ({"states": ["processing"]}, "dreamcut_jobs_newest_idx"),
        ({"states": ["completed", "processing"], "type": "work"}, "dreamcut_jobs_newest_idx"),
        ({"created_after": datetime(2020, 1, 1, tzinfo=UTC)}, "dreamcut_jobs_newest_idx"),
        ({"states": ["pending"]}, "dreamcut_jobs_ready_idx"),
        ({"states": ["ready", "blocked"]}, "dreamcut_jobs_blocked_idx"),
        ({"states": ["failed"]}, "dreamcut_jobs_error_idx"),
        ({"states": ["failed", "cancelled"], "type": "work"}, "dreamcut_jobs_error_idx"),
        ({"error_class": "quota"}, "dreamcut_jobs_error_idx"),
        ({"states": ["ready"]}, "dreamcut_jobs_ready_idx"),
        ({"states": ["ready"], "type": "work"}, "dreamcut_jobs_ready_idx"),
        ({"states": ["delayed"]}, "dreamcut_jobs_delayed_idx"),
        ({"states": ["blocked"]}, "dreamcut_jobs_blocked_idx"),
        ({"manifest": UUID("359bceda-f321-4fb7-a9f5-bf6a02412ef0")}, "dreamcut_jobs_manifest_id_job_id_key"),
    ],
    ids=str,
)
def test_a_list_reads_the_index_that_there_is(queue: Queue, filters: dict[str, Any], index: str) -> None:
    queue.run(
        "insert into dreamcut_jobs (type, job_id, status, completed_at, payload)"
        " select 'work', 'done_' || n, 'completed', now(), jsonb_build_object('text', repeat('x', 300))"
        " from generate_series(1, 30000) n"
    )
    queue.run("vacuum analyze dreamcut_jobs")
    plans = Explained(queue.connection)
    assert len(plans.list_jobs(**filters)) in (0, 50)
    (plan,) = plans.found
    assert index in plan
    assert "Seq Scan on dreamcut_jobs" not in plan


class Explained(Admin):
    """Keeps the plan of each list of jobs that is read."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self.found: list[str] = []

    def _many(self, name: str, **values: Any) -> list[dict[str, Any]]:
        if name == "list_jobs":
            rows = self._connection.execute("explain " + query(name).psycopg_text, values).fetchall()
            self.found.append("\n".join(row[0] for row in rows))
        return super()._many(name, **values)


def test_a_list_goes_down_until_it_has_enough(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcuts.admin.STRETCH", 2)
    for number in range(40):
        queue.add(
            None,
            f"{'rare' if number % 10 == 0 else 'usual'}_{number}",
            type="rare" if number % 10 == 0 else "work",
        )
    admin = Explained(queue.connection)
    assert [job["job_id"] for job in admin.list_jobs(type="rare")] == [
        "rare_30",
        "rare_20",
        "rare_10",
        "rare_0",
    ]
    assert len(admin.found) > 2
    admin.found.clear()
    assert [job["job_id"] for job in admin.list_jobs(limit=2)] == ["usual_39", "usual_38"]
    assert len(admin.found) == 1
    assert len(admin.list_jobs(limit=100)) == 40
    assert len(admin.list_jobs(states=["pending", "completed"], limit=25)) == 25


def test_running_jobs_are_those_that_workers_hold(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcuts.admin.RUNNING_AMONG", 5)
    worker = queue.worker()
    for name in ("told", "untold"):
        queue.add(None, name)
    told, _ = queue.claim(worker, 2)
    queue.heartbeat(worker, told)
    for number in range(6):
        queue.add(None, f"later_{number}")
    queue.add(None, "newest", priority=9)
    queue.claim_one(worker)
    admin = Admin(queue.connection)
    assert [job["job_id"] for job in admin.list_jobs(states=["processing"])] == ["newest", "told"]
    every = admin.list_jobs(states=["processing"], thorough=True)
    assert [job["job_id"] for job in every] == ["newest", "untold", "told"]


def test_a_role_that_may_not_see_the_counter_reads_the_table(queue: Queue) -> None:
    queue.add(None, "one")
    name = f"reader_{queue.connection.info.backend_pid}"
    queue.run(f"create role {name}")
    try:
        queue.run(f"grant select on all tables in schema public to {name}")
        queue.run(f"alter role {name} bypassrls")
        queue.run(f"set role {name}")
        assert [job["job_id"] for job in Admin(queue.connection).list_jobs()] == ["one"]
    finally:
        queue.run("reset role")
        queue.run(f"drop owned by {name}")
        queue.run(f"drop role {name}")


def test_each_named_job_that_was_not_changed_is_told(here: Run, queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "c": []})
    queue.finish("c")
    result = here("jobs", "cancel", f"{manifest}/a", f"{manifest}/b", f"{manifest}/c")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [f"{name} is cancelled ({jobs[name]})" for name in "ab"]
    assert f"c is completed: not cancelled ({jobs['c']})" in result.stderr
    assert "a job that has ended cannot be cancelled" in result.stderr.lower()

    result = here("jobs", "retry", f"{manifest}/a", f"{manifest}/c", "--json")
    assert result.exit_code == 1
    assert {row["job_id"] for row in json.loads(result.stdout)} >= {"a"}
    assert "c is completed: not retried" in result.stderr

    result = here("jobs", "set-priority", f"{manifest}/a", f"{manifest}/c", "-p", "9")
    assert result.exit_code == 1
    assert "a is at priority 9" in result.stdout and "c is completed: not moved" in result.stderr
    assert here("jobs", "cancel", f"{manifest}/a").exit_code == 0


def test_retry_by_filter_counts_first_and_asks(here: Run, queue: Queue) -> None:
    failed_jobs(queue, 3, "content_rejected")
    failed_jobs(queue, 2, "invalid_request")
    dry = here("jobs", "retry", "--class", "content_rejected", "--dry-run")
    assert "Would retry 3 jobs" in dry.stdout and "work failed (content_rejected)" in dry.stdout
    assert (
        json.loads(here("jobs", "retry", "--state", "failed", "--dry-run", "--json").stdout)["would_change"]
        == 5
    )

    unanswered = here("jobs", "retry", "--class", "content_rejected")
    assert unanswered.exit_code == 2
    assert "Retry 3 jobs?" in unanswered.stderr and "--yes" in unanswered.stderr
    assert listed(here, "--state", "ready") == set()

    done = here("jobs", "retry", "--class", "content_rejected", "--yes")
    assert "3 jobs are pending again" in done.stdout
    assert listed(here, "--state", "ready") == {f"content_rejected_{n}" for n in range(3)}
    nothing = here("jobs", "retry", "--class", "content_rejected", "--yes")
    assert (nothing.exit_code, nothing.stdout) == (0, "No job fits: nothing changed.\n")
    none = here("jobs", "retry", "--class", "content_rejected", "--dry-run")
    assert none.stdout.startswith("Would retry 0 jobs")


def test_all_jobs_are_changed_however_many(here: Run, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcuts.cli.selection.AT_ONCE", 3)
    monkeypatch.setattr("dreamcuts.cli.selection.MOST", 7)
    failed_jobs(queue, 20)
    assert "7 jobs or more" in here("jobs", "retry", "--class", "content_rejected", "--dry-run").stdout
    assert "20 jobs are pending again" in here("jobs", "retry", "--class", "content_rejected", "--yes").stdout
    assert "20 jobs are cancelled" in here("jobs", "cancel", "--state", "ready", "--yes").stdout


def test_jobs_or_filters_but_not_both_nor_neither(here: Run, queue: Queue) -> None:
    (job,) = failed_jobs(queue, 1)
    for arguments in ((), (str(job), "--class", "quota")):
        result = here("jobs", "retry", *arguments)
        assert result.exit_code == 2
        assert "not both" in result.stderr


def test_a_manifest_is_retried_with_all_that_its_failure_cancelled(here: Run, queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "c": []})
    worker = queue.worker()
    held = queue.claim(worker, 2)
    queue.fail(worker, *held, error_class="content_rejected")
    assert queue.of_manifest(manifest)["status"] == "failed"
    assert "Would retry 2 jobs" in here("manifests", "retry", str(manifest), "--dry-run").stdout
    result = here("manifests", "retry", str(manifest)[:8])
    assert result.exit_code == 0, result.stderr
    assert "3 jobs are pending again" in result.stdout
    assert queue.states(manifest) == {"a": "ready", "b": "blocked", "c": "ready"}
    assert queue.of_manifest(manifest)["status"] == "rendering"

    cancelled = here("manifests", "cancel", str(manifest), "--reason", "no more money", "--json")
    assert json.loads(cancelled.stdout)["changed"] == 3
    assert set(queue.states(manifest).values()) == {"cancelled"}
    assert queue.job(jobs["c"])["error_message"] == "no more money"


def test_release_run_now_priority_and_dependency(here: Run, queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a", "ghost"]})
    worker = queue.worker()
    queue.claim_one(worker)
    assert "a is ready again" in here("jobs", "release", f"{manifest}/a").stdout
    assert queue.job(jobs["a"])["attempts"] == 0

    later = queue.add(None, "later", next_retry_at="2100-01-01")
    assert "later is ready" in here("jobs", "run-now", str(later)).stdout
    blocked = here("jobs", "run-now", f"{manifest}/b")
    assert blocked.exit_code == 1 and "Nothing changed" in blocked.stderr

    assert (
        "priority 20" in here("jobs", "set-priority", str(later), f"{manifest}/a", "--priority", "20").stdout
    )
    assert names(queue.claim(worker, 2)) == ["a", "later"]

    wrong = here("jobs", "drop-dependency", f"{manifest}/b", "gost")
    assert wrong.exit_code == 1 and "waits for jobs that do not exist: ghost" in wrong.stderr
    dropped = json.loads(here("jobs", "drop-dependency", f"{manifest}/b", "ghost", "--json").stdout)
    assert (dropped["state"], dropped["reason"]) == ("blocked", "waits for a")
    assert "b is ready" in here("jobs", "drop-dependency", f"{manifest}/b", "a").stdout


def test_tail_follows_a_job_to_its_end(here: Run, queue: Queue, database: str) -> None:
    job = queue.add(None, "film")
    result: list[click.testing.Result] = []
    follower = threading.Thread(target=lambda: result.append(here("jobs", "tail", str(job)[:8])))
    follower.start()
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.fail(worker, held, message="HTTP 503")
    queue.come_due()
    held = wait_until(lambda: queue.claim(worker), "the job to come due")[0]
    assert isinstance(held, Held)
    queue.complete(worker, held, url="https://assets.example/film.mp4")
    follower.join(30)
    (ended,) = result
    assert ended.exit_code == 0, ended.stderr
    assert "attempt 1 retried" in ended.stdout and "transient: HTTP 503" in ended.stdout
    assert "https://assets.example/film.mp4" in ended.stdout.splitlines()[-1]


def test_tail_and_watch_of_a_manifest_say_how_it_ended(here: Run, queue: Queue) -> None:
    manifest, _ = queue.graph({"a": []})
    queue.finish("a")
    for command in (("jobs", "tail"), ("manifests", "watch")):
        result = here(*command, str(manifest)[:8])
        assert result.exit_code == 0, result.stderr
        assert "done: https://assets.example/a" in result.stdout
    lost, _ = queue.graph({"x": []})
    queue.cancel(
        *(row["id"] for row in queue.rows("select id from dreamcut_jobs where manifest_id = %s", lost))
    )
    result = here("manifests", "watch", str(lost))
    assert result.exit_code == 1
    assert "failed: cancelled by an operator" in result.stdout


def test_tail_of_nothing(here: Run) -> None:
    result = here("jobs", "tail", "abcdef")
    assert result.exit_code == 1
    assert "No job has an id that begins with 'abcdef'" in result.stderr


def test_top_shows_all_of_it_once(here: Run, queue: Queue) -> None:
    manifest, _ = queue.graph({"a": [], "b": ["a"], "c": []})
    queue.run(
        "update dreamcut_production_manifest set manifest_json = %s where id = %s",
        psycopg.types.json.Jsonb({"metadata": {"title": "The bakery"}}),
        manifest,
    )
    queue.add(None, type="nobody_does_this")
    failed_jobs(queue, 1, "content_rejected", type="painted")
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.run("select * from dreamcut_beat(%s, '1 minute', false, %s, %s)", worker, [held.id], [held.claims])
    queue.value("select dreamcut_scale_profile('low')")
    shown = here("top", "--once").stdout
    for text in ("3 waiting", "1 running", "The bakery", "0/3", "no worker serves this type", "work 1/10",
                 "content_rejected", "scaled: low"):  # fmt: skip
        assert text in shown, f"{text}: {shown}"
    rows = json.loads(here("top", "--json").stdout)
    (work,) = [row for row in rows["depth"] if row["type"] == "work"]
    assert (work["ready"], work["blocked"], work["processing"], work["slots"]) == (1, 1, 1, 10)
