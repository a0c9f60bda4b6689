-- What monitoring needs, so that no view ever counts the whole table of jobs: outcomes and provider calls are
-- added up as they happen, and what is open has small partial indexes. No index here covers a column that
-- changes when a job is claimed or completed; finishing a job stays a HOT update.

-- Outcomes as the workers report them: a row for each batch, type, provider, outcome, class and duration.
-- Only ever appended to, so that workers never wait for each other; dreamcut_roll_up empties it once a minute.
create table dreamcut_job_stats_log (
    at           timestamptz not null default now(),
    type         text not null,
    provider     text not null,
    outcome      text not null,
    error_class  text not null,
    bucket       smallint not null,
    jobs         int not null,
    run_ms       bigint not null
)
with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

-- The same, added up by minute; what is older than some hours, by hour.
create table dreamcut_job_stats (
    since        timestamptz not null,
    minutes      smallint not null,             -- 1 or 60: the time that the row covers
    type         text not null,
    provider     text not null,                 -- '' if the outcome names none
    outcome      text not null,
    error_class  text not null,                 -- '' for completed jobs
    bucket       smallint not null,             -- round(4 * log2(milliseconds)): durations to within 9 %
    jobs         int not null,
    run_ms       bigint not null,
    primary key (since, minutes, type, provider, outcome, error_class, bucket),
    constraint dreamcut_job_stats_minutes_check check (minutes in (1, 60)),
    constraint dreamcut_job_stats_outcome_check check (outcome in ('completed', 'retried', 'failed', 'cancelled'))
)
-- Every hour the minutes of an hour go, sixty rows for one that stays: the views read the range that they leave.
with (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02);

-- Calls to providers that have ended, by minute and later by hour. dreamcut_roll_up reads them off their index.
create table dreamcut_call_stats (
    since     timestamptz not null,
    minutes   smallint not null,
    provider  text not null,
    endpoint  text not null,
    status    text not null,
    bucket    smallint not null,
    calls     int not null,
    run_ms    bigint not null,
    cost_usd  numeric not null,                 -- a call without a reported cost counts with its estimate
    unpriced  int not null,                     -- calls with neither
    primary key (since, minutes, provider, endpoint, status, bucket),
    constraint dreamcut_call_stats_minutes_check check (minutes in (1, 60))
)
with (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02);  -- as dreamcut_job_stats

-- What ended calls cost, for good: by the day (UTC) on which they began. A few rows for each day.
create table dreamcut_spend_stats (
    day            date not null,
    provider       text not null,
    endpoint       text not null,
    type           text not null,
    calls          bigint not null,
    spent_usd      numeric not null,
    uncertain_usd  numeric not null,
    saved_usd      numeric not null,
    unpriced       bigint not null,             -- calls whose price nobody knows
    primary key (day, provider, endpoint, type)
)
-- The rows of today change once a minute; with free room on their page those updates are HOT.
with (fillfactor = 70, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.05);

-- The same by manifest. Not columns of the manifest, because the end of a call would then wait for its lock.
create table dreamcut_manifest_spend (
    manifest_id    uuid primary key,            -- all zeros: jobs without a manifest
    calls          bigint not null,
    spent_usd      numeric not null,
    uncertain_usd  numeric not null,
    saved_usd      numeric not null,
    unpriced       bigint not null,
    unknown        bigint not null              -- calls of unknown outcome
)
-- A row changes in each minute in which calls of its manifest end, and never again once that is over.
with (fillfactor = 80, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02);

-- Up to when provider calls have been added up.
create table dreamcut_stats_position (
    one            boolean primary key default true,
    calls_through  timestamptz not null default '-infinity',
    constraint dreamcut_stats_position_one_check check (one)
);

insert into dreamcut_stats_position default values;

create index dreamcut_provider_calls_finished_idx on dreamcut_provider_calls (finished_at)
    where finished_at is not null;

-- Jobs that wait for others. error_class keeps those out that were cancelled while they waited.
create index dreamcut_jobs_blocked_idx on dreamcut_jobs (type, seq)
    where unmet_dependencies > 0 and error_class is null;

-- As before, the delayed jobs by the time when they come due; what counting them needs now stands beside it.
create index dreamcut_jobs_delayed_new_idx on dreamcut_jobs (next_retry_at) include (type, unmet_dependencies)
    where next_retry_at is not null;
drop index dreamcut_jobs_delayed_idx;
alter index dreamcut_jobs_delayed_new_idx rename to dreamcut_jobs_delayed_idx;

-- What a worker held at its last heartbeat: finds running jobs without an index that every claim would pay for.
alter table dreamcut_workers add column held uuid[] not null default '{}';

-- How many jobs a manifest has, and how they ended: with open_jobs its progress. They change together with
-- open_jobs, in the same HOT update, so that no view counts jobs.
alter table dreamcut_production_manifest
    add column total_jobs int not null default 0,
    add column completed_jobs int not null default 0,
    add column failed_jobs int not null default 0,
    add column cancelled_jobs int not null default 0,
    add constraint dreamcut_production_manifest_jobs_check
        check (least(total_jobs, completed_jobs, failed_jobs, cancelled_jobs) >= 0);

update dreamcut_production_manifest manifest
set total_jobs = counted.jobs,
    completed_jobs = counted.completed,
    failed_jobs = counted.failed,
    cancelled_jobs = counted.cancelled
from (
    select job.manifest_id, count(*) as jobs,
        count(*) filter (where job.status = 'completed') as completed,
        count(*) filter (where job.status = 'failed') as failed,
        count(*) filter (where job.status = 'cancelled') as cancelled
    from dreamcut_jobs job
    where job.manifest_id is not null
    group by 1
) counted
where manifest.id = counted.manifest_id;

create index dreamcut_production_manifest_created_idx on dreamcut_production_manifest (created_at desc);

-- The manifests finished last: how long one takes.
create index dreamcut_production_manifest_done_idx on dreamcut_production_manifest (completed_at desc)
    where status = 'done';

comment on table dreamcut_job_stats_log is 'Outcomes of jobs not yet added up; emptied once a minute.';
comment on table dreamcut_job_stats is 'Outcomes and durations of jobs by minute, later by hour.';
comment on table dreamcut_call_stats is 'Ended provider calls, durations and cost by minute, later by hour.';
comment on table dreamcut_spend_stats is 'What ended provider calls cost, by day, endpoint and job type.';
comment on table dreamcut_manifest_spend is 'What ended provider calls cost, by manifest.';
comment on table dreamcut_stats_position is 'Up to when provider calls have been added up.';
