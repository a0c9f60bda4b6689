"""Two transactions at once in a forced order, and the queue's locks taken away to see what they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from tests.support import Blocked, Held, Queue, wait_until

FIRST_LOCK_AWAY = """
    create or replace function dreamcut_lock_manifest_rows(p_manifests uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as 'begin end';
    create or replace function dreamcut_lock_manifests(p_jobs uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as 'begin end';
"""
"""Without the lock that everything takes first. Counting open jobs locks the manifest, too, but only after
the jobs themselves were read and written."""

TAKE_THE_LOCKS_AWAY = f"""
    {FIRST_LOCK_AWAY}
    create or replace function dreamcut_settle(p_jobs uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as
    'begin perform dreamcut_release_dependents(p_jobs); perform dreamcut_fail_dependents(p_jobs); end';

    create or replace function dreamcut_enter_jobs() returns trigger
    language plpgsql security definer set search_path = public, pg_temp as $$
    declare
        v_ended uuid[];
    begin
        insert into dreamcut_job_dependencies (job, manifest_id, depends_on)
        select distinct inserted.id, inserted.manifest_id, dependency
        from inserted cross join unnest(inserted.depends_on) as dependency;
        v_ended := array(
            select job.id from dreamcut_jobs job
            where job.manifest_id in (select inserted.manifest_id from inserted)
                and job.status in ('completed', 'failed', 'cancelled')
        );
        perform dreamcut_release_dependents(v_ended);
        perform dreamcut_fail_dependents(v_ended);
        return null;
    end $$;
"""
"""Without any lock of a manifest: nothing is counted either, since an update of the count is a lock."""


class Meanwhile(Blocked):
    """A statement on a connection of its own, begun while others have open transactions. The block is entered
    when it waits for one of them, or has ended; `waited` says which."""

    waited: bool

    def __enter__(self) -> Meanwhile:
        self._thread.start()
        try:
            wait_until(self.is_blocked_or_over, "the statement to wait for a lock, or to end")
        except BaseException:
            self.__exit__()
            raise
        self.waited = self._thread.is_alive()
        return self


def race(database: str, first: Queue, call: Callable[[Queue], Any]) -> tuple[bool, Any]:
    """`first` has an open transaction. Run `call` beside it, and commit `first` as soon as `call` waits for
    it, or has ended. Returns whether it waited, and what it returned."""
    with Meanwhile(database, call) as other:
        first.connection.commit()
        return other.waited, other.result()


Steps = Mapping[str, Callable[[Queue], Any]]
"""Two things to do at once, each by the name of the order in which it is the first."""


def race_in(order: str, steps: Steps, database: str, first: Queue) -> tuple[bool, Any]:
    """A race in which `first` does what is the first in that order, and the other one comes beside it."""
    (other,) = (step for name, step in steps.items() if name != order)
    steps[order](first)
    return race(database, first, other)


def alter(queue: Queue, function: str, *changes: tuple[str, str]) -> None:
    """Replace text in one of the queue's functions."""
    source = queue.value("select pg_get_functiondef(%s::regproc)", function)
    for old, new in changes:
        assert source.count(old) == 1, f"{function} holds {source.count(old)} times {old!r}"
        source = source.replace(old, new)
    queue.run(source.replace("%", "%%"))


def be_patient(queue: Queue) -> None:
    """Outcomes give up after two seconds of waiting for a manifest, which a busy machine may take between two
    steps of a test."""
    queue.run("alter function dreamcut_complete_jobs set lock_timeout = '20s'")
    queue.run("alter function dreamcut_fail_jobs set lock_timeout = '20s'")


def throw_away(queue: Queue) -> None:
    """What a test without the locks left is wrong, as it was to show. Every test ends with what is right."""
    queue.run("delete from dreamcut_production_manifest")


def end(queue: Queue, how: str, worker: Any, held: Held) -> None:
    """Bring a running job to one of its three ends."""
    if how == "completed":
        queue.complete(worker, held)
    elif how == "failed":
        queue.fail(worker, held, error_class="invalid_request")
    else:
        queue.cancel(held.id)


def quick_to_see_deadlocks(database: str) -> str:
    return psycopg.conninfo.make_conninfo(database, options="-c deadlock_timeout=100ms")
