-- Changes are shown to administrators.

create or replace function tenants_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if tg_op = 'UPDATE' and new.name <> old.name then
        perform vm_specs_renew(array(select s.vm_id from vm_specs s where s.tenant_id = new.id));
    end if;
    perform wake('qvd_admin', 'tenant', coalesce(new.id, old.id), coalesce(new.id, old.id));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on tenants
    for each row execute function tenants_wake();
