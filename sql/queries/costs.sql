-- What people ask of the ledger. Amounts are US dollars; see dreamcut_spend for what each of them means.

-- name: costs :many
-- Spend by provider, endpoint, type, day or manifest, of calls that began since a time; the dearest first, days
-- in their order.
select
    case @by::text
        when 'provider' then spend.provider
        when 'endpoint' then spend.provider || ' ' || spend.endpoint
        when 'type' then spend.type
        when 'day' then spend.day::text
        when 'manifest' then coalesce(spend.manifest_id::text, 'no manifest')
    end as key,
    count(*) as calls, sum(spend.spent_usd) as spent_usd, sum(spend.reserved_usd) as reserved_usd,
    sum(spend.uncertain_usd) as uncertain_usd, sum(spend.saved_usd) as saved_usd,
    count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
where @since::timestamptz is null or spend.created_at >= @since::timestamptz
group by key
order by case when @by::text = 'day' then null else sum(spend.spent_usd) end desc nulls last, key;

-- name: manifest_costs :many
-- What each job of a manifest cost, endpoint by endpoint, in the order of the calls.
select spend.job_id, spend.type, spend.provider, spend.endpoint, count(*) as calls,
    sum(spend.spent_usd) as spent_usd, sum(spend.reserved_usd) as reserved_usd,
    sum(spend.uncertain_usd) as uncertain_usd, sum(spend.saved_usd) as saved_usd,
    count(*) filter (where spend.unpriced) as unpriced_calls
from dreamcut_spend spend
where spend.manifest_id = @manifest::uuid
group by spend.job_id, spend.type, spend.provider, spend.endpoint
order by min(spend.created_at);

-- name: manifest_cost_limit :one
-- The manifest's spend limit as it is written, and whether calls of it are refused for it.
select manifest.manifest_json #>> '{metadata,featureFlags,maxTotalCost}' as max_total_cost
from dreamcut_production_manifest manifest
where manifest.id = @manifest::uuid;

-- name: unknown_calls :many
-- Calls of unknown outcome of a manifest, or of all; the newest first.
select id, manifest_id, job_id, provider, endpoint, request_id, at_most_usd, error, created_at
from dreamcut_unknown_calls
where @manifest::uuid is null or manifest_id = @manifest::uuid
order by created_at desc
limit 100;
