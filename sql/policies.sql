-- Which rows are there for whom. A tenant's administrator meets his tenant's rows and no others, in every way there is; the owner's
-- functions meet all and look by themselves. What a policy asks is asked once in a statement, not for each row.

-- Rows by a condition on their tenant (or on what they belong to, which has a policy itself), for reading and for writing.
do $$
declare
    t record;
    everybody constant text := 'qvd_admin, qvd_readonly, qvd_administrators';
    owner text := quote_ident(current_user);
    event text;
begin
    for t in select * from (values
        ('tenants', 'id = (select my_tenant())', null),
        ('users', 'tenant_id = (select my_tenant())', null),
        ('osfs', 'tenant_id = (select my_tenant())', null),
        ('vms', 'tenant_id = (select my_tenant())', null),
        ('vm_runtimes', 'tenant_id = (select my_tenant())', null),
        ('properties_list', 'tenant_id = (select my_tenant())', null),
        ('user_sessions', 'tenant_id = (select my_tenant())', null),
        ('log', 'tenant_id = (select my_tenant())', 'false'),
        ('views_setups', 'tenant_id = (select my_tenant())', null),
        ('administrators', 'tenant_id = (select my_tenant())', null),
        ('roles', 'tenant_id in ((select my_tenant()), -1)', 'tenant_id = (select my_tenant())'),
        ('configs', 'tenant_id in ((select my_tenant()), -1) and not is_secret(key)', 'tenant_id = (select my_tenant())'),
        ('dis', 'osf_id in (select id from osfs)', null),
        ('di_runtimes', 'di_id in (select id from dis)', null),
        ('di_imports', 'di_id in (select id from dis)', null),
        ('di_tags', 'di_id in (select id from dis)', null),
        ('di_properties', 'di_id in (select id from dis)',
            'di_id in (select id from dis) and property_id in (select id from qvd_object_properties_list)'),
        ('osf_properties', 'osf_id in (select id from osfs)',
            'osf_id in (select id from osfs) and property_id in (select id from qvd_object_properties_list)'),
        ('vm_counters', 'vm_id in (select id from vms)', null),
        ('vm_progress', 'vm_id in (select id from vms)', null),
        ('vm_properties', 'vm_id in (select id from vms)',
            'vm_id in (select id from vms) and property_id in (select id from qvd_object_properties_list)'),
        ('user_properties', 'user_id in (select id from users)',
            'user_id in (select id from users) and property_id in (select id from qvd_object_properties_list)'),
        ('qvd_object_properties_list', 'property_id in (select id from properties_list)', null),
        ('acl_role_relations', 'role_id in (select id from roles)',
            'role_id in (select id from roles where tenant_id = (select my_tenant()))'),
        ('role_acls', 'role_id in (select id from roles)', 'false'),
        ('role_role_relations', 'inheritor_id in (select id from roles)',
            'inheritor_id in (select id from roles where tenant_id = (select my_tenant())) and inherited_id in (select id from roles)'),
        ('role_administrator_relations', 'administrator_id in (select id from administrators)',
            'administrator_id in (select id from administrators) and role_id in (select id from roles)'),
        ('staging', '(select can(''di.create.''))', 'false'),
        ('storage_reports', '(select can(''di.create.''))', 'false'),
        ('hosts', 'false', null), ('host_runtimes', 'false', null), ('host_counters', 'false', null),
        ('host_properties', 'false', null), ('host_changes', 'false', null), ('l7r_instances', 'false', null), ('tunnel_counters', 'false', null),
        ('end_counters', 'false', null), ('ssl_configs', 'false', null)
    ) v (name, mine, writable) loop
        execute format('alter table %I enable row level security', t.name);
        execute format('alter table %I force row level security', t.name);
        execute format('drop policy if exists owner on %I', t.name);
        execute format('create policy owner on %I to %s using (true)', t.name, owner);
        execute format('drop policy if exists mine on %I', t.name);
        -- One for everything where reading and writing do not differ, since each is a condition of its own to the planner.
        execute format('create policy mine on %I for %s to %s using ((select sees_all()) or %s)', t.name,
            case when t.writable is null then 'all' else 'select' end, everybody, t.mine);
        foreach event in array array['insert', 'update', 'delete'] loop
            execute format('drop policy if exists mine_%s on %I', event, t.name);
            if t.writable is not null then
                execute format('create policy mine_%1$s on %2$I for %1$s to %3$s %4$s ((select sees_all()) or %5$s)', event, t.name, everybody,
                    case event when 'insert' then 'with check' else 'using' end, t.writable);
            end if;
        end loop;
    end loop;
end $$;

-- Who may read a table may not read the secrets in it; that is for the owner's functions, and for the router, which logs in
-- to directories. Nor may they be changed but by functions, because what is changed could be read by its new name.
drop policy if exists no_secrets on configs;
create policy no_secrets on configs as restrictive for select to qvd_node, qvd_admin, qvd_readonly, qvd_administrators
    using (not is_secret(key));
drop policy if exists unchanged on configs;
create policy unchanged on configs as restrictive for update to qvd_admin, qvd_administrators
    using (not is_secret(key)) with check (true);
drop policy if exists programs on configs;
create policy programs on configs for select to qvd_node, qvd_l7r using (true);

drop policy if exists no_secrets on user_properties;
create policy no_secrets on user_properties as restrictive for select to qvd_admin, qvd_readonly, qvd_administrators
    using (property_id not in (
        select o.id from qvd_object_properties_list o join properties_list l on l.id = o.property_id where is_secret(l.key)));
drop policy if exists unchanged on user_properties;
create policy unchanged on user_properties as restrictive for update to qvd_admin, qvd_administrators
    using (property_id not in (
        select o.id from qvd_object_properties_list o join properties_list l on l.id = o.property_id where is_secret(l.key)))
    with check (true);

-- The recovery administrator is not there.
drop policy if exists invisible on administrators;
create policy invisible on administrators as restrictive to qvd_admin, qvd_readonly, qvd_administrators using (id <> 0);
-- What is fixed stays, and templates are nobody's.
drop policy if exists fixed on roles;
create policy fixed on roles as restrictive for update to qvd_admin, qvd_administrators using (not fixed) with check (not fixed);
drop policy if exists fixed_stay on roles;
create policy fixed_stay on roles as restrictive for delete to qvd_admin, qvd_administrators using (not fixed);
