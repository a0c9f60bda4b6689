-- What people ask about workers and ask of them, and what `dreamcuts top` shows.

-- name: fleet_workers :many
-- Workers, those that are there first. `all` also shows those that ended within the last day.
select worker.id, worker.host, worker.pid, worker.version, worker.types, worker.slots, worker.own_slots,
    case when worker.state in ('live', 'draining') and worker.lease_expires_at < now() then 'silent'
         else worker.state end as state,
    worker.active_jobs, running.by_type as running, worker.command, worker.commanded_at, worker.command_reason,
    worker.started_at, worker.heartbeat_at,
    (extract(epoch from now() - worker.heartbeat_at) * 1000)::bigint as silent_ms
from dreamcut_workers worker
left join lateral (
    select jsonb_object_agg(held.type, held.jobs) as by_type
    from (
        select job.type, count(*) as jobs
        from dreamcut_running_jobs job
        where job.worker_id = worker.id
        group by job.type
    ) held
) running on worker.state in ('live', 'draining')
where @all::boolean or worker.state in ('live', 'draining')
order by (worker.state in ('live', 'draining')) desc, worker.host, worker.started_at, worker.id;

-- name: command_workers :scalar
select dreamcut_command_workers(@workers::uuid[], @command::text, @reason::text);

-- name: scale_type :scalar
select dreamcut_scale_type(@type::text, @slots::int);

-- name: scale_profile :scalar
select dreamcut_scale_profile(@profile::text);

-- name: scaling :many
select type, slots, profile, updated_at from dreamcut_scaling order by type;

-- name: set_priority :scalar
select dreamcut_set_priority(@jobs::uuid[], @priority::int);

-- name: run_now :scalar
select dreamcut_run_now(@jobs::uuid[]);

-- name: top_depth :many
select type, ready, delayed, blocked, processing, slots, workers
from dreamcut_queue_depth
order by type;

-- name: top_throughput :many
-- Outcomes of the last full minutes and of the one that runs, by minute.
select minute, sum(completed)::bigint as completed, sum(failed)::bigint as failed,
    sum(retried)::bigint as retried, sum(cancelled)::bigint as cancelled
from dreamcut_throughput
where minute > now() - make_interval(mins => @minutes::int)
group by minute
order by minute;

-- name: top_failures :many
-- The newest jobs with an error, off an index that holds no others.
select job.id, job.manifest_id, job.job_id, job.type, job.status, job.error_class, job.error_message,
    job.attempts, job.max_attempts, job.updated_at
from (
    select newest.* from dreamcut_jobs newest
    where newest.error_class is not null and newest.error_class <> 'dependency_failed'
    order by newest.seq desc
    limit 200
) job
order by job.updated_at desc, job.id
limit @limit::int;

-- name: top_manifests :many
select progress.id, progress.jobs, progress.open_jobs, progress.percent, progress.elapsed_ms,
    progress.time_left_ms, manifest.manifest_json -> 'metadata' ->> 'title' as title
from dreamcut_manifest_progress progress
join dreamcut_production_manifest manifest on manifest.id = progress.id
order by progress.started_at desc nulls last, progress.id
limit @limit::int;
