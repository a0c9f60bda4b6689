-- Views for monitoring. None reads the whole table of jobs: what is open is counted in partial indexes, what is
-- over was added up as it ended (35_stats.sql). Each says in its comment what it covers.
-- Ready, delayed and blocked jobs are counted up to a million each; `processing` is what workers held at
-- their last heartbeat and still hold, and all that a silent worker holds.

-- What is now a view under another name, or has other columns.
drop view if exists dreamcut_provider_health, dreamcut_daily_spend, dreamcut_manifest_progress,
    dreamcut_production_progress;

-- Outcomes added up, with those of the last minute.
create or replace view dreamcut_outcomes as
select stats.since, stats.minutes, stats.type, stats.provider, stats.outcome, stats.error_class, stats.bucket,
    stats.jobs, stats.run_ms
from dreamcut_job_stats stats
union all
select date_trunc('minute', log.at), 1::smallint, log.type, log.provider, log.outcome, log.error_class,
    log.bucket, log.jobs, log.run_ms
from dreamcut_job_stats_log log;

comment on view dreamcut_outcomes is 'Outcomes of jobs by minute (older ones by hour), type, provider, class and duration bucket.';

-- Calls added up, with those that ended since.
create or replace view dreamcut_call_outcomes as
select stats.since, stats.minutes, stats.provider, stats.endpoint, stats.status, stats.bucket, stats.calls,
    stats.run_ms, stats.cost_usd, stats.unpriced
from dreamcut_call_stats stats
union all
select date_trunc('minute', call.since), 1::smallint, call.provider, call.endpoint, call.status, call.bucket,
    1, call.run_ms, coalesce(call.usd, 0), case when call.usd is null then 1 else 0 end
from dreamcut_ended_calls call
where call.finished_at >= dreamcut_calls_through();

comment on view dreamcut_call_outcomes is 'Provider calls that ended, by minute (older ones by hour), endpoint, status and duration bucket.';

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
    from dreamcut_workers worker
    cross join lateral unnest(worker.types, worker.slots) as lane (type, slots)
    where worker.state = 'live' and worker.lease_expires_at > now()
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

create or replace view dreamcut_failures_by_class as
select seen.error_class, seen.type, seen.provider,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'failed'), 0) as failed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'retried'), 0) as retried,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'cancelled'), 0) as cancelled,
    coalesce(sum(seen.jobs) filter (where seen.minutes = 1 and seen.since >= now() - interval '1 hour'), 0)
        as last_hour
from dreamcut_outcomes seen
where seen.since >= now() - interval '24 hours' and seen.outcome <> 'completed'
group by seen.error_class, seen.type, seen.provider;

comment on view dreamcut_failures_by_class is
    'Attempts of the last 24 hours that did not succeed, by class, type and provider.';

comment on column dreamcut_failures_by_class.error_class is 'Class of the error.';
comment on column dreamcut_failures_by_class.type is 'Job type.';
comment on column dreamcut_failures_by_class.provider is 'The provider that the outcome names; empty if none.';
comment on column dreamcut_failures_by_class.failed is 'Jobs that failed for good.';
comment on column dreamcut_failures_by_class.retried is 'Attempts after which the job runs again.';
comment on column dreamcut_failures_by_class.cancelled is 'Jobs that were cancelled.';
comment on column dreamcut_failures_by_class.last_hour is 'All of these in the last hour.';

create or replace view dreamcut_throughput as
select seen.since as minute, seen.type,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'completed'), 0) as completed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'failed'), 0) as failed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'retried'), 0) as retried,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'cancelled'), 0) as cancelled
from dreamcut_outcomes seen
where seen.since >= date_trunc('minute', now()) - interval '60 minutes' and seen.minutes = 1
group by seen.since, seen.type;

comment on view dreamcut_throughput is 'Outcomes in each of the last 60 minutes, by type. A minute without any has no row.';

comment on column dreamcut_throughput.minute is 'The minute''s beginning.';
comment on column dreamcut_throughput.type is 'Job type.';
comment on column dreamcut_throughput.completed is 'Jobs completed.';
comment on column dreamcut_throughput.failed is 'Jobs that failed for good.';
comment on column dreamcut_throughput.retried is 'Attempts after which the job runs again.';
comment on column dreamcut_throughput.cancelled is 'Jobs cancelled.';

create or replace view dreamcut_durations as
with spread as (
    select seen.type, seen.provider, seen.bucket, sum(seen.jobs) as jobs, sum(seen.run_ms) as run_ms
    from dreamcut_outcomes seen
    where seen.since >= now() - interval '24 hours' and seen.outcome = 'completed'
    group by seen.type, seen.provider, seen.bucket
), ranked as (
    select spread.*,
        sum(spread.jobs) over (partition by spread.type, spread.provider order by spread.bucket) as below,
        sum(spread.jobs) over (partition by spread.type, spread.provider) as total
    from spread
)
select ranked.type, ranked.provider, max(ranked.total)::bigint as jobs,
    (sum(ranked.run_ms) / sum(ranked.jobs))::bigint as mean_ms,
    round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.50 * ranked.total) / 4.0))::bigint as p50_ms,
    round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.90 * ranked.total) / 4.0))::bigint as p90_ms,
    round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.95 * ranked.total) / 4.0))::bigint as p95_ms,
    round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.99 * ranked.total) / 4.0))::bigint as p99_ms
from ranked
group by ranked.type, ranked.provider;

comment on view dreamcut_durations is
    'Durations of jobs completed in the last 24 hours by type and provider; percentiles are good to 9 %.';

comment on column dreamcut_durations.type is 'Job type.';
comment on column dreamcut_durations.provider is 'The provider that the result names; empty if none.';
comment on column dreamcut_durations.jobs is 'Completed jobs.';
comment on column dreamcut_durations.mean_ms is 'Mean duration, in milliseconds, from the claim to the end.';
comment on column dreamcut_durations.p50_ms is 'Half of the jobs took no longer; good to 9 %.';
comment on column dreamcut_durations.p90_ms is '90 % took no longer.';
comment on column dreamcut_durations.p95_ms is '95 % took no longer.';
comment on column dreamcut_durations.p99_ms is '99 % took no longer.';

-- Every manifest, from its own counters: no job is read but the running ones. After an UPDATE of a job's status by hand
-- the counters may be off until dreamcut_reconcile finds something to mend; they are held to what is possible.
-- Percent: of the jobs, those that were completed; 100 when the manifest is done, also where it could do without some
-- that failed. Failed and cancelled jobs do not count: they bring the film no nearer, a failed manifest would show
-- 100, and a retry would turn the progress back.
-- Time left: the share of open jobs of what the last 50 finished manifests took; before there is one, of its own
-- pace. dreamcut_time_left is better, and costs a look at the manifest's jobs.
-- All manifests are asked for in a moment, so what is the same for nearly all of them is decided by whole numbers:
-- text and numeric take several times as long.
create or replace view dreamcut_production_progress as
select manifest.id as manifest_id, manifest.user_id, manifest.status, manifest.created_at, manifest.started_at,
    manifest.completed_at, manifest.processing_time_ms, manifest.output_url, manifest.error_message,
    manifest.total_jobs,
    case when running.jobs is null then manifest.open_jobs
         else manifest.open_jobs - least(running.jobs, manifest.open_jobs)::int end as pending_jobs,
    case when running.jobs is null then 0
         else least(running.jobs, manifest.open_jobs)::int end as processing_jobs,
    manifest.completed_jobs, manifest.failed_jobs, manifest.cancelled_jobs,
    case when manifest.completed_jobs >= manifest.total_jobs and manifest.total_jobs > 0 then 100
         when manifest.status = 'done' then 100
         when manifest.total_jobs = 0 then 0
         else (2000::bigint * manifest.completed_jobs + manifest.total_jobs) / (2 * manifest.total_jobs) * 0.1
    end as progress_percent,
    case when manifest.open_jobs = 0 then case when manifest.total_jobs > 0 then 0 end
         else coalesce(
             (
                 select avg(done.processing_time_ms)::double precision
                 from (
                     select past.processing_time_ms from dreamcut_production_manifest past
                     where past.status = 'done'
                     order by past.completed_at desc limit 50
                 ) done
             ) * least(manifest.open_jobs, manifest.total_jobs) / nullif(manifest.total_jobs, 0),
             extract(epoch from now() - manifest.started_at)::double precision * 1000 * manifest.open_jobs
                 / nullif(manifest.completed_jobs + manifest.failed_jobs + manifest.cancelled_jobs, 0)
         )::bigint
    end as time_left_ms
from dreamcut_production_manifest manifest
left join (
    select job.manifest_id, count(*) as jobs
    from dreamcut_running_jobs job
    where job.manifest_id is not null
    group by job.manifest_id
) running on running.manifest_id = manifest.id;

comment on view dreamcut_production_progress is
    'Each manifest with its jobs by status, percent completed and a rough time left.';

comment on column dreamcut_production_progress.manifest_id is 'The manifest''s uuid.';
comment on column dreamcut_production_progress.user_id is 'Whose it is.';
comment on column dreamcut_production_progress.status is 'planning, ready_to_dispatch, rendering, done or failed.';
comment on column dreamcut_production_progress.created_at is 'When it was inserted.';
comment on column dreamcut_production_progress.started_at is 'When its first job was claimed.';
comment on column dreamcut_production_progress.completed_at is 'When its last job ended.';
comment on column dreamcut_production_progress.processing_time_ms is
    'From started_at to completed_at, in milliseconds.';
comment on column dreamcut_production_progress.output_url is 'The finished video.';
comment on column dreamcut_production_progress.error_message is 'The first error of a failed manifest.';
comment on column dreamcut_production_progress.total_jobs is 'Its jobs, archived ones included.';
comment on column dreamcut_production_progress.pending_jobs is 'Jobs that have not begun: ready, delayed or blocked.';
comment on column dreamcut_production_progress.processing_jobs is 'Jobs that workers run (see dreamcut_running_jobs).';
comment on column dreamcut_production_progress.completed_jobs is 'Jobs completed.';
comment on column dreamcut_production_progress.failed_jobs is 'Jobs that failed for good.';
comment on column dreamcut_production_progress.cancelled_jobs is
    'Jobs cancelled, also because one that they need failed.';
comment on column dreamcut_production_progress.progress_percent is
    'Share of completed jobs, 0 to 100; 100 when the manifest is done.';
comment on column dreamcut_production_progress.time_left_ms is
    'Rough time left in milliseconds, from the last 50 finished manifests; null: nothing to estimate it from.';

create or replace view dreamcut_manifest_progress as
select progress.manifest_id as id, progress.status, progress.created_at, progress.started_at,
    progress.total_jobs as jobs, progress.pending_jobs + progress.processing_jobs as open_jobs,
    progress.progress_percent as percent,
    (extract(epoch from now() - progress.started_at) * 1000)::bigint as elapsed_ms, progress.time_left_ms
from dreamcut_production_progress progress
where progress.status = 'rendering';

comment on view dreamcut_manifest_progress is
    'Manifests under way, with percent completed and a rough time left (as in dreamcut_production_progress).';

comment on column dreamcut_manifest_progress.id is 'The manifest''s uuid.';
comment on column dreamcut_manifest_progress.status is 'Always rendering.';
comment on column dreamcut_manifest_progress.created_at is 'When it was inserted.';
comment on column dreamcut_manifest_progress.started_at is 'When its first job was claimed.';
comment on column dreamcut_manifest_progress.jobs is 'Its jobs.';
comment on column dreamcut_manifest_progress.open_jobs is 'Jobs that have not ended.';
comment on column dreamcut_manifest_progress.percent is 'As progress_percent of dreamcut_production_progress.';
comment on column dreamcut_manifest_progress.elapsed_ms is 'Milliseconds since started_at.';
comment on column dreamcut_manifest_progress.time_left_ms is 'As in dreamcut_production_progress.';

-- What the time left of a manifest is estimated from: each type's mean duration in the last 24 hours and its live
-- slots. A function, so that a list of manifests asks once.
create or replace function dreamcut_type_history() returns table (type text, slots bigint, mean_ms bigint)
language plpgsql stable cost 1 rows 10 set search_path = public, pg_temp as $$
#variable_conflict use_column
begin
    return query
    select history.type, coalesce(served.slots, 0)::bigint, history.mean_ms
    from (
        select durations.type, (sum(durations.mean_ms * durations.jobs) / sum(durations.jobs))::bigint as mean_ms
        from dreamcut_durations durations
        group by durations.type
    ) history
    left join (
        select lane.type, sum(lane.slots) as slots
        from dreamcut_workers worker
        cross join lateral unnest(worker.types, worker.slots) as lane (type, slots)
        where worker.state = 'live' and worker.lease_expires_at > now()
        group by lane.type
    ) served on served.type = history.type;
end $$;

-- The time left of one manifest, from its jobs: what can run now runs side by side, in waves as wide as the live
-- slots; what is blocked comes after it, type by type. Null if no type of it has a history.
create or replace function dreamcut_time_left(p_manifest uuid) returns bigint
language sql stable set search_path = public, pg_temp as $$
    select (coalesce(max(lane.work_ms) filter (where not lane.blocked), 0)
        + coalesce(sum(lane.work_ms) filter (where lane.blocked), 0))::bigint
    from (
        select job.unmet_dependencies > 0 as blocked,
            ceil(count(*)::numeric / greatest(history.slots, 1)) * history.mean_ms as work_ms
        from dreamcut_jobs job
        join dreamcut_type_history() history on history.type = job.type
        where job.manifest_id = p_manifest and job.status in ('pending', 'processing')
        group by job.type, job.unmet_dependencies > 0, history.slots, history.mean_ms
    ) lane
    having count(*) > 0
$$;

create or replace view dreamcut_worker_states as
select worker.id, worker.host, worker.pid, worker.version, worker.types, worker.slots,
    case when worker.state in ('live', 'draining') and worker.lease_expires_at < now() then 'silent'
         else worker.state end as state,
    worker.active_jobs, (select sum(slots) from unnest(worker.slots) as slots) as total_slots,
    worker.started_at, worker.heartbeat_at, now() - worker.heartbeat_at as heartbeat_age, worker.lease_expires_at
from dreamcut_workers worker;

comment on view dreamcut_worker_states is
    'Incarnations of workers: live, draining, silent (its lease ran out), lost or stopped. A day of ended ones is kept.';

comment on column dreamcut_worker_states.id is 'The incarnation''s uuid.';
comment on column dreamcut_worker_states.host is 'Where it runs.';
comment on column dreamcut_worker_states.pid is 'Its process.';
comment on column dreamcut_worker_states.version is 'Its release.';
comment on column dreamcut_worker_states.types is 'Job types that it serves.';
comment on column dreamcut_worker_states.slots is 'Jobs at a time, beside types.';
comment on column dreamcut_worker_states.state is 'live, draining, silent (its lease ran out), lost or stopped.';
comment on column dreamcut_worker_states.active_jobs is 'Jobs that it ran at its last heartbeat.';
comment on column dreamcut_worker_states.total_slots is 'The sum of slots.';
comment on column dreamcut_worker_states.started_at is 'When it registered.';
comment on column dreamcut_worker_states.heartbeat_at is 'Its last heartbeat.';
comment on column dreamcut_worker_states.heartbeat_age is 'How long ago that was.';
comment on column dreamcut_worker_states.lease_expires_at is 'When others may take over its jobs.';

create or replace view dreamcut_worker_metrics as
with outcome as (
    select seen.type,
        sum(seen.jobs) filter (where seen.outcome = 'completed') as completed,
        sum(seen.jobs) filter (where seen.outcome = 'failed') as failed,
        sum(seen.run_ms) filter (where seen.outcome = 'completed') as run_ms
    from dreamcut_outcomes seen
    where seen.since >= now() - interval '24 hours'
    group by seen.type
)
select depth.type as worker_type, depth.workers as active_workers, depth.slots as max_concurrent_jobs,
    depth.processing as active_jobs, depth.ready + depth.delayed + depth.blocked as pending_jobs,
    coalesce(outcome.completed, 0) as completed_24h, coalesce(outcome.failed, 0) as failed_24h,
    (outcome.run_ms / nullif(outcome.completed, 0))::bigint as avg_processing_time_ms
from dreamcut_queue_depth depth
left join outcome on outcome.type = depth.type;

comment on view dreamcut_worker_metrics is 'Each job type: workers, slots, open jobs, and the outcomes of the last 24 hours.';

comment on column dreamcut_worker_metrics.worker_type is 'Job type.';
comment on column dreamcut_worker_metrics.active_workers is 'Live workers that list the type.';
comment on column dreamcut_worker_metrics.max_concurrent_jobs is
    'Jobs of the type that they run at a time, all together.';
comment on column dreamcut_worker_metrics.active_jobs is 'Jobs that workers run (see dreamcut_running_jobs).';
comment on column dreamcut_worker_metrics.pending_jobs is 'Jobs that have not begun: ready, delayed or blocked.';
comment on column dreamcut_worker_metrics.completed_24h is 'Jobs completed in the last 24 hours.';
comment on column dreamcut_worker_metrics.failed_24h is 'Jobs that failed for good in the last 24 hours.';
comment on column dreamcut_worker_metrics.avg_processing_time_ms is
    'Mean duration of those completed, in milliseconds.';

create or replace view dreamcut_job_metrics as
with open as (
    select depth.type, state.status, state.jobs
    from dreamcut_queue_depth depth
    cross join lateral (values
        ('pending', depth.ready + depth.delayed + depth.blocked), ('processing', depth.processing)
    ) as state (status, jobs)
), over as (
    select seen.type, seen.outcome as status, sum(seen.jobs) as jobs, sum(seen.run_ms) as run_ms
    from dreamcut_outcomes seen
    where seen.since >= now() - interval '24 hours' and seen.outcome <> 'retried'
    group by seen.type, seen.outcome
)
select open.type, open.status, open.jobs::bigint as job_count, null::bigint as avg_processing_time_ms from open
union all
select over.type, over.status, over.jobs::bigint, (over.run_ms / nullif(over.jobs, 0))::bigint from over;

comment on view dreamcut_job_metrics is
    'Jobs by type and status: open ones now, ended ones of the last 24 hours with their mean duration.';

comment on column dreamcut_job_metrics.type is 'Job type.';
comment on column dreamcut_job_metrics.status is
    'pending or processing: now. completed, failed or cancelled: in the last 24 hours.';
comment on column dreamcut_job_metrics.job_count is 'How many.';
comment on column dreamcut_job_metrics.avg_processing_time_ms is
    'Mean duration of those that ended, in milliseconds; null for open ones.';

-- dreamcut_provider_states (65_money_views.sql) for every provider that has been called lately, with its calls.
create or replace view dreamcut_provider_health as
with spread as (
    select seen.provider, seen.bucket, sum(seen.calls) as calls, sum(seen.run_ms) as run_ms,
        coalesce(sum(seen.calls) filter (where seen.status = 'succeeded'), 0) as succeeded,
        coalesce(sum(seen.calls) filter (where seen.status in ('failed', 'unknown')), 0) as failed
    from dreamcut_call_outcomes seen
    where seen.since >= now() - interval '60 minutes' and seen.minutes = 1
    group by seen.provider, seen.bucket
), ranked as (
    select spread.*,
        sum(spread.succeeded) over (partition by spread.provider order by spread.bucket) as below,
        sum(spread.succeeded) over (partition by spread.provider) as total
    from spread
), recent as (
    select ranked.provider, sum(ranked.calls) as calls, sum(ranked.succeeded) as succeeded,
        sum(ranked.failed) as failed, (sum(ranked.run_ms) / sum(ranked.calls))::bigint as mean_ms,
        round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.50 * ranked.total) / 4.0))::bigint as p50_ms,
        round(power(2, min(ranked.bucket) filter (where ranked.below >= 0.95 * ranked.total) / 4.0))::bigint as p95_ms
    from ranked
    group by ranked.provider
), waiting as (
    select call.provider, count(*) as calls
    from dreamcut_provider_calls call
    where call.status in ('intent', 'submitted')
    group by call.provider
), today as (
    select spend.provider, sum(spend.spent_usd + spend.reserved_usd + spend.uncertain_usd) as usd
    from dreamcut_spend_totals spend
    where spend.day = (now() at time zone 'UTC')::date
    group by spend.provider
), named as (
    select recent.provider as name from recent
    union select waiting.provider from waiting
    union select today.provider from today
    union select known.name from dreamcut_provider_states known
)
select named.name as provider,
    case when known.state <> 'ok' then known.state
         when recent.failed > recent.succeeded then 'failing'
         else 'ok'
    end as state,
    known.paused_until, known.is_paused_until_resumed, known.pause_reason, known.pause_class, known.paused_by,
    known.max_concurrent, known.max_per_minute, known.daily_limit_usd, known.slowed_to,
    coalesce(waiting.calls, 0) as open_calls,
    coalesce(recent.calls, 0)::bigint as calls_1h, coalesce(recent.succeeded, 0)::bigint as succeeded_1h,
    coalesce(recent.failed, 0)::bigint as failed_1h, recent.mean_ms, recent.p50_ms, recent.p95_ms,
    coalesce(today.usd, 0) as spent_today_usd
from named
left join dreamcut_provider_states known on known.name = named.name
left join recent on recent.provider = named.name
left join waiting on waiting.provider = named.name
left join today on today.provider = named.name;

comment on view dreamcut_provider_health is
    'Each provider: whether it is paused or slowed down, its limits, calls under way, and calls of the last hour.';

comment on column dreamcut_provider_health.provider is 'The provider''s name.';
comment on column dreamcut_provider_health.state is
    'paused, probing, slowed (see dreamcut_provider_states), failing (more failures than successes in an hour) or ok.';
comment on column dreamcut_provider_health.paused_until is
    'Until when it is paused; null also where somebody has to resume it.';
comment on column dreamcut_provider_health.is_paused_until_resumed is 'Paused until somebody resumes it.';
comment on column dreamcut_provider_health.pause_reason is 'Why it is paused.';
comment on column dreamcut_provider_health.pause_class is 'The class of error that paused it; null: a person.';
comment on column dreamcut_provider_health.paused_by is 'Who paused it.';
comment on column dreamcut_provider_health.max_concurrent is 'Limit: calls at a time; null: none.';
comment on column dreamcut_provider_health.max_per_minute is 'Limit: calls begun within a minute.';
comment on column dreamcut_provider_health.daily_limit_usd is 'Limit: US dollars in a day (UTC).';
comment on column dreamcut_provider_health.slowed_to is 'Calls at a time when it was slowed down.';
comment on column dreamcut_provider_health.open_calls is 'Calls under way.';
comment on column dreamcut_provider_health.calls_1h is 'Calls that ended in the last hour.';
comment on column dreamcut_provider_health.succeeded_1h is 'Those that succeeded.';
comment on column dreamcut_provider_health.failed_1h is 'Those that failed, or whose outcome is not known.';
comment on column dreamcut_provider_health.mean_ms is 'Mean duration of a call, in milliseconds.';
comment on column dreamcut_provider_health.p50_ms is 'Half of the successful calls took no longer.';
comment on column dreamcut_provider_health.p95_ms is '95 % of them took no longer.';
comment on column dreamcut_provider_health.spent_today_usd is
    'As today_usd of dreamcut_provider_states: what counts against the daily limit.';

do $$
declare
    v_view regclass;
begin
    if current_setting('server_version_num')::int >= 150000 then
        for v_view in
            select class.oid::regclass from pg_class class
            where class.relnamespace = 'public'::regnamespace and class.relkind = 'v'
                and class.relname like 'dreamcut\_%'
        loop
            execute format('alter view %s set (security_invoker = true)', v_view);
        end loop;
    end if;
end $$;
