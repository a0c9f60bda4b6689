-- What `dreamcuts bench` and benchmarks/ ask of a database of their own.

-- name: bench_insert :exec
-- One statement for many jobs, as a producer inserts them; the types take turns.
insert into dreamcut_jobs (type, payload)
select (@types::text[])[1 + number % cardinality(@types::text[])], '{}'
from generate_series(1, @jobs::int) as number;

-- name: bench_unfinished :scalar
select count(*) from dreamcut_jobs job where job.status in ('pending', 'processing');

-- name: bench_drained :one
-- Jobs that ended, and the seconds from the first claim to the last batch of outcomes.
select
    count(*) as jobs,
    extract(epoch from max(job.completed_at) - min(job.started_at))::float8 as seconds
from dreamcut_jobs job
where job.status = 'completed';

-- name: bench_pickup :one
-- Milliseconds from just before the insert to the start of the job.
select
    count(*) as jobs,
    percentile_cont(0.50) within group (order by waited.ms) as p50,
    percentile_cont(0.95) within group (order by waited.ms) as p95,
    percentile_cont(0.99) within group (order by waited.ms) as p99
from (
    select (job.result ->> 'waitedMs')::float8 as ms
    from dreamcut_jobs job
    where job.status = 'completed' and job.result ? 'waitedMs'
) waited;

-- name: bench_empty :exec
truncate dreamcut_jobs, dreamcut_production_manifest cascade;

-- name: bench_tidy :exec
vacuum (analyze) dreamcut_jobs;

-- name: bench_server :one
-- What the figures depend on, and how much write-ahead log the server has written.
select
    current_setting('server_version') as version,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('shared_buffers') as shared_buffers,
    (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 as wal_bytes;
