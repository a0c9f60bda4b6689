"""dreamcut_stuck_jobs: everything that waits for something that will not come by itself, and nothing else."""

from __future__ import annotations

from uuid import UUID

from tests.support import Queue


def stuck(queue: Queue) -> dict[str, str]:
    rows = queue.rows("select job_id, code from dreamcut_stuck_jobs")
    assert len({row["job_id"] for row in rows}) == len(rows), "one row a job"
    return {row["job_id"]: row["code"] for row in rows}


def reason(queue: Queue, job: UUID) -> str:
    return str(queue.value("select reason from dreamcut_stuck_jobs where id = %s", job))


def test_work_that_goes_on_is_not_stuck(queue: Queue) -> None:
    worker = queue.worker()
    _, jobs = queue.graph({"first": [], "second": ["first"], "third": ["second", "first"]})
    assert stuck(queue) == {}
    queue.finish("first", worker=worker)
    queue.claim_one(worker)
    queue.run(
        "update dreamcut_jobs set next_retry_at = now() + interval '1 hour' where id = %s", jobs["third"]
    )
    assert stuck(queue) == {}


def test_a_missing_dependency_and_what_waits_behind_it(queue: Queue) -> None:
    queue.worker()
    _, jobs = queue.graph({"render": ["never", "nor_this", "tts"], "tts": [], "publish": ["render"]})
    assert stuck(queue) == {"render": "missing_dependency", "publish": "behind"}
    assert reason(queue, jobs["render"]) == "waits for jobs that do not exist: never, nor_this"
    assert reason(queue, jobs["publish"]) == "waits for render, which will not go on by itself"
    for name in ("never", "nor_this"):
        queue.value("select dreamcut_drop_dependency(%s, %s)", jobs["render"], name)
    assert stuck(queue) == {}


def test_cycles_are_found_and_told_from_what_hangs_on_them(queue: Queue) -> None:
    queue.worker()
    manifest, jobs = queue.graph(
        {
            "free": [],
            "a": ["c", "free"],
            "b": ["a"],
            "c": ["b"],
            "self": ["self"],
            "after": ["c"],
            "innocent": ["free"],
        }
    )
    found = stuck(queue)
    assert found == {
        "a": "dependency_cycle",
        "b": "dependency_cycle",
        "c": "dependency_cycle",
        "self": "dependency_cycle",
        "after": "behind",
    }
    assert reason(queue, jobs["a"]) == "waits, through c, for itself"
    queue.cancel(jobs["c"])
    assert stuck(queue) == {"self": "dependency_cycle"}
    assert queue.states(manifest)["b"] == "cancelled"


def test_a_type_that_no_live_worker_serves(queue: Queue) -> None:
    worker = queue.worker(["other"])
    job = queue.add(None, "lonely", type="generate_chart")
    queue.add(None, "served", type="other")
    assert stuck(queue) == {"lonely": "no_worker"}
    assert reason(queue, job) == "no live worker serves the type generate_chart"
    queue.expire(worker)
    assert stuck(queue) == {"lonely": "no_worker", "served": "no_worker"}


def test_a_type_that_is_scaled_to_zero(queue: Queue) -> None:
    worker = queue.worker()
    _, jobs = queue.graph({"first": [], "next": ["first"]})
    assert stuck(queue) == {}
    queue.run("select dreamcut_scale_type('work', 0)")
    found = {"first": "scaled_to_zero", "next": "behind"}
    assert stuck(queue) == found, "before the worker has heard of it"
    queue.run("select dreamcut_beat(%s, '1 minute', false, '{}', '{}')", worker)
    assert queue.value("select slots from dreamcut_workers") == [0]
    assert stuck(queue) == found
    assert reason(queue, jobs["first"]) == (
        "the type work is scaled to 0 slots: `dreamcuts workers scale work --slots N`, or --reset"
    )
    queue.expire(worker)
    assert stuck(queue) == found, "one more worker would not run it either"
    queue.worker()
    queue.run("select dreamcut_scale_type('work', null)")
    assert stuck(queue) == {}


def test_a_worker_with_no_slot_for_a_type_does_not_serve_it(queue: Queue) -> None:
    """As one with ENABLE_WORKERS=false: it is there, and claims nothing."""
    idle = queue.worker(["work", "other"])
    queue.run("update dreamcut_workers set slots = '{0,10}' where id = %s", idle)
    job = queue.add(None, "waits")
    late = queue.add(None, "late")
    queue.run("update dreamcut_jobs set next_retry_at = now() - interval '6 minutes' where id = %s", late)
    queue.add(None, "served", type="other")
    assert stuck(queue) == {"waits": "no_worker"}, "a claim for another type makes delayed jobs ready"
    assert reason(queue, job) == (
        "each live worker that serves the type work has 0 slots for it (or ENABLE_WORKERS=false)"
    )
    assert queue.value("select reason from dreamcut_job_states where id = %s", job) == (
        "no worker serves this type"
    )
    queue.run("update dreamcut_workers set slots = '{0,0}' where id = %s", idle)
    assert stuck(queue) == {"waits": "no_worker", "served": "no_worker", "late": "overdue"}
    queue.worker()
    assert stuck(queue) == {"served": "no_worker"}


def test_the_view_lists_the_first_of_each_code_and_type(queue: Queue) -> None:
    queue.run("insert into dreamcut_jobs (type, job_id) select 'a', 'a' || n from generate_series(1, 150) n")
    queue.run("insert into dreamcut_jobs (type, job_id) select 'b', 'b' || n from generate_series(1, 3) n")
    queue.run("insert into dreamcut_jobs (type, job_id, priority) values ('a', 'urgent', 9)")
    found = stuck(queue)
    assert len(found) == 103 and {"b1", "b2", "b3", "urgent", "a1"} <= found.keys()
    assert queue.value("select count(*) from dreamcut_find_stuck_jobs()") == 154


def test_a_dependency_that_comes_late_or_goes(queue: Queue) -> None:
    queue.worker()
    manifest, _ = queue.graph({"waits": ["late"]})
    assert stuck(queue) == {"waits": "missing_dependency"}
    late = queue.add(manifest, "late")
    assert stuck(queue) == {}
    queue.run("delete from dreamcut_jobs where id = %s", late)
    assert stuck(queue) == {"waits": "missing_dependency"}
    again = queue.add(manifest, "late")
    assert stuck(queue) == {}
    queue.cancel(again)
    assert stuck(queue) == {}, "what was cancelled keeps its wait, and waits for nothing"
    queue.run("delete from dreamcut_jobs where id = %s", again)
    assert stuck(queue) == {}


def test_a_paused_provider(queue: Queue) -> None:
    worker = queue.worker(["gen_image_falai", "other"])
    queue.run("update dreamcut_workers set providers = '{fal,\"\"}' where id = %s", worker)
    job = queue.add(None, "picture", type="gen_image_falai")
    queue.add(None, "unrelated", type="other")
    assert stuck(queue) == {}
    columns = "name, paused_until, pause_reason"
    queue.run(f"insert into dreamcut_providers ({columns}) values ('fal', 'infinity', 'billing')")
    assert stuck(queue) == {"picture": "provider_paused"}
    assert reason(queue, job) == "the provider fal is paused until somebody resumes it: billing"
    queue.run("update dreamcut_providers set paused_until = now() - interval '1 second'")
    assert stuck(queue) == {}


def test_a_job_that_is_overdue_without_any_worker(queue: Queue) -> None:
    job = queue.add(None, "late")
    queue.run("update dreamcut_jobs set next_retry_at = now() - interval '4 minutes' where id = %s", job)
    assert stuck(queue) == {}
    queue.run("update dreamcut_jobs set next_retry_at = now() - interval '6 minutes' where id = %s", job)
    assert stuck(queue) == {"late": "overdue"}
    queue.worker()
    assert stuck(queue) == {}


def test_a_job_whose_worker_is_gone_and_nobody_is_there_to_take_it(queue: Queue) -> None:
    worker = queue.worker()
    manifest, jobs = queue.graph({"held": [], "next": ["held"]})
    single = queue.add(None, "single")
    queue.claim(worker, 10)
    assert stuck(queue) == {}
    queue.expire(worker)
    assert stuck(queue) == {"held": "lost_worker", "single": "lost_worker", "next": "behind"}
    other = queue.worker()
    assert stuck(queue) == {}, "the other worker will rescue them"
    # What no rescue finds any more: only an UPDATE by hand does that. A live worker hands it back even so.
    queue.run("update dreamcut_workers set state = 'stopped' where id = %s", worker)
    assert stuck(queue) == {}
    queue.expire(other)
    assert stuck(queue) == {"held": "lost_worker", "single": "lost_worker", "next": "behind"}
    assert "release the job" in reason(queue, single)
    queue.release(jobs["held"])
    assert queue.value("select dreamcut_return_strays()") == 1
    assert stuck(queue) == {"held": "no_worker", "single": "no_worker", "next": "behind"}
    queue.worker()
    assert stuck(queue) == {}
    assert queue.states(manifest)["held"] == "ready"


def test_a_long_chain_is_looked_through_in_a_moment(queue: Queue) -> None:
    """Jobs in a row behind one that is missing: the search for cycles must not take all night for them."""
    queue.worker()
    manifest = queue.manifest()
    queue.run(
        "insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)"
        " select %s, 'j' || n, 'work', array['j' || (n - 1)] from generate_series(1, 300) n",
        manifest,
    )
    queue.run("set statement_timeout = '20s'")
    rows = queue.rows("select code, count(*) as jobs from dreamcut_find_stuck_jobs() group by 1 order by 1")
    assert {row["code"]: row["jobs"] for row in rows} == {"behind": 299, "missing_dependency": 1}
