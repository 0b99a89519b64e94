-- What the other functions stand on: configuration values, the audit log, names.

-- The value of a configuration key: the tenant's, else everybody's, else the programs' default.
create or replace function config_get(wanted text, tenant integer default -1) returns text
language sql stable security definer set search_path = qvd, pg_temp as $$
    select coalesce(
        (select value from configs where key = wanted and tenant_id = tenant),
        (select value from configs where key = wanted and tenant_id = -1),
        (select default_value from config_keys where key = wanted))
$$;

create or replace function audit(
    action text, object text, id integer, name text, tenant integer, arguments jsonb default null
) returns void
language sql security definer set search_path = qvd, pg_temp as $$
    insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
    values (action, object, id, name, tenant, arguments)
$$;

-- Wakes whoever waits on `channel`. Payloads say what kind of thing changed and which, never what it holds.
create or replace function wake(channel text, kind text, id bigint, tenant integer default null) returns void
language sql as $$
    select pg_notify(channel,
        jsonb_strip_nulls(jsonb_build_object('v', 1, 'kind', kind, 'id', id, 'tenant', tenant))::text)
$$;

create or replace function tenant_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    found_id integer;
begin
    select id into found_id from tenants where name = wanted;
    if found_id is null then
        raise exception 'there is no tenant %', wanted
            using errcode = 'QV010', hint = 'select name from tenants;';
    end if;
    return found_id;
end $$;

-- `name[@tenant]` taken apart; the tenant is null when it is not named.
create or replace function name_and_tenant(wanted text, out name text, out tenant text)
language sql immutable as $$
    select split_part(wanted, '@', 1), nullif(split_part(wanted, '@', 2), '')
$$;

-- The user that `login[@tenant]` means. Without a tenant the login must exist only once.
create or replace function user_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    ids integer[];
    candidates text;
begin
    select array_agg(u.id), string_agg(u.login || '@' || t.name, ', ' order by t.name)
    into ids, candidates
    from users u join tenants t on t.id = u.tenant_id, name_and_tenant(wanted) n
    where u.login = n.name and t.name = coalesce(n.tenant, t.name);
    if ids is null then
        raise exception 'there is no user %', wanted using errcode = 'QV010', hint = 'select login from users;';
    elsif cardinality(ids) > 1 then
        raise exception 'user % is ambiguous: %', wanted, candidates using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- The OSF that `name[@tenant]` means.
create or replace function osf_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    ids integer[];
    candidates text;
begin
    select array_agg(o.id), string_agg(o.name || '@' || t.name, ', ' order by t.name)
    into ids, candidates
    from osfs o join tenants t on t.id = o.tenant_id, name_and_tenant(wanted) n
    where o.name = n.name and t.name = coalesce(n.tenant, t.name);
    if ids is null then
        raise exception 'there is no OSF %', wanted using errcode = 'QV010', hint = 'select name from osfs;';
    elsif cardinality(ids) > 1 then
        raise exception 'OSF % is ambiguous: %', wanted, candidates using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- The VM that `login[@tenant]/vm` means.
create or replace function vm_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    ids integer[];
    candidates text;
begin
    if position('/' in wanted) = 0 then
        raise exception '% names no VM', wanted
            using errcode = 'QV010', hint = 'Write login/vm or login@tenant/vm.';
    end if;
    select array_agg(v.id), string_agg(u.login || '@' || t.name || '/' || v.name, ', ' order by t.name)
    into ids, candidates
    from vms v join users u on u.id = v.user_id join tenants t on t.id = u.tenant_id,
        name_and_tenant(split_part(wanted, '/', 1)) n
    where u.login = n.name and t.name = coalesce(n.tenant, t.name) and v.name = split_part(wanted, '/', 2);
    if ids is null then
        raise exception 'there is no VM %', wanted using errcode = 'QV010', hint = 'select vm from vm_list;';
    elsif cardinality(ids) > 1 then
        raise exception 'VM % is ambiguous: %', wanted, candidates using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- How people call a VM.
create or replace function vm_name(wanted integer) returns text
language sql stable security definer set search_path = qvd, pg_temp as $$
    select u.login || '@' || t.name || '/' || v.name
    from vms v join users u on u.id = v.user_id join tenants t on t.id = u.tenant_id
    where v.id = wanted
$$;
