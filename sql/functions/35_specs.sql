-- What a start of a VM takes, kept ready in `vm_specs`. Whoever changes what is in it says which rows to look at again;
-- changes of an OSF and its images, and VMs that are made of it meanwhile, wait for each other at the row of the OSF.

-- The image versions that VMs can be started from.
create or replace view startable_dis with (security_invoker) as
    select d.osf_id, t.tag, d.id, r.state = 'published' as published
    from dis d
        join di_tags t on t.di_id = d.id
        join di_runtimes r on r.di_id = d.id
    where not d.blocked and r.state in ('ready', 'published');

-- What `vm_specs` has to hold, but for the secrets.
create or replace view vm_specs_due as
    select v.id as vm_id, v.name::text, t.id as tenant_id, t.name::text as tenant, u.id as user_id, u.login::text,
        o.id as osf_id, o.memory, o.user_storage_size, v.di_tag, v.ip, d.id as di_id, d.path as di_path,
        o.cpus, d.agent
    from vms v
        join users u on u.id = v.user_id
        join tenants t on t.id = u.tenant_id
        join osfs o on o.id = v.osf_id
        left join dis d on d.id = (
            select s.id from startable_dis s where s.osf_id = v.osf_id and s.tag = v.di_tag
            order by s.published desc, s.id desc limit 1);

create or replace function vm_specs_renew(vms integer[]) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace function vm_specs_renew_osf(osf integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform from osfs where id = osf for update;
    perform vm_specs_renew(array(select v.id from vms v where v.osf_id = osf));
end $$;
