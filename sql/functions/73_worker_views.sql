-- Workers, and job types with the workers that serve them.

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
