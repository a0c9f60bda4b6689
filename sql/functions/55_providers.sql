-- Limits, slow-down and circuit breaker of providers: what a call is admitted by, and what its outcome does.
--
-- The DETAIL of a refusal is an object in JSON: provider, endpoint, and
--   DC002 limit:        reason (concurrent, per_minute), limit, wait_s (seconds until it is worth asking again)
--   DC003 spend limit:  reason, limit_usd, committed_usd (spent and reserved), estimate_usd
--   DC004 paused:       reason, class (of the error that caused it; null: a person), until, wait_s

-- An amount of US dollars in a payload or a manifest; null if it is not given. One that is none is refused: a
-- spend limit that cannot be read must not count as none.
create or replace function dreamcut_usd(p_value jsonb, p_name text) returns numeric
language plpgsql immutable set search_path = public, pg_temp as $$
declare
    v_text constant text := p_value #>> '{}';
begin
    if v_text is null then
        return null;
    end if;
    if jsonb_typeof(p_value) in ('number', 'string') and v_text ~ '^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?\s*$' then
        return v_text::numeric;
    end if;
    raise exception '% must be US dollars, 0 or more, not %', p_name, left(p_value::text, 60)
        using errcode = 'DC003', detail = jsonb_build_object('reason', p_name)::text;
end $$;

-- What each call counts for against a spend limit: what it cost; if that is not known yet, its estimate, unless it
-- is certain that it was not billed. A view and not a function, because Postgres inlines it.
create or replace view dreamcut_committed_spend as
select call.id, call.job, call.manifest_id, call.provider, call.created_at,
    case when call.status in ('failed', 'cancelled', 'reused') then coalesce(call.cost_usd, 0)
         else coalesce(call.cost_usd, call.estimate_usd, 0) end as usd
from dreamcut_provider_calls call;

comment on view dreamcut_committed_spend is 'What each call counts for against spend limits, in US dollars.';

drop function if exists dreamcut_committed_usd(text, numeric, numeric);

-- Refuse (DC003) a call that would go over a spend limit.
create or replace function dreamcut_check_spend(
    p_what text, p_limit_usd numeric, p_estimate_usd numeric, p_committed_usd numeric
) returns void
language plpgsql immutable set search_path = public, pg_temp as $$
declare
    v_committed constant numeric := coalesce(p_committed_usd, 0);
begin
    if v_committed + coalesce(p_estimate_usd, 0) > p_limit_usd
        or (p_estimate_usd is null and v_committed >= p_limit_usd)
    then
        raise exception 'The call would go over % of $%: $% spent and reserved, % more needed',
                p_what, dreamcut_dollars(p_limit_usd), dreamcut_dollars(v_committed),
                coalesce('$' || dreamcut_dollars(p_estimate_usd), 'an unknown amount')
            using errcode = 'DC003',
                  detail = jsonb_build_object('reason', p_what, 'limit_usd', p_limit_usd,
                                              'committed_usd', v_committed, 'estimate_usd', p_estimate_usd)::text;
    end if;
end $$;

-- An amount for people: two decimals, more if it has them.
create or replace function dreamcut_dollars(p_usd numeric) returns text
language sql immutable set search_path = public, pg_temp as $$
    select case when p_usd = round(p_usd, 2) then round(p_usd, 2)::text else trim_scale(round(p_usd, 6))::text end
$$;

-- Calls at a time that a provider may get now; null: no limit.
create or replace function dreamcut_effective_concurrency(p_provider dreamcut_providers, p_now timestamptz)
returns int
language sql stable set search_path = public, pg_temp as $$
    select case
        when p_provider.slowed_at is null or recovered.calls >= coalesce(p_provider.max_concurrent, p_provider.slowed_from)
            then p_provider.max_concurrent
        else recovered.calls
    end
    from (
        select p_provider.slowed_to
            + least(greatest(floor(extract(epoch from p_now - p_provider.slowed_at) / 60), 0), 100000)::int as calls
    ) recovered
$$;

-- Whether the provider's breaker waits for the outcome of its probe. A probe that nobody heard of for so long
-- is given up.
create or replace function dreamcut_is_probing(p_probe uuid, p_now timestamptz) returns boolean
language sql stable set search_path = public, pg_temp as $$
    select exists (
        select 1 from dreamcut_provider_calls call
        where call.id = p_probe
            and call.status in ('intent', 'submitted')
            and call.created_at > p_now - interval '15 minutes'
    )
$$;

-- Admit a call about to be made, or refuse it (DC002, DC003, DC004).
-- Called by dreamcut_begin_call, which inserts the call in the same transaction. Locks: the provider's row, to
-- the end of the transaction, if it has anything to enforce; else nothing.
create or replace function dreamcut_admit_call(
    p_call uuid, p_provider text, p_endpoint text, p_estimate_usd numeric
) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_provider dreamcut_providers;
    v_endpoint dreamcut_endpoint_limits;
    v_now timestamptz;
    v_concurrent int;
begin
    select provider.* into v_provider from dreamcut_providers provider where provider.name = p_provider;
    if not found then
        return;
    end if;
    select limits.* into v_endpoint
    from dreamcut_endpoint_limits limits
    where limits.provider = p_provider and limits.endpoint = p_endpoint;
    if num_nonnulls(v_provider.max_concurrent, v_provider.max_per_minute, v_provider.daily_limit_usd,
                    v_provider.slowed_at, v_provider.paused_until, v_endpoint.endpoint) = 0
    then
        return;
    end if;

    select provider.* into v_provider
    from dreamcut_providers provider
    where provider.name = p_provider
    for no key update;
    v_now := clock_timestamp();  -- after the wait for the lock, so that calls stand in the order of their times

    if v_provider.paused_until is not null then
        perform dreamcut_check_pause(v_provider, v_now);
        update dreamcut_providers provider set probe_call = p_call, updated_at = v_now where provider.name = p_provider;
    end if;

    v_concurrent := dreamcut_effective_concurrency(v_provider, v_now);
    if v_provider.slowed_at is not null and v_concurrent is not distinct from v_provider.max_concurrent then
        update dreamcut_providers provider
        set slowed_to = null, slowed_from = null, slowed_at = null, updated_at = v_now
        where provider.name = p_provider;
    end if;

    perform dreamcut_check_rate(p_provider, null, v_concurrent, v_provider.max_per_minute, v_now);
    if v_endpoint.endpoint is not null then
        perform dreamcut_check_rate(
            p_provider, p_endpoint, v_endpoint.max_concurrent, v_endpoint.max_per_minute, v_now
        );
    end if;
    if v_provider.daily_limit_usd is not null then
        perform dreamcut_check_spend(
            'the daily limit of ' || p_provider, v_provider.daily_limit_usd, p_estimate_usd,
            dreamcut_spent_today(p_provider, v_now)
        );
    end if;
end $$;

-- US dollars spent and reserved at a provider today (UTC).
create or replace function dreamcut_spent_today(p_provider text, p_now timestamptz) returns numeric
language sql stable set search_path = public, pg_temp as $$
    select coalesce(sum(committed.usd), 0)
    from dreamcut_committed_spend committed
    where committed.provider = p_provider
        and committed.created_at >= date_trunc('day', p_now at time zone 'UTC') at time zone 'UTC'
$$;

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

-- Refuse (DC002) a call over the calls at a time or in a minute, of a provider, or, with p_endpoint, of one
-- endpoint. Null for a limit: none. Called under the lock of the provider's row.
create or replace function dreamcut_check_rate(
    p_provider text, p_endpoint text, p_max_concurrent int, p_max_per_minute int, p_now timestamptz
) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_full timestamptz;
begin
    if p_max_concurrent is not null and p_max_concurrent <= (
        select count(*) from dreamcut_provider_calls call
        where call.provider = p_provider
            and (p_endpoint is null or call.endpoint = p_endpoint)
            and call.status in ('intent', 'submitted')
    ) then
        perform dreamcut_refuse_rate(p_provider, p_endpoint, 'concurrent', p_max_concurrent, 1);
    end if;
    if p_max_per_minute is not null then
        -- The call that must be a minute old before another may begin.
        select call.created_at into v_full
        from dreamcut_provider_calls call
        where call.provider = p_provider
            and (p_endpoint is null or call.endpoint = p_endpoint)
            and call.created_at > p_now - interval '1 minute'
            and call.status <> 'reused'
        order by call.created_at desc
        offset p_max_per_minute - 1
        limit 1;
        if v_full is not null then
            perform dreamcut_refuse_rate(
                p_provider, p_endpoint, 'per_minute', p_max_per_minute,
                extract(epoch from v_full + interval '1 minute' - p_now)::numeric
            );
        end if;
    end if;
end $$;

create or replace function dreamcut_refuse_rate(
    p_provider text, p_endpoint text, p_reason text, p_limit int, p_wait_s numeric
) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    raise exception '% is at its limit of % calls %', concat_ws(' ', p_provider, p_endpoint), p_limit,
            case p_reason when 'concurrent' then 'at a time' else 'a minute' end
        using errcode = 'DC002',
              detail = jsonb_build_object('provider', p_provider, 'endpoint', p_endpoint, 'reason', p_reason,
                                          'limit', p_limit, 'wait_s', round(greatest(p_wait_s, 0.05), 2))::text;
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

-- The slots that a claim should fill while providers are limited or paused: p_slots, less what would only wait.
-- Types that share a provider share the calls it may still get: the next one goes to the type that has the
-- fewest under way. A type counts with what live workers could run of it, so that no room is kept for nobody.
-- An estimate that spares jobs a vain claim; what counts is dreamcut_admit_call.
-- Called by dreamcut_claim_jobs if a provider needs it. Locks: nothing.
create or replace function dreamcut_open_slots(p_worker uuid, p_types text[], p_slots int[]) returns int[]
language sql stable set search_path = public, pg_temp as $$
    with room as (
        select provider.name,
            greatest(case
                when provider.paused_until > clock_timestamp() then 0
                when provider.paused_until is not null then
                    case when dreamcut_is_probing(provider.probe_call, clock_timestamp()) then 0 else 1 end
                else least(
                    dreamcut_effective_concurrency(provider, clock_timestamp()) - (
                        select count(*) from dreamcut_provider_calls call
                        where call.provider = provider.name and call.status in ('intent', 'submitted')
                    ),
                    provider.max_per_minute - (
                        select count(*) from dreamcut_provider_calls call
                        where call.provider = provider.name
                            and call.created_at > now() - interval '1 minute' and call.status <> 'reused'
                    )
                )
            end, 0) as calls
        from dreamcut_providers provider
        where num_nonnulls(provider.max_concurrent, provider.max_per_minute, provider.slowed_at, provider.paused_until) > 0
            -- slowed down, and recovered without a limit of its own: no limit
            and num_nonnulls(dreamcut_effective_concurrency(provider, clock_timestamp()),
                             provider.max_per_minute, provider.paused_until) > 0
    ), served as (
        select lane.type, lane.provider, sum(lane.slots) as slots
        from dreamcut_workers worker
        cross join lateral unnest(worker.types, worker.providers, worker.slots) as lane (type, provider, slots)
        where worker.state = 'live' and worker.lease_expires_at > now()
        group by lane.type, lane.provider
    ), wanting as (
        select served.type, served.provider, busy.calls as busy,
            least(served.slots - busy.calls, ready.jobs)::int as wanted
        from served
        join room on room.name = served.provider
        cross join lateral (
            select count(*) as calls from dreamcut_provider_calls call
            where call.provider = served.provider and call.status in ('intent', 'submitted')
                and call.type = served.type
        ) busy
        cross join lateral (
            select count(*) as jobs
            from (select 1 from dreamcut_jobs job where job.ready and job.type = served.type limit room.calls) job
        ) ready
    ), placed as (
        select wanting.type, wanting.provider,
            row_number() over (partition by wanting.provider order by wanting.busy + nth, random()) as place
        from wanting
        cross join lateral generate_series(1, wanting.wanted) as nth
    ), given as (
        select placed.type, placed.provider, count(*) as slots
        from placed join room on room.name = placed.provider
        where placed.place <= room.calls
        group by placed.type, placed.provider
    )
    select array_agg(
        case when room.name is null then lane.slots else least(lane.slots, coalesce(given.slots, 0))::int end
        order by lane.place
    )
    from unnest(p_types, p_slots) with ordinality as lane (type, slots, place)
    left join (
        select own.type, own.provider
        from dreamcut_workers worker
        cross join lateral unnest(worker.types, worker.providers) as own (type, provider)
        where worker.id = p_worker
    ) mine on mine.type = lane.type
    left join room on room.name = mine.provider
    left join given on given.type = lane.type and given.provider = mine.provider
$$;

-- Set limits of a provider, or with p_endpoint of one of its endpoints. p_limits holds those to change:
-- maxConcurrent, maxPerMinute, and for a provider dailyLimitUsd; null takes a limit away. Takes effect with the
-- next call. Called by operators. Locks: the provider's row.
create or replace function dreamcut_limit_provider(p_provider text, p_limits jsonb, p_endpoint text default null)
returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_unknown text;
begin
    select string_agg(given.key, ', ') into v_unknown
    from jsonb_object_keys(p_limits) as given (key)
    where given.key not in ('maxConcurrent', 'maxPerMinute', 'dailyLimitUsd')
        or (given.key = 'dailyLimitUsd' and p_endpoint is not null);
    if v_unknown is not null then
        raise exception 'no such limit: %', v_unknown
            using errcode = 'invalid_parameter_value',
                  hint = 'Limits are maxConcurrent, maxPerMinute and, for a whole provider, dailyLimitUsd.';
    end if;
    insert into dreamcut_providers (name) values (p_provider) on conflict (name) do nothing;
    if p_endpoint is null then
        update dreamcut_providers provider
        set max_concurrent = case when p_limits ? 'maxConcurrent' then (p_limits ->> 'maxConcurrent')::int
                                  else provider.max_concurrent end,
            max_per_minute = case when p_limits ? 'maxPerMinute' then (p_limits ->> 'maxPerMinute')::int
                                  else provider.max_per_minute end,
            daily_limit_usd = case when p_limits ? 'dailyLimitUsd' then (p_limits ->> 'dailyLimitUsd')::numeric
                                   else provider.daily_limit_usd end,
            updated_at = now()
        where provider.name = p_provider;
    else
        insert into dreamcut_endpoint_limits as limits (provider, endpoint, max_concurrent, max_per_minute)
        values (p_provider, p_endpoint, (p_limits ->> 'maxConcurrent')::int, (p_limits ->> 'maxPerMinute')::int)
        on conflict (provider, endpoint) do update
        set max_concurrent = case when p_limits ? 'maxConcurrent' then excluded.max_concurrent
                                  else limits.max_concurrent end,
            max_per_minute = case when p_limits ? 'maxPerMinute' then excluded.max_per_minute
                                  else limits.max_per_minute end,
            updated_at = now();
        delete from dreamcut_endpoint_limits limits
        where limits.provider = p_provider and limits.endpoint = p_endpoint
            and limits.max_concurrent is null and limits.max_per_minute is null;
    end if;
    perform pg_notify('dreamcut_jobs', '');
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
