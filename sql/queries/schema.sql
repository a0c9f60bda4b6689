-- What `dreamcuts db migrate` and `dreamcuts db status` ask of the schema itself.

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
