-- The schema as migrations, functions, views, triggers and grants make it. Generated; a test compares it.

CREATE SCHEMA qvd;

CREATE TYPE qvd.device_type AS ENUM (
    'mobile',
    'desktop'
);

CREATE TYPE qvd.di_state AS ENUM (
    'new',
    'generating',
    'fail',
    'uploading',
    'upload_stalled',
    'verifying',
    'ready',
    'published',
    'retired'
);

CREATE TYPE qvd.host_cmd AS ENUM (
    'stop'
);

CREATE TYPE qvd.host_state AS ENUM (
    'stopped',
    'starting',
    'running',
    'stopping',
    'lost'
);

CREATE TYPE qvd.language AS ENUM (
    'es',
    'en',
    'auto',
    'default'
);

CREATE DOMAIN qvd.object_name AS text
	CONSTRAINT object_name_check CHECK (((VALUE ~ '^[^[:space:][:cntrl:]/@#]([^[:cntrl:]/@#]*[^[:space:][:cntrl:]/@#])?$'::text) AND (length(VALUE) <= 127)));

CREATE TYPE qvd.outcome AS (
	id integer,
	name text,
	sqlstate text,
	message text,
	hint text
);

CREATE TYPE qvd.property_object AS ENUM (
    'user',
    'vm',
    'host',
    'osf',
    'di'
);

CREATE TYPE qvd.user_cmd AS ENUM (
    'abort'
);

CREATE TYPE qvd.user_state AS ENUM (
    'disconnected',
    'connecting',
    'connected'
);

CREATE TYPE qvd.view_type AS ENUM (
    'filter',
    'list_column'
);

CREATE TYPE qvd.vm_cmd AS ENUM (
    'start',
    'stop'
);

CREATE TYPE qvd.vm_state AS ENUM (
    'stopped',
    'starting',
    'running',
    'stopping',
    'zombie',
    'debugging'
);

CREATE FUNCTION qvd.acl_check(acl text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ select qvd.can(acl) $$;

CREATE FUNCTION qvd.acl_names() RETURNS TABLE(name text)
    LANGUAGE sql IMMUTABLE
    AS $$
    select object || '.' || detail from (
    values
        ('administrator', 'create. create.language. delete. see-details. see-main. see.acl-list. see.acl-list-roles.
            see.created-by. see.creation-date. see.description. see.id. see.language. see.log. see.roles.
            update.assign-role. update.description. update.language. update.password.'),
        ('config', 'qvd. wat.'),
        ('di', 'create. create.default. create.generation. create.properties. create.tags. create.version. delete.
            see-details. see-main. see.block. see.created-by. see.creation-date. see.default. see.description.
            see.head. see.id. see.log. see.osf. see.properties. see.tags. see.version. see.vm-list.
            see.vm-list-block. see.vm-list-expiration. see.vm-list-state. see.vm-list-user-state. stats.blocked.
            stats.summary. update.auto-publish. update.block. update.default. update.description.
            update.properties. update.publish. update.tags. update.vms-expiration.'),
        ('host', 'create. create.properties. delete. see-details. see-main. see.address. see.block. see.created-by.
            see.creation-date. see.description. see.id. see.log. see.properties. see.state. see.vm-list.
            see.vm-list-block. see.vm-list-expiration. see.vm-list-state. see.vm-list-user-state. see.vms-info.
            stats.blocked. stats.running-hosts. stats.summary. stats.top-hosts-most-vms. update.address.
            update.block. update.description. update.name. update.properties. update.stop-vms.'),
        ('log', 'see-details. see-main. see.address. see.administrator. see.call-arguments. see.source.'),
        ('osf', 'create. create.memory. create.properties. create.user-storage. delete. see-details. see-main.
            see.created-by. see.creation-date. see.description. see.id. see.log. see.properties. see.di-list.
            see.di-list-block. see.di-list-default. see.di-list-default-update. see.di-list-head.
            see.di-list-tags. see.dis-info. see.memory. see.overlay. see.user-storage. see.vm-list.
            see.vm-list-block. see.vm-list-expiration. see.vm-list-state. see.vm-list-user-state. see.vms-info.
            stats.summary. update.description. update.memory. update.name. update.properties.
            update.user-storage.'),
        ('property', 'manage. see-main.'),
        ('role', 'create. delete. see-details. see-main. see.acl-list. see.acl-list-roles. see.created-by.
            see.creation-date. see.description. see.id. see.inherited-roles. see.log. update.assign-acl.
            update.assign-role. update.description. update.name.'),
        ('tenant', 'create. delete. see-details. see-main. see.block. see.blocksize. see.created-by. see.creation-date.
            see.description. see.di-list. see.di-list-block. see.di-list-tags. see.id. see.language. see.log.
            see.user-list. see.user-list-block. see.vm-list. see.vm-list-block. see.vm-list-expiration.
            see.vm-list-state. see.vm-list-user-state. update.block. update.blocksize. update.description.
            update.language. update.name. purge.'),
        ('user', 'create. create.properties. delete. see-details. see-main. see.block. see.created-by.
            see.creation-date. see.description. see.id. see.log. see.properties. see.vm-list. see.vm-list-block.
            see.vm-list-expiration. see.vm-list-state. see.vm-list-user-state. see.vms-info. stats.blocked.
            stats.connected-users. stats.summary. update.block. update.description. update.password.
            update.properties.'),
        ('views', 'see-main. update.columns. update.filters-desktop. update.filters-mobile.'),
        ('vm', 'create. create.di-tag. create.properties. delete. see-details. see-main. see.block. see.created-by.
            see.creation-date. see.description. see.di. see.di-tag. see.di-version. see.expiration. see.host.
            see.id. see.ip. see.log. see.mac. see.next-boot-ip. see.osf. see.port-serial. see.port-ssh.
            see.port-vnc. see.properties. see.state. see.user. see.user-state. stats.blocked.
            stats.close-to-expire. stats.running-vms. stats.summary. update.block. update.description.
            update.di-tag. update.disconnect-user. update.expiration. update.name. update.properties.
            update.state. spy. spy.interactive.')

    ) n (object, details), regexp_split_to_table(details, '\s+') detail
$$;

CREATE FUNCTION qvd.acls_of(administrator integer) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.act_as(administrator integer, address inet, source text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.acting(OUT administrator integer, OUT name text, OUT superadmin boolean, OUT address inet, OUT source text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.administered_log() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.administered_permit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.administrator_role(administrator integer, verifier text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
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
end $_$;

CREATE FUNCTION qvd.administrator_role_drop(administrator integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    role text := left(current_database(), 40) || '_administrator_' || administrator;
begin
    update administrators a set role_name = null where a.id = administrator;
    if exists (select from pg_roles where rolname = role) then
        execute format('drop role %I', role);
    end if;
end $$;

CREATE FUNCTION qvd.administrators_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if old.id = 0 and (tg_op = 'DELETE' or new.id <> 0 or (new.name, new.tenant_id, new.role_name)
            is distinct from (old.name, old.tenant_id, old.role_name)) then
        raise exception 'the recovery administrator stays as he is' using errcode = 'QV041', hint = 'Only his password is set, by the owner.';
    end if;
    return coalesce(new, old);
end $$;

CREATE FUNCTION qvd.administrators_roles(ids integer[], given jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.agent_time(at timestamp with time zone) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select coalesce(to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'), '')
$$;

CREATE FUNCTION qvd.announce(channel text, payload text) RETURNS boolean
    LANGUAGE sql
    AS $$
    select case
        when channel <> 'qvd_admin' or not pg_try_advisory_xact_lock(hashtext('qvd.watch'), pg_backend_pid() & 31)
        then pg_notify(channel, qvd.merged(channel, payload))
    end is not null
$$;

CREATE FUNCTION qvd.audit(action text, object text, id integer, name text, tenant integer, arguments jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    who record := acting();
begin
    insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments,
        administrator_id, administrator_name, superadmin, ip, source)
    values (audit.action, object, id, audit.name, tenant, arguments,
        who.administrator, who.name, who.superadmin, who.address, who.source);
end $$;

CREATE FUNCTION qvd.beat_try(age interval) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    -- A losing contender must not wait for the winner's lock.
    perform from beat where at < clock_timestamp() - age for update skip locked;
    if not found then
        return false;
    end if;
    update beat set at = clock_timestamp(), number = number + 1;
    return true;
end $$;

CREATE FUNCTION qvd.beat_wake() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform wake('qvd_beat', 'beat', new.number);
    return null;
end $$;

CREATE FUNCTION qvd.can(acl text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.cluster_status() RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand_superadministrator('how all nodes are');
    perform demand('host.see.state.');
    return jsonb_build_object(
        'nodes', (
            select coalesce(jsonb_object_agg(h.name, jsonb_build_object(
                'database', node_status(h.id) - 'notification_queue_usage',
                'trouble', r.events_degraded_reason,
                'node', jsonb_build_object(
                    'running', r.state = 'running' and r.ok_ts > now() - b.lapse,
                    'blocked', r.blocked,
                    'degraded', r.storage_degraded_since is not null,
                    'sign_age_s', extract(epoch from now() - r.ok_ts),
                    'free_memory_bytes', r.free_ram * 1024000,
                    'cpu_pressure', r.cpu_pressure,
                    'failed_starts', failed_starts_left(r.failed_starts, r.ok_ts)))), '{}')
            from hosts h join host_runtimes r on r.host_id = h.id, balancer b),
        'server', (
            select jsonb_build_object(
                'notification_queue_usage', pg_notification_queue_usage(),
                'connections', (select sum(numbackends) from pg_stat_database),
                'max_connections', current_setting('max_connections')::integer,
                'commits', d.xact_commit, 'rollbacks', d.xact_rollback, 'deadlocks', d.deadlocks,
                'size_bytes', pg_database_size(d.datname))
            from pg_stat_database d where d.datname = current_database()));
end $$;

CREATE FUNCTION qvd.column_acls() RETURNS TABLE(kind text, col text, acl text)
    LANGUAGE sql IMMUTABLE
    AS $$
    values ('tenant', 'name', 'tenant.update.name.'), ('tenant', 'description', 'tenant.update.description.'),
        ('tenant', 'blocked', 'tenant.update.block.'), ('tenant', 'block', 'tenant.update.blocksize.'),
        ('tenant', 'language', 'tenant.update.language.'),
        ('user', 'password', 'user.update.password.'), ('user', 'blocked', 'user.update.block.'),
        ('user', 'description', 'user.update.description.'),
        ('host', 'name', 'host.update.name.'), ('host', 'address', 'host.update.address.'),
        ('host', 'description', 'host.update.description.'), ('host', 'blocked', 'host.update.block.'),
        ('host', 'cmd', 'host.update.stop-vms.'),
        ('osf', 'name', 'osf.update.name.'), ('osf', 'memory', 'osf.update.memory.'),
        ('osf', 'user_storage_size', 'osf.update.user-storage.'), ('osf', 'description', 'osf.update.description.'),
        ('di', 'blocked', 'di.update.block.'), ('di', 'description', 'di.update.description.'),
        ('di', 'auto_publish', 'di.update.auto-publish.'), ('di', 'tag', 'di.update.tags.'),
        ('di', 'default', 'di.update.default.'), ('di', 'expiration', 'di.update.vms-expiration.'),
        ('vm', 'name', 'vm.update.name.'), ('vm', 'di_tag', 'vm.update.di-tag.'),
        ('vm', 'description', 'vm.update.description.'), ('vm', 'blocked', 'vm.update.block.'),
        ('vm', 'vm_cmd', 'vm.update.state.'), ('vm', 'user_cmd', 'vm.update.disconnect-user.'),
        ('vm', 'vm_expiration_soft', 'vm.update.expiration.'), ('vm', 'vm_expiration_hard', 'vm.update.expiration.'),
        ('vm', 'keep_running', 'vm.update.state.'),
        ('administrator', 'password', 'administrator.update.password.'),
        ('administrator', 'language', 'administrator.update.language.'),
        ('administrator', 'description', 'administrator.update.description.'),
        ('role', 'name', 'role.update.name.'), ('role', 'description', 'role.update.description.')
$$;

CREATE FUNCTION qvd.config_get(wanted text, tenant integer DEFAULT '-1'::integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.config_problem(wanted text, value text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION qvd.config_reset(wanted text, tenant text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    of_tenant integer := config_tenant(wanted, tenant);
begin
    delete from configs c where c.tenant_id = of_tenant and c.key = wanted;
end $$;

CREATE FUNCTION qvd.config_set(wanted text, new_value text, tenant text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.config_ssl(certificate text, private_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.config_ssl_clients(authorities text, revoked text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.config_ssl_reset() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform demand_superadministrator('certificates');
    perform demand('config.qvd.');
    delete from ssl_configs;
end $$;

CREATE FUNCTION qvd.config_tenant(wanted text, tenant text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand(case when wanted like 'wat.%' then 'config.wat.' else 'config.qvd.' end);
    if tenant is null and sees_all() then
        return -1;
    end if;
    return tenant_for(tenant);
end $$;

CREATE FUNCTION qvd.configs_balancer() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    update balancer set (plugin, ram_weight, cpu_weight, random_weight, lapse, same_user, same_home) = (
        select
            max(value) filter (where key = 'l7r.loadbalancer.plugin'),
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.ram')::float8,
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.cpu')::float8,
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.random')::float8,
            max(value) filter (where key = 'internal.hkd.lease.lapse')::float8 * interval '1 second',
            coalesce(lower(max(value) filter (where key = 'l7r.loadbalancer.plugin.load.same_user'))
                in ('1', 'yes', 'true', 'on'), false),
            coalesce(lower(max(value) filter (where key = 'vm.lxc.home.per.user')) in ('1', 'yes', 'true', 'on'), false)
        from settings);
    return null;
end $$;

CREATE FUNCTION qvd.configs_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    problem text := config_problem(new.key, new.value);
begin
    if problem is not null then
        raise exception '% = %: %', new.key, new.value, problem using errcode = 'QV014';
    elsif new.key = 'l7r.loadbalancer.plugin'
        and to_regprocedure(format('qvd.%I(integer)', 'place_' || new.value)) is null then
        raise exception '% = %: there is no function place_%(vm integer)', new.key, new.value, new.value
            using errcode = 'QV014', hint = 'default and load are there; write another in schema qvd.';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.configs_wake() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform wake('qvd_config', 'config', null, coalesce(new.tenant_id, old.tenant_id));
    perform wake('qvd_admin', 'config', null, coalesce(new.tenant_id, old.tenant_id));
    return null;
end $$;

CREATE FUNCTION qvd.created(kind text, wanted integer, OUT at timestamp with time zone, OUT by_whom text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    select l.time, case when coalesce(l.superadmin, true) and not sees_all() then '*'
        else coalesce(l.administrator_name, l.actor) end
    into at, by_whom
    from log l where l.qvd_object = kind and l.object_id = wanted and l.action = 'create' and reaches(l.tenant_id)
    order by l.id desc limit 1;
end $$;

CREATE FUNCTION qvd.database_restored(complete boolean DEFAULT false) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    node integer;
    used record;
    up integer := 0;
begin
    if not complete then
        for node in select host_id from host_runtimes order by host_id loop
            -- Lives are begun less often than once in a second, so the time is beyond all that were begun since the backup.
            update host_runtimes r
            set epoch = greatest(r.epoch + 1, extract(epoch from clock_timestamp())::bigint), pid = null,
                state = case when r.state in ('stopped', 'lost') then r.state else 'lost' end
            where r.host_id = node;
            up := up + cardinality(host_forget(node, 'the database was restored from a backup'));
        end loop;
        update l7r_instances set ended_at = now() where ended_at is null;
        delete from user_tokens;
        delete from session_resumes;
        for used in select format('%I.%I', schemaname, sequencename) as name, coalesce(last_value, 0) as value
            from pg_sequences where schemaname = 'qvd' loop
            perform setval(used.name, used.value + 100000);
        end loop;
    end if;
    insert into versions select 'server', system_identifier::text from pg_control_system()
    on conflict (component) do update set version = excluded.version;
    perform audit('restored', 'database', null, current_database(), 0, jsonb_build_object('complete', complete, 'vms', up));
    return up;
end $$;

CREATE FUNCTION qvd.demand(acl text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand_any(array[acl]);
end $$;

CREATE FUNCTION qvd.demand_any(any_of text[]) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.demand_having(acls text[]) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.demand_owning(tenant integer, what text) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
begin
    if tenant <= 0 then
        raise exception 'the tenant of superadministrators has no %', what
            using errcode = 'QV014', hint = 'Name another tenant.';
    end if;
end $$;

CREATE FUNCTION qvd.demand_superadministrator(what text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if not (is_program() or me() is not null and sees_all()) then
        raise exception '% is for superadministrators', what
            using errcode = 'QV040', hint = 'It concerns all tenants.';
    end if;
end $$;

CREATE FUNCTION qvd.di_affected(wanted text) RETURNS TABLE(vm_id integer, name text, state qvd.vm_state, user_state qvd.user_state, host text, version text, expiration_soft timestamp with time zone, expiration_hard timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target integer := di_id(wanted);
begin
    perform demand_any(array['di.update.publish.', 'di.see.vm-list.']);
    return query
    select v.id, vm_name(v.id),
        case when (select can('di.see.vm-list-state.')) then r.vm_state end,
        case when (select can('di.see.vm-list-user-state.')) then r.user_state end,
        case when (select can('vm.see.host.')) then (select h.name::text from hosts h where h.id = r.host_id) end,
        case when (select can('vm.see.di-version.')) then (select c.version from dis c where c.id = r.current_di_id) end,
        case when (select can('di.see.vm-list-expiration.')) then r.vm_expiration_soft end,
        case when (select can('di.see.vm-list-expiration.')) then r.vm_expiration_hard end
    from dis d
        join di_runtimes i on i.di_id = d.id
        join vms v on v.osf_id = d.osf_id
        join vm_runtimes r on r.vm_id = v.id
        join vm_specs s on s.vm_id = v.id
    where d.id = target and not d.blocked and r.current_di_id <> d.id and r.vm_state in ('starting', 'running', 'debugging')
        and exists (select from di_tags t where t.di_id = d.id and t.tag = v.di_tag)
        and (i.state <> 'published' or s.di_id = d.id)
    order by 2;
end $$;

CREATE FUNCTION qvd.di_block(wanted text, blocked boolean DEFAULT true) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
begin
    perform demand('di.update.block.');
    select * into target from di_for_change(wanted);
    update dis d set blocked = di_block.blocked where d.id = (target.di).id;
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_check_tag(osf integer, di integer, tag text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if coalesce(tag, '') = '' or tag ~ '[/[:cntrl:]]' or length(tag) > 128 then
        raise exception 'an image cannot have the tag %', quote_nullable(tag)
            using errcode = 'QV014', hint = 'Up to 128 characters, no slash.';
    elsif exists (select from di_tags t join dis d on d.id = t.di_id
            where d.osf_id = osf and t.fixed and t.tag = di_check_tag.tag and d.id is distinct from di) then
        raise exception 'tag % is the version of another image of this OSF', tag using errcode = 'QV013';
    end if;
end $$;

CREATE FUNCTION qvd.di_create(osf text, path text, version text DEFAULT NULL::text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    of_osf integer := osf_id(osf);
    wanted text := version;
    new_id integer;
begin
    perform demand('di.create.');
    perform 1 from osfs where id = of_osf for update;
    if wanted is null then
        wanted := di_version_free(of_osf);
    end if;
    insert into dis (osf_id, path, version) values (of_osf, di_create.path, wanted) returning id into new_id;
    update di_runtimes set state = 'published', state_ts = now(), percentage = 100 where di_id = new_id;
    insert into di_tags (di_id, tag, fixed)
    values (new_id, wanted, true), (new_id, 'head', false), (new_id, 'default', false);
    -- Only now, so that at no moment a VM of the OSF has no image.
    delete from di_tags t using dis d
    where d.id = t.di_id and d.osf_id = of_osf and d.id <> new_id and t.tag in ('head', 'default') and not t.fixed;
    return new_id;
exception when unique_violation then
    raise exception 'OSF % has a version % already', osf, wanted using errcode = 'QV013';
end $$;

CREATE FUNCTION qvd.di_delete(wanted text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
    heir integer;
    dependent integer[];
    orphan integer;
begin
    perform demand('di.delete.');
    select * into target from di_for_change(wanted);
    if (target.runtime).state = 'published' then
        select d.id into heir from dis d join di_runtimes r on r.di_id = d.id
        where d.osf_id = (target.di).osf_id and d.id <> (target.di).id and r.state = 'published'
        order by d.id desc limit 1;
        insert into di_tags (di_id, tag)
        select heir, t.tag from di_tags t
        where heir is not null and t.di_id = (target.di).id and not t.fixed and t.tag in ('head', 'default')
        on conflict do nothing;
    end if;
    dependent := array(select s.vm_id from vm_specs s where s.di_id = (target.di).id);
    insert into di_leftovers (place, path)
    select distinct storage_place(h.id), (target.di).path from hosts h
    where not exists (select from dis d where d.path = (target.di).path and d.id <> (target.di).id)
    on conflict do nothing;
    delete from dis d where d.id = (target.di).id;
    select s.vm_id into orphan from vm_specs s where s.vm_id = any (dependent) and s.di_id is null order by s.vm_id limit 1;
    if orphan is not null then
        raise exception 'VM % would be left without a disk image', vm_name(orphan)
            using errcode = 'QV022', hint = 'Give its tag to another image, or the VM another tag.';
    end if;
    perform storage_wake(null);
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_for(vm integer) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (select di_id from vm_specs where vm_id = vm);
end $$;

CREATE TABLE qvd.di_runtimes (
    di_id integer NOT NULL,
    state qvd.di_state DEFAULT 'new'::qvd.di_state NOT NULL,
    state_ts timestamp with time zone DEFAULT now() NOT NULL,
    elapsed_time interval,
    auto_publish boolean DEFAULT false NOT NULL,
    expiration_time_soft interval,
    expiration_time_hard interval,
    percentage real DEFAULT 0 NOT NULL,
    error_code integer,
    status_message text,
    sha256 text,
    size bigint,
    CONSTRAINT di_runtimes_percentage_check CHECK (((percentage >= (0)::double precision) AND (percentage <= (100)::double precision))),
    CONSTRAINT di_runtimes_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);

ALTER TABLE ONLY qvd.di_runtimes FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.dis (
    id integer NOT NULL,
    osf_id integer NOT NULL,
    path text NOT NULL,
    version text NOT NULL,
    blocked boolean DEFAULT false NOT NULL,
    description text,
    agent text DEFAULT 'auto'::text NOT NULL,
    CONSTRAINT dis_agent_check CHECK ((agent = ANY (ARRAY['auto'::text, 'ours'::text, 'image'::text]))),
    CONSTRAINT dis_path_check CHECK (((path <> ''::text) AND (path !~ '(^/|(^|/)\.\.(/|$)|[[:cntrl:]])'::text) AND (length(path) <= 4096))),
    CONSTRAINT dis_version_check CHECK (((version <> ''::text) AND (length(version) <= 64)))
);

ALTER TABLE ONLY qvd.dis FORCE ROW LEVEL SECURITY;

CREATE FUNCTION qvd.di_for_change(wanted text, OUT di qvd.dis, OUT runtime qvd.di_runtimes, OUT tenant integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    named integer := di_id(wanted);
begin
    select o.tenant_id into tenant from osfs o where o.id = (select d.osf_id from dis d where d.id = named) for update;
    select d.* into di from dis d where d.id = named for update;
    if di.id is null then
        raise exception 'disk image % was just deleted', wanted using errcode = 'QV010';
    end if;
    select r.* into runtime from di_runtimes r where r.di_id = di.id for update;
end $$;

CREATE FUNCTION qvd.di_id(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    parts text[] := regexp_match(wanted, '^(.+)/([^/]+)$');
    found_id integer;
begin
    if wanted ~ '^[0-9]{1,9}$' then
        select d.id into found_id from dis d join osfs o on o.id = d.osf_id where d.id = wanted::integer and reaches(o.tenant_id);
    elsif parts is not null then
        select d.id into found_id
        from dis d join di_tags t on t.di_id = d.id join di_runtimes r on r.di_id = d.id
        where d.osf_id = osf_id(parts[1]) and t.tag = parts[2]
        order by t.fixed desc, r.state = 'published' desc, d.id desc limit 1;
    end if;
    if found_id is null then
        raise exception 'there is no disk image %', wanted
            using errcode = 'QV010', hint = 'Give its id, or osf/version or osf/tag: select id, osf, version, tags from di_list;';
    end if;
    return found_id;
end $_$;

CREATE FUNCTION qvd.di_import(osf text, file text, version text DEFAULT NULL::text, move boolean DEFAULT false, tags text[] DEFAULT '{}'::text[], publish boolean DEFAULT true, soft interval DEFAULT NULL::interval, hard interval DEFAULT NULL::interval) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    of_osf osfs;
    chosen text := version;
    at text;
    new_id integer;
    given text;
begin
    perform demand('di.create.');
    select o.* into of_osf from osfs o where o.id = osf_id(osf) for update;
    if coalesce(file, '') !~ '^[A-Za-z0-9_+~@-][A-Za-z0-9._+~@-]*$' or file like 'lock.%' or length(file) > 200 then
        raise exception '% cannot be the file name of a disk image', quote_nullable(file)
            using errcode = 'QV014', hint = 'Rename the file; letters, digits and ._+-~@ are allowed.';
    elsif soft < interval '0' or hard < interval '0' or hard < soft then
        raise exception 'VMs would be stopped before they are told'
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    end if;
    at := staging_place(file);
    if chosen is null then
        chosen := di_version_free(of_osf.id);
    end if;
    perform di_check_tag(of_osf.id, null, chosen);
    new_id := nextval(pg_get_serial_sequence('dis', 'id'));
    insert into dis (id, osf_id, path, version) values (new_id, of_osf.id, new_id || '-' || file, chosen);
    update di_runtimes set auto_publish = publish, expiration_time_soft = soft, expiration_time_hard = hard
    where di_id = new_id;
    insert into di_tags (di_id, tag, fixed) values (new_id, chosen, true), (new_id, 'head', false)
    on conflict do nothing;
    foreach given in array coalesce(tags, '{}') loop
        perform di_check_tag(of_osf.id, new_id, given);
        insert into di_tags (di_id, tag) values (new_id, given) on conflict do nothing;
    end loop;
    if not exists (select from di_tags t join dis d on d.id = t.di_id where d.osf_id = of_osf.id and t.tag = 'default') then
        insert into di_tags (di_id, tag) values (new_id, 'default');
    end if;
    insert into di_imports (di_id, place, source, move) values (new_id, at, file, move);
    perform storage_wake(at);
    return new_id;
exception when unique_violation then
    raise exception 'OSF % has a version % already', osf, chosen using errcode = 'QV013';
end $_$;

CREATE FUNCTION qvd.di_import_attempts() RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$ select 5 $$;

CREATE TABLE qvd.di_imports (
    di_id integer NOT NULL,
    place text NOT NULL,
    source text NOT NULL,
    move boolean NOT NULL,
    host_id integer,
    epoch bigint,
    attempts integer DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY qvd.di_imports FORCE ROW LEVEL SECURITY;

CREATE FUNCTION qvd.di_import_free(wanted qvd.di_imports, node integer) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    select wanted.host_id is null or wanted.host_id = node or not exists (
        select from host_runtimes r where r.host_id = wanted.host_id and r.epoch = wanted.epoch and r.state not in ('stopped', 'lost'))
$$;

CREATE FUNCTION qvd.di_import_held(node integer, node_epoch bigint, wanted integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    perform from dis d join osfs o on o.id = d.osf_id where d.id = wanted for update of o;
    perform from di_imports where di_id = wanted and host_id = node and epoch = node_epoch for update;
    return found;
end $$;

CREATE FUNCTION qvd.di_import_over(wanted integer, message text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    delete from di_imports where di_id = wanted;
    update di_runtimes set state = 'fail', state_ts = now(), status_message = message where di_id = wanted;
    perform audit('fail', 'di', d.id, d.path, o.tenant_id, jsonb_build_object('why', message))
    from dis d join osfs o on o.id = d.osf_id where d.id = wanted;
end $$;

CREATE FUNCTION qvd.di_path(wanted integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return (select path from dis where id = wanted);
end $$;

CREATE FUNCTION qvd.di_publish(wanted text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
begin
    perform demand('di.update.publish.');
    select * into target from di_for_change(wanted);
    if (target.runtime).state = 'published' then
        return (target.di).id;
    elsif (target.runtime).state <> 'ready' then
        raise exception 'disk image % is %, and only one that is ready can be published', wanted, (target.runtime).state
            using errcode = 'QV021', hint = 'select state, percentage, message from di_list;';
    end if;
    update di_runtimes set state = 'published', state_ts = now() where di_id = (target.di).id;
    perform di_take_tags(target.di);
    -- A publication shortens a life and never prolongs one.
    update vm_runtimes r
    set vm_expiration_soft = least(r.vm_expiration_soft, now() + (target.runtime).expiration_time_soft),
        vm_expiration_hard = least(r.vm_expiration_hard, now() + (target.runtime).expiration_time_hard)
    from vm_specs s
    where s.vm_id = r.vm_id and s.di_id = (target.di).id and r.current_di_id <> (target.di).id
        and r.vm_state in ('starting', 'running', 'debugging')
        and coalesce((target.runtime).expiration_time_soft, (target.runtime).expiration_time_hard) is not null;
    perform audit('publish', 'di', (target.di).id, (target.di).path, target.tenant);
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_retry(wanted text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
    file text;
begin
    perform demand('di.create.');
    select * into target from di_for_change(wanted);
    file := regexp_replace((target.di).path, '^[0-9]+-', '');
    if (target.runtime).state <> 'fail' then
        raise exception 'disk image % is %, and only one that failed is made again', wanted, (target.runtime).state
            using errcode = 'QV021', hint = 'select state, percentage, message from di_list;';
    end if;
    update di_runtimes set state = 'new', state_ts = now(), percentage = 0, status_message = null where di_id = (target.di).id;
    insert into di_imports (di_id, place, source, move) values ((target.di).id, staging_place(file), file, false);
    perform audit('retry', 'di', (target.di).id, (target.di).path, target.tenant);
    perform storage_wake(staging_place(file));
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_rollout(wanted text, soft timestamp with time zone DEFAULT NULL::timestamp with time zone, hard timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target integer := di_id(wanted);
begin
    perform demand('di.update.publish.');
    if soft is not null or hard is not null then
        perform demand('vm.update.expiration.');
    end if;
    if hard < soft then
        raise exception 'VMs would be stopped before their users are told'
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    end if;
    perform di_for_change(wanted);
    update di_runtimes r set expiration_time_soft = null, expiration_time_hard = null
    where r.di_id = target and r.state = 'ready' and coalesce(r.expiration_time_soft, r.expiration_time_hard) is not null;
    perform di_publish(target::text);
    -- Like every publication: it shortens lives and never prolongs them.
    update vm_runtimes r
    set vm_expiration_soft = least(r.vm_expiration_soft, soft), vm_expiration_hard = least(r.vm_expiration_hard, hard)
    where coalesce(soft, hard) is not null and r.vm_id in (select a.vm_id from di_affected(target::text) a);
    return target;
end $$;

CREATE FUNCTION qvd.di_runtimes_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    changed integer := coalesce(new.di_id, old.di_id);
    of_osf osfs;
begin
    select o.* into of_osf from dis d join osfs o on o.id = d.osf_id where d.id = changed;
    if tg_op = 'UPDATE' and new.state <> old.state then
        perform vm_specs_renew_osf(of_osf.id);
    end if;
    perform wake('qvd_admin', 'di', changed, of_osf.tenant_id);
    return null;
end $$;

CREATE FUNCTION qvd.di_tag(wanted text, tag text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
begin
    perform demand(case when tag = 'default' then 'di.update.default.' else 'di.update.tags.' end);
    select * into target from di_for_change(wanted);
    perform di_check_tag((target.di).osf_id, (target.di).id, di_tag.tag);
    insert into di_tags (di_id, tag) values ((target.di).id, di_tag.tag) on conflict do nothing;
    if (target.runtime).state = 'published' then
        perform di_take_tags(target.di);
    end if;
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_tags_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    changed integer := coalesce(new.di_id, old.di_id);
    of_osf osfs;
begin
    select o.* into of_osf from dis d join osfs o on o.id = d.osf_id where d.id = changed;
    perform vm_specs_renew_osf(of_osf.id);
    perform wake('qvd_admin', 'di', changed, of_osf.tenant_id);
    return null;
end $$;

CREATE FUNCTION qvd.di_take_tags(wanted qvd.dis) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    delete from di_tags t using dis d, di_runtimes r
    where d.id = t.di_id and r.di_id = d.id and d.osf_id = wanted.osf_id and d.id <> wanted.id and r.state = 'published'
        and not t.fixed and t.tag in (select m.tag from di_tags m where m.di_id = wanted.id)
$$;

CREATE FUNCTION qvd.di_untag(wanted text, tag text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target record;
    mark di_tags;
begin
    perform demand(case when tag = 'default' then 'di.update.default.' else 'di.update.tags.' end);
    select * into target from di_for_change(wanted);
    select t.* into mark from di_tags t where t.di_id = (target.di).id and t.tag = di_untag.tag;
    if mark.id is null then
        raise exception 'disk image % has no tag %', wanted, tag
            using errcode = 'QV010', hint = 'select osf, version, tags from di_list;';
    elsif mark.fixed then
        raise exception 'tag % is the version of disk image % and stays', tag, wanted using errcode = 'QV014';
    elsif tag in ('head', 'default') and (target.runtime).state = 'published' then
        raise exception 'tag % of a published disk image cannot be removed', tag
            using errcode = 'QV014', hint = 'Give it to another image.';
    end if;
    delete from di_tags t where t.id = mark.id;
    return (target.di).id;
end $$;

CREATE FUNCTION qvd.di_version_free(osf integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    today text := to_char(now() at time zone 'utc', 'YYYY-MM-DD-');
    free text;
begin
    select today || to_char(n, 'FM000') into free from generate_series(0, 999) n
    where not exists (select from dis d join di_tags t on t.di_id = d.id
        where d.osf_id = osf and t.tag = today || to_char(n, 'FM000'))
    order by n limit 1;
    if free is null then
        raise exception 'there have been a thousand versions today' using errcode = 'QV014', hint = 'Name a version.';
    end if;
    return free;
end $$;

CREATE FUNCTION qvd.dis_block(ids integer[], blocked boolean DEFAULT true) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_update('di', ids, jsonb_build_object('blocked', blocked)) $$;

CREATE FUNCTION qvd.dis_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if exists (select from vm_runtimes where current_di_id = old.id) then
        raise exception 'a VM runs from image %', old.path using errcode = 'QV022', hint = 'Stop it first.';
    end if;
    return old;
end $$;

CREATE FUNCTION qvd.dis_publish(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$ begin perform demand('di.update.publish.'); return query select * from objects_do('di', ids, 'publish'); end $$;

CREATE FUNCTION qvd.dis_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'INSERT' then
        insert into di_runtimes (di_id) values (new.id);
    end if;
    perform vm_specs_renew_osf(coalesce(new.osf_id, old.osf_id));
    perform wake('qvd_admin', 'di', coalesce(new.id, old.id),
        (select tenant_id from osfs where id = coalesce(new.osf_id, old.osf_id)));
    return null;
end $$;

CREATE FUNCTION qvd.epoch_is_over(node integer, node_epoch bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return not exists (select from host_runtimes where host_id = node and epoch = node_epoch);
end $$;

CREATE FUNCTION qvd.failed_starts_left(starts real, since timestamp with time zone) RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select case when starts < 0.01 then 0 else starts * 0.5 ^ (extract(epoch from now() - since)::float8 / 60) end
$$;

CREATE FUNCTION qvd.field_demand(kind text, field text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    place record;
begin
    if field in ('properties', 'tags', 'roles', 'acls', 'objects', 'expiration_soft', 'expiration_hard', 'tag') then
        perform demand(case field
            when 'properties' then kind || '.update.properties.'
            when 'tags' then 'di.update.tags.'
            when 'roles' then kind || '.update.assign-role.'
            when 'acls' then 'role.update.assign-acl.'
            when 'objects' then 'property.manage.'
            when 'tag' then 'vm.update.di-tag.'
            else 'vm.update.expiration.' end);
        return;
    end if;
    select * into place from object_fields() f where f.kind = field_demand.kind and f.field = field_demand.field;
    if place is null then
        raise exception 'a % has no field % that could be changed', kind, field using errcode = 'QV014',
            hint = (select string_agg(f.field, ', ' order by f.field) from object_fields() f where f.kind = field_demand.kind);
    elsif (kind, field) = ('vm', 'ip') then
        perform demand_superadministrator('choosing the address of a VM');
    elsif field like 'expiration_time_%' then
        perform demand('di.update.vms-expiration.');
    end if;
    perform demand(update_acl(kind, place.col));
end $$;

CREATE FUNCTION qvd.fixed_roles() RETURNS TABLE(name text, internal boolean, acl text, inherits text[])
    LANGUAGE sql IMMUTABLE
    AS $_$
    select plural || ' ' || verb, true, '^' || object || '[.]' || pattern, '{}'::text[]
    from (values ('Administrators', 'administrator'), ('DIs', 'di'), ('Nodes', 'host'), ('OSFs', 'osf'), ('Roles', 'role'),
            ('Tenants', 'tenant'), ('Users', 'user'), ('VMs', 'vm')) o (plural, object),
        (values ('Creator', '(create|see-main)[.]'), ('Eraser', '(delete|purge|see-main)[.]'), ('Reader', '(see|stats)[.-]'),
            ('Updater', '(update|see-main|see-details)[.]'),
            ('Operator', '((see-main|spy|spy.interactive)[.]$|'
                'update[.](state|disconnect-user|block|expiration|vms-expiration|stop-vms|default|tags|publish)[.])')) v (verb, pattern)
    where verb <> 'Operator' or plural in ('VMs', 'Users', 'Nodes', 'DIs')
    union all
    select plural || ' Manager', true, null,
        array(select plural || ' ' || verb from unnest(array['Creator', 'Eraser', 'Reader', 'Updater']) verb)
    from unnest(array['Administrators', 'DIs', 'Nodes', 'OSFs', 'Roles', 'Tenants', 'VMs', 'Users']) plural
    union all
    select 'QVD ' || verb, true, null, array(
        select plural || ' ' || verb from unnest(array['DIs', 'OSFs', 'Users', 'VMs']) plural
        where verb <> 'Operator' or plural <> 'OSFs')
    from unnest(array['Creator', 'Eraser', 'Reader', 'Updater', 'Operator']) verb
    union all
    values ('QVD Manager', true, '^vm[.]spy', array['QVD Creator', 'QVD Eraser', 'QVD Reader', 'QVD Updater', 'QVD Operator']),
        ('Views Reader', true, '^views[.]see-main', '{}'), ('Views Manager', true, '^views[.]', '{}'),
        ('Properties Reader', true, '^property[.]see-main', '{}'), ('Properties Manager', true, '^property[.]', '{}'),
        ('Logs Manager', true, '^log[.]', '{}'),
        ('QVD Config Manager', true, '^config[.]qvd', '{}'), ('WAT Config Manager', true, '^config[.]wat', '{}'),
        ('WAT Manager', true, null, array['Administrators Manager', 'Roles Manager', 'Views Manager', 'Properties Manager',
            'Logs Manager', 'WAT Config Manager', 'QVD Config Manager']),
        ('Master', true, null, array['QVD Manager', 'WAT Manager']),
        ('Total Master', true, null, array['Master', 'Nodes Manager', 'Tenants Manager']),
        ('Root', false, null, array['Total Master']),
        ('Operator L1', false, null, array['QVD Reader']),
        ('Operator L2', false, null, array['Operator L1', 'QVD Operator']),
        ('Operator L3', false, null, array['Operator L2', 'Nodes Manager', 'QVD Creator', 'QVD Eraser', 'QVD Updater'])
$_$;

CREATE FUNCTION qvd.fresh_secret() RETURNS bytea
    LANGUAGE sql
    AS $$ select uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) $$;

CREATE FUNCTION qvd.governed_still(before bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if before > 0 and governors() = 0 then
        raise exception 'no superadministrator would be left who can assign roles'
            using errcode = 'QV041', hint = 'Let another one have such a role first.';
    end if;
end $$;

CREATE FUNCTION qvd.governors() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    select count(distinct a.id) from administrators a
        join role_administrator_relations m on m.administrator_id = a.id
        join role_acls e on e.role_id = m.role_id
    where a.tenant_id = 0 and a.id <> 0 and e.acl = 'administrator.update.assign-role.'
$$;

CREATE FUNCTION qvd.host_block(wanted text, blocked boolean DEFAULT true) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.host_create(name text, address inet, description text DEFAULT NULL::text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    new_id integer;
begin
    perform demand_superadministrator('making hosts');
    perform demand('host.create.');
    insert into hosts (name, address, description) values (name, host_create.address, description)
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'a host named % or with address % exists already', name, address
        using errcode = 'QV013', hint = 'select name, address from hosts;';
end $$;

CREATE FUNCTION qvd.host_forget(node integer, reason text) RETURNS integer[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    released integer[];
begin
    update vm_runtimes r set vm_cmd = null, host_id = null, restart_due = true
    where r.host_id = node and r.vm_state = 'stopped' and r.vm_cmd = 'start';
    with freed as (
        update vm_runtimes r set vm_state = 'stopped', vm_reason = reason,
            restart_due = v.keep_running and r.vm_state <> 'stopping' and r.vm_cmd is distinct from 'stop'
        from vms v where v.id = r.vm_id and r.host_id = node and r.vm_state <> 'stopped' returning r.vm_id)
    select coalesce(array_agg(vm_id order by vm_id), '{}') into released from freed;
    -- The sessions of its routers are free. A router that lives all the same may go on with others.
    update vm_runtimes set user_state = 'disconnected' where l7r_host_id = node and user_state <> 'disconnected';
    update user_sessions s set ended_at = now(), end_reason = reason
    where s.ended_at is null
        and s.l7r_instance in (select i.id from l7r_instances i where i.host_id = node and i.ended_at is null);
    perform host_recount(node);
    return released;
end $$;

CREATE FUNCTION qvd.host_names() RETURNS TABLE(id integer, name text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 20
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return query select h.id, h.name from hosts h
        where (select sees_all()) or exists (
            select from vm_runtimes r where r.host_id = h.id and r.tenant_id = (select my_tenant()));
end $$;

CREATE FUNCTION qvd.host_obstacle(node integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return (
        select case
            when not h.backend then 'is no back end'
            when r.state <> 'running' then 'is ' || r.state
            when r.cmd is not null then 'was told to ' || r.cmd
            when r.blocked then 'is blocked'
            when r.ok_ts is null then 'never gave a sign of life'
            when r.ok_ts < now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second'
                then 'gave its last sign of life ' || span(now() - r.ok_ts) || ' ago'
            when r.storage_degraded_since is not null then 'has trouble with its storage: ' || r.storage_degraded_reason
        end
        from hosts h join host_runtimes r on r.host_id = h.id where h.id = node);
end $$;

CREATE FUNCTION qvd.host_recount(node integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    -- One statement, so that what it counts and what it takes away are of the same moment.
    with counted as (delete from host_changes where host_id = node)
    update host_runtimes set vms = (select count(*) from vm_runtimes r where r.host_id = node) where host_id = node;
end $$;

CREATE FUNCTION qvd.host_release(wanted text) RETURNS integer[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    node integer;
    released integer[];
begin
    perform demand_superadministrator('releasing hosts');
    perform demand('host.update.stop-vms.');
    select id into node from hosts where name = wanted;
    if node is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    update host_runtimes r set epoch = r.epoch + 1, pid = null, cmd = null,
        state = case r.state when 'stopped' then 'stopped' else 'lost' end::host_state
    where r.host_id = node and (r.state in ('stopped', 'lost') or r.ok_ts is null
        or r.ok_ts < now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second');
    if not found then
        raise exception 'host % gives signs of life', wanted
            using errcode = 'QV022', hint = 'Only a node that is switched off can be released: its VMs may start elsewhere.';
    end if;
    released := host_forget(node, 'its node was released by an administrator');
    perform audit('release', 'host', node, wanted, 0, jsonb_build_object('vms', to_jsonb(released)));
    perform vms_restart();
    return released;
end $$;

CREATE FUNCTION qvd.host_runtimes_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if not host_transition_allowed(old.state, new.state) then
        raise exception 'host % cannot go from % to %', new.host_id, old.state, new.state using errcode = 'QV020';
    elsif new.epoch < old.epoch then
        raise exception 'the epoch of host % cannot go back', new.host_id using errcode = 'QV020';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.host_runtimes_log() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.host_runtimes_wake() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if new.cmd is distinct from old.cmd then
        perform wake('qvd_node_' || new.host_id, 'host', new.host_id);
    end if;
    if new.epoch <> old.epoch or new.blocked <> old.blocked
        or new.state <> old.state then
        perform wake('qvd_host_' || new.host_id, 'host', new.host_id);
    end if;
    perform wake('qvd_admin', 'host', new.host_id);
    return null;
end $$;

CREATE FUNCTION qvd.host_stop(wanted text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    target host_runtimes;
begin
    perform demand_superadministrator('stopping hosts');
    perform demand('host.update.stop-vms.');
    select r.* into target from host_runtimes r join hosts h on h.id = r.host_id where h.name = wanted for update of r;
    if target.host_id is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    elsif target.state in ('stopped', 'lost') then
        raise exception 'host % is % and cannot be told to stop', wanted, target.state
            using errcode = 'QV021', hint = 'select * from host_list;';
    elsif target.cmd is null then
        update host_runtimes set cmd = 'stop' where host_id = target.host_id;
    end if;
    return target.host_id;
end $$;

CREATE FUNCTION qvd.host_transition_allowed(was qvd.host_state, becomes qvd.host_state) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select was = becomes or becomes = 'starting' or (was, becomes) in (
        ('starting', 'running'), ('starting', 'stopping'), ('starting', 'stopped'), ('starting', 'lost'),
        ('running', 'stopping'), ('running', 'stopped'), ('running', 'lost'),
        ('stopping', 'stopped'), ('stopping', 'lost'),
        ('lost', 'stopped'))
$$;

CREATE FUNCTION qvd.hosts_block(ids integer[], blocked boolean DEFAULT true) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_update('host', ids, jsonb_build_object('blocked', blocked)) $$;

CREATE FUNCTION qvd.hosts_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if exists (select from host_runtimes where host_id = old.id and state not in ('stopped', 'lost'))
        or exists (select from vm_runtimes where host_id = old.id) then
        raise exception 'host % is in use', old.name using errcode = 'QV022', hint = 'Stop its VMs and its daemons first.';
    end if;
    delete from host_changes where host_id = old.id;
    return old;
end $$;

CREATE FUNCTION qvd.hosts_stop(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$ begin perform demand('host.update.stop-vms.'); return query select * from objects_do('host', ids, 'halt'); end $$;

CREATE FUNCTION qvd.hosts_stop_vms(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand('host.update.stop-vms.');
    return query select * from objects_do('vm', array(
        select r.vm_id from vm_runtimes r where r.host_id = any (objects_mine('host', ids))
            and (vm_command_allowed(r.vm_state, 'stop') or r.vm_cmd = 'start')), 'stop');
end $$;

CREATE FUNCTION qvd.hosts_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'INSERT' then
        insert into host_runtimes (host_id) values (new.id);
        insert into host_counters (host_id) values (new.id);
    end if;
    perform wake('qvd_admin', 'host', coalesce(new.id, old.id));
    -- Nodes let each other in by their addresses.
    if tg_op <> 'UPDATE' or new.address <> old.address then
        perform wake('qvd_config', 'host', coalesce(new.id, old.id));
    end if;
    return null;
end $$;

CREATE FUNCTION qvd.is_program() RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return me() is null and session_user <> 'qvd_wat'
        and not exists (select from administrators a where a.role_name = session_user)
        and (pg_has_role(session_user, 'qvd_node', 'member') or pg_has_role(session_user, 'qvd_l7r', 'member'));
end $$;

CREATE FUNCTION qvd.is_secret(key text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select key in ('auth.ldap.bindpass', 'l7r.auth.plugin.totp.secret32')
$$;

CREATE FUNCTION qvd.l7r_aborted(by_instance bigint) RETURNS TABLE(session bigint, contender inet, stopped boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    return query select r.session_id, r.contender, r.vm_state = 'stopped' from vm_runtimes r
    where r.user_cmd is not null and r.l7r_instance = by_instance
        and r.l7r_host_id = (select host_id from l7r_instances where id = by_instance);
end $$;

CREATE FUNCTION qvd.l7r_acquire(session bigint, by_instance bigint, wanted integer, account integer, client inet, token text, learnt jsonb, unchecked boolean DEFAULT false, OUT host_address text, OUT properties jsonb, OUT state qvd.vm_state, OUT commanded boolean, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text, OUT fit boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    on_host integer;
    serves boolean;
    owner integer;
    vm_name text;
    target vm_runtimes;
begin
    perform set_config('synchronous_commit', 'off', true);
    select h.id, host(h.address), r.state = 'running' and not r.blocked into on_host, host_address, serves
    from l7r_instances i join hosts h on h.id = i.host_id join host_runtimes r on r.host_id = h.id
    where i.id = by_instance and i.ended_at is null;
    if not found then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
    select v.user_id, v.name into owner, vm_name from vms v where v.id = wanted;
    fit := not unchecked or serves and owner is not distinct from account;
    if not fit then
        return;
    end if;
    select * into target from vm_runtimes where vm_id = wanted for update;
    fit := not (unchecked and target.blocked);
    if not fit then
        return;
    end if;
    if target.user_state <> 'disconnected' then
        if exists (
            select from l7r_instances i join host_runtimes h on h.host_id = i.host_id
            where i.id = target.l7r_instance and i.ended_at is null
                and (h.host_id = on_host or h.ok_ts
                    > now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second')
        ) and coalesce(target.user_cmd_ts
            > now() - config_get('internal.l7r.timeout.abort')::float8 * interval '1 second', true) then
            update vm_runtimes set user_cmd = 'abort', contender = client where vm_id = wanted and user_cmd is null;
            return;
        end if;
        update user_sessions set ended_at = now(), end_reason = 'its router is gone'
        where id = target.session_id and ended_at is null;
        update vm_runtimes set user_state = 'disconnected' where vm_id = wanted;
    end if;
    insert into user_sessions (
        id, vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance, client_address)
    select session, wanted, vm_name, account, u.login, u.tenant_id, target.host_id, on_host, by_instance, client
    from users u where u.id = account;
    update vm_runtimes
    set user_state = 'connecting', session_id = session, l7r_host_id = on_host, l7r_instance = by_instance,
        real_user_id = account
    where vm_id = wanted;
    perform l7r_token_create(account, token, learnt, wanted);
    properties := vm_effective_properties(wanted);
    select s.secret into secret from vm_specs s where s.vm_id = wanted;
    state := target.vm_state;
    commanded := target.vm_cmd is not null;
    placed := target.host_id is not null;
    address := target.vm_address;
    vma_port := target.vm_vma_port;
    x_port := target.vm_x_port;
    reason := target.vm_reason;
end $$;

CREATE FUNCTION qvd.l7r_auth_parameters_keep(account integer, learnt jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    kept integer;
begin
    perform tokens_expire(account);
    delete from user_auth_parameters p
    where p.user_id = account and p.kept_since < now() - interval '7 days'
        and not exists (select from user_tokens t where t.auth_params_id = p.id);
    insert into user_auth_parameters (parameters, user_id, kept_since) values (learnt, account, now())
    returning id into kept;
    return kept;
end $$;

CREATE FUNCTION qvd.l7r_auto(wanted_login text, in_tenant integer, of_osf integer, tag text, max_vms integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.l7r_connected(wanted bigint, way text, resume text DEFAULT NULL::text, learnt jsonb DEFAULT NULL::jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    on_host integer;
begin
    perform set_config('synchronous_commit', 'off', true);
    update vm_runtimes set user_state = 'connected'
    where vm_id = session_vm(wanted) and session_id = wanted
        and user_state = 'connecting' and user_cmd is null and vm_state = 'running'
    returning host_id into on_host;
    if not found then
        return false;
    end if;
    update user_sessions set connected_at = now(), tunnel = way, host_id = on_host where id = wanted;
    if resume is not null then
        insert into session_resumes (session_id, token, parameters) values (wanted, token_digest(resume), learnt);
    end if;
    return true;
end $$;

CREATE FUNCTION qvd.l7r_count(node integer, requests bigint, attempts bigint, ok bigint, nx_tries bigint, nx_done bigint, shorts bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update host_counters set http_requests = http_requests + requests, auth_attempts = auth_attempts + attempts,
        auth_ok = auth_ok + ok, nx_attempts = nx_attempts + nx_tries, nx_ok = nx_ok + nx_done,
        short_sessions = short_sessions + shorts
    where host_id = node;
end $$;

CREATE FUNCTION qvd.l7r_count_refused(node integer, crowd bigint, handshakes bigint, plain bigint, slow bigint, limited bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update host_counters set refused_connections = refused_connections + crowd,
        failed_handshakes = failed_handshakes + handshakes, plain_http = plain_http + plain,
        slow_clients = slow_clients + slow, limited_logins = limited_logins + limited
    where host_id = node;
end $$;

CREATE FUNCTION qvd.l7r_count_sessions(node integer, ways text[], opened bigint[], ups bigint[], downs bigint[], reasons text[], ended bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into tunnel_counters as c (host_id, tunnel, tunnels, bytes_up, bytes_down)
    select node, t.* from unnest(ways, opened, ups, downs) t
    on conflict (host_id, tunnel) do update set tunnels = c.tunnels + excluded.tunnels,
        bytes_up = c.bytes_up + excluded.bytes_up, bytes_down = c.bytes_down + excluded.bytes_down;
    insert into end_counters as c (host_id, reason, sessions) select node, t.* from unnest(reasons, ended) t
    on conflict (host_id, reason) do update set sessions = c.sessions + excluded.sessions;
end $$;

CREATE FUNCTION qvd.l7r_end(wanted bigint, reason text, up bigint, down bigint, resumable boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update vm_runtimes set user_state = 'disconnected' where vm_id = session_vm(wanted) and session_id = wanted;
    if not resumable then
        delete from session_resumes where session_id = wanted;
    end if;
    update user_sessions set ended_at = now(), end_reason = reason, bytes_up = up, bytes_down = down
    where id = wanted and ended_at is null;
end $$;

CREATE FUNCTION qvd.l7r_gone(instances bigint[], reason text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    ended integer;
begin
    update vm_runtimes set user_state = 'disconnected' where l7r_instance = any (instances);
    with closed as (
        update user_sessions set ended_at = now(), end_reason = reason
        where l7r_instance = any (instances) and ended_at is null returning l7r_host_id),
    counted as (
        insert into end_counters as c (host_id, reason, sessions)
        select l7r_host_id, l7r_gone.reason, count(*) from closed group by l7r_host_id
        on conflict on constraint end_counters_pkey do update set sessions = c.sessions + excluded.sessions)
    select count(*) into ended from closed;
    update l7r_instances set ended_at = now() where id = any (instances) and ended_at is null;
    return ended;
end $$;

CREATE FUNCTION qvd.l7r_host(node integer, OUT state qvd.host_state, OUT blocked boolean) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select state, blocked
    into state, blocked
    from host_runtimes where host_id = node;
end $$;

CREATE FUNCTION qvd.l7r_instances_of(node integer) RETURNS TABLE(instance bigint, boot_id uuid, pid integer, pid_start bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    return query select id, boot_id, pid, pid_start from l7r_instances where host_id = node and ended_at is null;
end $$;

CREATE FUNCTION qvd.l7r_list(node integer, account integer, applications boolean) RETURNS TABLE(host_state qvd.host_state, host_blocked boolean, id integer, name text, state qvd.vm_state, blocked boolean, is_application boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    return query select h.state, h.blocked, l.*
    from host_runtimes h left join (
        select v.id, v.name::text, r.vm_state, r.blocked, o.is_application
        from vms v join vm_runtimes r on r.vm_id = v.id join osfs o on o.id = v.osf_id
        where v.user_id = account and o.is_application = applications
    ) l on true
    where h.host_id = node
    order by l.name;
end $$;

CREATE FUNCTION qvd.l7r_listens(by_instance bigint, port integer, public_key bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update l7r_instances set node_port = port, node_key = public_key where id = by_instance and ended_at is null;
    if not found then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
end $$;

CREATE FUNCTION qvd.l7r_nodes() RETURNS TABLE(node integer, address inet, instance bigint, port integer, public_key bytea)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return query select h.id, h.address, i.id, i.node_port, i.node_key
    from hosts h left join l7r_instances i on i.host_id = h.id and i.ended_at is null and i.node_key is not null;
end $$;

CREATE FUNCTION qvd.l7r_passage(peer bigint, at_node integer, vm integer, OUT admitted boolean, OUT address inet, OUT vma_port integer, OUT x_port integer) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    admitted := exists (
        select from l7r_instances i join host_runtimes h on h.host_id = i.host_id
        where i.id = peer and i.ended_at is null and not h.blocked);
    select r.vm_address, r.vm_vma_port, r.vm_x_port into address, vma_port, x_port
    from vm_runtimes r where r.vm_id = vm and r.host_id = at_node and r.vm_state = 'running';
end $$;

CREATE FUNCTION qvd.l7r_password_upgrade(account integer, was text, becomes text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update users set password = becomes where id = account and password = was;
    return found;
end $$;

CREATE FUNCTION qvd.l7r_pool_find(owner integer, extension text) RETURNS TABLE(id integer, name text, state qvd.vm_state, blocked boolean, is_application boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.l7r_pool_has(vm integer, owner integer, account integer) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return exists (
        select from vms v join vm_runtimes r on r.vm_id = v.id
        where v.id = vm and v.user_id = owner and r.real_user_id = account);
end $$;

CREATE FUNCTION qvd.l7r_pool_take(vm integer, owner integer, account integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update vm_runtimes r set real_user_id = account from vms v
    where v.id = r.vm_id and v.id = vm and v.user_id = owner and coalesce(r.real_user_id, account) = account;
    return found;
end $$;

CREATE FUNCTION qvd.l7r_problem(which bigint, text text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    node integer;
begin
    update l7r_instances l set problem = l7r_problem.text
    where l.id = which and l.problem is distinct from l7r_problem.text returning l.host_id into node;
    if node is null then
        return;
    end if;
    if l7r_problem.text is not null then
        perform audit('refuse', 'host', node, (select h.name from hosts h where h.id = node), -1,
            jsonb_build_object('problem', l7r_problem.text));
    end if;
    perform wake('qvd_admin', 'host', node);
end $$;

CREATE FUNCTION qvd.l7r_road(wanted bigint, OUT node integer, OUT address inet, OUT instance bigint, OUT port integer, OUT public_key bytea) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    select h.id, h.address, i.id, i.node_port, i.node_key into node, address, instance, port, public_key
    from vm_runtimes r join hosts h on h.id = r.host_id
        left join l7r_instances i on i.host_id = h.id and i.ended_at is null and i.node_key is not null
    where r.vm_id = session_vm(wanted) and r.session_id = wanted
    order by i.id desc nulls last limit 1;
end $$;

CREATE FUNCTION qvd.l7r_session(wanted bigint, OUT state qvd.vm_state, OUT commanded boolean, OUT aborted boolean, OUT contender inet, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select r.vm_state, r.vm_cmd is not null, r.user_cmd is not null, r.contender, r.host_id is not null,
        r.vm_address, r.vm_vma_port, r.vm_x_port, s.secret, r.vm_reason
    into state, commanded, aborted, contender, placed, address, vma_port, x_port, secret, reason
    from user_sessions u join vm_runtimes r on r.vm_id = u.vm_id and r.session_id = u.id
        left join vm_specs s on s.vm_id = r.vm_id
    where u.id = wanted;
end $$;

CREATE FUNCTION qvd.l7r_session_end(wanted bigint, account integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (
        select end_reason from user_sessions where id = wanted and user_id = account);
end $$;

CREATE FUNCTION qvd.l7r_sessions(by_instance bigint) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    if not exists (select from l7r_instances where id = by_instance and ended_at is null) then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
    return query select session_id from vm_runtimes where l7r_instance = by_instance;
end $$;

CREATE FUNCTION qvd.l7r_ssl() RETURNS TABLE(key text, value text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    return query select key, value from ssl_configs;
end $$;

CREATE FUNCTION qvd.l7r_start(node_name text, node_boot uuid, node_pid integer, node_pid_start bigint, OUT node integer, OUT address inet, OUT instance bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    select h.id, h.address into node, address from hosts h where h.name = node_name;
    if node is null then
        raise exception 'no host is named %', node_name using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    insert into l7r_instances (host_id, boot_id, pid, pid_start)
    values (node, node_boot, node_pid, node_pid_start) returning id into instance;
end $$;

CREATE FUNCTION qvd.l7r_tenant(wanted text, OUT id integer, OUT blocked boolean) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select t.id, t.blocked into id, blocked from tenants t where t.name = wanted and t.id > 0;
end $$;

CREATE FUNCTION qvd.l7r_token_create(account integer, token text, learnt jsonb, vm integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    stored integer;
begin
    perform tokens_expire(account);
    with of_token as (
        insert into user_auth_parameters (parameters, user_id) values (learnt, account) returning id)
    insert into user_tokens (token, user_id, vm_id, expiration, auth_params_id, multi_use)
    select l7r_token_create.token, account, vm, now() + interval '24 hours', id, true from of_token
    returning auth_params_id into stored;
    return stored;
end $$;

CREATE FUNCTION qvd.l7r_token_use(presented text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT blocked boolean, OUT vm_id integer, OUT multi_use boolean, OUT parameters jsonb) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.l7r_totp_secret(wanted_login text, in_tenant integer, OUT user_id integer, OUT secret text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select u.id, p.value into user_id, secret
    from users u
        join user_properties p on p.user_id = u.id
        join qvd_object_properties_list o on o.id = p.property_id and o.qvd_object = 'user'
        join properties_list l on l.id = o.property_id and l.tenant_id = u.tenant_id
    where u.login = wanted_login and u.tenant_id = in_tenant and l.key = 'l7r.auth.plugin.totp.secret32';
end $$;

CREATE FUNCTION qvd.l7r_totp_use(account integer, began bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    insert into totp_used as t (user_id, interval_start) values (account, began)
    on conflict (user_id) do update set interval_start = excluded.interval_start
    where t.interval_start < excluded.interval_start;
    return found;
end $$;

CREATE FUNCTION qvd.l7r_traffic(sessions bigint[], ups bigint[], downs bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update user_sessions s set bytes_up = t.up, bytes_down = t.down
    from unnest(sessions, ups, downs) t (id, up, down) where s.id = t.id and s.ended_at is null;
end $$;

CREATE FUNCTION qvd.l7r_user(wanted_login text, wanted_tenant text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT password text, OUT blocked boolean) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select u.id, t.id, u.login, u.password, u.blocked or t.blocked
    into user_id, tenant_id, login, password, blocked
    from users u join tenants t on t.id = u.tenant_id
    where u.login = wanted_login and t.name = wanted_tenant and t.id > 0;
end $$;

CREATE FUNCTION qvd.l7r_vm(node integer, wanted integer, OUT host_state qvd.host_state, OUT host_blocked boolean, OUT owner integer, OUT blocked boolean, OUT state qvd.vm_state) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    select h.state, h.blocked, v.user_id, r.blocked, r.vm_state
    into host_state, host_blocked, owner, blocked, state
    from host_runtimes h left join (vms v join vm_runtimes r on r.vm_id = v.id) on v.id = wanted
    where h.host_id = node;
end $$;

CREATE FUNCTION qvd.l7r_vm_start(wanted bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform vm_start_found(s) from vm_runtimes r join vm_specs s on s.vm_id = r.vm_id
    where r.vm_id = session_vm(wanted) and r.session_id = wanted;
    return null;
exception when sqlstate 'QV030' or sqlstate 'QV031' then
    update vm_runtimes set vm_reason = sqlerrm where vm_id = session_vm(wanted) and session_id = wanted;
    return sqlstate;
end $$;

CREATE FUNCTION qvd.l7r_vm_stop(vm integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform vm_stop(v.id) from vms v where v.id = vm;
end $$;

CREATE FUNCTION qvd.l7r_way(wanted bigint, way text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update user_sessions set tunnel = way where id = wanted;
end $$;

CREATE FUNCTION qvd.list_fields() RETURNS TABLE(list text, field text, acl text, source text, sort text[], always boolean, narrow text[])
    LANGUAGE sql IMMUTABLE
    AS $$
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

CREATE FUNCTION qvd.log_entry(part text, kind text, key text, was jsonb, becomes jsonb, OUT action text, OUT object_id integer, OUT name text, OUT tenant integer, OUT arguments jsonb) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    present jsonb;
    old jsonb;
    new jsonb;
begin
    -- What follows from other columns is not told.
    was := was - 'mac_tail';
    becomes := becomes - 'mac_tail';
    present := coalesce(becomes, was);
    if was = becomes then
        return;
    end if;
    if key not in ('key', 'field') then
        object_id := present->>key;
    end if;
    if key = 'id' then
        select l.name, l.tenant into name, tenant from object_label(kind, present) l;
        action := case when was is null then 'create' when becomes is null then 'delete' else 'update' end;
    elsif key in ('key', 'field') then
        name := present->>key;
        tenant := coalesce((present->>'tenant_id')::integer, -1);
        action := case when becomes is null then 'delete' else 'update' end;
    else
        -- A part of an object that goes or comes with it is not told apart.
        select l.name, l.tenant into name, tenant from object_label(kind, object_row(kind, object_id)) l;
        if object_row(kind, object_id) is null or becomes is not null and exists (
            select from log l where l.qvd_object = kind and l.object_id = log_entry.object_id
                and l.action = 'create' and l.time = now()) then
            return;
        end if;
        action := 'update';
    end if;
    old := logged(part, was);
    new := logged(part, becomes);
    if was is null then
        -- When it was is said of every entry.
        arguments := case when key = 'id' then new - 'id' - 'created_at' else jsonb_build_object('new', new) end;
    elsif becomes is null then
        arguments := jsonb_build_object('old', old);
    else
        arguments := (
            select jsonb_build_object(
                'old', coalesce(jsonb_object_agg(c, old->c) filter (where old ? c), '{}'),
                'new', coalesce(jsonb_object_agg(c, new->c) filter (where new ? c), '{}'))
            from jsonb_object_keys(becomes) c where was->c is distinct from becomes->c);
        if becomes - 'blocked' = was - 'blocked' then
            action := case when (becomes->>'blocked')::boolean then 'block' else 'unblock' end;
        end if;
    end if;
end $$;

CREATE FUNCTION qvd.logged(part text, object jsonb) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    select case
        when object ? 'password' then jsonb_strip_nulls(object) || case when object->'password' <> 'null'
            then '{"password": "(secret)"}'::jsonb else '{}' end
        when part = 'ssl_configs' or part = 'configs' and is_secret(object->>'key')
            or part like '%\_properties' and exists (
                select from qvd_object_properties_list o join properties_list l on l.id = o.property_id
                where o.id = (object->>'property_id')::integer and is_secret(l.key))
            then jsonb_strip_nulls(object) || '{"value": "(secret)"}'
        else jsonb_strip_nulls(object)
    end
$$;

CREATE FUNCTION qvd.mac_tail(mac text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ select right(translate(lower(mac), ':-.', ''), 6) $$;

CREATE FUNCTION qvd.may_command(tenant integer, acl text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    if me() = 0 and session_user <> 'qvd_wat' then
        return true;
    elsif not reaches(tenant) then
        return false;
    end if;
    perform demand(acl);
    return true;
end $$;

CREATE FUNCTION qvd.me() RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.me_update(changes jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.members(given jsonb, what text) RETURNS SETOF text
    LANGUAGE sql IMMUTABLE
    AS $$
    select jsonb_array_elements_text(case
        when jsonb_typeof(given) = 'array' then case what when 'set' then given else '[]' end
        else coalesce(given->what, '[]') end)
$$;

CREATE FUNCTION qvd.merged(channel text, payload text) RETURNS text
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION qvd.moment(at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select to_char(at, 'HH24:MI:SS') || case
        when at > now() then ' (in ' || span(at - now()) || ')' else ' (' || span(now() - at) || ' ago)' end
$$;

CREATE FUNCTION qvd.my_tenant() RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (select a.tenant_id from administrators a where a.id = me());
end $$;

CREATE FUNCTION qvd.my_tenant_update(changes jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.name_and_tenant(wanted text, OUT name text, OUT tenant text) RETURNS record
    LANGUAGE sql IMMUTABLE
    AS $$
    select split_part(wanted, '@', 1), nullif(split_part(wanted, '@', 2), '')
$$;

CREATE FUNCTION qvd.node_address(node_name text) RETURNS inet
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return (select address from hosts where name = node_name);
end $$;

CREATE FUNCTION qvd.node_addresses() RETURNS SETOF inet
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return query select h.address from hosts h order by 1;
end $$;

CREATE FUNCTION qvd.node_adopt(node integer, node_epoch bigint, vm integer, vma_port integer, x_port integer, secret bytea DEFAULT NULL::bytea, image integer DEFAULT NULL::integer) RETURNS qvd.vm_state
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    state vm_state;
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r
    set host_id = node, vm_state = 'starting', vm_cmd = null, restart_due = false,
        current_di_id = coalesce((select d.id from dis d where d.id = image), s.di_id),
        vm_address = s.ip, vm_vma_port = vma_port, vm_x_port = x_port
    from vm_specs s
    where r.vm_id = vm and s.vm_id = vm and r.vm_state = 'stopped' and coalesce(r.host_id, node) = node;
    if found then
        insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
        select 'adopt', 'vm', s.vm_id, s.login || '/' || s.name, s.tenant_id,
            jsonb_build_object('host', node, 'epoch', node_epoch)
        from vm_specs s where s.vm_id = vm;
    end if;
    select r.vm_state into state from vm_runtimes r where r.vm_id = vm and r.host_id = node;
    if state is not null then
        update vm_specs s set secret = node_adopt.secret where s.vm_id = vm and s.secret <> node_adopt.secret;
    end if;
    return state;
end $$;

CREATE FUNCTION qvd.node_check(node integer, node_epoch bigint) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    if not exists (select from host_runtimes where host_id = node and epoch = node_epoch) then
        raise exception 'host % lives in another epoch than %', node, node_epoch
            using errcode = 'QV001', hint = 'Another process has taken this node over.';
    end if;
end $$;

CREATE FUNCTION qvd.node_claim(node integer, node_epoch bigint, vma_port integer, x_port integer) RETURNS TABLE(command qvd.vm_cmd, vm_id integer, name text, tenant_id integer, user_id integer, login text, osf_id integer, memory integer, user_storage_size integer, di_id integer, di_path text, di_tag text, ip inet, secret bytea, vm_state qvd.vm_state, cpus integer, agent text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
begin
    return query
        with claimed as (
            update vm_runtimes r
            -- Whoever told it to stop may have said why.
            set vm_cmd = null, vm_reason = case r.vm_cmd when 'stop' then r.vm_reason end,
                vm_state = case r.vm_cmd when 'start' then 'starting' else 'stopping' end::vm_state,
                current_di_id = case r.vm_cmd when 'start' then s.di_id else r.current_di_id end,
                vm_address = s.ip, vm_vma_port = vma_port, vm_x_port = x_port
            from vm_specs s
            where r.host_id = node and r.vm_cmd is not null and s.vm_id = r.vm_id
                and exists (select from host_runtimes h where h.host_id = node and h.epoch = node_epoch)
            returning
                case r.vm_state when 'starting' then 'start' else 'stop' end::vm_cmd as vm_cmd, s.vm_id, s.name,
                s.tenant_id, s.user_id, s.login, s.osf_id, s.memory, s.user_storage_size, s.di_tag, s.ip, s.secret,
                r.current_di_id as di_id,
                -- A function, since a start has no need to open that table.
                case r.vm_state when 'starting' then s.di_path else di_path(r.current_di_id) end as di_path,
                -- Who stops it need not know.
                r.vm_state, s.cpus, coalesce(s.agent, 'auto') as agent
        ), audited as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
            select 'claim', 'vm', c.vm_id, c.login || '/' || c.name, c.tenant_id,
                jsonb_build_object('host', node, 'epoch', node_epoch, 'command', c.vm_cmd)
            from claimed c
        )
        select c.vm_cmd, c.vm_id, c.name, c.tenant_id, c.user_id, c.login, c.osf_id, c.memory,
            c.user_storage_size, c.di_id, c.di_path, c.di_tag, c.ip, c.secret, c.vm_state, c.cpus, c.agent
        from claimed c;
    if not found then
        perform node_check(node, node_epoch);
    end if;
end $$;

CREATE FUNCTION qvd.node_console(node integer, node_epoch bigint, vm integer, source bigint, upto bigint, words text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.node_consoles(node integer, node_epoch bigint) RETURNS TABLE(vm integer, seconds_left double precision, file bigint, "position" bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    perform set_config('synchronous_commit', 'off', true);
    delete from vm_console_watches w where w.host_id = node and w.until < now();
    return query
        select w.vm_id, extract(epoch from w.until - now())::float8, w.file, w."position"
        from vm_console_watches w where w.host_id = node;
end $$;

CREATE FUNCTION qvd.node_di_failed(node integer, node_epoch bigint, wanted integer, message text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if not di_import_held(node, node_epoch, wanted) then
        return false;
    end if;
    perform di_import_over(wanted, message);
    return true;
end $$;

CREATE FUNCTION qvd.node_di_paths(node integer, node_epoch bigint) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform node_check(node, node_epoch);
    return array(select path from dis);
end $$;

CREATE FUNCTION qvd.node_di_progress(node integer, node_epoch bigint, wanted integer, phase qvd.di_state, share real) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    if not di_import_held(node, node_epoch, wanted) then
        return false;
    end if;
    update di_runtimes set state = phase, percentage = floor(share),
        state_ts = case when state = phase then state_ts else now() end
    where di_id = wanted and (state, percentage) is distinct from (phase, floor(share)::real);
    return true;
end $$;

CREATE FUNCTION qvd.node_di_ready(node integer, node_epoch bigint, wanted integer, hash text, bytes bigint, warnings text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if not di_import_held(node, node_epoch, wanted) then
        return case when not exists (select from dis where id = wanted) then false end;
    end if;
    update di_runtimes set state = 'ready', state_ts = now(), percentage = 100, sha256 = hash, size = bytes,
        status_message = warnings
    where di_id = wanted;
    delete from di_imports where di_id = wanted;
    if (select auto_publish from di_runtimes where di_id = wanted) then
        perform di_publish(wanted::text);
    end if;
    return true;
end $$;

CREATE FUNCTION qvd.node_di_removed(node integer, node_epoch bigint, gone text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform node_check(node, node_epoch);
    delete from di_leftovers l where l.place = storage_place(node) and l.path = gone;
end $$;

CREATE FUNCTION qvd.node_duties(node integer, node_epoch bigint, remind double precision, OUT command qvd.host_cmd, OUT vms integer[], OUT softs text[], OUT hards text[], OUT next_in double precision) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    at timestamptz := clock_timestamp();
    over integer;
begin
    select r.cmd into command from host_runtimes r where r.host_id = node and r.epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
    for over in
        select r.vm_id from vm_runtimes r
        where r.host_id = node and r.vm_expiration_hard <= at and r.vm_cmd is null
            and vm_command_allowed(r.vm_state, 'stop')
        order by r.vm_id for update
    loop
        update vm_runtimes r set vm_cmd = 'stop', vm_reason = 'it expired' where r.vm_id = over;
    end loop;
    select array_agg(r.vm_id), array_agg(agent_time(r.vm_expiration_soft)), array_agg(agent_time(r.vm_expiration_hard))
    into vms, softs, hards
    from vm_runtimes r
    where r.host_id = node and r.vm_expiration_soft <= at and r.vm_state in ('starting', 'running', 'debugging')
        and r.vm_cmd is null
        and (r.vm_expiration_told is null or r.vm_expiration_told + remind * interval '1 second' <= at);
    select min(extract(epoch from moment - at)) into next_in
    from vm_runtimes r, lateral (values
            (r.vm_expiration_hard),
            (case when r.vm_expiration_told is null then r.vm_expiration_soft
                else r.vm_expiration_told + remind * interval '1 second' end)) m (moment)
    where r.host_id = node and (r.vm_expiration_soft is not null or r.vm_expiration_hard is not null)
        and moment > at and isfinite(moment);
end $$;

CREATE FUNCTION qvd.node_former(node_name text) RETURNS TABLE(host integer, boot_id uuid, machine_id text, epoch bigint, lease bigint, patience double precision, lives boolean, vms bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    return query
        select h.id, r.boot_id, r.machine_id, r.epoch, r.lease, r.patience,
            r.state in ('starting', 'running', 'stopping'),
            (select count(*) from vm_runtimes v where v.host_id = h.id and v.vm_state <> 'stopped')
        from hosts h join host_runtimes r on r.host_id = h.id
        where h.name = node_name and r.boot_id is not null;
end $$;

CREATE FUNCTION qvd.node_images(node integer, node_epoch bigint, patience double precision, idle boolean, OUT list boolean, OUT leftovers text[], OUT di integer, OUT source text, OUT path text, OUT move boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    here text := storage_place(node);
    candidate integer;
    claimed di_imports;
begin
    perform node_check(node, node_epoch);
    list := false;
    if not exists (select from storage_reports r where r.place = here
            and r.reported_at >= now() - patience * interval '1 second') then
        insert into storage_reports as r (place, reported_at) values (here, now())
        on conflict (place) do update set reported_at = now()
            where r.reported_at < now() - patience * interval '1 second';
        list := found;
    end if;
    leftovers := array(select l.path from di_leftovers l where l.place = here order by l.path limit 100);
    if not idle then
        return;
    end if;
    for candidate in
        select i.di_id from di_imports i where i.place = here and di_import_free(i, node) order by i.di_id
    loop
        -- Like administration: first the OSF, then what belongs to it.
        perform from dis d join osfs o on o.id = d.osf_id where d.id = candidate for update of o;
        select i.* into claimed from di_imports i where i.di_id = candidate and di_import_free(i, node) for update;
        continue when not found;
        if claimed.attempts >= di_import_attempts() then
            perform di_import_over(candidate, format('the nodes that made it ended %s times, the last was %s',
                claimed.attempts, (select h.name from hosts h where h.id = claimed.host_id)));
            continue;
        end if;
        update di_imports i set host_id = node, epoch = node_epoch, attempts = i.attempts + 1 where i.di_id = candidate;
        update di_runtimes r set state = 'uploading', state_ts = now(), percentage = 0, status_message = null
        where r.di_id = candidate;
        select d.id, d.path, claimed.source, claimed.move into di, path, source, move from dis d where d.id = candidate;
        return;
    end loop;
end $$;

CREATE FUNCTION qvd.node_join(wanted text, wanted_address inet, storage uuid, node_verifier text, l7r_verifier text, OUT host integer, OUT node_role text, OUT l7r_role text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    known hosts;
    login record;
begin
    select * into known from hosts h where h.name = wanted;
    if known.id is null then
        host := host_create(wanted, wanted_address);
    elsif known.address <> wanted_address then
        raise exception 'host % has the address %', wanted, host(known.address)
            using errcode = 'QV013', hint = 'Take another name, or that address.';
    elsif exists (select from host_runtimes r where r.host_id = known.id and r.state not in ('stopped', 'lost')) then
        raise exception 'host % is in use', wanted
            using errcode = 'QV022', hint = 'Take another name, or stop that node first.';
    else
        host := known.id;
    end if;
    update hosts set storage_id = storage where id = host;
    node_role := node_login('node', host);
    l7r_role := node_login('l7r', host);
    for login in select * from (values (node_role, 'qvd_node', node_verifier), (l7r_role, 'qvd_l7r', l7r_verifier))
        as l (name, member_of, verifier)
    loop
        if login.verifier not like 'SCRAM-SHA-256$%' then
            raise exception 'the password of % is no SCRAM verifier', login.name using errcode = 'QV014';
        end if;
        if not exists (select from pg_roles where rolname = login.name) then
            execute format('create role %I in role %I', login.name, login.member_of);
        end if;
        execute format('alter role %I login password %L', login.name, login.verifier);
    end loop;
    perform audit('join', 'host', host, wanted, 0, jsonb_build_object('storage', storage));
end $_$;

CREATE FUNCTION qvd.node_lease(node integer, node_epoch bigint, ram real, cpu real, degraded text, storage_degraded text DEFAULT NULL::text, free_ram real DEFAULT NULL::real, cpu_pressure real DEFAULT NULL::real) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    with changes as (delete from host_changes where host_id = node returning vms, failed_starts),
        added as (select coalesce(sum(vms), 0) as vms, coalesce(sum(failed_starts), 0) as failed_starts from changes)
    update host_runtimes r set ok_ts = now(), lease = r.lease + 1, usable_ram = ram, usable_cpu = cpu,
        free_ram = node_lease.free_ram, cpu_pressure = node_lease.cpu_pressure,
        vms = r.vms + a.vms,
        failed_starts = failed_starts_left(r.failed_starts, r.ok_ts) + a.failed_starts,
        events_degraded_reason = degraded,
        events_degraded_since = case when degraded is null then null else coalesce(r.events_degraded_since, now()) end,
        storage_degraded_reason = storage_degraded,
        storage_degraded_since =
            case when storage_degraded is null then null else coalesce(r.storage_degraded_since, now()) end
    from added a
    where r.host_id = node and r.epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
    return exists (select from vm_runtimes where restart_due);
end $$;

CREATE FUNCTION qvd.node_leave(wanted text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    host integer;
    role text;
begin
    delete from hosts h where h.name = wanted returning h.id into host;
    if host is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    foreach role in array array[node_login('node', host), node_login('l7r', host)] loop
        if exists (select from pg_roles where rolname = role) then
            execute format('drop role %I', role);
        end if;
    end loop;
    perform audit('leave', 'host', host, wanted, 0);
    return host;
end $$;

CREATE FUNCTION qvd.node_login(daemon text, host integer) RETURNS text
    LANGUAGE sql STABLE
    AS $$ select left(current_database(), 40) || '_' || daemon || '_' || host $$;

CREATE FUNCTION qvd.node_peers(node integer, node_epoch bigint) RETURNS TABLE(host integer, name text, epoch bigint, lease bigint, patience double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    perform node_check(node, node_epoch);
    return query
        with me as (select h.storage_id from hosts h where h.id = node)
        select id, name, epoch, lease, patience from (
            -- Each half is read in the order of an index and no further than it must.
            (select h.id, h.name, r.epoch, r.lease, r.patience, false as around
            from hosts h join host_runtimes r on r.host_id = h.id
            where h.storage_id = (select storage_id from me) and h.id > node
                and r.state in ('starting', 'running', 'stopping') and r.patience is not null
            order by h.id limit 16)
            union all
            (select h.id, h.name, r.epoch, r.lease, r.patience, true
            from hosts h join host_runtimes r on r.host_id = h.id
            where h.storage_id = (select storage_id from me) and h.id < node
                and r.state in ('starting', 'running', 'stopping') and r.patience is not null
            order by h.id limit 16)
        ) ring order by around, id limit 16;
end $$;

CREATE FUNCTION qvd.node_program(node integer, node_epoch bigint, program text, schema integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform node_check(node, node_epoch);
    update host_runtimes r set program = node_program.program, program_schema = schema where r.host_id = node;
end $$;

CREATE FUNCTION qvd.node_progress(node integer, node_epoch bigint, vms integer[], phases text[], ages double precision[], lefts double precision[], tries integer[], notes text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform set_config('synchronous_commit', 'off', true);
    perform node_check(node, node_epoch);
    delete from vm_progress p where p.host_id = node and p.vm_id <> all (vms);
    insert into vm_progress as p (vm_id, host_id, phase, since, until, attempts, note)
    select s.vm, node, s.phase, now() - s.age * interval '1 second', now() + s.left_over * interval '1 second', s.tried, s.note
    from unnest(vms, phases, ages, lefts, tries, notes) s (vm, phase, age, left_over, tried, note)
    where exists (select from vms v where v.id = s.vm)
    on conflict (vm_id) do update set host_id = excluded.host_id, phase = excluded.phase, since = excluded.since,
        until = excluded.until, attempts = excluded.attempts, note = excluded.note;
end $$;

CREATE FUNCTION qvd.node_routers(node integer, node_epoch bigint) RETURNS TABLE(instance bigint, boot_id uuid, pid integer, pid_start bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
    perform node_check(node, node_epoch);
    return query select id, boot_id, pid, pid_start from l7r_instances where host_id = node and ended_at is null;
end $$;

CREATE FUNCTION qvd.node_routers_gone(node integer, node_epoch bigint, gone bigint[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    return l7r_gone(array(select id from l7r_instances where host_id = node and id = any (gone)), 'its router died');
end $$;

CREATE FUNCTION qvd.node_serves(node integer, node_epoch bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update host_runtimes set state = 'starting'
    where host_id = node and epoch = node_epoch and state in ('stopped', 'lost');
    update host_runtimes set state = 'running' where host_id = node and epoch = node_epoch and state = 'starting';
    if not found then
        perform node_check(node, node_epoch);
        return false;
    end if;
    return true;
end $$;

CREATE FUNCTION qvd.node_staging(node integer, node_epoch bigint, names text[], sizes bigint[], modified double precision[], kinds text[], problem text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    here text := storage_place(node);
begin
    perform node_check(node, node_epoch);
    -- Two that list at once would meet the same names.
    perform from storage_reports r where r.place = here for update;
    delete from staging s where s.place = here and s.name <> all (names);
    insert into staging as s (place, name, size, modified, kind)
    select here, f.name, f.size, to_timestamp(f.modified), f.kind
    from unnest(names, sizes, modified, kinds) f (name, size, modified, kind)
    on conflict (place, name) do update set size = excluded.size, modified = excluded.modified, kind = excluded.kind
        where (s.size, s.modified, s.kind) is distinct from (excluded.size, excluded.modified, excluded.kind);
    update storage_reports r set reported_at = now(), problem = node_staging.problem where r.place = here;
end $$;

CREATE FUNCTION qvd.node_start(node_name text, node_boot uuid, node_pid integer, storage uuid DEFAULT NULL::uuid, patience double precision DEFAULT NULL::double precision, machine text DEFAULT NULL::text, seen_epoch bigint DEFAULT NULL::bigint, seen_lease bigint DEFAULT NULL::bigint, OUT node integer, OUT address inet, OUT node_epoch bigint, OUT state qvd.host_state, OUT released integer[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    runtime host_runtimes;
begin
    select h.id, h.address into node, address from hosts h where h.name = node_name;
    if node is null then
        raise exception 'no host is named %', node_name using errcode = 'QV010',
            hint = format('select host_create(%L, ''<address of this node in the VM network>'');', node_name);
    end if;
    if storage is not null then
        update hosts h set storage_id = storage where h.id = node and h.storage_id is null;
        if storage <> (select h.storage_id from hosts h where h.id = node) then
            raise exception 'host % had another storage than the one it has found', node_name
                using errcode = 'QV003', hint = format('Mount it. If it was replaced: '
                    'update hosts set storage_id = null where name = %L;', node_name);
        end if;
    end if;
    select * into runtime from host_runtimes where host_id = node for update;
    released := '{}';
    if runtime.boot_id is distinct from node_boot then
        if not coalesce(runtime.boot_id is null or runtime.machine_id = machine
            or (runtime.epoch, runtime.lease) = (seen_epoch, seen_lease), false)
            and (runtime.state in ('starting', 'running', 'stopping')
                or exists (select from vm_runtimes v where v.host_id = node and v.vm_state <> 'stopped'))
        then
            raise exception 'host % is another machine, and nobody has seen that it is off', node_name
                using errcode = 'QV002', hint = format('Give this machine a name of its own. If the other one is off for '
                    'good: select host_release(%L);', node_name);
        end if;
        released := host_forget(node, 'its node was restarted');
        update host_runtimes r set boot_id = node_boot, machine_id = machine, epoch = r.epoch + 1, state = 'starting', cmd = null
        where r.host_id = node;
    elsif runtime.state <> 'running' then
        -- One that was told to stop, and whose daemon died over it, goes on to stop.
        update host_runtimes r set state = 'starting',
            cmd = case when runtime.state in ('starting', 'stopping') then r.cmd end
        where r.host_id = node;
    end if;
    perform host_recount(node);
    update host_runtimes r
    set pid = node_pid, started_at = now(), ok_ts = now(), lease = r.lease + 1, patience = node_start.patience where r.host_id = node
    returning r.epoch, r.state into node_epoch, state;
end $$;

CREATE FUNCTION qvd.node_state(node integer, node_epoch bigint, becomes qvd.host_state) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update host_runtimes set state = becomes, ok_ts = now(), lease = lease + 1,
        pid = case when becomes = 'stopped' then null else pid end,
        cmd = case when becomes = 'stopped' then null else cmd end
    where host_id = node and epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
end $$;

CREATE FUNCTION qvd.node_status(node integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return jsonb_build_object(
        'notification_queue_usage', pg_notification_queue_usage(),
        'vm_states', (
            select coalesce(jsonb_object_agg(vm_state, n), '{}')
            from (select r.vm_state, count(*) as n from vm_runtimes r where r.host_id = node group by 1) states),
        'sessions', (select count(*) from vm_runtimes r where r.l7r_host_id = node),
        'router', (select to_jsonb(c) - 'host_id' from host_counters c where c.host_id = node),
        'tunnels', (
            select coalesce(jsonb_object_agg(c.tunnel, to_jsonb(c) - 'host_id' - 'tunnel'), '{}')
            from tunnel_counters c where c.host_id = node),
        'session_ends', (
            select coalesce(jsonb_object_agg(c.reason, c.sessions), '{}') from end_counters c where c.host_id = node));
end $$;

CREATE FUNCTION qvd.node_stopping(node integer, node_epoch bigint, vms boolean) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    update host_runtimes r set state = 'stopping'
    where r.host_id = node and r.epoch = node_epoch and r.state in ('starting', 'running');
    if not found then
        perform node_check(node, node_epoch);
    end if;
    update vm_runtimes r set user_cmd = 'abort'
    where r.l7r_host_id = node and r.user_state <> 'disconnected' and r.user_cmd is null;
    if vms then
        -- What was not begun is nobody's.
        update vm_runtimes r set vm_cmd = null, host_id = null, vm_reason = 'its node was told to stop'
        where r.host_id = node and r.vm_state = 'stopped' and r.vm_cmd = 'start';
        update vm_runtimes r set vm_cmd = 'stop', vm_reason = 'its node was told to stop'
        where r.host_id = node and r.vm_cmd is null and vm_command_allowed(r.vm_state, 'stop');
    end if;
    return (select count(*) from vm_runtimes r where r.l7r_host_id = node and r.user_state <> 'disconnected');
end $$;

CREATE FUNCTION qvd.node_storage(node_name text) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (select storage_id from hosts where name = node_name);
end $$;

CREATE FUNCTION qvd.node_take_over(node integer, node_epoch bigint, silent integer, silent_epoch bigint, seen_lease bigint) RETURNS integer[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    released integer[];
begin
    perform node_check(node, node_epoch);
    update host_runtimes r set epoch = r.epoch + 1, state = 'lost', pid = null, cmd = null
    where r.host_id = silent and r.epoch = silent_epoch and r.lease = seen_lease
        and r.state in ('starting', 'running', 'stopping')
        and exists (select from hosts h join hosts me on me.storage_id = h.storage_id where h.id = silent and me.id = node);
    if not found then
        return null;
    end if;
    released := host_forget(silent, 'its node gave no more signs of life');
    perform audit('take over', 'host', silent, (select name from hosts where id = silent), 0,
        jsonb_build_object('by', node, 'epoch', silent_epoch, 'vms', to_jsonb(released)));
    perform vms_restart();
    return released;
end $$;

CREATE FUNCTION qvd.node_vm_state(node integer, node_epoch bigint, vm integer, expected qvd.vm_state[], becomes qvd.vm_state, reason text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r set vm_state = becomes,
        vm_reason = case becomes when 'running' then reason else coalesce(reason, r.vm_reason) end
    where r.vm_id = vm and r.host_id = node and r.vm_state = any (expected);
    return found;
end $$;

CREATE FUNCTION qvd.node_vm_told(node integer, node_epoch bigint, vm integer, soft text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r set vm_expiration_told = clock_timestamp()
    where r.vm_id = vm and r.host_id = node and agent_time(r.vm_expiration_soft) = soft;
end $$;

CREATE TABLE qvd.vm_runtimes (
    vm_id integer NOT NULL,
    tenant_id integer NOT NULL,
    host_id integer,
    current_di_id integer,
    real_user_id integer,
    blocked boolean DEFAULT false NOT NULL,
    vm_state qvd.vm_state DEFAULT 'stopped'::qvd.vm_state NOT NULL,
    vm_state_ts timestamp with time zone DEFAULT now() NOT NULL,
    vm_cmd qvd.vm_cmd,
    vm_cmd_ts timestamp with time zone,
    vm_reason text,
    user_state qvd.user_state DEFAULT 'disconnected'::qvd.user_state NOT NULL,
    user_state_ts timestamp with time zone DEFAULT now() NOT NULL,
    user_cmd qvd.user_cmd,
    session_id bigint,
    l7r_host_id integer,
    l7r_instance bigint,
    vm_address inet,
    vm_vma_port integer,
    vm_x_port integer,
    vm_expiration_soft timestamp with time zone,
    vm_expiration_hard timestamp with time zone,
    contender inet,
    restart_due boolean DEFAULT false NOT NULL,
    user_cmd_ts timestamp with time zone,
    vm_expiration_told timestamp with time zone,
    CONSTRAINT a_start_needs_a_host CHECK (((vm_cmd IS DISTINCT FROM 'start'::qvd.vm_cmd) OR (host_id IS NOT NULL))),
    CONSTRAINT a_used_vm_has_a_session CHECK ((((user_state = 'disconnected'::qvd.user_state) = (session_id IS NULL)) AND ((session_id IS NULL) = (l7r_instance IS NULL)))),
    CONSTRAINT only_a_stopped_vm_has_no_host CHECK (((vm_state = 'stopped'::qvd.vm_state) OR (host_id IS NOT NULL)))
);

ALTER TABLE ONLY qvd.vm_runtimes FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.vm_specs (
    vm_id integer NOT NULL,
    name text NOT NULL,
    tenant_id integer NOT NULL,
    tenant text NOT NULL,
    user_id integer NOT NULL,
    login text NOT NULL,
    osf_id integer NOT NULL,
    memory integer NOT NULL,
    user_storage_size integer NOT NULL,
    di_tag text NOT NULL,
    ip inet NOT NULL,
    di_id integer,
    di_path text,
    secret bytea NOT NULL,
    cpus integer,
    agent text,
    CONSTRAINT vm_specs_secret_check CHECK ((length(secret) = 32))
);

CREATE VIEW qvd.node_vm WITH (security_barrier='true') AS
 SELECT s.vm_id,
    s.name,
    s.tenant_id,
    s.user_id,
    s.login,
    s.osf_id,
    s.memory,
    s.user_storage_size,
    d.id AS di_id,
    d.path AS di_path,
    s.di_tag,
    s.ip,
    s.secret,
    r.host_id,
    r.vm_state,
    r.vm_cmd,
    s.cpus,
    d.agent
   FROM ((qvd.vm_runtimes r
     JOIN qvd.vm_specs s ON ((s.vm_id = r.vm_id)))
     LEFT JOIN qvd.dis d ON ((d.id = r.current_di_id)));

CREATE FUNCTION qvd.node_vms(node integer, node_epoch bigint) RETURNS SETOF qvd.node_vm
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform node_check(node, node_epoch);
    return query select * from node_vm n where n.host_id = node and n.vm_state <> 'stopped';
end $$;

CREATE FUNCTION qvd.object_create(kind text, fields jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    given jsonb := fields;
    in_tenant text := coalesce(fields->>'tenant',
        (select t.name from tenants t where t.id = (fields->>'tenant_id')::integer and reaches(t.id)));
    called text := btrim(coalesce(fields->>'name', fields->>'key'));
    new_id integer;
    owner text;
    osf text;
    unknown text;
begin
    perform object_table(kind);
    if fields ? 'tenant_id' and in_tenant is null then
        raise exception 'there is no tenant %', fields->>'tenant_id' using errcode = 'QV010', hint = 'select id, name from tenant_list;';
    elsif called is null and kind <> 'di' then
        raise exception 'a % needs a name', kind using errcode = 'QV014', hint = 'Give the field name.';
    end if;
    perform demand(case kind when 'property' then 'property.manage.' else kind || '.create.' end);
    if fields ? 'properties' then
        perform demand(kind || '.create.properties.');
    end if;
    given := given - array['tenant', 'tenant_id', 'name', 'key', 'password'];
    if kind = 'user' then
        new_id := user_create(called, fields->>'password', in_tenant);
    elsif kind = 'host' then
        new_id := host_create(called, (fields->>'address')::inet);
        given := given - 'address';
    elsif kind = 'tenant' then
        new_id := tenant_create(called);
    elsif kind = 'osf' then
        new_id := osf_create(called, (fields->>'memory')::integer, coalesce((fields->>'user_storage')::integer, 0), in_tenant,
            (fields->>'cpus')::integer);
        given := given - array['memory', 'user_storage', 'cpus'];
    elsif kind in ('vm', 'di') then
        select o.name || '@' || t.name into osf from osfs o join tenants t on t.id = o.tenant_id
        where o.id = (fields->>'osf_id')::integer and reaches(o.tenant_id);
        osf := coalesce(osf, fields->>'osf');
        if osf is null then
            raise exception 'there is no OSF %', coalesce(fields->>'osf_id', '') using errcode = 'QV010', hint = 'select id, name from osf_list;';
        end if;
        given := given - array['osf', 'osf_id'];
        if kind = 'di' then
            if fields ? 'version' then
                perform demand('di.create.version.');
            end if;
            if fields ? 'tags' then
                perform demand('di.create.tags.');
            end if;
            new_id := di_import(osf, fields->>'disk_image', fields->>'version', coalesce((fields->>'move')::boolean, false),
                array(select members(coalesce(fields->'tags', '[]'), 'set')), coalesce((fields->>'auto_publish')::boolean, true),
                (fields->>'expiration_time_soft')::interval, (fields->>'expiration_time_hard')::interval);
            given := given - array['disk_image', 'version', 'move', 'tags', 'auto_publish', 'expiration_time_soft', 'expiration_time_hard'];
        else
            select u.login || '@' || t.name into owner from users u join tenants t on t.id = u.tenant_id
            where u.id = (fields->>'user_id')::integer and reaches(u.tenant_id);
            owner := coalesce(owner, fields->>'user');
            if owner is null then
                raise exception 'there is no user %', coalesce(fields->>'user_id', '') using errcode = 'QV010', hint = 'select id, name from user_list;';
            end if;
            new_id := vm_create(owner, called, osf, coalesce(fields->>'di_tag', fields->>'tag', 'default'), (fields->>'ip')::inet);
            given := given - array['user', 'user_id', 'di_tag', 'tag', 'ip'];
        end if;
    elsif kind = 'role' then
        insert into roles (tenant_id, name) values (tenant_for(in_tenant), called) returning id into new_id;
    elsif kind = 'administrator' then
        if fields ? 'language' then
            perform demand('administrator.create.language.');
        end if;
        insert into administrators (tenant_id, name, password)
        values (tenant_for(in_tenant), called, password_hash(nullif(fields->>'password', ''))) returning id into new_id;
    else
        insert into properties_list (key, tenant_id)
        values (called, case when in_tenant = '*' then 0 else tenant_for(in_tenant) end) returning id into new_id;
    end if;
    select f into unknown from jsonb_object_keys(given) f
    where f not in ('properties', 'roles', 'acls', 'objects', 'tags')
        and not exists (select from object_fields() x where x.kind = object_create.kind and x.field = f) limit 1;
    if unknown is not null then
        raise exception 'a % has no field %', kind, unknown using errcode = 'QV014',
            hint = (select string_agg(f.field, ', ' order by f.field) from object_fields() f where f.kind = object_create.kind);
    elsif given ? 'roles' then
        perform field_demand(kind, 'roles');
    elsif given ? 'acls' then
        perform field_demand(kind, 'acls');
    end if;
    perform objects_set(kind, array[new_id], given);
    return new_id;
exception
    when unique_violation then
        raise exception 'there is a % % already', kind, called using errcode = 'QV013', hint = 'Choose another name.';
    when check_violation or data_exception then
        raise exception '% % cannot be made: %', kind, called, sqlerrm using errcode = 'QV014', hint = 'Look at what is wrong with its fields.';
end $$;

CREATE FUNCTION qvd.object_fields() RETURNS TABLE(kind text, field text, tab text, col text, typ text)
    LANGUAGE sql IMMUTABLE
    AS $$
    values ('user', 'name', 'users', 'login', 'text'), ('user', 'password', 'users', 'password', 'text'),
        ('user', 'blocked', 'users', 'blocked', 'boolean'), ('user', 'description', 'users', 'description', 'text'),
        ('user', 'language', 'users', 'language', 'language'),
        ('vm', 'name', 'vms', 'name', 'text'), ('vm', 'di_tag', 'vms', 'di_tag', 'text'), ('vm', 'ip', 'vms', 'ip', 'inet'),
        ('vm', 'description', 'vms', 'description', 'text'), ('vm', 'keep_running', 'vms', 'keep_running', 'boolean'),
        ('vm', 'blocked', 'vm_runtimes', 'blocked', 'boolean'),
        ('host', 'name', 'hosts', 'name', 'text'), ('host', 'address', 'hosts', 'address', 'inet'),
        ('host', 'description', 'hosts', 'description', 'text'), ('host', 'frontend', 'hosts', 'frontend', 'boolean'),
        ('host', 'backend', 'hosts', 'backend', 'boolean'), ('host', 'blocked', 'host_runtimes', 'blocked', 'boolean'),
        ('osf', 'name', 'osfs', 'name', 'text'), ('osf', 'memory', 'osfs', 'memory', 'integer'),
        ('osf', 'overlay', 'osfs', 'use_overlay', 'boolean'), ('osf', 'user_storage', 'osfs', 'user_storage_size', 'integer'),
        ('osf', 'cpus', 'osfs', 'cpus', 'integer'), ('osf', 'description', 'osfs', 'description', 'text'),
        ('osf', 'is_application', 'osfs', 'is_application', 'boolean'),
        ('di', 'blocked', 'dis', 'blocked', 'boolean'), ('di', 'description', 'dis', 'description', 'text'),
        ('di', 'agent', 'dis', 'agent', 'text'),
        ('di', 'auto_publish', 'di_runtimes', 'auto_publish', 'boolean'),
        ('di', 'expiration_time_soft', 'di_runtimes', 'expiration_time_soft', 'interval'),
        ('di', 'expiration_time_hard', 'di_runtimes', 'expiration_time_hard', 'interval'),
        ('tenant', 'name', 'tenants', 'name', 'text'), ('tenant', 'language', 'tenants', 'language', 'language'),
        ('tenant', 'block', 'tenants', 'block', 'integer'), ('tenant', 'blocked', 'tenants', 'blocked', 'boolean'),
        ('tenant', 'description', 'tenants', 'description', 'text'),
        ('role', 'name', 'roles', 'name', 'text'), ('role', 'description', 'roles', 'description', 'text'),
        ('administrator', 'name', 'administrators', 'name', 'text'),
        ('administrator', 'password', 'administrators', 'password', 'text'),
        ('administrator', 'language', 'administrators', 'language', 'language'),
        ('administrator', 'block', 'administrators', 'block', 'integer'),
        ('administrator', 'description', 'administrators', 'description', 'text'),
        ('property', 'key', 'properties_list', 'key', 'text'), ('property', 'description', 'properties_list', 'description', 'text')
$$;

CREATE FUNCTION qvd.object_hold(kind text, wanted integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
begin
    execute format('select from %I where id = any ($1) for no key update', object_table(kind))
    using objects_mine(kind, array[wanted]);
end $_$;

CREATE FUNCTION qvd.object_label(kind text, object jsonb, OUT name text, OUT tenant integer) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    name := coalesce(object->>'login', object->>'name', object->>'path', object->>'key');
    tenant := object->>'tenant_id';
    if kind = 'vm' then
        name := (select u.login || '@' || t.name || '/' from users u join tenants t on t.id = u.tenant_id
            where u.id = (object->>'user_id')::integer) || (object->>'name');
    elsif kind = 'di' then
        tenant := (select o.tenant_id from osfs o where o.id = (object->>'osf_id')::integer);
    elsif kind = 'tenant' then
        tenant := object->>'id';
    elsif kind = 'host' then
        tenant := 0;
    end if;
end $$;

CREATE FUNCTION qvd.object_row(kind text, wanted integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return case kind
        when 'tenant' then (select to_jsonb(o) from tenants o where o.id = wanted)
        when 'user' then (select to_jsonb(o) from users o where o.id = wanted)
        when 'host' then (select to_jsonb(o) from hosts o where o.id = wanted)
        when 'osf' then (select to_jsonb(o) from osfs o where o.id = wanted)
        when 'di' then (select to_jsonb(o) from dis o where o.id = wanted)
        when 'vm' then (select to_jsonb(o) from vms o where o.id = wanted)
        when 'administrator' then (select to_jsonb(o) from administrators o where o.id = wanted)
        when 'role' then (select to_jsonb(o) from roles o where o.id = wanted)
        when 'property' then (select to_jsonb(o) from properties_list o where o.id = wanted)
    end;
end $$;

CREATE FUNCTION qvd.object_table(kind text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $$
declare
    found_table text := case kind when 'user' then 'users' when 'vm' then 'vms' when 'host' then 'hosts' when 'osf' then 'osfs'
        when 'di' then 'dis' when 'tenant' then 'tenants' when 'role' then 'roles' when 'administrator' then 'administrators'
        when 'property' then 'properties_list' end;
begin
    if found_table is null then
        raise exception 'there are no objects called %', kind using errcode = 'QV010',
            hint = 'user, vm, host, osf, di, tenant, role, administrator or property';
    end if;
    return found_table;
end $$;

CREATE FUNCTION qvd.object_verb(kind text, ids integer[], verb text, arguments jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    case verb
        when 'update' then perform objects_set(kind, ids, arguments);
        when 'delete' then perform objects_remove(kind, ids);
        when 'start' then perform vm_start(i) from unnest(ids) i;
        when 'stop' then perform vm_stop(i) from unnest(ids) i;
        when 'disconnect' then perform vm_disconnect(i) from unnest(ids) i;
        when 'expire' then perform vm_expire(i, (arguments->>'soft')::timestamptz, (arguments->>'hard')::timestamptz) from unnest(ids) i;
        when 'publish' then perform di_publish(i::text) from unnest(ids) i;
        when 'halt' then perform host_stop(h.name) from hosts h where h.id = any (ids);
    end case;
end $$;

CREATE FUNCTION qvd.objects_delete(kind text, ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform object_table(kind);
    perform demand(case kind when 'property' then 'property.manage.' else kind || '.delete.' end);
    return query select * from objects_do(kind, ids, 'delete');
end $$;

CREATE FUNCTION qvd.objects_do(kind text, ids integer[], verb text, arguments jsonb DEFAULT '{}'::jsonb) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    mine integer[] := objects_mine(kind, ids);
    names jsonb;
    one integer;
    said text;
    hint text;
    governed bigint := governors();
begin
    return query
        select o.*
        from (select distinct i from unnest(ids) i except select unnest(mine)) x (i),
            outcome_of(kind, i, null, 'QV010', format('there is no %s %s', kind, i), format('select id from %s_list;', kind)) o;
    if mine = '{}' then
        return;
    end if;
    select jsonb_object_agg(i, (object_label(kind, object_row(kind, i))).name) into names from unnest(mine) i;
    if cardinality(mine) > 1 and verb in ('update', 'delete') then
        begin
            perform object_verb(kind, mine, verb, arguments);
            perform governed_still(governed);
            return query select i, names->>i::text, '00000', null::text, null::text from unnest(mine) i;
            return;
        exception
            when integrity_constraint_violation or data_exception or sqlstate 'QV010' or sqlstate 'QV013' or sqlstate 'QV014'
                or sqlstate 'QV020' or sqlstate 'QV021' or sqlstate 'QV022' or sqlstate 'QV023' or sqlstate 'QV041' or sqlstate 'QV042'
            then null;
        end;
    end if;
    foreach one in array mine loop
        begin
            perform object_verb(kind, array[one], verb, arguments);
            perform governed_still(governed);
            return next row(one, names->>one::text, '00000', null, null)::outcome;
        exception when others then
            -- What concerns the whole statement is not about one object.
            if sqlstate ~ '^(40|53|57|58|XX)' then
                raise;
            end if;
            get stacked diagnostics said = message_text, hint = pg_exception_hint;
            return next outcome_of(kind, one, names->>one::text, sqlstate, said, hint);
        end;
    end loop;
end $$;

CREATE FUNCTION qvd.objects_mine(kind text, ids integer[]) RETURNS integer[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    mine integer[];
begin
    if not sees_all() and kind in ('host', 'tenant') then
        return '{}';
    end if;
    execute format('select array_agg(o.id order by o.id) from %I o %s where o.id = any ($1) and ((select sees_all()) or %s)',
        object_table(kind), case kind when 'di' then 'join osfs f on f.id = o.osf_id' else '' end,
        case kind when 'di' then 'f.tenant_id' when 'tenant' then 'o.id' when 'host' then '0' else 'o.tenant_id' end
            || ' = (select my_tenant())') || case kind when 'administrator' then ' and o.id <> 0' when 'tenant' then ' and o.id > 0' else '' end
    into mine using ids;
    return coalesce(mine, '{}');
end $_$;

CREATE FUNCTION qvd.objects_remove(kind text, ids integer[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    one integer;
begin
    if kind = 'di' then
        foreach one in array ids loop
            perform di_delete(one::text);
        end loop;
        return;
    elsif kind = 'administrator' and me() = any (ids) then
        raise exception 'nobody deletes himself' using errcode = 'QV041', hint = 'Ask another administrator.';
    elsif kind = 'tenant' then
        delete from views_setups v where v.tenant_id = any (ids);
        delete from configs c where c.tenant_id = any (ids);
    end if;
    execute format('delete from %I where id = any ($1)', object_table(kind)) using ids;
end $_$;

CREATE FUNCTION qvd.objects_set(kind text, ids integer[], changes jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    given jsonb := changes;
    target record;
    tagged text;
    one integer;
begin
    if given ? 'tag' then
        given := given - 'tag' || jsonb_build_object('di_tag', given->'tag');
    end if;
    if given ? 'password' then
        if coalesce(given->>'password', '') = '' then
            raise exception 'a password must not be empty' using errcode = 'QV014', hint = 'Leave it out to keep it as it is.';
        end if;
        given := given || jsonb_build_object('password', password_hash(given->>'password'));
    end if;
    if given ? 'name' then
        given := given || jsonb_build_object('name', btrim(given->>'name'));
        if kind = 'user' and not coalesce(config_get('model.user.login.case-sensitive') in ('1', 'yes', 'true', 'on'), false) then
            given := given || jsonb_build_object('name', lower(given->>'name'));
        end if;
    end if;
    for target in
        select f.tab, string_agg(format('%I = ($2->>%L)::%s', f.col, f.field, f.typ), ', ') as sets,
            string_agg(format('t.%I', f.col), ', ') as were,
            string_agg(format('($2->>%L)::%s', f.field, f.typ), ', ') as become
        from object_fields() f where f.kind = objects_set.kind and given ? f.field group by f.tab
    loop
        execute format('update %I t set %s where t.%I = any ($1) and row(%s) is distinct from row(%s)', target.tab, target.sets,
            case when target.tab like '%\_runtimes' then kind || '_id' else 'id' end, target.were, target.become)
        using ids, given;
    end loop;
    if given ?| array['expiration_soft', 'expiration_hard'] then
        foreach one in array ids loop
            perform vm_expire(one,
                case when given ? 'expiration_soft' then (given->>'expiration_soft')::timestamptz else r.vm_expiration_soft end,
                case when given ? 'expiration_hard' then (given->>'expiration_hard')::timestamptz else r.vm_expiration_hard end)
            from vm_runtimes r where r.vm_id = one;
        end loop;
    end if;
    if given ? 'properties' then
        perform properties_set(kind, ids, coalesce(given->'properties'->'set', case when given->'properties' ? 'delete'
            then '{}' else given->'properties' end), coalesce(given->'properties'->'delete', '[]'));
    end if;
    if given ? 'tags' then
        foreach one in array ids loop
            for tagged in select t from members(given->'tags', 'delete') t loop
                perform di_untag(one::text, tagged);
            end loop;
            for tagged in select t from members(given->'tags', 'set') t loop
                perform di_tag(one::text, tagged);
            end loop;
        end loop;
    end if;
    if given ? 'acls' then
        perform roles_acls(ids, given->'acls');
    end if;
    if given ? 'roles' and kind = 'role' then
        perform roles_inherit(ids, given->'roles');
    elsif given ? 'roles' then
        perform administrators_roles(ids, given->'roles');
    end if;
    if given ? 'objects' then
        delete from qvd_object_properties_list o where o.property_id = any (ids)
            and o.qvd_object::text in (select members(given->'objects', 'delete'));
        insert into qvd_object_properties_list (property_id, qvd_object)
        select i, m::property_object from unnest(ids) i, members(given->'objects', 'set') m
        on conflict do nothing;
    end if;
end $_$;

CREATE FUNCTION qvd.objects_update(kind text, ids integer[], changes jsonb) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform object_table(kind);
    perform field_demand(kind, f) from jsonb_object_keys(changes) f;
    return query select * from objects_do(kind, ids, 'update', changes);
end $$;

CREATE FUNCTION qvd.osf_create(name text, memory integer DEFAULT NULL::integer, user_storage integer DEFAULT 0, tenant text DEFAULT NULL::text, cpus integer DEFAULT NULL::integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    wanted record;
    in_tenant integer;
    new_id integer;
begin
    select * into wanted from name_and_tenant(osf_create.name);
    in_tenant := tenant_for(coalesce(wanted.tenant, osf_create.tenant));
    perform demand('osf.create.');
    perform demand_owning(in_tenant, 'OSFs');
    if osf_create.memory is not null then
        perform demand('osf.create.memory.');
    end if;
    if user_storage <> 0 then
        perform demand('osf.create.user-storage.');
    end if;
    insert into osfs (tenant_id, name, memory, user_storage_size, cpus)
    values (in_tenant, wanted.name, coalesce(osf_create.memory, config_get('osf.default.memory', in_tenant)::integer),
        user_storage, osf_create.cpus)
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'OSF % exists already', name using errcode = 'QV013';
end $$;

CREATE FUNCTION qvd.osf_id(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.osfs_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'UPDATE' and new.tenant_id <> old.tenant_id and exists (select from vms v where v.osf_id = new.id) then
        raise exception 'OSF % has VMs and cannot change its tenant', new.name using errcode = 'QV023', hint = 'Delete them first.';
    end if;
    if tg_op = 'UPDATE' then
        perform vm_specs_renew_osf(new.id);
    end if;
    perform wake('qvd_admin', 'osf', coalesce(new.id, old.id), coalesce(new.tenant_id, old.tenant_id));
    return null;
end $$;

CREATE FUNCTION qvd.outcome_of(kind text, wanted integer, name text, state text, said text, hint text) RETURNS qvd.outcome
    LANGUAGE sql STABLE
    AS $$
    select row(wanted, name,
        case when state = '23503' then 'QV022' when state = '23505' then 'QV013' when state ~ '^(22|23)' then 'QV014' else state end,
        case when state = '23503' then format('%s %s is still needed', kind, coalesce(name, wanted::text))
            when state = '23505' then format('%s %s: there is one of that name already', kind, coalesce(name, wanted::text))
            else said end,
        case when state = '23503' then 'Delete first what belongs to it.' else nullif(hint, '') end)::qvd.outcome
$$;

CREATE FUNCTION qvd.overview() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    found jsonb := '{}';
begin
    if can('vm.stats.running-vms.') then
        found := found || jsonb_build_object('vm_states', (
            select coalesce(jsonb_object_agg(s.vm_state, s.n), '{}')
            from (select r.vm_state, count(*) as n from vm_runtimes r group by 1) s));
    end if;
    if can('vm.stats.blocked.') then
        found := found || jsonb_build_object('vms', (
            select jsonb_build_object('all', count(*), 'blocked', count(*) filter (where r.blocked)) from vm_runtimes r));
    end if;
    if can('user.stats.blocked.') then
        found := found || jsonb_build_object('users', (
            select jsonb_build_object('all', count(*), 'blocked', count(*) filter (where u.blocked)) from users u));
    end if;
    -- Of nodes that run; what is nearer to its end counts, memory or processors.
    if can('host.stats.top-hosts-most-vms.') then
        found := found || jsonb_build_object('hosts', (
            select coalesce(jsonb_agg(to_jsonb(l) order by greatest(l.memory, l.processors) desc nulls last, l.vms desc, l.name), '[]')
            from (
                select h.id, h.name,
                    r.vms + (select coalesce(sum(c.vms), 0) from host_changes c where c.host_id = h.id) as vms,
                    least(greatest(1 - r.free_ram / nullif(r.usable_ram, 0), 0), 1) as memory,
                    least(greatest(r.cpu_pressure, 0), 1) as processors
                from hosts h join host_runtimes r on r.host_id = h.id
                where r.state = 'running'
                order by greatest(1 - r.free_ram / nullif(r.usable_ram, 0), r.cpu_pressure) desc nulls last, 3 desc, h.name
                limit 10) l));
    end if;
    if can('vm.stats.close-to-expire.') then
        found := found || jsonb_build_object('expiring', (
            with waiting as materialized (
                select r.vm_id, r.vm_expiration_soft as soft, r.vm_expiration_hard as hard, n.next
                from vm_runtimes r, lateral (
                    select min(m.moment) as next
                    from (values (r.vm_expiration_soft), (r.vm_expiration_hard)) m (moment)
                    where m.moment > now() and isfinite(m.moment)) n
                where (r.vm_expiration_soft is not null or r.vm_expiration_hard is not null) and n.next is not null)
            select jsonb_build_object('all', (select count(*) from waiting), 'first', (
                select coalesce(jsonb_agg(jsonb_build_object(
                        'id', f.vm_id, 'vm', u.login || '@' || t.name || '/' || v.name,
                        'soft', to_char(f.soft at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
                        'hard', to_char(f.hard at time zone 'UTC', 'YYYY-MM-DD HH24:MI')) order by f.next, f.vm_id), '[]')
                from (select * from waiting w order by w.next, w.vm_id limit 10) f
                    join vms v on v.id = f.vm_id join users u on u.id = v.user_id join tenants t on t.id = v.tenant_id))));
    end if;
    if can('user.stats.connected-users.') then
        found := found || jsonb_build_object('logins', (
            select jsonb_agg(jsonb_build_array(to_char(m.minute at time zone 'UTC', 'HH24:MI'), coalesce(s.n, 0)) order by m.minute)
            from generate_series(date_trunc('minute', now()) - interval '59 minutes', now(), interval '1 minute') m (minute)
                left join (
                    select date_trunc('minute', o.started_at) as minute, count(*) as n
                    from user_sessions o where o.started_at >= date_trunc('minute', now()) - interval '59 minutes'
                    group by 1) s on s.minute = m.minute));
    end if;
    if (select sees_all()) and can('host.see.state.') then
        found := found || jsonb_build_object('events', (
            select jsonb_build_object('queue', pg_notification_queue_usage(), 'degraded', coalesce(
                jsonb_agg(jsonb_build_object('id', h.id, 'name', h.name, 'reason', r.events_degraded_reason) order by h.name)
                    filter (where r.events_degraded_reason is not null), '[]'))
            from hosts h join host_runtimes r on r.host_id = h.id where r.state = 'running'));
    end if;
    return found;
end $$;

CREATE FUNCTION qvd.part_acls(part text, changed jsonb) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
    select case
        when part ~ '^(user|vm|host|osf|di)_properties$' then
            array[split_part(part, '_', 1) || '.update.properties.', split_part(part, '_', 1) || '.create.properties.']
        when part = 'di_tags' then array[case changed->>'tag' when 'default' then 'di.update.default.' else 'di.update.tags.' end]
        when part = 'qvd_object_properties_list' then array['property.manage.']
        when part = 'acl_role_relations' then array['role.update.assign-acl.']
        when part = 'role_role_relations' then array['role.update.assign-role.']
        when part = 'role_administrator_relations' then array['administrator.update.assign-role.']
        when part = 'ssl_configs' then array['config.qvd.']
        when part = 'configs' then array[case when changed->>'key' like 'wat.%' then 'config.wat.' else 'config.qvd.' end]
        when part = 'views_setups' then array[case
            when changed->>'view_type' = 'list_column' then 'views.update.columns.'
            else 'views.update.filters-' || (changed->>'device_type') || '.' end]
    end
$_$;

CREATE FUNCTION qvd.password_hash(password text) RETURNS text
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    select crypt(password, gen_salt('bf', 10))
$$;

CREATE FUNCTION qvd.place(spec qvd.vm_specs) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
declare
    b qvd.balancer;
    chosen integer;
begin
    select * into b from qvd.balancer;
    if b.same_home then
        chosen := (
            select r.host_id
            from qvd.vms own join qvd.vms v on v.user_id = own.user_id join qvd.vm_runtimes r on r.vm_id = v.id
                join qvd.host_loads l on l.host_id = r.host_id
            where own.id = spec.vm_id limit 1);
    end if;
    if chosen is not null then
        return chosen;
    end if;
    if b.plugin = 'load' then
        chosen := qvd.place_load(spec, b);
    elsif b.plugin = 'default' then
        chosen := qvd.place_default(spec.vm_id);
    else
        execute format('select qvd.%I($1)', 'place_' || b.plugin) into chosen using spec.vm_id;
    end if;
    if chosen is null then
        raise exception 'no host can take VM %', qvd.vm_name(spec.vm_id)
            using errcode = 'QV030', hint = 'A host must be running, not blocked and a back end: select * from host_list;';
    end if;
    return chosen;
end $_$;

CREATE FUNCTION qvd.place_default(vm integer) RETURNS integer
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    b qvd.balancer;
begin
    select * into b from qvd.balancer;
    return (
        select l.host_id from qvd.host_loads l
        order by (b.ram_weight * coalesce(l.usable_ram, 0) + b.cpu_weight * coalesce(l.usable_cpu, 0)) / (1 + l.vms)
            + random() * b.random_weight desc
        limit 1);
end $$;

CREATE FUNCTION qvd.place_load(vm integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$
begin
    return (select qvd.place_load(s, b) from qvd.vm_specs s, qvd.balancer b where s.vm_id = vm);
end $$;

CREATE TABLE qvd.balancer (
    one boolean DEFAULT true NOT NULL,
    plugin text,
    ram_weight double precision,
    cpu_weight double precision,
    random_weight double precision,
    lapse interval,
    same_user boolean DEFAULT false NOT NULL,
    same_home boolean DEFAULT false NOT NULL,
    CONSTRAINT balancer_one_check CHECK (one)
);

CREATE FUNCTION qvd.place_load(spec qvd.vm_specs, b qvd.balancer) RETURNS integer
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    turn bigint := nextval('qvd.placements');
    beside integer[] := '{}';
begin
    if b.same_user then
        beside := array(
            select r.host_id
            from qvd.vms own join qvd.vms v on v.user_id = own.user_id join qvd.vm_runtimes r on r.vm_id = v.id
            where own.id = spec.vm_id and r.host_id is not null);
    end if;
    return (
        select l.host_id
        from (
            select host_id, vms, failed_starts,
                greatest(b.ram_weight * coalesce(usable_ram, 0) + b.cpu_weight * coalesce(usable_cpu, 0), 1) as size,
                coalesce(free_ram, usable_ram, 0) - given * spec.memory >= spec.memory as fits,
                coalesce(free_ram, usable_ram, 0) / greatest(coalesce(usable_ram, 0), 1) as free,
                1 + coalesce(cpu_pressure, 0) as pressure,
                (row_number() over nodes + turn) % count(*) over nodes / (count(*) over nodes)::float8 as wait
            from qvd.host_loads
            window nodes as (order by host_id rows between unbounded preceding and unbounded following)
        ) l
        order by l.fits and l.host_id = any (beside) desc,
            l.fits desc,
            l.size * least(l.free, 1) / l.pressure * 0.5 ^ least(l.failed_starts, 50)
                / (1 + l.vms + l.wait * b.random_weight * (1 + l.vms / 20.0::float8)) desc
        limit 1);
end $$;

CREATE FUNCTION qvd.properties_list_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if new.key is distinct from old.key and (is_secret(old.key) or is_secret(new.key)) then
        raise exception 'the property % holds secrets and keeps its name', old.key using errcode = 'QV014';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.properties_set(kind text, ids integer[], given jsonb, gone jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    missing text;
    tab text := kind || '_properties';
begin
    if kind not in ('user', 'vm', 'host', 'osf', 'di') then
        raise exception 'a % has no properties', kind using errcode = 'QV014';
    elsif exists (select from jsonb_object_keys(given) k where is_secret(k))
        or exists (select from jsonb_array_elements_text(gone) k where is_secret(k)) then
        raise exception 'what holds secrets is not set as a property' using errcode = 'QV014', hint = 'select user_totp(login, secret);';
    end if;
    select k || ' of ' || coalesce(l.name, i::text) into missing
    from unnest(ids) i cross join object_label(kind, object_row(kind, i)) l cross join jsonb_object_keys(given) k
    where not exists (
        select from properties_list p join qvd_object_properties_list o on o.property_id = p.id and o.qvd_object::text = kind
        where p.key = k and p.tenant_id = l.tenant) limit 1;
    if missing is not null then
        raise exception 'there is no property %', missing
            using errcode = 'QV010', hint = 'Define it with object_create(''property'', …) for this kind of object.';
    end if;
    execute format('insert into %I as p (%I, property_id, value)
        select i, o.id, g.value
        from unnest($1) i cross join object_label($2, object_row($2, i)) l cross join jsonb_each_text($3) g
            join properties_list d on d.key = g.key and d.tenant_id = l.tenant
            join qvd_object_properties_list o on o.property_id = d.id and o.qvd_object::text = $2
        on conflict (%2$I, property_id) do update set value = excluded.value where p.value <> excluded.value', tab, kind || '_id')
    using ids, kind, given;
    execute format('delete from %I p using qvd_object_properties_list o, properties_list d
        where p.%I = any ($1) and o.id = p.property_id and d.id = o.property_id
            and d.key in (select jsonb_array_elements_text($2))', tab, kind || '_id')
    using ids, gone;
end $_$;

CREATE FUNCTION qvd.qvd_object_properties_list_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if exists (select from properties_list l where l.id in (old.property_id, new.property_id) and is_secret(l.key))
        and (old.id, old.property_id, old.qvd_object) is distinct from (new.id, new.property_id, new.qvd_object)
    then
        raise exception 'what holds secrets is not made another property' using errcode = 'QV014';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.reaches(tenant integer) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    acting constant integer := me();
begin
    if acting is null then
        return sees_all();
    end if;
    return coalesce((select a.tenant_id in (0, tenant) from administrators a where a.id = acting), false);
end $$;

CREATE FUNCTION qvd.restarts_due() RETURNS TABLE(key text, changed timestamp with time zone, nodes text[])
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if not (sees_all() and can('config.qvd.') and can('host.see.state.')) then
        return;
    end if;
    return query
        select c.object_name, c.at, array_agg(h.name order by h.name)
        from (
                select l.object_name, max(l.time) as at from log l
                where l.qvd_object = 'config' and l.tenant_id = -1 group by 1) c
            join config_keys k on k.key = c.object_name and k.needs_restart
            join host_runtimes r on r.state in ('starting', 'running') and (r.started_at < c.at or exists (
                select from l7r_instances i where i.host_id = r.host_id and i.ended_at is null and i.started_at < c.at))
            join hosts h on h.id = r.host_id
        where k.key !~ '^(internal|database)[.]' and not is_secret(k.key)
        group by 1, 2
        order by 1;
end $$;

CREATE FUNCTION qvd.resumable_for() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '00:05:00'::interval;

CREATE TABLE qvd.user_sessions (
    id bigint NOT NULL,
    vm_id integer NOT NULL,
    vm_name text NOT NULL,
    user_id integer NOT NULL,
    login text NOT NULL,
    tenant_id integer NOT NULL,
    host_id integer,
    l7r_host_id integer NOT NULL,
    l7r_instance bigint NOT NULL,
    client_address inet NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    connected_at timestamp with time zone,
    ended_at timestamp with time zone,
    bytes_up bigint DEFAULT 0 NOT NULL,
    bytes_down bigint DEFAULT 0 NOT NULL,
    tunnel text,
    end_reason text,
    CONSTRAINT user_sessions_check CHECK (((ended_at IS NULL) = (end_reason IS NULL)))
);

ALTER TABLE ONLY qvd.user_sessions FORCE ROW LEVEL SECURITY;

CREATE FUNCTION qvd.resumed_session(presented text) RETURNS qvd.user_sessions
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    resumed user_sessions;
begin
    select s.* into resumed from session_resumes r join user_sessions s on s.id = r.session_id
    where r.session_id = substring(presented from '^([0-9]{1,18})[.]')::bigint and r.token = token_digest(presented)
        and (s.ended_at is null or s.ended_at > now() - resumable_for())
        and not exists (
            select from user_sessions later
            where later.vm_id = s.vm_id and later.started_at > s.started_at and later.user_id = s.user_id
                and later.connected_at is not null);
    return resumed;
end $$;

CREATE FUNCTION qvd.retention_apply(batch integer DEFAULT 1000) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    keep_log interval := seconds(config_get('retention.log')) * interval '1 second';
    keep_sessions interval := seconds(config_get('retention.sessions')) * interval '1 second';
    total bigint := 0;
    gone bigint;
begin
    if not pg_try_advisory_xact_lock(hashtext('qvd.retention')) then
        return 0;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    if keep_log > '0' then
        delete from log where id in (select l.id from log l where l.time < now() - keep_log order by l.time limit batch);
        get diagnostics gone = row_count;
        total := total + gone;
    end if;
    if keep_sessions > '0' then
        delete from user_sessions where id in (
            select s.id from user_sessions s where s.ended_at < now() - keep_sessions order by s.ended_at limit batch);
        get diagnostics gone = row_count;
        total := total + gone;
        -- Few, since each is looked for among all VMs.
        delete from l7r_instances where id in (
            select i.id from l7r_instances i where i.ended_at < now() - keep_sessions
                and not exists (select from vm_runtimes r where r.l7r_instance = i.id) limit 10);
        get diagnostics gone = row_count;
        total := total + gone;
    end if;
    -- Of nodes that are no more; others do so themselves.
    delete from vm_console_watches w where w.until < now();
    get diagnostics gone = row_count;
    total := total + gone;
    delete from session_resumes where session_id in (
        select r.session_id from session_resumes r join user_sessions s on s.id = r.session_id
        where s.ended_at <= now() - resumable_for() limit batch);
    get diagnostics gone = row_count;
    total := total + gone;
    select count(tokens_expire(t.user_id)) into gone from (
        select distinct k.user_id from user_tokens k where k.expiration < now() limit batch) t;
    return total + gone;
end $$;

CREATE FUNCTION qvd.role_acls_renew() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    delete from role_acls r where not exists (select from role_acls_due d where d.role_id = r.role_id and d.acl = r.acl);
    insert into role_acls select d.role_id, d.acl from role_acls_due d on conflict do nothing;
end $$;

CREATE FUNCTION qvd.role_ids(wanted jsonb, what text, of_tenant integer) RETURNS SETOF integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.roles_acls(ids integer[], given jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.roles_guard() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if old.fixed and (tg_op = 'DELETE' or (new.name, new.tenant_id, new.fixed, new.description)
            is distinct from (old.name, old.tenant_id, old.fixed, old.description)) then
        raise exception 'role % is fixed', old.name using errcode = 'QV042', hint = 'Make a role that inherits it.';
    end if;
    return coalesce(new, old);
end $$;

CREATE FUNCTION qvd.roles_inherit(ids integer[], given jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.roles_not_fixed(ids integer[]) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    fixed text;
begin
    select r.name into fixed from roles r where r.id = any (ids) and r.fixed limit 1;
    if fixed is not null then
        raise exception 'role % is fixed', fixed using errcode = 'QV042', hint = 'Make a role that inherits it.';
    end if;
end $$;

CREATE FUNCTION qvd.roles_renew() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform role_acls_renew();
    return null;
end $$;

CREATE FUNCTION qvd.row_acls(part text, kind text, key text, was jsonb, becomes jsonb) RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if was = becomes then
        return;
    elsif key <> 'id' then
        return next array_to_string(part_acls(part, coalesce(becomes, was)), ' ');
    elsif was is not null and becomes is not null then
        return query select update_acl(kind, c) from jsonb_object_keys(becomes) c where was->c is distinct from becomes->c;
    else
        return next case when kind = 'property' then 'property.manage.'
            else kind || case when was is null then '.create.' else '.delete.' end end;
        if kind = 'vm' and becomes->>'di_tag' <> 'default' then
            return next 'vm.create.di-tag.';
        elsif kind = 'osf' and becomes->>'user_storage_size' <> '0' then
            return next 'osf.create.user-storage.';
        elsif kind = 'administrator' and becomes->>'language' <> 'default' then
            return next 'administrator.create.language.';
        end if;
    end if;
end $$;

CREATE FUNCTION qvd.runtime_permit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.seconds(value text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$ select coalesce(substring(value from '^[0-9]+(?:[.][0-9]+)?$')::float8, 0) $_$;

CREATE FUNCTION qvd.sees_all() RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.session_vm(wanted bigint) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (select vm_id from user_sessions where id = wanted);
end $$;

CREATE FUNCTION qvd.span(wanted interval) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case
        when s < 120 then s || ' s'
        when s < 7200 then s / 60 || ' min'
        when s < 172800 then s / 3600 || ' h'
        else s / 86400 || ' days'
    end
    from (select greatest(round(extract(epoch from wanted)), 0)::bigint) x (s)
$$;

CREATE FUNCTION qvd.ssl_configs_wake() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform wake('qvd_config', 'ssl', null);
    return null;
end $$;

CREATE FUNCTION qvd.staging_log(action text, file text, arguments jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand('di.create.');
    perform audit(action, 'staging', null, file, my_tenant(), arguments);
end $$;

CREATE FUNCTION qvd.staging_place(file text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    at text;
begin
    select s.place into at
    from staging s join (select storage_place(id) as place from hosts) h on h.place = s.place
    where s.name = file
    group by s.place order by count(*) desc, s.place limit 1;
    if at is null then
        -- One that was put there this moment is not listed yet.
        select min(p.place) into at from (select distinct storage_place(id) as place from hosts) p having count(*) = 1;
    end if;
    if at is null then
        raise exception 'no staging directory holds %', file
            using errcode = 'QV010', hint = 'select * from staging_list; after select staging_refresh();';
    end if;
    return at;
end $$;

CREATE FUNCTION qvd.staging_refresh() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand('di.create.');
    update storage_reports set reported_at = '-infinity';
    perform storage_wake(null);
end $$;

CREATE FUNCTION qvd.staging_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if exists (select from changed) then
        perform wake('qvd_admin', 'staging', null);
    end if;
    return null;
end $$;

CREATE FUNCTION qvd.statistics() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.storage_place(node integer) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
    select coalesce(storage_id::text, 'host ' || id) from hosts where id = node
$$;

CREATE FUNCTION qvd.storage_wake(wanted text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform wake('qvd_node_' || h.id, 'image', null)
    from hosts h join host_runtimes r on r.host_id = h.id
    where r.state = 'running' and (wanted is null or storage_place(h.id) = wanted);
end $$;

CREATE FUNCTION qvd.tenant_create(name text, description text DEFAULT NULL::text, language qvd.language DEFAULT 'auto'::qvd.language, block integer DEFAULT 10) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    new_id integer;
begin
    perform demand_superadministrator('making tenants');
    perform demand('tenant.create.');
    insert into tenants (name, description, language, block)
    values (btrim(name), description, language, block) returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'tenant % exists already', name using errcode = 'QV013';
end $$;

CREATE FUNCTION qvd.tenant_for(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return case when wanted is not null or my_tenant() = 0 or my_tenant() is null
        then tenant_id(coalesce(wanted, 'default')) else my_tenant() end;
end $$;

CREATE FUNCTION qvd.tenant_id(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.tenant_purge(wanted integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.tenants_block(ids integer[], blocked boolean DEFAULT true) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_update('tenant', ids, jsonb_build_object('blocked', blocked)) $$;

CREATE FUNCTION qvd.tenants_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'UPDATE' and new.name <> old.name then
        perform vm_specs_renew(array(select s.vm_id from vm_specs s where s.tenant_id = new.id));
    end if;
    perform wake('qvd_admin', 'tenant', coalesce(new.id, old.id), coalesce(new.id, old.id));
    return null;
end $$;

CREATE FUNCTION qvd.token_digest(token text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(sha256(convert_to(token, 'UTF8'::name)), 'hex'::text);

CREATE FUNCTION qvd.tokens_expire(account integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    -- A look is cheaper than to delete nothing.
    if exists (select from user_tokens where user_id = account and expiration < now()) then
        delete from user_tokens where user_id = account and expiration < now();
    end if;
end $$;

CREATE FUNCTION qvd.update_acl(kind text, col text) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    select coalesce((select c.acl from column_acls() c where c.kind = update_acl.kind and c.col = update_acl.col),
        case kind when 'property' then 'property.manage.' else kind || '.create.' end)
$$;

CREATE FUNCTION qvd.user_block(wanted text, blocked boolean DEFAULT true) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    target users;
begin
    perform demand('user.update.block.');
    update users u set blocked = user_block.blocked where u.id = user_id(wanted) returning * into target;
    return target.id;
end $$;

CREATE FUNCTION qvd.user_create(login text, password text DEFAULT NULL::text, tenant text DEFAULT NULL::text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    wanted record;
    in_tenant integer;
    new_id integer;
begin
    select * into wanted from name_and_tenant(login);
    in_tenant := tenant_for(coalesce(wanted.tenant, user_create.tenant));
    perform demand('user.create.');
    perform demand_owning(in_tenant, 'users');
    if password = '' then
        raise exception 'user % needs a password that is not empty', login
            using errcode = 'QV014', hint = 'Leave it out for a user who cannot log in with a password kept here.';
    end if;
    insert into users (tenant_id, login, password)
    values (in_tenant,
        case when config_get('model.user.login.case-sensitive') in ('1', 'yes', 'true', 'on')
            then wanted.name else lower(wanted.name) end,
        password_hash(user_create.password))
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'user % exists already', login using errcode = 'QV013';
end $$;

CREATE FUNCTION qvd.user_id(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.user_password(wanted text, password text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    target users;
begin
    if coalesce(password, '') = '' then
        raise exception 'the password of % must not be empty', wanted using errcode = 'QV014';
    end if;
    perform demand('user.update.password.');
    update users u set password = password_hash(user_password.password) where u.id = user_id(wanted)
    returning * into target;
end $$;

CREATE FUNCTION qvd.user_sessions_wake() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    perform qvd.announce('qvd_admin', qvd.wake_payload('session', new.id, new.tenant_id));
    return null;
end $$;

CREATE FUNCTION qvd.user_tokens_gone() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    delete from user_auth_parameters p using gone
    where p.id = gone.auth_params_id and p.kept_since is null
        and not exists (select from user_tokens t where t.auth_params_id = p.id);
    return null;
end $$;

CREATE FUNCTION qvd.user_totp(wanted text, secret text, OUT account text, OUT had_one boolean, OUT required boolean, OUT digits bigint, OUT period bigint, OUT t0 bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $_$
declare
    target users;
    property integer;
    kind integer;
begin
    perform demand('user.update.password.');
    select * into target from users u where u.id = user_id(wanted);
    if secret !~ '^[A-Z2-7]{16,}$' then
        raise exception 'the secret of % must be at least 16 characters of base32', wanted using errcode = 'QV014';
    end if;
    delete from user_properties p using qvd_object_properties_list o, properties_list l
    where p.user_id = target.id and o.id = p.property_id and o.qvd_object = 'user' and l.id = o.property_id
        and l.tenant_id = target.tenant_id and l.key = 'l7r.auth.plugin.totp.secret32';
    had_one := found;
    -- What was used up belongs to the secret that was.
    delete from totp_used u where u.user_id = target.id;
    if secret is not null then
        insert into properties_list (key, tenant_id, description)
        values ('l7r.auth.plugin.totp.secret32', target.tenant_id, 'Secret of one-time passwords, in base32')
        on conflict (key, tenant_id) do update set key = excluded.key returning id into property;
        insert into qvd_object_properties_list (property_id, qvd_object) values (property, 'user')
        on conflict (property_id, qvd_object) do update set qvd_object = excluded.qvd_object returning id into kind;
        insert into user_properties (user_id, property_id, value) values (target.id, kind, secret);
    end if;
    perform audit('update', 'user', target.id, target.login, target.tenant_id,
        jsonb_build_object('totp', case when secret is null then 'removed' else 'made' end));
    select target.login || '@' || t.name into account from tenants t where t.id = target.tenant_id;
    select bool_or('TOTP' = any (regexp_split_to_array(coalesce(config_get(key, target.tenant_id), ''), '[ ,]+')))
    into required
    from unnest(array['l7r.auth.plugins.head', 'l7r.auth.plugins', 'l7r.auth.plugins.tail']) key;
    digits := seconds(config_get('l7r.auth.plugin.totp.token_size', target.tenant_id));
    period := seconds(config_get('l7r.auth.plugin.totp.interval', target.tenant_id));
    t0 := seconds(config_get('l7r.auth.plugin.totp.t0', target.tenant_id));
end $_$;

CREATE FUNCTION qvd.user_transition_allowed(was qvd.user_state, becomes qvd.user_state) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select was = becomes or becomes = 'disconnected'
        or (was, becomes) in (('disconnected', 'connecting'), ('connecting', 'connected'))
$$;

CREATE FUNCTION qvd.users_block(ids integer[], blocked boolean DEFAULT true) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_update('user', ids, jsonb_build_object('blocked', blocked)) $$;

CREATE FUNCTION qvd.users_delete(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_delete('user', ids) $$;

CREATE FUNCTION qvd.users_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'UPDATE' and new.tenant_id <> old.tenant_id and exists (select from vms v where v.user_id = new.id) then
        raise exception 'user % has VMs and cannot change its tenant', new.login using errcode = 'QV023', hint = 'Delete them first.';
    end if;
    if tg_op = 'UPDATE' and (new.login, new.tenant_id) is distinct from (old.login, old.tenant_id) then
        perform vm_specs_renew(array(select v.id from vms v where v.user_id = new.id));
    end if;
    perform wake('qvd_admin', 'user', coalesce(new.id, old.id), coalesce(new.tenant_id, old.tenant_id));
    return null;
end $$;

CREATE FUNCTION qvd.view_columns(object text, device qvd.device_type, shown text[], hidden text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.view_reset(object text DEFAULT NULL::text, whose text DEFAULT 'mine'::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if whose = 'tenant' then
        perform demand('views.update.columns.');
    end if;
    delete from views_setups v where v.tenant_id = my_tenant() and (object is null or v.qvd_object = object)
        and v.administrator_id is not distinct from case whose when 'mine' then me() end;
end $$;

CREATE FUNCTION qvd.view_set(object text, field text, view_type qvd.view_type, device_type qvd.device_type, visible boolean, whose text DEFAULT 'mine'::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
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

CREATE FUNCTION qvd.vm_address_free() RETURNS inet
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    first inet := config_get('vm.network.ip.start')::inet;
    mask text := config_get('vm.network.netmask');
    network inet;
    last inet;
    chosen inet;
begin
    if mask like '%.%' then
        if family(first) = 6 then
            raise exception '% is no netmask of IPv6', mask
                using errcode = 'QV014', hint = 'Set vm.network.netmask to a length, such as 64.';
        end if;
        mask := (select sum(length(replace(octet::integer::bit(8)::text, '0', '')))
            from unnest(string_to_array(mask, '.')) octet)::text;
    end if;
    network := set_masklen(first, mask::integer);
    last := least(host(broadcast(network))::inet - 1, first + 16777214);
    -- The highest address that nobody has: either the top of the range or just below a VM or a host.
    select candidate into chosen from (
        select last as candidate
        union all
        select v.ip - 1 from vms v where v.ip between first and last
        union all
        select h.address - 1 from hosts h where h.address between first and last
    ) candidates
    where candidate >= first
        and not exists (select from vms v where v.ip = candidate)
        and not exists (select from hosts h where h.address = candidate)
    order by candidate desc limit 1;
    if chosen is null then
        raise exception 'no address is free between % and %', host(first), host(last)
            using errcode = 'QV032', hint = 'Widen vm.network.netmask or lower vm.network.ip.start.';
    end if;
    return chosen;
end $$;

CREATE FUNCTION qvd.vm_block(vm text, blocked boolean DEFAULT true) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    target vm_runtimes;
begin
    perform demand('vm.update.block.');
    update vm_runtimes r set blocked = vm_block.blocked where r.vm_id = vm_id(vm) returning * into target;
    return target.vm_id;
end $$;

CREATE FUNCTION qvd.vm_command_allowed(state qvd.vm_state, command qvd.vm_cmd) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case command
        when 'start' then state = 'stopped'
        when 'stop' then state in ('starting', 'running', 'debugging')
    end
$$;

CREATE FUNCTION qvd.vm_console(vm integer, after bigint DEFAULT 0) RETURNS TABLE(piece bigint, said text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    if not exists (select from vm_runtimes r where r.vm_id = vm and reaches(r.tenant_id)) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.see.port-serial.');
    return query
        select p.id, p.said from vm_console_pieces p join vm_console_watches w on w.vm_id = p.vm_id
        where p.vm_id = vm and p.id > after and w.until >= now() order by p.id;
end $$;

CREATE FUNCTION qvd.vm_console_watch(vm integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_console_watches_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform wake('qvd_admin', 'console', new.vm_id, (select v.tenant_id from vms v where v.id = new.vm_id));
    return null;
end $$;

CREATE FUNCTION qvd.vm_create(owner text, name text, osf text, tag text DEFAULT 'default'::text, ip inet DEFAULT NULL::inet) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    -- By itself, since a planner that tries it out would not see a user made by the same statement.
    owner_id integer := user_id(owner);
    of_user users;
    of_osf osfs;
    new_id integer;
begin
    perform demand('vm.create.');
    if tag <> 'default' then
        perform demand('vm.create.di-tag.');
    end if;
    if vm_create.ip is not null then
        perform demand_superadministrator('choosing the address of a VM');
    end if;
    select * into of_user from users where id = owner_id;
    -- An OSF without a tenant is looked for in the owner's.
    select o.* into of_osf from osfs o join tenants t on t.id = o.tenant_id, name_and_tenant(osf) n
    where o.name = n.name and o.tenant_id = of_user.tenant_id and t.name = coalesce(n.tenant, t.name);
    if of_osf.id is null then
        raise exception 'there is no OSF % in the tenant of %', osf, owner
            using errcode = 'QV010', hint = 'select name from osfs;';
    end if;
    -- One at a time chooses an address.
    perform pg_advisory_xact_lock(hashtext('qvd.vm_address'));
    insert into vms (name, user_id, osf_id, di_tag, ip)
    values (vm_create.name, of_user.id, of_osf.id, tag, coalesce(vm_create.ip, vm_address_free()))
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'VM % of % exists already, or another VM has its address', name, owner using errcode = 'QV013';
end $$;

CREATE FUNCTION qvd.vm_disconnect(vm integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_disconnect(vm text) RETURNS integer
    LANGUAGE sql
    AS $$ select vm_disconnect(vm_id(vm)) $$;

CREATE FUNCTION qvd.vm_effective_properties(vm integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (
        select coalesce(jsonb_object_agg(key, value order by rank), '{}')
    from (
        select l.key, p.value, p.rank
        from (
            select op.property_id, op.value, 1 from vms v join osf_properties op on op.osf_id = v.osf_id where v.id = vm
            union all
            select dp.property_id, dp.value, 2 from di_properties dp
            where dp.di_id = coalesce((select current_di_id from vm_runtimes where vm_id = vm), di_for(vm))
            union all
            select up.property_id, up.value, 3 from vms v join user_properties up on up.user_id = v.user_id where v.id = vm
            union all
            select vp.property_id, vp.value, 4 from vm_properties vp where vp.vm_id = vm
        ) p (property_id, value, rank)
            join qvd_object_properties_list o on o.id = p.property_id
            join properties_list l on l.id = o.property_id
        -- What makes a user's one-time passwords is nobody's business in the VM.
        where not is_secret(l.key)
        order by rank
    ) ranked);
end $$;

CREATE FUNCTION qvd.vm_expire(vm integer, soft timestamp with time zone, hard timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes where vm_id = vm for update;
    if target.vm_id is null or not reaches(target.tenant_id) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.update.expiration.');
    if target.vm_state = 'stopped' and coalesce(soft, hard) is not null then
        raise exception 'VM % is stopped and cannot expire', vm_name(vm)
            using errcode = 'QV021', hint = 'Only a run of a VM expires; the next one does not.';
    elsif hard < soft then
        raise exception 'VM % would be stopped before it is told', vm_name(vm)
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    elsif not (isfinite(coalesce(soft, hard, now())) and isfinite(coalesce(hard, soft, now()))) then
        raise exception 'an expiration has a date' using errcode = 'QV014', hint = 'For never, leave it out.';
    end if;
    update vm_runtimes set vm_expiration_soft = soft, vm_expiration_hard = hard where vm_id = vm;
    return vm;
end $$;

CREATE FUNCTION qvd.vm_expire(vm text, soft timestamp with time zone, hard timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS integer
    LANGUAGE sql
    AS $$ select vm_expire(vm_id(vm), soft, hard) $$;

CREATE FUNCTION qvd.vm_id(wanted text) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
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

CREATE FUNCTION qvd.vm_mac(ip inet) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return config_get('vm.network.mac.prefix') || (
        select string_agg(':' || lpad(to_hex(get_byte(b, length(b) - n)), 2, '0'), '' order by n desc)
        -- The wire form ends with the address.
        from inet_send(set_masklen(ip, case family(ip) when 4 then 32 else 128 end)) b, generate_series(1, 3) n);
end $$;

CREATE FUNCTION qvd.vm_name(wanted integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return (
        select u.login || '@' || t.name || '/' || v.name
    from vms v join users u on u.id = v.user_id join tenants t on t.id = u.tenant_id
    where v.id = wanted and reaches(t.id));
end $$;

CREATE FUNCTION qvd.vm_run_account(vm integer, node integer, was qvd.vm_state, becomes qvd.vm_state, told qvd.vm_cmd) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if was = 'starting' then
        update vm_counters c set run_attempts = run_attempts + 1, run_ok = run_ok + (becomes = 'running')::integer
        where c.vm_id = vm;
        -- One that was told to stop has not failed. What fails is stopping before it has stopped, too.
        if becomes <> 'running' and told is distinct from 'stop' then
            insert into host_changes (host_id, failed_starts) values (node, 1);
        end if;
    end if;
    if becomes = 'stopped' then
        update vm_specs s set secret = fresh_secret() where s.vm_id = vm;
    end if;
end $$;

CREATE FUNCTION qvd.vm_runtimes_count() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op <> 'INSERT' and old.host_id is not null then
        insert into host_changes (host_id, vms) values (old.host_id, -1);
    end if;
    if tg_op <> 'DELETE' and new.host_id is not null then
        insert into host_changes (host_id, vms) values (new.host_id, 1);
    end if;
    return null;
end $$;

CREATE FUNCTION qvd.vm_runtimes_guard() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    if new.vm_state is distinct from old.vm_state then
        if not qvd.vm_transition_allowed(old.vm_state, new.vm_state) then
            raise exception 'VM % cannot go from % to %', qvd.vm_name(new.vm_id), old.vm_state, new.vm_state
                using errcode = 'QV020', hint = 'The states of a VM follow each other as in ARCHITECTURE.md.';
        end if;
        new.vm_state_ts := now();
        if new.vm_state = 'stopped' then
            new.host_id := null;
            new.vm_cmd := null;
            new.current_di_id := null;
            new.vm_address := null;
            new.vm_vma_port := null;
            new.vm_x_port := null;
            new.vm_expiration_soft := null;
            new.vm_expiration_hard := null;
            new.vm_expiration_told := null;
            if new.user_state = 'connected' then
                new.user_cmd := 'abort';
            end if;
        end if;
        if old.vm_state <> 'stopped' then
            perform qvd.vm_run_account(new.vm_id, old.host_id, old.vm_state, new.vm_state, old.vm_cmd);
        end if;
    elsif new.host_id is distinct from old.host_id and new.vm_state <> 'stopped' then
        raise exception 'VM % is % and cannot change its host', qvd.vm_name(new.vm_id), new.vm_state
            using errcode = 'QV020', hint = 'Stop it first.';
    end if;

    if new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd then
        if not qvd.vm_command_allowed(new.vm_state, new.vm_cmd) then
            raise exception 'VM % is % and cannot be told to %', qvd.vm_name(new.vm_id), new.vm_state, new.vm_cmd
                using errcode = 'QV021', hint = case new.vm_cmd
                    when 'start' then 'Only a stopped VM can be started.'
                    else 'Only a VM that is starting, running or being debugged can be stopped.' end;
        end if;
        new.vm_cmd_ts := now();
        new.restart_due := false;
    end if;

    if new.user_state is distinct from old.user_state then
        if not qvd.user_transition_allowed(old.user_state, new.user_state) then
            raise exception 'the session of VM % cannot go from % to %',
                qvd.vm_name(new.vm_id), old.user_state, new.user_state using errcode = 'QV020';
        end if;
        new.user_state_ts := now();
        if new.user_state = 'disconnected' then
            new.user_cmd := null;
            new.contender := null;
            new.session_id := null;
            new.l7r_host_id := null;
            new.l7r_instance := null;
        end if;
    end if;
    -- What nobody uses and what does not run is nobody's: a VM of a pool goes to the next.
    if new.vm_state = 'stopped' and new.user_state = 'disconnected'
        and (old.vm_state, old.user_state) is distinct from (new.vm_state, new.user_state)
    then
        new.real_user_id := null;
    end if;
    if new.vm_expiration_soft is distinct from old.vm_expiration_soft then
        new.vm_expiration_told := null;
    end if;
    if new.user_cmd is distinct from old.user_cmd then
        new.user_cmd_ts := case when new.user_cmd is not null then now() end;
    end if;
    if new.user_cmd is not null and new.user_state = 'disconnected' then
        raise exception 'nobody uses VM %', qvd.vm_name(new.vm_id)
            using errcode = 'QV021', hint = 'Only a session that is connecting or connected can be aborted.';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.vm_runtimes_log() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_runtimes_wake() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    payload text := qvd.wake_payload('vm', new.vm_id, new.tenant_id);
    told boolean := qvd.announce('qvd_admin', payload);
begin
    -- Who waits for a VM waits for a session to end, for the VM of a session to run, or for a VM to be down; not for a
    -- session to begin or a command to be claimed.
    if new.user_state = 'disconnected' and old.user_state <> 'disconnected'
        or new.user_state <> 'disconnected' and new.user_state = old.user_state
            and (old.vm_state, new.vm_state) is distinct from ('stopped', 'starting')
        or new.vm_state <> old.vm_state and new.vm_state in ('stopped', 'zombie')
    then
        told := qvd.announce('qvd_vm_' || new.vm_id, payload);
    end if;
    if new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd
        or new.host_id is not null and new.host_id is distinct from old.host_id
    then
        told := qvd.announce('qvd_host_' || new.host_id, payload);
    end if;
    -- A node that gives up a VM of its own accord knows already; one that loses it does not.
    if old.host_id is not null and new.host_id is distinct from old.host_id and old.vm_state not in ('stopping', 'starting') then
        told := qvd.announce('qvd_host_' || old.host_id, payload);
    end if;
    if (new.vm_expiration_soft, new.vm_expiration_hard) is distinct from (old.vm_expiration_soft, old.vm_expiration_hard)
        and new.vm_state <> 'stopped'
    then
        told := qvd.announce('qvd_node_' || new.host_id, payload);
    end if;
    if new.user_cmd is not null and new.user_cmd is distinct from old.user_cmd then
        perform qvd.wake('qvd_host_' || new.l7r_host_id, 'session', new.session_id, new.tenant_id);
    end if;
    return null;
end $$;

CREATE FUNCTION qvd.vm_specs_renew(vms integer[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    update vm_specs s
    set name = d.name, tenant_id = d.tenant_id, tenant = d.tenant, user_id = d.user_id, login = d.login,
        osf_id = d.osf_id, memory = d.memory, user_storage_size = d.user_storage_size, di_tag = d.di_tag, ip = d.ip,
        di_id = d.di_id, di_path = d.di_path, cpus = d.cpus, agent = d.agent
    from vm_specs_due d
    where d.vm_id = any (vms) and s.vm_id = d.vm_id
        and (s.name, s.tenant_id, s.tenant, s.user_id, s.login, s.osf_id, s.memory, s.user_storage_size, s.di_tag, s.ip,
                s.di_id, s.di_path, s.cpus, s.agent)
            is distinct from (d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory,
                d.user_storage_size, d.di_tag, d.ip, d.di_id, d.di_path, d.cpus, d.agent);
end $$;

CREATE FUNCTION qvd.vm_specs_renew_osf(osf integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform from osfs where id = osf for update;
    perform vm_specs_renew(array(select v.id from vms v where v.osf_id = osf));
end $$;

CREATE FUNCTION qvd.vm_spy(vm integer, interactive boolean, OUT address inet, OUT port integer, OUT secret bytea) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    perform vm_spy_check(vm, interactive);
    select r.vm_address, r.vm_vma_port, s.secret into address, port, secret
    from vm_runtimes r left join vm_specs s on s.vm_id = r.vm_id where r.vm_id = vm;
    perform audit('spy', 'vm', vm, vm_name(vm), (select r.tenant_id from vm_runtimes r where r.vm_id = vm),
        jsonb_build_object('interactive', interactive));
end $$;

CREATE FUNCTION qvd.vm_spy_check(vm integer, interactive boolean) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes r where r.vm_id = vm;
    if target.vm_id is null or not reaches(target.tenant_id) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.spy.');
    if interactive then
        perform demand('vm.spy.interactive.');
    end if;
    if target.vm_state <> 'running' then
        raise exception 'VM % is %, so there is no desktop to be seen', vm_name(vm), target.vm_state
            using errcode = 'QV021', hint = 'Start it, and let its user connect.';
    end if;
end $$;

CREATE FUNCTION qvd.vm_start(vm integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    spec vm_specs;
begin
    select * into spec from vm_specs where vm_id = vm;
    if not found or not may_command(spec.tenant_id, 'vm.update.state.') then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    return vm_start_found(spec);
end $$;

CREATE FUNCTION qvd.vm_start(vm text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_start_found(spec qvd.vm_specs) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION qvd.vm_stop(vm integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_stop(vm text) RETURNS integer
    LANGUAGE sql
    AS $$ select vm_stop(vm_id(vm)) $$;

CREATE FUNCTION qvd.vm_transition_allowed(was qvd.vm_state, becomes qvd.vm_state) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select was = becomes or becomes = 'stopped' or (was, becomes) in (
        ('stopped', 'starting'),
        ('starting', 'running'), ('starting', 'stopping'), ('starting', 'zombie'),
        ('running', 'stopping'), ('running', 'debugging'),
        ('debugging', 'running'), ('debugging', 'stopping'),
        ('stopping', 'zombie'))
$$;

CREATE FUNCTION qvd.vm_verbs(vm integer) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION qvd.vm_why(vm integer) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    f jsonb := vm_why_facts(vm);
    said text[];
    phase text;
    state text := f->>'state';
begin
    if f is null then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    said := array[format('VM %s has been %s%s since %s.', f->>'vm', state, coalesce(' on ' || (f->>'host'), ''),
        moment((f->>'since')::timestamptz))];
    if f->>'command' is not null then
        said := said || format('It was told to %s at %s and its node %s has not taken the command yet; it does so when it is '
            'notified or polls.', f->>'command', moment((f->>'command_since')::timestamptz), f->>'host');
    elsif (f->>'restart_due')::boolean then
        said := said || 'Its node was lost, and it starts again as soon as a host can take it.'::text;
    end if;
    phase := vm_why_phase(f);
    if phase is not null then
        said := said || phase;
    elsif state in ('starting', 'stopping') and f->>'command' is null then
        said := said || 'Its node has been at it for a moment only, or has not said more.'::text;
    elsif state = 'running' and f->>'command' is null then
        said := said || 'Its agent answers, and nothing is waited for.'::text;
    end if;
    if f->>'reason' is not null then
        said := said || format(case when state = 'stopped' then 'The last thing said of it: %s.' else 'Why: %s.' end, f->>'reason');
    end if;
    if f->>'host_obstacle' is not null then
        said := said || format('Its node %s %s.', f->>'host', f->>'host_obstacle');
    end if;
    if f->>'host_events' is not null then
        said := said || format('Notifications do not reach %s as they should (%s); it polls.', f->>'host', f->>'host_events');
    end if;
    if state = 'stopped' and f->>'image' is null then
        said := said || format('It cannot start: its OSF has no disk image tagged %s that is published and not blocked.', f->>'tag');
    end if;
    if state = 'stopped' and f->>'command' is null then
        if not exists (select from jsonb_each(coalesce(nullif(f->'hosts', 'null'), '{}')) n where n.value = 'null') then
            said := said || ('No host could take it: ' || coalesce(
                (select string_agg(n.key || ' ' || (n.value #>> '{}'), '; ' order by n.key)
                 from jsonb_each(nullif(f->'hosts', 'null')) n), 'there is none') || '.');
        elsif f->>'image' is not null and not (f->>'restart_due')::boolean then
            said := said || 'It starts when somebody connects or tells it to.'::text;
        end if;
    end if;
    if (f->>'blocked')::boolean then
        said := said || 'It is blocked, so nobody can connect to it.'::text;
    end if;
    if coalesce(f->>'expiration_soft', f->>'expiration_hard') is not null then
        said := said || ('Its run expires: ' || concat_ws('; ',
            'its user is asked to log out from ' || moment((f->>'expiration_soft')::timestamptz) || ' on',
            'it is stopped at ' || moment((f->>'expiration_hard')::timestamptz),
            'its agent was told at ' || moment((f->>'expiration_told')::timestamptz)) || '.');
    end if;
    if f->>'user_state' <> 'disconnected' then
        said := said || format('Session %s from %s through %s has been %s since %s%s.', f->>'session', f->>'client', f->>'router',
            f->>'user_state', moment((f->>'user_since')::timestamptz),
            case when f->>'user_command' is not null then ' and was told to end' else '' end);
    end if;
    return array_to_string(said, ' ');
end $$;

CREATE FUNCTION qvd.vm_why(vm text) RETURNS text
    LANGUAGE sql STABLE
    AS $$ select vm_why(vm_id(vm)) $$;

CREATE FUNCTION qvd.vm_why_facts(vm integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    return (
        select jsonb_build_object(
            'vm', vm_name(vm), 'state', r.vm_state, 'since', r.vm_state_ts, 'reason', r.vm_reason, 'blocked', r.blocked,
            'command', r.vm_cmd, 'command_since', case when r.vm_cmd is not null then r.vm_cmd_ts end,
            'restart_due', r.restart_due,
            'host', h.name, 'host_state', hr.state, 'host_obstacle', host_obstacle(h.id),
            'host_last_sign', hr.ok_ts, 'host_events', hr.events_degraded_reason,
            'phase', p.phase, 'phase_since', p.since, 'phase_until', p.until, 'attempts', p.attempts, 'note', p.note,
            'image', s.di_path, 'tag', s.di_tag, 'image_in_use', d.path,
            'expiration_soft', r.vm_expiration_soft, 'expiration_hard', r.vm_expiration_hard,
            'expiration_told', r.vm_expiration_told,
            'user_state', r.user_state, 'user_since', r.user_state_ts, 'user_command', r.user_cmd, 'session', r.session_id,
            'client', host(u.client_address), 'router', l.name,
            'hosts', case when r.vm_state = 'stopped' and r.vm_cmd is null then (
                select jsonb_object_agg(case when sees_all() then n.name else 'host ' || n.id end, host_obstacle(n.id) order by n.name) from hosts n) end)
        from vm_runtimes r
            join vm_specs s on s.vm_id = r.vm_id
            left join hosts h on h.id = r.host_id
            left join host_runtimes hr on hr.host_id = r.host_id
            left join vm_progress p on p.vm_id = r.vm_id and p.host_id = r.host_id
            left join dis d on d.id = r.current_di_id
            left join user_sessions u on u.id = r.session_id
            left join hosts l on l.id = r.l7r_host_id
        where r.vm_id = vm and reaches(r.tenant_id));
end $$;

CREATE FUNCTION qvd.vm_why_phase(f jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
declare
    began text := moment((f->>'phase_since')::timestamptz);
    over text := moment((f->>'phase_until')::timestamptz);
    image text := coalesce(f->>'image_in_use', f->>'image');
    tried text := case when (f->>'attempts')::integer > 0
        then (f->>'attempts') || case when f->>'attempts' = '1' then ' ping was' else ' pings were' end || ' not answered'
            || coalesce(', the last because: ' || (f->>'note'), '') || '.'
        else 'It was just asked for the first time.' end;
begin
    return case f->>'phase'
        when 'Waiting' then format('Since %s it has been waiting for one of its node''s slots, since no more VMs start or stop at the '
            'same time than internal.hkd.max_heavy allows. If none becomes free, the start is given up at %s.', began, over)
        when 'Preparing' then format('Since %s its image %s has been made ready, which means unpacking it if no other VM has '
            'used it here. If that is not done by %s, the start is given up.', began, image, over)
        when 'Launching' then format('Since %s its storage, its network and its first process have been set up. If that is not done '
            'by %s, it is killed and cleaned up.', began, over)
        when 'Booting' then format('It has been booting since %s; its agent has not answered yet. %s If it does not answer by %s, the '
            'VM is killed.', began, tried, over)
        when 'Running' then format('Its agent does not answer. %s It counts as dead after as many pings and as long a silence as '
            'internal.hkd.vmhandler.vma.failed.*.on.running say.', tried)
        when 'Debugging' then 'Its agent died and it is kept for inspection (internal.vm.debug.enable). It runs again when the agent '
            'answers, and stops when it is told to.'
        when 'WaitingToStop' then format('Since %s it has been waiting for one of its node''s slots (internal.hkd.max_heavy). At %s it '
            'shuts down without one.', began, over)
        when 'ShuttingDown' then format('It was asked to power off at %s. If it has not ended by %s, it is killed.', began, over)
        when 'Killing' then format('Its processes were killed at %s. If they are not dead by %s, it is a zombie.', began, over)
        when 'Cleaning' then format('What it left has been freed since %s. If that is not done by %s, it is a zombie.', began, over)
        when 'Zombie' then format('It has been tried %s to clean it up, the last time in vain because: %s. The next attempt is at %s.',
            case f->>'attempts' when '1' then 'once' else (f->>'attempts') || ' times' end, coalesce(f->>'note', 'nobody knows'), over)
    end;
end $$;

CREATE FUNCTION qvd.vms_block(ids integer[], blocked boolean DEFAULT true) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_update('vm', ids, jsonb_build_object('blocked', blocked)) $$;

CREATE FUNCTION qvd.vms_delete(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE sql
    AS $$ select * from objects_delete('vm', ids) $$;

CREATE FUNCTION qvd.vms_disconnect(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$ begin perform demand('vm.update.disconnect-user.'); return query select * from objects_do('vm', ids, 'disconnect'); end $$;

CREATE FUNCTION qvd.vms_expire(ids integer[], soft timestamp with time zone, hard timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    perform demand('vm.update.expiration.');
    return query select * from objects_do('vm', ids, 'expire', jsonb_build_object('soft', soft, 'hard', hard));
end $$;

CREATE FUNCTION qvd.vms_guard() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'DELETE' then
        if exists (select from vm_runtimes where vm_id = old.id and (vm_state <> 'stopped' or vm_cmd is not null)) then
            raise exception 'VM % is not stopped', vm_name(old.id) using errcode = 'QV022', hint = 'Stop it first.';
        end if;
        return old;
    end if;
    -- What somebody else's is, is not there for a tenant's administrator.
    new.tenant_id := (select tenant_id from users where id = new.user_id);
    if new.tenant_id is null or new.tenant_id is distinct from (select tenant_id from osfs where id = new.osf_id) then
        raise exception 'user and OSF of VM % belong to different tenants', new.name using errcode = 'QV023';
    end if;
    return new;
end $$;

CREATE FUNCTION qvd.vms_restart() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    due integer;
    started integer := 0;
begin
    for due in select vm_id from vm_runtimes where restart_due order by vm_id for update skip locked limit 100 loop
        begin
            perform vm_start_found(s) from vm_specs s where s.vm_id = due;
            started := started + 1;
        exception
            when sqlstate 'QV030' then
                return started; -- the others would not be taken either
            when sqlstate 'QV031' then
                update vm_runtimes set restart_due = false, vm_reason = sqlerrm where vm_id = due;
            when others then
                -- A balancer of somebody's own that is broken does not keep the VMs of a dead node from others.
                update vm_runtimes set vm_reason = sqlerrm where vm_id = due;
        end;
    end loop;
    return started;
end $$;

CREATE FUNCTION qvd.vms_start(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$ begin perform demand('vm.update.state.'); return query select * from objects_do('vm', ids, 'start'); end $$;

CREATE FUNCTION qvd.vms_stop(ids integer[]) RETURNS SETOF qvd.outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$ begin perform demand('vm.update.state.'); return query select * from objects_do('vm', ids, 'stop'); end $$;

CREATE FUNCTION qvd.vms_wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    if tg_op = 'INSERT' then
        insert into vm_runtimes (vm_id, tenant_id) select new.id, tenant_id from users where id = new.user_id;
        insert into vm_counters (vm_id) values (new.id);
        -- Whoever renames the tenant now waits, and finds the row.
        perform from tenants t join users u on u.tenant_id = t.id where u.id = new.user_id for key share of t;
        insert into vm_specs (vm_id, name, tenant_id, tenant, user_id, login, osf_id, memory, user_storage_size, di_tag,
            ip, di_id, di_path, secret, cpus, agent)
        select d.vm_id, d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory, d.user_storage_size,
            d.di_tag, d.ip, d.di_id, d.di_path, fresh_secret(), d.cpus, d.agent
        from vm_specs_due d where d.vm_id = new.id;
    elsif (new.name, new.user_id, new.osf_id, new.di_tag, new.ip)
        is distinct from (old.name, old.user_id, old.osf_id, old.di_tag, old.ip) and tg_op = 'UPDATE' then
        perform vm_specs_renew(array[new.id]);
    end if;
    perform wake('qvd_admin', 'vm', coalesce(new.id, old.id),
        (select tenant_id from users where id = coalesce(new.user_id, old.user_id)));
    return null;
end $$;

CREATE FUNCTION qvd.wake(channel text, kind text, id bigint, tenant integer DEFAULT NULL::integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform qvd.announce(channel, qvd.wake_payload(kind, id, tenant));
end $$;

CREATE FUNCTION qvd.wake_payload(kind text, id bigint, tenant integer) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select '{"v":1,"kind":"' || kind || '"' || coalesce(',"id":' || id, '') || coalesce(',"tenant":' || tenant, '') || '}'
$$;

CREATE FUNCTION qvd.wat_administrator(wanted text, tenant text, OUT id integer, OUT tenant_id integer, OUT password text, OUT language qvd.language, OUT block integer) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
#variable_conflict use_column
begin
    select a.id, a.tenant_id, a.password, case a.language when 'default' then t.language else a.language end,
        case a.block when 0 then t.block else a.block end
    into id, tenant_id, password, language, block
    from administrators a join tenants t on t.id = a.tenant_id
    where a.name = wanted and t.name = wat_administrator.tenant and not t.blocked;
end $$;

CREATE FUNCTION qvd.wat_login_log(wanted text, tenant text, address inet, entered boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    insert into log (action, qvd_object, object_id, object_name, tenant_id, administrator_id, administrator_name, superadmin, ip, source, status)
    select 'login', 'administrator', a.id, left(wanted, 80), t.id, a.id, a.name, a.tenant_id = 0, address, 'WAT',
        case when entered then 0 else 3200 end
    from (select 1) one
        left join tenants t on t.name = wat_login_log.tenant
        left join administrators a on a.name = wanted and a.tenant_id = t.id;
end $$;

CREATE FUNCTION qvd.wat_password_upgrade(account integer, was text, becomes text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'qvd', 'pg_temp'
    AS $$
begin
    update administrators a set password = becomes where a.id = account and a.password = was;
    return found;
end $$;

CREATE FUNCTION qvd.watch() RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    listen qvd_admin;
    perform pg_advisory_lock_shared(hashtext('qvd.watch'), n) from generate_series(0, 31) n;
end $$;

CREATE TABLE qvd.acl_role_relations (
    id integer NOT NULL,
    role_id integer NOT NULL,
    acl_id integer NOT NULL,
    positive boolean DEFAULT true NOT NULL
);

ALTER TABLE ONLY qvd.acl_role_relations FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.acls (
    id integer NOT NULL,
    name text NOT NULL,
    description text
);

CREATE TABLE qvd.role_acls (
    role_id integer NOT NULL,
    acl text NOT NULL
);

ALTER TABLE ONLY qvd.role_acls FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.roles (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    name text NOT NULL,
    description text,
    fixed boolean DEFAULT false NOT NULL,
    internal boolean DEFAULT false NOT NULL,
    CONSTRAINT roles_name_check CHECK (((name ~ '^[^[:space:][:cntrl:]]([^[:cntrl:]]*[^[:space:][:cntrl:]])?$'::text) AND (length(name) <= 64)))
);

ALTER TABLE ONLY qvd.roles FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.acl_list WITH (security_invoker='true') AS
 SELECT a.id,
    a.name,
    a.description,
    r.id AS role_id,
    r.name AS role,
    m.positive AS own,
    (e.acl IS NOT NULL) AS effective
   FROM (((qvd.acls a
     CROSS JOIN qvd.roles r)
     LEFT JOIN qvd.acl_role_relations m ON (((m.role_id = r.id) AND (m.acl_id = a.id))))
     LEFT JOIN qvd.role_acls e ON (((e.role_id = r.id) AND (e.acl = a.name))))
  WHERE ( SELECT qvd.can('role.see.acl-list.'::text) AS can);

ALTER TABLE qvd.acl_role_relations ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.acl_role_relations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE qvd.acls ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.acls_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.administrators (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    name qvd.object_name NOT NULL,
    password text,
    language qvd.language DEFAULT 'default'::qvd.language NOT NULL,
    block integer DEFAULT 0 NOT NULL,
    description text,
    role_name text,
    CONSTRAINT administrators_block_check CHECK (((block >= 0) AND (block <= 10000))),
    CONSTRAINT administrators_role_name_check CHECK ((role_name <> ''::text))
);

ALTER TABLE ONLY qvd.administrators FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.role_administrator_relations (
    id integer NOT NULL,
    administrator_id integer NOT NULL,
    role_id integer NOT NULL
);

ALTER TABLE ONLY qvd.role_administrator_relations FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.tenants (
    id integer NOT NULL,
    name text NOT NULL,
    description text,
    blocked boolean DEFAULT false NOT NULL,
    language qvd.language DEFAULT 'auto'::qvd.language NOT NULL,
    block integer DEFAULT 10 NOT NULL,
    CONSTRAINT tenants_block_check CHECK (((block >= 1) AND (block <= 10000))),
    CONSTRAINT tenants_name_check CHECK (((length(name) >= 1) AND (length(name) <= 80)))
);

ALTER TABLE ONLY qvd.tenants FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.administrator_list WITH (security_invoker='true') AS
 SELECT a.id,
    (a.name)::text AS name,
    a.tenant_id,
    t.name AS tenant,
        CASE
            WHEN ( SELECT qvd.can('administrator.see.language.'::text) AS can) THEN a.language
            ELSE NULL::qvd.language
        END AS language,
    a.block,
    a.role_name,
        CASE
            WHEN ( SELECT qvd.can('administrator.see.roles.'::text) AS can) THEN ARRAY( SELECT r.name
               FROM (qvd.role_administrator_relations m
                 JOIN qvd.roles r ON ((r.id = m.role_id)))
              WHERE (m.administrator_id = a.id)
              ORDER BY r.name)
            ELSE NULL::text[]
        END AS roles,
        CASE
            WHEN ( SELECT qvd.can('administrator.see.description.'::text) AS can) THEN a.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('administrator.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('administrator'::text, a.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('administrator.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('administrator'::text, a.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by
   FROM (qvd.administrators a
     LEFT JOIN qvd.tenants t ON ((t.id = a.tenant_id)))
  WHERE ((a.id <> 0) AND ( SELECT qvd.can('administrator.see-main.'::text) AS can));

ALTER TABLE qvd.administrators ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.administrators_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.beat (
    one boolean DEFAULT true NOT NULL,
    at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    number bigint DEFAULT 0 NOT NULL,
    CONSTRAINT beat_one_check CHECK (one)
);

CREATE TABLE qvd.config_keys (
    key text NOT NULL,
    default_value text NOT NULL,
    unit text NOT NULL,
    meaning text NOT NULL,
    needs_restart boolean DEFAULT false NOT NULL
);

CREATE TABLE qvd.configs (
    tenant_id integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    CONSTRAINT configs_key_check CHECK (((key <> ''::text) AND (length(key) <= 128))),
    CONSTRAINT configs_value_check CHECK ((length(value) <= 4096))
);

ALTER TABLE ONLY qvd.configs FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.config_list WITH (security_invoker='true') AS
 WITH own AS (
         SELECT configs.tenant_id,
            configs.key,
            configs.value
           FROM qvd.configs
        ), keys AS (
         SELECT config_keys.key,
            config_keys.default_value,
            config_keys.unit,
            config_keys.meaning,
            config_keys.needs_restart
           FROM qvd.config_keys
        UNION ALL
         SELECT DISTINCT ON (o_1.key) o_1.key,
            NULL::text,
            'text'::text,
            NULL::text,
            false
           FROM own o_1
          WHERE (NOT (EXISTS ( SELECT
                   FROM qvd.config_keys k_1
                  WHERE (k_1.key = o_1.key))))
        )
 SELECT k.key,
    COALESCE(o.value, e.value, k.default_value) AS value,
    k.default_value AS "default",
    (o.value IS NULL) AS is_default,
    t.id AS tenant_id,
    t.name AS tenant,
    k.unit,
    k.meaning,
    k.needs_restart
   FROM (((keys k
     CROSS JOIN ( SELECT '-1'::integer AS id,
            '-'::text AS name
          WHERE ( SELECT qvd.sees_all() AS sees_all)
        UNION ALL
         SELECT x.id,
            x.name
           FROM qvd.tenants x
          WHERE (x.id > 0)) t)
     LEFT JOIN own o ON (((o.key = k.key) AND (o.tenant_id = t.id))))
     LEFT JOIN own e ON (((e.key = k.key) AND (e.tenant_id = '-1'::integer))))
  WHERE (((t.id = '-1'::integer) OR (o.value IS NOT NULL) OR (t.id = ( SELECT qvd.my_tenant() AS my_tenant))) AND (k.key !~ '^(internal|database)[.]'::text) AND (NOT qvd.is_secret(k.key)) AND
        CASE
            WHEN (k.key ~~ 'wat.%'::text) THEN ( SELECT qvd.can('config.wat.'::text) AS can)
            ELSE ( SELECT qvd.can('config.qvd.'::text) AS can)
        END);

CREATE TABLE qvd.di_leftovers (
    place text NOT NULL,
    path text NOT NULL
);

CREATE TABLE qvd.di_properties (
    di_id integer NOT NULL,
    property_id integer NOT NULL,
    value text NOT NULL
);

ALTER TABLE ONLY qvd.di_properties FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.di_tags (
    id integer NOT NULL,
    di_id integer NOT NULL,
    tag text NOT NULL,
    fixed boolean DEFAULT false NOT NULL,
    CONSTRAINT di_tags_tag_check CHECK (((tag <> ''::text) AND (length(tag) <= 1024)))
);

ALTER TABLE ONLY qvd.di_tags FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.osfs (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    name qvd.object_name NOT NULL,
    memory integer NOT NULL,
    use_overlay boolean DEFAULT true NOT NULL,
    user_storage_size integer DEFAULT 0 NOT NULL,
    is_application boolean DEFAULT false NOT NULL,
    description text,
    cpus integer,
    CONSTRAINT osfs_cpus_check CHECK ((cpus > 0)),
    CONSTRAINT osfs_memory_check CHECK ((memory >= 16)),
    CONSTRAINT osfs_user_storage_size_check CHECK ((user_storage_size >= 0))
);

ALTER TABLE ONLY qvd.osfs FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.properties_list (
    id integer NOT NULL,
    key text NOT NULL,
    tenant_id integer NOT NULL,
    description text,
    CONSTRAINT properties_list_key_check CHECK (((key <> ''::text) AND (length(key) <= 1024)))
);

ALTER TABLE ONLY qvd.properties_list FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.qvd_object_properties_list (
    id integer NOT NULL,
    property_id integer NOT NULL,
    qvd_object qvd.property_object NOT NULL
);

ALTER TABLE ONLY qvd.qvd_object_properties_list FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.di_list WITH (security_invoker='true') AS
 SELECT d.id,
    d.path AS name,
    d.path,
        CASE
            WHEN ( SELECT qvd.can('di.see.version.'::text) AS can) THEN d.version
            ELSE NULL::text
        END AS version,
        CASE
            WHEN ( SELECT qvd.can('di.see.osf.'::text) AS can) THEN d.osf_id
            ELSE NULL::integer
        END AS osf_id,
    (((o.name)::text || '@'::text) || t.name) AS osf,
        CASE
            WHEN ( SELECT qvd.can('di.see.osf.'::text) AS can) THEN (o.name)::text
            ELSE NULL::text
        END AS osf_name,
    o.tenant_id,
    t.name AS tenant,
        CASE
            WHEN ( SELECT qvd.can('di.see.block.'::text) AS can) THEN d.blocked
            ELSE NULL::boolean
        END AS blocked,
    r.state,
    r.percentage,
        CASE
            WHEN ( SELECT qvd.can('di.see.tags.'::text) AS can) THEN ( SELECT array_agg(g.tag ORDER BY g.tag) AS array_agg
               FROM qvd.di_tags g
              WHERE (g.di_id = d.id))
            ELSE NULL::text[]
        END AS tags,
        CASE
            WHEN ( SELECT qvd.can('di.see.default.'::text) AS can) THEN (EXISTS ( SELECT
               FROM qvd.di_tags g
              WHERE ((g.di_id = d.id) AND (g.tag = 'default'::text))))
            ELSE NULL::boolean
        END AS "default",
        CASE
            WHEN ( SELECT qvd.can('di.see.head.'::text) AS can) THEN (EXISTS ( SELECT
               FROM qvd.di_tags g
              WHERE ((g.di_id = d.id) AND (g.tag = 'head'::text))))
            ELSE NULL::boolean
        END AS head,
    r.status_message AS message,
    r.status_message,
    r.size,
    r.sha256,
    d.agent,
    r.auto_publish,
    r.expiration_time_soft,
    r.expiration_time_hard,
        CASE
            WHEN ( SELECT qvd.can('di.see.description.'::text) AS can) THEN d.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('di.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('di'::text, d.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('di.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('di'::text, d.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by,
        CASE
            WHEN ( SELECT qvd.can('di.see.properties.'::text) AS can) THEN ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
               FROM ((qvd.di_properties p
                 JOIN qvd.qvd_object_properties_list q ON ((q.id = p.property_id)))
                 JOIN qvd.properties_list l ON ((l.id = q.property_id)))
              WHERE (p.di_id = d.id))
            ELSE NULL::jsonb
        END AS properties
   FROM (((qvd.dis d
     JOIN qvd.di_runtimes r ON ((r.di_id = d.id)))
     JOIN qvd.osfs o ON ((o.id = d.osf_id)))
     JOIN qvd.tenants t ON ((t.id = o.tenant_id)))
  WHERE ( SELECT qvd.can('di.see-main.'::text) AS can);

ALTER TABLE qvd.di_tags ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.di_tags_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE qvd.dis ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.dis_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.end_counters (
    host_id integer NOT NULL,
    reason text NOT NULL,
    sessions bigint DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY qvd.end_counters FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.hosts (
    id integer NOT NULL,
    name text NOT NULL,
    address inet NOT NULL,
    frontend boolean DEFAULT true NOT NULL,
    backend boolean DEFAULT true NOT NULL,
    description text,
    storage_id uuid,
    CONSTRAINT hosts_address_check CHECK ((masklen(address) =
CASE family(address)
    WHEN 4 THEN 32
    ELSE 128
END)),
    CONSTRAINT hosts_name_check CHECK ((name ~ '^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$'::text))
);

ALTER TABLE ONLY qvd.hosts FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.end_list WITH (security_invoker='true') AS
 SELECT h.name AS host,
    c.reason,
    c.sessions
   FROM (qvd.end_counters c
     JOIN qvd.hosts h ON ((h.id = c.host_id)))
  ORDER BY h.name, c.sessions DESC, c.reason;

CREATE TABLE qvd.host_changes (
    host_id integer NOT NULL,
    vms integer DEFAULT 0 NOT NULL,
    failed_starts integer DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

ALTER TABLE ONLY qvd.host_changes FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.host_counters (
    host_id integer NOT NULL,
    http_requests bigint DEFAULT 0 NOT NULL,
    auth_attempts bigint DEFAULT 0 NOT NULL,
    auth_ok bigint DEFAULT 0 NOT NULL,
    nx_attempts bigint DEFAULT 0 NOT NULL,
    nx_ok bigint DEFAULT 0 NOT NULL,
    short_sessions bigint DEFAULT 0 NOT NULL,
    refused_connections bigint DEFAULT 0 NOT NULL,
    failed_handshakes bigint DEFAULT 0 NOT NULL,
    plain_http bigint DEFAULT 0 NOT NULL,
    slow_clients bigint DEFAULT 0 NOT NULL,
    limited_logins bigint DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY qvd.host_counters FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.host_properties (
    host_id integer NOT NULL,
    property_id integer NOT NULL,
    value text NOT NULL
);

ALTER TABLE ONLY qvd.host_properties FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.host_runtimes (
    host_id integer NOT NULL,
    state qvd.host_state DEFAULT 'stopped'::qvd.host_state NOT NULL,
    blocked boolean DEFAULT false NOT NULL,
    cmd qvd.host_cmd,
    epoch bigint DEFAULT 0 NOT NULL,
    boot_id uuid,
    pid integer,
    lease bigint DEFAULT 0 NOT NULL,
    ok_ts timestamp with time zone,
    usable_ram real,
    usable_cpu real,
    events_degraded_since timestamp with time zone,
    events_degraded_reason text,
    patience double precision,
    storage_degraded_since timestamp with time zone,
    storage_degraded_reason text,
    program text,
    program_schema integer,
    machine_id text,
    vms integer DEFAULT 0 NOT NULL,
    free_ram real,
    cpu_pressure real,
    failed_starts real DEFAULT 0 NOT NULL,
    started_at timestamp with time zone
)
WITH (fillfactor='50');

ALTER TABLE ONLY qvd.host_runtimes FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.l7r_instances (
    id bigint NOT NULL,
    host_id integer NOT NULL,
    boot_id uuid NOT NULL,
    pid integer NOT NULL,
    pid_start bigint NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    problem text,
    node_port integer,
    node_key bytea,
    CONSTRAINT l7r_instances_node CHECK (((node_port IS NULL) = (node_key IS NULL))),
    CONSTRAINT l7r_instances_node_port_check CHECK (((node_port >= 1) AND (node_port <= 65535)))
);

ALTER TABLE ONLY qvd.l7r_instances FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.host_list WITH (security_invoker='true') AS
 SELECT h.id,
    h.name,
    h.name AS host,
        CASE
            WHEN ( SELECT qvd.can('host.see.state.'::text) AS can) THEN r.state
            ELSE NULL::qvd.host_state
        END AS state,
        CASE
            WHEN ( SELECT qvd.can('host.see.block.'::text) AS can) THEN r.blocked
            ELSE NULL::boolean
        END AS blocked,
        CASE
            WHEN ( SELECT qvd.can('host.see.address.'::text) AS can) THEN h.address
            ELSE NULL::inet
        END AS address,
    h.backend,
    h.frontend,
    (r.vms + ( SELECT COALESCE(sum(c.vms), (0)::bigint) AS "coalesce"
           FROM qvd.host_changes c
          WHERE (c.host_id = h.id))) AS vms,
    ( SELECT count(*) AS count
           FROM qvd.vm_runtimes v
          WHERE (v.l7r_host_id = h.id)) AS sessions,
        CASE
            WHEN ( SELECT qvd.can('host.see.vms-info.'::text) AS can) THEN ( SELECT count(*) AS count
               FROM qvd.vm_runtimes v
              WHERE ((v.host_id = h.id) AND (v.user_state = 'connected'::qvd.user_state)))
            ELSE NULL::bigint
        END AS number_of_vms_connected,
    (now() - r.ok_ts) AS last_sign_of_life,
    r.epoch,
    r.events_degraded_since,
    r.events_degraded_reason,
    r.storage_degraded_since,
    r.storage_degraded_reason,
    ( SELECT l.problem
           FROM qvd.l7r_instances l
          WHERE ((l.host_id = h.id) AND (l.ended_at IS NULL))
          ORDER BY l.id DESC
         LIMIT 1) AS router_problem,
        CASE
            WHEN ( SELECT qvd.can('host.see.description.'::text) AS can) THEN h.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('host.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('host'::text, h.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('host.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('host'::text, h.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by,
        CASE
            WHEN ( SELECT qvd.can('host.see.properties.'::text) AS can) THEN ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
               FROM ((qvd.host_properties p
                 JOIN qvd.qvd_object_properties_list o ON ((o.id = p.property_id)))
                 JOIN qvd.properties_list l ON ((l.id = o.property_id)))
              WHERE (p.host_id = h.id))
            ELSE NULL::jsonb
        END AS properties
   FROM (qvd.hosts h
     JOIN qvd.host_runtimes r ON ((r.host_id = h.id)))
  WHERE ( SELECT qvd.can('host.see-main.'::text) AS can)
  ORDER BY h.name;

CREATE VIEW qvd.host_loads AS
 SELECT r.host_id,
    r.usable_ram,
    r.usable_cpu,
    r.free_ram,
    r.cpu_pressure,
    (r.vms + COALESCE(c.vms, (0)::bigint)) AS vms,
    GREATEST(c.vms, (0)::bigint) AS given,
    (qvd.failed_starts_left(r.failed_starts, r.ok_ts) + (COALESCE(c.failed_starts, (0)::bigint))::double precision) AS failed_starts
   FROM (( SELECT host_runtimes.host_id,
            host_runtimes.state,
            host_runtimes.blocked,
            host_runtimes.cmd,
            host_runtimes.epoch,
            host_runtimes.boot_id,
            host_runtimes.pid,
            host_runtimes.lease,
            host_runtimes.ok_ts,
            host_runtimes.usable_ram,
            host_runtimes.usable_cpu,
            host_runtimes.events_degraded_since,
            host_runtimes.events_degraded_reason,
            host_runtimes.patience,
            host_runtimes.storage_degraded_since,
            host_runtimes.storage_degraded_reason,
            host_runtimes.program,
            host_runtimes.program_schema,
            host_runtimes.machine_id,
            host_runtimes.vms,
            host_runtimes.free_ram,
            host_runtimes.cpu_pressure,
            host_runtimes.failed_starts,
            host_runtimes.started_at,
            true AS takes
           FROM qvd.host_runtimes
          WHERE ((NOT host_runtimes.blocked) AND (host_runtimes.state = 'running'::qvd.host_state) AND (host_runtimes.storage_degraded_since IS NULL) AND (host_runtimes.ok_ts > (now() - ( SELECT balancer.lapse
                   FROM qvd.balancer))) AND (NOT (host_runtimes.host_id IN ( SELECT hosts.id
                   FROM qvd.hosts
                  WHERE (NOT hosts.backend)))))) r
     FULL JOIN ( SELECT host_changes.host_id,
            sum(host_changes.vms) AS vms,
            sum(host_changes.failed_starts) AS failed_starts
           FROM qvd.host_changes
          GROUP BY host_changes.host_id) c ON ((c.host_id = r.host_id)))
  WHERE COALESCE(r.takes, false);

ALTER TABLE qvd.hosts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.hosts_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE qvd.l7r_instances ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qvd.l7r_instances_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.log (
    id bigint NOT NULL,
    "time" timestamp with time zone DEFAULT now() NOT NULL,
    actor text DEFAULT SESSION_USER NOT NULL,
    ip inet DEFAULT inet_client_addr(),
    source text DEFAULT COALESCE(NULLIF(current_setting('application_name'::text, true), ''::text), 'sql'::text) NOT NULL,
    tenant_id integer,
    action text NOT NULL,
    qvd_object text NOT NULL,
    object_id integer,
    object_name text,
    arguments jsonb,
    status integer DEFAULT 0 NOT NULL,
    administrator_id integer,
    administrator_name text,
    superadmin boolean
);

ALTER TABLE ONLY qvd.log FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.log_fields WITH (security_invoker='true') AS
 SELECT l.id,
    l."time",
        CASE
            WHEN (COALESCE(l.superadmin, true) AND (NOT ( SELECT qvd.sees_all() AS sees_all))) THEN '*'::text
            ELSE COALESCE(l.administrator_name, l.actor)
        END AS admin_name,
        CASE
            WHEN ((NOT COALESCE(l.superadmin, true)) OR ( SELECT qvd.sees_all() AS sees_all)) THEN l.administrator_id
            ELSE NULL::integer
        END AS admin_id,
        CASE
            WHEN ( SELECT qvd.sees_all() AS sees_all) THEN l.actor
            ELSE NULL::text
        END AS actor,
    l.tenant_id,
    t.name AS tenant,
    l.action AS verb,
    ((l.qvd_object || '_'::text) ||
        CASE l.action
            WHEN 'disconnect'::text THEN 'user_disconnect'::text
            ELSE l.action
        END) AS action,
        CASE
            WHEN (l.action = ANY (ARRAY['create'::text, 'delete'::text, 'login'::text])) THEN l.action
            WHEN (l.action = ANY (ARRAY['start'::text, 'stop'::text, 'disconnect'::text, 'claim'::text, 'adopt'::text, 'release'::text, 'take over'::text, 'join'::text, 'leave'::text, 'spy'::text])) THEN 'exec'::text
            ELSE 'update'::text
        END AS type_of_action,
    l.qvd_object,
    l.object_id,
    l.object_name,
    l.status,
    l.source,
        CASE
            WHEN ((NOT COALESCE(l.superadmin, true)) OR ( SELECT qvd.sees_all() AS sees_all)) THEN l.ip
            ELSE NULL::inet
        END AS address,
    l.arguments
   FROM (qvd.log l
     LEFT JOIN qvd.tenants t ON ((t.id = l.tenant_id)));

ALTER TABLE qvd.log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qvd.log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW qvd.log_list WITH (security_invoker='true') AS
 SELECT f.id,
    f."time",
        CASE
            WHEN ( SELECT qvd.can('log.see.administrator.'::text) AS can) THEN f.admin_name
            ELSE NULL::text
        END AS admin_name,
    f.admin_id,
    f.actor,
    f.tenant_id,
    f.tenant,
    f.verb,
    f.action,
    f.type_of_action,
    f.qvd_object,
    f.object_id,
    f.object_name,
    f.status,
        CASE
            WHEN ( SELECT qvd.can('log.see.source.'::text) AS can) THEN f.source
            ELSE NULL::text
        END AS source,
        CASE
            WHEN ( SELECT qvd.can('log.see.address.'::text) AS can) THEN f.address
            ELSE NULL::inet
        END AS address,
        CASE
            WHEN ( SELECT qvd.can('log.see.call-arguments.'::text) AS can) THEN f.arguments
            ELSE NULL::jsonb
        END AS arguments
   FROM qvd.log_fields f
  WHERE ( SELECT qvd.can('log.see-main.'::text) AS can);

CREATE TABLE qvd.migrations (
    number integer NOT NULL,
    name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    stops_older boolean DEFAULT true NOT NULL
);

CREATE VIEW qvd.startable_dis WITH (security_invoker='true') AS
 SELECT d.osf_id,
    t.tag,
    d.id,
    (r.state = 'published'::qvd.di_state) AS published
   FROM ((qvd.dis d
     JOIN qvd.di_tags t ON ((t.di_id = d.id)))
     JOIN qvd.di_runtimes r ON ((r.di_id = d.id)))
  WHERE ((NOT d.blocked) AND (r.state = ANY (ARRAY['ready'::qvd.di_state, 'published'::qvd.di_state])));

CREATE VIEW qvd.newest_dis WITH (security_invoker='true') AS
 SELECT DISTINCT ON (d.osf_id, d.tag) d.osf_id,
    d.tag,
    d.id,
    i.path,
    i.version
   FROM (qvd.startable_dis d
     JOIN qvd.dis i ON ((i.id = d.id)))
  ORDER BY d.osf_id, d.tag, d.published DESC, d.id DESC;

CREATE TABLE qvd.osf_properties (
    osf_id integer NOT NULL,
    property_id integer NOT NULL,
    value text NOT NULL
);

ALTER TABLE ONLY qvd.osf_properties FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.vms (
    id integer NOT NULL,
    name qvd.object_name NOT NULL,
    user_id integer NOT NULL,
    osf_id integer NOT NULL,
    di_tag text DEFAULT 'default'::text NOT NULL,
    ip inet NOT NULL,
    description text,
    keep_running boolean DEFAULT false NOT NULL,
    tenant_id integer NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    mac_tail text GENERATED ALWAYS AS ("right"(encode(inet_send(ip), 'hex'::text), 6)) STORED,
    CONSTRAINT vms_ip_check CHECK ((masklen(ip) =
CASE family(ip)
    WHEN 4 THEN 32
    ELSE 128
END)),
    CONSTRAINT vms_name_check CHECK ((length((name)::text) <= 64))
);

ALTER TABLE ONLY qvd.vms FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.osf_list WITH (security_invoker='true') AS
 SELECT o.id,
    (o.name)::text AS name,
    o.tenant_id,
    t.name AS tenant,
        CASE
            WHEN ( SELECT qvd.can('osf.see.overlay.'::text) AS can) THEN o.use_overlay
            ELSE NULL::boolean
        END AS "overlay",
        CASE
            WHEN ( SELECT qvd.can('osf.see.user-storage.'::text) AS can) THEN o.user_storage_size
            ELSE NULL::integer
        END AS user_storage,
        CASE
            WHEN ( SELECT qvd.can('osf.see.memory.'::text) AS can) THEN o.memory
            ELSE NULL::integer
        END AS memory,
    o.cpus,
    o.is_application,
        CASE
            WHEN ( SELECT qvd.can('osf.see.description.'::text) AS can) THEN o.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('osf.see.vms-info.'::text) AS can) THEN ( SELECT count(*) AS count
               FROM qvd.vms v
              WHERE (v.osf_id = o.id))
            ELSE NULL::bigint
        END AS number_of_vms,
        CASE
            WHEN ( SELECT qvd.can('osf.see.dis-info.'::text) AS can) THEN ( SELECT count(*) AS count
               FROM qvd.dis d
              WHERE (d.osf_id = o.id))
            ELSE NULL::bigint
        END AS number_of_dis,
        CASE
            WHEN ( SELECT qvd.can('osf.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('osf'::text, o.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('osf.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('osf'::text, o.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by,
        CASE
            WHEN ( SELECT qvd.can('osf.see.properties.'::text) AS can) THEN ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
               FROM ((qvd.osf_properties p
                 JOIN qvd.qvd_object_properties_list q ON ((q.id = p.property_id)))
                 JOIN qvd.properties_list l ON ((l.id = q.property_id)))
              WHERE (p.osf_id = o.id))
            ELSE NULL::jsonb
        END AS properties
   FROM (qvd.osfs o
     JOIN qvd.tenants t ON ((t.id = o.tenant_id)))
  WHERE ( SELECT qvd.can('osf.see-main.'::text) AS can);

ALTER TABLE qvd.osfs ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.osfs_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE SEQUENCE qvd.placements
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
    CYCLE;

ALTER TABLE qvd.properties_list ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.properties_list_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW qvd.property_list WITH (security_invoker='true') AS
 SELECT l.id,
    l.key,
    l.tenant_id,
    t.name AS tenant,
    l.description,
    ARRAY( SELECT (o.qvd_object)::text AS qvd_object
           FROM qvd.qvd_object_properties_list o
          WHERE (o.property_id = l.id)
          ORDER BY (o.qvd_object)::text) AS objects
   FROM (qvd.properties_list l
     LEFT JOIN qvd.tenants t ON ((t.id = l.tenant_id)))
  WHERE ( SELECT qvd.can('property.see-main.'::text) AS can);

ALTER TABLE qvd.qvd_object_properties_list ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.qvd_object_properties_list_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.reapplied (
    file text NOT NULL,
    hash text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE qvd.role_role_relations (
    id integer NOT NULL,
    inheritor_id integer NOT NULL,
    inherited_id integer NOT NULL
);

ALTER TABLE ONLY qvd.role_role_relations FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.role_acls_due AS
 WITH RECURSIVE effective(role_id, acl_id) AS (
         SELECT acl_role_relations.role_id,
            acl_role_relations.acl_id
           FROM qvd.acl_role_relations
          WHERE acl_role_relations.positive
        UNION
         SELECT r.inheritor_id,
            e_1.acl_id
           FROM (effective e_1
             JOIN qvd.role_role_relations r ON ((r.inherited_id = e_1.role_id)))
          WHERE (NOT (EXISTS ( SELECT
                   FROM qvd.acl_role_relations n
                  WHERE ((n.role_id = r.inheritor_id) AND (n.acl_id = e_1.acl_id) AND (NOT n.positive)))))
        )
 SELECT e.role_id,
    a.name AS acl
   FROM (effective e
     JOIN qvd.acls a ON ((a.id = e.acl_id)));

ALTER TABLE qvd.role_administrator_relations ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.role_administrator_relations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW qvd.role_list WITH (security_invoker='true') AS
 SELECT r.id,
    r.name,
    r.tenant_id,
        CASE r.tenant_id
            WHEN '-1'::integer THEN '-'::text
            ELSE t.name
        END AS tenant,
    r.fixed,
    r.internal,
        CASE
            WHEN ( SELECT qvd.can('role.see.inherited-roles.'::text) AS can) THEN ARRAY( SELECT i.name
               FROM (qvd.role_role_relations m
                 JOIN qvd.roles i ON ((i.id = m.inherited_id)))
              WHERE (m.inheritor_id = r.id)
              ORDER BY i.name)
            ELSE NULL::text[]
        END AS roles,
        CASE
            WHEN ( SELECT qvd.can('role.see.acl-list.'::text) AS can) THEN ( SELECT count(*) AS count
               FROM qvd.role_acls e
              WHERE (e.role_id = r.id))
            ELSE NULL::bigint
        END AS number_of_acls,
        CASE
            WHEN ( SELECT qvd.can('role.see.description.'::text) AS can) THEN r.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('role.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('role'::text, r.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('role.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('role'::text, r.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by
   FROM (qvd.roles r
     LEFT JOIN qvd.tenants t ON ((t.id = r.tenant_id)))
  WHERE ( SELECT qvd.can('role.see-main.'::text) AS can);

ALTER TABLE qvd.role_role_relations ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.role_role_relations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE qvd.roles ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.roles_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW qvd.session_fields WITH (security_invoker='true') AS
 SELECT s.id,
    ((((s.login || '@'::text) || t.name) || '/'::text) || s.vm_name) AS vm,
    s.client_address AS client,
    h.name AS host,
    l.name AS router,
    s.started_at,
    s.connected_at,
    s.ended_at,
    (COALESCE(s.ended_at, now()) - s.started_at) AS duration,
    s.bytes_up,
    s.bytes_down,
    s.tunnel,
    s.end_reason,
    s.vm_id,
    s.user_id,
    s.tenant_id
   FROM (((qvd.user_sessions s
     LEFT JOIN qvd.tenants t ON ((t.id = s.tenant_id)))
     LEFT JOIN ( SELECT DISTINCT ON (n.id) n.id,
            n.name
           FROM qvd.host_names() n(id, name)) h ON ((h.id = s.host_id)))
     LEFT JOIN qvd.hosts l ON ((l.id = s.l7r_host_id)));

CREATE VIEW qvd.session_list WITH (security_invoker='true') AS
 SELECT f.id,
    f.vm,
    f.client,
    f.host,
    f.router,
    f.started_at,
    f.connected_at,
    f.ended_at,
    f.duration,
    f.bytes_up,
    f.bytes_down,
    f.tunnel,
    f.end_reason,
    f.vm_id,
    f.user_id,
    f.tenant_id
   FROM qvd.session_fields f
  WHERE ( SELECT qvd.can('vm.see.user-state.'::text) AS can);

CREATE TABLE qvd.session_resumes (
    session_id bigint NOT NULL,
    token text NOT NULL,
    parameters jsonb NOT NULL
);

CREATE VIEW qvd.settings AS
 SELECT k.key,
    COALESCE(c.value, k.default_value) AS value
   FROM (qvd.config_keys k
     LEFT JOIN qvd.configs c ON (((c.key = k.key) AND (c.tenant_id = '-1'::integer))));

CREATE TABLE qvd.ssl_configs (
    key text NOT NULL,
    value text NOT NULL,
    CONSTRAINT ssl_configs_key_check CHECK ((key = ANY (ARRAY['l7r.ssl.key'::text, 'l7r.ssl.cert'::text, 'l7r.ssl.ca'::text, 'l7r.ssl.crl'::text]))),
    CONSTRAINT ssl_configs_value_check CHECK ((length(value) <= 262144))
);

ALTER TABLE ONLY qvd.ssl_configs FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.staging (
    place text NOT NULL,
    name text NOT NULL,
    size bigint NOT NULL,
    modified timestamp with time zone NOT NULL,
    kind text NOT NULL
);

ALTER TABLE ONLY qvd.staging FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.storage_reports (
    place text NOT NULL,
    reported_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    problem text
);

ALTER TABLE ONLY qvd.storage_reports FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.staging_list WITH (security_invoker='true') AS
 SELECT s.name AS file,
    s.size,
    s.kind,
    s.modified,
    r.reported_at AS seen,
    r.problem,
    r.place,
    ( SELECT array_agg(h.name ORDER BY h.name) AS array_agg
           FROM qvd.hosts h
          WHERE (COALESCE((h.storage_id)::text, ('host '::text || h.id)) = r.place)) AS hosts
   FROM (qvd.storage_reports r
     LEFT JOIN qvd.staging s ON ((s.place = r.place)))
  WHERE ((s.name IS NOT NULL) OR (r.problem IS NOT NULL))
  ORDER BY s.name, r.place;

CREATE VIEW qvd.tenant_list WITH (security_invoker='true') AS
 SELECT t.id,
    t.name,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.language.'::text) AS can) THEN t.language
            ELSE NULL::qvd.language
        END AS language,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.blocksize.'::text) AS can) THEN t.block
            ELSE NULL::integer
        END AS block,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.block.'::text) AS can) THEN t.blocked
            ELSE NULL::boolean
        END AS blocked,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.description.'::text) AS can) THEN t.description
            ELSE NULL::text
        END AS description,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.creation-date.'::text) AS can) THEN ( SELECT c.at
               FROM qvd.created('tenant'::text, t.id) c(at, by_whom))
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('tenant.see.created-by.'::text) AS can) THEN ( SELECT c.by_whom
               FROM qvd.created('tenant'::text, t.id) c(at, by_whom))
            ELSE NULL::text
        END AS created_by
   FROM qvd.tenants t
  WHERE ((t.id > 0) AND ( SELECT qvd.can('tenant.see-main.'::text) AS can));

ALTER TABLE qvd.tenants ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.tenants_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.totp_used (
    user_id integer NOT NULL,
    interval_start bigint NOT NULL
);

CREATE TABLE qvd.tunnel_counters (
    host_id integer NOT NULL,
    tunnel text NOT NULL,
    tunnels bigint DEFAULT 0 NOT NULL,
    bytes_up bigint DEFAULT 0 NOT NULL,
    bytes_down bigint DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY qvd.tunnel_counters FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.tunnel_list WITH (security_invoker='true') AS
 SELECT h.name AS host,
    c.tunnel,
    c.tunnels,
    c.bytes_up,
    c.bytes_down
   FROM (qvd.tunnel_counters c
     JOIN qvd.hosts h ON ((h.id = c.host_id)))
  ORDER BY h.name, c.tunnel;

CREATE TABLE qvd.user_auth_parameters (
    id integer NOT NULL,
    parameters jsonb NOT NULL,
    user_id integer,
    kept_since timestamp with time zone
);

ALTER TABLE qvd.user_auth_parameters ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.user_auth_parameters_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.user_properties (
    user_id integer NOT NULL,
    property_id integer NOT NULL,
    value text NOT NULL
);

ALTER TABLE ONLY qvd.user_properties FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.users (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    login qvd.object_name NOT NULL,
    password text,
    blocked boolean DEFAULT false NOT NULL,
    description text,
    language qvd.language DEFAULT 'auto'::qvd.language NOT NULL,
    has_password boolean GENERATED ALWAYS AS ((password IS NOT NULL)) STORED,
    created_at timestamp with time zone DEFAULT now()
);

ALTER TABLE ONLY qvd.users FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.user_counted_fields WITH (security_invoker='true') AS
 SELECT u.id,
    (u.login)::text AS name,
    (((u.login)::text || '@'::text) || t.name) AS "user",
    u.tenant_id,
    t.name AS tenant,
    u.blocked,
    u.has_password,
    u.language,
    u.description,
    COALESCE(n.vms, (0)::bigint) AS vms,
    COALESCE(n.vms, (0)::bigint) AS number_of_vms,
    COALESCE(k.vms, (0)::bigint) AS connected,
    COALESCE(k.vms, (0)::bigint) AS number_of_vms_connected,
    u.created_at AS creation_date,
    ( SELECT c.by_whom
           FROM qvd.created('user'::text, u.id) c(at, by_whom)) AS created_by,
    ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
           FROM ((qvd.user_properties p
             JOIN qvd.qvd_object_properties_list o ON ((o.id = p.property_id)))
             JOIN qvd.properties_list l ON ((l.id = o.property_id)))
          WHERE (p.user_id = u.id)) AS properties
   FROM (((qvd.users u
     LEFT JOIN qvd.tenants t ON ((t.id = u.tenant_id)))
     LEFT JOIN ( SELECT v.user_id,
            count(*) AS vms
           FROM qvd.vms v
          GROUP BY v.user_id) n ON ((n.user_id = u.id)))
     LEFT JOIN ( SELECT v.user_id,
            count(*) AS vms
           FROM (qvd.vm_runtimes r
             JOIN qvd.vms v ON ((v.id = r.vm_id)))
          WHERE (r.user_state = 'connected'::qvd.user_state)
          GROUP BY v.user_id) k ON ((k.user_id = u.id)));

CREATE VIEW qvd.user_fields WITH (security_invoker='true') AS
 SELECT u.id,
    (u.login)::text AS name,
    (((u.login)::text || '@'::text) || t.name) AS "user",
    u.tenant_id,
    t.name AS tenant,
    u.blocked,
    u.has_password,
    u.language,
    u.description,
    ( SELECT count(*) AS count
           FROM qvd.vms v
          WHERE (v.user_id = u.id)) AS vms,
    ( SELECT count(*) AS count
           FROM qvd.vms v
          WHERE (v.user_id = u.id)) AS number_of_vms,
    ( SELECT count(*) AS count
           FROM (qvd.vms v
             JOIN qvd.vm_runtimes r ON ((r.vm_id = v.id)))
          WHERE ((v.user_id = u.id) AND (r.user_state = 'connected'::qvd.user_state))) AS connected,
    ( SELECT count(*) AS count
           FROM (qvd.vms v
             JOIN qvd.vm_runtimes r ON ((r.vm_id = v.id)))
          WHERE ((v.user_id = u.id) AND (r.user_state = 'connected'::qvd.user_state))) AS number_of_vms_connected,
    u.created_at AS creation_date,
    ( SELECT c.by_whom
           FROM qvd.created('user'::text, u.id) c(at, by_whom)) AS created_by,
    ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
           FROM ((qvd.user_properties p
             JOIN qvd.qvd_object_properties_list o ON ((o.id = p.property_id)))
             JOIN qvd.properties_list l ON ((l.id = o.property_id)))
          WHERE (p.user_id = u.id)) AS properties
   FROM (qvd.users u
     LEFT JOIN qvd.tenants t ON ((t.id = u.tenant_id)));

CREATE VIEW qvd.user_list WITH (security_invoker='true') AS
 SELECT f.id,
    f.name,
    f."user",
    f.tenant_id,
    f.tenant,
        CASE
            WHEN ( SELECT qvd.can('user.see.block.'::text) AS can) THEN f.blocked
            ELSE NULL::boolean
        END AS blocked,
    f.has_password,
    f.language,
        CASE
            WHEN ( SELECT qvd.can('user.see.description.'::text) AS can) THEN f.description
            ELSE NULL::text
        END AS description,
    f.vms,
        CASE
            WHEN ( SELECT qvd.can('user.see.vms-info.'::text) AS can) THEN f.number_of_vms
            ELSE NULL::bigint
        END AS number_of_vms,
    f.connected,
        CASE
            WHEN ( SELECT qvd.can('user.see.vms-info.'::text) AS can) THEN f.number_of_vms_connected
            ELSE NULL::bigint
        END AS number_of_vms_connected,
        CASE
            WHEN ( SELECT qvd.can('user.see.creation-date.'::text) AS can) THEN f.creation_date
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('user.see.created-by.'::text) AS can) THEN f.created_by
            ELSE NULL::text
        END AS created_by,
        CASE
            WHEN ( SELECT qvd.can('user.see.properties.'::text) AS can) THEN f.properties
            ELSE NULL::jsonb
        END AS properties
   FROM qvd.user_fields f
  WHERE ( SELECT qvd.can('user.see-main.'::text) AS can);

ALTER TABLE qvd.user_sessions ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.user_sessions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.user_tokens (
    token text NOT NULL,
    user_id integer NOT NULL,
    vm_id integer,
    expiration timestamp with time zone NOT NULL,
    auth_params_id integer,
    multi_use boolean DEFAULT false NOT NULL,
    CONSTRAINT user_tokens_token_check CHECK (((length(token) >= 40) AND (length(token) <= 256)))
);

ALTER TABLE qvd.users ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.users_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.versions (
    component text NOT NULL,
    version text NOT NULL
);

CREATE TABLE qvd.views_setups (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    administrator_id integer,
    qvd_object text NOT NULL,
    field text NOT NULL,
    view_type qvd.view_type NOT NULL,
    device_type qvd.device_type NOT NULL,
    visible boolean NOT NULL,
    CONSTRAINT views_setups_field_check CHECK (((length(field) >= 1) AND (length(field) <= 1100))),
    CONSTRAINT views_setups_qvd_object_check CHECK ((qvd_object = ANY (ARRAY['user'::text, 'vm'::text, 'log'::text, 'host'::text, 'osf'::text, 'di'::text, 'role'::text, 'administrator'::text, 'tenant'::text, 'session'::text, 'property'::text, 'acl'::text, 'config'::text, 'staging'::text, 'tunnel'::text, 'end'::text])))
);

ALTER TABLE ONLY qvd.views_setups FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.view_list WITH (security_invoker='true') AS
 SELECT DISTINCT ON (v.qvd_object, v.field, v.view_type, v.device_type, v.tenant_id) v.id,
    v.tenant_id,
    v.administrator_id,
    v.qvd_object,
    v.field,
    v.view_type,
    v.device_type,
    v.visible
   FROM qvd.views_setups v
  WHERE ((v.administrator_id IS NULL) OR (v.administrator_id = ( SELECT qvd.me() AS me)))
  ORDER BY v.qvd_object, v.field, v.view_type, v.device_type, v.tenant_id, v.administrator_id;

ALTER TABLE qvd.views_setups ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.views_setups_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.vm_console_pieces (
    id bigint NOT NULL,
    vm_id integer NOT NULL,
    said text NOT NULL,
    CONSTRAINT vm_console_pieces_said_check CHECK ((octet_length(said) <= 65536))
);

ALTER TABLE qvd.vm_console_pieces ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qvd.vm_console_pieces_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE qvd.vm_console_watches (
    vm_id integer NOT NULL,
    until timestamp with time zone NOT NULL,
    host_id integer,
    file bigint,
    "position" bigint DEFAULT 0 NOT NULL
);

CREATE TABLE qvd.vm_counters (
    vm_id integer NOT NULL,
    run_attempts bigint DEFAULT 0 NOT NULL,
    run_ok bigint DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY qvd.vm_counters FORCE ROW LEVEL SECURITY;

CREATE TABLE qvd.vm_properties (
    vm_id integer NOT NULL,
    property_id integer NOT NULL,
    value text NOT NULL
);

ALTER TABLE ONLY qvd.vm_properties FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.vm_fields WITH (security_invoker='true') AS
 SELECT v.id,
    (v.name)::text AS name,
    (((((u.login)::text || '@'::text) || t.name) || '/'::text) || (v.name)::text) AS vm,
    v.tenant_id,
    t.name AS tenant,
    v.user_id,
    (u.login)::text AS "user",
    v.osf_id,
    (o.name)::text AS osf,
    v.di_tag AS tag,
    v.di_tag,
    r.blocked,
    r.vm_state AS state,
    r.user_state,
    r.vm_cmd AS command,
    r.vm_state_ts AS since,
    r.vm_reason AS reason,
    r.host_id,
    h.name AS host,
    d.id AS di_id,
    d.path AS di,
    d.version AS di_version,
    r.current_di_id AS di_id_in_use,
    i.version AS di_in_use,
    v.ip,
    r.vm_address AS ip_in_use,
    v.ip AS next_boot_ip,
    qvd.vm_mac(v.ip) AS mac,
    r.vm_expiration_soft AS expiration_soft,
    r.vm_expiration_hard AS expiration_hard,
    (r.vm_expiration_soft - now()) AS time_until_expiration_soft,
    (r.vm_expiration_hard - now()) AS time_until_expiration_hard,
    v.description,
    v.keep_running,
    v.created_at AS creation_date,
    v.mac_tail,
    ( SELECT c.by_whom
           FROM qvd.created('vm'::text, v.id) c(at, by_whom)) AS created_by,
    ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
           FROM ((qvd.vm_properties p
             JOIN qvd.qvd_object_properties_list o_1 ON ((o_1.id = p.property_id)))
             JOIN qvd.properties_list l ON ((l.id = o_1.property_id)))
          WHERE (p.vm_id = v.id)) AS properties
   FROM (((((((qvd.vms v
     LEFT JOIN qvd.vm_runtimes r ON ((r.vm_id = v.id)))
     LEFT JOIN qvd.users u ON ((u.id = v.user_id)))
     LEFT JOIN qvd.tenants t ON ((t.id = v.tenant_id)))
     LEFT JOIN qvd.osfs o ON ((o.id = v.osf_id)))
     LEFT JOIN ( SELECT DISTINCT ON (n.id) n.id,
            n.name
           FROM qvd.host_names() n(id, name)) h ON ((h.id = r.host_id)))
     LEFT JOIN qvd.newest_dis d ON (((d.osf_id = v.osf_id) AND (d.tag = v.di_tag))))
     LEFT JOIN qvd.dis i ON ((i.id = r.current_di_id)));

CREATE VIEW qvd.vm_list WITH (security_invoker='true') AS
 SELECT f.id,
    f.name,
    f.vm,
    f.tenant_id,
    f.tenant,
        CASE
            WHEN ( SELECT qvd.can('vm.see.user.'::text) AS can) THEN f.user_id
            ELSE NULL::integer
        END AS user_id,
        CASE
            WHEN ( SELECT qvd.can('vm.see.user.'::text) AS can) THEN f."user"
            ELSE NULL::text
        END AS "user",
        CASE
            WHEN ( SELECT qvd.can('vm.see.osf.'::text) AS can) THEN f.osf_id
            ELSE NULL::integer
        END AS osf_id,
        CASE
            WHEN ( SELECT qvd.can('vm.see.osf.'::text) AS can) THEN f.osf
            ELSE NULL::text
        END AS osf,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di-tag.'::text) AS can) THEN f.tag
            ELSE NULL::text
        END AS tag,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di-tag.'::text) AS can) THEN f.di_tag
            ELSE NULL::text
        END AS di_tag,
        CASE
            WHEN ( SELECT qvd.can('vm.see.block.'::text) AS can) THEN f.blocked
            ELSE NULL::boolean
        END AS blocked,
        CASE
            WHEN ( SELECT qvd.can('vm.see.state.'::text) AS can) THEN f.state
            ELSE NULL::qvd.vm_state
        END AS state,
        CASE
            WHEN ( SELECT qvd.can('vm.see.user-state.'::text) AS can) THEN f.user_state
            ELSE NULL::qvd.user_state
        END AS user_state,
        CASE
            WHEN ( SELECT qvd.can('vm.see.state.'::text) AS can) THEN f.command
            ELSE NULL::qvd.vm_cmd
        END AS command,
        CASE
            WHEN ( SELECT qvd.can('vm.see.state.'::text) AS can) THEN f.since
            ELSE NULL::timestamp with time zone
        END AS since,
        CASE
            WHEN ( SELECT qvd.can('vm.see.state.'::text) AS can) THEN f.reason
            ELSE NULL::text
        END AS reason,
        CASE
            WHEN ( SELECT qvd.can('vm.see.host.'::text) AS can) THEN f.host_id
            ELSE NULL::integer
        END AS host_id,
        CASE
            WHEN ( SELECT qvd.can('vm.see.host.'::text) AS can) THEN f.host
            ELSE NULL::text
        END AS host,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di.'::text) AS can) THEN f.di_id
            ELSE NULL::integer
        END AS di_id,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di.'::text) AS can) THEN f.di
            ELSE NULL::text
        END AS di,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di-version.'::text) AS can) THEN f.di_version
            ELSE NULL::text
        END AS di_version,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di.'::text) AS can) THEN f.di_id_in_use
            ELSE NULL::integer
        END AS di_id_in_use,
        CASE
            WHEN ( SELECT qvd.can('vm.see.di-version.'::text) AS can) THEN f.di_in_use
            ELSE NULL::text
        END AS di_in_use,
        CASE
            WHEN ( SELECT qvd.can('vm.see.ip.'::text) AS can) THEN f.ip
            ELSE NULL::inet
        END AS ip,
        CASE
            WHEN ( SELECT qvd.can('vm.see.ip.'::text) AS can) THEN f.ip_in_use
            ELSE NULL::inet
        END AS ip_in_use,
        CASE
            WHEN ( SELECT qvd.can('vm.see.next-boot-ip.'::text) AS can) THEN f.next_boot_ip
            ELSE NULL::inet
        END AS next_boot_ip,
        CASE
            WHEN ( SELECT qvd.can('vm.see.mac.'::text) AS can) THEN f.mac
            ELSE NULL::text
        END AS mac,
        CASE
            WHEN ( SELECT qvd.can('vm.see.expiration.'::text) AS can) THEN f.expiration_soft
            ELSE NULL::timestamp with time zone
        END AS expiration_soft,
        CASE
            WHEN ( SELECT qvd.can('vm.see.expiration.'::text) AS can) THEN f.expiration_hard
            ELSE NULL::timestamp with time zone
        END AS expiration_hard,
        CASE
            WHEN ( SELECT qvd.can('vm.see.expiration.'::text) AS can) THEN f.time_until_expiration_soft
            ELSE NULL::interval
        END AS time_until_expiration_soft,
        CASE
            WHEN ( SELECT qvd.can('vm.see.expiration.'::text) AS can) THEN f.time_until_expiration_hard
            ELSE NULL::interval
        END AS time_until_expiration_hard,
        CASE
            WHEN ( SELECT qvd.can('vm.see.description.'::text) AS can) THEN f.description
            ELSE NULL::text
        END AS description,
    f.keep_running,
        CASE
            WHEN ( SELECT qvd.can('vm.see.creation-date.'::text) AS can) THEN f.creation_date
            ELSE NULL::timestamp with time zone
        END AS creation_date,
        CASE
            WHEN ( SELECT qvd.can('vm.see.created-by.'::text) AS can) THEN f.created_by
            ELSE NULL::text
        END AS created_by,
        CASE
            WHEN ( SELECT qvd.can('vm.see.properties.'::text) AS can) THEN f.properties
            ELSE NULL::jsonb
        END AS properties
   FROM qvd.vm_fields f
  WHERE ( SELECT qvd.can('vm.see-main.'::text) AS can);

CREATE TABLE qvd.vm_progress (
    vm_id integer NOT NULL,
    host_id integer NOT NULL,
    phase text NOT NULL,
    since timestamp with time zone NOT NULL,
    until timestamp with time zone,
    attempts integer NOT NULL,
    note text
);

ALTER TABLE ONLY qvd.vm_progress FORCE ROW LEVEL SECURITY;

CREATE VIEW qvd.vm_running_fields WITH (security_invoker='true') AS
 SELECT r.vm_id AS id,
    (v.name)::text AS name,
    (((((u.login)::text || '@'::text) || t.name) || '/'::text) || (v.name)::text) AS vm,
    r.tenant_id,
    t.name AS tenant,
    v.user_id,
    (u.login)::text AS "user",
    v.osf_id,
    (o.name)::text AS osf,
    v.di_tag AS tag,
    v.di_tag,
    r.blocked,
    r.vm_state AS state,
    r.user_state,
    r.vm_cmd AS command,
    r.vm_state_ts AS since,
    r.vm_reason AS reason,
    r.host_id,
    h.name AS host,
    d.id AS di_id,
    d.path AS di,
    d.version AS di_version,
    r.current_di_id AS di_id_in_use,
    i.version AS di_in_use,
    v.ip,
    r.vm_address AS ip_in_use,
    v.ip AS next_boot_ip,
    qvd.vm_mac(v.ip) AS mac,
    r.vm_expiration_soft AS expiration_soft,
    r.vm_expiration_hard AS expiration_hard,
    (r.vm_expiration_soft - now()) AS time_until_expiration_soft,
    (r.vm_expiration_hard - now()) AS time_until_expiration_hard,
    v.description,
    v.keep_running,
    v.created_at AS creation_date,
    v.mac_tail,
    ( SELECT c.by_whom
           FROM qvd.created('vm'::text, r.vm_id) c(at, by_whom)) AS created_by,
    ( SELECT COALESCE(jsonb_object_agg(l.key, p.value), '{}'::jsonb) AS "coalesce"
           FROM ((qvd.vm_properties p
             JOIN qvd.qvd_object_properties_list o_1 ON ((o_1.id = p.property_id)))
             JOIN qvd.properties_list l ON ((l.id = o_1.property_id)))
          WHERE (p.vm_id = r.vm_id)) AS properties
   FROM (((((((qvd.vm_runtimes r
     LEFT JOIN qvd.vms v ON ((v.id = r.vm_id)))
     LEFT JOIN qvd.users u ON ((u.id = v.user_id)))
     LEFT JOIN qvd.tenants t ON ((t.id = r.tenant_id)))
     LEFT JOIN qvd.osfs o ON ((o.id = v.osf_id)))
     LEFT JOIN ( SELECT DISTINCT ON (n.id) n.id,
            n.name
           FROM qvd.host_names() n(id, name)) h ON ((h.id = r.host_id)))
     LEFT JOIN qvd.newest_dis d ON (((d.osf_id = v.osf_id) AND (d.tag = v.di_tag))))
     LEFT JOIN qvd.dis i ON ((i.id = r.current_di_id)));

CREATE VIEW qvd.vm_specs_due AS
 SELECT v.id AS vm_id,
    (v.name)::text AS name,
    t.id AS tenant_id,
    t.name AS tenant,
    u.id AS user_id,
    (u.login)::text AS login,
    o.id AS osf_id,
    o.memory,
    o.user_storage_size,
    v.di_tag,
    v.ip,
    d.id AS di_id,
    d.path AS di_path,
    o.cpus,
    d.agent
   FROM ((((qvd.vms v
     JOIN qvd.users u ON ((u.id = v.user_id)))
     JOIN qvd.tenants t ON ((t.id = u.tenant_id)))
     JOIN qvd.osfs o ON ((o.id = v.osf_id)))
     LEFT JOIN qvd.dis d ON ((d.id = ( SELECT s.id
           FROM qvd.startable_dis s
          WHERE ((s.osf_id = v.osf_id) AND (s.tag = v.di_tag))
          ORDER BY s.published DESC, s.id DESC
         LIMIT 1))));

ALTER TABLE qvd.vms ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME qvd.vms_id_seq
    START WITH 10000
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY qvd.acl_role_relations
    ADD CONSTRAINT acl_role_relations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.acl_role_relations
    ADD CONSTRAINT acl_role_relations_role_id_acl_id_key UNIQUE (role_id, acl_id);

ALTER TABLE ONLY qvd.acls
    ADD CONSTRAINT acls_name_key UNIQUE (name);

ALTER TABLE ONLY qvd.acls
    ADD CONSTRAINT acls_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.administrators
    ADD CONSTRAINT administrators_name_tenant_id_key UNIQUE (name, tenant_id);

ALTER TABLE ONLY qvd.administrators
    ADD CONSTRAINT administrators_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.administrators
    ADD CONSTRAINT administrators_role_name_key UNIQUE (role_name);

ALTER TABLE ONLY qvd.balancer
    ADD CONSTRAINT balancer_pkey PRIMARY KEY (one);

ALTER TABLE ONLY qvd.beat
    ADD CONSTRAINT beat_pkey PRIMARY KEY (one);

ALTER TABLE ONLY qvd.config_keys
    ADD CONSTRAINT config_keys_pkey PRIMARY KEY (key);

ALTER TABLE ONLY qvd.configs
    ADD CONSTRAINT configs_pkey PRIMARY KEY (tenant_id, key);

ALTER TABLE ONLY qvd.di_imports
    ADD CONSTRAINT di_imports_pkey PRIMARY KEY (di_id);

ALTER TABLE ONLY qvd.di_leftovers
    ADD CONSTRAINT di_leftovers_pkey PRIMARY KEY (place, path);

ALTER TABLE ONLY qvd.di_properties
    ADD CONSTRAINT di_properties_pkey PRIMARY KEY (di_id, property_id);

ALTER TABLE ONLY qvd.di_runtimes
    ADD CONSTRAINT di_runtimes_pkey PRIMARY KEY (di_id);

ALTER TABLE ONLY qvd.di_tags
    ADD CONSTRAINT di_tags_di_id_tag_key UNIQUE (di_id, tag);

ALTER TABLE ONLY qvd.di_tags
    ADD CONSTRAINT di_tags_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.dis
    ADD CONSTRAINT dis_osf_id_version_key UNIQUE (osf_id, version);

ALTER TABLE ONLY qvd.dis
    ADD CONSTRAINT dis_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.end_counters
    ADD CONSTRAINT end_counters_pkey PRIMARY KEY (host_id, reason);

ALTER TABLE ONLY qvd.host_counters
    ADD CONSTRAINT host_counters_pkey PRIMARY KEY (host_id);

ALTER TABLE ONLY qvd.host_properties
    ADD CONSTRAINT host_properties_pkey PRIMARY KEY (host_id, property_id);

ALTER TABLE ONLY qvd.host_runtimes
    ADD CONSTRAINT host_runtimes_pkey PRIMARY KEY (host_id);

ALTER TABLE ONLY qvd.hosts
    ADD CONSTRAINT hosts_address_key UNIQUE (address);

ALTER TABLE ONLY qvd.hosts
    ADD CONSTRAINT hosts_name_key UNIQUE (name);

ALTER TABLE ONLY qvd.hosts
    ADD CONSTRAINT hosts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.l7r_instances
    ADD CONSTRAINT l7r_instances_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.log
    ADD CONSTRAINT log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY qvd.osf_properties
    ADD CONSTRAINT osf_properties_pkey PRIMARY KEY (osf_id, property_id);

ALTER TABLE ONLY qvd.osfs
    ADD CONSTRAINT osfs_name_tenant_id_key UNIQUE (name, tenant_id);

ALTER TABLE ONLY qvd.osfs
    ADD CONSTRAINT osfs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.properties_list
    ADD CONSTRAINT properties_list_key_tenant_id_key UNIQUE (key, tenant_id);

ALTER TABLE ONLY qvd.properties_list
    ADD CONSTRAINT properties_list_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.qvd_object_properties_list
    ADD CONSTRAINT qvd_object_properties_list_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.qvd_object_properties_list
    ADD CONSTRAINT qvd_object_properties_list_property_id_qvd_object_key UNIQUE (property_id, qvd_object);

ALTER TABLE ONLY qvd.reapplied
    ADD CONSTRAINT reapplied_pkey PRIMARY KEY (file);

ALTER TABLE ONLY qvd.role_acls
    ADD CONSTRAINT role_acls_pkey PRIMARY KEY (role_id, acl);

ALTER TABLE ONLY qvd.role_administrator_relations
    ADD CONSTRAINT role_administrator_relations_administrator_id_role_id_key UNIQUE (administrator_id, role_id);

ALTER TABLE ONLY qvd.role_administrator_relations
    ADD CONSTRAINT role_administrator_relations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.role_role_relations
    ADD CONSTRAINT role_role_relations_inheritor_id_inherited_id_key UNIQUE (inheritor_id, inherited_id);

ALTER TABLE ONLY qvd.role_role_relations
    ADD CONSTRAINT role_role_relations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.roles
    ADD CONSTRAINT roles_name_tenant_id_key UNIQUE (name, tenant_id);

ALTER TABLE ONLY qvd.roles
    ADD CONSTRAINT roles_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.session_resumes
    ADD CONSTRAINT session_resumes_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY qvd.ssl_configs
    ADD CONSTRAINT ssl_configs_pkey PRIMARY KEY (key);

ALTER TABLE ONLY qvd.staging
    ADD CONSTRAINT staging_pkey PRIMARY KEY (place, name);

ALTER TABLE ONLY qvd.storage_reports
    ADD CONSTRAINT storage_reports_pkey PRIMARY KEY (place);

ALTER TABLE ONLY qvd.tenants
    ADD CONSTRAINT tenants_name_key UNIQUE (name);

ALTER TABLE ONLY qvd.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.totp_used
    ADD CONSTRAINT totp_used_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY qvd.tunnel_counters
    ADD CONSTRAINT tunnel_counters_pkey PRIMARY KEY (host_id, tunnel);

ALTER TABLE ONLY qvd.user_auth_parameters
    ADD CONSTRAINT user_auth_parameters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.user_properties
    ADD CONSTRAINT user_properties_pkey PRIMARY KEY (user_id, property_id);

ALTER TABLE ONLY qvd.user_sessions
    ADD CONSTRAINT user_sessions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.user_tokens
    ADD CONSTRAINT user_tokens_pkey PRIMARY KEY (token);

ALTER TABLE ONLY qvd.users
    ADD CONSTRAINT users_login_tenant_id_key UNIQUE (login, tenant_id);

ALTER TABLE ONLY qvd.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (component);

ALTER TABLE ONLY qvd.views_setups
    ADD CONSTRAINT views_setups_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.views_setups
    ADD CONSTRAINT views_setups_tenant_id_administrator_id_qvd_object_field_vi_key UNIQUE NULLS NOT DISTINCT (tenant_id, administrator_id, qvd_object, field, view_type, device_type);

ALTER TABLE ONLY qvd.vm_console_pieces
    ADD CONSTRAINT vm_console_pieces_pkey PRIMARY KEY (id);

ALTER TABLE ONLY qvd.vm_console_watches
    ADD CONSTRAINT vm_console_watches_pkey PRIMARY KEY (vm_id);

ALTER TABLE ONLY qvd.vm_counters
    ADD CONSTRAINT vm_counters_pkey PRIMARY KEY (vm_id);

ALTER TABLE ONLY qvd.vm_progress
    ADD CONSTRAINT vm_progress_pkey PRIMARY KEY (vm_id);

ALTER TABLE ONLY qvd.vm_properties
    ADD CONSTRAINT vm_properties_pkey PRIMARY KEY (vm_id, property_id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_pkey PRIMARY KEY (vm_id);

ALTER TABLE ONLY qvd.vm_specs
    ADD CONSTRAINT vm_specs_pkey PRIMARY KEY (vm_id);

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_ip_key UNIQUE (ip);

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_name_user_id_key UNIQUE (name, user_id);

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_pkey PRIMARY KEY (id);

CREATE INDEX di_imports_place_idx ON qvd.di_imports USING btree (place);

CREATE INDEX host_changes_host_id_idx ON qvd.host_changes USING btree (host_id);

CREATE INDEX hosts_storage ON qvd.hosts USING btree (storage_id, id);

CREATE INDEX l7r_instances_host_id_idx ON qvd.l7r_instances USING btree (host_id) WHERE (ended_at IS NULL);

CREATE INDEX log_qvd_object_object_id_idx ON qvd.log USING btree (qvd_object, object_id);

CREATE INDEX log_tenant ON qvd.log USING btree (tenant_id, "time" DESC, id DESC);

CREATE INDEX log_time ON qvd.log USING btree ("time" DESC, id DESC);

CREATE INDEX role_administrator_relations_role_id_idx ON qvd.role_administrator_relations USING btree (role_id);

CREATE INDEX role_role_relations_inherited_id_idx ON qvd.role_role_relations USING btree (inherited_id);

CREATE INDEX user_auth_parameters_user_id_idx ON qvd.user_auth_parameters USING btree (user_id);

CREATE INDEX user_sessions_ended ON qvd.user_sessions USING btree (ended_at) WHERE (ended_at IS NOT NULL);

CREATE INDEX user_sessions_l7r_instance_idx ON qvd.user_sessions USING btree (l7r_instance) WHERE (ended_at IS NULL);

CREATE INDEX user_sessions_started ON qvd.user_sessions USING btree (started_at);

CREATE INDEX user_sessions_vm_id_started_at_idx ON qvd.user_sessions USING btree (vm_id, started_at DESC);

CREATE INDEX user_tokens_auth_params_id_idx ON qvd.user_tokens USING btree (auth_params_id);

CREATE INDEX user_tokens_expiration_idx ON qvd.user_tokens USING btree (expiration);

CREATE INDEX user_tokens_of_user ON qvd.user_tokens USING btree (user_id, expiration);

CREATE INDEX user_tokens_vm_id_idx ON qvd.user_tokens USING btree (vm_id);

CREATE INDEX users_by_creation ON qvd.users USING btree (created_at);

CREATE INDEX users_of_tenant ON qvd.users USING btree (tenant_id, login);

CREATE INDEX vm_console_pieces_vm_id_id_idx ON qvd.vm_console_pieces USING btree (vm_id, id);

CREATE INDEX vm_console_watches_host_id_idx ON qvd.vm_console_watches USING btree (host_id);

CREATE INDEX vm_progress_host_id_idx ON qvd.vm_progress USING btree (host_id);

CREATE INDEX vm_runtimes_assigned ON qvd.vm_runtimes USING btree (host_id) WHERE (host_id IS NOT NULL);

CREATE INDEX vm_runtimes_commands ON qvd.vm_runtimes USING btree (host_id) WHERE (vm_cmd IS NOT NULL);

CREATE INDEX vm_runtimes_expirations ON qvd.vm_runtimes USING btree (host_id) WHERE ((vm_expiration_soft IS NOT NULL) OR (vm_expiration_hard IS NOT NULL));

CREATE INDEX vm_runtimes_restart_due ON qvd.vm_runtimes USING btree (vm_id) WHERE restart_due;

CREATE INDEX vm_runtimes_router ON qvd.vm_runtimes USING btree (l7r_instance) WHERE (l7r_instance IS NOT NULL);

CREATE INDEX vm_runtimes_sessions ON qvd.vm_runtimes USING btree (l7r_host_id) WHERE (l7r_host_id IS NOT NULL);

CREATE INDEX vm_runtimes_user_commands ON qvd.vm_runtimes USING btree (l7r_host_id) WHERE (user_cmd IS NOT NULL);

CREATE INDEX vm_specs_login_name_idx ON qvd.vm_specs USING btree (login, name);

CREATE INDEX vm_specs_osf_id_idx ON qvd.vm_specs USING btree (osf_id);

CREATE INDEX vms_by_creation ON qvd.vms USING btree (created_at);

CREATE INDEX vms_by_mac ON qvd.vms USING btree (mac_tail);

CREATE INDEX vms_by_name ON qvd.vms USING btree (name, id);

CREATE INDEX vms_of_osf ON qvd.vms USING btree (osf_id);

CREATE INDEX vms_of_tenant ON qvd.vms USING btree (tenant_id, name, id);

CREATE INDEX vms_of_user ON qvd.vms USING btree (user_id);

CREATE TRIGGER balancer AFTER INSERT OR DELETE OR UPDATE ON qvd.config_keys FOR EACH STATEMENT EXECUTE FUNCTION qvd.configs_balancer();

CREATE TRIGGER balancer AFTER INSERT OR DELETE OR UPDATE ON qvd.configs FOR EACH STATEMENT EXECUTE FUNCTION qvd.configs_balancer();

CREATE TRIGGER count AFTER UPDATE OF host_id, vm_state ON qvd.vm_runtimes FOR EACH ROW WHEN ((old.host_id IS DISTINCT FROM new.host_id)) EXECUTE FUNCTION qvd.vm_runtimes_count();

CREATE TRIGGER count_deleted AFTER DELETE ON qvd.vm_runtimes FOR EACH ROW WHEN ((old.host_id IS NOT NULL)) EXECUTE FUNCTION qvd.vm_runtimes_count();

CREATE TRIGGER gone AFTER DELETE ON qvd.user_tokens REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.user_tokens_gone();

CREATE TRIGGER guard BEFORE DELETE OR UPDATE ON qvd.administrators FOR EACH ROW EXECUTE FUNCTION qvd.administrators_guard();

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON qvd.configs FOR EACH ROW EXECUTE FUNCTION qvd.configs_guard();

CREATE TRIGGER guard BEFORE DELETE ON qvd.dis FOR EACH ROW EXECUTE FUNCTION qvd.dis_guard();

CREATE TRIGGER guard BEFORE UPDATE OF state, epoch ON qvd.host_runtimes FOR EACH ROW EXECUTE FUNCTION qvd.host_runtimes_guard();

CREATE TRIGGER guard BEFORE DELETE ON qvd.hosts FOR EACH ROW EXECUTE FUNCTION qvd.hosts_guard();

CREATE TRIGGER guard BEFORE UPDATE OF key ON qvd.properties_list FOR EACH ROW EXECUTE FUNCTION qvd.properties_list_guard();

CREATE TRIGGER guard BEFORE UPDATE ON qvd.qvd_object_properties_list FOR EACH ROW EXECUTE FUNCTION qvd.qvd_object_properties_list_guard();

CREATE TRIGGER guard BEFORE DELETE OR UPDATE ON qvd.roles FOR EACH ROW EXECUTE FUNCTION qvd.roles_guard();

CREATE TRIGGER guard BEFORE UPDATE ON qvd.vm_runtimes FOR EACH ROW EXECUTE FUNCTION qvd.vm_runtimes_guard();

CREATE TRIGGER guard BEFORE INSERT OR DELETE OR UPDATE OF user_id, osf_id, tenant_id ON qvd.vms FOR EACH ROW EXECUTE FUNCTION qvd.vms_guard();

CREATE TRIGGER log AFTER UPDATE OF blocked, cmd ON qvd.host_runtimes FOR EACH ROW WHEN (((new.blocked <> old.blocked) OR ((new.cmd IS NOT NULL) AND (new.cmd IS DISTINCT FROM old.cmd)))) EXECUTE FUNCTION qvd.host_runtimes_log();

CREATE TRIGGER log AFTER UPDATE OF blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard ON qvd.vm_runtimes FOR EACH ROW WHEN (((new.vm_state = old.vm_state) AND ((new.blocked <> old.blocked) OR ((new.vm_cmd IS NOT NULL) AND (new.vm_cmd IS DISTINCT FROM old.vm_cmd)) OR ((new.user_cmd IS NOT NULL) AND (new.user_cmd IS DISTINCT FROM old.user_cmd) AND (new.contender IS NULL)) OR ((new.vm_expiration_soft IS DISTINCT FROM old.vm_expiration_soft) OR (new.vm_expiration_hard IS DISTINCT FROM old.vm_expiration_hard))))) EXECUTE FUNCTION qvd.vm_runtimes_log();

CREATE TRIGGER log_delete AFTER DELETE ON qvd.acl_role_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'role_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.administrators REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.configs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.di_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.di_tags REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.dis REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.host_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'host_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.hosts REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.osf_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'osf_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.osfs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.properties_list REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.qvd_object_properties_list REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'property_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.role_administrator_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'administrator_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.role_role_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'inheritor_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.roles REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.ssl_configs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.tenants REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('tenant', 'id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.user_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'user_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.users REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'id', '');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.views_setups REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('view', 'field', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.vm_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'vm_id', 'tell');

CREATE TRIGGER log_delete AFTER DELETE ON qvd.vms REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.acl_role_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'role_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.administrators REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.configs REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.di_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.di_tags REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.dis REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.host_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'host_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.hosts REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.osf_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'osf_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.osfs REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.properties_list REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.qvd_object_properties_list REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'property_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.role_administrator_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'administrator_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.role_role_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'inheritor_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.roles REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.ssl_configs REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.tenants REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('tenant', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.user_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'user_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.users REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'id', '');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.views_setups REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('view', 'field', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.vm_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'vm_id', 'tell');

CREATE TRIGGER log_insert AFTER INSERT ON qvd.vms REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.acl_role_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'role_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.administrators REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.configs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.di_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.di_tags REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'di_id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.dis REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('di', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.host_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'host_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.hosts REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('host', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.osf_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'osf_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.osfs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('osf', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.properties_list REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.qvd_object_properties_list REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('property', 'property_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.role_administrator_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('administrator', 'administrator_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.role_role_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'inheritor_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.roles REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('role', 'id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.ssl_configs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('config', 'key', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.tenants REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('tenant', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.user_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'user_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.users REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('user', 'id', '');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.views_setups REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('view', 'field', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.vm_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'vm_id', 'tell');

CREATE TRIGGER log_update AFTER UPDATE ON qvd.vms REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION qvd.administered_log('vm', 'id', '');

CREATE TRIGGER permit AFTER UPDATE OF blocked, cmd ON qvd.host_runtimes FOR EACH ROW WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.runtime_permit('host');

CREATE TRIGGER permit AFTER UPDATE OF blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard ON qvd.vm_runtimes FOR EACH ROW WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.runtime_permit('vm');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.acl_role_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'role_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.administrators REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.configs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.di_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.di_tags REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.dis REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.host_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'host_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.hosts REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.osf_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'osf_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.osfs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.properties_list REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.qvd_object_properties_list REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'property_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.role_administrator_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'administrator_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.role_role_relations REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'inheritor_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.roles REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.ssl_configs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.tenants REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('tenant', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.user_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'user_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.users REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.views_setups REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('view', 'field');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.vm_properties REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'vm_id');

CREATE TRIGGER permit_delete AFTER DELETE ON qvd.vms REFERENCING OLD TABLE AS gone FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.acl_role_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'role_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.administrators REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.configs REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.di_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.di_tags REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.dis REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.host_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'host_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.hosts REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.osf_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'osf_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.osfs REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.properties_list REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.qvd_object_properties_list REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'property_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.role_administrator_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'administrator_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.role_role_relations REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'inheritor_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.roles REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.ssl_configs REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.tenants REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('tenant', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.user_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'user_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.users REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.views_setups REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('view', 'field');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.vm_properties REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'vm_id');

CREATE TRIGGER permit_insert AFTER INSERT ON qvd.vms REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.acl_role_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'role_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.administrators REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.configs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.di_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.di_tags REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'di_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.dis REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('di', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.host_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'host_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.hosts REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('host', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.osf_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'osf_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.osfs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('osf', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.properties_list REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.qvd_object_properties_list REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('property', 'property_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.role_administrator_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('administrator', 'administrator_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.role_role_relations REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'inheritor_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.roles REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('role', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.ssl_configs REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('config', 'key');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.tenants REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('tenant', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.user_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'user_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.users REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('user', 'id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.views_setups REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('view', 'field');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.vm_properties REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'vm_id');

CREATE TRIGGER permit_update AFTER UPDATE ON qvd.vms REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'postgres'::name)) EXECUTE FUNCTION qvd.administered_permit('vm', 'id');

CREATE TRIGGER renew AFTER INSERT OR DELETE OR UPDATE ON qvd.acl_role_relations FOR EACH STATEMENT EXECUTE FUNCTION qvd.roles_renew();

CREATE TRIGGER renew AFTER INSERT OR DELETE OR UPDATE ON qvd.role_role_relations FOR EACH STATEMENT EXECUTE FUNCTION qvd.roles_renew();

CREATE TRIGGER wake AFTER UPDATE OF number ON qvd.beat FOR EACH ROW EXECUTE FUNCTION qvd.beat_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.configs FOR EACH ROW EXECUTE FUNCTION qvd.configs_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.di_runtimes FOR EACH ROW EXECUTE FUNCTION qvd.di_runtimes_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.di_tags FOR EACH ROW EXECUTE FUNCTION qvd.di_tags_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.dis FOR EACH ROW EXECUTE FUNCTION qvd.dis_wake();

CREATE TRIGGER wake AFTER UPDATE OF state, blocked, cmd, epoch, events_degraded_since, storage_degraded_since ON qvd.host_runtimes FOR EACH ROW WHEN (((((((old.state IS DISTINCT FROM new.state) OR (old.blocked IS DISTINCT FROM new.blocked)) OR (old.cmd IS DISTINCT FROM new.cmd)) OR (old.epoch IS DISTINCT FROM new.epoch)) OR (old.events_degraded_since IS DISTINCT FROM new.events_degraded_since)) OR (old.storage_degraded_since IS DISTINCT FROM new.storage_degraded_since))) EXECUTE FUNCTION qvd.host_runtimes_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.hosts FOR EACH ROW EXECUTE FUNCTION qvd.hosts_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.osfs FOR EACH ROW EXECUTE FUNCTION qvd.osfs_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.ssl_configs FOR EACH ROW EXECUTE FUNCTION qvd.ssl_configs_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.tenants FOR EACH ROW EXECUTE FUNCTION qvd.tenants_wake();

CREATE TRIGGER wake AFTER INSERT ON qvd.user_sessions FOR EACH ROW EXECUTE FUNCTION qvd.user_sessions_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.users FOR EACH ROW EXECUTE FUNCTION qvd.users_wake();

CREATE TRIGGER wake AFTER UPDATE OF file, "position" ON qvd.vm_console_watches FOR EACH ROW WHEN (((old.file IS DISTINCT FROM new.file) OR (old."position" IS DISTINCT FROM new."position"))) EXECUTE FUNCTION qvd.vm_console_watches_wake();

CREATE TRIGGER wake AFTER UPDATE OF host_id, vm_state, vm_cmd, user_state, user_cmd, session_id, blocked, vm_reason, vm_expiration_soft, vm_expiration_hard ON qvd.vm_runtimes FOR EACH ROW EXECUTE FUNCTION qvd.vm_runtimes_wake();

CREATE TRIGGER wake AFTER INSERT OR DELETE OR UPDATE ON qvd.vms FOR EACH ROW EXECUTE FUNCTION qvd.vms_wake();

CREATE TRIGGER wake_changes AFTER UPDATE OF connected_at, ended_at ON qvd.user_sessions FOR EACH ROW WHEN (((old.connected_at IS DISTINCT FROM new.connected_at) OR (old.ended_at IS DISTINCT FROM new.ended_at))) EXECUTE FUNCTION qvd.user_sessions_wake();

CREATE TRIGGER wake_delete AFTER DELETE ON qvd.staging REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qvd.staging_wake();

CREATE TRIGGER wake_insert AFTER INSERT ON qvd.staging REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qvd.staging_wake();

CREATE TRIGGER wake_update AFTER UPDATE ON qvd.staging REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qvd.staging_wake();

ALTER TABLE ONLY qvd.acl_role_relations
    ADD CONSTRAINT acl_role_relations_acl_id_fkey FOREIGN KEY (acl_id) REFERENCES qvd.acls(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.acl_role_relations
    ADD CONSTRAINT acl_role_relations_role_id_fkey FOREIGN KEY (role_id) REFERENCES qvd.roles(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.administrators
    ADD CONSTRAINT administrators_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.configs
    ADD CONSTRAINT configs_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.di_imports
    ADD CONSTRAINT di_imports_di_id_fkey FOREIGN KEY (di_id) REFERENCES qvd.dis(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.di_imports
    ADD CONSTRAINT di_imports_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE SET NULL;

ALTER TABLE ONLY qvd.di_properties
    ADD CONSTRAINT di_properties_di_id_fkey FOREIGN KEY (di_id) REFERENCES qvd.dis(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.di_properties
    ADD CONSTRAINT di_properties_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.qvd_object_properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.di_runtimes
    ADD CONSTRAINT di_runtimes_di_id_fkey FOREIGN KEY (di_id) REFERENCES qvd.dis(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.di_tags
    ADD CONSTRAINT di_tags_di_id_fkey FOREIGN KEY (di_id) REFERENCES qvd.dis(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.dis
    ADD CONSTRAINT dis_osf_id_fkey FOREIGN KEY (osf_id) REFERENCES qvd.osfs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.end_counters
    ADD CONSTRAINT end_counters_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.host_counters
    ADD CONSTRAINT host_counters_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.host_properties
    ADD CONSTRAINT host_properties_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.host_properties
    ADD CONSTRAINT host_properties_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.qvd_object_properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.host_runtimes
    ADD CONSTRAINT host_runtimes_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.l7r_instances
    ADD CONSTRAINT l7r_instances_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.osf_properties
    ADD CONSTRAINT osf_properties_osf_id_fkey FOREIGN KEY (osf_id) REFERENCES qvd.osfs(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.osf_properties
    ADD CONSTRAINT osf_properties_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.qvd_object_properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.osfs
    ADD CONSTRAINT osfs_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.properties_list
    ADD CONSTRAINT properties_list_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.qvd_object_properties_list
    ADD CONSTRAINT qvd_object_properties_list_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.role_acls
    ADD CONSTRAINT role_acls_role_id_fkey FOREIGN KEY (role_id) REFERENCES qvd.roles(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.role_administrator_relations
    ADD CONSTRAINT role_administrator_relations_administrator_id_fkey FOREIGN KEY (administrator_id) REFERENCES qvd.administrators(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.role_administrator_relations
    ADD CONSTRAINT role_administrator_relations_role_id_fkey FOREIGN KEY (role_id) REFERENCES qvd.roles(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.role_role_relations
    ADD CONSTRAINT role_role_relations_inherited_id_fkey FOREIGN KEY (inherited_id) REFERENCES qvd.roles(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.role_role_relations
    ADD CONSTRAINT role_role_relations_inheritor_id_fkey FOREIGN KEY (inheritor_id) REFERENCES qvd.roles(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.roles
    ADD CONSTRAINT roles_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.session_resumes
    ADD CONSTRAINT session_resumes_session_id_fkey FOREIGN KEY (session_id) REFERENCES qvd.user_sessions(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.staging
    ADD CONSTRAINT staging_place_fkey FOREIGN KEY (place) REFERENCES qvd.storage_reports(place) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.totp_used
    ADD CONSTRAINT totp_used_user_id_fkey FOREIGN KEY (user_id) REFERENCES qvd.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.tunnel_counters
    ADD CONSTRAINT tunnel_counters_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.user_auth_parameters
    ADD CONSTRAINT user_auth_parameters_user_id_fkey FOREIGN KEY (user_id) REFERENCES qvd.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.user_properties
    ADD CONSTRAINT user_properties_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.qvd_object_properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.user_properties
    ADD CONSTRAINT user_properties_user_id_fkey FOREIGN KEY (user_id) REFERENCES qvd.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.user_tokens
    ADD CONSTRAINT user_tokens_auth_params_id_fkey FOREIGN KEY (auth_params_id) REFERENCES qvd.user_auth_parameters(id);

ALTER TABLE ONLY qvd.user_tokens
    ADD CONSTRAINT user_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES qvd.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.user_tokens
    ADD CONSTRAINT user_tokens_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.users
    ADD CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.views_setups
    ADD CONSTRAINT views_setups_administrator_id_fkey FOREIGN KEY (administrator_id) REFERENCES qvd.administrators(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.views_setups
    ADD CONSTRAINT views_setups_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_console_pieces
    ADD CONSTRAINT vm_console_pieces_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vm_console_watches(vm_id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_console_watches
    ADD CONSTRAINT vm_console_watches_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE SET NULL;

ALTER TABLE ONLY qvd.vm_console_watches
    ADD CONSTRAINT vm_console_watches_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_counters
    ADD CONSTRAINT vm_counters_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_progress
    ADD CONSTRAINT vm_progress_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_progress
    ADD CONSTRAINT vm_progress_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_properties
    ADD CONSTRAINT vm_properties_property_id_fkey FOREIGN KEY (property_id) REFERENCES qvd.qvd_object_properties_list(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_properties
    ADD CONSTRAINT vm_properties_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_current_di_id_fkey FOREIGN KEY (current_di_id) REFERENCES qvd.dis(id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_host_id_fkey FOREIGN KEY (host_id) REFERENCES qvd.hosts(id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_l7r_host_id_fkey FOREIGN KEY (l7r_host_id) REFERENCES qvd.hosts(id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_l7r_instance_fkey FOREIGN KEY (l7r_instance) REFERENCES qvd.l7r_instances(id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_real_user_id_fkey FOREIGN KEY (real_user_id) REFERENCES qvd.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id);

ALTER TABLE ONLY qvd.vm_runtimes
    ADD CONSTRAINT vm_runtimes_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vm_specs
    ADD CONSTRAINT vm_specs_vm_id_fkey FOREIGN KEY (vm_id) REFERENCES qvd.vms(id) ON DELETE CASCADE;

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_osf_id_fkey FOREIGN KEY (osf_id) REFERENCES qvd.osfs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES qvd.tenants(id);

ALTER TABLE ONLY qvd.vms
    ADD CONSTRAINT vms_user_id_fkey FOREIGN KEY (user_id) REFERENCES qvd.users(id) ON DELETE RESTRICT;

ALTER TABLE qvd.acl_role_relations ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.administrators ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.configs ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.di_imports ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.di_properties ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.di_runtimes ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.di_tags ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.dis ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.end_counters ENABLE ROW LEVEL SECURITY;

CREATE POLICY fixed ON qvd.roles AS RESTRICTIVE FOR UPDATE TO qvd_admin, qvd_administrators USING ((NOT fixed)) WITH CHECK ((NOT fixed));

CREATE POLICY fixed_stay ON qvd.roles AS RESTRICTIVE FOR DELETE TO qvd_admin, qvd_administrators USING ((NOT fixed));

ALTER TABLE qvd.host_changes ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.host_counters ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.host_properties ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.host_runtimes ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.hosts ENABLE ROW LEVEL SECURITY;

CREATE POLICY invisible ON qvd.administrators AS RESTRICTIVE TO qvd_admin, qvd_readonly, qvd_administrators USING ((id <> 0));

ALTER TABLE qvd.l7r_instances ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.log ENABLE ROW LEVEL SECURITY;

CREATE POLICY mine ON qvd.acl_role_relations FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (role_id IN ( SELECT roles.id
   FROM qvd.roles))));

CREATE POLICY mine ON qvd.administrators TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.configs FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((tenant_id = ANY (ARRAY[( SELECT qvd.my_tenant() AS my_tenant), '-1'::integer])) AND (NOT qvd.is_secret(key)))));

CREATE POLICY mine ON qvd.di_imports TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (di_id IN ( SELECT dis.id
   FROM qvd.dis))));

CREATE POLICY mine ON qvd.di_properties FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (di_id IN ( SELECT dis.id
   FROM qvd.dis))));

CREATE POLICY mine ON qvd.di_runtimes TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (di_id IN ( SELECT dis.id
   FROM qvd.dis))));

CREATE POLICY mine ON qvd.di_tags TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (di_id IN ( SELECT dis.id
   FROM qvd.dis))));

CREATE POLICY mine ON qvd.dis TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (osf_id IN ( SELECT osfs.id
   FROM qvd.osfs))));

CREATE POLICY mine ON qvd.end_counters TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.host_changes TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.host_counters TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.host_properties TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.host_runtimes TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.hosts TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.l7r_instances TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.log FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.osf_properties FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (osf_id IN ( SELECT osfs.id
   FROM qvd.osfs))));

CREATE POLICY mine ON qvd.osfs TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.properties_list TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.qvd_object_properties_list TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (property_id IN ( SELECT properties_list.id
   FROM qvd.properties_list))));

CREATE POLICY mine ON qvd.role_acls FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (role_id IN ( SELECT roles.id
   FROM qvd.roles))));

CREATE POLICY mine ON qvd.role_administrator_relations FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (administrator_id IN ( SELECT administrators.id
   FROM qvd.administrators))));

CREATE POLICY mine ON qvd.role_role_relations FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (inheritor_id IN ( SELECT roles.id
   FROM qvd.roles))));

CREATE POLICY mine ON qvd.roles FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ANY (ARRAY[( SELECT qvd.my_tenant() AS my_tenant), '-1'::integer]))));

CREATE POLICY mine ON qvd.ssl_configs TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.staging FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ( SELECT qvd.can('di.create.'::text) AS can)));

CREATE POLICY mine ON qvd.storage_reports FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ( SELECT qvd.can('di.create.'::text) AS can)));

CREATE POLICY mine ON qvd.tenants TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.tunnel_counters TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine ON qvd.user_properties FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (user_id IN ( SELECT users.id
   FROM qvd.users))));

CREATE POLICY mine ON qvd.user_sessions TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.users TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.views_setups TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.vm_counters TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (vm_id IN ( SELECT vms.id
   FROM qvd.vms))));

CREATE POLICY mine ON qvd.vm_progress TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (vm_id IN ( SELECT vms.id
   FROM qvd.vms))));

CREATE POLICY mine ON qvd.vm_properties FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (vm_id IN ( SELECT vms.id
   FROM qvd.vms))));

CREATE POLICY mine ON qvd.vm_runtimes TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine ON qvd.vms TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_delete ON qvd.acl_role_relations FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (role_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))))));

CREATE POLICY mine_delete ON qvd.configs FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_delete ON qvd.di_properties FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((di_id IN ( SELECT dis.id
   FROM qvd.dis)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_delete ON qvd.log FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_delete ON qvd.osf_properties FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((osf_id IN ( SELECT osfs.id
   FROM qvd.osfs)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_delete ON qvd.role_acls FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_delete ON qvd.role_administrator_relations FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((administrator_id IN ( SELECT administrators.id
   FROM qvd.administrators)) AND (role_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_delete ON qvd.role_role_relations FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((inheritor_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant)))) AND (inherited_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_delete ON qvd.roles FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_delete ON qvd.staging FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_delete ON qvd.storage_reports FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_delete ON qvd.user_properties FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((user_id IN ( SELECT users.id
   FROM qvd.users)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_delete ON qvd.vm_properties FOR DELETE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((vm_id IN ( SELECT vms.id
   FROM qvd.vms)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_insert ON qvd.acl_role_relations FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR (role_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))))));

CREATE POLICY mine_insert ON qvd.configs FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_insert ON qvd.di_properties FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((di_id IN ( SELECT dis.id
   FROM qvd.dis)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_insert ON qvd.log FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_insert ON qvd.osf_properties FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((osf_id IN ( SELECT osfs.id
   FROM qvd.osfs)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_insert ON qvd.role_acls FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_insert ON qvd.role_administrator_relations FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((administrator_id IN ( SELECT administrators.id
   FROM qvd.administrators)) AND (role_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_insert ON qvd.role_role_relations FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((inheritor_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant)))) AND (inherited_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_insert ON qvd.roles FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_insert ON qvd.staging FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_insert ON qvd.storage_reports FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_insert ON qvd.user_properties FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((user_id IN ( SELECT users.id
   FROM qvd.users)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_insert ON qvd.vm_properties FOR INSERT TO qvd_admin, qvd_readonly, qvd_administrators WITH CHECK ((( SELECT qvd.sees_all() AS sees_all) OR ((vm_id IN ( SELECT vms.id
   FROM qvd.vms)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_update ON qvd.acl_role_relations FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (role_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))))));

CREATE POLICY mine_update ON qvd.configs FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_update ON qvd.di_properties FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((di_id IN ( SELECT dis.id
   FROM qvd.dis)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_update ON qvd.log FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_update ON qvd.osf_properties FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((osf_id IN ( SELECT osfs.id
   FROM qvd.osfs)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_update ON qvd.role_acls FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_update ON qvd.role_administrator_relations FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((administrator_id IN ( SELECT administrators.id
   FROM qvd.administrators)) AND (role_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_update ON qvd.role_role_relations FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((inheritor_id IN ( SELECT roles.id
   FROM qvd.roles
  WHERE (roles.tenant_id = ( SELECT qvd.my_tenant() AS my_tenant)))) AND (inherited_id IN ( SELECT roles.id
   FROM qvd.roles)))));

CREATE POLICY mine_update ON qvd.roles FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR (tenant_id = ( SELECT qvd.my_tenant() AS my_tenant))));

CREATE POLICY mine_update ON qvd.staging FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_update ON qvd.storage_reports FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR false));

CREATE POLICY mine_update ON qvd.user_properties FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((user_id IN ( SELECT users.id
   FROM qvd.users)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY mine_update ON qvd.vm_properties FOR UPDATE TO qvd_admin, qvd_readonly, qvd_administrators USING ((( SELECT qvd.sees_all() AS sees_all) OR ((vm_id IN ( SELECT vms.id
   FROM qvd.vms)) AND (property_id IN ( SELECT qvd_object_properties_list.id
   FROM qvd.qvd_object_properties_list)))));

CREATE POLICY no_secrets ON qvd.configs AS RESTRICTIVE FOR SELECT TO qvd_node, qvd_admin, qvd_readonly, qvd_administrators USING ((NOT qvd.is_secret(key)));

CREATE POLICY no_secrets ON qvd.user_properties AS RESTRICTIVE FOR SELECT TO qvd_admin, qvd_readonly, qvd_administrators USING ((NOT (property_id IN ( SELECT o.id
   FROM (qvd.qvd_object_properties_list o
     JOIN qvd.properties_list l ON ((l.id = o.property_id)))
  WHERE qvd.is_secret(l.key)))));

ALTER TABLE qvd.osf_properties ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.osfs ENABLE ROW LEVEL SECURITY;

CREATE POLICY owner ON qvd.acl_role_relations TO postgres USING (true);

CREATE POLICY owner ON qvd.administrators TO postgres USING (true);

CREATE POLICY owner ON qvd.configs TO postgres USING (true);

CREATE POLICY owner ON qvd.di_imports TO postgres USING (true);

CREATE POLICY owner ON qvd.di_properties TO postgres USING (true);

CREATE POLICY owner ON qvd.di_runtimes TO postgres USING (true);

CREATE POLICY owner ON qvd.di_tags TO postgres USING (true);

CREATE POLICY owner ON qvd.dis TO postgres USING (true);

CREATE POLICY owner ON qvd.end_counters TO postgres USING (true);

CREATE POLICY owner ON qvd.host_changes TO postgres USING (true);

CREATE POLICY owner ON qvd.host_counters TO postgres USING (true);

CREATE POLICY owner ON qvd.host_properties TO postgres USING (true);

CREATE POLICY owner ON qvd.host_runtimes TO postgres USING (true);

CREATE POLICY owner ON qvd.hosts TO postgres USING (true);

CREATE POLICY owner ON qvd.l7r_instances TO postgres USING (true);

CREATE POLICY owner ON qvd.log TO postgres USING (true);

CREATE POLICY owner ON qvd.osf_properties TO postgres USING (true);

CREATE POLICY owner ON qvd.osfs TO postgres USING (true);

CREATE POLICY owner ON qvd.properties_list TO postgres USING (true);

CREATE POLICY owner ON qvd.qvd_object_properties_list TO postgres USING (true);

CREATE POLICY owner ON qvd.role_acls TO postgres USING (true);

CREATE POLICY owner ON qvd.role_administrator_relations TO postgres USING (true);

CREATE POLICY owner ON qvd.role_role_relations TO postgres USING (true);

CREATE POLICY owner ON qvd.roles TO postgres USING (true);

CREATE POLICY owner ON qvd.ssl_configs TO postgres USING (true);

CREATE POLICY owner ON qvd.staging TO postgres USING (true);

CREATE POLICY owner ON qvd.storage_reports TO postgres USING (true);

CREATE POLICY owner ON qvd.tenants TO postgres USING (true);

CREATE POLICY owner ON qvd.tunnel_counters TO postgres USING (true);

CREATE POLICY owner ON qvd.user_properties TO postgres USING (true);

CREATE POLICY owner ON qvd.user_sessions TO postgres USING (true);

CREATE POLICY owner ON qvd.users TO postgres USING (true);

CREATE POLICY owner ON qvd.views_setups TO postgres USING (true);

CREATE POLICY owner ON qvd.vm_counters TO postgres USING (true);

CREATE POLICY owner ON qvd.vm_progress TO postgres USING (true);

CREATE POLICY owner ON qvd.vm_properties TO postgres USING (true);

CREATE POLICY owner ON qvd.vm_runtimes TO postgres USING (true);

CREATE POLICY owner ON qvd.vms TO postgres USING (true);

CREATE POLICY programs ON qvd.configs FOR SELECT TO qvd_node, qvd_l7r USING (true);

ALTER TABLE qvd.properties_list ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.qvd_object_properties_list ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.role_acls ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.role_administrator_relations ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.role_role_relations ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.roles ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.ssl_configs ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.staging ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.storage_reports ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.tunnel_counters ENABLE ROW LEVEL SECURITY;

CREATE POLICY unchanged ON qvd.configs AS RESTRICTIVE FOR UPDATE TO qvd_admin, qvd_administrators USING ((NOT qvd.is_secret(key))) WITH CHECK (true);

CREATE POLICY unchanged ON qvd.user_properties AS RESTRICTIVE FOR UPDATE TO qvd_admin, qvd_administrators USING ((NOT (property_id IN ( SELECT o.id
   FROM (qvd.qvd_object_properties_list o
     JOIN qvd.properties_list l ON ((l.id = o.property_id)))
  WHERE qvd.is_secret(l.key))))) WITH CHECK (true);

ALTER TABLE qvd.user_properties ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.user_sessions ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.users ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.views_setups ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.vm_counters ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.vm_progress ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.vm_properties ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.vm_runtimes ENABLE ROW LEVEL SECURITY;

ALTER TABLE qvd.vms ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA qvd TO qvd_node;
GRANT USAGE ON SCHEMA qvd TO qvd_l7r;
GRANT USAGE ON SCHEMA qvd TO qvd_admin;
GRANT USAGE ON SCHEMA qvd TO qvd_readonly;
GRANT USAGE ON SCHEMA qvd TO qvd_administrators;

REVOKE ALL ON LANGUAGE plpgsql FROM PUBLIC;
GRANT ALL ON LANGUAGE plpgsql TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.acl_check(acl text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.acl_check(acl text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.acl_check(acl text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.acl_check(acl text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.acl_names() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.acls_of(administrator integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.acls_of(administrator integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.acls_of(administrator integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.acls_of(administrator integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.act_as(administrator integer, address inet, source text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.act_as(administrator integer, address inet, source text) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.acting(OUT administrator integer, OUT name text, OUT superadmin boolean, OUT address inet, OUT source text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administered_log() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administered_permit() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administrator_role(administrator integer, verifier text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administrator_role_drop(administrator integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administrators_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.administrators_roles(ids integer[], given jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.agent_time(at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.announce(channel text, payload text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.announce(channel text, payload text) TO qvd_node;
GRANT ALL ON FUNCTION qvd.announce(channel text, payload text) TO qvd_administrators;
GRANT ALL ON FUNCTION qvd.announce(channel text, payload text) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.audit(action text, object text, id integer, name text, tenant integer, arguments jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.beat_try(age interval) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.beat_try(age interval) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.beat_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.can(acl text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.can(acl text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.can(acl text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.can(acl text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.cluster_status() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.cluster_status() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.cluster_status() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.cluster_status() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.column_acls() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.config_get(wanted text, tenant integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_get(wanted text, tenant integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.config_get(wanted text, tenant integer) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.config_problem(wanted text, value text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_problem(wanted text, value text) TO qvd_administrators;
GRANT ALL ON FUNCTION qvd.config_problem(wanted text, value text) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.config_reset(wanted text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_reset(wanted text, tenant text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.config_reset(wanted text, tenant text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.config_set(wanted text, new_value text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_set(wanted text, new_value text, tenant text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.config_set(wanted text, new_value text, tenant text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.config_ssl(certificate text, private_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_ssl(certificate text, private_key text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.config_ssl(certificate text, private_key text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.config_ssl_clients(authorities text, revoked text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_ssl_clients(authorities text, revoked text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.config_ssl_clients(authorities text, revoked text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.config_ssl_reset() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.config_ssl_reset() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.config_ssl_reset() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.config_tenant(wanted text, tenant text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.configs_balancer() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.configs_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.configs_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.created(kind text, wanted integer, OUT at timestamp with time zone, OUT by_whom text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.created(kind text, wanted integer, OUT at timestamp with time zone, OUT by_whom text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.created(kind text, wanted integer, OUT at timestamp with time zone, OUT by_whom text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.created(kind text, wanted integer, OUT at timestamp with time zone, OUT by_whom text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.database_restored(complete boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.demand(acl text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.demand_any(any_of text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.demand_having(acls text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.demand_owning(tenant integer, what text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.demand_superadministrator(what text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_affected(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_affected(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_affected(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_block(wanted text, blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_block(wanted text, blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_block(wanted text, blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_check_tag(osf integer, di integer, tag text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_create(osf text, path text, version text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_create(osf text, path text, version text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_create(osf text, path text, version text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_delete(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_delete(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_delete(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_for(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_for(vm integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.di_for(vm integer) TO qvd_admin;

GRANT SELECT ON TABLE qvd.di_runtimes TO qvd_readonly;
GRANT SELECT ON TABLE qvd.di_runtimes TO qvd_admin;
GRANT SELECT ON TABLE qvd.di_runtimes TO qvd_administrators;

GRANT SELECT ON TABLE qvd.dis TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.dis TO qvd_admin;
GRANT SELECT ON TABLE qvd.dis TO qvd_administrators;

GRANT UPDATE(description) ON TABLE qvd.dis TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_for_change(wanted text, OUT di qvd.dis, OUT runtime qvd.di_runtimes, OUT tenant integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_id(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_id(wanted text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.di_id(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_id(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_import(osf text, file text, version text, move boolean, tags text[], publish boolean, soft interval, hard interval) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_import(osf text, file text, version text, move boolean, tags text[], publish boolean, soft interval, hard interval) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_import(osf text, file text, version text, move boolean, tags text[], publish boolean, soft interval, hard interval) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_import_attempts() FROM PUBLIC;

GRANT SELECT ON TABLE qvd.di_imports TO qvd_readonly;
GRANT SELECT ON TABLE qvd.di_imports TO qvd_admin;
GRANT SELECT ON TABLE qvd.di_imports TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_import_free(wanted qvd.di_imports, node integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_import_held(node integer, node_epoch bigint, wanted integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_import_over(wanted integer, message text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_path(wanted integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_publish(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_publish(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_publish(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_retry(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_retry(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_retry(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_rollout(wanted text, soft timestamp with time zone, hard timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_rollout(wanted text, soft timestamp with time zone, hard timestamp with time zone) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_rollout(wanted text, soft timestamp with time zone, hard timestamp with time zone) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_runtimes_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_tag(wanted text, tag text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_tag(wanted text, tag text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_tag(wanted text, tag text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_tags_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_take_tags(wanted qvd.dis) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.di_untag(wanted text, tag text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.di_untag(wanted text, tag text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.di_untag(wanted text, tag text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.di_version_free(osf integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.dis_block(ids integer[], blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.dis_block(ids integer[], blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.dis_block(ids integer[], blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.dis_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.dis_publish(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.dis_publish(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.dis_publish(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.dis_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.epoch_is_over(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.epoch_is_over(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.failed_starts_left(starts real, since timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.field_demand(kind text, field text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.fixed_roles() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.fresh_secret() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.governed_still(before bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.governors() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_block(wanted text, blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_block(wanted text, blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_block(wanted text, blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.host_create(name text, address inet, description text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_create(name text, address inet, description text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_create(name text, address inet, description text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.host_forget(node integer, reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_names() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_names() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.host_names() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_names() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.host_obstacle(node integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_recount(node integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_release(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_release(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_release(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.host_runtimes_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_runtimes_log() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_runtimes_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.host_stop(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_stop(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_stop(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.host_transition_allowed(was qvd.host_state, becomes qvd.host_state) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.host_transition_allowed(was qvd.host_state, becomes qvd.host_state) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.host_transition_allowed(was qvd.host_state, becomes qvd.host_state) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.host_transition_allowed(was qvd.host_state, becomes qvd.host_state) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.hosts_block(ids integer[], blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.hosts_block(ids integer[], blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.hosts_block(ids integer[], blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.hosts_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.hosts_stop(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.hosts_stop(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.hosts_stop(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.hosts_stop_vms(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.hosts_stop_vms(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.hosts_stop_vms(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.hosts_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.is_program() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.is_secret(key text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.is_secret(key text) TO qvd_node;
GRANT ALL ON FUNCTION qvd.is_secret(key text) TO qvd_l7r;
GRANT ALL ON FUNCTION qvd.is_secret(key text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.is_secret(key text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.is_secret(key text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.l7r_aborted(by_instance bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_aborted(by_instance bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_acquire(session bigint, by_instance bigint, wanted integer, account integer, client inet, token text, learnt jsonb, unchecked boolean, OUT host_address text, OUT properties jsonb, OUT state qvd.vm_state, OUT commanded boolean, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text, OUT fit boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_acquire(session bigint, by_instance bigint, wanted integer, account integer, client inet, token text, learnt jsonb, unchecked boolean, OUT host_address text, OUT properties jsonb, OUT state qvd.vm_state, OUT commanded boolean, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text, OUT fit boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_auth_parameters_keep(account integer, learnt jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_auth_parameters_keep(account integer, learnt jsonb) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_auto(wanted_login text, in_tenant integer, of_osf integer, tag text, max_vms integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_auto(wanted_login text, in_tenant integer, of_osf integer, tag text, max_vms integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_connected(wanted bigint, way text, resume text, learnt jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_connected(wanted bigint, way text, resume text, learnt jsonb) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_count(node integer, requests bigint, attempts bigint, ok bigint, nx_tries bigint, nx_done bigint, shorts bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_count(node integer, requests bigint, attempts bigint, ok bigint, nx_tries bigint, nx_done bigint, shorts bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_count_refused(node integer, crowd bigint, handshakes bigint, plain bigint, slow bigint, limited bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_count_refused(node integer, crowd bigint, handshakes bigint, plain bigint, slow bigint, limited bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_count_sessions(node integer, ways text[], opened bigint[], ups bigint[], downs bigint[], reasons text[], ended bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_count_sessions(node integer, ways text[], opened bigint[], ups bigint[], downs bigint[], reasons text[], ended bigint[]) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_end(wanted bigint, reason text, up bigint, down bigint, resumable boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_end(wanted bigint, reason text, up bigint, down bigint, resumable boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_gone(instances bigint[], reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_gone(instances bigint[], reason text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_host(node integer, OUT state qvd.host_state, OUT blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_host(node integer, OUT state qvd.host_state, OUT blocked boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_instances_of(node integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_instances_of(node integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_list(node integer, account integer, applications boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_list(node integer, account integer, applications boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_listens(by_instance bigint, port integer, public_key bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_listens(by_instance bigint, port integer, public_key bytea) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_nodes() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_nodes() TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_passage(peer bigint, at_node integer, vm integer, OUT admitted boolean, OUT address inet, OUT vma_port integer, OUT x_port integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_passage(peer bigint, at_node integer, vm integer, OUT admitted boolean, OUT address inet, OUT vma_port integer, OUT x_port integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_password_upgrade(account integer, was text, becomes text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_password_upgrade(account integer, was text, becomes text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_pool_find(owner integer, extension text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_pool_find(owner integer, extension text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_pool_has(vm integer, owner integer, account integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_pool_has(vm integer, owner integer, account integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_pool_take(vm integer, owner integer, account integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_pool_take(vm integer, owner integer, account integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_problem(which bigint, text text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_problem(which bigint, text text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_road(wanted bigint, OUT node integer, OUT address inet, OUT instance bigint, OUT port integer, OUT public_key bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_road(wanted bigint, OUT node integer, OUT address inet, OUT instance bigint, OUT port integer, OUT public_key bytea) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_session(wanted bigint, OUT state qvd.vm_state, OUT commanded boolean, OUT aborted boolean, OUT contender inet, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_session(wanted bigint, OUT state qvd.vm_state, OUT commanded boolean, OUT aborted boolean, OUT contender inet, OUT placed boolean, OUT address inet, OUT vma_port integer, OUT x_port integer, OUT secret bytea, OUT reason text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_session_end(wanted bigint, account integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_session_end(wanted bigint, account integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_sessions(by_instance bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_sessions(by_instance bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_ssl() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_ssl() TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_start(node_name text, node_boot uuid, node_pid integer, node_pid_start bigint, OUT node integer, OUT address inet, OUT instance bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_start(node_name text, node_boot uuid, node_pid integer, node_pid_start bigint, OUT node integer, OUT address inet, OUT instance bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_tenant(wanted text, OUT id integer, OUT blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_tenant(wanted text, OUT id integer, OUT blocked boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_token_create(account integer, token text, learnt jsonb, vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_token_create(account integer, token text, learnt jsonb, vm integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_token_use(presented text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT blocked boolean, OUT vm_id integer, OUT multi_use boolean, OUT parameters jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_token_use(presented text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT blocked boolean, OUT vm_id integer, OUT multi_use boolean, OUT parameters jsonb) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_totp_secret(wanted_login text, in_tenant integer, OUT user_id integer, OUT secret text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_totp_secret(wanted_login text, in_tenant integer, OUT user_id integer, OUT secret text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_totp_use(account integer, began bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_totp_use(account integer, began bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_traffic(sessions bigint[], ups bigint[], downs bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_traffic(sessions bigint[], ups bigint[], downs bigint[]) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_user(wanted_login text, wanted_tenant text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT password text, OUT blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_user(wanted_login text, wanted_tenant text, OUT user_id integer, OUT tenant_id integer, OUT login text, OUT password text, OUT blocked boolean) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_vm(node integer, wanted integer, OUT host_state qvd.host_state, OUT host_blocked boolean, OUT owner integer, OUT blocked boolean, OUT state qvd.vm_state) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_vm(node integer, wanted integer, OUT host_state qvd.host_state, OUT host_blocked boolean, OUT owner integer, OUT blocked boolean, OUT state qvd.vm_state) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_vm_start(wanted bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_vm_start(wanted bigint) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_vm_stop(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_vm_stop(vm integer) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.l7r_way(wanted bigint, way text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.l7r_way(wanted bigint, way text) TO qvd_l7r;

REVOKE ALL ON FUNCTION qvd.list_fields() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.list_fields() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.list_fields() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.list_fields() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.log_entry(part text, kind text, key text, was jsonb, becomes jsonb, OUT action text, OUT object_id integer, OUT name text, OUT tenant integer, OUT arguments jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.logged(part text, object jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.mac_tail(mac text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.mac_tail(mac text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.mac_tail(mac text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.mac_tail(mac text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.may_command(tenant integer, acl text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.me() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.me() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.me() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.me() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.me_update(changes jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.me_update(changes jsonb) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.me_update(changes jsonb) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.members(given jsonb, what text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.merged(channel text, payload text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.merged(channel text, payload text) TO qvd_node;
GRANT ALL ON FUNCTION qvd.merged(channel text, payload text) TO qvd_administrators;
GRANT ALL ON FUNCTION qvd.merged(channel text, payload text) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.moment(at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.my_tenant() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.my_tenant() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.my_tenant() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.my_tenant() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.my_tenant_update(changes jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.my_tenant_update(changes jsonb) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.my_tenant_update(changes jsonb) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.name_and_tenant(wanted text, OUT name text, OUT tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.name_and_tenant(wanted text, OUT name text, OUT tenant text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.name_and_tenant(wanted text, OUT name text, OUT tenant text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.name_and_tenant(wanted text, OUT name text, OUT tenant text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.node_address(node_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_address(node_name text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_addresses() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_addresses() TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_adopt(node integer, node_epoch bigint, vm integer, vma_port integer, x_port integer, secret bytea, image integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_adopt(node integer, node_epoch bigint, vm integer, vma_port integer, x_port integer, secret bytea, image integer) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_check(node integer, node_epoch bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.node_claim(node integer, node_epoch bigint, vma_port integer, x_port integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_claim(node integer, node_epoch bigint, vma_port integer, x_port integer) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_console(node integer, node_epoch bigint, vm integer, source bigint, upto bigint, words text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_console(node integer, node_epoch bigint, vm integer, source bigint, upto bigint, words text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_consoles(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_consoles(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_di_failed(node integer, node_epoch bigint, wanted integer, message text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_di_failed(node integer, node_epoch bigint, wanted integer, message text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_di_paths(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_di_paths(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_di_progress(node integer, node_epoch bigint, wanted integer, phase qvd.di_state, share real) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_di_progress(node integer, node_epoch bigint, wanted integer, phase qvd.di_state, share real) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_di_ready(node integer, node_epoch bigint, wanted integer, hash text, bytes bigint, warnings text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_di_ready(node integer, node_epoch bigint, wanted integer, hash text, bytes bigint, warnings text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_di_removed(node integer, node_epoch bigint, gone text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_di_removed(node integer, node_epoch bigint, gone text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_duties(node integer, node_epoch bigint, remind double precision, OUT command qvd.host_cmd, OUT vms integer[], OUT softs text[], OUT hards text[], OUT next_in double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_duties(node integer, node_epoch bigint, remind double precision, OUT command qvd.host_cmd, OUT vms integer[], OUT softs text[], OUT hards text[], OUT next_in double precision) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_former(node_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_former(node_name text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_images(node integer, node_epoch bigint, patience double precision, idle boolean, OUT list boolean, OUT leftovers text[], OUT di integer, OUT source text, OUT path text, OUT move boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_images(node integer, node_epoch bigint, patience double precision, idle boolean, OUT list boolean, OUT leftovers text[], OUT di integer, OUT source text, OUT path text, OUT move boolean) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_join(wanted text, wanted_address inet, storage uuid, node_verifier text, l7r_verifier text, OUT host integer, OUT node_role text, OUT l7r_role text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.node_lease(node integer, node_epoch bigint, ram real, cpu real, degraded text, storage_degraded text, free_ram real, cpu_pressure real) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_lease(node integer, node_epoch bigint, ram real, cpu real, degraded text, storage_degraded text, free_ram real, cpu_pressure real) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_leave(wanted text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.node_login(daemon text, host integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.node_peers(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_peers(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_program(node integer, node_epoch bigint, program text, schema integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_program(node integer, node_epoch bigint, program text, schema integer) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_progress(node integer, node_epoch bigint, vms integer[], phases text[], ages double precision[], lefts double precision[], tries integer[], notes text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_progress(node integer, node_epoch bigint, vms integer[], phases text[], ages double precision[], lefts double precision[], tries integer[], notes text[]) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_routers(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_routers(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_routers_gone(node integer, node_epoch bigint, gone bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_routers_gone(node integer, node_epoch bigint, gone bigint[]) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_serves(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_serves(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_staging(node integer, node_epoch bigint, names text[], sizes bigint[], modified double precision[], kinds text[], problem text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_staging(node integer, node_epoch bigint, names text[], sizes bigint[], modified double precision[], kinds text[], problem text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_start(node_name text, node_boot uuid, node_pid integer, storage uuid, patience double precision, machine text, seen_epoch bigint, seen_lease bigint, OUT node integer, OUT address inet, OUT node_epoch bigint, OUT state qvd.host_state, OUT released integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_start(node_name text, node_boot uuid, node_pid integer, storage uuid, patience double precision, machine text, seen_epoch bigint, seen_lease bigint, OUT node integer, OUT address inet, OUT node_epoch bigint, OUT state qvd.host_state, OUT released integer[]) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_state(node integer, node_epoch bigint, becomes qvd.host_state) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_state(node integer, node_epoch bigint, becomes qvd.host_state) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_status(node integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_status(node integer) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_stopping(node integer, node_epoch bigint, vms boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_stopping(node integer, node_epoch bigint, vms boolean) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_storage(node_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_storage(node_name text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_take_over(node integer, node_epoch bigint, silent integer, silent_epoch bigint, seen_lease bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_take_over(node integer, node_epoch bigint, silent integer, silent_epoch bigint, seen_lease bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_vm_state(node integer, node_epoch bigint, vm integer, expected qvd.vm_state[], becomes qvd.vm_state, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_vm_state(node integer, node_epoch bigint, vm integer, expected qvd.vm_state[], becomes qvd.vm_state, reason text) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.node_vm_told(node integer, node_epoch bigint, vm integer, soft text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_vm_told(node integer, node_epoch bigint, vm integer, soft text) TO qvd_node;

GRANT SELECT ON TABLE qvd.vm_runtimes TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_runtimes TO qvd_administrators;

GRANT UPDATE(blocked) ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT UPDATE(blocked) ON TABLE qvd.vm_runtimes TO qvd_administrators;

GRANT UPDATE(vm_cmd) ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT UPDATE(vm_cmd) ON TABLE qvd.vm_runtimes TO qvd_administrators;

GRANT UPDATE(user_cmd) ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT UPDATE(user_cmd) ON TABLE qvd.vm_runtimes TO qvd_administrators;

GRANT UPDATE(vm_expiration_soft) ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT UPDATE(vm_expiration_soft) ON TABLE qvd.vm_runtimes TO qvd_administrators;

GRANT UPDATE(vm_expiration_hard) ON TABLE qvd.vm_runtimes TO qvd_admin;
GRANT UPDATE(vm_expiration_hard) ON TABLE qvd.vm_runtimes TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.node_vms(node integer, node_epoch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.node_vms(node integer, node_epoch bigint) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.object_create(kind text, fields jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.object_create(kind text, fields jsonb) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.object_create(kind text, fields jsonb) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.object_fields() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.object_fields() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.object_fields() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.object_hold(kind text, wanted integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.object_hold(kind text, wanted integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.object_hold(kind text, wanted integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.object_label(kind text, object jsonb, OUT name text, OUT tenant integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.object_row(kind text, wanted integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.object_table(kind text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.object_verb(kind text, ids integer[], verb text, arguments jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.objects_delete(kind text, ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.objects_delete(kind text, ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.objects_delete(kind text, ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.objects_do(kind text, ids integer[], verb text, arguments jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.objects_mine(kind text, ids integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.objects_remove(kind text, ids integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.objects_set(kind text, ids integer[], changes jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.objects_update(kind text, ids integer[], changes jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.objects_update(kind text, ids integer[], changes jsonb) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.objects_update(kind text, ids integer[], changes jsonb) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.osf_create(name text, memory integer, user_storage integer, tenant text, cpus integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.osf_create(name text, memory integer, user_storage integer, tenant text, cpus integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.osf_create(name text, memory integer, user_storage integer, tenant text, cpus integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.osf_id(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.osf_id(wanted text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.osf_id(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.osf_id(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.osfs_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.outcome_of(kind text, wanted integer, name text, state text, said text, hint text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.overview() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.overview() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.overview() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.overview() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.part_acls(part text, changed jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.password_hash(password text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.password_hash(password text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.password_hash(password text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.place(spec qvd.vm_specs) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.place_default(vm integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.place_load(vm integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.place_load(spec qvd.vm_specs, b qvd.balancer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.properties_list_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.properties_set(kind text, ids integer[], given jsonb, gone jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.qvd_object_properties_list_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.reaches(tenant integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.reaches(tenant integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.reaches(tenant integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.reaches(tenant integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.restarts_due() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.restarts_due() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.restarts_due() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.restarts_due() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.resumable_for() FROM PUBLIC;

GRANT SELECT ON TABLE qvd.user_sessions TO qvd_readonly;
GRANT SELECT ON TABLE qvd.user_sessions TO qvd_admin;
GRANT SELECT ON TABLE qvd.user_sessions TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.resumed_session(presented text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.retention_apply(batch integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.retention_apply(batch integer) TO qvd_node;

REVOKE ALL ON FUNCTION qvd.role_acls_renew() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.role_ids(wanted jsonb, what text, of_tenant integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.roles_acls(ids integer[], given jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.roles_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.roles_inherit(ids integer[], given jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.roles_not_fixed(ids integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.roles_renew() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.row_acls(part text, kind text, key text, was jsonb, becomes jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.runtime_permit() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.seconds(value text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.sees_all() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.sees_all() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.sees_all() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.sees_all() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.session_vm(wanted bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.span(wanted interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.ssl_configs_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.staging_log(action text, file text, arguments jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.staging_log(action text, file text, arguments jsonb) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.staging_log(action text, file text, arguments jsonb) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.staging_place(file text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.staging_refresh() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.staging_refresh() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.staging_refresh() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.staging_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.statistics() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.statistics() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.statistics() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.statistics() TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.storage_place(node integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.storage_wake(wanted text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.tenant_create(name text, description text, language qvd.language, block integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.tenant_create(name text, description text, language qvd.language, block integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.tenant_create(name text, description text, language qvd.language, block integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.tenant_for(wanted text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.tenant_id(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.tenant_id(wanted text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.tenant_id(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.tenant_id(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.tenant_purge(wanted integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.tenant_purge(wanted integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.tenant_purge(wanted integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.tenants_block(ids integer[], blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.tenants_block(ids integer[], blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.tenants_block(ids integer[], blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.tenants_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.token_digest(token text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.tokens_expire(account integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.update_acl(kind text, col text) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.user_block(wanted text, blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_block(wanted text, blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_block(wanted text, blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.user_create(login text, password text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_create(login text, password text, tenant text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_create(login text, password text, tenant text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.user_id(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_id(wanted text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.user_id(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_id(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.user_password(wanted text, password text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_password(wanted text, password text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_password(wanted text, password text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.user_sessions_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.user_tokens_gone() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.user_totp(wanted text, secret text, OUT account text, OUT had_one boolean, OUT required boolean, OUT digits bigint, OUT period bigint, OUT t0 bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_totp(wanted text, secret text, OUT account text, OUT had_one boolean, OUT required boolean, OUT digits bigint, OUT period bigint, OUT t0 bigint) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_totp(wanted text, secret text, OUT account text, OUT had_one boolean, OUT required boolean, OUT digits bigint, OUT period bigint, OUT t0 bigint) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.user_transition_allowed(was qvd.user_state, becomes qvd.user_state) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.user_transition_allowed(was qvd.user_state, becomes qvd.user_state) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.user_transition_allowed(was qvd.user_state, becomes qvd.user_state) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.user_transition_allowed(was qvd.user_state, becomes qvd.user_state) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.users_block(ids integer[], blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.users_block(ids integer[], blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.users_block(ids integer[], blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.users_delete(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.users_delete(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.users_delete(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.users_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.view_columns(object text, device qvd.device_type, shown text[], hidden text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.view_columns(object text, device qvd.device_type, shown text[], hidden text[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.view_columns(object text, device qvd.device_type, shown text[], hidden text[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.view_reset(object text, whose text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.view_reset(object text, whose text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.view_reset(object text, whose text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.view_set(object text, field text, view_type qvd.view_type, device_type qvd.device_type, visible boolean, whose text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.view_set(object text, field text, view_type qvd.view_type, device_type qvd.device_type, visible boolean, whose text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.view_set(object text, field text, view_type qvd.view_type, device_type qvd.device_type, visible boolean, whose text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_address_free() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_address_free() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_address_free() TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.vm_block(vm text, blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_block(vm text, blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_block(vm text, blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_command_allowed(state qvd.vm_state, command qvd.vm_cmd) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_command_allowed(state qvd.vm_state, command qvd.vm_cmd) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_command_allowed(state qvd.vm_state, command qvd.vm_cmd) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_command_allowed(state qvd.vm_state, command qvd.vm_cmd) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_console(vm integer, after bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_console(vm integer, after bigint) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_console(vm integer, after bigint) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_console_watch(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_console_watch(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_console_watch(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_console_watches_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_create(owner text, name text, osf text, tag text, ip inet) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_create(owner text, name text, osf text, tag text, ip inet) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_create(owner text, name text, osf text, tag text, ip inet) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_disconnect(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_disconnect(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_disconnect(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_disconnect(vm text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_disconnect(vm text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_disconnect(vm text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_effective_properties(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_effective_properties(vm integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_effective_properties(vm integer) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.vm_expire(vm integer, soft timestamp with time zone, hard timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_expire(vm integer, soft timestamp with time zone, hard timestamp with time zone) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_expire(vm integer, soft timestamp with time zone, hard timestamp with time zone) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_expire(vm text, soft timestamp with time zone, hard timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_expire(vm text, soft timestamp with time zone, hard timestamp with time zone) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_expire(vm text, soft timestamp with time zone, hard timestamp with time zone) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_id(wanted text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_id(wanted text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_id(wanted text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_id(wanted text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_mac(ip inet) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_mac(ip inet) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_mac(ip inet) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_mac(ip inet) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_name(wanted integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_name(wanted integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_name(wanted integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_name(wanted integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_run_account(vm integer, node integer, was qvd.vm_state, becomes qvd.vm_state, told qvd.vm_cmd) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_runtimes_count() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_runtimes_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_runtimes_log() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_runtimes_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_specs_renew(vms integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_specs_renew_osf(osf integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_spy(vm integer, interactive boolean, OUT address inet, OUT port integer, OUT secret bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_spy(vm integer, interactive boolean, OUT address inet, OUT port integer, OUT secret bytea) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.vm_spy_check(vm integer, interactive boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_spy_check(vm integer, interactive boolean) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.vm_start(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_start(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_start(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_start(vm text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_start(vm text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_start(vm text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_start_found(spec qvd.vm_specs) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vm_stop(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_stop(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_stop(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_stop(vm text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_stop(vm text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_stop(vm text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_transition_allowed(was qvd.vm_state, becomes qvd.vm_state) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_transition_allowed(was qvd.vm_state, becomes qvd.vm_state) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_transition_allowed(was qvd.vm_state, becomes qvd.vm_state) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_transition_allowed(was qvd.vm_state, becomes qvd.vm_state) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_verbs(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_verbs(vm integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_verbs(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_verbs(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_why(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_why(vm integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_why(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_why(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_why(vm text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_why(vm text) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_why(vm text) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_why(vm text) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_why_facts(vm integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vm_why_facts(vm integer) TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.vm_why_facts(vm integer) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vm_why_facts(vm integer) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vm_why_phase(f jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vms_block(ids integer[], blocked boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_block(ids integer[], blocked boolean) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_block(ids integer[], blocked boolean) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_delete(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_delete(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_delete(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_disconnect(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_disconnect(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_disconnect(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_expire(ids integer[], soft timestamp with time zone, hard timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_expire(ids integer[], soft timestamp with time zone, hard timestamp with time zone) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_expire(ids integer[], soft timestamp with time zone, hard timestamp with time zone) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_guard() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.vms_restart() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_restart() TO qvd_node;

REVOKE ALL ON FUNCTION qvd.vms_start(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_start(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_start(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_stop(ids integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.vms_stop(ids integer[]) TO qvd_admin;
GRANT ALL ON FUNCTION qvd.vms_stop(ids integer[]) TO qvd_administrators;

REVOKE ALL ON FUNCTION qvd.vms_wake() FROM PUBLIC;

REVOKE ALL ON FUNCTION qvd.wake(channel text, kind text, id bigint, tenant integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.wake(channel text, kind text, id bigint, tenant integer) TO qvd_node;
GRANT ALL ON FUNCTION qvd.wake(channel text, kind text, id bigint, tenant integer) TO qvd_administrators;
GRANT ALL ON FUNCTION qvd.wake(channel text, kind text, id bigint, tenant integer) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.wake_payload(kind text, id bigint, tenant integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.wake_payload(kind text, id bigint, tenant integer) TO qvd_node;
GRANT ALL ON FUNCTION qvd.wake_payload(kind text, id bigint, tenant integer) TO qvd_administrators;
GRANT ALL ON FUNCTION qvd.wake_payload(kind text, id bigint, tenant integer) TO qvd_admin;

REVOKE ALL ON FUNCTION qvd.wat_administrator(wanted text, tenant text, OUT id integer, OUT tenant_id integer, OUT password text, OUT language qvd.language, OUT block integer) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.wat_administrator(wanted text, tenant text, OUT id integer, OUT tenant_id integer, OUT password text, OUT language qvd.language, OUT block integer) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.wat_login_log(wanted text, tenant text, address inet, entered boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.wat_login_log(wanted text, tenant text, address inet, entered boolean) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.wat_password_upgrade(account integer, was text, becomes text) FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.wat_password_upgrade(account integer, was text, becomes text) TO qvd_wat;

REVOKE ALL ON FUNCTION qvd.watch() FROM PUBLIC;
GRANT ALL ON FUNCTION qvd.watch() TO qvd_readonly;
GRANT ALL ON FUNCTION qvd.watch() TO qvd_admin;
GRANT ALL ON FUNCTION qvd.watch() TO qvd_administrators;

GRANT SELECT ON TABLE qvd.acl_role_relations TO qvd_readonly;
GRANT SELECT ON TABLE qvd.acl_role_relations TO qvd_admin;
GRANT SELECT ON TABLE qvd.acl_role_relations TO qvd_administrators;

GRANT SELECT ON TABLE qvd.acls TO qvd_readonly;
GRANT SELECT ON TABLE qvd.acls TO qvd_admin;
GRANT SELECT ON TABLE qvd.acls TO qvd_administrators;

GRANT SELECT ON TABLE qvd.role_acls TO qvd_readonly;
GRANT SELECT ON TABLE qvd.role_acls TO qvd_admin;
GRANT SELECT ON TABLE qvd.role_acls TO qvd_administrators;

GRANT SELECT ON TABLE qvd.roles TO qvd_readonly;
GRANT SELECT ON TABLE qvd.roles TO qvd_admin;
GRANT SELECT ON TABLE qvd.roles TO qvd_administrators;

GRANT SELECT ON TABLE qvd.acl_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.acl_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.acl_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.acl_role_relations_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.acls_id_seq TO qvd_admin;

GRANT SELECT(id) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(id) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(id) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(tenant_id) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(tenant_id) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(tenant_id) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(name) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(name) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(name) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(language) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(language) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(language) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(block) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(block) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(block) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(description) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(description) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(description) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT(role_name) ON TABLE qvd.administrators TO qvd_readonly;
GRANT SELECT(role_name) ON TABLE qvd.administrators TO qvd_admin;
GRANT SELECT(role_name) ON TABLE qvd.administrators TO qvd_administrators;

GRANT SELECT ON TABLE qvd.role_administrator_relations TO qvd_readonly;
GRANT SELECT ON TABLE qvd.role_administrator_relations TO qvd_admin;
GRANT SELECT ON TABLE qvd.role_administrator_relations TO qvd_administrators;

GRANT SELECT ON TABLE qvd.tenants TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.tenants TO qvd_admin;
GRANT SELECT ON TABLE qvd.tenants TO qvd_administrators;

GRANT SELECT ON TABLE qvd.administrator_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.administrator_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.administrator_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.administrators_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.beat TO qvd_readonly;
GRANT SELECT ON TABLE qvd.beat TO qvd_admin;
GRANT SELECT ON TABLE qvd.beat TO qvd_administrators;

GRANT SELECT ON TABLE qvd.config_keys TO qvd_readonly;
GRANT SELECT ON TABLE qvd.config_keys TO qvd_admin;
GRANT SELECT ON TABLE qvd.config_keys TO qvd_administrators;

GRANT SELECT ON TABLE qvd.configs TO qvd_node;
GRANT SELECT ON TABLE qvd.configs TO qvd_l7r;
GRANT SELECT ON TABLE qvd.configs TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.configs TO qvd_admin;
GRANT SELECT,INSERT,DELETE ON TABLE qvd.configs TO qvd_administrators;

GRANT UPDATE(value) ON TABLE qvd.configs TO qvd_administrators;

GRANT SELECT ON TABLE qvd.config_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.config_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.config_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.di_properties TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.di_properties TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.di_properties TO qvd_administrators;

GRANT INSERT(di_id) ON TABLE qvd.di_properties TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.di_properties TO qvd_administrators;

GRANT INSERT(value),UPDATE(value) ON TABLE qvd.di_properties TO qvd_administrators;

GRANT SELECT ON TABLE qvd.di_tags TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.di_tags TO qvd_admin;
GRANT SELECT ON TABLE qvd.di_tags TO qvd_administrators;

GRANT SELECT ON TABLE qvd.osfs TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.osfs TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(tenant_id) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(name),UPDATE(name) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(memory),UPDATE(memory) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(use_overlay),UPDATE(use_overlay) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(user_storage_size),UPDATE(user_storage_size) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(description),UPDATE(description) ON TABLE qvd.osfs TO qvd_administrators;

GRANT INSERT(cpus),UPDATE(cpus) ON TABLE qvd.osfs TO qvd_administrators;

GRANT SELECT ON TABLE qvd.properties_list TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.properties_list TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.properties_list TO qvd_administrators;

GRANT INSERT(key),UPDATE(key) ON TABLE qvd.properties_list TO qvd_administrators;

GRANT INSERT(tenant_id) ON TABLE qvd.properties_list TO qvd_administrators;

GRANT INSERT(description),UPDATE(description) ON TABLE qvd.properties_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.qvd_object_properties_list TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.qvd_object_properties_list TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.qvd_object_properties_list TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.qvd_object_properties_list TO qvd_administrators;

GRANT INSERT(qvd_object) ON TABLE qvd.qvd_object_properties_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.di_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.di_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.di_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.di_tags_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.dis_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.end_counters TO qvd_readonly;
GRANT SELECT ON TABLE qvd.end_counters TO qvd_admin;
GRANT SELECT ON TABLE qvd.end_counters TO qvd_administrators;

GRANT SELECT ON TABLE qvd.hosts TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.hosts TO qvd_admin;
GRANT SELECT ON TABLE qvd.hosts TO qvd_administrators;

GRANT SELECT ON TABLE qvd.end_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.end_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.end_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.host_changes TO qvd_readonly;
GRANT SELECT ON TABLE qvd.host_changes TO qvd_admin;
GRANT SELECT ON TABLE qvd.host_changes TO qvd_administrators;

GRANT SELECT ON TABLE qvd.host_counters TO qvd_readonly;
GRANT SELECT ON TABLE qvd.host_counters TO qvd_admin;
GRANT SELECT ON TABLE qvd.host_counters TO qvd_administrators;

GRANT SELECT ON TABLE qvd.host_properties TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.host_properties TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.host_properties TO qvd_administrators;

GRANT INSERT(host_id) ON TABLE qvd.host_properties TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.host_properties TO qvd_administrators;

GRANT INSERT(value),UPDATE(value) ON TABLE qvd.host_properties TO qvd_administrators;

GRANT SELECT ON TABLE qvd.host_runtimes TO qvd_readonly;
GRANT SELECT ON TABLE qvd.host_runtimes TO qvd_admin;
GRANT SELECT ON TABLE qvd.host_runtimes TO qvd_administrators;

GRANT UPDATE(blocked) ON TABLE qvd.host_runtimes TO qvd_admin;
GRANT UPDATE(blocked) ON TABLE qvd.host_runtimes TO qvd_administrators;

GRANT UPDATE(cmd) ON TABLE qvd.host_runtimes TO qvd_admin;
GRANT UPDATE(cmd) ON TABLE qvd.host_runtimes TO qvd_administrators;

GRANT SELECT ON TABLE qvd.l7r_instances TO qvd_readonly;
GRANT SELECT ON TABLE qvd.l7r_instances TO qvd_admin;
GRANT SELECT ON TABLE qvd.l7r_instances TO qvd_administrators;

GRANT SELECT ON TABLE qvd.host_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.host_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.host_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.hosts_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.l7r_instances_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.log TO qvd_readonly;
GRANT SELECT ON TABLE qvd.log TO qvd_admin;
GRANT SELECT ON TABLE qvd.log TO qvd_administrators;

GRANT SELECT ON TABLE qvd.log_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.log_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.log_fields TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.log_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.log_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.log_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.log_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.startable_dis TO qvd_readonly;
GRANT SELECT ON TABLE qvd.startable_dis TO qvd_admin;
GRANT SELECT ON TABLE qvd.startable_dis TO qvd_administrators;

GRANT SELECT ON TABLE qvd.newest_dis TO qvd_readonly;
GRANT SELECT ON TABLE qvd.newest_dis TO qvd_admin;
GRANT SELECT ON TABLE qvd.newest_dis TO qvd_administrators;

GRANT SELECT ON TABLE qvd.osf_properties TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.osf_properties TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.osf_properties TO qvd_administrators;

GRANT INSERT(osf_id) ON TABLE qvd.osf_properties TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.osf_properties TO qvd_administrators;

GRANT INSERT(value),UPDATE(value) ON TABLE qvd.osf_properties TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vms TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.vms TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.vms TO qvd_administrators;

GRANT UPDATE(name) ON TABLE qvd.vms TO qvd_administrators;

GRANT UPDATE(di_tag) ON TABLE qvd.vms TO qvd_administrators;

GRANT UPDATE(description) ON TABLE qvd.vms TO qvd_administrators;

GRANT UPDATE(keep_running) ON TABLE qvd.vms TO qvd_administrators;

GRANT SELECT ON TABLE qvd.osf_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.osf_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.osf_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.osfs_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.placements TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.properties_list_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.property_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.property_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.property_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.qvd_object_properties_list_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.role_role_relations TO qvd_readonly;
GRANT SELECT ON TABLE qvd.role_role_relations TO qvd_admin;
GRANT SELECT ON TABLE qvd.role_role_relations TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.role_administrator_relations_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.role_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.role_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.role_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.role_role_relations_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.roles_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.session_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.session_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.session_fields TO qvd_administrators;

GRANT SELECT ON TABLE qvd.session_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.session_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.session_list TO qvd_administrators;

GRANT INSERT,DELETE,UPDATE ON TABLE qvd.ssl_configs TO qvd_admin;

GRANT SELECT ON TABLE qvd.staging TO qvd_readonly;
GRANT SELECT ON TABLE qvd.staging TO qvd_admin;
GRANT SELECT ON TABLE qvd.staging TO qvd_administrators;

GRANT SELECT ON TABLE qvd.storage_reports TO qvd_readonly;
GRANT SELECT ON TABLE qvd.storage_reports TO qvd_admin;
GRANT SELECT ON TABLE qvd.storage_reports TO qvd_administrators;

GRANT SELECT ON TABLE qvd.staging_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.staging_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.staging_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.tenant_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.tenant_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.tenant_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.tenants_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.tunnel_counters TO qvd_readonly;
GRANT SELECT ON TABLE qvd.tunnel_counters TO qvd_admin;
GRANT SELECT ON TABLE qvd.tunnel_counters TO qvd_administrators;

GRANT SELECT ON TABLE qvd.tunnel_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.tunnel_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.tunnel_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.user_auth_parameters_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.user_properties TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.user_properties TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.user_properties TO qvd_administrators;

GRANT INSERT(user_id) ON TABLE qvd.user_properties TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.user_properties TO qvd_administrators;

GRANT INSERT(value),UPDATE(value) ON TABLE qvd.user_properties TO qvd_administrators;

GRANT INSERT,DELETE,UPDATE ON TABLE qvd.users TO qvd_admin;
GRANT DELETE ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(id) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(id) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(id) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(tenant_id) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(tenant_id) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(tenant_id),INSERT(tenant_id) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(login) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(login) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(login),INSERT(login) ON TABLE qvd.users TO qvd_administrators;

GRANT INSERT(password),UPDATE(password) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(blocked) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(blocked) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(blocked),INSERT(blocked),UPDATE(blocked) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(description) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(description) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(description),INSERT(description),UPDATE(description) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(language) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(language) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(language),INSERT(language),UPDATE(language) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(has_password) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(has_password) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(has_password) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT(created_at) ON TABLE qvd.users TO qvd_readonly;
GRANT SELECT(created_at) ON TABLE qvd.users TO qvd_admin;
GRANT SELECT(created_at) ON TABLE qvd.users TO qvd_administrators;

GRANT SELECT ON TABLE qvd.user_counted_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.user_counted_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.user_counted_fields TO qvd_administrators;

GRANT SELECT ON TABLE qvd.user_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.user_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.user_fields TO qvd_administrators;

GRANT SELECT ON TABLE qvd.user_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.user_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.user_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.user_sessions_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.users_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.versions TO qvd_node;
GRANT SELECT ON TABLE qvd.versions TO qvd_l7r;
GRANT SELECT ON TABLE qvd.versions TO qvd_readonly;
GRANT SELECT ON TABLE qvd.versions TO qvd_admin;
GRANT SELECT ON TABLE qvd.versions TO qvd_administrators;

GRANT SELECT ON TABLE qvd.views_setups TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.views_setups TO qvd_admin;
GRANT SELECT ON TABLE qvd.views_setups TO qvd_administrators;

GRANT SELECT ON TABLE qvd.view_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.view_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.view_list TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.views_setups_id_seq TO qvd_admin;

GRANT USAGE ON SEQUENCE qvd.vm_console_pieces_id_seq TO qvd_admin;

GRANT SELECT ON TABLE qvd.vm_counters TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_counters TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_counters TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vm_properties TO qvd_readonly;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE qvd.vm_properties TO qvd_admin;
GRANT SELECT,DELETE ON TABLE qvd.vm_properties TO qvd_administrators;

GRANT INSERT(vm_id) ON TABLE qvd.vm_properties TO qvd_administrators;

GRANT INSERT(property_id) ON TABLE qvd.vm_properties TO qvd_administrators;

GRANT INSERT(value),UPDATE(value) ON TABLE qvd.vm_properties TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vm_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_fields TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vm_list TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_list TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_list TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vm_progress TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_progress TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_progress TO qvd_administrators;

GRANT SELECT ON TABLE qvd.vm_running_fields TO qvd_readonly;
GRANT SELECT ON TABLE qvd.vm_running_fields TO qvd_admin;
GRANT SELECT ON TABLE qvd.vm_running_fields TO qvd_administrators;

GRANT USAGE ON SEQUENCE qvd.vms_id_seq TO qvd_admin;
