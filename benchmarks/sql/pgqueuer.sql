-- name: unfinished :scalar
select count(*) from pgqueuer;

-- name: reset :exec
truncate pgqueuer, pgqueuer_log restart identity;
