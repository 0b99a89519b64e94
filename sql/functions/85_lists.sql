-- What lists show and no table of theirs holds.

-- What there is to know of fields of long lists: `acl`, without which a field is null; `source`, the view that begins at the
-- table which holds the field; `sort`, by what else rows are sorted that are to be sorted by it, where that is the same order
-- and easier; whether every row has one (`always`); and what an index finds rows by that have a value (`narrow`): a column that
-- only the programs see, and what it is for a value. '' is the list itself, which is empty without its ACL.
drop function if exists list_fields();
create function list_fields()
    returns table (list text, field text, acl text, source text, sort text[], always boolean, narrow text[])
language sql immutable as $$
    select v.*, case when v.field = 'mac' then '{mac_tail,mac_tail}'::text[] end from (values
        ('vm', '', 'vm.see-main.', null::text, null::text[], true),
        ('vm', 'id', null, null, null, true),
        ('vm', 'name', null, null, null, true),
        ('vm', 'vm', null, null, '{user,tenant,name}', true),
        ('vm', 'tenant', null, null, null, true),
        ('vm', 'user_id', 'vm.see.user.', null, null, true),
        ('vm', 'user', 'vm.see.user.', null, null, true),
        ('vm', 'osf_id', 'vm.see.osf.', null, null, true),
        ('vm', 'osf', 'vm.see.osf.', null, null, true),
        ('vm', 'tag', 'vm.see.di-tag.', null, null, true),
        ('vm', 'di_tag', 'vm.see.di-tag.', null, null, true),
        ('vm', 'blocked', 'vm.see.block.', 'vm_running_fields', null, true),
        ('vm', 'state', 'vm.see.state.', 'vm_running_fields', null, true),
        ('vm', 'user_state', 'vm.see.user-state.', 'vm_running_fields', null, true),
        ('vm', 'command', 'vm.see.state.', 'vm_running_fields', null, false),
        ('vm', 'since', 'vm.see.state.', 'vm_running_fields', null, true),
        ('vm', 'reason', 'vm.see.state.', 'vm_running_fields', null, false),
        ('vm', 'host_id', 'vm.see.host.', 'vm_running_fields', null, false),
        ('vm', 'host', 'vm.see.host.', 'vm_running_fields', null, false),
        ('vm', 'di_id', 'vm.see.di.', null, null, false),
        ('vm', 'di', 'vm.see.di.', null, null, false),
        ('vm', 'di_version', 'vm.see.di-version.', null, null, false),
        ('vm', 'di_id_in_use', 'vm.see.di.', 'vm_running_fields', null, false),
        ('vm', 'di_in_use', 'vm.see.di-version.', 'vm_running_fields', null, false),
        ('vm', 'ip', 'vm.see.ip.', null, null, true),
        ('vm', 'ip_in_use', 'vm.see.ip.', 'vm_running_fields', null, false),
        ('vm', 'next_boot_ip', 'vm.see.next-boot-ip.', null, null, true),
        ('vm', 'mac', 'vm.see.mac.', null, '{ip}', true),
        ('vm', 'expiration_soft', 'vm.see.expiration.', 'vm_running_fields', null, false),
        ('vm', 'expiration_hard', 'vm.see.expiration.', 'vm_running_fields', null, false),
        ('vm', 'time_until_expiration_soft', 'vm.see.expiration.', 'vm_running_fields', '{expiration_soft}', false),
        ('vm', 'time_until_expiration_hard', 'vm.see.expiration.', 'vm_running_fields', '{expiration_hard}', false),
        ('vm', 'description', 'vm.see.description.', null, null, false),
        ('vm', 'creation_date', 'vm.see.creation-date.', null, '{id}', false),
        ('vm', 'created_by', 'vm.see.created-by.', null, null, false),
        ('vm', 'properties', 'vm.see.properties.', null, null, false),
        ('user', '', 'user.see-main.', null, null, true),
        ('user', 'id', null, null, null, true),
        ('user', 'name', null, null, null, true),
        ('user', 'user', null, null, '{name,tenant}', true),
        ('user', 'tenant', null, null, null, true),
        ('user', 'blocked', 'user.see.block.', null, null, true),
        ('user', 'description', 'user.see.description.', null, null, false),
        ('user', 'number_of_vms', 'user.see.vms-info.', 'user_counted_fields', null, true),
        ('user', 'number_of_vms_connected', 'user.see.vms-info.', 'user_counted_fields', null, true),
        ('user', 'creation_date', 'user.see.creation-date.', null, '{id}', false),
        ('user', 'created_by', 'user.see.created-by.', null, null, false),
        ('user', 'properties', 'user.see.properties.', null, null, false),
        ('log', '', 'log.see-main.', null, null, true),
        ('log', 'id', null, null, null, true),
        ('log', 'time', null, null, null, true),
        ('log', 'admin_name', 'log.see.administrator.', null, null, false),
        ('log', 'source', 'log.see.source.', null, null, false),
        ('log', 'address', 'log.see.address.', null, null, false),
        ('log', 'arguments', 'log.see.call-arguments.', null, null, false),
        ('session', '', 'vm.see.user-state.', null, null, true),
        ('session', 'id', null, null, null, true),
        ('session', 'vm', null, null, null, true),
        ('session', 'started_at', null, null, '{id}', true))
        v (list, field, acl, source, sort, always)
$$;

-- The names of hosts: a tenant's administrator sees where his VMs run, and nothing else of hosts.
create or replace function host_names() returns table (id integer, name text)
language plpgsql stable security definer rows 20 set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return query select h.id, h.name from hosts h
        where (select sees_all()) or exists (
            select from vm_runtimes r where r.host_id = h.id and r.tenant_id = (select my_tenant()));
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

-- What a hardware address ends with, as the column of this name holds it.
create or replace function mac_tail(mac text) returns text
language sql immutable strict parallel safe as $$ select right(translate(lower(mac), ':-.', ''), 6) $$;

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
