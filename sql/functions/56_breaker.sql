-- The circuit breaker and the slow-down of providers: what the outcome of a call does to its provider, what a pause
-- does to a call, and what people may do about both.
--
-- While paused_until is set, the breaker is open. Until then every call is refused; after it one call, the probe,
-- may go out, and its outcome decides. See dreamcut_providers for the columns.

-- Refuse (DC004) a call to a provider whose breaker is open, unless it is due to be probed.
create or replace function dreamcut_check_pause(p_provider dreamcut_providers, p_now timestamptz) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_probing boolean;
begin
    if p_now >= p_provider.paused_until then
        v_probing := dreamcut_is_probing(p_provider.probe_call, p_now);
        if not v_probing then
            return;
        end if;
    end if;
    raise exception '% is paused%: %', p_provider.name,
            case when v_probing then ' until a call has shown that it is well again'
                 when p_provider.paused_until = 'infinity' then ' until it is resumed'
                 else ' until ' || to_char(p_provider.paused_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
            end,
            coalesce(p_provider.pause_reason, 'no reason given')
        using errcode = 'DC004',
              detail = jsonb_build_object(
                  'provider', p_provider.name, 'reason', p_provider.pause_reason, 'class', p_provider.pause_class,
                  'by', p_provider.paused_by,
                  'until', nullif(p_provider.paused_until, 'infinity'),
                  'wait_s', case
                      when v_probing then 10
                      when p_provider.paused_until = 'infinity' then 60
                      else ceil(extract(epoch from p_provider.paused_until - p_now)) end
              )::text;
end $$;

-- What a closed call says about its provider. A 429 slows it down, a refusal of the account or a run of failures
-- pauses it, a success ends both runs. What is the fault of one model (detail's tryNext) says nothing.
-- Called by dreamcut_finish_call. Locks: the provider's row, if it changes.
create or replace function dreamcut_note_outcome(p_call dreamcut_provider_calls, p_error text) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_class constant text := p_call.detail ->> 'class';
    v_failed constant boolean := p_call.status in ('failed', 'unknown');
begin
    if v_failed and v_class in ('auth', 'quota') then
        perform dreamcut_count_failure(p_call, v_class, p_error, 1, interval '5 minutes');
    elsif v_failed and v_class in ('transient', 'overloaded', 'timed_out') then
        if p_call.detail ->> 'tryNext' is distinct from 'true' then
            perform dreamcut_count_failure(p_call, v_class, p_error, 5, interval '30 seconds');
        else
            perform dreamcut_drop_probe(p_call);
        end if;
    elsif p_call.status = 'succeeded' or (v_failed and v_class is not null) then
        -- It answered, and not against the account: also a refused picture shows that it is well.
        update dreamcut_providers provider
        set failures_in_a_row = 0,
            pauses_in_a_row = 0,
            paused_until = null, paused_at = null, paused_by = null, pause_class = null, pause_reason = null,
            probe_call = null,
            updated_at = now()
        where provider.name = p_call.provider
            and (provider.probe_call = p_call.id
                 or (provider.paused_until is null
                     and (provider.failures_in_a_row > 0 or provider.pauses_in_a_row > 0)));
        if v_class = 'rate_limited' then
            perform dreamcut_slow_down(p_call);
        end if;
    else
        perform dreamcut_drop_probe(p_call);
    end if;
end $$;

-- A probe ended without a word about the provider: the next call probes.
create or replace function dreamcut_drop_probe(p_call dreamcut_provider_calls) returns void
language sql set search_path = public, pg_temp as $$
    update dreamcut_providers provider
    set probe_call = null, updated_at = now()
    where provider.name = p_call.provider and provider.probe_call = p_call.id
$$;

-- A probe was accepted by a provider with a queue of its own. The others need not wait for its result: the
-- account is well; whether the provider is, the next failure shows.
create or replace function dreamcut_probe_accepted(p_provider text, p_call uuid) returns void
language sql set search_path = public, pg_temp as $$
    update dreamcut_providers provider
    set failures_in_a_row = case when provider.pause_class in ('auth', 'quota') then 0 else 4 end,
        paused_until = null, paused_at = null, paused_by = null, pause_class = null, pause_reason = null,
        probe_call = null,
        updated_at = now()
    where provider.name = p_provider and provider.probe_call = p_call
$$;

-- Count a failure of the provider; pause it after p_allowed in a row, or at once if it was the probe: for p_base,
-- twice as long each time, up to an hour. While it is paused, only the probe counts: other calls began before.
create or replace function dreamcut_count_failure(
    p_call dreamcut_provider_calls, p_class text, p_error text, p_allowed int, p_base interval
) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_provider dreamcut_providers;
begin
    insert into dreamcut_providers (name) values (p_call.provider) on conflict (name) do nothing;
    update dreamcut_providers provider
    set failures_in_a_row = provider.failures_in_a_row + 1, updated_at = now()
    where provider.name = p_call.provider
        and (provider.paused_until is null or provider.probe_call = p_call.id)
    returning provider.* into v_provider;
    if v_provider.name is null or (v_provider.failures_in_a_row < p_allowed and v_provider.paused_until is null) then
        return;
    end if;
    update dreamcut_providers provider
    set paused_at = clock_timestamp(),
        paused_until = clock_timestamp()
            + least(p_base * power(2, least(provider.pauses_in_a_row, 12)), interval '1 hour'),
        paused_by = 'breaker',
        pause_class = p_class,
        pause_reason = left(p_error, 500),
        pauses_in_a_row = provider.pauses_in_a_row + 1,
        probe_call = null
    where provider.name = p_call.provider;
end $$;

-- Halve the calls at a time after a 429, from what was under way. Only for a call that began after the last
-- time: those that were sent together count once.
create or replace function dreamcut_slow_down(p_call dreamcut_provider_calls) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_open int;
begin
    insert into dreamcut_providers (name) values (p_call.provider) on conflict (name) do nothing;
    perform 1 from dreamcut_providers provider where provider.name = p_call.provider for no key update;
    select 1 + count(*) into v_open  -- the call itself is closed already
    from dreamcut_provider_calls call
    where call.provider = p_call.provider and call.status in ('intent', 'submitted');
    update dreamcut_providers provider
    set slowed_to = greatest(least(
            v_open, coalesce(dreamcut_effective_concurrency(provider, clock_timestamp()), v_open)
        ) / 2, 1),
        slowed_from = greatest(provider.slowed_from, v_open),
        slowed_at = clock_timestamp(),
        updated_at = now()
    where provider.name = p_call.provider
        and (provider.slowed_at is null or provider.slowed_at < p_call.created_at);
end $$;

-- Pause a provider for all workers: no new call goes out; calls under way go on. Its jobs stay pending, or go on
-- with another provider of their chain. Called by operators. Locks: the provider's row.
create or replace function dreamcut_pause_provider(
    p_provider text, p_until timestamptz default 'infinity', p_reason text default 'paused by an operator',
    p_by text default current_user
) returns void
language sql set search_path = public, pg_temp as $$
    insert into dreamcut_providers as provider (name, paused_until, paused_at, paused_by, pause_reason)
    values (p_provider, p_until, now(), p_by, p_reason)
    on conflict (name) do update
    set paused_until = excluded.paused_until, paused_at = excluded.paused_at, paused_by = excluded.paused_by,
        pause_reason = excluded.pause_reason, pause_class = null, probe_call = null, updated_at = now()
$$;

-- End a provider's pause and slow-down, and let the jobs go at once that wait because of them. Returns how many.
-- Called by operators. Locks: the provider's row, then the jobs (skipping those that a worker promotes).
create or replace function dreamcut_resume_provider(p_provider text) returns int
language plpgsql set search_path = public, pg_temp as $$
declare
    v_jobs int;
begin
    update dreamcut_providers provider
    set paused_until = null, paused_at = null, paused_by = null, pause_class = null, pause_reason = null,
        slowed_to = null, slowed_from = null, slowed_at = null,
        failures_in_a_row = 0, pauses_in_a_row = 0, probe_call = null, updated_at = now()
    where provider.name = p_provider;

    with waiting as (
        select job.id
        from dreamcut_jobs job
        join dreamcut_job_attempts attempt on attempt.job = job.id and attempt.claim = job.claims
        where job.next_retry_at is not null
            and job.status = 'pending'
            and job.error_class in ('paused', 'auth', 'quota', 'rate_limited')
            and attempt.detail ->> 'provider' = p_provider
        for no key update of job skip locked
    ), freed as (
        update dreamcut_jobs job
        set next_retry_at = null, updated_at = now()
        from waiting
        where job.id = waiting.id
        returning job.id
    )
    select count(*) into v_jobs from freed;
    perform pg_notify('dreamcut_jobs', '');
    return v_jobs;
end $$;
