-- ACLs and the roles that everybody has, as data, and what roles come to.

-- The names: object, then what of it, as in the web tool of classic QVD.
create or replace function acl_names() returns table (name text)
language sql immutable as $$
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

-- The fixed roles: name, whether it is a template only, its own ACLs as an expression, and the roles that it inherits.
create or replace function fixed_roles() returns table (name text, internal boolean, acl text, inherits text[])
language sql immutable as $$
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
$$;

-- What each role comes to: its own ACLs and those it inherits; one that a role takes away goes no further through it.
create or replace view role_acls_due as
    with recursive effective (role_id, acl_id) as (
        select role_id, acl_id from acl_role_relations where positive
        union
        select r.inheritor_id, e.acl_id
        from effective e join role_role_relations r on r.inherited_id = e.role_id
        where not exists (
            select from acl_role_relations n
            where n.role_id = r.inheritor_id and n.acl_id = e.acl_id and not n.positive)
    )
    select e.role_id, a.name as acl from effective e join acls a on a.id = e.acl_id;

create or replace function role_acls_renew() returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    delete from role_acls r where not exists (select from role_acls_due d where d.role_id = r.role_id and d.acl = r.acl);
    insert into role_acls select d.role_id, d.acl from role_acls_due d on conflict do nothing;
end $$;

-- Puts the fixed roles and the ACLs into their tables.
do $$
begin
    insert into acls (name) select n.name from acl_names() n on conflict (name) do nothing;
    insert into roles (tenant_id, name, fixed, internal) select -1, f.name, true, f.internal from fixed_roles() f
    on conflict (name, tenant_id) do update set internal = excluded.internal
        where roles.internal <> excluded.internal;
    delete from acl_role_relations m using roles r, acls a
    where r.id = m.role_id and a.id = m.acl_id and r.tenant_id = -1
        and not exists (select from fixed_roles() f where f.name = r.name and a.name ~ f.acl);
    insert into acl_role_relations (role_id, acl_id)
    select r.id, a.id from fixed_roles() f join roles r on r.name = f.name and r.tenant_id = -1 join acls a on a.name ~ f.acl
    on conflict do nothing;
    insert into role_role_relations (inheritor_id, inherited_id)
    select r.id, i.id from fixed_roles() f join roles r on r.name = f.name and r.tenant_id = -1,
        unnest(f.inherits) n join roles i on i.name = n and i.tenant_id = -1
    on conflict do nothing;
    perform role_acls_renew();
end $$;
