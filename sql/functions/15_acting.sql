-- Who acts. It follows from the role that is logged in, and from nothing that this role could set; only `qvd_wat` names an
-- administrator. Policies and functions ask for it once in a statement: `(select my_tenant())`.

-- The administrator who acts; null: nobody, or a program. Whoever owns the database or is `qvd_admin` acts as the recovery
-- administrator (0) with all rights.
create or replace function me() returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    known record;
begin
    if session_user = 'qvd_wat' then
        return (
            select a.id from administrators a join tenants t on t.id = a.tenant_id
            where a.id = nullif(split_part(current_setting('qvd.acting', true), '|', 1), '')::integer and not t.blocked);
    end if;
    -- In one query: daemons are asked, too, when something of theirs is logged.
    select a.id, a.tenant_id,
        pg_has_role(session_user, 'qvd_admin', 'member') or pg_has_role(session_user, n.nspowner, 'member') as owns
    into known
    from pg_namespace n left join administrators a on a.role_name = session_user where n.nspname = 'qvd';
    if known.id is not null then
        return (select known.id from tenants t where t.id = known.tenant_id and not t.blocked);
    end if;
    return case when known.owns then 0 end;
end $$;

-- Whether who acts is held by no tenant: a superadministrator, a reader of everything, a program. What they may do is said
-- by grants and ACLs.
create or replace function sees_all() returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    acting integer := me();
begin
    if acting is not null then
        return (select a.tenant_id = 0 from administrators a where a.id = acting);
    end if;
    return session_user <> 'qvd_wat'
        and (pg_has_role(session_user, 'qvd_readonly', 'member') or pg_has_role(session_user, 'qvd_node', 'member')
            or pg_has_role(session_user, 'qvd_l7r', 'member'))
        and not exists (select from administrators a where a.role_name = session_user);
end $$;

-- The tenant of who acts; null: none.
create or replace function my_tenant() returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (select a.tenant_id from administrators a where a.id = me());
end $$;

-- Whether an object of a tenant is there for who acts.
create or replace function reaches(tenant integer) returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    acting constant integer := me();
begin
    if acting is null then
        return sees_all();
    end if;
    return coalesce((select a.tenant_id in (0, tenant) from administrators a where a.id = acting), false);
end $$;

-- Lets `qvd_wat` act in an administrator's name until its transaction ends.
create or replace function act_as(administrator integer, address inet, source text) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
begin
    select a.tenant_id, t.blocked into target
    from administrators a join tenants t on t.id = a.tenant_id where a.id = administrator;
    if session_user <> 'qvd_wat' then
        raise exception 'only the web tool acts in another''s name'
            using errcode = 'QV040', hint = 'Log in with a role of your own.';
    elsif target.tenant_id is null or target.blocked then
        raise exception 'administrator % may not enter', administrator
            using errcode = 'QV040', hint = 'He, or his tenant, was blocked or deleted.';
    elsif target.tenant_id = 0 and administrator <> 0 and config_get('wat.multitenant') = '0' then
        raise exception 'there is one tenant only, and superadministrators may not enter'
            using errcode = 'QV040', hint = 'Set wat.multitenant to 1.';
    end if;
    perform set_config('qvd.acting', administrator || '|' || coalesce(host(address), '') || '|' || coalesce(source, 'WAT'), true);
end $$;

-- Who it is that does something, as the log says it.
create or replace function acting(
    out administrator integer, out name text, out superadmin boolean, out address inet, out source text
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    said text := current_setting('qvd.acting', true);
    -- Once, for daemons are nobody and their starts and claims are logged.
    who constant integer := me();
begin
    if who = 0 and session_user <> 'qvd_wat' then
        -- Known without a look at him.
        administrator := who;
        name := session_user;
        superadmin := true;
    elsif who is not null then
        select a.id, a.name, a.tenant_id = 0 into administrator, name, superadmin from administrators a where a.id = who;
    end if;
    address := inet_client_addr();
    source := coalesce(nullif(current_setting('application_name', true), ''), 'sql');
    if session_user = 'qvd_wat' and said <> '' then
        address := nullif(split_part(said, '|', 2), '')::inet;
        source := split_part(said, '|', 3);
    end if;
end $$;

-- Whether who acts has an ACL. A superuser of the database and `qvd_admin` have all; the recovery administrator, when the web
-- tool acts for him, those of administration itself; readers see. Objects of the installation are for superadministrators.
create or replace function can(acl text) returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    acting integer := me();
begin
    if acting is null then
        return acl ~ '[.]see[.-]' and acl !~ '^views' and sees_all();
    elsif acting = 0 then
        return session_user <> 'qvd_wat' or acl ~ '^(administrator|config|tenant|role)[.]';
    elsif acl ~ '^(tenant|host)[.]' and my_tenant() <> 0 then
        return false;
    end if;
    return exists (
        select from role_administrator_relations m join role_acls r on r.role_id = m.role_id
        where m.administrator_id = acting and r.acl = can.acl);
end $$;

-- Refuses who acts unless he has one of these ACLs. Programs are not asked.
create or replace function demand_any(any_of text[]) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    acl text;
begin
    if me() = 0 and session_user <> 'qvd_wat' or is_program() then
        return;
    end if;
    foreach acl in array any_of loop
        if can(acl) then
            return;
        end if;
    end loop;
    raise exception 'you may not do that: it takes the ACL %', array_to_string(any_of, ' or ')
        using errcode = 'QV040', hint = 'Ask an administrator for a role that has it.';
end $$;

create or replace function demand(acl text) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    perform demand_any(array[acl]);
end $$;

-- Whether an object of a tenant is there for who acts, whom it refuses when it is and he has not the ACL for it. Both in one,
-- with one look at who acts, for what somebody waits for.
create or replace function may_command(tenant integer, acl text) returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if me() = 0 and session_user <> 'qvd_wat' then
        return true;
    elsif not reaches(tenant) then
        return false;
    end if;
    perform demand(acl);
    return true;
end $$;

-- Whether a daemon is logged in.
create or replace function is_program() returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return me() is null and session_user <> 'qvd_wat'
        and not exists (select from administrators a where a.role_name = session_user)
        and (pg_has_role(session_user, 'qvd_node', 'member') or pg_has_role(session_user, 'qvd_l7r', 'member'));
end $$;

-- Refuses who is no superadministrator what belongs to the whole installation.
create or replace function demand_superadministrator(what text) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    if not (is_program() or me() is not null and sees_all()) then
        raise exception '% is for superadministrators', what
            using errcode = 'QV040', hint = 'It concerns all tenants.';
    end if;
end $$;
