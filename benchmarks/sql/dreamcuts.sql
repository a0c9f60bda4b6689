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

-- name: insert_film :one
-- A film as a planner writes it: an image and a video made of it for each scene, and one render of all videos.
with manifest as (
    insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id
), jobs as (
    insert into dreamcut_jobs (manifest_id, job_id, type, payload, depends_on)
    select manifest.id, job.job_id, job.type, jsonb_build_object('sleepMs', @sleep_ms::float8), job.depends_on
    from manifest
    cross join lateral (
        select 'image_' || scene, 'bench_1', '{}'::text[], scene, 1 from generate_series(1, @scenes::int) as scene
        union all
        select 'video_' || scene, 'bench_2', array['image_' || scene], scene, 2
        from generate_series(1, @scenes::int) as scene
        union all
        select 'render', 'bench_3', array(select 'video_' || scene from generate_series(1, @scenes::int) as scene),
            @scenes::int + 1, 3
    ) as job (job_id, type, depends_on, scene, step)
    order by job.scene, job.step
)
select manifest.id from manifest;

-- name: film_seconds :one
select extract(epoch from manifest.completed_at - manifest.created_at)::float8
from dreamcut_production_manifest manifest
where manifest.id = @film::uuid and manifest.status = 'done';

-- name: insert_small_films :exec
-- Films of three jobs, each on the one before it.
with manifest as (
    insert into dreamcut_production_manifest (manifest_json)
    select '{}' from generate_series(1, @films::int)
    returning id
)
insert into dreamcut_jobs (manifest_id, job_id, type, payload, depends_on)
select manifest.id, 'job_' || step, 'bench_' || step, jsonb_build_object('sleepMs', @sleep_ms::float8),
    case when step > 1 then array['job_' || step - 1] else '{}' end
from manifest
cross join generate_series(1, 3) as step;

-- name: insert_pair :exec
with manifest as (
    insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id
)
insert into dreamcut_jobs (manifest_id, job_id, type, payload, depends_on)
select manifest.id, job.job_id, job.type, '{"timed": true}', job.depends_on
from manifest
cross join (values ('first', 'bench_1', '{}'::text[]), ('second', 'bench_2', '{first}'))
    as job (job_id, type, depends_on);

-- name: hand_offs :many
-- Milliseconds between two jobs of which the second waited for the first.
select ((second.result ->> 'beganAt')::float8 - (first.result ->> 'endedAt')::float8) * 1000
from dreamcut_jobs first
join dreamcut_jobs second on second.manifest_id = first.manifest_id and second.job_id = 'second'
where first.job_id = 'first';

-- name: insert_fan_in :exec
with manifest as (
    insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id
)
insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
select manifest.id, 'part_' || number, 'bench_1', '{}'::text[] from manifest, generate_series(1, @width::int) as number
union all
select manifest.id, 'whole', 'bench_2', array(select 'part_' || number from generate_series(1, @width::int) as number)
from manifest;

-- name: insert_fan_out :exec
with manifest as (
    insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id
)
insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
select manifest.id, 'whole', 'bench_1', '{}'::text[] from manifest
union all
select manifest.id, 'part_' || number, 'bench_2', '{whole}' from manifest, generate_series(1, @width::int) as number;

-- name: enter_busy_workers :exec
-- Workers that have enough to do: they listen, and do not wait.
insert into dreamcut_workers (id, host, pid, version, types, slots, waits, lease_expires_at)
select gen_random_uuid(), 'bench', number, '0', array(select 'bench_' || n from generate_series(1, 7) as n),
    array_fill(1, array[7]), false, now() + interval '1 hour'
from generate_series(1, @workers::int) as number;

-- name: listen :exec
listen dreamcut_jobs;

-- name: insert :exec
-- A producer's plain INSERT.
insert into dreamcut_jobs (type, payload) values (@type, @payload);

-- name: insert_asset_job :one
insert into dreamcut_jobs (type, payload)
values ('bench_asset', jsonb_build_object('url', @url::text, 'kind', @kind::text))
returning id;

-- name: job_outcome :one
select job.status, job.error_message from dreamcut_jobs job where job.id = @job::uuid;
