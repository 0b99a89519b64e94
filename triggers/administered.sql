-- Every table that administrators change: changes are logged, one entry for each object, and who makes them by hand is asked
-- for the ACLs. Statements are looked at as a whole; of VMs and hosts at runtime (below) only what administrators change.

-- Arguments: the kind of object, the column that says which, and whether those who watch are told here or by the table itself.
create or replace function administered_log() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    who record;
    told integer;
begin
    if tg_op = 'UPDATE' and is_program() then
        return null;
    end if;
    select * into who from acting();
    if tg_op = 'INSERT' then
        with made as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments,
                administrator_id, administrator_name, superadmin, ip, source)
            select e.action, tg_argv[0], e.object_id, e.name, e.tenant, e.arguments,
                who.administrator, who.name, who.superadmin, who.address, who.source
            from (select to_jsonb(n) as becomes from added n) r,
                log_entry(tg_table_name, tg_argv[0], tg_argv[1], null, r.becomes) e
            where e.action is not null
            returning object_id, tenant_id)
        select count(wake('qvd_admin', tg_argv[0], m.object_id, m.tenant_id)) into told
        from (select distinct made.object_id, made.tenant_id from made) m where tg_argv[2] = 'tell';
    elsif tg_op = 'DELETE' then
        with made as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments,
                administrator_id, administrator_name, superadmin, ip, source)
            select e.action, tg_argv[0], e.object_id, e.name, e.tenant, e.arguments,
                who.administrator, who.name, who.superadmin, who.address, who.source
            from (select to_jsonb(o) as was from gone o) r,
                log_entry(tg_table_name, tg_argv[0], tg_argv[1], r.was, null) e
            where e.action is not null
            returning object_id, tenant_id)
        select count(wake('qvd_admin', tg_argv[0], m.object_id, m.tenant_id)) into told
        from (select distinct made.object_id, made.tenant_id from made) m where tg_argv[2] = 'tell';
    else
        with made as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments,
                administrator_id, administrator_name, superadmin, ip, source)
            select e.action, tg_argv[0], e.object_id, e.name, e.tenant, e.arguments,
                who.administrator, who.name, who.superadmin, who.address, who.source
            from (select to_jsonb(o) as was, row_number() over () as n from gone o) o
                    -- Both lists have the order in which the rows were written.
                    join (select to_jsonb(n) as becomes, row_number() over () as n from added n) n using (n),
                log_entry(tg_table_name, tg_argv[0], tg_argv[1], o.was, n.becomes) e
            where e.action is not null
            returning object_id, tenant_id)
        select count(wake('qvd_admin', tg_argv[0], m.object_id, m.tenant_id)) into told
        from (select distinct made.object_id, made.tenant_id from made) m where tg_argv[2] = 'tell';
    end if;
    return null;
end $$;

-- Asks who writes by hand.
create or replace function administered_permit() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    needed text;
    all_needed text[];
begin
    if tg_op = 'INSERT' then
        all_needed := array(select distinct a from added n,
            row_acls(tg_table_name, tg_argv[0], tg_argv[1], null, to_jsonb(n)) a);
    elsif tg_op = 'DELETE' then
        all_needed := array(select distinct a from gone o,
            row_acls(tg_table_name, tg_argv[0], tg_argv[1], to_jsonb(o), null) a);
    else
        all_needed := array(
            select distinct a
            from (select to_jsonb(o) as was, row_number() over () as n from gone o) o
                join (select to_jsonb(n) as becomes, row_number() over () as n from added n) n using (n),
                row_acls(tg_table_name, tg_argv[0], tg_argv[1], o.was, n.becomes) a);
    end if;
    foreach needed in array all_needed loop
        perform demand_any(string_to_array(needed, ' '));
    end loop;
    return null;
end $$;

-- A trigger of each table for each of the two. The owner and his functions are not asked: functions ask by themselves.
do $$
declare
    t record;
    event record;
begin
    for t in select * from (values
        ('tenants', 'tenant', 'id', ''), ('users', 'user', 'id', ''), ('hosts', 'host', 'id', ''), ('osfs', 'osf', 'id', ''),
        ('dis', 'di', 'id', ''), ('vms', 'vm', 'id', ''), ('administrators', 'administrator', 'id', 'tell'),
        ('roles', 'role', 'id', 'tell'), ('properties_list', 'property', 'id', 'tell'),
        ('qvd_object_properties_list', 'property', 'property_id', 'tell'),
        ('user_properties', 'user', 'user_id', 'tell'), ('vm_properties', 'vm', 'vm_id', 'tell'),
        ('host_properties', 'host', 'host_id', 'tell'), ('osf_properties', 'osf', 'osf_id', 'tell'),
        ('di_properties', 'di', 'di_id', 'tell'), ('di_tags', 'di', 'di_id', ''),
        ('acl_role_relations', 'role', 'role_id', 'tell'), ('role_role_relations', 'role', 'inheritor_id', 'tell'),
        ('role_administrator_relations', 'administrator', 'administrator_id', 'tell'),
        ('configs', 'config', 'key', ''), ('ssl_configs', 'config', 'key', ''), ('views_setups', 'view', 'field', 'tell')
    ) v (name, kind, key, tell) loop
        for event in select * from (values
            ('insert', 'new table as added'), ('update', 'old table as gone new table as added'), ('delete', 'old table as gone')
        ) v (name, rows) loop
            execute format('create or replace trigger log_%s after %1$s on %I referencing %s for each statement
                execute function administered_log(%L, %L, %L)', event.name, t.name, event.rows, t.kind, t.key, t.tell);
            execute format('create or replace trigger permit_%s after %1$s on %I referencing %s for each statement
                when (current_user <> %L) execute function administered_permit(%L, %L)',
                event.name, t.name, event.rows, current_user, t.kind, t.key);
        end loop;
    end loop;
end $$;

-- VMs at runtime, whose rows change all the time: only what administrators change, by row and with conditions, so that nobody
-- else pays for it. A state that changes clears what belongs to it.
create or replace function vm_runtimes_log() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    -- Of one row, and without asking who it is there for: routers start VMs, too.
    name text := (select s.login || '@' || s.tenant || '/' || s.name from vm_specs s where s.vm_id = new.vm_id);
begin
    if new.blocked <> old.blocked then
        perform audit(case when new.blocked then 'block' else 'unblock' end, 'vm', new.vm_id, name, new.tenant_id,
            jsonb_build_object('old', jsonb_build_object('blocked', old.blocked), 'new', jsonb_build_object('blocked', new.blocked)));
    end if;
    if new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd then
        perform audit(new.vm_cmd::text, 'vm', new.vm_id, name, new.tenant_id,
            case when new.vm_reason is distinct from old.vm_reason and new.vm_reason is not null
                then jsonb_build_object('why', new.vm_reason) end);
    end if;
    if new.user_cmd is not null and new.user_cmd is distinct from old.user_cmd then
        perform audit('disconnect', 'vm', new.vm_id, name, new.tenant_id);
    end if;
    if (new.vm_expiration_soft, new.vm_expiration_hard) is distinct from (old.vm_expiration_soft, old.vm_expiration_hard) then
        perform audit('expire', 'vm', new.vm_id, name, new.tenant_id,
            jsonb_build_object('soft', new.vm_expiration_soft, 'hard', new.vm_expiration_hard));
    end if;
    return null;
end $$;

create or replace trigger log
    after update of blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard on vm_runtimes for each row
    when (new.vm_state = old.vm_state and (new.blocked <> old.blocked
        or new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd
        or new.user_cmd is not null and new.user_cmd is distinct from old.user_cmd and new.contender is null
        or (new.vm_expiration_soft, new.vm_expiration_hard) is distinct from (old.vm_expiration_soft, old.vm_expiration_hard)))
    execute function vm_runtimes_log();

create or replace function runtime_permit() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    col text;
begin
    for col in select c from jsonb_object_keys(to_jsonb(new)) c
        where to_jsonb(new)->c is distinct from to_jsonb(old)->c
            and c in ('blocked', 'cmd', 'vm_cmd', 'user_cmd', 'vm_expiration_soft', 'vm_expiration_hard')
    loop
        perform demand(update_acl(tg_argv[0], col));
    end loop;
    return null;
end $$;

do $$
begin
    -- Of the columns that somebody may write by hand; states and leases of nodes ask nobody.
    execute format('create or replace trigger permit
        after update of blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard on vm_runtimes for each row
        when (current_user <> %L) execute function runtime_permit(''vm'')', current_user);
    execute format('create or replace trigger permit after update of blocked, cmd on host_runtimes for each row
        when (current_user <> %L) execute function runtime_permit(''host'')', current_user);
end $$;

create or replace function host_runtimes_log() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    name text := (select h.name from hosts h where h.id = new.host_id);
begin
    if new.blocked <> old.blocked then
        perform audit(case when new.blocked then 'block' else 'unblock' end, 'host', new.host_id, name, 0);
    end if;
    if new.cmd is not null and new.cmd is distinct from old.cmd then
        perform audit(new.cmd::text, 'host', new.host_id, name, 0);
    end if;
    return null;
end $$;

create or replace trigger log after update of blocked, cmd on host_runtimes for each row
    when (new.blocked <> old.blocked or new.cmd is not null and new.cmd is distinct from old.cmd)
    execute function host_runtimes_log();
