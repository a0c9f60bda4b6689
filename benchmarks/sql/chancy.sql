-- name: unfinished :scalar
select count(*) from chancy_jobs where state in ('pending', 'running', 'retrying');

-- name: reset :exec
truncate chancy_jobs;
