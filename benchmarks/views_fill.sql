-- The data of benchmarks/views.py; %(finished)s and %(pending)s are numbers of jobs, ten to a manifest.
set synchronous_commit = off;
alter table dreamcut_jobs disable trigger user;

create temp table kinds as
select * from (values
    (0, 'render_shotstack', 'shotstack'), (1, 'tts_elevenlabs', 'elevenlabs'), (2, 'gen_image_falai', 'fal'),
    (3, 'gen_video_falai', 'fal'), (4, 'lip_sync_lypsso', 'fal'), (5, 'gen_music_elevenlabs', 'elevenlabs'),
    (6, 'gen_sound_effects_elevenlabs', 'elevenlabs')
) as kind (place, type, provider);

create function pg_temp.manifest(number bigint) returns uuid language sql immutable as $$
    select ('00000000-0000-4000-8000-' || lpad(to_hex(number), 12, '0'))::uuid
$$;

insert into dreamcut_production_manifest
    (id, manifest_json, status, created_at, started_at, completed_at, processing_time_ms, open_jobs, total_jobs,
     completed_jobs)
select pg_temp.manifest(number), jsonb_build_object('metadata', jsonb_build_object('title', 'Film ' || number)),
    case when number <= %(finished)s / 10 then 'done' else 'rendering' end,
    now() - make_interval(secs => number), now() - make_interval(secs => number),
    case when number <= %(finished)s / 10 then now() end, case when number <= %(finished)s / 10 then 60000 end,
    case when number <= %(finished)s / 10 then 0 else 10 end, 10,
    case when number <= %(finished)s / 10 then 10 else 0 end
from generate_series(1, (%(finished)s + %(pending)s) / 10) as number;

insert into dreamcut_jobs
    (manifest_id, job_id, type, status, priority, payload, attempts, claims, result, output_url,
     processing_time_ms, created_at, started_at, completed_at)
select pg_temp.manifest((number - 1) / 10 + 1), 'job_' || number %% 10, kind.type, 'completed', 5 + number %% 3,
    '{"text": "a sentence of ordinary length for one scene of a film"}', 1, 1, '{"provider": "fal"}',
    'https://example.org/asset.mp4', 1000 + number %% 5000, now() - interval '1 day', now(), now()
from generate_series(1, %(finished)s) as number
join kinds kind on kind.place = number %% 7;

insert into dreamcut_jobs
    (manifest_id, job_id, type, priority, payload, unmet_dependencies, next_retry_at, error_class, depends_on)
select pg_temp.manifest((%(finished)s + number - 1) / 10 + 1), 'job_' || number %% 10, kind.type, 5 + number %% 3,
    '{"text": "a sentence of ordinary length for one scene of a film"}',
    case when number %% 10 < 3 then 1 else 0 end,
    case when number %% 10 in (3, 4, 5) then now() + make_interval(secs => number) end,
    case when number %% 10 in (3, 4, 5) then 'transient' end,
    case when number %% 10 < 3 then '{job_9}'::text[] else '{}' end
from generate_series(1, %(pending)s) as number
join kinds kind on kind.place = number %% 7;

insert into dreamcut_job_dependencies (job, manifest_id, depends_on, cause)
select job.id, job.manifest_id, 'job_9', cause.id
from dreamcut_jobs job
join dreamcut_jobs cause on cause.manifest_id = job.manifest_id and cause.job_id = 'job_9'
where job.unmet_dependencies > 0;

alter table dreamcut_jobs enable trigger user;

insert into dreamcut_workers (id, host, pid, version, types, slots, lease_expires_at)
select gen_random_uuid(), 'host-' || number, number, '0', array(select kind.type from kinds kind),
    array(select 3 from kinds), now() + interval '1 day'
from generate_series(1, 20) as number;

with worker as (
    select worker.id, row_number() over () as number from dreamcut_workers worker
), picked as (
    select job.id, row_number() over () as number
    from (select ready.id from dreamcut_jobs ready where ready.ready order by ready.seq limit 400) job
)
update dreamcut_jobs job
set status = 'processing', worker_id = worker.id, attempts = 1, claims = 1, started_at = now()
from picked join worker on worker.number = picked.number %% 20 + 1
where job.id = picked.id;

update dreamcut_workers worker
set held = array(
        select job.id from dreamcut_jobs job where job.worker_id = worker.id and job.status = 'processing'
    ), active_jobs = 20;

-- Half of the calls within 90 days, half within the last one; a few of unknown outcome, some under way.
insert into dreamcut_provider_calls
    (manifest_id, job_id, type, claim, worker_id, provider, endpoint, status, estimate_usd, cost_usd, created_at,
     finished_at)
select pg_temp.manifest((number - 1) / 10 + 1), 'job_' || number %% 10, kind.type, 1, gen_random_uuid(),
    kind.provider, kind.type || '/' || number %% 3,
    case when number %% 50 = 0 then 'failed' when number %% 999 = 0 then 'unknown' else 'succeeded' end, 0.05, 0.05,
    now() - past.age - interval '5 seconds', now() - past.age
from generate_series(1, %(finished)s) as number
join kinds kind on kind.place = number %% 7
cross join lateral (
    select case number %% 2 when 0 then interval '90 days' else interval '1 day' end
        * (1 - number::double precision / %(finished)s) as age
) past;

insert into dreamcut_provider_calls
    (manifest_id, job_id, type, claim, worker_id, provider, endpoint, status, estimate_usd)
select pg_temp.manifest((%(finished)s + number - 1) / 10 + 1), 'job_' || number %% 10, kind.type, 1,
    gen_random_uuid(), kind.provider, kind.type || '/' || number %% 3, 'submitted', 0.05
from generate_series(1, 400) as number
join kinds kind on kind.place = number %% 7;

insert into dreamcut_providers (name, max_concurrent, max_per_minute, daily_limit_usd)
select distinct kind.provider, 100, 1000, 1000000 from kinds kind;

insert into dreamcut_job_stats
select date_trunc('minute', now()) - make_interval(mins => minute), 1, kind.type, kind.provider, outcome.word,
    case outcome.word when 'completed' then '' else 'transient' end, bucket, 5, 25000
from generate_series(0, 180) as minute, kinds kind, generate_series(44, 52) as bucket,
    (values ('completed'), ('retried')) as outcome (word);

insert into dreamcut_job_stats
select date_trunc('hour', now()) - make_interval(hours => hour), 60, kind.type, kind.provider, 'completed', '',
    bucket, 5, 25000
from generate_series(4, 2150) as hour, kinds kind, generate_series(44, 52) as bucket;

insert into dreamcut_job_stats_log (type, provider, outcome, error_class, bucket, jobs, run_ms)
select kind.type, kind.provider, 'completed', '', 48, 5, 25000
from generate_series(1, 600), kinds kind;

select dreamcut_roll_up();
