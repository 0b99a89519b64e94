-- What lists show and no table of theirs holds.

-- The name of a host: a tenant's administrator sees where his VMs run, and nothing else of hosts.
create or replace function host_label(wanted integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (select h.name from hosts h where h.id = wanted and (sees_all() or exists (
        select from vm_runtimes r where r.host_id = wanted and r.tenant_id = my_tenant())));
end $$;

-- The hardware address that nodes give a VM with this address (src/network/address.rs).
create or replace function vm_mac(ip inet) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return config_get('vm.network.mac.prefix') || (
        select string_agg(':' || lpad(to_hex(get_byte(b, length(b) - n)), 2, '0'), '' order by n desc)
        -- The wire form ends with the address.
        from inet_send(set_masklen(ip, case family(ip) when 4 then 32 else 128 end)) b, generate_series(1, 3) n);
end $$;

-- When an object was made, and by whom, from the log.
create or replace function created(kind text, wanted integer, out at timestamptz, out by_whom text)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    select l.time, case when coalesce(l.superadmin, true) and not sees_all() then '*'
        else coalesce(l.administrator_name, l.actor) end
    into at, by_whom
    from log l where l.qvd_object = kind and l.object_id = wanted and l.action = 'create' and reaches(l.tenant_id)
    order by l.id desc limit 1;
end $$;
