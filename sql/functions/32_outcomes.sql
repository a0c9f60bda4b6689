-- Outcomes: completed, failed, handed back. Each is written only for the incarnation and the claim that hold the
-- job (the fence), and once.

-- Write the results of completed jobs, given as arrays side by side, and settle what follows. Returns the jobs
-- written, those included that an earlier call wrote whose answer was lost; one that is missing was no longer
-- this worker's, and its result is dropped.
-- Locks: the jobs' manifests, then the jobs, then what waits for them. Raises lock_not_available when somebody
-- holds a manifest for long (a producer's open transaction): the worker then writes the other manifests' jobs
-- first. Sorted ids keep jobs without a manifest in one lock order.
-- p_output_urls may be null: none has one. p_manifests are the jobs' manifests, from the claim; without it they are
-- looked up.
create or replace function dreamcut_complete_jobs(
    p_worker uuid, p_jobs uuid[], p_claims int[], p_results jsonb[], p_output_urls text[],
    p_manifests uuid[] default null
) returns uuid[]
language plpgsql set search_path = public, pg_temp
set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off  -- as for dreamcut_claim_jobs
as $$
declare
    v_done uuid[];
    v_manifests uuid[];
begin
    if p_manifests is null then
        perform dreamcut_lock_manifests(p_jobs);
    elsif p_manifests <> '{}' then
        perform dreamcut_lock_manifest_rows(p_manifests);
    end if;
    with done as (
        update dreamcut_jobs job
        set status = 'completed',
            result = outcome.result,
            output_url = outcome.output_url,
            error_class = null,
            error_message = null,
            completed_at = now(),
            updated_at = now(),
            processing_time_ms = extract(epoch from now() - job.started_at) * 1000
        from unnest(p_jobs, p_claims, p_results, p_output_urls) as outcome (id, claim, result, output_url)
        where job.id = any (p_jobs)  -- so that nothing but a look into the index for each of them will do
            and job.id = outcome.id
            -- In one coalesce, because Postgres would expect a single row of this worker, read the whole table for
            -- it, and compare each row with each outcome.
            and coalesce(
                job.worker_id = p_worker and job.claims = outcome.claim and job.status = 'processing', false
            )
        returning job.id, job.manifest_id, job.type, outcome.result ->> 'provider' as provider,
            job.processing_time_ms as run_ms
    ), noted as (
        insert into dreamcut_job_stats_log (type, provider, outcome, error_class, bucket, jobs, run_ms)
        select done.type, coalesce(done.provider, ''), 'completed', '', dreamcut_duration_bucket(done.run_ms) as bucket,
            count(*), sum(greatest(done.run_ms, 0))
        from done
        group by done.type, done.provider, bucket
    )
    select coalesce(array_agg(done.id), '{}'),
        array_agg(done.manifest_id) filter (where done.manifest_id is not null)
    into v_done, v_manifests
    from done;
    if v_manifests is not null then  -- nobody can wait for a job without a manifest
        perform dreamcut_settle(v_done);
    end if;
    if cardinality(v_done) < cardinality(p_jobs) then
        v_done := v_done || array(
            select job.id
            from dreamcut_jobs job
            join unnest(p_jobs, p_claims) as outcome (id, claim) on job.id = outcome.id
            where job.worker_id = p_worker
                and job.claims = outcome.claim
                and job.status = 'completed'
                and job.id <> all (v_done)
        );
    end if;
    return v_done;
end $$;

-- What follows from a class of error.
-- retries: the job may run again. counts: the attempt is used up. factor: of the base delay.
create or replace function dreamcut_error_policy(
    p_class text, out retries boolean, out counts boolean, out factor int
)
language sql immutable set search_path = public, pg_temp as $$
    select policy.retries, policy.counts, policy.factor
    from (values
        ('transient',         true,  true,  1),
        ('overloaded',        true,  true,  4),   -- capacity comes back in minutes, not seconds
        ('timed_out',         true,  true,  1),
        ('stalled',           true,  true,  1),
        ('bug',               true,  true,  1),
        ('rate_limited',      true,  false, 2),   -- not the job's fault
        ('paused',            true,  false, 30),  -- the provider is; comes with the time when that ends
        ('auth',              true,  false, 30),  -- somebody has to mend the account; the job is unharmed
        ('quota',             true,  false, 30),
        ('content_rejected',  false, true,  1),
        ('invalid_request',   false, true,  1),
        ('dependency_failed', false, true,  1),
        ('spend_limit',       false, true,  1),
        ('cancelled',         false, true,  1)
    ) as policy (class, retries, counts, factor)
    where policy.class = p_class
    union all
    select true, true, 1  -- an unknown class is treated as transient
    limit 1
$$;

-- The time until the next attempt: exponential with full jitter, never above the cap. retry_policy's
-- backoffSeconds and maxBackoffSeconds win over the type's base delay.
create or replace function dreamcut_backoff(
    p_policy jsonb, p_base interval, p_factor int, p_attempt int
) returns interval
language plpgsql volatile set search_path = public, pg_temp as $$
declare
    v_base double precision := extract(epoch from p_base);
    v_cap double precision := 3600;
begin
    -- A policy comes from outside: what is not a number there is as good as not given, and a number that no
    -- interval can hold must not make the outcome (or a whole rescue) fail. 30 days is the most.
    if jsonb_typeof(p_policy -> 'backoffSeconds') = 'number' then
        v_base := round(least(greatest((p_policy ->> 'backoffSeconds')::numeric, 0), 2592000), 3);
    end if;
    if jsonb_typeof(p_policy -> 'maxBackoffSeconds') = 'number' then
        v_cap := round(least(greatest((p_policy ->> 'maxBackoffSeconds')::numeric, 0), 2592000), 3);
    end if;
    return make_interval(
        secs => random() * least(v_cap, v_base * p_factor * power(2, least(greatest(p_attempt, 1) - 1, 20)))
    );
end $$;

-- A job that stalled (a rescue took it) may have killed its worker, or was only there when it died. So the first two
-- stalls use up no attempt. From then on it is a suspect: it runs beside no other one (dreamcut_claim_jobs), and
-- whoever dies with it has died by it as far as anybody can tell. A job that kills every worker kills
-- max_attempts + 2 of them, and the jobs that were there have lost time.
--
-- Write failed attempts, given as arrays side by side: back to pending with a delay, or to their end, as the
-- class of the error says. p_retry_after (seconds, from the provider; a week at most) wins over the backoff;
-- p_base_delays is the type's first delay. Returns what became of each; a job that is missing was no longer this worker's.
-- Locks: as dreamcut_complete_jobs.
create or replace function dreamcut_fail_jobs(
    p_worker uuid, p_jobs uuid[], p_claims int[], p_classes text[], p_messages text[], p_details jsonb[],
    p_retry_after double precision[], p_base_delays interval[]
) returns table (id uuid, status text, next_retry_at timestamptz)
language plpgsql set search_path = public, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
    v_ids uuid[];
    v_statuses text[];
    v_times timestamptz[];
    v_types text[];
    v_providers text[];
    v_classes text[];
    v_run_ms bigint[];
begin
    perform dreamcut_lock_manifests(p_jobs);
    with verdict as (
        select given.id, given.class, given.message, given.detail, used.counts,
            policy.retries and (not used.counts or job.attempts < job.max_attempts) as again,
            case when given.retry_after is not null
                then make_interval(secs => least(greatest(given.retry_after, 0), 604800))
                else dreamcut_backoff(job.retry_policy, given.base_delay, policy.factor, job.attempts)
            end as delay
        from unnest(p_jobs, p_claims, p_classes, p_messages, p_details, p_retry_after, p_base_delays)
            as given (id, claim, class, message, detail, retry_after, base_delay)
        cross join lateral dreamcut_error_policy(given.class) as policy
        join dreamcut_jobs job on job.id = given.id
        cross join lateral (select policy.counts and (given.class <> 'stalled' or job.suspect)) as used (counts)
        where coalesce(
            job.worker_id = p_worker and job.claims = given.claim and job.status = 'processing', false
        )
        for no key update of job
    ), failed as (
        update dreamcut_jobs job
        set status = case when verdict.again then 'pending'
                          when verdict.class = 'cancelled' then 'cancelled'
                          else 'failed' end,
            attempts = greatest(job.attempts - case when verdict.counts then 0 else 1 end, 0),
            stalls = job.stalls + case when verdict.class = 'stalled' then 1 else 0 end,
            next_retry_at = case when verdict.again then now() + verdict.delay end,
            worker_id = case when not verdict.again then job.worker_id end,
            completed_at = case when not verdict.again then now() end,
            processing_time_ms = extract(epoch from now() - job.started_at) * 1000,
            error_class = verdict.class,
            error_message = verdict.message,
            updated_at = now()
        from verdict
        where job.id = verdict.id
        returning job.id, job.status, job.next_retry_at, job.claims, job.attempts, job.started_at,
            job.type, job.processing_time_ms, verdict.class, verdict.message, verdict.detail, verdict.counts
    ), history as (
        insert into dreamcut_job_attempts
            (job, claim, attempt, worker_id, outcome, error_class, error_message, detail, started_at)
        select failed.id, failed.claims, failed.attempts + case when failed.counts then 0 else 1 end, p_worker,
            case failed.status when 'pending' then 'retried' else failed.status end,
            failed.class, failed.message, failed.detail, failed.started_at
        from failed
        on conflict (job, claim) do nothing  -- claims was set back by hand: history is not worth an outcome
    )
    select array_agg(failed.id), array_agg(failed.status), array_agg(failed.next_retry_at),
        array_agg(failed.type), array_agg(failed.detail ->> 'provider'), array_agg(failed.class),
        array_agg(failed.processing_time_ms)
    into v_ids, v_statuses, v_times, v_types, v_providers, v_classes, v_run_ms
    from failed;
    if v_ids is not null then
        perform dreamcut_note_outcomes(
            v_types, v_providers, array_replace(v_statuses, 'pending', 'retried'), v_classes, v_run_ms
        );
    end if;

    perform dreamcut_settle(array(
        select ended.id from unnest(v_ids, v_statuses) as ended (id, status) where ended.status <> 'pending'
    ));
    -- A worker that has nothing to do must know when one comes due: whoever wrote this may be gone by then.
    perform dreamcut_notify_ready(array(
        select distinct again.type from unnest(v_types, v_statuses) as again (type, status) where again.status = 'pending'
    ));
    return query select * from unnest(v_ids, v_statuses, v_times);
end $$;

-- Hand jobs back unharmed: ready at once for anyone, the attempt not used up. Returns the jobs handed back.
-- Called by a worker that drains, and for an operator by dreamcut_release_jobs.
-- Locks: the jobs. Raises lock_not_available when somebody holds one for long.
create or replace function dreamcut_hand_back_jobs(
    p_worker uuid, p_jobs uuid[], p_claims int[], p_reason text
) returns uuid[]
language plpgsql set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    v_jobs uuid[];
    v_types text[];
begin
    with released as (
        update dreamcut_jobs job
        set status = 'pending',
            attempts = greatest(job.attempts - 1, 0),
            worker_id = null,
            updated_at = now()
        from unnest(p_jobs, p_claims) as held (id, claim)
        where job.id = held.id
            and coalesce(
                job.worker_id = p_worker and job.claims = held.claim and job.status = 'processing', false
            )
        returning job.id, job.claims, job.attempts, job.started_at, job.type
    ), history as (
        insert into dreamcut_job_attempts (job, claim, attempt, worker_id, outcome, error_message, started_at)
        select released.id, released.claims, released.attempts + 1, p_worker, 'released', p_reason,
            released.started_at
        from released
        on conflict (job, claim) do nothing
    )
    select coalesce(array_agg(released.id), '{}'), array_agg(distinct released.type)
    into v_jobs, v_types
    from released;
    perform dreamcut_notify_ready(v_types);
    return v_jobs;
end $$;
