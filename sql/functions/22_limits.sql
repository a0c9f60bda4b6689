-- The limit for payloads. A claim reads the payloads of its whole batch, a dashboard those of a page: one of a
-- hundred megabytes would slow down everybody's jobs. What is large belongs into storage, its URL into the payload.

-- Refuse a payload over the limit, with its size and the limit.
-- A trigger and no check constraint, for two reasons: the message can say what is wrong, and a row that is already
-- there (inserted under a higher limit) can still be claimed and finished.
create or replace function dreamcut_check_payload() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_bytes constant bigint := octet_length(new.payload::text);
    v_limit bigint;
begin
    select limits.value into v_limit from dreamcut_limits limits where limits.name = 'payload_bytes';
    if v_bytes > v_limit then
        raise exception 'the payload of job "%" has % bytes, and % is the limit', new.job_id, v_bytes, v_limit
            using errcode = 'check_violation',
                  column = 'payload',
                  table = 'dreamcut_jobs',
                  constraint = 'dreamcut_jobs_payload_size',
                  hint = 'Store large data as an asset and put its URL into the payload, or raise the limit: '
                         'update dreamcut_limits set value = ... where name = ''payload_bytes''.';
    end if;
    return new;
end $$;

-- pg_column_size costs nothing; so payloads that cannot be over any sensible limit do not come here. (A compressed
-- one may be a hundred times as long as its size.)
create or replace trigger dreamcut_jobs_check_payload
before insert on dreamcut_jobs
for each row
when (pg_column_size(new.payload) > 4096)
execute function dreamcut_check_payload();

-- AFTER, for the reason given at dreamcut_jobs_touch.
create or replace trigger dreamcut_jobs_check_new_payload
after update of payload on dreamcut_jobs
for each row
when (pg_column_size(new.payload) > 4096)
execute function dreamcut_check_payload();
