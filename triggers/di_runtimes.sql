-- Changes are shown to administrators as changes of the image.

create or replace function di_runtimes_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
declare
    changed integer := coalesce(new.di_id, old.di_id);
begin
    perform wake('qvd_admin', 'di', changed,
        (select o.tenant_id from dis d join osfs o on o.id = d.osf_id where d.id = changed));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on di_runtimes
    for each row execute function di_runtimes_wake();
