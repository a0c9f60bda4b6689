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

-- name: try_lock_schema :scalar
-- One migration at a time in a database. The lock ends with the transaction, so it is safe behind a pooler.
select pg_try_advisory_xact_lock(hashtext('dreamcut_schema'));

-- name: try_lock_schema_for_session :scalar
-- The same lock, held until the session ends: for what cannot run inside a transaction.
select pg_try_advisory_lock(hashtext('dreamcut_schema'));

-- name: lift_limits :exec
-- For this session. A concurrent build waits for open transactions, however long they take, and both limits
-- count that wait; cut off, it would have read the table for nothing. Nobody who claims waits behind it.
select set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false);

-- name: index_is_valid :scalar
-- No row: there is no such index.
select entry.indisvalid and entry.indisready
from pg_index entry
where entry.indexrelid = to_regclass(@index::text);

-- name: index_progress :one
-- How far a concurrent build is, and the sessions that it waits for.
select
    concat_ws(
        ', ',
        progress.phase,
        nullif(progress.blocks_total, 0)::text || ' blocks, ' || progress.blocks_done::text || ' done'
    ) as progress,
    (
        select string_agg(
            format(
                'session %s (%s, %s) has had a transaction open for %s s',
                activity.pid,
                coalesce(nullif(activity.application_name, ''), activity.usename, '?'),
                coalesce(activity.state, '?'),
                coalesce(extract(epoch from clock_timestamp() - activity.xact_start)::int::text, '?')
            ),
            '; '
        )
        from pg_stat_activity activity
        where activity.pid = any (pg_blocking_pids(@pid::int))
    ) as waits_for
from pg_stat_progress_create_index progress
where progress.pid = @pid::int;

-- name: applied_migrations :many
select number from public.dreamcut_schema order by number;

-- name: functions_checksum :scalar
select checksum from public.dreamcut_schema_functions order by applied_at desc limit 1;

-- name: record_migration :exec
insert into public.dreamcut_schema (number, name) values (@number, @name);

-- name: record_functions :exec
insert into public.dreamcut_schema_functions (checksum, release) values (@checksum, @release);
