-- Providers: limits for all workers together, the circuit breaker, and what the ledger needs for spend limits
-- and for the reuse of assets.

-- A row for each provider that has a limit, or had trouble. A provider without a row has no limit, and a call to
-- it asks for nothing here.
create table dreamcut_providers (
    name               text primary key,
    max_concurrent     int,                     -- calls at a time; null: no limit
    max_per_minute     int,                     -- calls begun within a minute
    daily_limit_usd    numeric,                 -- for a day in UTC
    -- After a 429: so many calls at a time since slowed_at, and one more for each minute since. Without
    -- max_concurrent it is over when slowed_from is reached again.
    slowed_to          int,
    slowed_from        int,
    slowed_at          timestamptz,
    -- The breaker is open while paused_until is set, also when that time has passed: then one call (the probe)
    -- may go out, and its outcome closes the breaker or opens it for longer. 'infinity': until resumed.
    paused_until       timestamptz,
    paused_at          timestamptz,
    paused_by          text,
    pause_class        text,                    -- the class of error that opened it; null: a person
    pause_reason       text,
    failures_in_a_row  int not null default 0,
    pauses_in_a_row    int not null default 0,
    probe_call         uuid,
    updated_at         timestamptz not null default now(),
    constraint dreamcut_providers_name_check check (name <> ''),
    constraint dreamcut_providers_max_concurrent_check check (max_concurrent >= 1),
    constraint dreamcut_providers_max_per_minute_check check (max_per_minute >= 1),
    constraint dreamcut_providers_daily_limit_usd_check check (daily_limit_usd >= 0 and daily_limit_usd < 'NaN'),
    constraint dreamcut_providers_slowed_to_check check (slowed_to >= 1)
)
with (fillfactor = 50, autovacuum_vacuum_threshold = 20, autovacuum_vacuum_scale_factor = 0.1);

-- Limits of single endpoints, within those of their provider.
create table dreamcut_endpoint_limits (
    provider        text not null references dreamcut_providers (name),
    endpoint        text not null,
    max_concurrent  int,
    max_per_minute  int,
    updated_at      timestamptz not null default now(),
    primary key (provider, endpoint),
    constraint dreamcut_endpoint_limits_endpoint_check check (endpoint <> ''),
    constraint dreamcut_endpoint_limits_max_concurrent_check check (max_concurrent >= 1),
    constraint dreamcut_endpoint_limits_max_per_minute_check check (max_per_minute >= 1)
);

alter table dreamcut_provider_calls
    add column type text,                       -- the job's, for the ledger: it outlives the job
    add column request_hash text,               -- of endpoint and canonical input; equal ones make the same thing
    add column reused_from uuid,                -- for a call that was not made: the job that had made the asset
    add column saved_usd numeric,               -- what it would have cost
    drop constraint dreamcut_provider_calls_status_check,
    add constraint dreamcut_provider_calls_status_check
        check (status in ('intent', 'submitted', 'succeeded', 'failed', 'cancelled', 'unknown', 'reused'));

-- Calls under way, to count them; a few rows whatever the history.
create index dreamcut_provider_calls_open_idx on dreamcut_provider_calls (provider, endpoint)
    where status in ('intent', 'submitted');

-- What began within the last minute, or today.
create index dreamcut_provider_calls_begun_idx on dreamcut_provider_calls (provider, created_at);

-- Calls of unknown outcome: a few in the whole ledger, which people look up.
create index dreamcut_provider_calls_unknown_idx on dreamcut_provider_calls (created_at)
    where status = 'unknown';

-- What has been made before.
create index dreamcut_provider_calls_made_idx on dreamcut_provider_calls (request_hash)
    where status = 'succeeded';

-- The provider that a type calls first, beside dreamcut_workers.types; '' for one that calls none.
alter table dreamcut_workers add column providers text[] not null default '{}';

comment on table dreamcut_providers is 'Limits of providers, and those that are slowed down or paused.';
comment on table dreamcut_endpoint_limits is 'Limits of single endpoints of a provider.';
