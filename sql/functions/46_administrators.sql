-- Administrators, their roles, what they see of lists, and what tenants are as a whole.

-- Gives ACLs to roles and takes them away. `set` gives, `delete` forgets what the role says of them, `deny` takes away what is inherited.
create or replace function roles_acls(ids integer[], given jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    unknown text;
begin
    perform roles_not_fixed(ids);
    select m into unknown from (select members(given, 'set') m union select members(given, 'deny') union select members(given, 'delete')) m
    where not exists (select from acls a where a.name = m);
    if unknown is not null then
        raise exception 'there is no ACL %', unknown using errcode = 'QV010', hint = 'select name from acls;';
    end if;
    -- To forget that a role takes an ACL away is to give it.
    perform demand_having(array(select members(given, 'set') union select a.name from acl_role_relations r join acls a on a.id = r.acl_id
        where r.role_id = any (ids) and not r.positive and a.name in (select members(given, 'delete'))));
    delete from acl_role_relations r using acls a
    where r.role_id = any (ids) and a.id = r.acl_id and a.name in (select members(given, 'delete'));
    insert into acl_role_relations as r (role_id, acl_id, positive)
    select i, a.id, a.name in (select members(given, 'set'))
    from unnest(ids) i, acls a where a.name in (select members(given, 'set') union all select members(given, 'deny'))
    on conflict (role_id, acl_id) do update set positive = excluded.positive where r.positive <> excluded.positive;
end $$;

-- Nobody gives what he does not have; else whoever may give anything would have everything.
create or replace function demand_having(acls text[]) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    lacking text;
begin
    if me() = 0 then
        return;
    end if;
    -- What means nothing in his tenant is given to nobody there.
    select a into lacking from unnest(acls) a
    where not can(a) and (my_tenant() = 0 or a !~ '^(tenant|host)[.]') order by a limit 1;
    if lacking is not null then
        raise exception 'you cannot give the ACL %, which you do not have', lacking
            using errcode = 'QV040', hint = 'Ask an administrator who has it.';
    end if;
end $$;

create or replace function roles_not_fixed(ids integer[]) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    fixed text;
begin
    select r.name into fixed from roles r where r.id = any (ids) and r.fixed limit 1;
    if fixed is not null then
        raise exception 'role % is fixed', fixed using errcode = 'QV042', hint = 'Make a role that inherits it.';
    end if;
end $$;

-- Roles by name or id that who acts may give or inherit.
create or replace function role_ids(wanted jsonb, what text, of_tenant integer) returns setof integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    named text;
    found_id integer;
begin
    for named in select members(wanted, what) loop
        select r.id into found_id from roles r
        where (r.name = named or r.id::text = named) and r.tenant_id in (-1, of_tenant) order by r.tenant_id desc limit 1;
        if found_id is null then
            raise exception 'there is no role %', named using errcode = 'QV010', hint = 'select id, name from role_list;';
        end if;
        return next found_id;
    end loop;
end $$;

-- What roles inherit. A role that would come to inherit itself is refused.
create or replace function roles_inherit(ids integer[], given jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target roles;
begin
    perform roles_not_fixed(ids);
    -- One at a time, since two could close a circle together.
    perform pg_advisory_xact_lock(hashtext('qvd.roles'));
    for target in select r.* from roles r where r.id = any (ids) loop
        delete from role_role_relations m
        where m.inheritor_id = target.id and m.inherited_id in (select role_ids(given, 'delete', target.tenant_id));
        perform demand_having(array(
            select distinct e.acl from role_acls e where e.role_id in (select role_ids(given, 'set', target.tenant_id))));
        insert into role_role_relations (inheritor_id, inherited_id)
        select target.id, i from role_ids(given, 'set', target.tenant_id) i on conflict do nothing;
        if exists (
            with recursive above (id) as (
                select m.inherited_id from role_role_relations m where m.inheritor_id = target.id
                union select m.inherited_id from role_role_relations m join above a on a.id = m.inheritor_id)
            select from above where id = target.id)
        then
            raise exception 'role % would inherit itself', target.name using errcode = 'QV042', hint = 'select name, roles from role_list;';
        end if;
    end loop;
end $$;

create or replace function administrators_roles(ids integer[], given jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target administrators;
    template text;
begin
    for target in select a.* from administrators a where a.id = any (ids) loop
        delete from role_administrator_relations m
        where m.administrator_id = target.id and m.role_id in (select role_ids(given, 'delete', target.tenant_id));
        perform demand_having(array(
            select distinct e.acl from role_acls e where e.role_id in (select role_ids(given, 'set', target.tenant_id))));
        insert into role_administrator_relations (administrator_id, role_id)
        select target.id, i from role_ids(given, 'set', target.tenant_id) i on conflict do nothing;
    end loop;
    select r.name into template from role_administrator_relations m join roles r on r.id = m.role_id
    where m.administrator_id = any (ids) and r.internal limit 1;
    if template is not null then
        raise exception 'role % is a template', template using errcode = 'QV014', hint = 'Make a role that inherits it, and assign that.';
    end if;
end $$;

-- How many superadministrators can give others what they need.
create or replace function governors() returns bigint
language sql stable security definer set search_path = qvd, pg_temp as $$
    select count(distinct a.id) from administrators a
        join role_administrator_relations m on m.administrator_id = a.id
        join role_acls e on e.role_id = m.role_id
    where a.tenant_id = 0 and a.id <> 0 and e.acl = 'administrator.update.assign-role.'
$$;

-- Refuses what takes the last of them.
create or replace function governed_still(before bigint) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if before > 0 and governors() = 0 then
        raise exception 'no superadministrator would be left who can assign roles'
            using errcode = 'QV041', hint = 'Let another one have such a role first.';
    end if;
end $$;

-- Gives an administrator a role of PostgreSQL that is him, or another password to it. The password comes as a SCRAM verifier, so it
-- is in no log of the server. Only who may make roles can do that, and only the owner of the schema may call it.
create or replace function administrator_role(administrator integer, verifier text) returns text
language plpgsql set search_path = qvd, pg_temp as $$
declare
    role text := left(current_database(), 40) || '_administrator_' || administrator;
    target administrators;
begin
    select * into target from administrators a where a.id = administrator and a.id <> 0;
    if target.id is null then
        raise exception 'there is no administrator %', administrator
            using errcode = 'QV010', hint = 'select id, name from administrator_list;';
    elsif verifier not like 'SCRAM-SHA-256$%' then
        raise exception 'the password of % is no SCRAM verifier', target.name using errcode = 'QV014';
    end if;
    if not exists (select from pg_roles where rolname = role) then
        execute format('create role %I in role qvd_administrators', role);
    end if;
    execute format('alter role %I login password %L', role, verifier);
    update administrators a set role_name = role where a.id = administrator;
    return role;
end $$;

create or replace function administrator_role_drop(administrator integer) returns void
language plpgsql set search_path = qvd, pg_temp as $$
declare
    role text := left(current_database(), 40) || '_administrator_' || administrator;
begin
    update administrators a set role_name = null where a.id = administrator;
    if exists (select from pg_roles where rolname = role) then
        execute format('drop role %I', role);
    end if;
end $$;

-- The account that a name of a tenant means, with what its password is checked against, for the web tool. No row: there is none, or its
-- tenant is blocked.
create or replace function wat_administrator(
    wanted text, tenant text, out id integer, out tenant_id integer, out password text, out language language, out block integer
)
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
#variable_conflict use_column
begin
    select a.id, a.tenant_id, a.password, case a.language when 'default' then t.language else a.language end,
        case a.block when 0 then t.block else a.block end
    into id, tenant_id, password, language, block
    from administrators a join tenants t on t.id = a.tenant_id
    where a.name = wanted and t.name = wat_administrator.tenant and not t.blocked;
end $$;

-- Replaces a password hash by a stronger one of the same password, unless it was changed meanwhile.
create or replace function wat_password_upgrade(account integer, was text, becomes text) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    update administrators a set password = becomes where a.id = account and a.password = was;
    return found;
end $$;

-- Says in the log that somebody logged in, or did not get in.
create or replace function wat_login_log(wanted text, tenant text, address inet, entered boolean) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    insert into log (action, qvd_object, object_id, object_name, tenant_id, administrator_id, administrator_name, superadmin, ip, source, status)
    select 'login', 'administrator', a.id, left(wanted, 80), t.id, a.id, a.name, a.tenant_id = 0, address, 'WAT',
        case when entered then 0 else 3200 end
    from (select 1) one
        left join tenants t on t.name = wat_login_log.tenant
        left join administrators a on a.name = wanted and a.tenant_id = t.id;
end $$;

-- One's own language, page size, password and description.
create or replace function me_update(changes jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    wrong text;
begin
    select f into wrong from jsonb_object_keys(changes) f where f not in ('language', 'block', 'password', 'description');
    if wrong is not null or coalesce(me(), 0) = 0 then
        raise exception 'that is not for oneself to change: %', coalesce(wrong, 'nobody acts') using errcode = 'QV040',
            hint = 'language, block, password and description are.';
    end if;
    perform objects_set('administrator', array[me()], changes);
end $$;

-- The language and page size of one's own tenant.
create or replace function my_tenant_update(changes jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    wrong text;
begin
    perform demand('config.wat.');
    select f into wrong from jsonb_object_keys(changes) f where f not in ('language', 'block');
    if wrong is not null or my_tenant() is null then
        raise exception 'a tenant does not change that of itself: %', coalesce(wrong, 'nobody acts') using errcode = 'QV040',
            hint = 'language and block it does.';
    end if;
    perform objects_set('tenant', array[my_tenant()], changes);
end $$;

-- The ACLs of an administrator, and of roles.
create or replace function acls_of(administrator integer) returns setof text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    if administrator is distinct from me() then
        perform demand('administrator.see.acl-list.');
        if objects_mine('administrator', array[administrator]) = '{}' then
            raise exception 'there is no administrator %', administrator
                using errcode = 'QV010', hint = 'select id, name from administrator_list;';
        end if;
    elsif administrator = 0 then
        return query select a.name from acls a where can(a.name) order by 1;
        return;
    end if;
    return query
        select distinct e.acl from role_administrator_relations m join role_acls e on e.role_id = m.role_id
            join administrators a on a.id = m.administrator_id
        where m.administrator_id = administrator and (a.tenant_id = 0 or e.acl !~ '^(tenant|host)[.]')
        order by 1;
end $$;

-- The same as `can`, by the name that classic QVD has for it.
create or replace function acl_check(acl text) returns boolean
language sql stable as $$ select qvd.can(acl) $$;

-- Shows or hides a column or filter: for oneself (`mine`) or for all of the tenant (`tenant`).
create or replace function view_set(
    object text, field text, view_type view_type, device_type device_type, visible boolean, whose text default 'mine'
) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
#variable_conflict use_column
begin
    if whose = 'tenant' then
        perform demand_any(part_acls('views_setups',
            jsonb_build_object('view_type', view_type, 'device_type', device_type)));
    elsif whose <> 'mine' or my_tenant() is null then
        raise exception 'views are mine or those of the tenant, not of %', whose using errcode = 'QV014';
    end if;
    insert into views_setups (tenant_id, administrator_id, qvd_object, field, view_type, device_type, visible)
    values (my_tenant(), case whose when 'mine' then me() end, object, view_set.field, view_set.view_type, view_set.device_type,
        view_set.visible)
    on conflict (tenant_id, administrator_id, qvd_object, field, view_type, device_type)
        do update set visible = excluded.visible;
exception when check_violation then
    raise exception 'there is no list of %, or no such field', object using errcode = 'QV014', hint = 'user, vm, host, osf, di …';
end $$;

-- The columns of one's own list of something: which are shown and which are not; of others, and of all when nothing is said,
-- it is as the tenant or the program has it.
create or replace function view_columns(object text, device device_type, shown text[], hidden text[]) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
#variable_conflict use_column
begin
    if my_tenant() is null then
        raise exception 'views are somebody''s' using errcode = 'QV014', hint = 'Log in as an administrator.';
    end if;
    delete from views_setups v
    where v.tenant_id = my_tenant() and v.administrator_id = me() and v.qvd_object = object and v.view_type = 'list_column'
        and v.device_type = device and v.field <> all (shown || hidden);
    insert into views_setups as v (tenant_id, administrator_id, qvd_object, field, view_type, device_type, visible)
    select my_tenant(), me(), object, f.field, 'list_column', device, bool_or(f.field = any (shown))
    from unnest(shown || hidden) with ordinality f (field, n) group by f.field order by min(f.n)
    on conflict (tenant_id, administrator_id, qvd_object, field, view_type, device_type)
        do update set visible = excluded.visible where v.visible <> excluded.visible;
exception when check_violation then
    raise exception 'there is no list of %, or no such field', object using errcode = 'QV014', hint = 'user, vm, host, osf, di …';
end $$;

-- Back to what the tenant says, or to what comes with the program.
create or replace function view_reset(object text default null, whose text default 'mine') returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if whose = 'tenant' then
        perform demand('views.update.columns.');
    end if;
    delete from views_setups v where v.tenant_id = my_tenant() and (object is null or v.qvd_object = object)
        and v.administrator_id is not distinct from case whose when 'mine' then me() end;
end $$;

-- A tenant with everything in it. Refused while a VM of it is up.
create or replace function tenant_purge(wanted integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform demand_superadministrator('purging tenants');
    perform demand('tenant.purge.');
    if objects_mine('tenant', array[wanted]) = '{}' then
        raise exception 'there is no tenant %', wanted using errcode = 'QV010', hint = 'select id, name from tenant_list;';
    elsif exists (select from vm_runtimes r where r.tenant_id = wanted and (r.vm_state <> 'stopped' or r.vm_cmd is not null)) then
        raise exception 'VMs of tenant % are up', wanted using errcode = 'QV022', hint = 'Block the tenant and stop them first.';
    end if;
    delete from vms v where v.tenant_id = wanted;
    insert into di_leftovers (place, path)
    select distinct storage_place(h.id), d.path from hosts h, dis d join osfs o on o.id = d.osf_id where o.tenant_id = wanted
    on conflict do nothing;
    delete from dis d using osfs o where o.id = d.osf_id and o.tenant_id = wanted;
    delete from osfs o where o.tenant_id = wanted;
    delete from users u where u.tenant_id = wanted;
    delete from properties_list l where l.tenant_id = wanted;
    delete from administrators a where a.tenant_id = wanted;
    delete from role_role_relations m using roles r where r.id = m.inheritor_id and r.tenant_id = wanted;
    delete from roles r where r.tenant_id = wanted;
    perform objects_remove('tenant', array[wanted]);
    perform storage_wake(null);
end $$;

-- Counts of what who acts may see counted; what he lacks the ACL for is not there.
create or replace function statistics() returns jsonb
language plpgsql stable set search_path = qvd, pg_temp as $$
declare
    found jsonb := '{}';
begin
    if can('user.stats.summary.') then
        found := found || jsonb_build_object('users', (select count(*) from users));
    end if;
    if can('user.stats.blocked.') then
        found := found || jsonb_build_object('blocked_users', (select count(*) from users where blocked));
    end if;
    if can('user.stats.connected-users.') then
        found := found || jsonb_build_object('connected_users', (
            select count(distinct v.user_id) from vms v join vm_runtimes r on r.vm_id = v.id where r.user_state = 'connected'));
    end if;
    if can('vm.stats.summary.') then
        found := found || jsonb_build_object('vms', (select count(*) from vms));
    end if;
    if can('vm.stats.blocked.') then
        found := found || jsonb_build_object('blocked_vms', (select count(*) from vm_runtimes where blocked));
    end if;
    if can('vm.stats.running-vms.') then
        found := found || jsonb_build_object('running_vms', (select count(*) from vm_runtimes where vm_state = 'running'));
    end if;
    if can('vm.stats.close-to-expire.') then
        found := found || jsonb_build_object('vms_with_expiration_date', (
            select coalesce(jsonb_agg(to_jsonb(x) order by x.expires), '[]') from (
                select v.id, v.name, least(r.vm_expiration_soft, r.vm_expiration_hard) as expires,
                    r.vm_expiration_soft, r.vm_expiration_hard
                from vms v join vm_runtimes r on r.vm_id = v.id
                where least(r.vm_expiration_soft, r.vm_expiration_hard) > now() order by expires limit 20) x));
    end if;
    if can('osf.stats.summary.') then
        found := found || jsonb_build_object('osfs', (select count(*) from osfs));
    end if;
    if can('di.stats.summary.') then
        found := found || jsonb_build_object('dis', (select count(*) from dis));
    end if;
    if can('di.stats.blocked.') then
        found := found || jsonb_build_object('blocked_dis', (select count(*) from dis where blocked));
    end if;
    if can('host.stats.summary.') then
        found := found || jsonb_build_object('hosts', (select count(*) from hosts));
    end if;
    if can('host.stats.blocked.') then
        found := found || jsonb_build_object('blocked_hosts', (select count(*) from host_runtimes where blocked));
    end if;
    if can('host.stats.running-hosts.') then
        found := found || jsonb_build_object('running_hosts', (select count(*) from host_runtimes where state = 'running'));
    end if;
    if can('host.stats.top-hosts-most-vms.') then
        found := found || jsonb_build_object('top_populated_hosts', (
            select coalesce(jsonb_agg(to_jsonb(x)), '[]') from (
                select h.id, h.name, count(*) as number_of_vms from vm_runtimes r join hosts h on h.id = r.host_id
                where r.vm_state <> 'stopped' group by h.id order by 3 desc, h.name limit 6) x));
    end if;
    return found;
end $$;
