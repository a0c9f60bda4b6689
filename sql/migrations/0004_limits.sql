-- Limits that an operator may change while everything runs: `update dreamcut_limits set value = ...`.
-- A handful of rows that people change: autovacuum's defaults are right for it.

create table dreamcut_limits (
    name        text primary key,
    value       bigint not null,
    note        text not null,
    updated_at  timestamptz not null default now(),
    constraint dreamcut_limits_value_check check (value > 0)
);

insert into dreamcut_limits (name, value, note) values
    ('payload_bytes', 1048576, 'Largest payload of a job, in bytes of its JSON text.');

comment on table dreamcut_limits is 'Limits that may be changed at any time; see the notes in the rows.';
