-- What a worker does with the queue: take part, claim, report outcomes, hand back, rescue what others left.
--
-- The lease belongs to the worker's incarnation, a row of dreamcut_workers with a fresh uuid for each start
-- of the process. A claim writes that uuid and a claim number into the job; an outcome is written only if
-- both still stand there and the job is still processing. SQLSTATE DC001 means: this incarnation has lost
-- its lease.

drop function if exists dreamcut_register_worker(uuid, text, int, text, text[], int[], interval);

-- Enter an incarnation. p_types, p_slots and p_providers stand side by side (the provider that a type calls
-- first, '' for none); p_lease is the time without a heartbeat after which its jobs are given to others.
create or replace function dreamcut_register_worker(
    p_worker uuid, p_host text, p_pid int, p_version text, p_types text[], p_slots int[], p_lease interval,
    p_providers text[] default '{}'
) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    insert into dreamcut_workers (id, host, pid, version, types, slots, providers, lease_expires_at)
    values (p_worker, p_host, p_pid, p_version, p_types, p_slots, p_providers, now() + p_lease)
    -- The answer to a first try may have been lost.
    on conflict (id) do update set heartbeat_at = now(), lease_expires_at = excluded.lease_expires_at
    where dreamcut_workers.state in ('live', 'draining');
    -- Incarnations that ended are history; a day of it is enough.
    delete from dreamcut_workers worker
    where worker.state in ('stopped', 'lost') and worker.heartbeat_at < now() - interval '1 day';
end $$;

-- Whether a worker counts as dead: its lease ran out, and the server has been up for as long as the lease, so that
-- the worker could have said that it lives. After a restart of Postgres everybody's lease has run out.
create or replace function dreamcut_is_lease_over(p_worker dreamcut_workers) returns boolean
language sql stable set search_path = public, pg_temp as $$
    select p_worker.lease_expires_at < now()
        and pg_postmaster_start_time() + (p_worker.lease_expires_at - p_worker.heartbeat_at) < now()
$$;

-- Extend the lease, and learn what happened meanwhile. p_jobs and p_claims, side by side, are the jobs that
-- the worker believes to hold.
-- alive: false if the incarnation was declared lost; it must drop everything and register anew.
-- taken: jobs of p_jobs that are no longer this worker's. cancelled: those of them that were cancelled.
-- rescue_due: some worker's lease ran out; call dreamcut_rescue.
-- A lease that ran out, but that nobody acted on (the database itself was away), is extended.
-- Locks: the worker's own row.
create or replace function dreamcut_heartbeat(
    p_worker uuid, p_lease interval, p_draining boolean, p_jobs uuid[], p_claims int[],
    out alive boolean, out taken uuid[], out cancelled uuid[], out rescue_due boolean
)
language plpgsql set search_path = public, pg_temp as $$
begin
    update dreamcut_workers worker
    set heartbeat_at = now(),
        lease_expires_at = now() + p_lease,
        active_jobs = cardinality(p_jobs),
        held = p_jobs,
        state = case when p_draining then 'draining' else 'live' end
    where worker.id = p_worker and worker.state in ('live', 'draining');
    alive := found;

    select coalesce(array_agg(held.id), '{}'),
        coalesce(array_agg(held.id) filter (where job.status = 'cancelled'), '{}')
    into taken, cancelled
    from unnest(p_jobs, p_claims) as held (id, claim)
    left join dreamcut_jobs job on job.id = held.id
    where (job.worker_id = p_worker and job.claims = held.claim and job.status = 'processing') is not true;

    rescue_due := exists (
        select 1 from dreamcut_workers worker
        where worker.state in ('live', 'draining') and dreamcut_is_lease_over(worker)
    );
end $$;

-- Hand back, unharmed, what this incarnation holds without knowing it: jobs of a claim that was committed, but
-- whose answer was lost with the connection. p_held are the jobs that it does know. Returns the jobs.
-- Called after a claim failed, and when a worker leaves. The scan has no index on purpose: see dreamcut_rescue.
-- Locks: the worker's own row, until a claim that is still under way has ended; then the jobs.
create or replace function dreamcut_return_unheld(p_worker uuid, p_held uuid[]) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs uuid[];
    v_claims int[];
begin
    perform 1 from dreamcut_workers worker where worker.id = p_worker for update;
    select array_agg(job.id), array_agg(job.claims)
    into v_jobs, v_claims
    from dreamcut_jobs job
    where job.worker_id = p_worker and job.status = 'processing' and job.id <> all (p_held);
    if v_jobs is null then
        return '{}';
    end if;
    return dreamcut_hand_back_jobs(p_worker, v_jobs, v_claims, 'claimed, but the worker never heard of it');
end $$;

-- Leave. With p_empty the worker has handed back or finished everything it knows of; without, it gives up its
-- lease, so that the jobs that it could not end are rescued at once.
create or replace function dreamcut_leave_worker(p_worker uuid, p_empty boolean) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    update dreamcut_workers worker
    set state = case when p_empty then 'stopped' else worker.state end,
        lease_expires_at = least(worker.lease_expires_at, now()),
        heartbeat_at = now(),
        active_jobs = 0,
        held = case when p_empty then '{}' else worker.held end
    where worker.id = p_worker and worker.state in ('live', 'draining');
    if p_empty and found then
        perform dreamcut_return_unheld(p_worker, '{}');  -- nobody rescues a worker that stopped
    end if;
end $$;

-- Make delayed jobs ready whose time has come: off their own index, so a claim never walks over jobs that
-- are not due. Called by every claim. Locks: the jobs it promotes; skips those that another worker promotes.
create or replace function dreamcut_promote_jobs(p_limit int) returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_types text[];
    v_count int;
begin
    with due as (
        select job.id
        from dreamcut_jobs job
        where job.next_retry_at <= now()
        order by job.next_retry_at
        limit p_limit
        for no key update skip locked
    ), promoted as (
        update dreamcut_jobs job
        set next_retry_at = null,
            updated_at = now()  -- ready since
        from due
        where job.id = due.id
        returning job.type, job.ready
    )
    select array_agg(distinct promoted.type) filter (where promoted.ready), count(*)
    into v_types, v_count
    from promoted;
    perform dreamcut_notify_ready(v_types);
    return v_count;
end $$;

-- Claim up to p_slots[i] ready jobs of p_types[i]: the most urgent first, then the oldest.
-- Each type is one short range of dreamcut_jobs_ready_idx, with its own limit and lock; `type = any (...)`
-- would sort the whole backlog. Two workers never get the same job, and neither waits for the other.
-- attempts counts here, so that a job that kills its worker runs out of attempts too.
-- While a provider is limited or paused, jobs that would only wait for it are left (dreamcut_open_slots).
-- Raises DC001 if the incarnation has lost its lease: the lock on its row keeps a rescue from looking for its
-- jobs while this claim is under way.
create or replace function dreamcut_claim_jobs(p_worker uuid, p_types text[], p_slots int[])
returns table (
    id uuid, manifest_id uuid, job_id text, type text, payload jsonb, attempts int, max_attempts int,
    claims int, metadata jsonb, retry_policy jsonb
)
language plpgsql set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_slots int[] := p_slots;
begin
    perform 1
    from dreamcut_workers worker
    where worker.id = p_worker and worker.state in ('live', 'draining')
    for key share;
    if not found then
        raise exception 'worker % has lost its lease', p_worker using errcode = 'DC001';
    end if;

    perform dreamcut_promote_jobs(1000);

    if exists (
        select 1 from dreamcut_providers provider
        where provider.max_concurrent is not null or provider.max_per_minute is not null
            or provider.slowed_at is not null or provider.paused_until is not null
    ) then
        v_slots := dreamcut_open_slots(p_worker, p_types, p_slots);
    end if;

    return query
    with picked as materialized (
        select next.id
        from unnest(p_types, v_slots) as lane (type, slots)
        cross join lateral (
            select job.id
            from dreamcut_jobs job
            where job.ready and job.type = lane.type
            order by job.priority desc, job.seq
            limit lane.slots
            for no key update skip locked
        ) next
    ), claimed as (
        update dreamcut_jobs job
        set status = 'processing',
            worker_id = p_worker,
            attempts = job.attempts + 1,
            claims = job.claims + 1,
            started_at = now(),
            updated_at = now()
        -- As an array: joined to `picked`, of which Postgres expects far too many rows, a deep queue is read whole.
        where job.id = any (array(select picked.id from picked))
        returning job.*
    ), started as (
        -- SKIP LOCKED, because a claim holds locks of jobs and must not wait for a manifest's: whoever holds
        -- that is settling jobs, and the next claim says it.
        update dreamcut_production_manifest manifest
        set status = 'rendering',
            started_at = coalesce(manifest.started_at, now()),
            updated_at = now()
        where manifest.id in (
            select waiting.id
            from dreamcut_production_manifest waiting
            where waiting.id in (select claimed.manifest_id from claimed)
                and waiting.status in ('planning', 'ready_to_dispatch')
            for no key update skip locked
        )
    )
    select claimed.id, claimed.manifest_id, claimed.job_id, claimed.type, claimed.payload, claimed.attempts,
        claimed.max_attempts, claimed.claims, claimed.metadata, claimed.retry_policy
    from claimed
    order by claimed.priority desc, claimed.seq;
end $$;

-- Write the results of completed jobs, given as arrays side by side, and settle what follows. Returns the jobs
-- written, those included that an earlier call wrote whose answer was lost; one that is missing was no longer
-- this worker's, and its result is dropped.
-- Locks: the jobs' manifests, then the jobs, then what waits for them. Raises lock_not_available when somebody
-- holds a manifest for long (a producer's open transaction): the worker then writes the other manifests' jobs
-- first. Sorted ids keep jobs without a manifest in one lock order.
create or replace function dreamcut_complete_jobs(
    p_worker uuid, p_jobs uuid[], p_claims int[], p_results jsonb[], p_output_urls text[]
) returns uuid[]
language plpgsql set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    v_done uuid[];
    v_types text[];
    v_providers text[];
    v_run_ms bigint[];
begin
    perform dreamcut_lock_manifests(p_jobs);
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
        where job.id = outcome.id
            and job.worker_id = p_worker
            and job.claims = outcome.claim
            and job.status = 'processing'
        returning job.id, job.type, outcome.result ->> 'provider' as provider, job.processing_time_ms
    )
    select coalesce(array_agg(done.id), '{}'), array_agg(done.type), array_agg(done.provider),
        array_agg(done.processing_time_ms)
    into v_done, v_types, v_providers, v_run_ms
    from done;
    if v_types is not null then
        perform dreamcut_note_outcomes(
            v_types, v_providers, array_fill('completed'::text, array[cardinality(v_types)]), null, v_run_ms
        );
    end if;
    perform dreamcut_settle(v_done);
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
        select given.id, given.class, given.message, given.detail, policy.counts,
            policy.retries and (not policy.counts or job.attempts < job.max_attempts) as again,
            case when given.retry_after is not null
                then make_interval(secs => least(greatest(given.retry_after, 0), 604800))
                else dreamcut_backoff(job.retry_policy, given.base_delay, policy.factor, job.attempts)
            end as delay
        from unnest(p_jobs, p_claims, p_classes, p_messages, p_details, p_retry_after, p_base_delays)
            as given (id, claim, class, message, detail, retry_after, base_delay)
        cross join lateral dreamcut_error_policy(given.class) as policy
        join dreamcut_jobs job on job.id = given.id
        where job.worker_id = p_worker
            and job.claims = given.claim
            and job.status = 'processing'
        for no key update of job
    ), failed as (
        update dreamcut_jobs job
        set status = case when verdict.again then 'pending'
                          when verdict.class = 'cancelled' then 'cancelled'
                          else 'failed' end,
            attempts = greatest(job.attempts - case when verdict.counts then 0 else 1 end, 0),
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
            and job.worker_id = p_worker
            and job.claims = held.claim
            and job.status = 'processing'
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

-- Take the jobs of workers whose lease ran out: back to pending with backoff, or failed when their attempts
-- are used up. Returns the jobs. One worker at a time in a database does it; the others pass. Jobs that somebody
-- has locked, or whose manifest, are left for the next rescue; their worker counts as lost only when all are taken.
-- The scan for the jobs of a dead incarnation has no index on purpose: one that changes at every claim costs
-- far more than a scan at every death.
-- Locks: the expired workers' rows (skipping one whose claim is under way: the next rescue finds it), then the
-- manifests and the jobs that are free, then as dreamcut_complete_jobs.
create or replace function dreamcut_rescue() returns table (id uuid, status text, worker_id uuid)
language plpgsql set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_expired uuid[];
    v_manifests uuid[];
    v_worker uuid;
    v_jobs uuid[];
    v_claims int[];
begin
    if not pg_try_advisory_xact_lock(hashtext('dreamcut_rescue')) then
        return;
    end if;
    v_expired := array(
        select worker.id
        from dreamcut_workers worker
        where worker.state in ('live', 'draining') and dreamcut_is_lease_over(worker)
        for update skip locked
    );
    if v_expired = '{}' then
        return;
    end if;
    -- All manifests at once, because their locks are taken in one order.
    v_manifests := dreamcut_try_lock_manifests(array(
        select job.id from dreamcut_jobs job where job.worker_id = any (v_expired) and job.status = 'processing'
    ));
    foreach v_worker in array v_expired loop
        select array_agg(free.id order by free.id), array_agg(free.claims order by free.id)
        into v_jobs, v_claims
        from (
            select job.id, job.claims
            from dreamcut_jobs job
            where job.worker_id = v_worker
                and job.status = 'processing'
                and (job.manifest_id is null or job.manifest_id = any (v_manifests))
            for no key update skip locked
        ) free;
        continue when v_jobs is null;
        return query
        select rescued.id, rescued.status, v_worker
        from dreamcut_fail_jobs(
            v_worker, v_jobs, v_claims,
            array_fill('stalled'::text, array[cardinality(v_jobs)]),
            array_fill(format('Worker %s stopped without a word; its lease ran out', v_worker),
                       array[cardinality(v_jobs)]),
            array_fill(null::jsonb, array[cardinality(v_jobs)]),
            array_fill(null::double precision, array[cardinality(v_jobs)]),
            array_fill(interval '5 seconds', array[cardinality(v_jobs)])
        ) as rescued;
    end loop;
    update dreamcut_workers worker
    set state = 'lost', active_jobs = 0
    where worker.id = any (v_expired)
        and not exists (
            select 1 from dreamcut_jobs job where job.worker_id = worker.id and job.status = 'processing'
        );
end $$;

-- Make ready again what is processing although nobody runs it: jobs of an incarnation that stopped, was declared
-- lost or is gone, and jobs that a live worker does not report to hold although it has had the time to. Nothing
-- here makes such a job; this is the net under what nobody has thought of, e.g. a claim that the server carried
-- out long after its client had given it up. Returns the number of jobs.
-- Called by workers, rarely: it reads the whole table. Locks: the jobs, skipping what somebody has locked.
create or replace function dreamcut_return_strays() returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_stray record;
    v_returned int := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('dreamcut_return_strays')) then
        return 0;
    end if;
    for v_stray in
        select stray.worker_id, array_agg(stray.id order by stray.id) as jobs,
            array_agg(stray.claims order by stray.id) as claims
        from (
            select job.id, job.claims, job.worker_id
            from dreamcut_jobs job
            left join dreamcut_workers worker on worker.id = job.worker_id
            where job.status = 'processing'
                and (
                    worker.id is null
                    or worker.state in ('stopped', 'lost')
                    or job.id <> all (worker.held)
                        and job.started_at < worker.heartbeat_at - interval '2 minutes'
                )
            for no key update of job skip locked
        ) stray
        group by stray.worker_id
    loop
        v_returned := v_returned + cardinality(dreamcut_hand_back_jobs(
            v_stray.worker_id, v_stray.jobs, v_stray.claims, 'processing, but no worker ran it'
        ));
    end loop;
    return v_returned;
end $$;

-- Mend what an UPDATE by hand can break, and nothing that goes through these functions: waits for a job that
-- has ended, and manifests whose last job has ended without a word. Then add up what monitoring shows.
-- Called by workers, rarely. One at a time. Returns the number of ended jobs and manifests that were mended.
create or replace function dreamcut_reconcile() returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_ended uuid[];
    v_manifests uuid[];
begin
    if not pg_try_advisory_xact_lock(hashtext('dreamcut_reconcile')) then
        return 0;
    end if;
    select array_agg(distinct job.id) into v_ended
    from dreamcut_job_dependencies wait
    join dreamcut_jobs job on job.manifest_id = wait.manifest_id and job.job_id = wait.depends_on
    join dreamcut_jobs waiting on waiting.id = wait.job
    where job.status = 'completed'
        or job.status in ('failed', 'cancelled')
            -- A dependent that was cancelled with its cause keeps its wait, so that a retry finds it.
            and (waiting.status = 'pending' or waiting.metadata ->> 'onDependencyFailure' = 'run');
    if v_ended is not null then
        v_manifests := dreamcut_try_lock_manifests(v_ended);  -- the others at the next time
        v_ended := array(
            select job.id from dreamcut_jobs job where job.id = any (v_ended) and job.manifest_id = any (v_manifests)
        );
        perform dreamcut_release_dependents(v_ended);
        perform dreamcut_fail_dependents(v_ended);
    end if;

    -- Skipping locked ones: whoever settles a job of a manifest closes it, too.
    with silent as (
        select manifest.id
        from dreamcut_production_manifest manifest
        where manifest.status = 'rendering'
            and not exists (
                select 1 from dreamcut_jobs job
                where job.manifest_id = manifest.id and job.status in ('pending', 'processing')
            )
            and exists (select 1 from dreamcut_jobs job where job.manifest_id = manifest.id)
        for no key update skip locked
    ), counted as (
        update dreamcut_production_manifest manifest
        set open_jobs = 0
        from silent
        where manifest.id = silent.id
        returning manifest.id
    )
    select array_agg(counted.id) into v_manifests from counted;
    perform dreamcut_close_manifests(v_manifests);
    perform dreamcut_roll_up();
    return coalesce(cardinality(v_ended), 0) + coalesce(cardinality(v_manifests), 0);
end $$;
