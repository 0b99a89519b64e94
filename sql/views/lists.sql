-- What administrators look at. Dropped and made again at each change, since columns come and go. Rows are those that the
-- policies of the tables let through; a field is null for who lacks its ACL, which is asked once in a statement. What is
-- looked up in a subquery of the select list is looked up for the rows that are shown, not for all that are sorted.
-- Long lists have no order: a sort here would have to be done before the one that is asked for.

drop view if exists vm_list, host_list, session_list, user_list, osf_list, di_list, tenant_list, role_list, administrator_list,
    config_list, property_list, log_list, acl_list, view_list, staging_list, tunnel_list, end_list,
    vm_fields, vm_running_fields, user_fields, user_counted_fields, session_fields, log_fields;
drop view if exists newest_dis;

-- The image that a VM with such a tag would start from.
create view newest_dis with (security_invoker) as
    select distinct on (d.osf_id, d.tag) d.osf_id, d.tag, d.id, i.path, i.version
    from startable_dis d join dis i on i.id = d.id
    order by d.osf_id, d.tag, d.published desc, d.id desc;

-- Long lists, as the programs read them, which have asked before who may see what (`list_fields`): here ACLs hide nothing, not
-- even from the planner. What every row has is joined from the left all the same, for such joins are made only when they are
-- needed; of a subquery the planner must be told that nothing is there twice (`distinct on`). Of VMs there are two, which
-- begin at either table: to sort by what one of them holds takes this table alone. Of users there are two as well: VMs are
-- counted one user after the other for those of a page, and at one go to look through all.
do $$
declare
    t record;
begin
    for t in select * from (values
        ('vm_fields', 'v.id', 'v.tenant_id', 'vms v left join vm_runtimes r on r.vm_id = v.id'),
        ('vm_running_fields', 'r.vm_id', 'r.tenant_id', 'vm_runtimes r left join vms v on v.id = r.vm_id')
    ) v (name, id, tenant, source) loop
        execute format($view$create view %1$I with (security_invoker) as
    select %2$s as id, v.name::text as name, u.login || '@' || t.name || '/' || v.name as vm,
        %3$s as tenant_id, t.name as tenant, v.user_id, u.login::text as "user",
        v.osf_id, o.name::text as osf, v.di_tag as tag, v.di_tag,
        r.blocked, r.vm_state as state, r.user_state, r.vm_cmd as command, r.vm_state_ts as since, r.vm_reason as reason,
        r.host_id, h.name as host,
        d.id as di_id, d.path as di, d.version as di_version,
        r.current_di_id as di_id_in_use, i.version as di_in_use,
        v.ip, r.vm_address as ip_in_use, v.ip as next_boot_ip, vm_mac(v.ip) as mac,
        r.vm_expiration_soft as expiration_soft, r.vm_expiration_hard as expiration_hard,
        r.vm_expiration_soft - now() as time_until_expiration_soft,
        r.vm_expiration_hard - now() as time_until_expiration_hard,
        v.description, v.keep_running,
        v.created_at as creation_date, v.mac_tail,
        (select c.by_whom from created('vm', %2$s) c) as created_by,
        (select coalesce(jsonb_object_agg(l.key, p.value), '{}') from vm_properties p
                join qvd_object_properties_list o on o.id = p.property_id join properties_list l on l.id = o.property_id
            where p.vm_id = %2$s) as properties
    from %4$s
        left join users u on u.id = v.user_id
        left join tenants t on t.id = %3$s
        left join osfs o on o.id = v.osf_id
        left join (select distinct on (n.id) n.id, n.name from host_names() n) h on h.id = r.host_id
        left join newest_dis d on d.osf_id = v.osf_id and d.tag = v.di_tag
        left join dis i on i.id = r.current_di_id$view$, t.name, t.id, t.tenant, t.source);
    end loop;
end $$;

do $$
declare
    t record;
begin
    for t in select * from (values
        ('user_fields', '(select count(*) from vms v where v.user_id = u.id)',
            '(select count(*) from vms v join vm_runtimes r on r.vm_id = v.id where v.user_id = u.id and r.user_state = ''connected'')',
            ''),
        ('user_counted_fields', 'coalesce(n.vms, 0)', 'coalesce(k.vms, 0)', '
        left join (select v.user_id, count(*) as vms from vms v group by v.user_id) n on n.user_id = u.id
        left join (select v.user_id, count(*) as vms from vm_runtimes r join vms v on v.id = r.vm_id
            where r.user_state = ''connected'' group by v.user_id) k on k.user_id = u.id')
    ) v (name, vms, connected, counted) loop
        execute format($view$create view %1$I with (security_invoker) as
    select u.id, u.login::text as name, u.login || '@' || t.name as "user", u.tenant_id, t.name as tenant,
        u.blocked, u.has_password, u.language,
        u.description,
        %2$s as vms, %2$s as number_of_vms, %3$s as connected, %3$s as number_of_vms_connected,
        u.created_at as creation_date,
        (select c.by_whom from created('user', u.id) c) as created_by,
        (select coalesce(jsonb_object_agg(l.key, p.value), '{}') from user_properties p
                join qvd_object_properties_list o on o.id = p.property_id join properties_list l on l.id = o.property_id
            where p.user_id = u.id) as properties
    from users u left join tenants t on t.id = u.tenant_id%4$s$view$, t.name, t.vms, t.connected, t.counted);
    end loop;
end $$;

create view host_list with (security_invoker) as
    select h.id, h.name, h.name as host,
        case when (select can('host.see.state.')) then r.state end as state,
        case when (select can('host.see.block.')) then r.blocked end as blocked,
        case when (select can('host.see.address.')) then h.address end as address,
        h.backend, h.frontend,
        r.vms + (select coalesce(sum(c.vms), 0) from host_changes c where c.host_id = h.id) as vms,
        (select count(*) from vm_runtimes v where v.l7r_host_id = h.id) as sessions,
        case when (select can('host.see.vms-info.')) then
            (select count(*) from vm_runtimes v where v.host_id = h.id and v.user_state = 'connected')
            end as number_of_vms_connected,
        now() - r.ok_ts as last_sign_of_life, r.epoch, r.events_degraded_since, r.events_degraded_reason,
        r.storage_degraded_since, r.storage_degraded_reason,
        (select l.problem from l7r_instances l where l.host_id = h.id and l.ended_at is null order by l.id desc limit 1)
            as router_problem,
        case when (select can('host.see.description.')) then h.description end as description,
        case when (select can('host.see.creation-date.')) then (select c.at from created('host', h.id) c) end as creation_date,
        case when (select can('host.see.created-by.')) then (select c.by_whom from created('host', h.id) c) end as created_by,
        case when (select can('host.see.properties.')) then (
            select coalesce(jsonb_object_agg(l.key, p.value), '{}') from host_properties p
                join qvd_object_properties_list o on o.id = p.property_id join properties_list l on l.id = o.property_id
            where p.host_id = h.id) end as properties
    from hosts h join host_runtimes r on r.host_id = h.id
    where (select can('host.see-main.'))
    order by h.name;

create view osf_list with (security_invoker) as
    select o.id, o.name::text as name, o.tenant_id, t.name as tenant,
        case when (select can('osf.see.overlay.')) then o.use_overlay end as overlay,
        case when (select can('osf.see.user-storage.')) then o.user_storage_size end as user_storage,
        case when (select can('osf.see.memory.')) then o.memory end as memory,
        o.cpus, o.is_application,
        case when (select can('osf.see.description.')) then o.description end as description,
        case when (select can('osf.see.vms-info.')) then (select count(*) from vms v where v.osf_id = o.id) end as number_of_vms,
        case when (select can('osf.see.dis-info.')) then (select count(*) from dis d where d.osf_id = o.id) end as number_of_dis,
        case when (select can('osf.see.creation-date.')) then (select c.at from created('osf', o.id) c) end as creation_date,
        case when (select can('osf.see.created-by.')) then (select c.by_whom from created('osf', o.id) c) end as created_by,
        case when (select can('osf.see.properties.')) then (
            select coalesce(jsonb_object_agg(l.key, p.value), '{}') from osf_properties p
                join qvd_object_properties_list q on q.id = p.property_id join properties_list l on l.id = q.property_id
            where p.osf_id = o.id) end as properties
    from osfs o join tenants t on t.id = o.tenant_id
    where (select can('osf.see-main.'));

create view di_list with (security_invoker) as
    select d.id, d.path as name, d.path,
        case when (select can('di.see.version.')) then d.version end as version,
        case when (select can('di.see.osf.')) then d.osf_id end as osf_id,
        o.name || '@' || t.name as osf,
        case when (select can('di.see.osf.')) then o.name::text end as osf_name,
        o.tenant_id, t.name as tenant,
        case when (select can('di.see.block.')) then d.blocked end as blocked,
        r.state, r.percentage,
        case when (select can('di.see.tags.')) then
            (select array_agg(g.tag order by g.tag) from di_tags g where g.di_id = d.id) end as tags,
        case when (select can('di.see.default.')) then
            exists (select from di_tags g where g.di_id = d.id and g.tag = 'default') end as "default",
        case when (select can('di.see.head.')) then
            exists (select from di_tags g where g.di_id = d.id and g.tag = 'head') end as head,
        r.status_message as message, r.status_message, r.size, r.sha256, d.agent,
        r.auto_publish, r.expiration_time_soft, r.expiration_time_hard,
        case when (select can('di.see.description.')) then d.description end as description,
        case when (select can('di.see.creation-date.')) then (select c.at from created('di', d.id) c) end as creation_date,
        case when (select can('di.see.created-by.')) then (select c.by_whom from created('di', d.id) c) end as created_by,
        case when (select can('di.see.properties.')) then (
            select coalesce(jsonb_object_agg(l.key, p.value), '{}') from di_properties p
                join qvd_object_properties_list q on q.id = p.property_id join properties_list l on l.id = q.property_id
            where p.di_id = d.id) end as properties
    from dis d join di_runtimes r on r.di_id = d.id join osfs o on o.id = d.osf_id join tenants t on t.id = o.tenant_id
    where (select can('di.see-main.'));

create view tenant_list with (security_invoker) as
    select t.id, t.name,
        case when (select can('tenant.see.language.')) then t.language end as language,
        case when (select can('tenant.see.blocksize.')) then t.block end as block,
        case when (select can('tenant.see.block.')) then t.blocked end as blocked,
        case when (select can('tenant.see.description.')) then t.description end as description,
        case when (select can('tenant.see.creation-date.')) then (select c.at from created('tenant', t.id) c) end as creation_date,
        case when (select can('tenant.see.created-by.')) then (select c.by_whom from created('tenant', t.id) c) end as created_by
    from tenants t
    where t.id > 0 and (select can('tenant.see-main.'));

create view administrator_list with (security_invoker) as
    select a.id, a.name::text as name, a.tenant_id, t.name as tenant,
        case when (select can('administrator.see.language.')) then a.language end as language,
        a.block, a.role_name,
        case when (select can('administrator.see.roles.')) then array(
            select r.name from role_administrator_relations m join roles r on r.id = m.role_id
            where m.administrator_id = a.id order by r.name) end as roles,
        case when (select can('administrator.see.description.')) then a.description end as description,
        case when (select can('administrator.see.creation-date.'))
            then (select c.at from created('administrator', a.id) c) end as creation_date,
        case when (select can('administrator.see.created-by.'))
            then (select c.by_whom from created('administrator', a.id) c) end as created_by
    from administrators a left join tenants t on t.id = a.tenant_id
    where a.id <> 0 and (select can('administrator.see-main.'));

create view role_list with (security_invoker) as
    select r.id, r.name, r.tenant_id, case r.tenant_id when -1 then '-' else t.name end as tenant, r.fixed, r.internal,
        case when (select can('role.see.inherited-roles.')) then array(
            select i.name from role_role_relations m join roles i on i.id = m.inherited_id
            where m.inheritor_id = r.id order by i.name) end as roles,
        case when (select can('role.see.acl-list.')) then
            (select count(*) from role_acls e where e.role_id = r.id) end as number_of_acls,
        case when (select can('role.see.description.')) then r.description end as description,
        case when (select can('role.see.creation-date.')) then (select c.at from created('role', r.id) c) end as creation_date,
        case when (select can('role.see.created-by.')) then (select c.by_whom from created('role', r.id) c) end as created_by
    from roles r left join tenants t on t.id = r.tenant_id
    where (select can('role.see-main.'));

-- The ACLs of roles, and whether a role has one itself, takes it away, or inherits it.
create view acl_list with (security_invoker) as
    select a.id, a.name, a.description, r.id as role_id, r.name as role, m.positive as own, e.acl is not null as effective
    from acls a cross join roles r
        left join acl_role_relations m on m.role_id = r.id and m.acl_id = a.id
        left join role_acls e on e.role_id = r.id and e.acl = a.name
    where (select can('role.see.acl-list.'));

-- Every key with the value that counts for everybody (tenant -1) and, for a tenant, where it has one of its own.
create view config_list with (security_invoker) as
    with own as (select tenant_id, key, value from configs),
    keys as (select key, default_value, unit, meaning, needs_restart from config_keys
        union all select distinct on (o.key) o.key, null, 'text', null, false from own o
            where not exists (select from config_keys k where k.key = o.key))
    select k.key, coalesce(o.value, e.value, k.default_value) as value, k.default_value as "default",
        o.value is null as is_default, t.id as tenant_id, t.name as tenant, k.unit, k.meaning, k.needs_restart
    from keys k
        cross join (
            select -1 as id, '-' as name where (select sees_all())
            union all select x.id, x.name from tenants x where x.id > 0) t
        left join own o on o.key = k.key and o.tenant_id = t.id
        left join own e on e.key = k.key and e.tenant_id = -1
    where (t.id = -1 or o.value is not null or t.id = (select my_tenant()))
        and k.key !~ '^(internal|database)[.]' and not is_secret(k.key)
        and case when k.key like 'wat.%' then (select can('config.wat.')) else (select can('config.qvd.')) end;

create view property_list with (security_invoker) as
    select l.id, l.key, l.tenant_id, t.name as tenant, l.description,
        array(select o.qvd_object::text from qvd_object_properties_list o where o.property_id = l.id order by 1) as objects
    from properties_list l left join tenants t on t.id = l.tenant_id
    where (select can('property.see-main.'));

create view view_list with (security_invoker) as
    select distinct on (qvd_object, field, view_type, device_type, tenant_id)
        v.id, v.tenant_id, v.administrator_id, v.qvd_object, v.field, v.view_type, v.device_type, v.visible
    from views_setups v
    where v.administrator_id is null or v.administrator_id = (select me())
    order by qvd_object, field, view_type, device_type, tenant_id, v.administrator_id nulls last;

-- Who of the superadministrators did something is not told to tenants.
create view log_fields with (security_invoker) as
    select l.id, l.time,
        case when coalesce(l.superadmin, true) and not (select sees_all()) then '*'
            else coalesce(l.administrator_name, l.actor) end as admin_name,
        case when not coalesce(l.superadmin, true) or (select sees_all()) then l.administrator_id end as admin_id,
        case when (select sees_all()) then l.actor end as actor,
        l.tenant_id, t.name as tenant,
        l.action as verb, l.qvd_object || '_' || case l.action when 'disconnect' then 'user_disconnect' else l.action end as action,
        case when l.action in ('create', 'delete', 'login') then l.action
            when l.action in ('start', 'stop', 'disconnect', 'claim', 'adopt', 'release', 'take over', 'join', 'leave', 'spy') then 'exec'
            else 'update' end as type_of_action,
        l.qvd_object, l.object_id, l.object_name, l.status, l.source,
        case when not coalesce(l.superadmin, true) or (select sees_all()) then l.ip end as address,
        l.arguments
    from log l left join tenants t on t.id = l.tenant_id;

create view session_fields with (security_invoker) as
    select s.id, s.login || '@' || t.name || '/' || s.vm_name as vm, s.client_address as client,
        h.name as host, l.name as router, s.started_at, s.connected_at, s.ended_at,
        coalesce(s.ended_at, now()) - s.started_at as duration,
        s.bytes_up, s.bytes_down, s.tunnel, s.end_reason, s.vm_id, s.user_id, s.tenant_id
    from user_sessions s
        left join tenants t on t.id = s.tenant_id
        left join (select distinct on (n.id) n.id, n.name from host_names() n) h on h.id = s.host_id
        left join hosts l on l.id = s.l7r_host_id;

-- The same for everybody, with a field only for who has its ACL.
do $$
declare
    l record;
begin
    for l in
        select n.list, n.acl, string_agg(case when f.acl is null then format('f.%I', a.attname)
            else format('case when (select can(%L)) then f.%I end as %2$I', f.acl, a.attname) end, ', ' order by a.attnum) as columns
        from list_fields() n
            join pg_attribute a on a.attrelid = (n.list || '_fields')::regclass and a.attnum > 0
                and not exists (select from list_fields() h where h.list = n.list and h.narrow[1] = a.attname)
            left join list_fields() f on f.list = n.list and f.field = a.attname
        where n.field = ''
        group by n.list, n.acl
    loop
        execute format('create view %I with (security_invoker) as select %s from %I f where (select can(%L))',
            l.list || '_list', l.columns, l.list || '_fields', l.acl);
    end loop;
end $$;

-- A storage without a file is shown when its staging directory cannot be read.
create view staging_list with (security_invoker) as
    select s.name as file, s.size, s.kind, s.modified, r.reported_at as seen, r.problem, r.place,
        (select array_agg(h.name order by h.name) from hosts h where coalesce(h.storage_id::text, 'host ' || h.id) = r.place)
            as hosts
    from storage_reports r left join staging s on s.place = r.place
    where s.name is not null or r.problem is not null
    order by s.name, r.place;

create view tunnel_list with (security_invoker) as
    select h.name as host, c.tunnel, c.tunnels, c.bytes_up, c.bytes_down
    from tunnel_counters c join hosts h on h.id = c.host_id
    order by h.name, c.tunnel;

create view end_list with (security_invoker) as
    select h.name as host, c.reason, c.sessions
    from end_counters c join hosts h on h.id = c.host_id
    order by h.name, c.sessions desc, c.reason;
