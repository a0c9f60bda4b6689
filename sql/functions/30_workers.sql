-- Taking part: a worker enters, extends its lease, and leaves. What it does in between is in 31_claim.sql and
-- 32_outcomes.sql; what it does for others in 33_maintenance.sql.
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

-- What live workers serve: a row for each worker and type. A view and not a function, because Postgres inlines it.
create or replace view dreamcut_live_lanes as
select worker.id as worker_id, lane.type, lane.provider, lane.slots
from dreamcut_workers worker
cross join lateral unnest(worker.types, worker.providers, worker.slots) as lane (type, provider, slots)
where worker.state = 'live' and worker.lease_expires_at > now()
    and lane.type is not null;  -- where an array is longer than that of the types

comment on view dreamcut_live_lanes is
    'Job types that each live worker serves, with the provider that it calls first for them and its slots.';

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
