-- Retention: what ended long ago leaves the tables that the queue works with. The jobs of a manifest move all
-- together, with their attempts; the manifest's row stays where the producer and its users read it. The ledger
-- (dreamcut_provider_calls) stays too.

-- The ledger outlives jobs, archived or deleted: it keeps their uuids as plain values.
alter table dreamcut_provider_calls drop constraint dreamcut_provider_calls_job_fkey;

-- Since when the manifest's jobs are in the archive.
alter table dreamcut_production_manifest add column archived_at timestamptz;

-- Manifests that ended and are not archived, or not since they ended again.
create index dreamcut_production_manifest_ended_idx on dreamcut_production_manifest (status, completed_at)
    where completed_at is not null and (archived_at is null or archived_at < completed_at);

-- By month of the end of the manifest, or of a job without one. Partitions are made as they are needed, and
-- dropped by dreamcut_prune_archive. Columns that a later migration adds to dreamcut_jobs and that are to be
-- kept have to be added here as well.
create table dreamcut_archived_jobs (
    like dreamcut_jobs,
    ended_at     timestamptz not null,
    archived_at  timestamptz not null default now(),
    primary key (id, ended_at)
)
partition by range (ended_at);

alter table dreamcut_archived_jobs drop column ready, drop column suspect;

create index dreamcut_archived_jobs_manifest_idx on dreamcut_archived_jobs (manifest_id, job_id);
create index dreamcut_archived_jobs_ended_idx on dreamcut_archived_jobs (ended_at);

create table dreamcut_archived_attempts (
    like dreamcut_job_attempts,
    ended_at  timestamptz not null,
    primary key (job, claim, ended_at)
)
partition by range (ended_at);

-- How far the search for jobs without a manifest has come; it goes round and round.
create table dreamcut_archive_position (
    one           boolean primary key default true,
    after_job_id  text not null default '',
    constraint dreamcut_archive_position_one_check check (one)
);

insert into dreamcut_archive_position default values;

-- Autovacuum, table by table. Its defaults wait until a fifth of a table is dead, which suits no queue: what is
-- dead is at the front of every index range that a claim or a view reads. The tables of 0001 to 0003 that changed
-- from the first day have their settings there: jobs, workers, providers, and what monitoring adds up. Tables of a
-- few rows that people change (limits, scaling, endpoint limits, positions) keep the defaults.

-- Written at most three times (intent, request id, outcome) and never again, but it only grows: a fifth of a
-- ledger of years is far too much to wait for. New rows alone also call for a vacuum, which keeps the
-- index-only scans of the limits and of the statistics fast.
alter table dreamcut_provider_calls set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A row appears with every dependency and goes when it is met: nearly all of it is dead most of the time.
alter table dreamcut_job_dependencies set (
    autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0
);

-- open_jobs changes with every batch of outcomes. These updates are HOT and tidied up page by page; what is
-- left for the vacuum are the ends of manifests, in three small indexes.
alter table dreamcut_production_manifest set (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);

-- Only ever inserted, until the archive takes whole ranges away.
alter table dreamcut_job_attempts set (autovacuum_vacuum_scale_factor = 0.05);

-- dreamcut_jobs has its settings since 0001; here, how often its statistics are taken: the share of jobs that
-- are ready or failed goes from nothing to nearly all and back within an hour.
alter table dreamcut_jobs set (autovacuum_analyze_scale_factor = 0.02);

comment on table dreamcut_archived_jobs is 'Jobs that ended long ago, by month.';
comment on table dreamcut_archived_attempts is 'Failed attempts of archived jobs, by month.';
comment on table dreamcut_archive_position is 'How far the search for jobs to archive has come.';
