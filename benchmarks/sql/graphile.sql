-- name: unfinished :scalar
select count(*) from graphile_worker._private_jobs;

-- name: reset :exec
truncate graphile_worker._private_jobs;
