-- The tables. All names are the producer's; what the queue adds of its own (in dreamcut_jobs: seq, turn, claims,
-- stalls, unmet_dependencies, error_class, ready, suspect) has a default, so that the producer's inserts stay as they are.

create table dreamcut_schema (
    number      int primary key,
    name        text not null,
    applied_at  timestamptz not null default clock_timestamp()
);

create table dreamcut_schema_functions (
    checksum    text not null,
    release     text not null,
    applied_at  timestamptz not null default clock_timestamp()
);

-- One production. The row is also the lock of its graph of jobs: whatever settles a job of the manifest
-- locks this row first (see functions/10_graph.sql).
create table dreamcut_production_manifest (
    id                     uuid primary key default gen_random_uuid(),
    user_id                uuid,
    manifest_json          jsonb not null,
    status                 text not null default 'planning',
    validation_errors      jsonb,
    business_check_errors  jsonb,
    created_at             timestamptz not null default now(),
    updated_at             timestamptz not null default now(),
    started_at             timestamptz,
    completed_at           timestamptz,
    processing_time_ms     bigint,
    error_message          text,
    retry_count            int not null default 0,
    max_retries            int not null default 3,
    -- The queue's own:
    output_url             text,                    -- the finished video
    open_jobs              int not null default 0,  -- jobs pending or processing
    constraint dreamcut_production_manifest_status_check
        check (status in ('planning', 'ready_to_dispatch', 'rendering', 'done', 'failed')),
    constraint dreamcut_production_manifest_open_jobs_check check (open_jobs >= 0)
)
-- open_jobs changes with every batch of outcomes; free room on the page keeps those updates HOT.
with (fillfactor = 70);

-- The manifests under way, among all that ever were.
create index dreamcut_production_manifest_rendering_idx on dreamcut_production_manifest (id)
    where status = 'rendering';

create index dreamcut_production_manifest_user_idx on dreamcut_production_manifest (user_id, created_at desc);

create table dreamcut_jobs (
    -- What a claim and an outcome change stands at the end, behind what they leave as it is: an update's log record
    -- holds what lies between the first and the last byte that changed, so never the payload.
    id                   uuid primary key default gen_random_uuid(),
    manifest_id          uuid references dreamcut_production_manifest (id) on delete cascade,
    created_at           timestamptz not null default now(),
    seq                  bigint generated always as identity,  -- order of arrival
    -- When it is the job's turn among those of its type and priority: microseconds since 1970 at the insert, and
    -- later for the later jobs of a manifest (functions/20_insert.sql).
    turn                 bigint not null default (date_part('epoch', clock_timestamp()) * 1000000)::bigint,
    priority             int not null default 5,
    max_attempts         int not null default 3,
    job_id               text not null default 'job_' || to_hex((random() * 9007199254740992)::bigint),  -- 2^53
    type                 text not null,
    payload              jsonb not null default '{}',
    depends_on           text[] not null default '{}',
    retry_policy         jsonb not null default '{}',
    tags                 text[],
    metadata             jsonb not null default '{}',
    estimated_cost_usd   numeric,

    status               text not null default 'pending',
    attempts             int not null default 0,    -- counted at the claim
    claims               int not null default 0,    -- numbers the claims; with worker_id the fence of an outcome
    stalls               int not null default 0,    -- how often its worker stopped without a word
    unmet_dependencies   int not null default 0,    -- rows in dreamcut_job_dependencies
    worker_id            uuid,                      -- the incarnation that runs it
    next_retry_at        timestamptz,               -- not before this time; null once it has come
    started_at           timestamptz,
    updated_at           timestamptz not null default now(),
    completed_at         timestamptz,
    processing_time_ms   bigint,
    result               jsonb,
    output_url           text,
    error_class          text,
    error_message        text,
    -- Derived, so that no statement can forget it. It turns false at the claim and stays false when the job
    -- finishes: no index depends on `status`, and finishing a job can be a HOT update.
    ready                boolean not null generated always as
        (status = 'pending' and unmet_dependencies = 0 and next_retry_at is null) stored,
    -- Two workers have died with it: perhaps by it. Once is no sign yet: a machine that fails takes many along.
    suspect              boolean not null generated always as (stalls >= 2) stored,
    constraint dreamcut_jobs_status_check
        check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    constraint dreamcut_jobs_type_check check (type <> ''),
    constraint dreamcut_jobs_max_attempts_check check (max_attempts >= 1),
    constraint dreamcut_jobs_attempts_check check (attempts >= 0),
    constraint dreamcut_jobs_unmet_dependencies_check check (unmet_dependencies >= 0),
    constraint dreamcut_jobs_payload_check check (jsonb_typeof(payload) = 'object'),
    constraint dreamcut_jobs_retry_policy_check check (jsonb_typeof(retry_policy) = 'object'),
    constraint dreamcut_jobs_metadata_check check (jsonb_typeof(metadata) = 'object')
)
with (
    -- Every job's row is updated twice. With half of the page free, both new versions find room beside the old one:
    -- the second update is HOT, and the log holds only what changed.
    fillfactor = 50,
    -- Dead versions must go before the table grows around them.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- The claim's order: one short range of this index for each type. Blocked, delayed, running and finished
-- jobs are not in it, however many there are.
-- ~priority orders as -priority does, and never overflows: with both columns ascending, a claim can go on from
-- where the last one ended by comparing the pair.
create index dreamcut_jobs_ready_idx on dreamcut_jobs (type, (~priority), turn) where ready;

-- The same for those that may have killed their workers; nearly always empty.
create index dreamcut_jobs_suspect_idx on dreamcut_jobs (type, (~priority), turn) where ready and suspect;

-- The producer's names, once in a manifest. Jobs without a manifest need no entry, and every claim would pay for it.
create unique index dreamcut_jobs_manifest_id_job_id_key on dreamcut_jobs (manifest_id, job_id)
    where manifest_id is not null;

-- Delayed jobs by the time when they come due. A claim sets next_retry_at to null before it looks.
create index dreamcut_jobs_delayed_idx on dreamcut_jobs (next_retry_at) where next_retry_at is not null;

-- Failed, cancelled and retrying jobs, for people. A job without errors never enters it.
create index dreamcut_jobs_error_idx on dreamcut_jobs (seq) where error_class is not null;

-- Where the newest jobs lie, and those of a time: a few bytes for each megabyte of the table. Neither column ever
-- changes, and a claim or an outcome adds nothing to it.
create index dreamcut_jobs_newest_idx on dreamcut_jobs using brin (seq, created_at);

-- What a blocked job still waits for: one row for each dependency not yet met, deleted when it is. Keyed by
-- the producer's job_id, because a job may be inserted before the ones that it depends on.
create table dreamcut_job_dependencies (
    job          uuid not null references dreamcut_jobs (id) on delete cascade,
    manifest_id  uuid not null,
    depends_on   text not null,
    cause        uuid,                          -- the job of that name; null while there is none
    primary key (job, depends_on)
);

create index dreamcut_job_dependencies_on_idx on dreamcut_job_dependencies (manifest_id, depends_on);

-- Waits for jobs that do not exist: nearly always none, so nobody has to look for them among those that go on.
create index dreamcut_job_dependencies_missing_idx on dreamcut_job_dependencies (manifest_id, depends_on)
    where cause is null;

-- One row for each incarnation of a worker. The lease of every job that it runs is the lease of this row.
create table dreamcut_workers (
    id                uuid primary key,
    host              text not null,
    pid               int not null,
    version           text not null,
    types             text[] not null,
    slots             int[] not null,           -- beside types
    state             text not null default 'live',
    waits             boolean not null default true,  -- for jobs: false while every claim finds all that it asks for
    active_jobs       int not null default 0,   -- at the last heartbeat
    started_at        timestamptz not null default now(),
    heartbeat_at      timestamptz not null default now(),
    lease_expires_at  timestamptz not null,
    constraint dreamcut_workers_state_check check (state in ('live', 'draining', 'stopped', 'lost'))
)
with (fillfactor = 50, autovacuum_vacuum_threshold = 20, autovacuum_vacuum_scale_factor = 0.1);

-- History of the attempts that did not succeed; the last successful one stands on the job itself.
create table dreamcut_job_attempts (
    job            uuid not null references dreamcut_jobs (id) on delete cascade,
    claim          int not null,
    attempt        int not null,
    worker_id      uuid,
    outcome        text not null,
    error_class    text,
    error_message  text,
    detail         jsonb,                       -- provider, status, traceback
    started_at     timestamptz,
    finished_at    timestamptz not null default now(),
    primary key (job, claim),
    constraint dreamcut_job_attempts_outcome_check check (outcome in ('failed', 'retried', 'released', 'cancelled'))
);

-- One row for each call made to a provider, written before the request goes out. Also the ledger, so it
-- outlives its job.
create table dreamcut_provider_calls (
    id            uuid primary key default gen_random_uuid(),
    job           uuid references dreamcut_jobs (id) on delete set null,
    manifest_id   uuid,
    job_id        text not null,
    claim         int not null,
    worker_id     uuid not null,
    provider      text not null,
    endpoint      text not null,
    step          int not null default 0,       -- place in the fallback chain
    request       jsonb not null default '{}',
    request_id    text,                         -- the provider's, once it accepted the request
    ticket        jsonb not null default '{}',  -- what else is needed to find the request again
    status        text not null default 'intent',
    estimate_usd  numeric,
    cost_usd      numeric,
    error         text,
    detail        jsonb,
    created_at    timestamptz not null default now(),
    submitted_at  timestamptz,
    finished_at   timestamptz,
    constraint dreamcut_provider_calls_status_check
        check (status in ('intent', 'submitted', 'succeeded', 'failed', 'cancelled', 'unknown'))
);

create index dreamcut_provider_calls_job_idx on dreamcut_provider_calls (job, created_at);
create index dreamcut_provider_calls_manifest_idx on dreamcut_provider_calls (manifest_id);

-- Every date and count of these tables is the database's own clock; no worker's clock is ever compared.
comment on table dreamcut_production_manifest is 'One production; the row locks the graph of its jobs.';
comment on table dreamcut_jobs is 'The queue: one row for each job, from pending to its end.';
comment on table dreamcut_job_dependencies is 'What blocked jobs still wait for.';
comment on table dreamcut_workers is 'Incarnations of workers, with the leases of their jobs.';
comment on table dreamcut_job_attempts is 'Attempts that failed, were handed back or cancelled.';
comment on table dreamcut_provider_calls is 'Every paid call: intent, request id, outcome, cost.';
