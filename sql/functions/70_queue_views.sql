-- Open jobs by state: running, ready, delayed, blocked, stalled. No view for monitoring, here and in the files 71 to
-- 74, reads the whole table of jobs: what is open is counted in partial indexes, what is over was added up as it ended
-- (35_stats.sql). Each says in its comment what it covers.
-- Ready, delayed and blocked jobs are counted up to a million each; `processing` is what workers held at
-- their last heartbeat and still hold, and all that a silent worker holds.

-- What a silent worker runs without having said so: what it claimed after its last heartbeat. Nothing but the
-- table of jobs knows (an index on who runs a job would cost every claim far more), so it is read, as a rescue
-- does; but only while some worker's lease is over. A live worker ends that within a heartbeat.
create or replace function dreamcut_find_unreported_jobs() returns table (job uuid, worker_id uuid)
language plpgsql stable cost 1 rows 10 set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_silent uuid[];
begin
    v_silent := array(
        select worker.id from dreamcut_workers worker
        where worker.state in ('live', 'draining') and worker.lease_expires_at < now()
    );
    if v_silent = '{}' then
        return;
    end if;
    return query
    select job.id, job.worker_id
    from dreamcut_jobs job
    join dreamcut_workers worker on worker.id = job.worker_id
    where job.status = 'processing' and job.worker_id = any (v_silent) and job.id <> all (worker.held);
end $$;

-- Running jobs, found through the workers that hold them.
create or replace view dreamcut_running_jobs as
select job.id, job.manifest_id, job.job_id, job.type, job.attempts, job.max_attempts, job.started_at,
    worker.id as worker_id, worker.host, worker.lease_expires_at,
    worker.lease_expires_at < now() as lease_expired
from (
    select reported.job, holder.id as worker_id
    from dreamcut_workers holder
    cross join lateral unnest(holder.held) as reported (job)
    union all
    select unreported.job, unreported.worker_id
    from dreamcut_find_unreported_jobs() unreported
) held
join dreamcut_workers worker on worker.id = held.worker_id
join dreamcut_jobs job on job.id = held.job
where worker.state in ('live', 'draining') and job.status = 'processing' and job.worker_id = worker.id;

comment on view dreamcut_running_jobs is
    'Jobs that workers held at their last heartbeat and still run, and all that a silent worker holds.';

comment on column dreamcut_running_jobs.id is 'The job''s uuid.';
comment on column dreamcut_running_jobs.manifest_id is 'Its manifest; null for a job without one.';
comment on column dreamcut_running_jobs.job_id is 'The producer''s name for it.';
comment on column dreamcut_running_jobs.type is 'Job type.';
comment on column dreamcut_running_jobs.attempts is 'Attempts, this one included.';
comment on column dreamcut_running_jobs.max_attempts is 'Attempts that it may have.';
comment on column dreamcut_running_jobs.started_at is 'When it was claimed.';
comment on column dreamcut_running_jobs.worker_id is 'The incarnation of a worker that runs it.';
comment on column dreamcut_running_jobs.host is 'Where that worker runs.';
comment on column dreamcut_running_jobs.lease_expires_at is 'Until when the worker''s lease lasts.';
comment on column dreamcut_running_jobs.lease_expired is 'Whether that time is over: the job is stalled.';

create or replace view dreamcut_queue_depth as
with counted as (
    select open.type, count(*) as ready, 0 as delayed, 0 as blocked, 0 as processing, 0 as slots, 0 as workers
    from (select job.type from dreamcut_jobs job where job.ready limit 1000000) open
    group by open.type
    union all
    select open.type, 0, count(*), 0, 0, 0, 0
    from (
        select job.type, job.unmet_dependencies from dreamcut_jobs job
        where job.next_retry_at is not null limit 1000000
    ) open
    where open.unmet_dependencies = 0
    group by open.type
    union all
    select open.type, 0, 0, count(*), 0, 0, 0
    from (
        select job.type from dreamcut_jobs job
        where job.unmet_dependencies > 0 and job.error_class is null limit 1000000
    ) open
    group by open.type
    union all
    select running.type, 0, 0, 0, count(*), 0, 0
    from dreamcut_running_jobs running
    group by running.type
    union all
    select lane.type, 0, 0, 0, 0, sum(lane.slots), count(*)
    from dreamcut_live_lanes lane
    group by lane.type
)
select counted.type, sum(counted.ready)::bigint as ready, sum(counted.delayed)::bigint as delayed,
    sum(counted.blocked)::bigint as blocked, sum(counted.processing)::bigint as processing,
    sum(counted.slots)::bigint as slots, sum(counted.workers)::bigint as workers
from counted
group by counted.type;

comment on view dreamcut_queue_depth is
    'Open jobs of each type by state, with the slots and live workers that serve the type (0: nobody does).';

comment on column dreamcut_queue_depth.type is 'Job type.';
comment on column dreamcut_queue_depth.ready is 'Jobs that could be claimed now.';
comment on column dreamcut_queue_depth.delayed is 'Jobs that wait for a time: scheduled, or between two attempts.';
comment on column dreamcut_queue_depth.blocked is 'Jobs that wait for other jobs.';
comment on column dreamcut_queue_depth.processing is 'Jobs that workers run (see dreamcut_running_jobs).';
comment on column dreamcut_queue_depth.slots is 'Jobs of the type that live workers run at a time, all together.';
comment on column dreamcut_queue_depth.workers is 'Live workers that list the type; slots says whether they run it.';

-- By ~priority and turn, as the claim's index is ordered.
create or replace view dreamcut_ready_lag as
with recursive lane (type, urgency) as (
    (
        select job.type, ~job.priority from dreamcut_jobs job
        where job.ready
        order by job.type, ~job.priority limit 1
    )
    union all
    select next.type, next.urgency
    from lane
    cross join lateral (
        (
            select job.type, ~job.priority as urgency from dreamcut_jobs job
            where job.ready and job.type = lane.type and ~job.priority > lane.urgency
            order by ~job.priority limit 1
        )
        union all
        (
            select job.type, ~job.priority as urgency from dreamcut_jobs job
            where job.ready and job.type > lane.type
            order by job.type, ~job.priority limit 1
        )
        limit 1
    ) next
)
select lane.type, min(head.updated_at) as ready_since, now() - min(head.updated_at) as lag
from lane
cross join lateral (
    select job.updated_at from dreamcut_jobs job
    where job.ready and job.type = lane.type and ~job.priority = lane.urgency
    order by job.turn limit 50
) head
group by lane.type;

comment on view dreamcut_ready_lag is
    'How long the next jobs of each type (the first 50 of each priority) have been ready without being claimed.';

comment on column dreamcut_ready_lag.type is 'Job type.';
comment on column dreamcut_ready_lag.ready_since is 'Since when the oldest of the next jobs has been ready.';
comment on column dreamcut_ready_lag.lag is 'How long that is ago.';

create or replace view dreamcut_blocked_jobs as
select job.id, job.manifest_id, job.job_id, job.type, job.created_at, now() - job.created_at as age,
    waiting.waits_for, waiting.missing,
    case when waiting.missing <> '{}'
         then 'waits for jobs that do not exist: ' || array_to_string(waiting.missing, ', ')
         else 'waits for ' || array_to_string(waiting.waits_for, ', ')
    end as reason
from (
    with recursive lane (type) as (
        select min(job.type) from dreamcut_jobs job where job.unmet_dependencies > 0 and job.error_class is null
        union all
        select (
            select min(job.type) from dreamcut_jobs job
            where job.unmet_dependencies > 0 and job.error_class is null and job.type > lane.type
        )
        from lane where lane.type is not null
    )
    select oldest.*
    from lane
    cross join lateral (
        select job.id, job.manifest_id, job.job_id, job.type, job.created_at from dreamcut_jobs job
        where job.unmet_dependencies > 0 and job.error_class is null and job.type = lane.type
        order by job.seq limit 100
    ) oldest
) job
cross join lateral (
    select
        coalesce(array_agg(wait.depends_on order by wait.depends_on), '{}') as waits_for,
        coalesce(array_agg(wait.depends_on order by wait.depends_on) filter (where dependency.id is null), '{}')
            as missing
    from dreamcut_job_dependencies wait
    left join dreamcut_jobs dependency
        on dependency.manifest_id = wait.manifest_id and dependency.job_id = wait.depends_on
    where wait.job = job.id
) waiting;

comment on view dreamcut_blocked_jobs is
    'The oldest 100 blocked jobs of each type, with what they wait for and which of that does not exist.';

comment on column dreamcut_blocked_jobs.id is 'The job''s uuid.';
comment on column dreamcut_blocked_jobs.manifest_id is 'Its manifest.';
comment on column dreamcut_blocked_jobs.job_id is 'The producer''s name for it.';
comment on column dreamcut_blocked_jobs.type is 'Job type.';
comment on column dreamcut_blocked_jobs.created_at is 'When it was inserted.';
comment on column dreamcut_blocked_jobs.age is 'How long ago that was.';
comment on column dreamcut_blocked_jobs.waits_for is 'The job_ids that it still waits for.';
comment on column dreamcut_blocked_jobs.missing is 'Those of them that do not exist.';
comment on column dreamcut_blocked_jobs.reason is 'The same as a sentence.';

create or replace view dreamcut_stalled_jobs as
select running.id, running.manifest_id, running.job_id, running.type, running.attempts, running.max_attempts,
    running.started_at, running.worker_id, running.host, now() - running.lease_expires_at as silent_for
from dreamcut_running_jobs running
where running.lease_expired;

comment on view dreamcut_stalled_jobs is
    'Running jobs whose worker''s lease ran out. A live worker returns them to the queue within a heartbeat.';

comment on column dreamcut_stalled_jobs.id is 'The job''s uuid.';
comment on column dreamcut_stalled_jobs.manifest_id is 'Its manifest; null for a job without one.';
comment on column dreamcut_stalled_jobs.job_id is 'The producer''s name for it.';
comment on column dreamcut_stalled_jobs.type is 'Job type.';
comment on column dreamcut_stalled_jobs.attempts is 'Attempts, this one included.';
comment on column dreamcut_stalled_jobs.max_attempts is 'Attempts that it may have.';
comment on column dreamcut_stalled_jobs.started_at is 'When it was claimed.';
comment on column dreamcut_stalled_jobs.worker_id is 'The incarnation of a worker that held it.';
comment on column dreamcut_stalled_jobs.host is 'Where that worker ran.';
comment on column dreamcut_stalled_jobs.silent_for is 'For how long the worker''s lease has been over.';
