-- Changes are shown to administrators.

create or replace function tenants_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_admin', 'tenant', coalesce(new.id, old.id), coalesce(new.id, old.id));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on tenants
    for each row execute function tenants_wake();
