-- What the harness asks of its own server.

-- name: about :one
select
    current_setting('server_version') as version,
    current_setting('shared_buffers') as shared_buffers,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit;

-- name: wal :scalar
select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8;

-- name: commits :scalar
select pg_stat_get_db_xact_commit(oid)::float8 from pg_database where datname = @database::text;

-- name: statements :scalar
-- Statements that the queue's own sessions sent, and none of the harness'.
select coalesce(sum(statement.calls), 0)::float8
from pg_stat_statements statement
where statement.toplevel
    and statement.userid = (select oid from pg_roles where rolname = @role::text)
    and statement.dbid = (select oid from pg_database where datname = @database::text);

-- name: end_sessions :exec
select pg_terminate_backend(pid) from pg_stat_activity where datname = @database::text and usename = @role::text;

-- name: sessions :scalar
select count(*) from pg_stat_activity where datname = @database::text and usename = @role::text;

-- name: session_pids :many
select pid from pg_stat_activity where datname = @database::text and usename = @role::text;

-- name: reset_statements :exec
select pg_stat_statements_reset();

-- name: checkpoint :exec
checkpoint;

-- name: tidy :exec
vacuum (analyze);

-- name: hold :exec
-- Reads something, so that the transaction has a snapshot from now on.
select count(*) from pg_class;
