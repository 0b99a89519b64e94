-- What the authenticators of l7r ask and write, besides the account itself (60_l7r.sql).

-- The tenant that a login names. Those that are none for users are not found.
create or replace function l7r_tenant(wanted text, out id integer, out blocked boolean)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select t.id, t.blocked into id, blocked from tenants t where t.name = wanted and t.id > 0;
end $$;

-- Presents a token. No row: there is none, or its time is over, which is also its end. One for a single use is over
-- with its first success, one to come back with when its bearer is connected; a blocked user does not use it up.
create or replace function l7r_token_use(
    presented text,
    out user_id integer, out tenant_id integer, out login text, out blocked boolean,
    out vm_id integer, out multi_use boolean, out parameters jsonb
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    held user_tokens;
    resumed user_sessions;
begin
    select * into held from user_tokens k where k.token = presented for update;
    if held.token is null then
        resumed := resumed_session(presented);
        select u.id, t.id, u.login, u.blocked or t.blocked, resumed.vm_id, false, r.parameters
        into user_id, tenant_id, login, blocked, vm_id, multi_use, parameters
        from session_resumes r, users u join tenants t on t.id = u.tenant_id
        where r.session_id = resumed.id and u.id = resumed.user_id;
        return;
    end if;
    if held.expiration <= now() then
        delete from user_tokens k where k.token = held.token;
        return;
    end if;
    select u.id, t.id, u.login, u.blocked or t.blocked, held.vm_id, held.multi_use, p.parameters
    into user_id, tenant_id, login, blocked, vm_id, multi_use, parameters
    from users u join tenants t on t.id = u.tenant_id
        left join user_auth_parameters p on p.id = held.auth_params_id
    where u.id = held.user_id;
    if not held.multi_use and not blocked then
        update user_tokens k set expiration = '-infinity' where k.token = held.token;
    end if;
end $$;

-- Sees to it that a user of a directory exists here, without a password, and has a VM of an OSF. Its name is the
-- first of <login>-1, <login>-2, … that no VM of any tenant has.
create or replace function l7r_auto(
    wanted_login text, in_tenant integer, of_osf integer, tag text, max_vms integer
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    account users;
    chosen text;
begin
    select * into account from users where login = wanted_login and tenant_id = in_tenant;
    if account.blocked or exists (select from vms where user_id = account.id and osf_id = of_osf) then
        return;
    end if;
    perform 1 from osfs where id = of_osf and tenant_id = in_tenant;
    if not found then
        raise exception 'auth.auto.osf_id names OSF %, which the tenant of % does not have', of_osf, wanted_login
            using errcode = 'QV010', hint = 'select id, name, tenant_id from osfs;';
    end if;
    -- One at a time chooses a name and an address; whoever waited looks again.
    perform pg_advisory_xact_lock(hashtext('qvd.vm_address'));
    insert into users (tenant_id, login) values (in_tenant, wanted_login)
    on conflict (login, tenant_id) do nothing;
    select * into account from users where login = wanted_login and tenant_id = in_tenant;
    if exists (select from vms where user_id = account.id and osf_id = of_osf) then
        return;
    end if;
    select candidate into chosen
    from generate_series(1, max_vms) n, concat(wanted_login, '-', n) candidate
    where not exists (select from vms where name = candidate)
    order by n limit 1;
    if chosen is null then
        raise exception 'none of the names %-1 to %-% is free for a VM', wanted_login, wanted_login, max_vms
            using errcode = 'QV013', hint = 'Raise auth.auto.max_vms.';
    end if;
    insert into vms (name, user_id, osf_id, di_tag, ip)
    values (chosen, account.id, of_osf, tag, vm_address_free());
end $$;

-- What the one-time passwords of a user are made from (base32): a property of users in the user's own tenant.
create or replace function l7r_totp_secret(
    wanted_login text, in_tenant integer, out user_id integer, out secret text
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select u.id, p.value into user_id, secret
    from users u
        join user_properties p on p.user_id = u.id
        join qvd_object_properties_list o on o.id = p.property_id and o.qvd_object = 'user'
        join properties_list l on l.id = o.property_id and l.tenant_id = u.tenant_id
    where u.login = wanted_login and u.tenant_id = in_tenant and l.key = 'l7r.auth.plugin.totp.secret32';
end $$;

-- Uses up the one-time password of the interval that began then. False: it, or that of a later one, was used already.
create or replace function l7r_totp_use(account integer, began bigint) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    insert into totp_used as t (user_id, interval_start) values (account, began)
    on conflict (user_id) do update set interval_start = excluded.interval_start
    where t.interval_start < excluded.interval_start;
    return found;
end $$;

-- A VM of a pool that nobody has and that opens such files: its property qvd.app.file_exts lists their extensions, in
-- any notation. Which one is chance, so that those who ask at the same time rarely get the same.
create or replace function l7r_pool_find(owner integer, extension text)
returns table (id integer, name text, state vm_state, blocked boolean, is_application boolean)
language plpgsql volatile security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query select v.id, v.name::text, r.vm_state, r.blocked, o.is_application
    from vms v join vm_runtimes r on r.vm_id = v.id join osfs o on o.id = v.osf_id
    where v.user_id = owner and r.real_user_id is null and not r.blocked
        and r.user_state = 'disconnected' and r.vm_state in ('stopped', 'running')
        and lower(extension) = any (
            regexp_split_to_array(lower(vm_effective_properties(v.id) ->> 'qvd.app.file_exts'), '[^[:alnum:]_+-]+'))
    order by random() limit 1;
end $$;

-- Lends a VM of a pool, unless another has it. It comes back when it has stopped (see triggers/vm_runtimes.sql).
create or replace function l7r_pool_take(vm integer, owner integer, account integer) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update vm_runtimes r set real_user_id = account from vms v
    where v.id = r.vm_id and v.id = vm and v.user_id = owner and coalesce(r.real_user_id, account) = account;
    return found;
end $$;

create or replace function l7r_pool_has(vm integer, owner integer, account integer) returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return exists (
        select from vms v join vm_runtimes r on r.vm_id = v.id
        where v.id = vm and v.user_id = owner and r.real_user_id = account);
end $$;
