-- What people ask of the queue through the CLI. The lists change nothing; what does change something is a call of
-- one of the functions that anybody may call (functions/40_operator.sql).

-- name: list_jobs :many
-- Jobs, newest first; null for a filter means all. `states` holds states or statuses. The jobs are chosen first,
-- so that only they are looked at more closely.
-- The only_ flags say again what the states say, in the words of an index: the values are known when the statement
-- is planned, so a flag that is set leaves its condition, and that finds the index. There is none for jobs that
-- run or were completed (it would cost every claim and outcome): these are looked for among the newest, from
-- `above` to `up_to`, by the table's BRIN index; `running` are jobs that are looked at wherever they lie.
-- A job that somebody set to failed by hand, without a class, is found with its manifest only.
with chosen as (
    select job.id, job.status, job.seq
    from dreamcut_jobs job
    where (@manifest::uuid is null or job.manifest_id = @manifest::uuid)
        and (@type::text is null or job.type = @type::text)
        and (@error_class::text is null or job.error_class = @error_class::text)
        and (@created_after::timestamptz is null or job.created_at >= @created_after::timestamptz)
        and (@created_before::timestamptz is null or job.created_at < @created_before::timestamptz)
        and (@above::bigint is null or job.seq > @above::bigint or job.id = any (@running::uuid[]))
        and (@up_to::bigint is null or job.seq <= @up_to::bigint)
        and (not @only_errors::boolean or job.error_class is not null)
        and (not @only_ready::boolean or job.ready)
        and (not @only_delayed::boolean or job.next_retry_at is not null)
        and (not @only_blocked::boolean or (job.unmet_dependencies > 0 and job.error_class is null))
        and (
            not @only_waiting::boolean
            or job.ready
            or job.next_retry_at is not null
            or (job.unmet_dependencies > 0 and job.error_class is null)
            or job.error_class is not null
        )
        and (
            @states::text[] is null
            or job.status = any (@states::text[])
            or (job.status = 'pending' and case
                    when job.unmet_dependencies > 0 then 'blocked'
                    when job.next_retry_at is not null then 'delayed'
                    else 'ready'
                end = any (@states::text[]))
        )
    order by job.seq desc
    limit @limit::int
)
select job.id, job.manifest_id, job.job_id, job.type, chosen.status, job.state, job.reason, job.priority,
    job.attempts, job.max_attempts, job.error_class, job.error_message, job.output_url,
    job.created_at, job.started_at, job.completed_at, job.next_retry_at,
    case
        when chosen.status = 'processing' then (extract(epoch from now() - job.started_at) * 1000)::bigint
        else job.processing_time_ms
    end as processing_time_ms
from chosen
join dreamcut_job_states job on job.id = chosen.id
order by chosen.seq desc;

-- name: newest_job :scalar
-- The last number that was given out as a job's seq; null for a role that may not see it.
select counter.last_value
from pg_sequences counter
where counter.schemaname = 'public' and counter.sequencename = 'dreamcut_jobs_seq_seq';

-- name: running_jobs :many
select running.id from dreamcut_running_jobs running;

-- name: known_types :many
-- Types that live workers serve, that wait or run, or that were scaled.
select depth.type from dreamcut_queue_depth depth
union
select scaling.type from dreamcut_scaling scaling where scaling.type <> '*';

-- name: manifest_jobs :many
-- All jobs of a manifest in the order of their work: what others wait for comes first.
select job.id, job.manifest_id, job.job_id, job.type, whole.status, job.state, job.reason, job.priority,
    whole.depends_on, job.attempts, job.max_attempts, job.error_class, job.error_message, job.output_url,
    job.created_at, job.started_at, job.completed_at, job.next_retry_at,
    case
        when whole.status = 'processing' then (extract(epoch from now() - job.started_at) * 1000)::bigint
        else job.processing_time_ms
    end as processing_time_ms
from dreamcut_jobs whole
join dreamcut_job_states job on job.id = whole.id
where whole.manifest_id = @manifest::uuid
order by cardinality(whole.depends_on), job.priority desc, whole.seq;

-- name: jobs_between :many
-- The first few jobs whose id lies in a range: how a prefix of an id is looked up, by the primary key.
select job.id, job.job_id
from dreamcut_jobs job
where job.id between @low::uuid and @high::uuid
order by job.id
limit 3;

-- name: job_of_manifest :one
select job.id
from dreamcut_jobs job
where job.manifest_id = @manifest::uuid and job.job_id = @job_id;

-- name: manifests_between :many
-- As jobs_between, for manifests.
select manifest.id
from dreamcut_production_manifest manifest
where manifest.id between @low::uuid and @high::uuid
order by manifest.id
limit 3;

-- name: show_job :one
-- One job, whole.
select job.id, job.manifest_id, job.job_id, job.type, job.status, finer.state, finer.reason,
    job.priority, job.payload, job.depends_on, job.retry_policy, job.attempts, job.max_attempts,
    job.result, job.output_url, job.error_class, job.error_message, job.tags, job.metadata,
    job.estimated_cost_usd, job.worker_id, job.next_retry_at, job.processing_time_ms,
    job.created_at, job.updated_at, job.started_at, job.completed_at
from dreamcut_jobs job
join dreamcut_job_states finer on finer.id = job.id
where job.id = @id::uuid;

-- name: show_job_attempts :many
-- The attempts that did not succeed, oldest first.
select attempt.attempt, attempt.claim, attempt.outcome, attempt.error_class, attempt.error_message,
    attempt.detail, attempt.worker_id, attempt.started_at, attempt.finished_at
from dreamcut_job_attempts attempt
where attempt.job = @id::uuid
order by attempt.claim;

-- name: show_job_calls :many
-- The calls to providers, oldest first, with what they cost.
select call.provider, call.endpoint, call.step, call.request_id, call.status, call.estimate_usd,
    call.cost_usd, call.error, call.created_at, call.submitted_at, call.finished_at
from dreamcut_provider_calls call
where call.job = @id::uuid
order by call.created_at, call.step;

-- name: list_manifests :many
-- Manifests, newest first, with the progress of their jobs; those in the archive included.
select manifest.id, manifest.status, manifest.created_at, manifest.completed_at, manifest.processing_time_ms,
    manifest.output_url, manifest.error_message,
    manifest.manifest_json -> 'metadata' ->> 'title' as title,
    manifest.total_jobs as jobs, manifest.completed_jobs as completed,
    manifest.failed_jobs + manifest.cancelled_jobs as failed
from dreamcut_production_manifest manifest
where @status::text is null or manifest.status = @status::text
order by manifest.created_at desc, manifest.id
limit @limit::int;

-- name: show_manifest :one
select manifest.id, manifest.user_id, manifest.status, manifest.validation_errors, manifest.error_message,
    manifest.output_url, manifest.created_at, manifest.started_at, manifest.completed_at,
    manifest.processing_time_ms, manifest.archived_at, manifest.manifest_json
from dreamcut_production_manifest manifest
where manifest.id = @id::uuid;

-- name: manifest_spend :many
-- What a manifest's calls cost, by provider; a call without a reported cost counts with its estimate.
select call.provider, count(*) as calls,
    coalesce(sum(coalesce(call.cost_usd, call.estimate_usd)), 0) as cost_usd
from dreamcut_provider_calls call
where call.manifest_id = @manifest::uuid and call.status in ('submitted', 'succeeded', 'unknown')
group by call.provider
order by call.provider;

-- name: lock_demo :scalar
-- One demo at a time in a database; held to the end of the session. False if another one holds it.
select pg_try_advisory_lock(hashtext('dreamcut_demo'));

-- name: demo_obstacles :one
-- What would get mixed up with a demo: workers that would carry out its jobs with real keys, and jobs that its
-- workers would carry out against the sandbox. `leftovers` are open jobs of demos that were killed.
select
    (
        select count(*)
        from dreamcut_workers worker
        where worker.state = 'live' and worker.lease_expires_at > now()
    ) as workers,
    count(*) filter (where job.metadata ->> 'demo' is distinct from 'true') as foreign_jobs,
    coalesce(array_agg(job.id) filter (where job.metadata ->> 'demo' = 'true'), '{}') as leftovers
from dreamcut_jobs job
where job.status in ('pending', 'processing');
