-- Providers: how each stands, and its calls.

drop view if exists dreamcut_daily_spend;  -- now dreamcut_spend_totals

-- dreamcut_provider_states (65_money_views.sql, which drops this view with it) for every provider that has been called lately, with its calls.
create or replace view dreamcut_provider_health as
with spread as (
    select seen.provider, seen.bucket, sum(seen.calls) as calls, sum(seen.run_ms) as run_ms,
        coalesce(sum(seen.calls) filter (where seen.status = 'succeeded'), 0) as succeeded,
        coalesce(sum(seen.calls) filter (where seen.status in ('failed', 'unknown')), 0) as failed
    from dreamcut_call_outcomes seen
    where seen.since >= now() - interval '60 minutes' and seen.minutes = 1
    group by seen.provider, seen.bucket
), ranked as (
    select spread.*, round(power(2.0::double precision, spread.bucket / 4.0))::bigint as ms,
        sum(spread.succeeded) over (partition by spread.provider order by spread.bucket) as below,
        sum(spread.succeeded) over (partition by spread.provider) as total
    from spread
), recent as (
    select ranked.provider, sum(ranked.calls) as calls, sum(ranked.succeeded) as succeeded,
        sum(ranked.failed) as failed, (sum(ranked.run_ms) / sum(ranked.calls))::bigint as mean_ms,
        min(ranked.ms) filter (where ranked.below >= 0.50 * ranked.total) as p50_ms,
        min(ranked.ms) filter (where ranked.below >= 0.95 * ranked.total) as p95_ms
    from ranked
    group by ranked.provider
), waiting as (
    select call.provider, count(*) as calls
    from dreamcut_provider_calls call
    where call.status in ('intent', 'submitted')
    group by call.provider
), today as (
    select spend.provider, sum(spend.spent_usd + spend.reserved_usd + spend.uncertain_usd) as usd
    from dreamcut_spend_totals spend
    where spend.day = (now() at time zone 'UTC')::date
    group by spend.provider
), named as (
    select recent.provider as name from recent
    union select waiting.provider from waiting
    union select today.provider from today
    union select known.name from dreamcut_provider_states known
)
select named.name as provider,
    case when known.state <> 'ok' then known.state
         when recent.failed > recent.succeeded then 'failing'
         else 'ok'
    end as state,
    known.paused_until, known.is_paused_until_resumed, known.pause_reason, known.pause_class, known.paused_by,
    known.max_concurrent, known.max_per_minute, known.daily_limit_usd, known.slowed_to,
    coalesce(waiting.calls, 0) as open_calls,
    coalesce(recent.calls, 0)::bigint as calls_1h, coalesce(recent.succeeded, 0)::bigint as succeeded_1h,
    coalesce(recent.failed, 0)::bigint as failed_1h, recent.mean_ms, recent.p50_ms, recent.p95_ms,
    coalesce(today.usd, 0) as spent_today_usd
from named
left join dreamcut_provider_states known on known.name = named.name
left join recent on recent.provider = named.name
left join waiting on waiting.provider = named.name
left join today on today.provider = named.name;

comment on view dreamcut_provider_health is
    'Each provider: whether it is paused or slowed down, its limits, calls under way, and calls of the last hour.';

comment on column dreamcut_provider_health.provider is 'The provider''s name.';
comment on column dreamcut_provider_health.state is
    'paused, probing, slowed (see dreamcut_provider_states), failing (more failures than successes in an hour) or ok.';
comment on column dreamcut_provider_health.paused_until is
    'Until when it is paused; null also where somebody has to resume it.';
comment on column dreamcut_provider_health.is_paused_until_resumed is 'Paused until somebody resumes it.';
comment on column dreamcut_provider_health.pause_reason is 'Why it is paused.';
comment on column dreamcut_provider_health.pause_class is 'The class of error that paused it; null: a person.';
comment on column dreamcut_provider_health.paused_by is 'Who paused it.';
comment on column dreamcut_provider_health.max_concurrent is 'Limit: calls at a time; null: none.';
comment on column dreamcut_provider_health.max_per_minute is 'Limit: calls begun within a minute.';
comment on column dreamcut_provider_health.daily_limit_usd is 'Limit: US dollars in a day (UTC).';
comment on column dreamcut_provider_health.slowed_to is 'Calls at a time when it was slowed down.';
comment on column dreamcut_provider_health.open_calls is 'Calls under way.';
comment on column dreamcut_provider_health.calls_1h is 'Calls that ended in the last hour.';
comment on column dreamcut_provider_health.succeeded_1h is 'Those that succeeded.';
comment on column dreamcut_provider_health.failed_1h is 'Those that failed, or whose outcome is not known.';
comment on column dreamcut_provider_health.mean_ms is 'Mean duration of a call, in milliseconds.';
comment on column dreamcut_provider_health.p50_ms is 'Half of the successful calls took no longer.';
comment on column dreamcut_provider_health.p95_ms is '95 % of them took no longer.';
comment on column dreamcut_provider_health.spent_today_usd is
    'As today_usd of dreamcut_provider_states: what counts against the daily limit.';
