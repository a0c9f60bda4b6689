-- What the Python client and the CLI ask for in the name of a user: the functions of 40_operator.sql.

-- name: submit_manifest :scalar
select dreamcut_submit_manifest(@manifest::jsonb, @jobs::jsonb, @user_id::uuid);

-- name: enqueue :scalar
select dreamcut_enqueue(
    p_type => @type::text,
    p_payload => @payload::jsonb,
    p_manifest_id => @manifest_id::uuid,
    p_job_id => @job_id::text,
    p_priority => @priority::int,
    p_depends_on => @depends_on::text[],
    p_run_at => @run_at::timestamptz,
    p_max_attempts => @max_attempts::int,
    p_retry_policy => @retry_policy::jsonb,
    p_metadata => @metadata::jsonb
);

-- name: cancel_jobs :scalar
select dreamcut_cancel_jobs(@jobs::uuid[], @reason::text);

-- name: retry_jobs :scalar
select dreamcut_retry_jobs(@jobs::uuid[]);

-- name: release_jobs :scalar
select dreamcut_release_jobs(@jobs::uuid[], @reason::text);

-- name: drop_dependency :scalar
select dreamcut_drop_dependency(@job::uuid, @depends_on::text);
