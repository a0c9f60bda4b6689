-- name: unfinished :scalar
select count(*) from dreamcut_jobs job where job.status in ('pending', 'processing');

-- name: reset :exec
truncate dreamcut_jobs, dreamcut_production_manifest, dreamcut_workers cascade;

-- name: fill_ready :exec
-- Ready jobs of the seven types, before anything else.
insert into dreamcut_jobs (type, payload)
select 'bench_' || 1 + number % 7, '{}' from generate_series(1, @jobs::int) as number;

-- name: fill_around :exec
-- A tenth as many delayed and blocked jobs as @jobs, and @jobs finished ones.
insert into dreamcut_jobs (type, payload, next_retry_at)
select 'bench_' || 1 + number % 7, '{}', now() + interval '1 day'
from generate_series(1, @jobs::int / 10) as number;
with manifest as (
    insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id
)
insert into dreamcut_jobs (manifest_id, type, payload, depends_on)
select manifest.id, 'bench_' || 1 + number % 7, '{}', '{never}'
from manifest, generate_series(1, @jobs::int / 10) as number;
insert into dreamcut_jobs (type, payload, status, attempts, claims, started_at, completed_at)
select 'bench_' || 1 + number % 7, '{}', 'completed', 1, 1, now(), now()
from generate_series(1, @jobs::int) as number;
