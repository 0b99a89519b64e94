-- A VM comes with its runtime and counter rows and its specification, belongs to one tenant, and is deleted only when stopped.

create or replace function vms_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
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

create or replace trigger guard before insert or update of user_id, osf_id, tenant_id or delete on vms
    for each row execute function vms_guard();

create or replace function vms_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace trigger wake after insert or update or delete on vms
    for each row execute function vms_wake();
