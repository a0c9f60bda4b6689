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
);

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
);

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

-- How many jobs a manifest has; with open_jobs its progress.
alter table dreamcut_production_manifest add column total_jobs int not null default 0;

update dreamcut_production_manifest manifest
set total_jobs = counted.jobs
from (
    select job.manifest_id, count(*) as jobs from dreamcut_jobs job where job.manifest_id is not null group by 1
) counted
where manifest.id = counted.manifest_id;

create index dreamcut_production_manifest_created_idx on dreamcut_production_manifest (created_at desc);

-- The manifests finished last: how long one takes.
create index dreamcut_production_manifest_done_idx on dreamcut_production_manifest (completed_at desc)
    where status = 'done';

comment on table dreamcut_job_stats_log is 'Outcomes of jobs not yet added up; emptied once a minute.';
comment on table dreamcut_job_stats is 'Outcomes and durations of jobs by minute, later by hour.';
comment on table dreamcut_call_stats is 'Ended provider calls, durations and cost by minute, later by hour.';
comment on table dreamcut_stats_position is 'Up to when provider calls have been added up.';
