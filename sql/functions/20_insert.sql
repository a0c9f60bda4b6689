-- What happens when jobs are inserted, whoever inserts them: supabase-js, psql, a function of this schema.
-- The triggers run with the rights of their owner, so a producer needs no more than INSERT on the two tables.

-- Complete a row that belongs to a manifest (its turn, its dependencies), or that has nulls where PostgREST
-- filled in columns that another row of the same bulk insert has. Others do not come here (see the trigger's
-- condition).
create or replace function dreamcut_prepare_job() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    -- How much later each further job of a manifest counts as come, in microseconds: a minute. Jobs of one type and
    -- priority run in the order of their turn, so the tenth job of a large manifest lets those pass that come within
    -- the next ten minutes. A small film behind a huge one gets its share at once, and no job waits for ever,
    -- since time overtakes every turn.
    v_step constant bigint := 60000000;
    v_manifest text;
    v_places jsonb;
    v_place int;
begin
    new.job_id := coalesce(new.job_id, 'job_' || to_hex((random() * 9007199254740992)::bigint));
    new.status := coalesce(new.status, 'pending');
    new.priority := coalesce(new.priority, 5);
    new.payload := coalesce(new.payload, '{}');
    new.depends_on := coalesce(new.depends_on, '{}');
    new.retry_policy := coalesce(new.retry_policy, '{}');
    new.max_attempts := coalesce(new.max_attempts, 3);
    new.attempts := coalesce(new.attempts, 0);
    new.metadata := coalesce(new.metadata, '{}');
    new.created_at := coalesce(new.created_at, now());
    new.updated_at := coalesce(new.updated_at, now());
    if cardinality(new.depends_on) > 0 then
        if new.manifest_id is null then
            raise exception 'job "%" has depends_on but no manifest_id', new.job_id
                using errcode = 'check_violation',
                      hint = 'Dependencies are job_ids of the same manifest: set manifest_id.';
        end if;
        new.unmet_dependencies :=
            (select count(distinct dependency) from unnest(new.depends_on) as dependency where dependency is not null);
    end if;
    if new.manifest_id is not null then
        -- The job's place in its manifest: counted from row to row in settings of this transaction, and begun with
        -- what the manifest had before. Two that insert at once may count the same; that costs nobody anything.
        v_manifest := current_setting('dreamcuts.inserting', true);
        if v_manifest = new.manifest_id::text then
            v_place := current_setting('dreamcuts.inserted')::int;
        else
            -- A statement may hold the rows of several manifests in turns: keep how far the one before has come. Of
            -- some forty at most; one that is forgotten is counted anew, without this statement's own rows.
            v_places := coalesce(nullif(current_setting('dreamcuts.places', true), ''), '{}');
            v_place := (v_places ->> new.manifest_id::text)::int;
            if v_manifest <> '' then
                if length(current_setting('dreamcuts.places', true)) > 2000 then
                    v_places := '{}';
                end if;
                v_places := v_places || jsonb_build_object(v_manifest, current_setting('dreamcuts.inserted')::int);
                perform set_config('dreamcuts.places', v_places::text, true);
            end if;
            if v_place is null then
                select manifest.total_jobs into v_place
                from dreamcut_production_manifest manifest
                where manifest.id = new.manifest_id;
                v_place := coalesce(v_place, 0);  -- a manifest that does not exist: the foreign key says it
            end if;
            perform set_config('dreamcuts.inserting', new.manifest_id::text, true);
        end if;
        perform set_config('dreamcuts.inserted', (v_place + 1)::text, true);
        new.turn := coalesce(new.turn, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)
            + v_place * v_step;
    end if;
    return new;
end $$;

create or replace trigger dreamcut_jobs_prepare
before insert on dreamcut_jobs
for each row
when (
    new.manifest_id is not null
    or new.depends_on <> '{}'
    or num_nulls(new.job_id, new.status, new.priority, new.payload, new.depends_on, new.retry_policy,
                 new.max_attempts, new.attempts, new.metadata, new.created_at, new.updated_at) > 0
)
execute function dreamcut_prepare_job();

-- Enter the new jobs into their graphs and wake the workers. Rows may come in any order, a dependent before
-- its dependency or after that one has ended.
-- Locks: the manifests of the new jobs, in the order of id, to the end of the producer's transaction.
create or replace function dreamcut_enter_jobs() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_ended uuid[];
    v_manifests uuid[];
begin
    if exists (select 1 from inserted where inserted.manifest_id is not null) then
        perform manifest.id
        from dreamcut_production_manifest manifest
        where manifest.id in (select inserted.manifest_id from inserted)
        order by manifest.id
        for no key update;

        with more as (
            update dreamcut_production_manifest manifest
            set open_jobs = manifest.open_jobs + new_jobs.jobs,
                total_jobs = manifest.total_jobs + new_jobs.total,
                completed_jobs = manifest.completed_jobs + new_jobs.completed,
                failed_jobs = manifest.failed_jobs + new_jobs.failed,
                cancelled_jobs = manifest.cancelled_jobs + new_jobs.cancelled,
                -- A manifest that was over is open again.
                status = case when reopened.so then 'rendering' else manifest.status end,
                completed_at = case when not reopened.so then manifest.completed_at end,
                processing_time_ms = case when not reopened.so then manifest.processing_time_ms end,
                error_message = case when not reopened.so then manifest.error_message end
            from (
                select inserted.manifest_id,
                    count(*) filter (where inserted.status in ('pending', 'processing')) as jobs,
                    count(*) as total,
                    count(*) filter (where inserted.status = 'completed') as completed,
                    count(*) filter (where inserted.status = 'failed') as failed,
                    count(*) filter (where inserted.status = 'cancelled') as cancelled
                from inserted
                group by inserted.manifest_id
            ) new_jobs
            join dreamcut_production_manifest was on was.id = new_jobs.manifest_id
            cross join lateral (
                select was.status in ('done', 'failed') and new_jobs.jobs > 0 as so
            ) reopened
            where manifest.id = new_jobs.manifest_id
            returning manifest.id
        )
        select array_agg(more.id) into v_manifests from more;

        -- Those that were waited for before they were there.
        if exists (
            select 1 from dreamcut_job_dependencies wait
            where wait.cause is null and wait.manifest_id = any (v_manifests)
        ) then
            update dreamcut_job_dependencies wait
            set cause = inserted.id
            from inserted
            where wait.cause is null
                and wait.manifest_id = inserted.manifest_id and wait.depends_on = inserted.job_id;
        end if;

        insert into dreamcut_job_dependencies (job, manifest_id, depends_on, cause)
        select waiting.id, waiting.manifest_id, waiting.dependency, cause.id
        from (
            select distinct inserted.id, inserted.manifest_id, dependency
            from inserted
            cross join unnest(inserted.depends_on) as dependency
            where dependency is not null
        ) waiting
        -- `offset 0`: one look into the index for each wait, also where a million rows are inserted at once.
        left join lateral (
            select job.id from dreamcut_jobs job
            where job.manifest_id = waiting.manifest_id and job.job_id = waiting.dependency
            offset 0
        ) cause on true;

        -- Dependencies that had ended before, and inserted jobs that had: nobody else will tell the waiting.
        -- What the manifest's other jobs wait for is left alone: a planner that inserts one at a time would read all
        -- of it again each time.
        select array_agg(ended.id) into v_ended
        from (
            select job.id
            from inserted
            join dreamcut_job_dependencies wait on wait.job = inserted.id
            join dreamcut_jobs job on job.manifest_id = wait.manifest_id and job.job_id = wait.depends_on
            where job.status in ('completed', 'failed', 'cancelled')
            union
            select inserted.id
            from inserted
            where inserted.manifest_id is not null and inserted.status in ('completed', 'failed', 'cancelled')
        ) ended;
        if v_ended is not null then
            perform dreamcut_release_dependents(v_ended);
            perform dreamcut_fail_dependents(v_ended);
            perform dreamcut_close_manifests(v_manifests);
        end if;
    end if;

    -- Of what is scheduled for later, too: a worker that looks for work now and then must know when.
    -- (As dreamcut_notify_ready does it, which would take longer to call than this takes for a single job.)
    perform pg_notify('dreamcut_jobs', new_jobs.type)
    from (
        select distinct inserted.type from inserted
        where inserted.ready or inserted.status = 'pending' and inserted.next_retry_at is not null
    ) new_jobs
    where exists (
        select 1 from dreamcut_workers worker
        where worker.waits and worker.state = 'live' and new_jobs.type = any (worker.types)
    );
    return null;
end $$;

create or replace trigger dreamcut_jobs_enter
after insert on dreamcut_jobs
referencing new table as inserted
for each statement
execute function dreamcut_enter_jobs();

-- Keep the manifests' counts right when jobs are deleted. Who waits for a deleted job goes on waiting, and
-- is shown as blocked by a missing job.
create or replace function dreamcut_leave_jobs() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    update dreamcut_production_manifest manifest
    set open_jobs = greatest(manifest.open_jobs - gone.jobs, 0),
        total_jobs = greatest(manifest.total_jobs - gone.total, 0),
        completed_jobs = greatest(manifest.completed_jobs - gone.completed, 0),
        failed_jobs = greatest(manifest.failed_jobs - gone.failed, 0),
        cancelled_jobs = greatest(manifest.cancelled_jobs - gone.cancelled, 0)
    from (
        select deleted.manifest_id, count(*) as total,
            count(*) filter (where deleted.status in ('pending', 'processing')) as jobs,
            count(*) filter (where deleted.status = 'completed') as completed,
            count(*) filter (where deleted.status = 'failed') as failed,
            count(*) filter (where deleted.status = 'cancelled') as cancelled
        from deleted
        where deleted.manifest_id is not null
        group by deleted.manifest_id
    ) gone
    where manifest.id = gone.manifest_id;
    update dreamcut_job_dependencies wait
    set cause = null
    from deleted
    where wait.manifest_id = deleted.manifest_id and wait.depends_on = deleted.job_id;
    perform dreamcut_close_manifests(array(
        select distinct deleted.manifest_id from deleted where deleted.manifest_id is not null
    ));
    return null;
end $$;

create or replace trigger dreamcut_jobs_leave
after delete on dreamcut_jobs
referencing old table as deleted
for each statement
execute function dreamcut_leave_jobs();

-- The producer changes a payload after the insert (the render job's); say when. The queue's own statements
-- do not set these columns and so do not come here.
-- AFTER, although that takes a second update: a BEFORE trigger of any column would lock each row first, in each of the
-- queue's own statements too (a twelfth of all that a job writes to the log).
create or replace function dreamcut_touch_job() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    update dreamcut_jobs job set updated_at = now() where job.id = new.id and job.updated_at is distinct from now();
    return null;
end $$;

drop trigger if exists dreamcut_jobs_touch on dreamcut_jobs;
create trigger dreamcut_jobs_touch
after update of payload, priority, tags, metadata on dreamcut_jobs
for each row
execute function dreamcut_touch_job();
