-- Limits of providers: what a call is admitted by, and what a claim leaves for later. The breaker's part is in
-- 56_breaker.sql.
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

-- Whether a provider's calls are limited, slowed down or paused, so that jobs may have to wait for it. Without a
-- search_path, as dreamcut_duration_bucket, so that Postgres inlines it: every claim asks.
create or replace function dreamcut_is_limited(p_provider dreamcut_providers) returns boolean
language sql immutable
return p_provider.max_concurrent is not null or p_provider.max_per_minute is not null
    or p_provider.slowed_at is not null or p_provider.paused_until is not null;

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
                        -- The open call of a job that is ready takes no room from the claim of that very job,
                        -- which goes on with it: else a provider at its limit would be closed to those who
                        -- alone can end its calls.
                        select count(*)
                        from dreamcut_provider_calls call
                        left join dreamcut_jobs job on job.id = call.job
                        where call.provider = provider.name
                            and call.status in ('intent', 'submitted')
                            and job.ready is not true
                    ),
                    provider.max_per_minute - (
                        select count(*) from dreamcut_provider_calls call
                        where call.provider = provider.name
                            and call.created_at > now() - interval '1 minute' and call.status <> 'reused'
                    )
                )
            end, 0) as calls
        from dreamcut_providers provider
        where dreamcut_is_limited(provider)
            -- slowed down, and recovered without a limit of its own: no limit
            and num_nonnulls(dreamcut_effective_concurrency(provider, clock_timestamp()),
                             provider.max_per_minute, provider.paused_until) > 0
    ), served as (
        select lane.type, lane.provider, sum(lane.slots) as slots
        from dreamcut_live_lanes lane
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
