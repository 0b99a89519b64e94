-- What the other functions stand on: configuration values, the audit log, names.
-- Functions that commands and connections wait for are plpgsql even where SQL would do: plpgsql keeps its plans for
-- the session, an SQL function with a search path of its own is planned anew at every call. Their arguments are keys,
-- so one plan fits all values, and planning would take longer than doing.

-- Whether what is kept under a key of the configuration, or as a property, could be used to become somebody. It is
-- written by functions and read by those who need it alone (see grants.sql).
create or replace function is_secret(key text) returns boolean
language sql immutable parallel safe as $$
    select key in ('auth.ldap.bindpass', 'l7r.auth.plugin.totp.secret32')
$$;

-- What every key of the configuration means for everybody: its row in `configs`, else the programs' default.
create or replace view settings as
    select k.key, coalesce(c.value, k.default_value) as value
    from config_keys k left join configs c on c.key = k.key and c.tenant_id = -1;

-- The tenant that something is made in: the one that is named, else that of who acts, else the first.
create or replace function tenant_for(wanted text) returns integer
language plpgsql stable set search_path = qvd, pg_temp as $$
begin
    return case when wanted is not null or my_tenant() = 0 or my_tenant() is null
        then tenant_id(coalesce(wanted, 'default')) else my_tenant() end;
end $$;

-- The value of a configuration key: the tenant's, else everybody's, else the programs' default. Secrets are not told.
create or replace function config_get(wanted text, tenant integer default -1) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if is_secret(wanted) then
        return null;
    end if;
    return (
        select coalesce(
        (select value from configs where key = wanted and tenant_id = tenant),
        (select value from configs where key = wanted and tenant_id = -1),
        (select default_value from config_keys where key = wanted)));
end $$;

-- A configuration value in seconds as a number; 0 where it is none, such as a reference that only the programs follow.
create or replace function seconds(value text) returns float8
language sql immutable parallel safe as $$ select coalesce(substring(value from '^[0-9]+(?:[.][0-9]+)?$')::float8, 0) $$;

-- What is left of a number of failed starts some time later.
create or replace function failed_starts_left(starts real, since timestamptz) returns float8
language sql stable parallel safe as $$
    select case when starts < 0.01 then 0 else starts * 0.5 ^ (extract(epoch from now() - since)::float8 / 60) end
$$;

-- What a node and the agent in a VM share for one run.
create or replace function fresh_secret() returns bytea
language sql volatile as $$ select uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) $$;

-- What is said to those who wait: what kind of thing changed and which, never what it holds.
create or replace function wake_payload(kind text, id bigint, tenant integer) returns text
language sql stable parallel safe as $$
    select '{"v":1,"kind":"' || kind || '"' || coalesce(',"id":' || id, '') || coalesce(',"tenant":' || tenant, '') || '}'
$$;

-- Listens to what administrators see. What changed before it returns is on record by then. Who watches holds all 32 locks, and
-- who changes something looks at one: processes of the server that change something at the same time must not take each other
-- for somebody who watches.
create or replace function watch() returns void
language plpgsql as $$
begin
    listen qvd_admin;
    perform pg_advisory_lock_shared(hashtext('qvd.watch'), n) from generate_series(0, 31) n;
end $$;

-- What administrators hear of a transaction that changes much names no ids after the first hundred: then there is one notification
-- for each kind and tenant, since the server sends equal ones once.
create or replace function merged(channel text, payload text) returns text
language plpgsql as $$
declare
    told integer;
begin
    if channel <> 'qvd_admin' then
        return payload;
    end if;
    told := coalesce(nullif(current_setting('qvd.told', true), ''), '0')::integer;
    if told >= 100 then
        return regexp_replace(payload, ',"id":[0-9]+', '');
    end if;
    perform set_config('qvd.told', (told + 1)::text, true);
    return payload;
end $$;

-- The one place that notifies. Plain SQL that names its payload once, so that it is taken into what calls it and costs nothing
-- but its content. A notification wakes every process of the
-- server that listens to anything, so administrators are notified only while one watches; who begins to, waits for those who
-- found nobody. Says whether it notified: what has a value plpgsql works out by itself, without a statement.
drop function if exists announce(text, text);
create function announce(channel text, payload text) returns boolean
language sql volatile as $$
    select case
        when channel <> 'qvd_admin' or not pg_try_advisory_xact_lock(hashtext('qvd.watch'), pg_backend_pid() & 31)
        then pg_notify(channel, qvd.merged(channel, payload))
    end is not null
$$;

-- Wakes whoever waits on `channel`.
create or replace function wake(channel text, kind text, id bigint, tenant integer default null) returns void
language plpgsql as $$
begin
    perform qvd.announce(channel, qvd.wake_payload(kind, id, tenant));
end $$;

create or replace function tenant_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    found_id integer;
begin
    select id into found_id from tenants where name = wanted and reaches(id);
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
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    ids integer[];
    candidates text;
begin
    select array_agg(u.id), string_agg(u.login || '@' || t.name, ', ' order by t.name)
    into ids, candidates
    from users u join tenants t on t.id = u.tenant_id, name_and_tenant(wanted) n
    where u.login = n.name and t.name = coalesce(n.tenant, t.name) and reaches(t.id);
    if ids is null then
        raise exception 'there is no user %', wanted using errcode = 'QV010', hint = 'select login from users;';
    elsif cardinality(ids) > 1 then
        raise exception 'user % is ambiguous: %', wanted, candidates using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- The OSF that `name[@tenant]` means.
create or replace function osf_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    ids integer[];
    candidates text;
begin
    select array_agg(o.id), string_agg(o.name || '@' || t.name, ', ' order by t.name)
    into ids, candidates
    from osfs o join tenants t on t.id = o.tenant_id, name_and_tenant(wanted) n
    where o.name = n.name and t.name = coalesce(n.tenant, t.name) and reaches(t.id);
    if ids is null then
        raise exception 'there is no OSF %', wanted using errcode = 'QV010', hint = 'select name from osfs;';
    elsif cardinality(ids) > 1 then
        raise exception 'OSF % is ambiguous: %', wanted, candidates using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- The VM that `login[@tenant]/vm` means.
create or replace function vm_id(wanted text) returns integer
language plpgsql stable as $$
declare
    wanted_login text := split_part(split_part(wanted, '/', 1), '@', 1);
    wanted_tenant text := split_part(split_part(wanted, '/', 1), '@', 2);
    wanted_name text := split_part(wanted, '/', 2);
    ids integer[];
begin
    if position('/' in wanted) = 0 then
        raise exception '% names no VM', wanted
            using errcode = 'QV010', hint = 'Write login/vm or login@tenant/vm.';
    end if;
    ids := array(
        select v.id from qvd.vms v join qvd.users u on u.id = v.user_id join qvd.tenants t on t.id = u.tenant_id
        where u.login = wanted_login and v.name = wanted_name and wanted_tenant in ('', t.name) and qvd.reaches(t.id));
    if ids = '{}' then
        raise exception 'there is no VM %', wanted using errcode = 'QV010', hint = 'select vm from vm_list;';
    elsif cardinality(ids) > 1 then
        raise exception 'VM % is ambiguous: %', wanted,
            (select string_agg(name, ', ' order by name) from unnest(ids) id, qvd.vm_name(id) name) using errcode = 'QV011', hint = 'Name the tenant.';
    end if;
    return ids[1];
end $$;

-- How people call a VM.
create or replace function vm_name(wanted integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (
        select u.login || '@' || t.name || '/' || v.name
    from vms v join users u on u.id = v.user_id join tenants t on t.id = u.tenant_id
    where v.id = wanted and reaches(t.id));
end $$;
