-- The roles, before everything that speaks of them. What they may do is said last, in grants.sql.

do $$
declare
    wanted text;
begin
    foreach wanted in array array['qvd_node', 'qvd_l7r', 'qvd_admin', 'qvd_readonly', 'qvd_wat', 'qvd_administrators'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I %s', wanted, case wanted when 'qvd_administrators' then 'nologin' else 'login' end);
            exception when duplicate_object or unique_violation then
                null; -- another database of this server was being set up at the same moment
            end;
        end if;
    end loop;
end $$;
