-- The graph of a manifest's jobs: what a finished job frees, what a failed one takes with it, and when the
-- manifest itself is done.
--
-- One rule keeps it free of races and deadlocks: whatever changes the graph (an insert, an outcome, a cancel,
-- a retry) first locks the manifest's row, several in the order of their ids, and keeps the lock to the end
-- of its transaction. So two dependencies that finish at once settle one after the other, and a dependency
-- that finishes while its dependent is being inserted either sees the dependent or is seen by it: each
-- statement after the lock has a snapshot of its own (READ COMMITTED, the functions are volatile).
-- A claim takes no such lock, and waits for nothing.

-- Lock these manifests.
-- Called by dreamcut_lock_manifests and dreamcut_complete_jobs.
-- Locks: dreamcut_production_manifest, in the order of id.
create or replace function dreamcut_lock_manifest_rows(p_manifests uuid[]) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    perform manifest.id
    from dreamcut_production_manifest manifest
    where manifest.id = any (p_manifests)
    order by manifest.id
    for no key update;  -- not FOR UPDATE: inserting a job holds FOR KEY SHARE for its foreign key
end $$;

-- Lock the manifests of these jobs.
-- Called by every function below that settles jobs. Locks: dreamcut_production_manifest, in the order of id.
create or replace function dreamcut_lock_manifests(p_jobs uuid[]) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    perform dreamcut_lock_manifest_rows(array(
        select job.manifest_id from dreamcut_jobs job where job.id = any (p_jobs) and job.manifest_id is not null
    ));
end $$;

-- Lock those manifests of these jobs that nobody else has locked, and return them. For maintenance, which must
-- not wait for one manifest while others need it.
-- Called by dreamcut_rescue and dreamcut_reconcile. Locks: as above, skipping what is locked.
create or replace function dreamcut_try_lock_manifests(p_jobs uuid[]) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
begin
    return array(
        select manifest.id
        from dreamcut_production_manifest manifest
        where manifest.id in (select job.manifest_id from dreamcut_jobs job where job.id = any (p_jobs))
        order by manifest.id
        for no key update skip locked
    );
end $$;

-- Wake the workers that sleep until a job of one of these types is ready. While none does, nothing is sent: a commit
-- that notifies takes a lock that all other such commits of the server wait for.
-- A worker that begins to wait while this transaction is open hears nothing, and finds the jobs when it looks for itself.
-- Called by whatever makes jobs ready. Postgres sends equal notifications of a transaction once.
create or replace function dreamcut_notify_ready(p_types text[]) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    perform pg_notify('dreamcut_jobs', ready.type)
    from unnest(p_types) as ready (type)
    where ready.type is not null
        and exists (
            select 1 from dreamcut_workers worker
            where worker.waits and worker.state = 'live' and ready.type = any (worker.types)
        )
    group by ready.type;
end $$;

-- Take a met wait off each of the waits given as two arrays side by side, and wake who can run now.
-- A thousand at a time: conditions on whole arrays keep each statement to the index whatever its plan, and some plans go
-- through the arrays once for each row.
-- Called by dreamcut_release_dependents and dreamcut_fail_dependents, under the manifests' locks.
create or replace function dreamcut_meet_waits(p_jobs uuid[], p_depends_on text[]) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_step constant int := 1000;
    v_jobs uuid[];
    v_depends_on text[];
    v_waits bigint[];
    v_types text[];
begin
    for v_first in 1 .. cardinality(p_jobs) by v_step loop
        v_jobs := p_jobs[v_first : v_first + v_step - 1];
        v_depends_on := p_depends_on[v_first : v_first + v_step - 1];
        with met as (
            delete from dreamcut_job_dependencies wait
            using unnest(v_jobs, v_depends_on) as given (job, depends_on)
            where wait.job = any (v_jobs)
                and wait.job = given.job
                and wait.depends_on = given.depends_on
            returning wait.job
        ), fewer as (
            select met.job, count(*) as waits from met group by met.job
        )
        select array_agg(fewer.job), array_agg(fewer.waits) into v_jobs, v_waits from fewer;
        with freed as (
            update dreamcut_jobs job
            set unmet_dependencies = job.unmet_dependencies - fewer.waits,
                updated_at = now()
            from unnest(v_jobs, v_waits) as fewer (job, waits)
            where job.id = any (v_jobs)
                and job.id = fewer.job
            returning job.type, job.ready
        )
        select array_agg(distinct freed.type) filter (where freed.ready) into v_types from freed;
        perform dreamcut_notify_ready(v_types);
    end loop;
end $$;

-- Free what waits for these completed jobs.
-- Called after jobs completed, under the manifests' locks. May be called again: a met wait is gone.
create or replace function dreamcut_release_dependents(p_jobs uuid[]) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs uuid[];
    v_depends_on text[];
begin
    select array_agg(wait.job), array_agg(wait.depends_on)
    into v_jobs, v_depends_on
    from dreamcut_jobs job
    cross join lateral (
        select wait.job, wait.depends_on
        from dreamcut_job_dependencies wait
        where wait.manifest_id = job.manifest_id and wait.depends_on = job.job_id
        offset 0  -- a look for each of them, whatever the plan, and never one through all waits or jobs
    ) wait
    where job.id = any (p_jobs) and job.status = 'completed';
    if v_jobs is not null then
        perform dreamcut_meet_waits(v_jobs, v_depends_on);
    end if;
end $$;

-- Cancel what waits for these failed or cancelled jobs, and what waits for that, to the last one. A job whose
-- metadata say onDependencyFailure: "run" is not cancelled; its wait counts as met.
-- Called after jobs failed or were cancelled, under the manifests' locks. May be called again.
create or replace function dreamcut_fail_dependents(p_jobs uuid[]) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_causes uuid[] := p_jobs;
    v_jobs uuid[];
    v_depends_on text[];
    v_types text[];
begin
    loop
        select array_agg(wait.job), array_agg(wait.depends_on)
        into v_jobs, v_depends_on
        from dreamcut_jobs cause
        join dreamcut_job_dependencies wait
            on wait.manifest_id = cause.manifest_id and wait.depends_on = cause.job_id
        join dreamcut_jobs job on job.id = wait.job
        where cause.id = any (v_causes)
            and cause.status in ('failed', 'cancelled')
            and job.metadata ->> 'onDependencyFailure' = 'run';
        if v_jobs is not null then
            perform dreamcut_meet_waits(v_jobs, v_depends_on);
        end if;

        with hit as (
            select distinct on (job.id)
                job.id,
                -- The message names the job that failed first, not the last link of the chain.
                case when cause.error_class = 'dependency_failed' then cause.error_message
                     else format('Dependency "%s" was %s%s', cause.job_id,
                                 case cause.status when 'failed' then 'not made: it failed' else 'cancelled' end,
                                 coalesce(': ' || cause.error_message, ''))
                end as reason
            from dreamcut_jobs cause
            join dreamcut_job_dependencies wait
                on wait.manifest_id = cause.manifest_id and wait.depends_on = cause.job_id
            join dreamcut_jobs job on job.id = wait.job
            where cause.id = any (v_causes)
                and cause.status in ('failed', 'cancelled')
                and job.status = 'pending'
                and job.metadata ->> 'onDependencyFailure' is distinct from 'run'
            order by job.id, cause.seq
        ), cancelled as (
            update dreamcut_jobs job
            set status = 'cancelled',
                error_class = 'dependency_failed',
                error_message = hit.reason,
                next_retry_at = null,
                completed_at = now(),
                updated_at = now()
            from hit
            where job.id = hit.id and job.status = 'pending'
            returning job.id, job.manifest_id, job.type
        ), fewer as (
            update dreamcut_production_manifest manifest
            set open_jobs = greatest(manifest.open_jobs - gone.jobs, 0),
                cancelled_jobs = manifest.cancelled_jobs + gone.jobs
            from (select cancelled.manifest_id, count(*) as jobs from cancelled group by 1) gone
            where manifest.id = gone.manifest_id
        )
        select array_agg(cancelled.id), array_agg(cancelled.type) into v_causes, v_types from cancelled;
        exit when v_causes is null;
        perform dreamcut_note_outcomes(
            v_types, null, array_fill('cancelled'::text, array[cardinality(v_types)]),
            array_fill('dependency_failed'::text, array[cardinality(v_types)]), null
        );
    end loop;
end $$;

-- Settle what follows from jobs that just ended: their dependents, and their manifests.
-- Called by every function that ends jobs, once, after it wrote them, under the manifests' locks.
-- p_jobs are jobs that went from open (pending, processing) to an end in this transaction.
create or replace function dreamcut_settle(p_jobs uuid[]) returns void
language plpgsql set search_path = public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off  -- as for dreamcut_claim_jobs
as $$
declare
    v_manifests uuid[];
    v_made boolean;
    v_lost boolean;
    v_over boolean;
begin
    with ended as (
        select job.manifest_id, count(*) as jobs,
            count(*) filter (where job.status = 'completed') as completed,
            count(*) filter (where job.status = 'failed') as failed,
            count(*) filter (where job.status = 'cancelled') as cancelled
        from dreamcut_jobs job
        where job.id = any (p_jobs)  -- and no word of manifest_id, or Postgres may read the whole index of it
        group by job.manifest_id
    ), fewer as (
        update dreamcut_production_manifest manifest
        set open_jobs = greatest(manifest.open_jobs - ended.jobs, 0),
            completed_jobs = manifest.completed_jobs + ended.completed,
            failed_jobs = manifest.failed_jobs + ended.failed,
            cancelled_jobs = manifest.cancelled_jobs + ended.cancelled
        from ended
        where manifest.id = any (array(select ended.manifest_id from ended))  -- by the index, whatever the plan
            and manifest.id = ended.manifest_id
        returning manifest.id, manifest.open_jobs, ended.completed, ended.jobs
    )
    select array_agg(fewer.id), bool_or(fewer.completed > 0), bool_or(fewer.completed < fewer.jobs),
        bool_or(fewer.open_jobs = 0)
    into v_manifests, v_made, v_lost, v_over
    from fewer;
    -- Each only if there is something for it to do: who waits for these jobs waits for this, too. (No manifest: they
    -- have none, and nobody can wait for them.)
    if v_made then
        perform dreamcut_release_dependents(p_jobs);
    end if;
    if v_lost then
        perform dreamcut_fail_dependents(p_jobs);
    end if;
    if v_over or v_lost then  -- what was cancelled with a lost job may have been the last
        perform dreamcut_close_manifests(v_manifests);
    end if;
end $$;

-- Count the jobs of these manifests anew. What has been archived is no longer among the jobs: of such a manifest
-- only open_jobs is counted.
-- Called by dreamcut_close_manifests and dreamcut_reconcile, under the manifests' locks.
create or replace function dreamcut_count_jobs(p_manifests uuid[]) returns void
language sql set search_path = public, pg_temp as $$
    update dreamcut_production_manifest manifest
    set open_jobs = counted.open,
        completed_jobs = case when manifest.archived_at is null then counted.completed
                              else manifest.completed_jobs end,
        failed_jobs = case when manifest.archived_at is null then counted.failed else manifest.failed_jobs end,
        cancelled_jobs = case when manifest.archived_at is null then counted.cancelled
                              else manifest.cancelled_jobs end
    from (
        select job.manifest_id,
            count(*) filter (where job.status in ('pending', 'processing')) as open,
            count(*) filter (where job.status = 'completed') as completed,
            count(*) filter (where job.status = 'failed') as failed,
            count(*) filter (where job.status = 'cancelled') as cancelled
        from dreamcut_jobs job
        where job.manifest_id = any (p_manifests)
        group by job.manifest_id
    ) counted
    where manifest.id = counted.manifest_id
$$;

-- Close the manifests that have no open job left: `done` if every job that nothing depends on completed,
-- else `failed` with the first error. (A failed job that its dependents can do without does not count.)
-- A count that reached zero is checked against the jobs themselves, so that an UPDATE of `status` by hand can
-- neither close a manifest too early nor make an outcome fail.
-- Called under the manifests' locks.
create or replace function dreamcut_close_manifests(p_manifests uuid[]) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_over uuid[];
    v_wrong uuid[];
begin
    select array_agg(closing.id) into v_wrong
    from dreamcut_production_manifest closing
    cross join lateral (
        select from dreamcut_jobs job
        where job.manifest_id = closing.id and job.status in ('pending', 'processing')
        limit 1
    ) open
    where closing.id = any (p_manifests) and closing.open_jobs = 0 and closing.status not in ('done', 'failed');
    if v_wrong is not null then
        perform dreamcut_count_jobs(v_wrong);
    end if;

    select array_agg(manifest.id) into v_over
    from dreamcut_production_manifest manifest
    where manifest.id = any (p_manifests)
        and manifest.open_jobs = 0
        and manifest.status not in ('done', 'failed');
    if v_over is null then
        return;
    end if;
    with used as (
        select distinct job.manifest_id, dependency as job_id
        from dreamcut_jobs job
        cross join unnest(job.depends_on) as dependency
        where job.manifest_id = any (v_over)
    ), members as (
        select job.manifest_id, job.status, job.output_url, job.error_message, job.completed_at, job.seq,
            used.job_id is null as is_sink,
            bool_or(used.job_id is null) over (partition by job.manifest_id) as has_sinks
        from dreamcut_jobs job
        left join used on used.manifest_id = job.manifest_id and used.job_id = job.job_id
        where job.manifest_id = any (v_over)
    ), sinks as (
        select job.manifest_id,
            count(*) filter (where job.status <> 'completed') as missing,
            (array_agg(job.output_url order by job.completed_at desc, job.seq desc)
                filter (where job.output_url is not null))[1] as output_url,
            (array_agg(job.error_message order by job.completed_at, job.seq)
                filter (where job.status <> 'completed'))[1] as error_message
        from members job
        where job.is_sink or not job.has_sinks  -- none: jobs that waited for each other, and were cancelled
        group by job.manifest_id
    )
    update dreamcut_production_manifest manifest
    set status = case when sinks.missing = 0 then 'done' else 'failed' end,
        output_url = sinks.output_url,
        error_message = case when sinks.missing > 0 then sinks.error_message end,
        completed_at = now(),
        updated_at = now(),
        processing_time_ms =
            extract(epoch from now() - coalesce(manifest.started_at, manifest.created_at)) * 1000
    from sinks
    where manifest.id = any (v_over)
        and manifest.id = sinks.manifest_id;
end $$;
