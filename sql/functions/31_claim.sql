-- Claiming: which jobs a worker gets, and when delayed ones come back into the queue.

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

-- Claim up to p_slots[i] ready jobs of p_types[i]: the most urgent first, then those whose turn is earliest.
-- Each type is one short range of dreamcut_jobs_ready_idx, with its own limit and lock; `type = any (...)`
-- would sort the whole backlog. Two workers never get the same job, and neither waits for the other.
-- p_after_urgency[i] and p_after_turn[i] are where to begin: a worker that gets through thousands of jobs a second
-- goes on from the last one that it got. What was claimed before stays in the index until a vacuum, and while any
-- session holds an old snapshot no vacuum can remove it: without a place to begin, each claim would walk over all
-- of it. Null begins with the most urgent; a worker does that often, because jobs come back, come late, and overtake.
-- Only a claim that begins there for one of its types promotes what has come due, and takes a suspect.
-- p_waits: the worker sleeps when this claim is done, if only for some of its types, and wants to be woken. It is
-- noted also if the claim finds less than it asks for (dreamcut_notify_ready).
-- attempts counts here, so that a job that kills its worker runs out of attempts too.
-- A suspect (two workers have died with it) is claimed only if p_may_take_suspect, and one at the most: a worker
-- holds no second one, so whoever kills it takes no other suspect along. It gets its slot when it is its turn.
-- While a provider is limited or paused, jobs that would only wait for it are left (dreamcut_open_slots).
-- Raises DC001 if the incarnation has lost its lease: the lock on its row keeps a rescue from looking for its
-- jobs while this claim is under way.
create or replace function dreamcut_claim_jobs(
    p_worker uuid, p_types text[], p_slots int[], p_after_urgency int[] default null, p_after_turn bigint[] default null,
    p_waits boolean default true, p_may_take_suspect boolean default true
)
returns table (
    id uuid, manifest_id uuid, job_id text, type text, payload jsonb, attempts int, max_attempts int,
    claims int, metadata jsonb, retry_policy jsonb, urgency int, turn bigint, is_suspect boolean
)
language plpgsql set search_path = public, pg_temp
-- One plan for a session's life. Left to itself, Postgres makes a new one at each call, which takes longer than the
-- claim. It is often made while the tables are empty, when reading all of them looks cheap: that is ruled out here, and
-- below by conditions that only a look into an index for each row can meet. (The price put on what is ruled out must not
-- look like a reason to compile the plan.)
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_slots int[] := p_slots;
    v_from_start constant boolean := p_after_turn is null or array_position(p_after_turn, null) is not null;
    v_waits boolean;
    v_is_due boolean;
    v_is_limited boolean;
    v_is_suspected boolean;
    v_claimed int;
    v_suspect tid;
    v_lane int;
begin
    -- With it, what is seldom to be done: to ask for it is far quicker than to do it in vain. The first entries of
    -- these indexes may be dead ones, like those of the ready jobs: they are walked over only from the start, too.
    select worker.waits,
        v_from_start
            and (select min(job.next_retry_at) from dreamcut_jobs job where job.next_retry_at is not null) <= now(),
        exists (select 1 from dreamcut_providers provider where dreamcut_is_limited(provider)),
        v_from_start and p_may_take_suspect
            and exists (select 1 from dreamcut_jobs job where job.ready and job.suspect)
    into v_waits, v_is_due, v_is_limited, v_is_suspected
    from dreamcut_workers worker
    where worker.id = p_worker and worker.state in ('live', 'draining')
    for key share of worker;
    if not found then
        raise exception 'worker % has lost its lease', p_worker using errcode = 'DC001';
    end if;

    if v_is_due then
        perform dreamcut_promote_jobs(1000);
        v_is_suspected := p_may_take_suspect;  -- a suspect, perhaps
    end if;
    if v_is_limited then
        v_slots := dreamcut_open_slots(p_worker, p_types, p_slots);
    end if;

    if v_is_suspected then
        select suspect.ctid, lane.place into v_suspect, v_lane
        from unnest(p_types, v_slots) with ordinality as lane (type, slots, place)
        cross join lateral (
            select job.ctid, ~job.priority as urgency, job.turn
            from dreamcut_jobs job
            where job.ready and job.suspect and job.type = lane.type and lane.slots > 0
            order by ~job.priority, job.turn
            limit 1
            for no key update skip locked
        ) suspect
        -- Not while others that come before it would fill the slots.
        where lane.slots > (
            select count(*)
            from (
                select
                from dreamcut_jobs job
                where job.ready
                    and not job.suspect
                    and job.type = lane.type
                    and (~job.priority, job.turn) < (suspect.urgency, suspect.turn)
                order by ~job.priority, job.turn  -- or Postgres may read the table, in the hope of some soon
                limit lane.slots
            ) before
        )
        order by suspect.urgency, suspect.turn
        limit 1;
        if found then
            v_slots[v_lane] := v_slots[v_lane] - 1;
        end if;
    end if;

    return query
    with claimed as (
        update dreamcut_jobs job
        set status = 'processing',
            worker_id = p_worker,
            attempts = job.attempts + 1,
            claims = job.claims + 1,
            started_at = now(),
            updated_at = now()
        -- By their places in the table, which the locks hold still: no second way through an index. (A job that
        -- somebody changed between our snapshot and the lock is not found there, and is left for the next claim.)
        where job.ctid = any (array_append(array(
            select next.ctid
            from unnest(p_types, v_slots, p_after_urgency, p_after_turn) as lane (type, slots, urgency, turn)
            cross join lateral (
                select job.ctid
                from dreamcut_jobs job
                where job.ready
                    and not job.suspect
                    and job.type = lane.type
                    and (~job.priority, job.turn)
                        >= (coalesce(lane.urgency, -2147483648), coalesce(lane.turn, -9223372036854775808))
                order by ~job.priority, job.turn
                limit lane.slots
                for no key update skip locked
            ) next
        ), v_suspect))
        returning job.id, job.manifest_id, job.job_id, job.type, job.payload, job.attempts, job.max_attempts,
            job.claims, job.metadata, job.retry_policy, ~job.priority as urgency, job.turn, job.suspect
    ), started as (
        -- SKIP LOCKED, because a claim holds locks of jobs and must not wait for a manifest's: whoever holds
        -- that is settling jobs, and the next claim says it.
        update dreamcut_production_manifest manifest
        set status = 'rendering',
            started_at = coalesce(manifest.started_at, now()),
            updated_at = now()
        where manifest.id = any (array(
            select waiting.id
            from dreamcut_production_manifest waiting
            where waiting.id = any (array(select claimed.manifest_id from claimed))
                and waiting.status in ('planning', 'ready_to_dispatch')
            for no key update skip locked
        ))
    )
    select claimed.* from claimed order by claimed.urgency, claimed.turn;

    get diagnostics v_claimed = row_count;
    if not p_waits then
        p_waits := v_claimed < (select sum(slots) from unnest(p_slots) as slots);
    end if;
    if v_waits <> p_waits then
        update dreamcut_workers worker set waits = p_waits where worker.id = p_worker;
    end if;
end $$;
