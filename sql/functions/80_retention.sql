-- Retention: jobs that ended long ago move to the archive, month by month; whole months are dropped.

-- The columns that two tables share, as a list for a statement; columns that Postgres computes are left out.
create or replace function dreamcut_shared_columns(p_from regclass, p_to regclass) returns text
language sql stable set search_path = public, pg_temp as $$
    select string_agg(quote_ident(source.attname), ', ' order by source.attnum)
    from pg_attribute source
    join pg_attribute target on target.attname = source.attname
    where source.attrelid = p_from and source.attnum > 0 and not source.attisdropped and source.attgenerated = ''
        and target.attrelid = p_to and target.attnum > 0 and not target.attisdropped
$$;

-- See to it that the archive has a place for what ended in this month (its first day, UTC).
-- Needs the rights of the tables' owner. Attached rather than created in place: nobody who reads the archive is
-- waited for.
create or replace function dreamcut_ensure_archive(p_month date) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_parent text;
    v_partition text;
    v_role text;
    v_from constant timestamptz := date_trunc('month', p_month::timestamp) at time zone 'UTC';
    v_to constant timestamptz := (date_trunc('month', p_month::timestamp) + interval '1 month') at time zone 'UTC';
begin
    foreach v_parent in array array['dreamcut_archived_jobs', 'dreamcut_archived_attempts'] loop
        v_partition := v_parent || to_char(p_month, '_YYYY_MM');
        continue when to_regclass(quote_ident(v_partition)) is not null;
        execute format('create table %I (like %I including all)', v_partition, v_parent);
        -- A row here never changes again: the first vacuum, which the inserts call for, may freeze it for good.
        execute format('alter table %I set (autovacuum_freeze_min_age = 0)', v_partition);
        -- Read through the parent alone; on Supabase a new table would be open to all its roles.
        execute format('alter table %I enable row level security', v_partition);
        execute format('revoke all on %I from public', v_partition);
        for v_role in
            select role.rolname from pg_roles role
            where role.rolname in ('anon', 'authenticated', 'service_role')
        loop
            execute format('revoke all on %I from %I', v_partition, v_role);
        end loop;
        execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                       v_parent, v_partition, v_from, v_to);
    end loop;
end $$;

-- Move jobs, given with the times that count as their ends, to the archive, with their attempts. Returns how
-- many. Called by dreamcut_archive_jobs, which holds the locks.
create or replace function dreamcut_move_jobs(p_jobs uuid[], p_ended_at timestamptz[]) returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_month date;
    v_columns text;
    v_count int;
begin
    for v_month in
        select distinct date_trunc('month', ended at time zone 'UTC')::date from unnest(p_ended_at) as ended
    loop
        perform dreamcut_ensure_archive(v_month);
    end loop;

    v_columns := dreamcut_shared_columns('dreamcut_job_attempts', 'dreamcut_archived_attempts');
    execute format(
        'insert into dreamcut_archived_attempts (%1$s, ended_at)
         select %1$s, given.moved_as from dreamcut_job_attempts attempt
         join unnest($1, $2) as given (moved, moved_as) on given.moved = attempt.job', v_columns
    ) using p_jobs, p_ended_at;

    v_columns := dreamcut_shared_columns('dreamcut_jobs', 'dreamcut_archived_jobs');
    execute format(
        'insert into dreamcut_archived_jobs (%1$s, ended_at)
         select %1$s, given.moved_as from dreamcut_jobs job
         join unnest($1, $2) as given (moved, moved_as) on given.moved = job.id', v_columns
    ) using p_jobs, p_ended_at;

    -- The attempts, and what the jobs had waited for, go with them (on delete cascade).
    delete from dreamcut_jobs job where job.id = any (p_jobs);
    get diagnostics v_count = row_count;
    return v_count;
end $$;

-- Move one batch of what ended long ago to the archive: the jobs of manifests that ended, all jobs of a manifest
-- together, and ended jobs without a manifest. p_after is for what was completed, p_failed_after for what failed
-- or was cancelled; null: never. p_limit: manifests of either kind, and jobs without a manifest.
-- jobs: how many were moved. more: another call may well find something.
-- Left alone are manifests with an open provider call or a job that is not over.
-- Called by workers, rarely. One at a time in a database; the others pass. Never in the way of a claim: it touches
-- no job that is ready, and skips every row that somebody else has locked.
-- Locks: the manifests, then the jobs.
create or replace function dreamcut_archive_jobs(
    p_after interval, p_failed_after interval, p_limit int, out jobs int, out more boolean
)
language plpgsql set search_path = public, pg_temp as $$
declare
    v_window constant int := p_limit * 20;
    v_manifests uuid[];
    v_totals int[];
    v_completed int[];
    v_failed int[];
    v_cancelled int[];
    v_jobs uuid[];
    v_ends timestamptz[];
    v_last text;
    v_seen int;
    v_moved int;
begin
    jobs := 0;
    more := false;
    if not pg_try_advisory_xact_lock(hashtext('dreamcut_archive')) then
        return;
    end if;

    select array_agg(due.id), array_agg(due.total_jobs), array_agg(due.completed_jobs), array_agg(due.failed_jobs),
        array_agg(due.cancelled_jobs), count(*) >= p_limit
    into v_manifests, v_totals, v_completed, v_failed, v_cancelled, more
    from unnest(array['done', 'failed'], array[p_after, p_failed_after]) as lane (status, after)
    cross join lateral (
        select manifest.id, manifest.total_jobs, manifest.completed_jobs, manifest.failed_jobs,
            manifest.cancelled_jobs
        from dreamcut_production_manifest manifest
        where manifest.status = lane.status
            and manifest.completed_at < now() - lane.after
            and manifest.completed_at is not null
            and (manifest.archived_at is null or manifest.archived_at < manifest.completed_at)
            and manifest.open_jobs = 0
            and not exists (
                select 1 from dreamcut_provider_calls call
                where call.manifest_id = manifest.id and call.status in ('intent', 'submitted')
            )
            and not exists (
                select 1 from dreamcut_jobs job
                where job.manifest_id = manifest.id and job.status in ('pending', 'processing')
            )
        order by manifest.completed_at
        limit p_limit
        for update skip locked
    ) due;

    if v_manifests is not null then
        select array_agg(job.id), array_agg(manifest.completed_at)
        into v_jobs, v_ends
        from dreamcut_production_manifest manifest
        join dreamcut_jobs job on job.manifest_id = manifest.id
        where manifest.id = any (v_manifests);
        if v_jobs is not null then
            jobs := dreamcut_move_jobs(v_jobs, v_ends);
        end if;
        -- The counts go on saying how many there were; deleting the jobs has counted them down.
        update dreamcut_production_manifest manifest
        set archived_at = now(),
            total_jobs = before.jobs,
            completed_jobs = before.completed,
            failed_jobs = before.failed,
            cancelled_jobs = before.cancelled
        from unnest(v_manifests, v_totals, v_completed, v_failed, v_cancelled)
            as before (id, jobs, completed, failed, cancelled)
        where manifest.id = before.id;
    end if;

    -- Jobs without a manifest have no index by their end, which every outcome would pay for. A stretch of them
    -- is looked at in the order of an index that is there, and the next call goes on from its end.
    select array_agg(seen.id) filter (where seen.due), array_agg(seen.completed_at) filter (where seen.due),
        max(seen.job_id), count(*)
    into v_jobs, v_ends, v_last, v_seen
    from (
        select job.id, job.job_id, job.completed_at,
            coalesce(job.completed_at < now() - case job.status when 'completed' then p_after
                                                                when 'failed' then p_failed_after
                                                                when 'cancelled' then p_failed_after end, false)
                and not exists (
                    select 1 from dreamcut_provider_calls call
                    where call.job = job.id and call.status in ('intent', 'submitted')
                ) as due
        from dreamcut_jobs job
        where job.manifest_id is null
            and job.job_id > (select place.after_job_id from dreamcut_archive_position place)
        order by job.manifest_id, job.job_id
        limit v_window
    ) seen;
    update dreamcut_archive_position place set after_job_id = case when v_seen < v_window then '' else v_last end;

    with free as (
        select job.id from dreamcut_jobs job
        where job.id = any (v_jobs) and job.status in ('completed', 'failed', 'cancelled')
        for update skip locked
    )
    select array_agg(given.id), array_agg(given.ended_at)
    into v_jobs, v_ends
    from unnest(v_jobs, v_ends) as given (id, ended_at)
    join free on free.id = given.id;
    if v_jobs is not null then
        v_moved := dreamcut_move_jobs(v_jobs, v_ends);
        jobs := jobs + v_moved;
        more := more or v_moved >= p_limit;  -- a twentieth of what was looked at: it is worth going on
    end if;
end $$;

-- Drop the months of the archive that are older than p_before as a whole; p_dry_run only lists them. The ledger and
-- the manifests' rows are not touched. Needs the rights of the tables' owner.
create or replace function dreamcut_prune_archive(p_before timestamptz, p_dry_run boolean default true)
returns table (month date, jobs bigint, attempts bigint, bytes bigint)
language plpgsql set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_jobs text;
    v_attempts text;
begin
    -- Rather give up than let everybody wait who reads the archive.
    perform set_config('lock_timeout', '3s', true);
    for v_jobs, month in
        select class.relname, to_date(right(class.relname, 7), 'YYYY_MM')
        from pg_inherits
        join pg_class class on class.oid = pg_inherits.inhrelid
        where pg_inherits.inhparent = 'dreamcut_archived_jobs'::regclass
            and to_date(right(class.relname, 7), 'YYYY_MM') + interval '1 month' <= p_before at time zone 'UTC'
        order by class.relname
    loop
        v_attempts := replace(v_jobs, 'dreamcut_archived_jobs', 'dreamcut_archived_attempts');
        execute format('select count(*) from %I', v_jobs) into jobs;
        execute format('select count(*) from %I', v_attempts) into attempts;
        bytes := pg_total_relation_size(quote_ident(v_jobs)) + pg_total_relation_size(quote_ident(v_attempts));
        if not p_dry_run then
            execute format('drop table %I, %I', v_jobs, v_attempts);
        end if;
        return next;
    end loop;
end $$;

-- Delete manifests' rows whose jobs were in the months that dreamcut_prune_archive drops for the same p_before.
-- Returns how many; call again while there are any.
create or replace function dreamcut_prune_manifests(p_before timestamptz, p_limit int) returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_count int;
begin
    with old as (
        select manifest.id
        from dreamcut_production_manifest manifest
        where manifest.archived_at >= manifest.completed_at
            and manifest.completed_at < date_trunc('month', p_before at time zone 'UTC') at time zone 'UTC'
            and not exists (select 1 from dreamcut_jobs job where job.manifest_id = manifest.id)
        order by manifest.id
        limit p_limit
        for update skip locked
    )
    delete from dreamcut_production_manifest manifest using old where manifest.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end $$;
