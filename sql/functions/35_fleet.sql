-- Steering workers on any machine: what an operator asks for is written down here, and each worker reads it
-- with its heartbeat. A notification makes the heartbeat come at once; without one it comes by itself.

-- The slots that a worker of these types should have, beside p_types; p_slots are those it was started with.
-- A type's own row wins; the profile `high` doubles, `low` halves, and leaves one at least. A worker that was
-- started without slots (ENABLE_WORKERS=false) claims nothing, and is left without.
create or replace function dreamcut_scaled_slots(p_types text[], p_slots int[]) returns int[]
language sql stable set search_path = public, pg_temp as $$
    select array_agg(
        case when lane.slots = 0 then 0
             else coalesce(
                own.slots,
                case whole.profile when 'high' then lane.slots * 2
                                   when 'low' then greatest((lane.slots + 1) / 2, 1)
                                   else lane.slots end
             )
        end order by lane.place
    )
    from unnest(p_types, p_slots) with ordinality as lane (type, slots, place)
    left join dreamcut_scaling own on own.type = lane.type
    left join dreamcut_scaling whole on whole.type = '*'
$$;

-- A heartbeat, and what an operator asks of the worker.
-- alive, taken, cancelled, rescue_due: see dreamcut_heartbeat, which workers of release 0.1 still call.
-- command: drain (claim no more, end when the jobs have), drain_now (hand them back), restart; null: nothing.
-- types, slots: how many jobs at a time it should run, side by side.
-- Locks: the worker's own row.
create or replace function dreamcut_beat(
    p_worker uuid, p_lease interval, p_draining boolean, p_jobs uuid[], p_claims int[],
    out alive boolean, out taken uuid[], out cancelled uuid[], out rescue_due boolean,
    out command text, out command_reason text, out types text[], out slots int[]
)
language plpgsql set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    v_command text;
    v_reason text;
    v_types text[];
    v_slots int[];
begin
    select beat.alive, beat.taken, beat.cancelled, beat.rescue_due
    into alive, taken, cancelled, rescue_due
    from dreamcut_heartbeat(p_worker, p_lease, p_draining, p_jobs, p_claims) beat;

    select worker.command, worker.command_reason, worker.types,
        dreamcut_scaled_slots(worker.types, coalesce(worker.own_slots, worker.slots))
    into v_command, v_reason, v_types, v_slots
    from dreamcut_workers worker
    where worker.id = p_worker;
    command := v_command;
    command_reason := v_reason;
    types := v_types;
    slots := v_slots;

    -- So that everybody sees the slots that it really has. A second version of a small row, and only at a change.
    update dreamcut_workers worker
    set own_slots = coalesce(worker.own_slots, worker.slots), slots = v_slots
    where worker.id = p_worker and worker.slots is distinct from v_slots;
end $$;

-- Ask something of workers: drain, drain_now or restart. Returns those that are there to heed it; the others
-- have ended. Asked again, the later word counts.
create or replace function dreamcut_command_workers(
    p_workers uuid[], p_command text, p_reason text default 'asked by an operator'
) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_told uuid[];
begin
    with told as (
        update dreamcut_workers worker
        set command = p_command, commanded_at = now(), command_reason = p_reason
        where worker.id = any (p_workers) and worker.state in ('live', 'draining')
        returning worker.id
    )
    select coalesce(array_agg(told.id), '{}') into v_told from told;
    perform pg_notify('dreamcut_workers', told::text) from unnest(v_told) as told;
    return v_told;
end $$;

-- Let each worker process run p_slots jobs of this type at a time; null: as many as it was started with.
-- Returns the workers that serve the type now. What runs is left to end.
create or replace function dreamcut_scale_type(p_type text, p_slots int) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
begin
    if p_type = '*' then
        raise exception 'scale one type, not *' using errcode = 'invalid_parameter_value',
            hint = 'For all types at once there are the profiles: dreamcut_scale_profile.';
    end if;
    if p_slots is null then
        delete from dreamcut_scaling scaling where scaling.type = p_type;
    else
        insert into dreamcut_scaling (type, slots) values (p_type, p_slots)
        on conflict (type) do update set slots = excluded.slots, updated_at = now();
    end if;
    return dreamcut_wake_workers(p_type);
end $$;

-- Scale all types that have no number of their own: high, normal (as started) or low. Returns the live workers.
create or replace function dreamcut_scale_profile(p_profile text) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
begin
    if p_profile = 'normal' then
        delete from dreamcut_scaling scaling where scaling.type = '*';
    else
        insert into dreamcut_scaling (type, profile) values ('*', p_profile)
        on conflict (type) do update set profile = excluded.profile, updated_at = now();
    end if;
    return dreamcut_wake_workers(null);
end $$;

-- Let the live workers that serve a type (null: all) send a heartbeat now. Returns them.
create or replace function dreamcut_wake_workers(p_type text) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_woken uuid[];
begin
    select coalesce(array_agg(worker.id), '{}') into v_woken
    from dreamcut_workers worker
    where worker.state = 'live' and worker.lease_expires_at > now()
        and (p_type is null or p_type = any (worker.types));
    perform pg_notify('dreamcut_workers', woken::text) from unnest(v_woken) as woken;
    return v_woken;
end $$;

-- Give jobs that have not begun another priority; higher is sooner. Returns the jobs.
-- Locks: the jobs, in the order of their ids.
create or replace function dreamcut_set_priority(p_jobs uuid[], p_priority int) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs uuid[];
begin
    with chosen as (
        select job.id from dreamcut_jobs job
        where job.id = any (p_jobs) and job.status = 'pending'
        order by job.id
        for no key update
    ), moved as (
        update dreamcut_jobs job set priority = p_priority
        from chosen where job.id = chosen.id
        returning job.id
    )
    select coalesce(array_agg(moved.id), '{}') into v_jobs from moved;
    return v_jobs;
end $$;

-- Let delayed jobs (scheduled, or in backoff) run now. Returns the jobs that were delayed.
-- Locks: the jobs, in the order of their ids.
create or replace function dreamcut_run_now(p_jobs uuid[]) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs uuid[];
    v_types text[];
begin
    with chosen as (
        select job.id from dreamcut_jobs job
        where job.id = any (p_jobs) and job.status = 'pending' and job.next_retry_at is not null
        order by job.id
        for no key update
    ), hurried as (
        update dreamcut_jobs job set next_retry_at = null, updated_at = now()
        from chosen where job.id = chosen.id
        returning job.id, job.type, job.ready
    )
    select coalesce(array_agg(hurried.id), '{}'), array_agg(distinct hurried.type) filter (where hurried.ready)
    into v_jobs, v_types
    from hurried;
    perform dreamcut_notify_ready(v_types);
    return v_jobs;
end $$;
