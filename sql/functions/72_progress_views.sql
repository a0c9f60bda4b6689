-- How far each manifest is, and how long it may still take.

-- What now has other columns.
drop view if exists dreamcut_manifest_progress, dreamcut_production_progress;

-- Every manifest, from its own counters: no job is read but the running ones. After an UPDATE of a job's status by hand
-- the counters may be off until dreamcut_reconcile finds something to mend; they are held to what is possible.
-- Percent: of the jobs, those that were completed; 100 when the manifest is done, also where it could do without some
-- that failed. Failed and cancelled jobs do not count: they bring the film no nearer, a failed manifest would show
-- 100, and a retry would turn the progress back.
-- Time left: the share of open jobs of what the last 50 finished manifests took; before there is one, of its own
-- pace. dreamcut_time_left is better, and costs a look at the manifest's jobs.
-- All manifests are asked for in a moment, so what is the same for nearly all of them is decided by whole numbers:
-- text and numeric take several times as long.
create or replace view dreamcut_production_progress as
select manifest.id as manifest_id, manifest.user_id, manifest.status, manifest.created_at, manifest.started_at,
    manifest.completed_at, manifest.processing_time_ms, manifest.output_url, manifest.error_message,
    manifest.total_jobs,
    case when running.jobs is null then manifest.open_jobs
         else manifest.open_jobs - least(running.jobs, manifest.open_jobs)::int end as pending_jobs,
    case when running.jobs is null then 0
         else least(running.jobs, manifest.open_jobs)::int end as processing_jobs,
    manifest.completed_jobs, manifest.failed_jobs, manifest.cancelled_jobs,
    case when manifest.completed_jobs >= manifest.total_jobs and manifest.total_jobs > 0 then 100
         when manifest.status = 'done' then 100
         when manifest.total_jobs = 0 then 0
         else (2000::bigint * manifest.completed_jobs + manifest.total_jobs) / (2 * manifest.total_jobs) * 0.1
    end as progress_percent,
    case when manifest.open_jobs = 0 then case when manifest.total_jobs > 0 then 0 end
         else coalesce(
             (
                 select avg(done.processing_time_ms)::double precision
                 from (
                     select past.processing_time_ms from dreamcut_production_manifest past
                     where past.status = 'done'
                     order by past.completed_at desc limit 50
                 ) done
             ) * least(manifest.open_jobs, manifest.total_jobs) / nullif(manifest.total_jobs, 0),
             extract(epoch from now() - manifest.started_at)::double precision * 1000 * manifest.open_jobs
                 / nullif(manifest.completed_jobs + manifest.failed_jobs + manifest.cancelled_jobs, 0)
         )::bigint
    end as time_left_ms
from dreamcut_production_manifest manifest
left join (
    select job.manifest_id, count(*) as jobs
    from dreamcut_running_jobs job
    where job.manifest_id is not null
    group by job.manifest_id
) running on running.manifest_id = manifest.id;

comment on view dreamcut_production_progress is
    'Each manifest with its jobs by status, percent completed and a rough time left.';

comment on column dreamcut_production_progress.manifest_id is 'The manifest''s uuid.';
comment on column dreamcut_production_progress.user_id is 'Whose it is.';
comment on column dreamcut_production_progress.status is 'planning, ready_to_dispatch, rendering, done or failed.';
comment on column dreamcut_production_progress.created_at is 'When it was inserted.';
comment on column dreamcut_production_progress.started_at is 'When its first job was claimed.';
comment on column dreamcut_production_progress.completed_at is 'When its last job ended.';
comment on column dreamcut_production_progress.processing_time_ms is
    'From started_at to completed_at, in milliseconds.';
comment on column dreamcut_production_progress.output_url is 'The finished video.';
comment on column dreamcut_production_progress.error_message is 'The first error of a failed manifest.';
comment on column dreamcut_production_progress.total_jobs is 'Its jobs, archived ones included.';
comment on column dreamcut_production_progress.pending_jobs is 'Jobs that have not begun: ready, delayed or blocked.';
comment on column dreamcut_production_progress.processing_jobs is 'Jobs that workers run (see dreamcut_running_jobs).';
comment on column dreamcut_production_progress.completed_jobs is 'Jobs completed.';
comment on column dreamcut_production_progress.failed_jobs is 'Jobs that failed for good.';
comment on column dreamcut_production_progress.cancelled_jobs is
    'Jobs cancelled, also because one that they need failed.';
comment on column dreamcut_production_progress.progress_percent is
    'Share of completed jobs, 0 to 100; 100 when the manifest is done.';
comment on column dreamcut_production_progress.time_left_ms is
    'Rough time left in milliseconds, from the last 50 finished manifests; null: nothing to estimate it from.';

create or replace view dreamcut_manifest_progress as
select progress.manifest_id as id, progress.status, progress.created_at, progress.started_at,
    progress.total_jobs as jobs, progress.pending_jobs + progress.processing_jobs as open_jobs,
    progress.progress_percent as percent,
    (extract(epoch from now() - progress.started_at) * 1000)::bigint as elapsed_ms, progress.time_left_ms
from dreamcut_production_progress progress
where progress.status = 'rendering';

comment on view dreamcut_manifest_progress is
    'Manifests under way, with percent completed and a rough time left (as in dreamcut_production_progress).';

comment on column dreamcut_manifest_progress.id is 'The manifest''s uuid.';
comment on column dreamcut_manifest_progress.status is 'Always rendering.';
comment on column dreamcut_manifest_progress.created_at is 'When it was inserted.';
comment on column dreamcut_manifest_progress.started_at is 'When its first job was claimed.';
comment on column dreamcut_manifest_progress.jobs is 'Its jobs.';
comment on column dreamcut_manifest_progress.open_jobs is 'Jobs that have not ended.';
comment on column dreamcut_manifest_progress.percent is 'As progress_percent of dreamcut_production_progress.';
comment on column dreamcut_manifest_progress.elapsed_ms is 'Milliseconds since started_at.';
comment on column dreamcut_manifest_progress.time_left_ms is 'As in dreamcut_production_progress.';

-- What the time left of a manifest is estimated from: each type's mean duration in the last 24 hours and its live
-- slots. A function, so that a list of manifests asks once.
create or replace function dreamcut_type_history() returns table (type text, slots bigint, mean_ms bigint)
language plpgsql stable cost 1 rows 10 set search_path = public, pg_temp as $$
#variable_conflict use_column
begin
    return query
    select history.type, coalesce(served.slots, 0)::bigint, history.mean_ms
    from (
        select durations.type, (sum(durations.mean_ms * durations.jobs) / sum(durations.jobs))::bigint as mean_ms
        from dreamcut_durations durations
        group by durations.type
    ) history
    left join (
        select lane.type, sum(lane.slots) as slots
        from dreamcut_live_lanes lane
        group by lane.type
    ) served on served.type = history.type;
end $$;

-- The time left of one manifest, from its jobs: what can run now runs side by side, in waves as wide as the live
-- slots; what is blocked comes after it, type by type. Null if no type of it has a history.
create or replace function dreamcut_time_left(p_manifest uuid) returns bigint
language sql stable set search_path = public, pg_temp as $$
    select (coalesce(max(lane.work_ms) filter (where not lane.blocked), 0)
        + coalesce(sum(lane.work_ms) filter (where lane.blocked), 0))::bigint
    from (
        select job.unmet_dependencies > 0 as blocked,
            ceil(count(*)::numeric / greatest(history.slots, 1)) * history.mean_ms as work_ms
        from dreamcut_jobs job
        join dreamcut_type_history() history on history.type = job.type
        where job.manifest_id = p_manifest and job.status in ('pending', 'processing')
        group by job.type, job.unmet_dependencies > 0, history.slots, history.mean_ms
    ) lane
    having count(*) > 0
$$;
