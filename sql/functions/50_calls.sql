-- Paid calls to providers. The row is written before the request goes out and closed after; for a provider
-- with a queue of its own the request id is stored in between, so that whoever claims the job next picks the
-- open request up instead of paying again.

-- Record the intent to call. Raises DC001 if the job is no longer this worker's: a worker that was presumed
-- dead must not spend money. The lock on the job's row keeps a rescue from taking it in between.
-- Called right before the request. Locks: the job's row, for the time of the call.
create or replace function dreamcut_begin_call(
    p_worker uuid, p_job uuid, p_claim int, p_provider text, p_endpoint text, p_step int, p_request jsonb,
    p_estimate_usd numeric
) returns uuid
language plpgsql set search_path = public, pg_temp as $$
declare
    v_call uuid;
begin
    with held as (
        select job.id, job.manifest_id, job.job_id
        from dreamcut_jobs job
        where job.id = p_job
            and job.worker_id = p_worker
            and job.claims = p_claim
            and job.status = 'processing'
        for share
    )
    insert into dreamcut_provider_calls
        (job, manifest_id, job_id, claim, worker_id, provider, endpoint, step, request, estimate_usd)
    select held.id, held.manifest_id, held.job_id, p_claim, p_worker, p_provider, p_endpoint, p_step, p_request,
        p_estimate_usd
    from held
    returning id into v_call;
    if v_call is null then
        raise exception 'job % is no longer held by worker %', p_job, p_worker using errcode = 'DC001';
    end if;
    return v_call;
end $$;

-- Store the provider's request id. Never refused: an id that exists must not be lost, whoever holds the job.
create or replace function dreamcut_submitted_call(p_call uuid, p_request_id text, p_ticket jsonb) returns void
language sql set search_path = public, pg_temp as $$
    update dreamcut_provider_calls call
    set request_id = p_request_id,
        ticket = p_ticket,
        status = case when call.status = 'intent' then 'submitted' else call.status end,
        submitted_at = now()
    where call.id = p_call
$$;

-- Close a call with its outcome and cost. A call that is closed stays as it is.
create or replace function dreamcut_finish_call(
    p_call uuid, p_status text, p_cost_usd numeric, p_error text, p_detail jsonb
) returns void
language sql set search_path = public, pg_temp as $$
    update dreamcut_provider_calls call
    set status = p_status,
        cost_usd = p_cost_usd,
        error = p_error,
        detail = p_detail,
        finished_at = now()
    where call.id = p_call and call.status in ('intent', 'submitted')
$$;
