-- Administration of objects of every kind by id, many at once: what the command line and the web tool call. Who calls meets his own
-- only; ACLs are asked before anything is done. Whatever is written is written by SQL on the tables, whose guards hold it.

-- The fields that are set by name as lists show them: where they are kept.
create or replace function object_fields() returns table (kind text, field text, tab text, col text, typ text)
language sql immutable as $$
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

-- The table whose rows the objects of a kind are.
create or replace function object_table(kind text) returns text
language plpgsql immutable as $$
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

-- Those of some objects that are there for who acts, in order, each once.
create or replace function objects_mine(kind text, ids integer[]) returns integer[]
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
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
end $$;

-- Holds an object until the transaction ends: what is then read of it is still so when it is changed. Nothing if it is not there for
-- who acts.
create or replace function object_hold(kind text, wanted integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    execute format('select from %I where id = any ($1) for no key update', object_table(kind))
    using objects_mine(kind, array[wanted]);
end $$;

-- What a field takes to be changed.
create or replace function field_demand(kind text, field text) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
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

-- Sets fields of objects and what belongs to them, in one statement for each table. Asks for nothing.
create or replace function objects_set(kind text, ids integer[], changes jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
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
end $$;

-- The members of a list, or of `set` and `delete` of a change.
create or replace function members(given jsonb, what text) returns setof text
language sql immutable as $$
    select jsonb_array_elements_text(case
        when jsonb_typeof(given) = 'array' then case what when 'set' then given else '[]' end
        else coalesce(given->what, '[]') end)
$$;

-- Sets and deletes properties of objects, which must be defined in their tenant for their kind; those of hosts in tenant 0.
create or replace function properties_set(kind text, ids integer[], given jsonb, gone jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
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
end $$;

-- Deletes objects that nothing needs. Asks for nothing.
create or replace function objects_remove(kind text, ids integer[]) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
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
end $$;

-- What went wrong with one object, as people are told it.
create or replace function outcome_of(kind text, wanted integer, name text, state text, said text, hint text) returns outcome
language sql stable as $$
    select row(wanted, name,
        case when state = '23503' then 'QV022' when state = '23505' then 'QV013' when state ~ '^(22|23)' then 'QV014' else state end,
        case when state = '23503' then format('%s %s is still needed', kind, coalesce(name, wanted::text))
            when state = '23505' then format('%s %s: there is one of that name already', kind, coalesce(name, wanted::text))
            else said end,
        case when state = '23503' then 'Delete first what belongs to it.' else nullif(hint, '') end)::qvd.outcome
$$;

-- Does something with each of some objects: all in one go, and if that fails one by one, so that one that fails does not stop the
-- others. `verb` is one of those below.
create or replace function objects_do(kind text, ids integer[], verb text, arguments jsonb default '{}') returns setof outcome
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace function object_verb(kind text, ids integer[], verb text, arguments jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace function objects_update(kind text, ids integer[], changes jsonb) returns setof outcome
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform object_table(kind);
    perform field_demand(kind, f) from jsonb_object_keys(changes) f;
    return query select * from objects_do(kind, ids, 'update', changes);
end $$;

create or replace function objects_delete(kind text, ids integer[]) returns setof outcome
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform object_table(kind);
    perform demand(case kind when 'property' then 'property.manage.' else kind || '.delete.' end);
    return query select * from objects_do(kind, ids, 'delete');
end $$;

-- Makes an object of fields as lists name them. What it takes beyond `create.` has ACLs of its own.
create or replace function object_create(kind text, fields jsonb) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

-- The same for one kind, for people.
create or replace function vms_start(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp
as $$ begin perform demand('vm.update.state.'); return query select * from objects_do('vm', ids, 'start'); end $$;
create or replace function vms_stop(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp
as $$ begin perform demand('vm.update.state.'); return query select * from objects_do('vm', ids, 'stop'); end $$;
create or replace function vms_disconnect(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp
as $$ begin perform demand('vm.update.disconnect-user.'); return query select * from objects_do('vm', ids, 'disconnect'); end $$;
create or replace function vms_expire(ids integer[], soft timestamptz, hard timestamptz default null) returns setof outcome
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform demand('vm.update.expiration.');
    return query select * from objects_do('vm', ids, 'expire', jsonb_build_object('soft', soft, 'hard', hard));
end $$;
create or replace function dis_publish(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp
as $$ begin perform demand('di.update.publish.'); return query select * from objects_do('di', ids, 'publish'); end $$;
create or replace function hosts_stop(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp
as $$ begin perform demand('host.update.stop-vms.'); return query select * from objects_do('host', ids, 'halt'); end $$;
-- Stops the VMs of hosts, which go on.
create or replace function hosts_stop_vms(ids integer[]) returns setof outcome language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform demand('host.update.stop-vms.');
    return query select * from objects_do('vm', array(
        select r.vm_id from vm_runtimes r where r.host_id = any (objects_mine('host', ids))
            and (vm_command_allowed(r.vm_state, 'stop') or r.vm_cmd = 'start')), 'stop');
end $$;
create or replace function vms_block(ids integer[], blocked boolean default true) returns setof outcome
language sql as $$ select * from objects_update('vm', ids, jsonb_build_object('blocked', blocked)) $$;
create or replace function users_block(ids integer[], blocked boolean default true) returns setof outcome
language sql as $$ select * from objects_update('user', ids, jsonb_build_object('blocked', blocked)) $$;
create or replace function hosts_block(ids integer[], blocked boolean default true) returns setof outcome
language sql as $$ select * from objects_update('host', ids, jsonb_build_object('blocked', blocked)) $$;
create or replace function dis_block(ids integer[], blocked boolean default true) returns setof outcome
language sql as $$ select * from objects_update('di', ids, jsonb_build_object('blocked', blocked)) $$;
create or replace function tenants_block(ids integer[], blocked boolean default true) returns setof outcome
language sql as $$ select * from objects_update('tenant', ids, jsonb_build_object('blocked', blocked)) $$;
create or replace function vms_delete(ids integer[]) returns setof outcome
language sql as $$ select * from objects_delete('vm', ids) $$;
create or replace function users_delete(ids integer[]) returns setof outcome
language sql as $$ select * from objects_delete('user', ids) $$;
