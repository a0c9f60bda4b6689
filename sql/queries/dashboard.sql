-- What the dashboard and /metrics read. Lists are short, and none of it counts the table of jobs: see
-- functions/70_queue_views.sql.

-- name: metrics_depth :many
select type, ready, delayed, blocked, processing, slots, workers from dreamcut_queue_depth order by type;

-- name: metrics_lag :many
select type, greatest(extract(epoch from lag), 0)::float8 as lag_s from dreamcut_ready_lag order by type;

-- name: metrics_workers :many
select state, count(*) as workers from dreamcut_worker_states group by state order by state;

-- name: metrics_providers :many
select provider, state, open_calls, spent_today_usd from dreamcut_provider_health order by provider;

-- name: metrics_stalled :many
select count(*) as jobs from dreamcut_stalled_jobs;

-- name: board_throughput :many
-- The last hour by minute, minutes without an outcome included.
select slot.minute, coalesce(sum(seen.completed), 0)::bigint as completed,
    coalesce(sum(seen.retried), 0)::bigint as retried,
    coalesce(sum(seen.failed + seen.cancelled), 0)::bigint as failed
from generate_series(
    date_trunc('minute', now()) - interval '59 minutes', date_trunc('minute', now()), interval '1 minute'
) as slot (minute)
left join dreamcut_throughput seen on seen.minute = slot.minute
group by slot.minute
order by slot.minute;

-- name: board_failures :many
select error_class, type, provider, failed, retried, cancelled, last_hour
from dreamcut_failures_by_class
order by last_hour desc, failed + retried + cancelled desc, error_class, type
limit 12;

-- name: board_durations :many
select type, provider, jobs, mean_ms, p50_ms, p95_ms, p99_ms from dreamcut_durations order by type, provider;

-- name: board_history :many
-- A type's mean duration and live slots.
select type, slots, mean_ms from dreamcut_type_history();

-- name: board_providers :many
select provider, state, paused_until, is_paused_until_resumed as until_resumed,
    pause_reason, pause_class, paused_by, max_concurrent,
    max_per_minute, daily_limit_usd, slowed_to, open_calls, calls_1h, succeeded_1h, failed_1h, mean_ms, p50_ms,
    p95_ms, spent_today_usd
from dreamcut_provider_health
order by provider;

-- name: board_spend :many
-- The last 14 days, days without a call included.
-- What calls cost and may have cost, by the day on which they began.
select slot.day::date as day, coalesce(spend.spent_usd + spend.uncertain_usd, 0) as cost_usd,
    coalesce(spend.calls, 0) as calls
from generate_series(
    (now() at time zone 'UTC')::date - 13, (now() at time zone 'UTC')::date, interval '1 day'
) as slot (day)
left join dreamcut_spend_by_day spend on spend.day = slot.day::date
order by slot.day;

-- name: board_workers :many
select id, host, pid, version, types, slots, state, active_jobs, total_slots, started_at, heartbeat_at,
    extract(epoch from heartbeat_age)::float8 as heartbeat_s
from dreamcut_worker_states
order by array_position(array['silent', 'live', 'draining', 'lost', 'stopped'], state), started_at desc
limit 200;

-- name: board_running :many
select id, manifest_id, job_id, type, attempts, max_attempts, started_at, worker_id, host, lease_expired,
    (extract(epoch from now() - started_at) * 1000)::bigint as running_ms
from dreamcut_running_jobs
order by started_at
limit 200;

-- name: board_blocked :many
-- Blocked jobs that nobody will free: what they wait for does not exist.
select id, manifest_id, job_id, type, missing, extract(epoch from age)::float8 as age_s
from dreamcut_blocked_jobs
where missing <> '{}'
order by created_at
limit 20;

-- name: board_manifests :many
-- Manifests, newest first, those after one of them: manifests that were submitted together share their time, so its id
-- counts as well. The time left is looked up in the jobs of those on the page that run.
select progress.manifest_id as id, progress.status, progress.created_at, progress.started_at,
    progress.completed_at, progress.processing_time_ms, progress.output_url, progress.error_message,
    progress.total_jobs, progress.pending_jobs, progress.processing_jobs, progress.completed_jobs,
    progress.failed_jobs, progress.cancelled_jobs, progress.progress_percent,
    case when progress.status in ('done', 'failed') then 0
         else coalesce(dreamcut_time_left(progress.manifest_id), progress.time_left_ms) end as time_left_ms,
    whole.archived_at, whole.manifest_json -> 'metadata' ->> 'title' as title,
    (extract(epoch from now() - progress.started_at) * 1000)::bigint as elapsed_ms
from (
    select manifest.id, manifest.manifest_json, manifest.archived_at
    from dreamcut_production_manifest manifest
    where (manifest.created_at, manifest.id) < (
            coalesce(@before::timestamptz, 'infinity'),
            coalesce(@before_id::uuid, '00000000-0000-0000-0000-000000000000')
        )
        and (@status::text is null or manifest.status = @status::text)
    order by manifest.created_at desc, manifest.id desc
    limit @limit::int
) whole
join dreamcut_production_progress progress on progress.manifest_id = whole.id
order by progress.created_at desc, progress.manifest_id desc;

-- name: board_manifest :one
-- As board_manifests.
select progress.manifest_id as id, progress.user_id, progress.status, progress.created_at, progress.started_at,
    progress.completed_at, progress.processing_time_ms, progress.output_url, progress.error_message,
    progress.total_jobs, progress.pending_jobs, progress.processing_jobs, progress.completed_jobs,
    progress.failed_jobs, progress.cancelled_jobs, progress.progress_percent,
    case when progress.status in ('done', 'failed') then 0
         else coalesce(dreamcut_time_left(progress.manifest_id), progress.time_left_ms) end as time_left_ms,
    (extract(epoch from now() - progress.started_at) * 1000)::bigint as elapsed_ms,
    manifest.archived_at, manifest.manifest_json -> 'metadata' as metadata, manifest.validation_errors
from dreamcut_production_progress progress
join dreamcut_production_manifest manifest on manifest.id = progress.manifest_id
where progress.manifest_id = @id::uuid;

-- name: board_manifest_jobs :many
-- The first jobs of a manifest, with those in the archive.
select job.id, job.seq, job.job_id, job.type, job.status, finer.state, finer.reason, job.depends_on,
    job.attempts, job.max_attempts, job.error_class, job.error_message, job.output_url,
    job.created_at, job.started_at, job.completed_at, job.next_retry_at,
    job.result ->> 'contentType' as content_type,
    case when job.status = 'processing' then (extract(epoch from now() - job.started_at) * 1000)::bigint
         else job.processing_time_ms end as processing_time_ms,
    false as archived
from (
    select whole.* from dreamcut_jobs whole where whole.manifest_id = @manifest::uuid
    order by whole.seq limit @limit::int
) job
join dreamcut_job_states finer on finer.id = job.id
union all
select job.id, job.seq, job.job_id, job.type, job.status, job.status, null::text, job.depends_on,
    job.attempts, job.max_attempts, job.error_class, job.error_message, job.output_url,
    job.created_at, job.started_at, job.completed_at, job.next_retry_at,
    job.result ->> 'contentType', job.processing_time_ms, true
from dreamcut_archived_jobs job
where job.manifest_id = @manifest::uuid
order by seq
limit @limit::int;

-- name: board_jobs_in_status :many
-- The ids of all jobs of a manifest that stand so, the last ones first: what depends on others comes before them.
select job.id
from dreamcut_jobs job
where job.manifest_id = @manifest::uuid and job.status = any (@statuses::text[])
order by job.seq desc;

-- name: board_jobs :many
-- Open jobs that need a look, and failed ones: off the index of errors, newest first.
select job.id, job.manifest_id, job.job_id, job.type, finer.state, finer.reason, job.attempts, job.max_attempts,
    job.error_class, job.error_message, job.updated_at, job.processing_time_ms
from (
    select troubled.id, troubled.seq from dreamcut_jobs troubled
    where troubled.error_class is not null and troubled.seq < coalesce(@before::bigint, 9223372036854775807)
    order by troubled.seq desc limit @limit::int
) newest
join dreamcut_jobs job on job.id = newest.id
join dreamcut_job_states finer on finer.id = job.id
order by newest.seq desc;

-- name: board_job_siblings :many
select job.job_id, job.status, job.output_url
from dreamcut_jobs job
where job.manifest_id = @manifest::uuid and job.job_id = any (@jobs::text[])
union all
select job.job_id, job.status, job.output_url
from dreamcut_archived_jobs job
where job.manifest_id = @manifest::uuid and job.job_id = any (@jobs::text[]);

-- name: dependencies_of_job :many
-- What a job depended on, with the number of the claim that completed it.
select dependency.id, dependency.job_id, dependency.claims
from dreamcut_jobs job
join dreamcut_jobs dependency
    on dependency.manifest_id = job.manifest_id and dependency.job_id = any (job.depends_on)
where job.id = @id::uuid and dependency.status = 'completed'
order by dependency.seq;
