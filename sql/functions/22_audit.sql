-- The log of changes and the ACLs that changes take, for triggers/administered.sql. Whoever writes, by functions or by hand, is
-- logged; who writes by hand is also asked for the ACLs of what he changes, as functions ask by themselves.

-- What the changes of columns take, beyond `<kind>.create.` and `<kind>.delete.` for whole objects. Columns that are not here
-- take `<kind>.create.` as well.
create or replace function column_acls() returns table (kind text, col text, acl text)
language sql immutable as $$
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

create or replace function update_acl(kind text, col text) returns text
language sql immutable as $$
    select coalesce((select c.acl from column_acls() c where c.kind = update_acl.kind and c.col = update_acl.col),
        case kind when 'property' then 'property.manage.' else kind || '.create.' end)
$$;

-- What a part of an object takes: its properties, tags, roles and so on, which are rows of their own.
create or replace function part_acls(part text, changed jsonb) returns text[]
language sql stable set search_path = qvd, pg_temp as $$
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
$$;

-- What the change of a row takes; of the names in one text any will do.
create or replace function row_acls(part text, kind text, key text, was jsonb, becomes jsonb) returns setof text
language plpgsql stable set search_path = qvd, pg_temp as $$
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

-- Name and tenant of an object, from its row; it may be gone.
create or replace function object_label(kind text, object jsonb, out name text, out tenant integer)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
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

-- The row of an object; null: there is none.
create or replace function object_row(kind text, wanted integer) returns jsonb
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
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

-- A row as the log shows it: without what is empty, and without what could be used to become somebody.
create or replace function logged(part text, object jsonb) returns jsonb
language sql stable security definer set search_path = qvd, pg_temp as $$
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

-- What the log says of a row of `part` that was and became something. Without an action: nothing.
create or replace function log_entry(
    part text, kind text, key text, was jsonb, becomes jsonb,
    out action text, out object_id integer, out name text, out tenant integer, out arguments jsonb
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
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

-- What programs and functions tell the log that no table shows.
create or replace function audit(
    action text, object text, id integer, name text, tenant integer, arguments jsonb default null
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    who record := acting();
begin
    insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments,
        administrator_id, administrator_name, superadmin, ip, source)
    values (audit.action, object, id, audit.name, tenant, arguments,
        who.administrator, who.name, who.superadmin, who.address, who.source);
end $$;
