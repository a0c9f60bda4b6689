-- What the worker asks. Every change of state is a function (sql/functions); these are its calls, and reads.

-- name: register_worker :scalar
-- Its slots as they are scaled, beside the types.
select dreamcut_scaled_slots(@types::text[], @slots::int[])
from dreamcut_register_worker(
    @worker::uuid, @host::text, @pid::int, @version::text, @types::text[], @slots::int[], @lease::interval,
    @providers::text[]
);

-- name: heartbeat :one
select alive, taken, cancelled, rescue_due, command, command_reason, types, slots
from dreamcut_beat(@worker::uuid, @lease::interval, @draining::boolean, @jobs::uuid[], @claims::int[]);

-- name: return_unheld :scalar
select dreamcut_return_unheld(@worker::uuid, @held::uuid[]);

-- name: leave_worker :exec
select dreamcut_leave_worker(@worker::uuid, @empty::boolean);

-- name: claim_jobs :many
select id, manifest_id, job_id, type, payload, attempts, max_attempts, claims, metadata, urgency, turn, is_suspect
from dreamcut_claim_jobs(
    @worker::uuid, @types::text[], @slots::int[], @after_urgency::int[], @after_turn::bigint[], @waits::boolean,
    @may_take_suspect::boolean
);

-- name: look :one
-- For a worker that has nothing to do: the types of which something is ready, the seconds until the next delayed job,
-- of any type, comes due, and whether a provider has a limit, so that jobs may be ready and not to be had.
-- Reads two indexes and a small table, and writes nothing.
select
    array(
        select lane.type from unnest(@types::text[]) as lane (type)
        where exists (select 1 from dreamcut_jobs job where job.ready and job.type = lane.type)
    ) as ready,
    extract(epoch from (
        select min(job.next_retry_at) from dreamcut_jobs job where job.next_retry_at is not null
    ) - now())::double precision as due_s,
    exists (select 1 from dreamcut_providers provider where dreamcut_is_limited(provider)) as is_limited;

-- name: promote_jobs :scalar
-- By a worker that knows of a job that came due, and whose next claim does not promote it.
select dreamcut_promote_jobs(@jobs::int);

-- name: complete_jobs :scalar
-- The results come as the JSON that they are: the client does not encode them a second time.
select dreamcut_complete_jobs(
    @worker::uuid, @jobs::uuid[], @claims::int[], @results::text[]::jsonb[], @output_urls::text[], @manifests::uuid[]
);

-- name: fail_jobs :many
select id, status, next_retry_at
from dreamcut_fail_jobs(
    @worker::uuid, @jobs::uuid[], @claims::int[], @classes::text[], @messages::text[], @details::jsonb[],
    @retry_after::double precision[], @base_delays::interval[]
);

-- name: hand_back_jobs :scalar
select dreamcut_hand_back_jobs(@worker::uuid, @jobs::uuid[], @claims::int[], @reason::text);

-- name: rescue :many
select id, status, worker_id from dreamcut_rescue();

-- name: reconcile :scalar
select dreamcut_reconcile();

-- name: archive_jobs :one
select jobs, more from dreamcut_archive_jobs(@after::interval, @failed_after::interval, @limit::int);

-- name: return_strays :scalar
select dreamcut_return_strays();

-- name: unfinished_work :one
-- What is left that these types could still run: ready or delayed jobs of them, jobs in progress anywhere
-- (their dependents may be of these types), and ready jobs that another live worker will take.
select
    exists (select 1 from dreamcut_jobs job where job.ready and job.type = any (@types::text[]))
    or exists (
        select 1 from dreamcut_jobs job where job.next_retry_at is not null and job.type = any (@types::text[])
    )
    or exists (select 1 from dreamcut_jobs job where job.status = 'processing')
    or exists (
        select 1
        from dreamcut_workers worker
        join dreamcut_jobs job on job.ready and job.type = any (worker.types)
        where worker.state = 'live' and worker.lease_expires_at > now()
    ) as unfinished;

-- name: manifest_of_job :one
select manifest.manifest_json, manifest.user_id
from dreamcut_production_manifest manifest
where manifest.id = @manifest_id::uuid;

-- name: sibling_jobs :many
select job_id, type, status, payload, result, output_url
from dreamcut_jobs
where manifest_id = @manifest_id::uuid
order by seq;

-- name: open_calls :many
-- worker_lives: the worker that began the call may still be waiting for the provider's answer.
-- wanted: the job is to run, or runs again; its next claim takes the call over.
select call.id, call.provider, call.endpoint, call.step, call.request, call.request_id, call.ticket, call.claim,
    extract(epoch from clock_timestamp() - call.created_at)::double precision as age_s,
    exists (
        select 1 from dreamcut_workers worker
        where worker.id = call.worker_id
            and worker.state in ('live', 'draining')
            and not dreamcut_is_lease_over(worker)
    ) as worker_lives,
    coalesce(job.status in ('pending', 'processing'), false) as wanted
from dreamcut_provider_calls call
left join dreamcut_jobs job on job.id = call.job
where call.job = @job::uuid and call.status in ('intent', 'submitted')
order by call.created_at;

-- name: made_calls :many
-- What a provider made for this job, and can still hand over: calls that succeeded although the job did not end,
-- because its worker was lost between the two. The latest first.
select id, provider, endpoint, step, request, request_id, ticket
from dreamcut_provider_calls
where job = @job::uuid and status = 'succeeded' and request_id is not null
order by created_at desc;

-- name: begin_call :scalar
select dreamcut_begin_call(
    @worker::uuid, @job::uuid, @claim::int, @provider::text, @endpoint::text, @step::int, @request::jsonb,
    @estimate_usd::numeric, @request_hash::text, @call::uuid
);

-- name: submitted_call :exec
select dreamcut_submitted_call(@call::uuid, @request_id::text, @ticket::jsonb);

-- name: finish_call :exec
select dreamcut_finish_call(@call::uuid, @status::text, @cost_usd::numeric, @error::text, @detail::jsonb);

-- name: find_reusable :many
select job, manifest_id, job_id, result, output_url, usd
from dreamcut_find_reusable(@job::uuid, @request_hash::text);

-- name: reuse_call :exec
select dreamcut_reuse_call(
    @worker::uuid, @job::uuid, @claim::int, @provider::text, @endpoint::text, @step::int, @request::jsonb,
    @request_hash::text, @made_by::uuid, @saved_usd::numeric
);

-- name: take_abandoned_calls :many
select id, provider, endpoint, request_id, ticket
from dreamcut_take_abandoned_calls(@worker::uuid, @providers::text[], @grace::interval, @keep::interval);

-- name: notify :exec
-- The listener's echo: whether notifications arrive.
select pg_notify(@channel::text, @message::text);
