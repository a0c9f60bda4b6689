-- Where the money goes, and how the providers stand. Amounts are US dollars. They show no more than the caller
-- may read (security_invoker, as in 60_views.sql).

-- The ledger with the amounts of each call sorted by what is known of them: spent (billed, as reported or as
-- estimated), reserved (under way), uncertain (its outcome is not known; it may have been billed), saved (not
-- made, because the same had been made before).
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
    coalesce(call.detail ->> 'unpriced' = 'true', false) as unpriced
from dreamcut_provider_calls call
left join dreamcut_jobs job on job.id = call.job and call.type is null;

comment on view dreamcut_spend is 'Each call with what it cost, reserves, may have cost, or saved, in US dollars.';

create or replace view dreamcut_spend_by_manifest as
select spend.manifest_id, count(*) as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
group by spend.manifest_id;

create or replace view dreamcut_spend_by_provider as
select spend.provider, count(*) as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
group by spend.provider;

create or replace view dreamcut_spend_by_endpoint as
select spend.provider, spend.endpoint, count(*) as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
group by spend.provider, spend.endpoint;

create or replace view dreamcut_spend_by_type as
select spend.type, count(*) as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
group by spend.type;

create or replace view dreamcut_spend_by_day as
select spend.day, count(*) as calls, sum(spend.spent_usd) as spent_usd,
    sum(spend.reserved_usd) as reserved_usd, sum(spend.uncertain_usd) as uncertain_usd,
    sum(spend.saved_usd) as saved_usd, count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
group by spend.day;

comment on view dreamcut_spend_by_manifest is 'Spend by manifest, in US dollars; null: jobs without one.';
comment on view dreamcut_spend_by_provider is 'Spend by provider, in US dollars.';
comment on view dreamcut_spend_by_endpoint is 'Spend by provider and endpoint, in US dollars.';
comment on view dreamcut_spend_by_type is 'Spend by job type, in US dollars.';
comment on view dreamcut_spend_by_day is 'Spend by day (UTC), in US dollars.';

-- Calls whose outcome nobody knows: to be looked up in the provider's own history.
create or replace view dreamcut_unknown_calls as
select call.id, call.manifest_id, call.job, call.job_id, call.provider, call.endpoint, call.request_id,
    coalesce(call.cost_usd, call.estimate_usd) as at_most_usd, call.error, call.created_at, call.finished_at
from dreamcut_provider_calls call
where call.status = 'unknown';

comment on view dreamcut_unknown_calls is 'Calls of unknown outcome, which may have been billed.';

-- How each provider with a row stands now. state: ok, slowed, paused, probing (a pause has passed and its probe is
-- under way, or the next call will be it).
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
    dreamcut_spent_today(provider.name, now()) as today_usd,
    nullif(provider.paused_until, 'infinity') as paused_until,
    provider.paused_at, provider.paused_by, provider.pause_class, provider.pause_reason,
    provider.failures_in_a_row, provider.pauses_in_a_row, provider.updated_at
from dreamcut_providers provider;

comment on view dreamcut_provider_states is 'Providers with limits or trouble: their state, limits, and calls now.';

do $$
declare
    v_view text;
begin
    if current_setting('server_version_num')::int >= 150000 then
        foreach v_view in array array[
            'dreamcut_spend', 'dreamcut_spend_by_manifest', 'dreamcut_spend_by_provider',
            'dreamcut_spend_by_endpoint', 'dreamcut_spend_by_type', 'dreamcut_spend_by_day',
            'dreamcut_unknown_calls', 'dreamcut_provider_states', 'dreamcut_committed_spend'
        ] loop
            execute format('alter view %I set (security_invoker = true)', v_view);
        end loop;
    end if;
end $$;
