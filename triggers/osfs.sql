-- Changes are shown to administrators.

create or replace function osfs_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_admin', 'osf', coalesce(new.id, old.id), coalesce(new.tenant_id, old.tenant_id));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on osfs
    for each row execute function osfs_wake();
