-- Changes are shown to administrators as changes of the image.

create or replace function di_runtimes_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    changed integer := coalesce(new.di_id, old.di_id);
    of_osf osfs;
begin
    select o.* into of_osf from dis d join osfs o on o.id = d.osf_id where d.id = changed;
    if tg_op = 'UPDATE' and new.state <> old.state then
        perform vm_specs_renew_osf(of_osf.id);
    end if;
    perform wake('qvd_admin', 'di', changed, of_osf.tenant_id);
    return null;
end $$;

create or replace trigger wake after insert or update or delete on di_runtimes
    for each row execute function di_runtimes_wake();
