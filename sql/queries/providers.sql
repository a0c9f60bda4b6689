-- What people ask about providers, and of them.

-- name: provider_states :many
-- Providers that have limits or trouble. What is spent today counts calls under way with their estimates.
select name, state, max_concurrent, max_per_minute, daily_limit_usd, concurrent_now, open_calls,
    calls_last_minute, today_usd, paused_until, paused_at, paused_by, pause_class, pause_reason,
    failures_in_a_row, updated_at
from dreamcut_provider_states
order by name;

-- name: endpoint_limits :many
select limits.provider, limits.endpoint, limits.max_concurrent, limits.max_per_minute,
    (
        select count(*) from dreamcut_provider_calls call
        where call.provider = limits.provider and call.endpoint = limits.endpoint
            and call.status in ('intent', 'submitted')
    ) as open_calls
from dreamcut_endpoint_limits limits
order by limits.provider, limits.endpoint;

-- name: limit_provider :exec
select dreamcut_limit_provider(@provider::text, @limits::jsonb, @endpoint::text);

-- name: pause_provider :exec
select dreamcut_pause_provider(@provider::text, coalesce(@until::timestamptz, 'infinity'), @reason::text, @by::text);

-- name: resume_provider :scalar
select dreamcut_resume_provider(@provider::text);
