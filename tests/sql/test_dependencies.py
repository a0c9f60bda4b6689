"""The graph of a manifest: what frees a job, takes it along, brings it back, and when all is over."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from tests.support import Queue, names

RUN = Jsonb({"onDependencyFailure": "run"})
DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def end(queue: Queue, job_id: str, how: str) -> None:
    """Bring a ready job to one of its three ends."""
    if how == "completed":
        queue.finish(job_id)
    elif how == "cancelled":
        queue.cancel(queue.value("select id from dreamcut_jobs where job_id = %s", job_id))
    else:
        worker = queue.worker()
        held = [job for job in queue.claim(worker, 1000) if job.job_id == job_id]
        queue.fail(worker, *held, error_class="invalid_request", message="no voice")
        queue.release(*(row["id"] for row in queue.rows("select id from dreamcut_jobs")))


def test_a_job_is_ready_when_its_last_dependency_completes(queue: Queue) -> None:
    manifest, _ = queue.graph(DIAMOND)
    queue.finish("a")
    assert queue.states(manifest) == {"a": "completed", "b": "ready", "c": "ready", "d": "blocked"}
    queue.finish("b")
    assert queue.states(manifest)["d"] == "blocked"
    queue.finish("c")
    assert queue.states(manifest)["d"] == "ready"


def test_two_dependencies_that_complete_in_one_batch_free_the_dependent_once(queue: Queue) -> None:
    manifest, _ = queue.graph(DIAMOND)
    queue.finish("a")
    queue.finish("b", "c")
    assert queue.states(manifest)["d"] == "ready"


def test_the_same_job_id_in_another_manifest_frees_nobody(queue: Queue) -> None:
    queue.graph({"a": []})
    other, _ = queue.graph({"b": ["a"]})
    queue.finish("a")
    assert queue.states(other) == {"b": "blocked"}


@pytest.mark.parametrize(
    ("how", "state"), [("completed", "ready"), ("failed", "cancelled"), ("cancelled", "cancelled")]
)
def test_a_dependency_may_have_ended_before_the_dependent_is_inserted(
    queue: Queue, how: str, state: str
) -> None:
    manifest, _ = queue.graph({"a": [], "z": []})
    end(queue, "a", how)
    job = queue.add(manifest, "b", ["a"])
    queue.add(manifest, "c", ["b"])
    assert queue.states(manifest)["b"] == state
    assert queue.states(manifest)["c"] == ("blocked" if how == "completed" else "cancelled")
    if how != "completed":
        row = queue.job(job)
        assert row["error_class"] == "dependency_failed" and '"a"' in row["error_message"]


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_job_may_be_inserted_as_ended(queue: Queue, status: str) -> None:
    manifest = queue.manifest()
    queue.add(manifest, "b", ["a"])
    queue.add(manifest, "a", status=status)
    assert queue.states(manifest)["b"] == ("ready" if status == "completed" else "cancelled")


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_an_end_without_success_takes_everything_behind_it_along(queue: Queue, how: str) -> None:
    manifest, jobs = queue.graph({**DIAMOND, "e": ["d"], "other": []})
    end(queue, "a", how)
    assert queue.states(manifest) == {
        "a": how, "b": "cancelled", "c": "cancelled", "d": "cancelled", "e": "cancelled", "other": "ready",
    }  # fmt: skip
    last = queue.job(jobs["e"])
    assert last["error_class"] == "dependency_failed"
    assert last["error_message"].startswith('Dependency "a" was ')
    assert ("no voice" if how == "failed" else "cancelled by an operator") in last["error_message"]


def test_a_chain_of_a_thousand_is_cancelled_whole(queue: Queue) -> None:
    manifest = queue.manifest()
    queue.run(
        """insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
           select %s, 'j' || n, 'work', case when n > 0 then array['j' || n - 1] else '{}' end
           from generate_series(999, 0, -1) n""",
        manifest,
    )
    end(queue, "j0", "failed")
    assert set(queue.states(manifest).values()) == {"failed", "cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"
    job = queue.value("select id from dreamcut_jobs where job_id = 'j0'")
    assert len(queue.retry(job)) == 1000


def test_a_job_can_say_that_it_runs_all_the_same(queue: Queue) -> None:
    manifest = queue.manifest()
    for name in ("voice", "music", "effect"):
        queue.add(manifest, name)
    queue.add(manifest, "mixed", ["effect"])
    queue.add(manifest, "render", ["voice", "music", "mixed"], metadata=RUN)
    end(queue, "music", "failed")
    end(queue, "effect", "cancelled")
    assert queue.states(manifest)["mixed"] == "cancelled"
    assert queue.states(manifest)["render"] == "blocked"
    queue.finish("voice")
    queue.finish("render")
    row = queue.of_manifest(manifest)
    assert row["status"] == "done" and row["error_message"] is None


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_retried_cause_revives_what_it_took_along(queue: Queue, how: str) -> None:
    manifest, jobs = queue.graph(DIAMOND)
    end(queue, "a", how)
    assert sorted(queue.retry(jobs["a"])) == sorted(jobs.values())
    assert queue.states(manifest) == {"a": "ready", "b": "blocked", "c": "blocked", "d": "blocked"}
    assert queue.of_manifest(manifest)["retry_count"] == 1
    for names_ in (["a"], ["b", "c"], ["d"]):
        queue.finish(*names_)
    assert queue.of_manifest(manifest)["status"] == "done"


def test_with_two_causes_the_dependent_comes_back_with_the_last(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"], "d": ["c"]})
    end(queue, "a", "failed")
    end(queue, "b", "failed")
    assert queue.retry(jobs["a"]) == [jobs["a"]]
    assert queue.states(manifest)["c"] == "cancelled"
    queue.finish("a")
    assert sorted(queue.retry(jobs["b"])) == sorted([jobs["b"], jobs["c"], jobs["d"]])
    queue.finish("b")
    assert queue.states(manifest) == {"a": "completed", "b": "completed", "c": "ready", "d": "blocked"}


def test_a_retried_dependent_brings_the_dependencies_that_it_needs(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "x": [], "c": ["b", "x"], "side": ["a"]})
    end(queue, "a", "failed")
    end(queue, "x", "failed")
    queue.retry(jobs["c"])
    assert queue.states(manifest) == {
        "a": "ready", "b": "blocked", "x": "ready", "c": "blocked", "side": "blocked",
    }  # fmt: skip


def test_a_job_cancelled_by_hand_does_not_come_back_with_its_cause(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "c": ["b"]})
    queue.cancel(jobs["b"])
    end(queue, "a", "failed")
    queue.retry(jobs["a"])
    assert queue.states(manifest) == {"a": "ready", "b": "cancelled", "c": "cancelled"}


def test_retry_gives_all_attempts_again_and_hurries_a_delayed_job(queue: Queue) -> None:
    job = queue.add(None, "a", max_attempts=2)
    worker = queue.worker()
    queue.fail(worker, queue.claim_one(worker), retry_after=500)
    assert queue.retry(job) == [job]
    assert queue.job(job)["ready"] is True and queue.job(job)["attempts"] == 1
    queue.fail(worker, queue.claim_one(worker))
    assert queue.retry(job) == [job]
    row = queue.job(job)
    assert (row["status"], row["attempts"], row["claims"], row["error_class"]) == ("pending", 0, 2, None)
    queue.complete(worker, queue.claim_one(worker))
    assert queue.retry(job) == []


def test_a_missing_dependency_is_named_and_can_be_dropped(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "render": ["a", "ghost"]})
    queue.finish("a")
    row = queue.row("select state, missing, reason from dreamcut_job_states where id = %s", jobs["render"])
    assert row == {
        "state": "blocked",
        "missing": ["ghost"],
        "reason": "waits for jobs that do not exist: ghost",
    }
    drop = "select dreamcut_drop_dependency(%s, %s)"
    assert queue.value(drop, jobs["render"], "nobody") is False
    assert queue.value(drop, jobs["render"], "ghost") is True
    assert queue.value(drop, jobs["render"], "ghost") is False
    assert queue.states(manifest)["render"] == "ready"
    assert queue.job(jobs["render"])["depends_on"] == ["a", "ghost"]
    queue.finish("render")
    assert queue.of_manifest(manifest)["status"] == "done"


def test_a_deleted_job_leaves_its_dependents_waiting_and_the_counts_right(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "c": []})
    queue.run("delete from dreamcut_jobs where id = any(%s)", [jobs["a"], jobs["c"]])
    assert queue.of_manifest(manifest)["open_jobs"] == 1
    assert queue.value("select missing from dreamcut_job_states where id = %s", jobs["b"]) == ["a"]
    queue.add(manifest, "a")
    queue.finish("a")
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}
    queue.run("delete from dreamcut_jobs where id = %s", jobs["b"])
    assert queue.of_manifest(manifest)["status"] == "done"


def test_jobs_that_wait_for_each_other_can_be_cancelled_and_the_manifest_ends(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": ["b"], "b": ["a"], "self": ["self"]})
    assert set(queue.states(manifest).values()) == {"blocked"}
    queue.cancel(jobs["a"], jobs["self"])
    assert set(queue.states(manifest).values()) == {"cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"
    assert queue.reconcile() == 0


def test_a_manifest_is_done_with_its_last_job_and_shows_the_video(queue: Queue) -> None:
    manifest, _ = queue.graph({"a": [], "render": ["a"]})
    queue.finish("a")
    row = queue.of_manifest(manifest)
    assert row["status"] == "rendering" and row["completed_at"] is None
    queue.finish("render")
    row = queue.of_manifest(manifest)
    assert row["status"] == "done" and row["output_url"] == "https://assets.example/render"
    assert row["completed_at"] > row["started_at"] and row["processing_time_ms"] >= 0


def test_a_manifest_that_failed_says_why(queue: Queue) -> None:
    manifest, _ = queue.graph({"a": [], "render": ["a"]})
    end(queue, "a", "failed")
    row = queue.of_manifest(manifest)
    assert row["status"] == "failed" and row["output_url"] is None
    assert row["error_message"] == 'Dependency "a" was not made: it failed: no voice'


@pytest.mark.parametrize("how", ["completed", "failed"])
def test_jobs_added_to_a_manifest_that_was_over_open_it_again(queue: Queue, how: str) -> None:
    manifest, _ = queue.graph({"a": []})
    end(queue, "a", how)
    assert queue.of_manifest(manifest)["status"] in ("done", "failed")
    queue.add(manifest, "b")
    row = queue.of_manifest(manifest)
    assert (row["status"], row["open_jobs"]) == ("rendering", 1)
    # What belongs to an end does not stand on a manifest that is under way.
    assert (row["completed_at"], row["processing_time_ms"], row["error_message"]) == (None, None, None)
    queue.finish("b")
    assert queue.of_manifest(manifest)["completed_at"] is not None


def test_an_update_by_hand_is_mended(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "x": [], "y": ["x"]})
    queue.run("update dreamcut_jobs set status = 'completed' where id = %s", jobs["a"])
    queue.run("update dreamcut_jobs set status = 'failed' where id = %s", jobs["x"])
    assert queue.reconcile() == 2
    assert queue.states(manifest) == {"a": "completed", "b": "ready", "x": "failed", "y": "cancelled"}
    queue.finish("b")
    queue.reconcile()
    assert queue.of_manifest(manifest)["status"] == "failed"
    assert queue.reconcile() == 0


def test_reconciling_a_sound_queue_changes_nothing(queue: Queue) -> None:
    queue.graph(DIAMOND)
    queue.finish("a")
    worker = queue.worker()
    queue.fail(worker, queue.claim_one(worker), error_class="invalid_request")  # and what waits for it
    before = queue.rows("select * from dreamcut_jobs order by seq")
    assert queue.reconcile() == 0
    assert queue.rows("select * from dreamcut_jobs order by seq") == before


def test_jobs_come_in_the_order_of_the_graph(queue: Queue) -> None:
    queue.graph({"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": []})
    worker = queue.worker()
    order = []
    while held := queue.claim(worker, 10):
        order.append(sorted(names(held)))
        queue.complete(worker, *held)
    assert order == [["a"], ["b", "c"], ["d"]]
