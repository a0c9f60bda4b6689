-- Where the money goes, and how the providers stand. Amounts are US dollars.

-- The ledger with the amounts of each call sorted by what is known of them: spent (billed, as reported or as
-- estimated), reserved (under way), uncertain (its outcome is not known; it may have been billed), saved (not
-- made, because the same had been made before).
drop view if exists dreamcut_manifest_costs;  -- now columns of dreamcut_spend_by_manifest

create or replace view dreamcut_spend as
select call.id, call.manifest_id, call.job, call.job_id, coalesce(call.type, job.type, 'unknown') as type,
    call.provider, call.endpoint, call.status, call.created_at,
    (call.created_at at time zone 'UTC')::date as day,
    case when call.status in ('succeeded', 'failed', 'cancelled') and call.status <> 'succeeded'
         then coalesce(call.cost_usd, 0)
         when call.status = 'succeeded' then coalesce(call.cost_usd, call.estimate_usd, 0)
         else 0 end as spent_usd,
    case when call.status in ('intent', 'submitted') then coalesce(call.estimate_usd, 0) else 0 end as reserved_usd,
    case when call.status = 'unknown' then coalesce(call.cost_usd, call.estimate_usd, 0) else 0 end as uncertain_usd,
    coalesce(call.saved_usd, 0) as saved_usd,
    coalesce(call.detail ->> 'unpriced' = 'true', false) as unpriced,
    call.finished_at
from dreamcut_provider_calls call
left join dreamcut_jobs job on job.id = call.job and call.type is null;

comment on view dreamcut_spend is
    'Each call with what it cost, reserves, may have cost, or saved, in US dollars. A row for each call: ask with a condition.';

-- What is not added up yet: calls under way, and those that ended within the last minutes.
create or replace view dreamcut_recent_spend as
select spend.*
from dreamcut_spend spend
where spend.status in ('intent', 'submitted')
union all
select spend.*
from dreamcut_spend spend
where spend.finished_at >= dreamcut_calls_through() and spend.status not in ('intent', 'submitted');

comment on view dreamcut_recent_spend is 'As dreamcut_spend: calls under way, and those that ended since calls were last added up.';

-- All the money by the day (UTC) on which its calls began. Added up as calls end; what is not yet is counted.
create or replace view dreamcut_spend_totals as
select stats.day, stats.provider, stats.endpoint, stats.type, stats.calls, stats.spent_usd,
    0::numeric as reserved_usd, stats.uncertain_usd, stats.saved_usd, stats.unpriced as unpriced_calls
from dreamcut_spend_stats stats
union all
select recent.day, recent.provider, recent.endpoint, recent.type, 1, recent.spent_usd, recent.reserved_usd,
    recent.uncertain_usd, recent.saved_usd, case when recent.unpriced then 1 else 0 end
from dreamcut_recent_spend recent;

comment on view dreamcut_spend_totals is
    'What the views of spend add up: sums by day, provider, endpoint and type, and the latest calls one by one.';

-- Those sums that have a recent call, and those that have none: adding up amounts of all manifests would take most
-- of the time.
create or replace view dreamcut_spend_by_manifest as
select stats.manifest_id, stats.calls, stats.spent_usd, 0::numeric as reserved_usd, stats.uncertain_usd,
    stats.saved_usd, stats.unpriced as unpriced_calls, 0::bigint as open_calls, stats.unknown as unknown_calls
from dreamcut_manifest_spend stats
where stats.manifest_id <> '00000000-0000-0000-0000-000000000000'
    and not exists (select 1 from dreamcut_recent_spend recent where recent.manifest_id = stats.manifest_id)
union all
select recent.manifest_id, recent.calls + coalesce(stats.calls, 0), recent.spent_usd + coalesce(stats.spent_usd, 0),
    recent.reserved_usd, recent.uncertain_usd + coalesce(stats.uncertain_usd, 0),
    recent.saved_usd + coalesce(stats.saved_usd, 0), recent.unpriced_calls + coalesce(stats.unpriced, 0),
    recent.open_calls, recent.unknown_calls + coalesce(stats.unknown, 0)
from (
    select latest.manifest_id, count(*) as calls, sum(latest.spent_usd) as spent_usd,
        sum(latest.reserved_usd) as reserved_usd, sum(latest.uncertain_usd) as uncertain_usd,
        sum(latest.saved_usd) as saved_usd, count(*) filter (where latest.unpriced) as unpriced_calls,
        count(*) filter (where latest.status in ('intent', 'submitted')) as open_calls,
        count(*) filter (where latest.status = 'unknown') as unknown_calls
    from dreamcut_recent_spend latest
    where latest.manifest_id is not null
    group by latest.manifest_id
) recent
left join dreamcut_manifest_spend stats on stats.manifest_id = recent.manifest_id
union all
select null, sum(single.calls)::bigint, sum(single.spent_usd), sum(single.reserved_usd), sum(single.uncertain_usd),
    sum(single.saved_usd), sum(single.unpriced)::bigint, sum(single.open)::bigint, sum(single.unknown)::bigint
from (
    select stats.calls, stats.spent_usd, 0 as reserved_usd, stats.uncertain_usd, stats.saved_usd, stats.unpriced,
        0 as open, stats.unknown
    from dreamcut_manifest_spend stats
    where stats.manifest_id = '00000000-0000-0000-0000-000000000000'
    union all
    select 1, latest.spent_usd, latest.reserved_usd, latest.uncertain_usd, latest.saved_usd, latest.unpriced::int,
        (latest.status in ('intent', 'submitted'))::int, (latest.status = 'unknown')::int
    from dreamcut_recent_spend latest
    where latest.manifest_id is null
) single
having count(*) > 0;

create or replace view dreamcut_spend_by_provider as
select spend.provider, sum(spend.calls)::bigint as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, sum(spend.unpriced_calls)::bigint as unpriced_calls
from dreamcut_spend_totals spend
group by spend.provider;

create or replace view dreamcut_spend_by_endpoint as
select spend.provider, spend.endpoint, sum(spend.calls)::bigint as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, sum(spend.unpriced_calls)::bigint as unpriced_calls
from dreamcut_spend_totals spend
group by spend.provider, spend.endpoint;

create or replace view dreamcut_spend_by_type as
select spend.type, sum(spend.calls)::bigint as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, sum(spend.unpriced_calls)::bigint as unpriced_calls
from dreamcut_spend_totals spend
group by spend.type;

create or replace view dreamcut_spend_by_day as
select spend.day, sum(spend.calls)::bigint as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, sum(spend.unpriced_calls)::bigint as unpriced_calls
from dreamcut_spend_totals spend
group by spend.day;

comment on view dreamcut_spend_by_manifest is
    'Spend by manifest, in US dollars, with open calls and those of unknown outcome; null: jobs without a manifest.';
comment on view dreamcut_spend_by_provider is 'Spend by provider, in US dollars.';
comment on view dreamcut_spend_by_endpoint is 'Spend by provider and endpoint, in US dollars.';
comment on view dreamcut_spend_by_type is 'Spend by job type, in US dollars.';
comment on view dreamcut_spend_by_day is 'Spend by the day (UTC) on which the calls began, in US dollars.';

comment on column dreamcut_spend_by_manifest.manifest_id is 'The manifest''s uuid; null for jobs without one.';
comment on column dreamcut_spend_by_manifest.calls is 'Calls, those included that are under way or were not made.';
comment on column dreamcut_spend_by_manifest.spent_usd is 'Billed, as reported or, where nothing is, as estimated.';
comment on column dreamcut_spend_by_manifest.reserved_usd is 'Estimates of calls under way.';
comment on column dreamcut_spend_by_manifest.uncertain_usd is 'What calls of unknown outcome may have cost.';
comment on column dreamcut_spend_by_manifest.saved_usd is 'What was not paid, because the same had been made before.';
comment on column dreamcut_spend_by_manifest.unpriced_calls is 'Calls whose price nobody knows.';
comment on column dreamcut_spend_by_manifest.open_calls is 'Calls under way.';
comment on column dreamcut_spend_by_manifest.unknown_calls is 'Calls of unknown outcome.';

comment on column dreamcut_spend_by_provider.provider is 'The provider''s name.';
comment on column dreamcut_spend_by_provider.calls is 'Calls, those included that are under way or were not made.';
comment on column dreamcut_spend_by_provider.spent_usd is 'Billed, as reported or, where nothing is, as estimated.';
comment on column dreamcut_spend_by_provider.reserved_usd is 'Estimates of calls under way.';
comment on column dreamcut_spend_by_provider.uncertain_usd is 'What calls of unknown outcome may have cost.';
comment on column dreamcut_spend_by_provider.saved_usd is 'What was not paid, because the same had been made before.';
comment on column dreamcut_spend_by_provider.unpriced_calls is 'Calls whose price nobody knows.';

comment on column dreamcut_spend_by_endpoint.provider is 'The provider''s name.';
comment on column dreamcut_spend_by_endpoint.endpoint is 'Its endpoint.';
comment on column dreamcut_spend_by_endpoint.calls is 'Calls, those included that are under way or were not made.';
comment on column dreamcut_spend_by_endpoint.spent_usd is 'Billed, as reported or, where nothing is, as estimated.';
comment on column dreamcut_spend_by_endpoint.reserved_usd is 'Estimates of calls under way.';
comment on column dreamcut_spend_by_endpoint.uncertain_usd is 'What calls of unknown outcome may have cost.';
comment on column dreamcut_spend_by_endpoint.saved_usd is 'What was not paid, because the same had been made before.';
comment on column dreamcut_spend_by_endpoint.unpriced_calls is 'Calls whose price nobody knows.';

comment on column dreamcut_spend_by_type.type is 'Job type.';
comment on column dreamcut_spend_by_type.calls is 'Calls, those included that are under way or were not made.';
comment on column dreamcut_spend_by_type.spent_usd is 'Billed, as reported or, where nothing is, as estimated.';
comment on column dreamcut_spend_by_type.reserved_usd is 'Estimates of calls under way.';
comment on column dreamcut_spend_by_type.uncertain_usd is 'What calls of unknown outcome may have cost.';
comment on column dreamcut_spend_by_type.saved_usd is 'What was not paid, because the same had been made before.';
comment on column dreamcut_spend_by_type.unpriced_calls is 'Calls whose price nobody knows.';

comment on column dreamcut_spend_by_day.day is 'The day (UTC) on which the calls began.';
comment on column dreamcut_spend_by_day.calls is 'Calls, those included that are under way or were not made.';
comment on column dreamcut_spend_by_day.spent_usd is 'Billed, as reported or, where nothing is, as estimated.';
comment on column dreamcut_spend_by_day.reserved_usd is 'Estimates of calls under way.';
comment on column dreamcut_spend_by_day.uncertain_usd is 'What calls of unknown outcome may have cost.';
comment on column dreamcut_spend_by_day.saved_usd is 'What was not paid, because the same had been made before.';
comment on column dreamcut_spend_by_day.unpriced_calls is 'Calls whose price nobody knows.';

-- Calls whose outcome nobody knows: to be looked up in the provider's own history.
create or replace view dreamcut_unknown_calls as
select call.id, call.manifest_id, call.job, call.job_id, call.provider, call.endpoint, call.request_id,
    coalesce(call.cost_usd, call.estimate_usd) as at_most_usd, call.error, call.created_at, call.finished_at
from dreamcut_provider_calls call
where call.status = 'unknown';

comment on view dreamcut_unknown_calls is 'Calls of unknown outcome, which may have been billed.';

-- How each provider with a row stands now. state: ok, slowed, paused, probing (a pause has passed and its probe is
-- under way, or the next call will be it).
drop view if exists dreamcut_provider_health, dreamcut_provider_states;  -- the first stands on the second
create or replace view dreamcut_provider_states as
select provider.name,
    case
        when provider.paused_until > clock_timestamp() then 'paused'
        when provider.paused_until is not null then 'probing'
        when provider.slowed_at is not null
            and dreamcut_effective_concurrency(provider, clock_timestamp()) is distinct from provider.max_concurrent
            then 'slowed'
        else 'ok'
    end as state,
    provider.max_concurrent, provider.max_per_minute, provider.daily_limit_usd,
    dreamcut_effective_concurrency(provider, clock_timestamp()) as concurrent_now,
    (
        select count(*) from dreamcut_provider_calls call
        where call.provider = provider.name and call.status in ('intent', 'submitted')
    ) as open_calls,
    (
        select count(*) from dreamcut_provider_calls call
        where call.provider = provider.name and call.created_at > now() - interval '1 minute'
            and call.status <> 'reused'
    ) as calls_last_minute,
    (
        select coalesce(sum(spend.spent_usd + spend.reserved_usd + spend.uncertain_usd), 0)
        from dreamcut_spend_totals spend
        where spend.provider = provider.name and spend.day = (now() at time zone 'UTC')::date
    ) as today_usd,
    nullif(provider.paused_until, 'infinity') as paused_until,
    provider.paused_at, provider.paused_by, provider.pause_class, provider.pause_reason,
    provider.failures_in_a_row, provider.pauses_in_a_row, provider.updated_at, provider.slowed_to,
    coalesce(provider.paused_until = 'infinity', false) as is_paused_until_resumed
from dreamcut_providers provider;

comment on view dreamcut_provider_states is 'Providers with limits or trouble: their state, limits, and calls now.';
