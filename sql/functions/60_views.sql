-- Views for people and monitoring. From Postgres 15 on they show no more than the caller may read; to
-- Supabase's signed-in users they are not granted at all: see 90_security.sql.

-- The finer picture of each job: its state in the queue's own words, and what it waits for.
create or replace view dreamcut_job_states as
select
    job.id, job.manifest_id, job.job_id, job.type, job.priority, job.attempts, job.max_attempts,
    case
        when job.status <> 'pending' then job.status
        when job.unmet_dependencies > 0 then 'blocked'
        when job.next_retry_at is not null then 'delayed'
        else 'ready'
    end as state,
    waiting.waits_for,
    waiting.missing,
    case
        when job.status <> 'pending' then null
        when waiting.missing <> '{}' then
            'waits for jobs that do not exist: ' || array_to_string(waiting.missing, ', ')
        when job.unmet_dependencies > 0 then 'waits for ' || array_to_string(waiting.waits_for, ', ')
        when job.next_retry_at is not null then
            'not before ' || to_char(job.next_retry_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
            || coalesce(': ' || job.error_message, '')
        when not exists (
            select 1 from dreamcut_live_lanes lane where lane.type = job.type and lane.slots > 0
        ) then 'no worker serves this type'
        else coalesce((
            select 'waits for ' || provider.name || ', which is paused: ' || coalesce(provider.pause_reason, '')
            from dreamcut_providers provider
            where provider.paused_until is not null and exists (
                select 1 from dreamcut_live_lanes lane
                where lane.type = job.type and lane.provider = provider.name
            )
            limit 1
        ), case when job.suspect then 'two workers have died with it; a worker runs one such job at a time' end)
    end as reason,
    job.error_class, job.error_message, job.worker_id, job.next_retry_at, job.created_at, job.started_at,
    job.completed_at, job.processing_time_ms, job.output_url
from dreamcut_jobs job
left join lateral (
    select
        coalesce(array_agg(wait.depends_on order by wait.depends_on), '{}') as waits_for,
        coalesce(array_agg(wait.depends_on order by wait.depends_on) filter (where dependency.id is null), '{}')
            as missing
    from dreamcut_job_dependencies wait
    left join dreamcut_jobs dependency
        on dependency.manifest_id = wait.manifest_id and dependency.job_id = wait.depends_on
    where wait.job = job.id
) waiting on job.status = 'pending' and job.unmet_dependencies > 0;

comment on view dreamcut_job_states is
    'Each job with its state (blocked, delayed, ready, processing, completed, failed, cancelled) and the reason it waits.';
