-- name: unfinished :scalar
select count(*) from procrastinate_jobs where status in ('todo', 'doing');

-- name: reset :exec
truncate procrastinate_jobs restart identity cascade;
