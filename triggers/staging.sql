-- Those who look at a staging directory are told when another file is there. Files belong to no tenant.

create or replace function staging_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if exists (select from changed) then
        perform wake('qvd_admin', 'staging', null);
    end if;
    return null;
end $$;

create or replace trigger wake_insert after insert on staging
    referencing new table as changed for each statement execute function staging_wake();
create or replace trigger wake_update after update on staging
    referencing new table as changed for each statement execute function staging_wake();
create or replace trigger wake_delete after delete on staging
    referencing old table as changed for each statement execute function staging_wake();
