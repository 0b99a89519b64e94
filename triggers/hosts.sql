-- A host comes with its runtime and counter rows and is deleted only when stopped.

create or replace function hosts_guard() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if exists (select from host_runtimes where host_id = old.id and state not in ('stopped', 'lost'))
        or exists (select from vm_runtimes where host_id = old.id) then
        raise exception 'host % is in use', old.name using errcode = 'QV022', hint = 'Stop its VMs and its daemons first.';
    end if;
    delete from host_changes where host_id = old.id;
    return old;
end $$;

create or replace trigger guard before delete on hosts for each row execute function hosts_guard();

create or replace function hosts_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        insert into host_runtimes (host_id) values (new.id);
        insert into host_counters (host_id) values (new.id);
    end if;
    perform wake('qvd_admin', 'host', coalesce(new.id, old.id));
    -- Nodes let each other in by their addresses.
    if tg_op <> 'UPDATE' or new.address <> old.address then
        perform wake('qvd_config', 'host', coalesce(new.id, old.id));
    end if;
    return null;
end $$;

create or replace trigger wake after insert or update or delete on hosts
    for each row execute function hosts_wake();
