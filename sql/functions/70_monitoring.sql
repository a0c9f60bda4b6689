-- Views for monitoring. None reads the whole table of jobs: what is open is counted in partial indexes, what is
-- over was added up as it ended (35_stats.sql). Each says in its comment what it covers.
-- Ready, delayed and blocked jobs are counted up to a million each; `processing` is what workers held at
-- their last heartbeat and still hold.

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
where call.finished_at >= (select place.calls_through from dreamcut_stats_position place);

comment on view dreamcut_call_outcomes is 'Provider calls that ended, by minute (older ones by hour), endpoint, status and duration bucket.';

-- Running jobs, found through the workers that hold them.
create or replace view dreamcut_running_jobs as
select job.id, job.manifest_id, job.job_id, job.type, job.attempts, job.max_attempts, job.started_at,
    worker.id as worker_id, worker.host, worker.lease_expires_at,
    worker.lease_expires_at < now() as lease_expired
from dreamcut_workers worker
cross join lateral unnest(worker.held) as held (job)
join dreamcut_jobs job on job.id = held.job
where worker.state in ('live', 'draining') and job.status = 'processing' and job.worker_id = worker.id;

comment on view dreamcut_running_jobs is 'Jobs that workers held at their last heartbeat and still run.';

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

create or replace view dreamcut_ready_lag as
with recursive lane (type, priority) as (
    (select job.type, job.priority from dreamcut_jobs job where job.ready order by job.type, job.priority desc limit 1)
    union all
    select next.type, next.priority
    from lane
    cross join lateral (
        (
            select job.type, job.priority from dreamcut_jobs job
            where job.ready and job.type = lane.type and job.priority < lane.priority
            order by job.priority desc limit 1
        )
        union all
        (
            select job.type, job.priority from dreamcut_jobs job
            where job.ready and job.type > lane.type
            order by job.type, job.priority desc limit 1
        )
        limit 1
    ) next
)
select lane.type, min(head.updated_at) as ready_since, now() - min(head.updated_at) as lag
from lane
cross join lateral (
    select job.updated_at from dreamcut_jobs job
    where job.ready and job.type = lane.type and job.priority = lane.priority
    order by job.seq limit 50
) head
group by lane.type;

comment on view dreamcut_ready_lag is
    'How long the next jobs of each type (the first 50 of each priority) have been ready without being claimed.';

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

create or replace view dreamcut_stalled_jobs as
select running.id, running.manifest_id, running.job_id, running.type, running.attempts, running.max_attempts,
    running.started_at, running.worker_id, running.host, now() - running.lease_expires_at as silent_for
from dreamcut_running_jobs running
where running.lease_expired;

comment on view dreamcut_stalled_jobs is
    'Running jobs whose worker''s lease ran out. A live worker returns them to the queue within a heartbeat.';

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

-- The manifest's own counters only: no job is read. History is the mean of the manifests that were finished
-- last.
create or replace view dreamcut_manifest_progress as
with history as (
    select avg(done.processing_time_ms)::bigint as mean_ms
    from (
        select manifest.processing_time_ms from dreamcut_production_manifest manifest
        where manifest.status = 'done'
        order by manifest.completed_at desc limit 50
    ) done
)
select manifest.id, manifest.status, manifest.created_at, manifest.started_at,
    manifest.total_jobs as jobs, manifest.open_jobs,
    case when manifest.total_jobs = 0 then 0
         else round(100.0 * (manifest.total_jobs - manifest.open_jobs) / manifest.total_jobs, 1)
    end as percent,
    (extract(epoch from now() - manifest.started_at) * 1000)::bigint as elapsed_ms,
    (history.mean_ms * manifest.open_jobs::numeric / nullif(manifest.total_jobs, 0))::bigint as time_left_ms
from dreamcut_production_manifest manifest
cross join history
where manifest.status = 'rendering';

comment on view dreamcut_manifest_progress is
    'Manifests under way, with percent done and a rough time left (from the last 50 finished manifests).';

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

-- One manifest in full: `where manifest_id = ...`, or the newest few: `order by created_at desc limit 50`.
-- Time left: what can run now runs side by side, in waves as wide as the live slots; what is blocked comes
-- after it, type by type.
create or replace view dreamcut_production_progress as
select manifest.id as manifest_id, manifest.user_id, manifest.status, manifest.created_at, manifest.started_at,
    manifest.completed_at, manifest.processing_time_ms, manifest.output_url, manifest.error_message,
    jobs.total_jobs, jobs.pending_jobs, jobs.processing_jobs, jobs.completed_jobs, jobs.failed_jobs,
    jobs.cancelled_jobs,
    case when manifest.status = 'done' then 100
         when jobs.total_jobs = 0 then 0
         else round(100.0 * jobs.completed_jobs / jobs.total_jobs, 1)
    end as progress_percent,
    case when manifest.status in ('done', 'failed') then 0 else jobs.time_left_ms end as time_left_ms
from dreamcut_production_manifest manifest
cross join lateral (
    select
        coalesce(sum(lane.jobs), 0)::bigint as total_jobs,
        coalesce(sum(lane.jobs) filter (where lane.status = 'pending'), 0)::bigint as pending_jobs,
        coalesce(sum(lane.jobs) filter (where lane.status = 'processing'), 0)::bigint as processing_jobs,
        coalesce(sum(lane.jobs) filter (where lane.status = 'completed'), 0)::bigint as completed_jobs,
        coalesce(sum(lane.jobs) filter (where lane.status = 'failed'), 0)::bigint as failed_jobs,
        coalesce(sum(lane.jobs) filter (where lane.status = 'cancelled'), 0)::bigint as cancelled_jobs,
        (coalesce(max(lane.work_ms) filter (where not lane.blocked), 0)
            + coalesce(sum(lane.work_ms) filter (where lane.blocked), 0))::bigint as time_left_ms
    from (
        select job.status, job.type, job.unmet_dependencies > 0 as blocked, count(*) as jobs,
            case when job.status in ('pending', 'processing')
                 then ceil(count(*)::numeric / greatest(history.slots, 1)) * history.mean_ms
            end as work_ms
        from dreamcut_jobs job
        left join dreamcut_type_history() history on history.type = job.type
        where job.manifest_id = manifest.id
        group by job.status, job.type, job.unmet_dependencies > 0, history.slots, history.mean_ms
    ) lane
) jobs;

comment on view dreamcut_production_progress is
    'Each manifest with its jobs by status, percent completed and time left, estimated from the last 24 hours. Ask for one, or for the newest few.';

create or replace view dreamcut_worker_states as
select worker.id, worker.host, worker.pid, worker.version, worker.types, worker.slots,
    case when worker.state in ('live', 'draining') and worker.lease_expires_at < now() then 'silent'
         else worker.state end as state,
    worker.active_jobs, (select sum(slots) from unnest(worker.slots) as slots) as total_slots,
    worker.started_at, worker.heartbeat_at, now() - worker.heartbeat_at as heartbeat_age, worker.lease_expires_at
from dreamcut_workers worker;

comment on view dreamcut_worker_states is
    'Incarnations of workers: live, draining, silent (its lease ran out), lost or stopped. A day of ended ones is kept.';

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

create or replace view dreamcut_daily_spend as
select date_trunc('day', seen.since at time zone 'UTC')::date as day, seen.provider,
    sum(seen.calls) as calls, sum(seen.cost_usd) as cost_usd, sum(seen.unpriced) as unpriced_calls
from dreamcut_call_outcomes seen
group by 1, 2;

comment on view dreamcut_daily_spend is
    'US dollars by day (UTC) and provider for the last 90 days; a call without a reported cost counts with its estimate.';

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
), spent as (
    select spend.provider, sum(spend.cost_usd) as cost_usd
    from dreamcut_daily_spend spend
    where spend.day = (now() at time zone 'UTC')::date
    group by spend.provider
), named as (
    select recent.provider as name from recent
    union select waiting.provider from waiting
    union select spent.provider from spent
    union select known.name from dreamcut_providers known
)
select named.name as provider,
    case when known.paused_until > now() then 'paused'
         when known.paused_until is not null then 'probing'
         when known.slowed_at is not null then 'slowed'
         when recent.failed > recent.succeeded then 'failing'
         else 'ok'
    end as state,
    known.paused_until, known.pause_reason, known.pause_class, known.paused_by, known.max_concurrent,
    known.max_per_minute, known.daily_limit_usd, known.slowed_to,
    coalesce(waiting.calls, 0) as open_calls,
    coalesce(recent.calls, 0)::bigint as calls_1h, coalesce(recent.succeeded, 0)::bigint as succeeded_1h,
    coalesce(recent.failed, 0)::bigint as failed_1h, recent.mean_ms, recent.p50_ms, recent.p95_ms,
    coalesce(spent.cost_usd, 0) as spent_today_usd
from named
left join dreamcut_providers known on known.name = named.name
left join recent on recent.provider = named.name
left join waiting on waiting.provider = named.name
left join spent on spent.provider = named.name;

comment on view dreamcut_provider_health is
    'Each provider: whether it is paused or slowed down, its limits, calls under way, and calls of the last hour.';

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
