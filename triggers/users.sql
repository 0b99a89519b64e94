-- Changes are shown to administrators.

create or replace function users_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace trigger wake after insert or update or delete on users
    for each row execute function users_wake();
