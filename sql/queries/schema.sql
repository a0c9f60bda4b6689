-- What `dreamcuts db migrate` and `dreamcuts db status` ask of the schema itself, and of the connection.

-- name: backend_pid :scalar
select pg_backend_pid();

-- name: limit_lock_wait :exec
-- For this transaction: rather give up than wait for a lock, since all who come later wait behind us.
select set_config('lock_timeout', @timeout_ms::text, true);

-- name: holders_of_our_tables :many
-- Sessions with a transaction open on our tables, the longest first: who may stand in a migration's way.
select
    activity.pid,
    coalesce(nullif(activity.application_name, ''), activity.usename, '?') as name,
    coalesce(activity.state, '?') as state,
    coalesce(extract(epoch from clock_timestamp() - activity.xact_start), 0)::float8 as open_s
from pg_stat_activity activity
where activity.pid <> pg_backend_pid()
    and activity.pid in (
        select held.pid
        from pg_locks held
        join pg_class class on class.oid = held.relation
        where held.granted
            and held.database = (select oid from pg_database where datname = current_database())
            and class.relname like 'dreamcut\_%'
    )
order by activity.xact_start nulls last;

-- name: schema_exists :scalar
select to_regclass('public.dreamcut_schema') is not null;

-- name: lock_schema :exec
-- One migration at a time in a database. The lock ends with the transaction, so it is safe behind a pooler.
select pg_advisory_xact_lock(hashtext('dreamcut_schema'));

-- name: applied_migrations :many
select number from public.dreamcut_schema order by number;

-- name: functions_checksum :scalar
select checksum from public.dreamcut_schema_functions order by applied_at desc limit 1;

-- name: record_migration :exec
insert into public.dreamcut_schema (number, name) values (@number, @name);

-- name: record_functions :exec
insert into public.dreamcut_schema_functions (checksum, release) values (@checksum, @release);
