-- What `dreamcuts doctor` asks. All of it reads, and nothing waits for a lock.

-- name: doctor_server :one
select current_setting('server_version') as version, current_setting('server_version_num')::int as version_number,
    current_user as role, current_database() as database, pg_is_in_recovery() as is_standby,
    current_setting('transaction_read_only') = 'on' as is_read_only,
    current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on' as has_autovacuum,
    has_schema_privilege('public', 'create') as may_create,
    current_setting('max_connections')::int as max_connections,
    (select count(*) from pg_stat_activity activity where activity.backend_type = 'client backend') as connections,
    clock_timestamp() as time;

-- name: doctor_missing_rights :many
-- What a worker's role needs and does not have. Views and partitions are not its business.
select class.relname::text as name, wanted.privilege
from pg_class class
cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as wanted (privilege)
where class.relnamespace = 'public'::regnamespace and class.relname like 'dreamcut\_%'
    and class.relkind in ('r', 'p') and not class.relispartition
    and not has_table_privilege(class.oid, wanted.privilege)
union all
select proc.proname::text, 'EXECUTE'
from pg_proc proc
where proc.pronamespace = 'public'::regnamespace and proc.proname like 'dreamcut\_%'
    and not has_function_privilege(proc.oid, 'EXECUTE')
order by 1, 2;

-- name: doctor_hidden_tables :many
-- Tables whose rows row level security keeps from this role.
select class.relname::text as name
from pg_class class
where class.relnamespace = 'public'::regnamespace and class.relname like 'dreamcut\_%'
    and class.relkind in ('r', 'p') and not class.relispartition and row_security_active(class.oid)
order by class.relname;

-- name: doctor_owns_tables :many
-- Whether this role may make partitions of the archive.
select pg_has_role(class.relowner, 'USAGE') as owns from pg_class class
where class.relnamespace = 'public'::regnamespace and class.relname = 'dreamcut_archived_jobs';

-- name: doctor_horizon :many
-- Whatever keeps vacuum from removing dead rows, oldest first: the claim's index fills up with them.
select held.kind, held.name, held.detail, held.transactions, held.seconds
from (
    select 'session' as kind, activity.pid::text as name,
        format('%s, user %s, %s, %s', coalesce(nullif(activity.application_name, ''), 'no application name'),
               coalesce(activity.usename, '?'), coalesce(host(activity.client_addr), 'local'),
               coalesce(activity.state, activity.backend_type)) as detail,
        age(coalesce(activity.backend_xmin, activity.backend_xid))::bigint as transactions,
        extract(epoch from clock_timestamp() - activity.xact_start)::float8 as seconds
    from pg_stat_activity activity
    where activity.pid <> pg_backend_pid() and coalesce(activity.backend_xmin, activity.backend_xid) is not null
        and activity.backend_type <> 'autovacuum worker' and activity.xact_start is not null
        and (activity.datname = current_database() or activity.datname is null)
    union all
    select 'prepared transaction', prepared.gid, format('user %s', prepared.owner), age(prepared.transaction)::bigint,
        extract(epoch from clock_timestamp() - prepared.prepared)::float8
    from pg_prepared_xacts prepared
    where prepared.database = current_database()
    union all
    select 'replication slot', slot.slot_name::text, case when slot.active then 'active' else 'nobody reads it' end,
        age(slot.xmin)::bigint, null
    from pg_replication_slots slot
    where slot.xmin is not null
) held
order by held.seconds desc nulls last, held.transactions desc;

-- name: doctor_tables :many
-- How the tables are kept: settings that switch autovacuum off, and dead rows that it has not removed.
select stats.relname::text as name, stats.n_live_tup as live, stats.n_dead_tup as dead,
    stats.last_autovacuum, coalesce('autovacuum_enabled=false' = any (class.reloptions)
        or 'autovacuum_enabled=off' = any (class.reloptions), false) as is_off
from pg_stat_user_tables stats
join pg_class class on class.oid = stats.relid
where stats.schemaname = 'public' and stats.relname like 'dreamcut\_%'
order by stats.n_dead_tup desc, stats.relname;

-- name: doctor_workers :one
select count(*) filter (where worker.state = 'live' and worker.lease_expires_at > now()) as live,
    count(*) filter (where worker.state in ('live', 'draining') and worker.lease_expires_at <= now()) as silent,
    coalesce(array_agg(distinct worker.version) filter (
        where worker.state in ('live', 'draining') and worker.lease_expires_at > now()), '{}') as versions
from dreamcut_workers worker;

-- name: notify_probe :exec
select pg_notify(@channel::text, @payload::text);

-- name: doctor_stuck :many
-- Jobs that wait for something that will not come by itself, by why and type, with one of them as an example. Those
-- that only wait for one of these are left out.
select stuck.code, stuck.type, min(stuck.reason) as reason, count(*) as jobs,
    (array_agg(coalesce(stuck.manifest_id || '/' || stuck.job_id, stuck.id::text)
               order by stuck.created_at, stuck.id))[1] as example
from dreamcut_find_stuck_jobs() stuck
where stuck.code <> 'behind'
group by stuck.code, stuck.type
order by 4 desc, 1, 2
limit @limit::int;
