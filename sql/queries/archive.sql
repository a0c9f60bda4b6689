-- Jobs in the archive, with the columns that jobs have in admin.sql. Retention itself: functions/80_retention.sql.

-- name: list_archived_jobs :many
-- What ended last comes first; null for a filter means all.
select job.id, job.manifest_id, job.job_id, job.type, job.status, job.status as state, null::text as reason,
    job.priority, job.attempts, job.max_attempts, job.error_class, job.error_message, job.output_url,
    job.created_at, job.started_at, job.completed_at, job.next_retry_at, job.processing_time_ms,
    job.ended_at, job.archived_at
from dreamcut_archived_jobs job
where (@manifest::uuid is null or job.manifest_id = @manifest::uuid)
    and (@type::text is null or job.type = @type::text)
    and (@error_class::text is null or job.error_class = @error_class::text)
    and (@created_after::timestamptz is null or job.created_at >= @created_after::timestamptz)
    and (@created_before::timestamptz is null or job.created_at < @created_before::timestamptz)
    and (@states::text[] is null or job.status = any (@states::text[]))
order by job.ended_at desc, job.seq desc
limit @limit::int;

-- name: archived_manifest_jobs :many
-- As manifest_jobs.
select job.id, job.manifest_id, job.job_id, job.type, job.status, job.status as state, null::text as reason,
    job.priority, job.depends_on, job.attempts, job.max_attempts, job.error_class, job.error_message,
    job.output_url, job.created_at, job.started_at, job.completed_at, job.next_retry_at, job.processing_time_ms
from dreamcut_archived_jobs job
where job.manifest_id = @manifest::uuid
order by cardinality(job.depends_on), job.priority desc, job.seq;

-- name: archived_between :many
-- As jobs_between.
select job.id, job.job_id
from dreamcut_archived_jobs job
where job.id between @low::uuid and @high::uuid
order by job.id
limit 3;

-- name: archived_job_of_manifest :one
select job.id
from dreamcut_archived_jobs job
where job.manifest_id = @manifest::uuid and job.job_id = @job_id
order by job.ended_at desc
limit 1;

-- name: show_archived_job :one
select job.id, job.manifest_id, job.job_id, job.type, job.status, job.status as state, null::text as reason,
    job.priority, job.payload, job.depends_on, job.retry_policy, job.attempts, job.max_attempts,
    job.result, job.output_url, job.error_class, job.error_message, job.tags, job.metadata,
    job.estimated_cost_usd, job.worker_id, job.next_retry_at, job.processing_time_ms,
    job.created_at, job.updated_at, job.started_at, job.completed_at, job.ended_at, job.archived_at
from dreamcut_archived_jobs job
where job.id = @id::uuid;

-- name: show_archived_attempts :many
select attempt.attempt, attempt.claim, attempt.outcome, attempt.error_class, attempt.error_message,
    attempt.detail, attempt.worker_id, attempt.started_at, attempt.finished_at
from dreamcut_archived_attempts attempt
where attempt.job = @id::uuid
order by attempt.claim;

-- name: prune_archive :many
select month, jobs, attempts, bytes
from dreamcut_prune_archive(now() - @older_than::interval, @dry_run::boolean);

-- name: prune_manifests :scalar
select dreamcut_prune_manifests(now() - @older_than::interval, @limit::int);
