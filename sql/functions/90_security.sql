-- Who may do what. On a plain Postgres the owner of the tables does everything and nobody else anything. On
-- Supabase, besides: service_role (the planner, through PostgREST) works with the tables and the functions
-- meant for it; a signed-in user (authenticated) reads its own manifests and their jobs, and writes nothing;
-- anon does nothing. A view shows no more than the caller may read (security_invoker, from Postgres 15 on). Applied
-- again at every change of the functions, so a new function or view cannot be forgotten.

do $$
declare
    v_table regclass;
    v_kind "char";
    v_function regprocedure;
    v_role text;
    v_outside constant text[] := array(
        select role.rolname from pg_roles role where role.rolname in ('anon', 'authenticated', 'service_role')
    );
begin
    -- Supabase's default privileges give all of a new object to all three roles; take everything back first.
    for v_table, v_kind in
        select class.oid::regclass, class.relkind
        from pg_class class
        where class.relnamespace = 'public'::regnamespace
            and class.relname like 'dreamcut\_%'
            and class.relkind in ('r', 'p', 'v', 'S')
    loop
        execute format('revoke all on %s from public', v_table);
        foreach v_role in array v_outside loop
            execute format('revoke all on %s from %I', v_table, v_role);
        end loop;
        continue when v_kind = 'S';
        if 'service_role' = any (v_outside) then
            execute format('grant select, insert, update, delete on %s to service_role', v_table);
        end if;
        if v_kind in ('r', 'p') then
            execute format('alter table %s enable row level security', v_table);
        elsif v_kind = 'v' and current_setting('server_version_num')::int >= 150000 then
            execute format('alter view %s set (security_invoker = true)', v_table);
        end if;
    end loop;

    for v_function in
        select proc.oid::regprocedure
        from pg_proc proc
        where proc.pronamespace = 'public'::regnamespace and proc.proname like 'dreamcut\_%'
    loop
        execute format('revoke all on function %s from public', v_function);
        foreach v_role in array v_outside loop
            execute format('revoke all on function %s from %I', v_function, v_role);
        end loop;
        if 'service_role' = any (v_outside) then
            execute format('grant execute on function %s to service_role', v_function);
        end if;
    end loop;

    if 'authenticated' = any (v_outside) and to_regprocedure('auth.uid()') is not null then
        drop policy if exists dreamcut_own_manifests on dreamcut_production_manifest;
        create policy dreamcut_own_manifests on dreamcut_production_manifest
            for select to authenticated
            using (user_id = (select auth.uid()));  -- the subselect is evaluated once, not for each row

        drop policy if exists dreamcut_own_jobs on dreamcut_jobs;
        create policy dreamcut_own_jobs on dreamcut_jobs
            for select to authenticated
            using (manifest_id in (
                select manifest.id from dreamcut_production_manifest manifest
                where manifest.user_id = (select auth.uid())
            ));

        grant select on dreamcut_production_manifest, dreamcut_jobs to authenticated;
    end if;
end $$;
