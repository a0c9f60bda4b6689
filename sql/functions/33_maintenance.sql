-- Maintenance, by whichever worker comes first: rescue what dead workers left, and mend what nobody else will.
-- These wait for nobody's locks: what is locked is left for the next time.

-- Take these jobs of a lost worker, or those of them that can be taken: a job whose dependents somebody has locked
-- (a producer's open transaction) is left with its manifest, and after 20 s all others are, too, for the next rescue.
-- Called by dreamcut_rescue, under the manifests' locks. Locks: as dreamcut_complete_jobs.
create or replace function dreamcut_rescue_jobs(p_worker uuid, p_jobs uuid[], p_claims int[])
returns table (id uuid, status text, worker_id uuid)
language plpgsql set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_group record;
begin
    begin
        return query
        select rescued.id, rescued.status, p_worker
        from dreamcut_fail_jobs(
            p_worker, p_jobs, p_claims,
            array_fill('stalled'::text, array[cardinality(p_jobs)]),
            array_fill(format('Worker %s stopped without a word; its lease ran out', p_worker),
                       array[cardinality(p_jobs)]),
            array_fill(null::jsonb, array[cardinality(p_jobs)]),
            array_fill(null::double precision, array[cardinality(p_jobs)]),
            array_fill(interval '5 seconds', array[cardinality(p_jobs)])
        ) as rescued;
        return;
    exception when lock_not_available then
        null;  -- which of them it is, shows when they are taken apart
    end;
    for v_group in
        select array_agg(given.id order by given.id) as jobs, array_agg(given.claim order by given.id) as claims
        from unnest(p_jobs, p_claims) as given (id, claim)
        join dreamcut_jobs job on job.id = given.id
        group by coalesce(job.manifest_id, job.id)
        -- No manifest that stays locked keeps the same others waiting each time.
        order by random()
    loop
        exit when v_group.jobs @> p_jobs or clock_timestamp() > now() + interval '20 seconds';
        return query select * from dreamcut_rescue_jobs(p_worker, v_group.jobs, v_group.claims);
    end loop;
end $$;

-- Take the jobs of workers whose lease ran out: back to pending with backoff, or failed when their attempts
-- are used up. Returns the jobs. One worker at a time in a database does it; the others pass. Jobs that somebody
-- has locked, or whose manifest or dependents, are left for the next rescue; their worker counts as lost only when
-- all are taken.
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
        order by random()  -- see dreamcut_rescue_jobs
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
        return query select * from dreamcut_rescue_jobs(v_worker, v_jobs, v_claims);
        exit when clock_timestamp() > now() + interval '20 seconds';
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
        perform dreamcut_count_jobs(v_manifests);
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
    )
    select array_agg(silent.id) into v_manifests from silent;
    if v_manifests is not null then
        perform dreamcut_count_jobs(v_manifests);
        perform dreamcut_close_manifests(v_manifests);
    end if;
    perform dreamcut_roll_up();
    return coalesce(cardinality(v_ended), 0) + coalesce(cardinality(v_manifests), 0);
end $$;
