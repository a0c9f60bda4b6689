-- What has ended: outcomes of jobs and of provider calls, failures, throughput, durations.

-- Outcomes added up, with those of the last minute.
create or replace view dreamcut_outcomes as
select stats.since, stats.minutes, stats.type, stats.provider, stats.outcome, stats.error_class, stats.bucket,
    stats.jobs, stats.run_ms
from dreamcut_job_stats stats
union all
select date_trunc('minute', log.at), 1::smallint, log.type, log.provider, log.outcome, log.error_class,
    log.bucket, log.jobs, log.run_ms
from dreamcut_job_stats_log log;

comment on view dreamcut_outcomes is 'Outcomes of jobs by minute (older ones by hour), type, provider, class and duration bucket.';

-- Calls added up, with those that ended since.
create or replace view dreamcut_call_outcomes as
select stats.since, stats.minutes, stats.provider, stats.endpoint, stats.status, stats.bucket, stats.calls,
    stats.run_ms, stats.cost_usd, stats.unpriced
from dreamcut_call_stats stats
union all
select date_trunc('minute', call.since), 1::smallint, call.provider, call.endpoint, call.status, call.bucket,
    1, call.run_ms, coalesce(call.usd, 0), case when call.usd is null then 1 else 0 end
from dreamcut_ended_calls call
where call.finished_at >= dreamcut_calls_through();

comment on view dreamcut_call_outcomes is 'Provider calls that ended, by minute (older ones by hour), endpoint, status and duration bucket.';

create or replace view dreamcut_failures_by_class as
select seen.error_class, seen.type, seen.provider,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'failed'), 0) as failed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'retried'), 0) as retried,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'cancelled'), 0) as cancelled,
    coalesce(sum(seen.jobs) filter (where seen.minutes = 1 and seen.since >= now() - interval '1 hour'), 0)
        as last_hour
from dreamcut_outcomes seen
where seen.since >= now() - interval '24 hours' and seen.outcome <> 'completed'
group by seen.error_class, seen.type, seen.provider;

comment on view dreamcut_failures_by_class is
    'Attempts of the last 24 hours that did not succeed, by class, type and provider.';

comment on column dreamcut_failures_by_class.error_class is 'Class of the error.';
comment on column dreamcut_failures_by_class.type is 'Job type.';
comment on column dreamcut_failures_by_class.provider is 'The provider that the outcome names; empty if none.';
comment on column dreamcut_failures_by_class.failed is 'Jobs that failed for good.';
comment on column dreamcut_failures_by_class.retried is 'Attempts after which the job runs again.';
comment on column dreamcut_failures_by_class.cancelled is 'Jobs that were cancelled.';
comment on column dreamcut_failures_by_class.last_hour is 'All of these in the last hour.';

create or replace view dreamcut_throughput as
select seen.since as minute, seen.type,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'completed'), 0) as completed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'failed'), 0) as failed,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'retried'), 0) as retried,
    coalesce(sum(seen.jobs) filter (where seen.outcome = 'cancelled'), 0) as cancelled
from dreamcut_outcomes seen
where seen.since >= date_trunc('minute', now()) - interval '60 minutes' and seen.minutes = 1
group by seen.since, seen.type;

comment on view dreamcut_throughput is 'Outcomes in each of the last 60 minutes, by type. A minute without any has no row.';

comment on column dreamcut_throughput.minute is 'The minute''s beginning.';
comment on column dreamcut_throughput.type is 'Job type.';
comment on column dreamcut_throughput.completed is 'Jobs completed.';
comment on column dreamcut_throughput.failed is 'Jobs that failed for good.';
comment on column dreamcut_throughput.retried is 'Attempts after which the job runs again.';
comment on column dreamcut_throughput.cancelled is 'Jobs cancelled.';

create or replace view dreamcut_durations as
with spread as (
    select seen.type, seen.provider, seen.bucket, sum(seen.jobs) as jobs, sum(seen.run_ms) as run_ms
    from dreamcut_outcomes seen
    where seen.since >= now() - interval '24 hours' and seen.outcome = 'completed'
    group by seen.type, seen.provider, seen.bucket
), ranked as (
    select spread.*, round(power(2.0::double precision, spread.bucket / 4.0))::bigint as ms,
        sum(spread.jobs) over (partition by spread.type, spread.provider order by spread.bucket) as below,
        sum(spread.jobs) over (partition by spread.type, spread.provider) as total
    from spread
)
select ranked.type, ranked.provider, max(ranked.total)::bigint as jobs,
    (sum(ranked.run_ms) / sum(ranked.jobs))::bigint as mean_ms,
    min(ranked.ms) filter (where ranked.below >= 0.50 * ranked.total) as p50_ms,
    min(ranked.ms) filter (where ranked.below >= 0.90 * ranked.total) as p90_ms,
    min(ranked.ms) filter (where ranked.below >= 0.95 * ranked.total) as p95_ms,
    min(ranked.ms) filter (where ranked.below >= 0.99 * ranked.total) as p99_ms
from ranked
group by ranked.type, ranked.provider;

comment on view dreamcut_durations is
    'Durations of jobs completed in the last 24 hours by type and provider; percentiles are good to 9 %.';

comment on column dreamcut_durations.type is 'Job type.';
comment on column dreamcut_durations.provider is 'The provider that the result names; empty if none.';
comment on column dreamcut_durations.jobs is 'Completed jobs.';
comment on column dreamcut_durations.mean_ms is 'Mean duration, in milliseconds, from the claim to the end.';
comment on column dreamcut_durations.p50_ms is 'Half of the jobs took no longer; good to 9 %.';
comment on column dreamcut_durations.p90_ms is '90 % took no longer.';
comment on column dreamcut_durations.p95_ms is '95 % took no longer.';
comment on column dreamcut_durations.p99_ms is '99 % took no longer.';
