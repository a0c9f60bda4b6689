-- name: unfinished :scalar
select count(*) from pgboss.job where state < 'completed' and name = 'noop';

-- name: reset :exec
delete from pgboss.job;
