-- The smallest queue that there is: the limit that the others are held against.

-- name: make :exec
create table bare_jobs (
    id bigint generated always as identity primary key,
    state text not null default 'available',
    payload jsonb not null default '{}',
    created_at timestamptz not null default now()
) with (fillfactor = 70);
create index bare_jobs_available on bare_jobs (id) where state = 'available';

-- name: insert_many :exec
insert into bare_jobs (payload) select unnest(@payloads::text[])::jsonb;

-- name: insert_one :exec
insert into bare_jobs (payload) values (@payload::text::jsonb);

-- name: send :exec
-- The insert and the notification in one commit.
with sent as (
    insert into bare_jobs (payload) values (@payload::text::jsonb) returning id
)
select pg_notify('bare_jobs', '') from sent;

-- name: claim :many
with picked as (
    select job.id from bare_jobs job where job.state = 'available' order by job.id for update skip locked limit @batch::int
)
update bare_jobs job set state = 'running' from picked where job.id = picked.id
returning job.id, (job.payload ->> 'sent')::float8 as sent;

-- name: complete :exec
update bare_jobs job set state = 'done' where job.id = any (@jobs::bigint[]);

-- name: unfinished :scalar
select count(*) from bare_jobs job where job.state <> 'done';

-- name: reset :exec
truncate bare_jobs;
