-- What VMs say on their consoles, for administrators who look at it. They ask the database; a node asks it what is wanted, and
-- sends that while somebody watches. Who watches says so again before a minute is over.

-- Asks for the console of a VM. Says whether its node has answered since somebody watches.
create or replace function vm_console_watch(vm integer) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
    was vm_console_watches;
begin
    select * into target from vm_runtimes r where r.vm_id = vm;
    if target.vm_id is null or not reaches(target.tenant_id) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.see.port-serial.');
    perform set_config('synchronous_commit', 'off', true);
    delete from vm_console_watches w where w.vm_id = vm and w.until < now();
    select * into was from vm_console_watches w where w.vm_id = vm;
    -- Of a VM that has stopped the node may still have the last words.
    insert into vm_console_watches as w (vm_id, until, host_id) values (vm, now() + interval '1 minute', target.host_id)
    on conflict (vm_id) do update set until = excluded.until, host_id = coalesce(excluded.host_id, w.host_id),
        -- Another node has other files.
        file = case when excluded.host_id <> w.host_id then null else w.file end;
    if target.host_id is not null and target.host_id is distinct from was.host_id then
        perform wake('qvd_node_' || target.host_id, 'console', vm);
    end if;
    return was.file is not null;
end $$;

-- What was said after piece `after`, of what is kept.
create or replace function vm_console(vm integer, after bigint default 0) returns table (piece bigint, said text)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if not exists (select from vm_runtimes r where r.vm_id = vm and reaches(r.tenant_id)) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.see.port-serial.');
    return query
        select p.id, p.said from vm_console_pieces p join vm_console_watches w on w.vm_id = p.vm_id
        where p.vm_id = vm and p.id > after and w.until >= now() order by p.id;
end $$;

-- What is wanted of a node, for how many more seconds, and what of which file is here already. What nobody watches any more
-- goes.
create or replace function node_consoles(node integer, node_epoch bigint)
returns table (vm integer, seconds_left float8, file bigint, "position" bigint)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    perform set_config('synchronous_commit', 'off', true);
    delete from vm_console_watches w where w.host_id = node and w.until < now();
    return query
        select w.vm_id, extract(epoch from w.until - now())::float8, w.file, w."position"
        from vm_console_watches w where w.host_id = node;
end $$;

-- What a VM has said, after which so much of that file is here; the oldest goes when it is too much. False: nobody watches.
create or replace function node_console(
    node integer, node_epoch bigint, vm integer, source bigint, upto bigint, words text
) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    perform set_config('synchronous_commit', 'off', true);
    update vm_console_watches w set file = source, "position" = upto
    where w.vm_id = vm and w.host_id = node and w.until >= now();
    if not found then
        return false;
    end if;
    if words <> '' then
        insert into vm_console_pieces (vm_id, said) values (vm, words);
        delete from vm_console_pieces p using (
            select k.id, sum(octet_length(k.said)) over (order by k.id desc) as kept
            from vm_console_pieces k where k.vm_id = vm) old
        where p.id = old.id and old.kept > 65536;
    end if;
    return true;
end $$;
