-- What may be asked of the queue from outside: by the CLI, psql, or supabase-js through RPC.

-- Submit a manifest and its jobs in one transaction. p_jobs is an array of objects with the producer's columns
-- in camelCase or snake_case: jobId/job_id, type, payload, priority, dependsOn/depends_on,
-- retryPolicy/retry_policy, maxAttempts/max_attempts, metadata, tags. Returns the manifest's id.
create or replace function dreamcut_submit_manifest(p_manifest jsonb, p_jobs jsonb, p_user_id uuid default null)
returns uuid
language plpgsql set search_path = public, pg_temp as $$
declare
    v_manifest uuid;
begin
    insert into dreamcut_production_manifest (user_id, manifest_json, status)
    values (p_user_id, p_manifest, 'ready_to_dispatch')
    returning id into v_manifest;

    insert into dreamcut_jobs (manifest_id, job_id, type, payload, priority, depends_on, retry_policy,
                               max_attempts, metadata, tags, estimated_cost_usd)
    select v_manifest,
        coalesce(job ->> 'job_id', job ->> 'jobId', job ->> 'id'),
        job ->> 'type',
        coalesce(nullif(job -> 'payload', 'null'), '{}'),
        coalesce((job ->> 'priority')::int, 5),
        array(select jsonb_array_elements_text(coalesce(
            nullif(job -> 'depends_on', 'null'), nullif(job -> 'dependsOn', 'null'), '[]'
        ))),
        coalesce(nullif(job -> 'retry_policy', 'null'), nullif(job -> 'retryPolicy', 'null'), '{}'),
        coalesce((job ->> 'max_attempts')::int, (job ->> 'maxAttempts')::int, 3),
        coalesce(nullif(job -> 'metadata', 'null'), '{}'),
        case when jsonb_typeof(job -> 'tags') = 'array' then array(select jsonb_array_elements_text(job -> 'tags')) end,
        (job ->> 'estimated_cost_usd')::numeric
    from jsonb_array_elements(p_jobs) with ordinality as given (job, place)
    order by place;
    return v_manifest;
end $$;

-- Add one job. p_run_at delays it. Returns its id.
create or replace function dreamcut_enqueue(
    p_type text,
    p_payload jsonb default '{}',
    p_manifest_id uuid default null,
    p_job_id text default null,
    p_priority int default 5,
    p_depends_on text[] default '{}',
    p_run_at timestamptz default null,
    p_max_attempts int default 3,
    p_retry_policy jsonb default '{}',
    p_metadata jsonb default '{}'
) returns uuid
language plpgsql set search_path = public, pg_temp as $$  -- an SQL function would plan its insert at each call
declare
    v_job uuid;
begin
    insert into dreamcut_jobs (type, payload, manifest_id, job_id, priority, depends_on, next_retry_at,
                               max_attempts, retry_policy, metadata)
    values (p_type, p_payload, p_manifest_id, coalesce(p_job_id, 'job_' || to_hex((random() * 9007199254740992)::bigint)), p_priority,
            p_depends_on, case when p_run_at > now() then p_run_at end, p_max_attempts, p_retry_policy, p_metadata)
    returning id into v_job;
    return v_job;
end $$;

-- Cancel jobs that are pending or running, and with them everything that depends on them. A running one stops
-- within a heartbeat; its result is dropped from now on. Returns the jobs that this call cancelled itself.
-- Locks: the jobs' manifests, then the jobs, then what waits for them.
create or replace function dreamcut_cancel_jobs(p_jobs uuid[], p_reason text default 'cancelled by an operator')
returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs uuid[];
    v_workers uuid[];
    v_types text[];
begin
    perform dreamcut_lock_manifests(p_jobs);
    with wanted as (
        select job.id, job.status as was
        from dreamcut_jobs job
        where job.id = any (p_jobs) and job.status in ('pending', 'processing')
        order by job.id
        for no key update
    ), cancelled as (
        update dreamcut_jobs job
        set status = 'cancelled',
            error_class = 'cancelled',
            error_message = p_reason,
            next_retry_at = null,
            completed_at = now(),
            updated_at = now()
        from wanted
        where job.id = wanted.id
        returning job.id, job.type, job.claims, job.attempts, job.worker_id, job.started_at, wanted.was
    ), history as (
        insert into dreamcut_job_attempts
            (job, claim, attempt, worker_id, outcome, error_class, error_message, started_at)
        select cancelled.id, cancelled.claims, cancelled.attempts, cancelled.worker_id, 'cancelled', 'cancelled',
            p_reason, cancelled.started_at
        from cancelled
        where cancelled.was = 'processing'
    )
    select coalesce(array_agg(cancelled.id), '{}'),
        array_agg(distinct cancelled.worker_id) filter (where cancelled.was = 'processing'),
        array_agg(cancelled.type)
    into v_jobs, v_workers, v_types
    from cancelled;
    if v_types is not null then
        perform dreamcut_note_outcomes(
            v_types, null, array_fill('cancelled'::text, array[cardinality(v_types)]),
            array_fill('cancelled'::text, array[cardinality(v_types)]), null
        );
    end if;
    -- A worker that sleeps between heartbeats stops at once.
    perform pg_notify('dreamcut_workers', worker::text) from unnest(v_workers) as worker;
    perform dreamcut_settle(v_jobs);
    return v_jobs;
end $$;

-- Let failed or cancelled jobs run again, with all their attempts, and delayed ones at once. With a job come
-- the dependencies without which it would wait for ever (failed or cancelled ones), and the dependents that
-- its failure cancelled. Returns all jobs that are pending again.
-- Locks: the jobs' manifests, then the jobs.
create or replace function dreamcut_retry_jobs(p_jobs uuid[]) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_set uuid[];
    v_more uuid[];
    v_revived uuid[];
    v_types text[];
begin
    perform dreamcut_lock_manifests(p_jobs);

    with hurried as (
        update dreamcut_jobs job
        set next_retry_at = null, updated_at = now()
        where job.id = any (p_jobs) and job.status = 'pending' and job.next_retry_at is not null
        returning job.id, job.type
    )
    select array_agg(hurried.id), array_agg(distinct hurried.type) into v_revived, v_types from hurried;

    select coalesce(array_agg(job.id), '{}') into v_set
    from dreamcut_jobs job
    where job.id = any (p_jobs) and job.status in ('failed', 'cancelled');

    -- Upwards: what the chosen jobs themselves wait for and will not get.
    loop
        select array_agg(distinct cause.id) into v_more
        from dreamcut_job_dependencies wait
        join dreamcut_jobs cause on cause.manifest_id = wait.manifest_id and cause.job_id = wait.depends_on
        where wait.job = any (v_set)
            and cause.status in ('failed', 'cancelled')
            and cause.id <> all (v_set);
        exit when v_more is null;
        v_set := v_set || v_more;
    end loop;

    -- Downwards: dependents that were cancelled with them, unless another dependency still stands in the way.
    loop
        select array_agg(distinct job.id) into v_more
        from dreamcut_jobs cause
        join dreamcut_job_dependencies wait
            on wait.manifest_id = cause.manifest_id and wait.depends_on = cause.job_id
        join dreamcut_jobs job on job.id = wait.job
        where cause.id = any (v_set)
            and job.status = 'cancelled'
            and job.error_class = 'dependency_failed'
            and job.id <> all (v_set)
            and not exists (
                select 1
                from dreamcut_job_dependencies other
                join dreamcut_jobs blocker
                    on blocker.manifest_id = other.manifest_id and blocker.job_id = other.depends_on
                where other.job = job.id
                    and blocker.status in ('failed', 'cancelled')
                    and blocker.id <> all (v_set)
            );
        exit when v_more is null;
        v_set := v_set || v_more;
    end loop;

    with chosen as (
        select job.id, job.status as was
        from dreamcut_jobs job
        where job.id = any (v_set) and job.status in ('failed', 'cancelled')
    ), retried as (
        update dreamcut_jobs job
        set status = 'pending',
            attempts = 0,
            stalls = 0,
            error_class = null,
            error_message = null,
            result = null,
            output_url = null,
            worker_id = null,
            next_retry_at = null,
            started_at = null,
            completed_at = null,
            processing_time_ms = null,
            updated_at = now()
        from chosen
        where job.id = chosen.id and job.status in ('failed', 'cancelled')
        returning job.id, job.manifest_id, job.type, job.ready, chosen.was
    ), reopened as (
        update dreamcut_production_manifest manifest
        set open_jobs = manifest.open_jobs + again.jobs,
            failed_jobs = greatest(manifest.failed_jobs - again.failed, 0),
            cancelled_jobs = greatest(manifest.cancelled_jobs - again.cancelled, 0),
            status = 'rendering',
            error_message = null,
            output_url = null,
            completed_at = null,
            processing_time_ms = null,
            retry_count = manifest.retry_count + 1,
            updated_at = now()
        from (
            select retried.manifest_id, count(*) as jobs,
                count(*) filter (where retried.was = 'failed') as failed,
                count(*) filter (where retried.was = 'cancelled') as cancelled
            from retried where retried.manifest_id is not null group by retried.manifest_id
        ) again
        where manifest.id = again.manifest_id
    )
    select coalesce(v_revived, '{}') || coalesce(array_agg(retried.id), '{}'),
        coalesce(v_types, '{}') || coalesce(array_agg(distinct retried.type) filter (where retried.ready), '{}')
    into v_revived, v_types
    from retried;
    perform dreamcut_notify_ready(v_types);
    return v_revived;
end $$;

-- Let a blocked job run without one of its dependencies, e.g. one that was never inserted. Returns whether
-- the job waited for it. The job's depends_on stays as the producer wrote it.
-- Locks: the job's manifest, then the job.
create or replace function dreamcut_drop_dependency(p_job uuid, p_depends_on text) returns boolean
language plpgsql set search_path = public, pg_temp as $$
declare
    v_waited boolean;
begin
    perform dreamcut_lock_manifests(array[p_job]);
    select true into v_waited
    from dreamcut_job_dependencies wait
    where wait.job = p_job and wait.depends_on = p_depends_on;
    if v_waited then
        perform dreamcut_meet_waits(array[p_job], array[p_depends_on]);
    end if;
    return coalesce(v_waited, false);
end $$;

-- Take running jobs away from their workers and make them ready, the attempt not used up. Returns the jobs.
create or replace function dreamcut_release_jobs(p_jobs uuid[], p_reason text default 'released by an operator')
returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_holder record;
    v_released uuid[] := '{}';
begin
    for v_holder in
        select job.worker_id, array_agg(job.id order by job.id) as jobs,
            array_agg(job.claims order by job.id) as claims
        from dreamcut_jobs job
        where job.id = any (p_jobs) and job.status = 'processing'
        group by job.worker_id
    loop
        v_released := v_released
            || dreamcut_hand_back_jobs(v_holder.worker_id, v_holder.jobs, v_holder.claims, p_reason);
        perform pg_notify('dreamcut_workers', v_holder.worker_id::text);
    end loop;
    return v_released;
end $$;
