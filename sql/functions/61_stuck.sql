-- What waits for something that will not come by itself. For `dreamcuts doctor`, monitoring and people.
--
-- code, one for each job, the first that fits:
--   missing_dependency  it waits for a job that was never inserted, or was deleted
--   dependency_cycle    it waits, through others, for itself
--   no_worker           it is ready, and no live worker serves its type
--   provider_paused     it is ready, and takes no calls: the provider that its type needs is paused
--   overdue             its delay was over five minutes ago, and no live worker is there to see it
--   lost_worker         it is `processing`, its worker is gone, and nobody is there to take it over
--   behind              it waits for a job that is in this list
--
-- A job that is not here, and has not ended, runs, waits for a time, or waits for one that does.
-- Cost: the waits that are open and the index of ready jobs, whatever the history: 0.2 s with 30,000 waits among
-- 280,000 jobs. A function, because only that can do without Postgres' JIT compiler, which takes ten times as long
-- as the query.
create or replace function dreamcut_find_stuck_jobs() returns table (
    id uuid, manifest_id uuid, job_id text, type text, status text, priority int, created_at timestamptz,
    code text, reason text
)
language sql stable set search_path = public, pg_temp set jit = off as $$
with recursive live as materialized (
    select worker.types, worker.providers
    from dreamcut_workers worker
    where worker.state = 'live' and not dreamcut_is_lease_over(worker)
), served as materialized (
    select lane.type, max(nullif(lane.provider, '')) as provider
    from live
    cross join lateral unnest(live.types, live.providers) as lane (type, provider)
    where lane.type is not null
    group by lane.type
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
    select ready_types.type, provider.name, provider.paused_until, provider.pause_reason,
        served.type is null as unserved
    from ready_types
    left join served on served.type = ready_types.type
    left join dreamcut_providers provider on provider.name = served.provider and provider.paused_until > now()
    where ready_types.type is not null and (served.type is null or provider.name is not null)
), waits as materialized (
    -- `offset 0`: one look into an index for each wait. The planner would rather read all jobs that ever were.
    select wait.job, wait.depends_on, cause.id as cause
    from dreamcut_job_dependencies wait
    cross join lateral (
        select 1 from dreamcut_jobs job where job.id = wait.job and job.status = 'pending' offset 0
    ) waiting
    left join lateral (
        select job.id from dreamcut_jobs job
        where job.manifest_id = wait.manifest_id and job.job_id = wait.depends_on
        offset 0
    ) cause on true
), inner_waits as materialized (
    -- Only a job that waits and is waited for can be part of a cycle.
    select wait.job, wait.cause
    from waits wait
    where wait.cause in (select other.job from waits other) and wait.job in (select other.cause from waits other)
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
    from waits wait
    where wait.cause is null
    group by wait.job

    union all
    select reached.start, 2, 'dependency_cycle', 'waits, through ' || (
            select string_agg(wait.depends_on, ', ' order by wait.depends_on)
            from waits wait
            where wait.job = reached.start
                and (wait.cause = reached.start or exists (
                    select 1 from reached other where other.start = wait.cause and other.job = reached.start
                ))
        ) || ', for itself'
    from reached
    where reached.job = reached.start

    union all
    select job.id, 3, 'no_worker', format('no live worker serves the type %s', job.type)
    from halted
    join dreamcut_jobs job on job.ready and job.type = halted.type
    where halted.unserved

    union all
    select job.id, 4, 'provider_paused',
        format('the provider %s is paused%s%s', halted.name,
               case when halted.paused_until < 'infinity' then
                   ' until ' || to_char(halted.paused_until at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
               else ' until somebody resumes it' end,
               coalesce(': ' || halted.pause_reason, ''))
    from halted
    join dreamcut_jobs job on job.ready and job.type = halted.type
    where not halted.unserved

    union all
    select job.id, 5, 'overdue',
        format('was due at %s UTC, and no worker is live',
               to_char(job.next_retry_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
    from dreamcut_jobs job
    where job.next_retry_at < now() - interval '5 minutes' and not exists (select 1 from live)

    union all
    select job.id, 6, 'lost_worker',
        format('its worker %s is gone, and %s', job.worker_id,
               case when worker.state in ('live', 'draining') then 'no other is live to take it over'
                    else 'no longer listed: release the job' end)
    from (
        select held.id, held.worker_id
        from dreamcut_production_manifest manifest
        join dreamcut_jobs held on held.manifest_id = manifest.id and held.status = 'processing'
        where manifest.status = 'rendering'
        union all
        select held.id, held.worker_id
        from dreamcut_jobs held
        where held.manifest_id is null and held.status = 'processing'
    ) job
    left join dreamcut_workers worker on worker.id = job.worker_id
    where case when worker.state in ('live', 'draining')
               then dreamcut_is_lease_over(worker) and not exists (select 1 from live)
               else true end
), behind (job, cause) as (
    select wait.job, wait.cause
    from waits wait
    where wait.cause in (select stuck.job from stuck)
    union
    select wait.job, wait.cause
    from behind
    join waits wait on wait.cause = behind.job
), listed as (
    select stuck.job, stuck.rank, stuck.code, stuck.reason from stuck
    union all
    select behind.job, 7, 'behind',
        'waits for ' || string_agg(cause.job_id, ', ' order by cause.job_id) || ', which will not go on by itself'
    from behind
    cross join lateral (select job.job_id from dreamcut_jobs job where job.id = behind.cause offset 0) cause
    group by behind.job
)
select job.id, job.manifest_id, job.job_id, job.type, job.status, job.priority, job.created_at,
    first.code, first.reason
from (
    select distinct on (listed.job) listed.job, listed.code, listed.reason
    from listed
    order by listed.job, listed.rank
) first
cross join lateral (select whole.* from dreamcut_jobs whole where whole.id = first.job offset 0) job
$$;

create or replace view dreamcut_stuck_jobs as
select stuck.id, stuck.manifest_id, stuck.job_id, stuck.type, stuck.status, stuck.priority, stuck.created_at,
    stuck.code, stuck.reason
from dreamcut_find_stuck_jobs() stuck;

comment on view dreamcut_stuck_jobs is
    'Jobs that wait for something that will not come by itself, one row each: code and reason.';

do $$
begin
    if current_setting('server_version_num')::int >= 150000 then
        alter view dreamcut_stuck_jobs set (security_invoker = true);
    end if;
end $$;
