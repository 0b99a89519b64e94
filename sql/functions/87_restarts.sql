-- Settings for everybody that programs read when they start, and that were changed since those of some node did: when, and of
-- which nodes. The log says when, so what is no longer in it is not told.
create or replace function restarts_due() returns table (key text, changed timestamptz, nodes text[])
language plpgsql stable set search_path = qvd, pg_temp as $$
begin
    if not (sees_all() and can('config.qvd.') and can('host.see.state.')) then
        return;
    end if;
    return query
        select c.object_name, c.at, array_agg(h.name order by h.name)
        from (
                select l.object_name, max(l.time) as at from log l
                where l.qvd_object = 'config' and l.tenant_id = -1 group by 1) c
            join config_keys k on k.key = c.object_name and k.needs_restart
            join host_runtimes r on r.state in ('starting', 'running') and (r.started_at < c.at or exists (
                select from l7r_instances i where i.host_id = r.host_id and i.ended_at is null and i.started_at < c.at))
            join hosts h on h.id = r.host_id
        where k.key !~ '^(internal|database)[.]' and not is_secret(k.key)
        group by 1, 2
        order by 1;
end $$;
