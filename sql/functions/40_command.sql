-- Administration: telling VMs what to do, and configuration.

-- The image version that a start of the VM would use now; null when there is none.
create or replace function di_for(vm integer) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (select di_id from vm_specs where vm_id = vm);
end $$;

drop function if exists vm_start_found(integer, text, integer, boolean);
create or replace function vm_start_found(spec qvd.vm_specs) returns integer language plpgsql as $$
declare
    full_name text := spec.login || '@' || spec.tenant || '/' || spec.name;
begin
    if spec.di_id is null and not exists (
        select from qvd.vm_runtimes r
        where r.vm_id = spec.vm_id and (r.vm_state in ('starting', 'running') or r.vm_cmd = 'start'))
    then
        raise exception 'VM % has no disk image: its OSF has none with its tag that is published and not blocked',
            full_name using errcode = 'QV031', hint = 'Make one with di_create(osf, path).';
    end if;
    update qvd.vm_runtimes r set host_id = coalesce(r.host_id, qvd.place(spec)), vm_cmd = 'start'
    where r.vm_id = spec.vm_id and r.vm_state not in ('starting', 'running') and r.vm_cmd is distinct from 'start';
    return spec.vm_id;
end $$;

-- Asks for a VM to be started; places it when it has no node. Returns its id. A VM that is up or on its way is left
-- alone, so asking twice is the same as asking once.
create or replace function vm_start(vm integer) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    spec vm_specs;
begin
    select * into spec from vm_specs where vm_id = vm;
    if not found or not may_command(spec.tenant_id, 'vm.update.state.') then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    return vm_start_found(spec);
end $$;

create or replace function vm_start(vm text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    wanted_login text := split_part(split_part(vm, '/', 1), '@', 1);
    wanted_tenant text := split_part(split_part(vm, '/', 1), '@', 2);
    wanted_name text := split_part(vm, '/', 2);
    specs vm_specs[] := array(
        select s from vm_specs s
        where s.login = wanted_login and s.name = wanted_name and wanted_tenant in ('', s.tenant));
begin
    if cardinality(specs) <> 1 or not may_command(specs[1].tenant_id, 'vm.update.state.') then
        -- Says what is wrong with it, unless all but one are there for others only.
        return vm_start(vm_id(vm));
    end if;
    return vm_start_found(specs[1]);
end $$;

-- Asks for a VM to be stopped. One that waits to be started is not started.
create or replace function vm_stop(vm integer) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes where vm_id = vm for update;
    if target.vm_id is null or not may_command(target.tenant_id, 'vm.update.state.') then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    if target.vm_state = 'stopped' and target.vm_cmd = 'start' then
        update vm_runtimes set vm_cmd = null, host_id = null, vm_reason = 'the start was withdrawn' where vm_id = vm;
    elsif target.restart_due then
        update vm_runtimes set restart_due = false where vm_id = vm;
    elsif target.vm_state in ('stopped', 'stopping') or target.vm_cmd = 'stop' then
        return vm;
    else
        update vm_runtimes set vm_cmd = 'stop', vm_reason = null where vm_id = vm;
        return vm;
    end if;
    perform audit('stop', 'vm', vm, vm_name(vm), target.tenant_id);
    return vm;
end $$;

-- Asks for the user of a VM to be disconnected; the desktop goes on.
create or replace function vm_disconnect(vm integer) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes where vm_id = vm for update;
    if target.vm_id is null or not may_command(target.tenant_id, 'vm.update.disconnect-user.') then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    if target.user_state <> 'disconnected' then
        update vm_runtimes set user_cmd = 'abort' where vm_id = vm;
    end if;
    return vm;
end $$;

-- What may be asked of a VM as it is now, by who acts.
create or replace function vm_verbs(vm integer) returns text[]
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (
        select array_remove(array[
            case when can('vm.update.state.') and vm_command_allowed(r.vm_state, 'start') and not r.restart_due
                and r.vm_cmd is distinct from 'start' then 'start' end,
            case when can('vm.update.state.') and r.vm_cmd is distinct from 'stop'
                and (vm_command_allowed(r.vm_state, 'stop') or r.vm_cmd = 'start' or r.restart_due) then 'stop' end,
            case when can('vm.update.disconnect-user.') and r.user_state <> 'disconnected' and r.user_cmd is null
                then 'disconnect' end,
            case when can('vm.update.block.') then case when r.blocked then 'unblock' else 'block' end end,
            case when can('vm.delete.') then 'del' end], null)
        from vm_runtimes r where r.vm_id = vm and reaches(r.tenant_id));
end $$;

create or replace function vm_stop(vm text) returns integer language sql as $$ select vm_stop(vm_id(vm)) $$;
create or replace function vm_disconnect(vm text) returns integer language sql as $$ select vm_disconnect(vm_id(vm)) $$;

create or replace function vm_block(vm text, blocked boolean default true) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
begin
    perform demand('vm.update.block.');
    update vm_runtimes r set blocked = vm_block.blocked where r.vm_id = vm_id(vm) returning * into target;
    return target.vm_id;
end $$;

create or replace function user_block(wanted text, blocked boolean default true) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target users;
begin
    perform demand('user.update.block.');
    update users u set blocked = user_block.blocked where u.id = user_id(wanted) returning * into target;
    return target.id;
end $$;

create or replace function host_block(wanted text, blocked boolean default true) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target integer;
begin
    perform demand_superadministrator('blocking hosts');
    perform demand('host.update.block.');
    update host_runtimes r set blocked = host_block.blocked from hosts h where h.id = r.host_id and h.name = wanted
    returning r.host_id into target;
    if target is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    return target;
end $$;

-- Why `value` cannot be a value of `wanted`; null when it can.
create or replace function config_problem(wanted text, value text) returns text
language sql stable security definer set search_path = qvd, pg_temp as $$
    select case
        when value like '%${%' then null
        when unit = 'port' and not (value ~ '^[0-9]{1,5}$' and value::integer between 1 and 65535)
            then 'expected a port number from 1 to 65535'
        when unit = 'count' and value !~ '^[0-9]{1,9}$' then 'expected a whole number'
        when unit = 'seconds' and value !~ '^[0-9]+(\.[0-9]+)?$' then 'expected a number of seconds'
        when unit = '0|1' and lower(value) not in ('0', '1', 'yes', 'no', 'true', 'false', 'on', 'off', '')
            then 'expected 0 or 1'
        -- Of IPv6 only the characters are looked at; the programs are stricter.
        when unit = 'address'
            and value !~ '^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}$'
            and value !~ '^(?=.*:)[0-9a-fA-F:.]{2,45}$'
            then 'expected an IP address'
        when unit = 'path' and value = '' then 'expected a path'
        when unit = 'networks' and exists (
            select from unnest(string_to_array(value, ',')) item
            where btrim(item) <> ''
                and btrim(item) !~ '^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}(/(3[0-2]|[12]?\d))?$'
                and btrim(item) !~ '^(?=.*:)[0-9a-fA-F:.]{2,45}(/(12[0-8]|1[01]\d|[1-9]?\d))?$')
            then 'expected addresses and networks such as 10.0.0.0/24'
        when unit like '%|%' and unit <> '0|1' and value <> all (string_to_array(unit, '|'))
            then 'expected one of ' || replace(unit, '|', ', ')
    end
    from config_keys where key = wanted
$$;

-- Whose value of a key somebody means to change: the tenant's that he names, else, for superadministrators, everybody's.
create or replace function config_tenant(wanted text, tenant text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    perform demand(case when wanted like 'wat.%' then 'config.wat.' else 'config.qvd.' end);
    if tenant is null and sees_all() then
        return -1;
    end if;
    return tenant_for(tenant);
end $$;

-- Sets a configuration key for everybody or one tenant. A bad value is refused; a key that no program knows is kept
-- with a warning, since other programs may.
create or replace function config_set(wanted text, new_value text, tenant text default null) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    of_tenant integer := config_tenant(wanted, tenant);
    problem text := config_problem(wanted, new_value);
begin
    if problem is not null then
        raise exception '% = %: %', wanted, new_value, problem using errcode = 'QV014';
    end if;
    if wanted like 'database.%' or wanted in ('nodename', 'path.run', 'fence.remount') then
        raise exception '% is set in the configuration file of each node, not here', wanted using errcode = 'QV014';
    end if;
    if not exists (select from config_keys where key = wanted) then
        raise warning 'no program of this version knows the key %', wanted
            using hint = 'select key, meaning from config_keys;';
    end if;
    insert into configs (tenant_id, key, value) values (of_tenant, wanted, new_value)
    on conflict (tenant_id, key) do update set value = excluded.value;
end $$;

-- Back to the default.
create or replace function config_reset(wanted text, tenant text default null) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    of_tenant integer := config_tenant(wanted, tenant);
begin
    delete from configs c where c.tenant_id = of_tenant and c.key = wanted;
end $$;

-- Sets the certificate chain and the key (PEM) that every L7R shows to its clients.
create or replace function config_ssl(certificate text, private_key text) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform demand_superadministrator('certificates');
    perform demand('config.qvd.');
    if certificate !~ '-----BEGIN CERTIFICATE-----' then
        raise exception 'the certificate is not in PEM form' using errcode = 'QV014';
    elsif private_key !~ '-----BEGIN [A-Z ]*PRIVATE KEY-----' then
        raise exception 'the private key is not in PEM form' using errcode = 'QV014';
    end if;
    insert into ssl_configs (key, value) values ('l7r.ssl.cert', certificate), ('l7r.ssl.key', private_key)
    on conflict (key) do update set value = excluded.value;
end $$;

-- Sets whose certificates clients may show: authorities, and certificates that were revoked (PEM). Null leaves what is
-- stored as it is.
create or replace function config_ssl_clients(authorities text, revoked text default null) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform demand_superadministrator('certificates');
    perform demand('config.qvd.');
    if authorities !~ '-----BEGIN CERTIFICATE-----' then
        raise exception 'the authorities are not in PEM form' using errcode = 'QV014';
    elsif revoked !~ '-----BEGIN X509 CRL-----' then
        raise exception 'the list of revoked certificates is not in PEM form' using errcode = 'QV014';
    end if;
    insert into ssl_configs (key, value)
    select key, value from (values ('l7r.ssl.ca', authorities), ('l7r.ssl.crl', revoked)) given (key, value)
    where value is not null
    on conflict (key) do update set value = excluded.value;
end $$;

-- Forgets certificate, key, authorities and revocations: every L7R shows its node's own certificate again.
create or replace function config_ssl_reset() returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform demand_superadministrator('certificates');
    perform demand('config.qvd.');
    delete from ssl_configs;
end $$;
