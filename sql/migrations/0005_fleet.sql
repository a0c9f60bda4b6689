-- The fleet: what an operator asks of workers on any machine, through the database.

-- Asked of one incarnation; it reads its own row with each heartbeat.
alter table dreamcut_workers
    add column command text,                    -- null: nothing is asked
    add column commanded_at timestamptz,
    add column command_reason text,
    add column own_slots int[],                 -- what it was started with, once `slots` says something else
    add constraint dreamcut_workers_command_check check (command in ('drain', 'drain_now', 'restart'));

-- How many jobs at a time each worker process runs, where that is not what it was started with. It holds for
-- workers that start later, too. A type's own number wins over the profile; without a row nothing is changed.
-- A row for each type at most, changed by people: autovacuum's defaults are right for it.
create table dreamcut_scaling (
    type        text primary key,               -- '*': the profile of all types without a row of their own
    slots       int,                            -- 0: the type is left alone
    profile     text,
    updated_at  timestamptz not null default now(),
    constraint dreamcut_scaling_type_check check (type <> ''),
    constraint dreamcut_scaling_slots_check check (slots between 0 and 1000),
    constraint dreamcut_scaling_profile_check check (profile in ('high', 'low')),
    constraint dreamcut_scaling_kind_check check (
        case when type = '*' then slots is null and profile is not null
             else slots is not null and profile is null end
    )
);

comment on table dreamcut_scaling is 'Jobs at a time in each worker process, where an operator has changed them.';
