-- What waits for something that will not come by itself. For `dreamcuts doctor`, monitoring and people.
--
-- code, one for each job, the first that fits:
--   missing_dependency  it waits for a job that was never inserted, or was deleted
--   dependency_cycle    it waits, through others, for itself
--   scaled_to_zero      it is ready, and its type is scaled to 0 slots (dreamcut_scale_type)
--   no_worker           it is ready, and no live worker serves its type, or each that does has 0 slots for it
--   provider_paused     it is ready, and takes no calls: the provider that its type needs is paused
--   overdue             its delay was over five minutes ago, and no live worker is there to see it
--   lost_worker         it is `processing`, its worker is gone, and no other is there to take it over
--   behind              it waits for a job that is in this list
--
-- A job that is not here, and has not ended, runs, waits for a time, or waits for one that does. p_most: so many jobs
-- of each code and type, the first ones; null: all of them.
-- Cost: a look at each open wait, whatever the history, and one at the ready jobs of each type. Only while no worker
-- is live is the table of jobs read, for those that are `processing`: no index says so, because every claim would
-- pay for it. A function, because only that can do without Postgres' JIT compiler, which takes ten times as long as
-- the query.
drop view if exists dreamcut_stuck_jobs;
drop function if exists dreamcut_find_stuck_jobs();

create or replace function dreamcut_find_stuck_jobs(p_most int default null) returns table (
    id uuid, manifest_id uuid, job_id text, type text, status text, priority int, created_at timestamptz,
    code text, reason text
)
language sql stable set search_path = public, pg_temp set jit = off as $$
with recursive live as materialized (
    select worker.types, worker.providers, worker.slots
    from dreamcut_workers worker
    where worker.state = 'live' and not dreamcut_is_lease_over(worker)
), lanes as materialized (
    select lane.type, nullif(lane.provider, '') as provider,
        coalesce(lane.slots, 0) > 0 and scaling.slots is distinct from 0 as is_open
    from live
    cross join lateral unnest(live.types, live.providers, live.slots) as lane (type, provider, slots)
    left join dreamcut_scaling scaling on scaling.type = lane.type
    where lane.type is not null
), served as materialized (
    select lanes.type, max(lanes.provider) as provider
    from lanes
    where lanes.is_open
    group by lanes.type
), ready_types (type) as (
    -- One look into the index for each type, however many jobs of it are ready.
    (select job.type from dreamcut_jobs job where job.ready order by job.type limit 1)
    union all
    select (
        select job.type from dreamcut_jobs job
        where job.ready and job.type > ready_types.type
        order by job.type limit 1
    )
    from ready_types
    where ready_types.type is not null
), halted as materialized (
    select ready_types.type,
        case when served.type is not null then 'provider_paused'
             when scaling.slots = 0 then 'scaled_to_zero'
             else 'no_worker' end as code,
        case when served.type is not null then
                 format('the provider %s is paused%s%s', provider.name,
                        case when provider.paused_until < 'infinity' then ' until '
                                 || to_char(provider.paused_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
                                 || ' UTC'
                             else ' until somebody resumes it' end,
                        coalesce(': ' || provider.pause_reason, ''))
             when scaling.slots = 0 then
                 format('the type %1$s is scaled to 0 slots: `dreamcuts workers scale %1$s --slots N`, or --reset',
                        ready_types.type)
             when ready_types.type in (select lanes.type from lanes) then
                 format('each live worker that serves the type %s has 0 slots for it (or ENABLE_WORKERS=false)',
                        ready_types.type)
             else format('no live worker serves the type %s', ready_types.type)
        end as reason
    from ready_types
    left join served on served.type = ready_types.type
    left join dreamcut_scaling scaling on scaling.type = ready_types.type
    left join dreamcut_providers provider on provider.name = served.provider and provider.paused_until > now()
    where ready_types.type is not null and (served.type is null or provider.name is not null)
), inner_waits as materialized (
    -- Only a job that waits and is waited for can be part of a cycle.
    select wait.job, wait.cause
    from dreamcut_job_dependencies wait
    cross join lateral (
        select 1 from dreamcut_jobs job where job.id = wait.job and job.status = 'pending' offset 0
    ) waiting
    where wait.cause in (select other.job from dreamcut_job_dependencies other)
        and wait.job in (select other.cause from dreamcut_job_dependencies other where other.cause is not null)
), reached (start, job) as (
    select wait.job, wait.cause from inner_waits wait
    union
    select reached.start, wait.cause
    from reached
    join inner_waits wait on wait.job = reached.job
    where reached.job <> reached.start
), stuck as materialized (
    select wait.job, 1 as rank, 'missing_dependency' as code,
        'waits for jobs that do not exist: ' || string_agg(wait.depends_on, ', ' order by wait.depends_on) as reason
    from dreamcut_job_dependencies wait
    where wait.cause is null
    group by wait.job

    union all
    select reached.start, 2, 'dependency_cycle', 'waits, through ' || (
            select string_agg(wait.depends_on, ', ' order by wait.depends_on)
            from dreamcut_job_dependencies wait
            where wait.job = reached.start
                and (wait.cause = reached.start or exists (
                    select 1 from reached other where other.start = wait.cause and other.job = reached.start
                ))
        ) || ', for itself'
    from reached
    where reached.job = reached.start

    union all
    select job.id, 3, halted.code, halted.reason
    from halted
    cross join lateral (
        select ready.id from dreamcut_jobs ready
        where ready.ready and ready.type = halted.type
        order by ~ready.priority, ready.turn
        limit p_most
    ) job

    union all
    select job.id, 4, 'overdue',
        format('was due at %s UTC, and no worker is live',
               to_char(job.next_retry_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
    from dreamcut_jobs job
    where job.next_retry_at < now() - interval '5 minutes' and not exists (select 1 from lanes where lanes.is_open)

    union all
    -- A live worker takes over what a silent one held, and hands back what nobody holds.
    select job.id, 5, 'lost_worker',
        format('its worker %s is gone, and %s', job.worker_id,
               case when worker.state in ('live', 'draining') then 'no other is live to take it over'
                    else 'no longer listed: start one, or release the job' end)
    from dreamcut_jobs job
    left join dreamcut_workers worker on worker.id = job.worker_id
    where job.status = 'processing'
        and not exists (select 1 from live)
        and case when worker.state in ('live', 'draining') then dreamcut_is_lease_over(worker) else true end
), behind (job, cause) as (
    select wait.job, wait.cause
    from dreamcut_job_dependencies wait
    where wait.cause in (select stuck.job from stuck)
    union
    select wait.job, wait.cause
    from behind
    join dreamcut_job_dependencies wait on wait.cause = behind.job
), listed as (
    select stuck.job, stuck.rank, stuck.code, stuck.reason from stuck
    union all
    select behind.job, 6, 'behind',
        'waits for ' || string_agg(cause.job_id, ', ' order by cause.job_id) || ', which will not go on by itself'
    from behind
    cross join lateral (select job.job_id from dreamcut_jobs job where job.id = behind.cause offset 0) cause
    group by behind.job
)
select whole.id, whole.manifest_id, whole.job_id, whole.type, whole.status, whole.priority, whole.created_at,
    whole.code, whole.reason
from (
    select job.*, first.code, first.reason,
        row_number() over (partition by first.code, job.type order by job.seq) as place
    from (
        select distinct on (listed.job) listed.job, listed.code, listed.reason
        from listed
        order by listed.job, listed.rank
    ) first
    cross join lateral (
        select job.id, job.manifest_id, job.job_id, job.type, job.status, job.priority, job.created_at, job.seq
        from dreamcut_jobs job
        where job.id = first.job and job.status in ('pending', 'processing')  -- a cancelled job keeps its waits
        offset 0
    ) job
) whole
where p_most is null or whole.place <= p_most
$$;

create or replace view dreamcut_stuck_jobs as
select stuck.id, stuck.manifest_id, stuck.job_id, stuck.type, stuck.status, stuck.priority, stuck.created_at,
    stuck.code, stuck.reason
from dreamcut_find_stuck_jobs(100) stuck;

comment on view dreamcut_stuck_jobs is
    'Jobs that wait for something that will not come by itself: code and reason; the first 100 of each code and type.';

comment on column dreamcut_stuck_jobs.id is 'The job''s uuid.';
comment on column dreamcut_stuck_jobs.manifest_id is 'Its manifest; null for a job without one.';
comment on column dreamcut_stuck_jobs.job_id is 'The producer''s name for it.';
comment on column dreamcut_stuck_jobs.type is 'Job type.';
comment on column dreamcut_stuck_jobs.status is 'pending or processing.';
comment on column dreamcut_stuck_jobs.priority is 'Its priority.';
comment on column dreamcut_stuck_jobs.created_at is 'When it was inserted.';
comment on column dreamcut_stuck_jobs.code is 'What it waits for, as a word: see docs/guarantees.md.';
comment on column dreamcut_stuck_jobs.reason is 'The same as a sentence.';
