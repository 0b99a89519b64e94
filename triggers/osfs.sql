-- Changes are shown to administrators.

create or replace function osfs_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
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

create or replace trigger wake after insert or update or delete on osfs
    for each row execute function osfs_wake();
