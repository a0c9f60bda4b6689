-- Paid calls to providers. The row is written before the request goes out and closed after; for a provider
-- with a queue of its own the request id is stored in between, so that whoever claims the job next picks the
-- open request up instead of paying again.
--
-- dreamcut_begin_call is also where limits are enforced, exactly and for all workers together: it counts under
-- the lock of the provider's row, and each of its statements after the lock sees what was committed before it.
-- Locks are taken in one order: the call's id (an advisory lock, which only tries of the same call share), the
-- manifest (only if it has a spend limit), the provider (only if it has a limit or is in trouble), the job. A
-- provider and a manifest without limits cost a look, no lock.
--
-- SQLSTATE DC001: the job is no longer this worker's. DC002: a limit; wait. DC003: a spend limit. DC004: the
-- provider is paused. The last three have a DETAIL in JSON (see 55_providers.sql).

drop function if exists dreamcut_begin_call(uuid, uuid, int, text, text, int, jsonb, numeric);
drop function if exists dreamcut_begin_call(uuid, uuid, int, text, text, int, jsonb, numeric, text);

-- Record the intent to call, if it may be made. p_estimate_usd is reserved until the call is closed; null (the
-- price is not known) reserves nothing, and the row's detail says unpriced.
-- p_call is the id of the row, so that a worker may ask again when the answer was lost with its connection.
-- Called right before the request. Raises DC001 to DC004. Locks: as above.
create or replace function dreamcut_begin_call(
    p_worker uuid, p_job uuid, p_claim int, p_provider text, p_endpoint text, p_step int, p_request jsonb,
    p_estimate_usd numeric, p_request_hash text default null, p_call uuid default null
) returns uuid
language plpgsql set search_path = public, pg_temp set lock_timeout = '5s' as $$
declare
    v_call constant uuid := coalesce(p_call, gen_random_uuid());
    v_estimate constant numeric := round(p_estimate_usd, 6);
    v_manifest uuid;
    v_job_limit numeric;
    v_manifest_limit numeric;
    v_job_id text;
    v_type text;
begin
    if p_call is not null then
        -- The first try may still be under way, waiting for a limit's lock; it must not count against the second.
        perform pg_advisory_xact_lock(hashtextextended(p_call::text, 0));
        perform 1
        from dreamcut_provider_calls call
        join dreamcut_jobs job on job.id = call.job
        where call.id = p_call
            and job.worker_id = p_worker
            and job.claims = p_claim
            and job.status = 'processing';
        if found then
            return p_call;  -- asked before, and admitted
        end if;
    end if;

    select job.manifest_id,
        dreamcut_usd(job.payload -> 'costLimit', 'costLimit'),
        dreamcut_usd(manifest.manifest_json #> '{metadata,featureFlags,maxTotalCost}', 'featureFlags.maxTotalCost')
    into v_manifest, v_job_limit, v_manifest_limit
    from dreamcut_jobs job
    left join dreamcut_production_manifest manifest on manifest.id = job.manifest_id
    where job.id = p_job;

    if v_manifest_limit is not null then
        perform 1 from dreamcut_production_manifest manifest where manifest.id = v_manifest for no key update;
    end if;

    perform dreamcut_admit_call(v_call, p_provider, p_endpoint, v_estimate);

    -- NO KEY UPDATE: a rescue cannot take the job in between, and two calls of one job count each other.
    select job.job_id, job.type into v_job_id, v_type
    from dreamcut_jobs job
    where job.id = p_job
        and job.worker_id = p_worker
        and job.claims = p_claim
        and job.status = 'processing'
    for no key update;
    if not found then
        raise exception 'job % is no longer held by worker %', p_job, p_worker using errcode = 'DC001';
    end if;

    if v_job_limit is not null then
        perform dreamcut_check_spend('the job''s costLimit', v_job_limit, v_estimate, (
            select sum(committed.usd) from dreamcut_committed_spend committed where committed.job = p_job
        ));
    end if;
    if v_manifest_limit is not null then
        perform dreamcut_check_spend('the manifest''s maxTotalCost', v_manifest_limit, v_estimate, (
            select sum(committed.usd) from dreamcut_committed_spend committed
            where committed.manifest_id = v_manifest
        ));
    end if;

    insert into dreamcut_provider_calls
        (id, job, manifest_id, job_id, type, claim, worker_id, provider, endpoint, step, request, request_hash,
         estimate_usd, detail, created_at)
    values (v_call, p_job, v_manifest, v_job_id, v_type, p_claim, p_worker, p_provider, p_endpoint, p_step,
            p_request, p_request_hash, v_estimate,
            case when v_estimate is null then '{"unpriced": true}'::jsonb end, clock_timestamp());
    return v_call;
end $$;

-- Store the provider's request id. Never refused: an id that exists must not be lost, whoever holds the job.
create or replace function dreamcut_submitted_call(p_call uuid, p_request_id text, p_ticket jsonb) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_provider text;
begin
    update dreamcut_provider_calls call
    set request_id = p_request_id,
        ticket = p_ticket,
        status = case when call.status = 'intent' then 'submitted' else call.status end,
        submitted_at = now()
    where call.id = p_call
    returning call.provider into v_provider;
    perform dreamcut_probe_accepted(v_provider, p_call);
end $$;

-- Close a call with its outcome and cost. A call that is closed stays as it is. p_detail's `class` is the class
-- of the error: it slows down or pauses the provider (56_breaker.sql).
-- Locks: the call, then the provider's row if the outcome says something about the provider.
create or replace function dreamcut_finish_call(
    p_call uuid, p_status text, p_cost_usd numeric, p_error text, p_detail jsonb
) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_call dreamcut_provider_calls;
begin
    update dreamcut_provider_calls call
    set status = p_status,
        cost_usd = round(p_cost_usd, 6),
        error = p_error,
        detail = nullif(
            case when p_cost_usd is null then coalesce(call.detail, '{}')
                 else coalesce(call.detail, '{}') - 'unpriced' end || coalesce(p_detail, '{}'),
            '{}'
        ),
        finished_at = now()
    where call.id = p_call and call.status in ('intent', 'submitted')
    returning call.* into v_call;
    if found then
        perform dreamcut_note_outcome(v_call, p_error);
    end if;
end $$;

-- The latest job that made what this request asks for: of the same user, or, where the manifest has no user, of
-- the same manifest. Empty if there is none. result, output_url: the job's, as it stands. usd: what its call cost.
-- Called for jobs that opted in. Locks: nothing.
create or replace function dreamcut_find_reusable(
    p_job uuid, p_request_hash text,
    out job uuid, out manifest_id uuid, out job_id text, out result jsonb, out output_url text, out usd numeric
)
returns setof record
language sql stable set search_path = public, pg_temp as $$
    select made.id, made.manifest_id, made.job_id, made.result, made.output_url,
        coalesce(call.cost_usd, call.estimate_usd)
    from dreamcut_jobs asking
    left join dreamcut_production_manifest mine on mine.id = asking.manifest_id
    join dreamcut_provider_calls call on call.request_hash = p_request_hash and call.status = 'succeeded'
    join dreamcut_jobs made on made.id = call.job
    left join dreamcut_production_manifest theirs on theirs.id = made.manifest_id
    where asking.id = p_job
        and made.id <> asking.id
        and made.type = asking.type
        and made.status = 'completed'
        and made.output_url is not null
        and (made.manifest_id = asking.manifest_id or mine.user_id = theirs.user_id)
        -- The job may have ended with another step of its chain than this call's.
        and coalesce(made.result ->> 'endpoint', call.endpoint) = call.endpoint
    order by call.finished_at desc
    limit 1
$$;

-- Enter a call that was not made, because p_from had made the same: cost 0, with what it saved.
-- Raises DC001. Locks: the job's row.
create or replace function dreamcut_reuse_call(
    p_worker uuid, p_job uuid, p_claim int, p_provider text, p_endpoint text, p_step int, p_request jsonb,
    p_request_hash text, p_from uuid, p_saved_usd numeric
) returns uuid
language plpgsql set search_path = public, pg_temp as $$
declare
    v_call uuid;
begin
    with held as (
        select job.id, job.manifest_id, job.job_id, job.type
        from dreamcut_jobs job
        where job.id = p_job
            and job.worker_id = p_worker
            and job.claims = p_claim
            and job.status = 'processing'
        for no key update
    )
    insert into dreamcut_provider_calls
        (job, manifest_id, job_id, type, claim, worker_id, provider, endpoint, step, request, request_hash,
         status, cost_usd, reused_from, saved_usd, finished_at)
    select held.id, held.manifest_id, held.job_id, held.type, p_claim, p_worker, p_provider, p_endpoint, p_step,
        p_request, p_request_hash, 'reused', 0, p_from, round(p_saved_usd, 6), now()
    from held
    returning id into v_call;
    if v_call is null then
        raise exception 'job % is no longer held by worker %', p_job, p_worker using errcode = 'DC001';
    end if;
    return v_call;
end $$;

-- Take open calls whose job has ended, to have them cancelled: of jobs that were cancelled (no worker ran them,
-- or it is gone), and after p_keep of jobs that ended otherwise: until then a retry by hand may still pick the
-- call up and use what is paid. p_providers are those that the worker can reach. A call is given to one worker,
-- and again after five minutes if it did not close it.
-- Called by workers, rarely. Locks: the calls it returns; skips those that another worker takes.
create or replace function dreamcut_take_abandoned_calls(
    p_worker uuid, p_providers text[], p_grace interval, p_keep interval
) returns table (id uuid, provider text, endpoint text, request_id text, ticket jsonb)
language sql set search_path = public, pg_temp as $$
    with abandoned as (
        select call.id
        from dreamcut_provider_calls call
        left join dreamcut_jobs job on job.id = call.job
        where call.status in ('intent', 'submitted')
            and call.provider = any (p_providers)
            and (call.detail ->> 'closing_at' is null
                 or (call.detail ->> 'closing_at')::timestamptz < now() - interval '5 minutes')
            and case when job.id is null then call.created_at < now() - p_keep
                     when job.status = 'cancelled' then job.completed_at < now() - p_grace
                     when job.status in ('completed', 'failed') then job.completed_at < now() - p_keep
                     else false end
        order by call.created_at
        limit 100
        for no key update of call skip locked
    )
    update dreamcut_provider_calls call
    set detail = coalesce(call.detail, '{}') || jsonb_build_object('closing_at', now(), 'closing_by', p_worker)
    from abandoned
    where call.id = abandoned.id
    returning call.id, call.provider, call.endpoint, call.request_id, call.ticket
$$;
