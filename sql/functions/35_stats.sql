-- Adding up what happens, so that monitoring never counts the table of jobs.

-- The class of a duration: four to each doubling. Without a search_path, which would keep Postgres from inlining it:
-- a body that is no string is bound to what it names when it is made.
create or replace function dreamcut_duration_bucket(p_ms double precision) returns smallint
language sql immutable
return round(4 * ln(greatest(p_ms, 1)) / ln(2.0::double precision))::smallint;

-- Provider calls that have ended, as they are added up.
create or replace view dreamcut_ended_calls as
select call.finished_at, call.finished_at as since, call.provider, call.endpoint, call.status,
    dreamcut_duration_bucket(span.ms) as bucket,
    greatest(span.ms, 0)::bigint as run_ms,
    case when call.status in ('submitted', 'succeeded', 'unknown') then coalesce(call.cost_usd, call.estimate_usd)
         else coalesce(call.cost_usd, 0) end as usd
from dreamcut_provider_calls call
cross join lateral (
    select extract(epoch from call.finished_at - call.created_at)::double precision * 1000 as ms
) span
where call.finished_at is not null;

comment on view dreamcut_ended_calls is 'Provider calls that have ended: duration, its bucket, and what they count as in US dollars.';

-- Up to when provider calls have been added up. A function and no subquery, because the planner asks it first: it
-- then knows how few calls have ended since, and uses their index.
create or replace function dreamcut_calls_through() returns timestamptz
language sql stable set search_path = public, pg_temp as $$
    select place.calls_through from dreamcut_stats_position place
$$;

-- Note the outcomes of a batch of jobs, given as arrays side by side; null arrays mean none.
-- Called once for each batch by the functions that end or retry jobs, in their transaction (dreamcut_complete_jobs,
-- the hot one, does it itself). Locks nothing: it only appends, and waits for nobody. Providers and classes may be null.
create or replace function dreamcut_note_outcomes(
    p_types text[], p_providers text[], p_outcomes text[], p_classes text[], p_run_ms bigint[]
) returns void
language plpgsql set search_path = public, pg_temp as $$  -- which keeps its plan; an SQL function is planned each time
begin
    insert into dreamcut_job_stats_log (type, provider, outcome, error_class, bucket, jobs, run_ms)
    select ended.type, coalesce(ended.provider, ''), ended.outcome, coalesce(ended.class, ''),
        dreamcut_duration_bucket(coalesce(ended.run_ms, 0)) as bucket,
        count(*), sum(greatest(coalesce(ended.run_ms, 0), 0))
    from unnest(p_types, p_providers, p_outcomes, p_classes, p_run_ms)
        as ended (type, provider, outcome, class, run_ms)
    group by 1, 2, 3, 4, 5;
end $$;

-- Add up: the outcomes noted since the last time, the provider calls that ended since with what they cost, and
-- minutes that are old enough into hours. What is older than 90 days goes; what was spent stays for good.
-- Called by dreamcut_reconcile, so by each worker about once a minute. One at a time; the others pass.
-- Locks: the rows that it moves, which nobody else touches.
create or replace function dreamcut_roll_up() returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_from timestamptz;
    -- A call that has just ended may stand in a transaction still open; a minute is far longer than any is.
    v_to constant timestamptz := date_trunc('minute', now() - interval '1 minute');
    v_hour constant timestamptz := date_trunc('hour', now() - interval '2 hours');
begin
    if not pg_try_advisory_xact_lock(hashtext('dreamcut_roll_up')) then
        return;
    end if;
    with noted as (
        delete from dreamcut_job_stats_log log returning log.*
    )
    insert into dreamcut_job_stats as stats
        (since, minutes, type, provider, outcome, error_class, bucket, jobs, run_ms)
    select date_trunc('minute', noted.at), 1, noted.type, noted.provider, noted.outcome, noted.error_class,
        noted.bucket, sum(noted.jobs), sum(noted.run_ms)
    from noted
    group by 1, 2, 3, 4, 5, 6, 7
    on conflict (since, minutes, type, provider, outcome, error_class, bucket)
    do update set jobs = stats.jobs + excluded.jobs, run_ms = stats.run_ms + excluded.run_ms;

    select place.calls_through into v_from from dreamcut_stats_position place for update;
    if v_to > v_from then
        insert into dreamcut_call_stats as stats
            (since, minutes, provider, endpoint, status, bucket, calls, run_ms, cost_usd, unpriced)
        select date_trunc('minute', call.since), 1, call.provider, call.endpoint, call.status, call.bucket,
            count(*), sum(call.run_ms), sum(coalesce(call.usd, 0)), count(*) filter (where call.usd is null)
        from dreamcut_ended_calls call
        where call.finished_at >= v_from and call.finished_at < v_to
        group by 1, 2, 3, 4, 5, 6
        on conflict (since, minutes, provider, endpoint, status, bucket)
        do update set calls = stats.calls + excluded.calls, run_ms = stats.run_ms + excluded.run_ms,
            cost_usd = stats.cost_usd + excluded.cost_usd, unpriced = stats.unpriced + excluded.unpriced;

        insert into dreamcut_spend_stats as stats
            (day, provider, endpoint, type, calls, spent_usd, uncertain_usd, saved_usd, unpriced)
        select spend.day, spend.provider, spend.endpoint, spend.type, count(*), sum(spend.spent_usd),
            sum(spend.uncertain_usd), sum(spend.saved_usd), count(*) filter (where spend.unpriced)
        from dreamcut_spend spend
        where spend.finished_at >= v_from and spend.finished_at < v_to
        group by 1, 2, 3, 4
        on conflict (day, provider, endpoint, type)
        do update set calls = stats.calls + excluded.calls, spent_usd = stats.spent_usd + excluded.spent_usd,
            uncertain_usd = stats.uncertain_usd + excluded.uncertain_usd,
            saved_usd = stats.saved_usd + excluded.saved_usd, unpriced = stats.unpriced + excluded.unpriced;

        insert into dreamcut_manifest_spend as stats
            (manifest_id, calls, spent_usd, uncertain_usd, saved_usd, unpriced, unknown)
        select coalesce(spend.manifest_id, '00000000-0000-0000-0000-000000000000'), count(*), sum(spend.spent_usd),
            sum(spend.uncertain_usd), sum(spend.saved_usd),
            count(*) filter (where spend.unpriced), count(*) filter (where spend.status = 'unknown')
        from dreamcut_spend spend
        where spend.finished_at >= v_from and spend.finished_at < v_to
        group by 1
        on conflict (manifest_id)
        do update set calls = stats.calls + excluded.calls, spent_usd = stats.spent_usd + excluded.spent_usd,
            uncertain_usd = stats.uncertain_usd + excluded.uncertain_usd,
            saved_usd = stats.saved_usd + excluded.saved_usd, unpriced = stats.unpriced + excluded.unpriced,
            unknown = stats.unknown + excluded.unknown;

        update dreamcut_stats_position place set calls_through = v_to;
    end if;

    with old as (
        delete from dreamcut_job_stats stats where stats.minutes = 1 and stats.since < v_hour returning stats.*
    )
    insert into dreamcut_job_stats as stats
        (since, minutes, type, provider, outcome, error_class, bucket, jobs, run_ms)
    select date_trunc('hour', old.since), 60, old.type, old.provider, old.outcome, old.error_class, old.bucket,
        sum(old.jobs), sum(old.run_ms)
    from old
    group by 1, 2, 3, 4, 5, 6, 7
    on conflict (since, minutes, type, provider, outcome, error_class, bucket)
    do update set jobs = stats.jobs + excluded.jobs, run_ms = stats.run_ms + excluded.run_ms;

    with old as (
        delete from dreamcut_call_stats stats where stats.minutes = 1 and stats.since < v_hour returning stats.*
    )
    insert into dreamcut_call_stats as stats
        (since, minutes, provider, endpoint, status, bucket, calls, run_ms, cost_usd, unpriced)
    select date_trunc('hour', old.since), 60, old.provider, old.endpoint, old.status, old.bucket,
        sum(old.calls), sum(old.run_ms), sum(old.cost_usd), sum(old.unpriced)
    from old
    group by 1, 2, 3, 4, 5, 6
    on conflict (since, minutes, provider, endpoint, status, bucket)
    do update set calls = stats.calls + excluded.calls, run_ms = stats.run_ms + excluded.run_ms,
        cost_usd = stats.cost_usd + excluded.cost_usd, unpriced = stats.unpriced + excluded.unpriced;

    delete from dreamcut_job_stats stats where stats.since < now() - interval '90 days';
    delete from dreamcut_call_stats stats where stats.since < now() - interval '90 days';
end $$;
